"""What the README and the documentation print runs, names every key, and links to what exists."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configs import defaults
from ctdiff import build
from ctdiff import config as configuration

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(page: Path) -> list[str]:
    """The snippets that are meant to run; those fenced as `py` need a run that was trained before."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run(page: Path) -> dict[str, object]:
    """Run the snippets of a page from top to bottom; returns what they define."""
    names: dict[str, object] = {"__name__": page.stem}
    for i, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name}, snippet {i + 1}", "exec", dont_inherit=True), names)
    return names


def test_the_quickstart_trains_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(README)
    assert len(block.splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    names = run(README)
    losses, x_0 = names["losses"], names["x_0"]
    assert isinstance(losses, list)
    assert isinstance(x_0, torch.Tensor)
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])
    assert (x_0.shape, x_0.dtype) == ((16, 1, 28, 28), torch.int64)
    assert 0 <= x_0.min() < x_0.max() <= 255
    assert Image.open("digits.png").size[0] > 4 * 28


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_documentation_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page)


def test_the_pages_with_snippets_are_found() -> None:
    assert {page.stem for page in PAGES if blocks(page)} >= {"add_your_own", "backbones", "configuration", "samplers"}


def test_every_preset_is_in_the_table() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").split("\n## Presets\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|")[0] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`([^`]+)`", row)) == configuration.preset_names()


def tables() -> dict[str, dict[str, str]]:
    """The rows of configuration.md by section: what is said of each key."""
    sections = {}
    known = defaults.get_config()
    for part in re.split(r"^## ", (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        rows = [line.strip("|").split(" | ", 1) for line in part.splitlines() if line.startswith("| `")]
        sections[part.split("\n", 1)[0]] = {key: rest for names, rest in rows for key in re.findall(r"`([^`]+)`", names)}
    return {section: rows for section, rows in sections.items() if section in known}


def test_every_key_is_documented_and_no_other() -> None:
    keys = configuration.flatten(defaults.get_config())
    found = {f"{section}.{key}" for section, rows in tables().items() for key in rows}
    assert found == set(keys)


def test_documented_defaults_are_the_defaults() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for section, values in defaults.get_config().items():
        part = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
        for line in (line for line in part.splitlines() if line.startswith("| `")):
            names, said = (cell.strip() for cell in line.strip("|").split("|")[:2])
            expected = [configuration.flatten(values)[key] for key in re.findall(r"`([^`]+)`", names)]
            allowed = {", ".join(map(_written, expected)), _written(expected[0]) if len(set(expected)) == 1 else ""}
            assert said in allowed, f"{section}: {line}"


def _written(value: object) -> str:
    return f"`{value}`" if isinstance(value, str) and value else '""' if value == "" else str(value)


@pytest.mark.parametrize("preset", ["mnist", "mnist_absorbing", "mnist_ddpm"])
def test_every_choice_is_documented(preset: str) -> None:
    sections = tables()
    for key, names in build.choices(configuration.load(preset)).items():
        section, _, name = key.partition(".")
        missing = [] if isinstance(names, range) else [choice for choice in names if str(choice) not in sections[section][name]]
        assert missing == [], key


@pytest.mark.parametrize("page", [README, *PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and so do the headings that links point to (as GitHub names them)."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            names = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in names, f"{page.name} links to {target}"
