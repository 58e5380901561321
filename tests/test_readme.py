"""What the README and the documentation print can be run, and names every key."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctdiff import config as configuration
from ctdiff.cli import main
from ctdiff.recipe import tables, user_classes
from ctdiff.recipe.schema import called

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
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


def rows() -> dict[str, list[tuple[str, str, str]]]:
    """The rows of the generated tables of configuration.md by key: what it may be, the default, the meaning."""
    text = CONFIGURATION.read_text(encoding="utf-8").partition(tables.BEGIN)[2].partition(tables.END)[0]
    found: dict[str, list[tuple[str, str, str]]] = {}
    for line in (line for line in text.splitlines() if line.startswith("| `")):
        key, allowed, default, meaning = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        found.setdefault(key.strip("`"), []).append((allowed, default.strip("`"), meaning))
    return found


def test_the_tables_of_keys_are_fresh() -> None:
    text = CONFIGURATION.read_text(encoding="utf-8")
    assert tables.replaced(text, tables.BEGIN, tables.END, tables.tables()) == text, "run: make tables"


@pytest.mark.parametrize("preset", configuration.preset_names())
def test_every_key_of_a_preset_is_in_the_tables(preset: str) -> None:
    assert set(configuration.flatten(configuration.load(preset))) <= set(rows())


def test_every_choice_of_the_tables_can_be_looked_up() -> None:
    """A name that a key may have is explained once, in words."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    for key, versions in rows().items():
        for allowed, default, _ in versions:
            if allowed.startswith("a name"):
                part = text.split(f"`{key}` may be:\n\n")[1]
                assert part.startswith("- `")
                if default != "none":
                    assert f"- `{default}`: " in text


def test_meanings_are_there_and_begin_alike() -> None:
    """Settings have phrases, which begin with a small letter; choices have sentences, of their base class."""
    for key, versions in rows().items():
        for *_, meaning in versions:
            assert meaning.endswith("."), key
            word = re.match(r"[A-Za-z]{2,}", meaning)
            if word is not None:
                assert word[0][0].isupper() == key.endswith(".name"), f"{key}: {meaning}"


def commands() -> list[list[str]]:
    """The trainings that the documents print, as arguments of the command line, without those that need files of a reader's."""
    found = []
    for page in [README, *PAGES]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [line[1] for line in re.finditer(r"^ *(ctdiff train --config=\w+ .*?)(?:#.*)?$", text, re.MULTILINE)]
        found += [line[1] for line in re.finditer(r"`(ctdiff train --config=\w+( [^`]*)?)`", text)]
    lines = [shlex.split(line)[2:] for line in dict.fromkeys(found)]
    return [line for line in lines if "NAME" not in " ".join(line)]


def own_module(page: Path) -> str:
    """The classes of a page and what they import, as the source of a module."""
    body = [node for block in blocks(page) for node in ast.parse(block).body]
    kept = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef))]
    return ast.unparse(ast.Module(kept, []))


@pytest.fixture
def my_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The classes of `add_your_own.md` as a user has them: in a file of the working directory."""
    (tmp_path / "my_module.py").write_text(own_module(ROOT / "docs" / "add_your_own.md"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("ctdiff.recipe.user_classes._TRUSTED", set())
    yield
    sys.modules.pop("my_module", None)


@pytest.mark.usefixtures("my_module")
def test_commands_can_be_run() -> None:
    """Their configurations exist and can be built; nothing is trained."""
    lines = commands()
    assert len(lines) > 15
    for preset, *arguments in lines:
        configuration.load(preset.partition("=")[2], [each for each in arguments if re.match("--(no)?config[.]", each)])


OWN = [line for line in commands() if "my_module:" in " ".join(line) and "--help_config" not in " ".join(line)]


@pytest.mark.parametrize("line", OWN, ids=lambda line: re.findall(r"my_module:(\w+)", " ".join(line))[0])
@pytest.mark.usefixtures("my_module", "shared_tables")
def test_classes_of_the_documents_train(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A short training by the command that the page prints, and a run that needs `--trust` to be read."""
    steps = ("data.fraction=0.01", "training.steps=2", "training.batch_size=4", "sampler.steps=2", "saving.preview_steps=2")
    short = [f"--config.{key}" for key in steps]
    small = [f"--config.{key}" for key in ("sampler.num_samples=2", "saving.preview_samples=2", "saving.validation_images=4")]
    if "model.name" not in " ".join(line):
        small += [f"--config.model.unet.{key}" for key in ("widths=8", "blocks=1", "time_dim=8")]
    settings = {word.partition("=")[0]: word for word in [*line, *short, *small, "--config.training.precision=float32"]}
    assert main(["train", *settings.values(), "--workdir=run"]) == 0
    assert '"my_module:' in Path("run/config.json").read_text(encoding="utf-8")
    user_classes._TRUSTED.clear()
    assert main(["sample", "run"]) == 2
    assert "--trust=my_module allows it" in capsys.readouterr().err
    assert main(["sample", "run", "--trust=my_module"]) == 0


@pytest.mark.usefixtures("my_module")
def test_ranges_and_meanings_of_classes_of_the_documents(capsys: pytest.CaptureFixture[str]) -> None:
    rates = ["train", "--config=mnist_uniform", "--config.process.rates.name=my_module:RingRates"]
    assert main([*rates, "--config.process.rates.ring.drift=1.5", "--dry_run"]) == 2
    assert "config.process.rates.ring.drift = 1.5, expected a number in [-1, 1]" in capsys.readouterr().err
    assert main([*rates, "--help_config=process.rates"]) == 0
    assert "the excess of forward over backward jumps. [a number in [-1, 1]; default 0.0]" in capsys.readouterr().out


@pytest.mark.usefixtures("my_module")
def test_keys_that_documents_name_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `--config.section.key` of every page is a key, or one of the classes of `add_your_own.md`."""
    known = {*rows()}
    monkeypatch.syspath_prepend(tmp_path)
    defined = vars(importlib.import_module("my_module")).values()
    own = {called(cls) for cls in defined if inspect.isclass(cls) and cls.__module__ == "my_module"}
    for page in [README, *PAGES, ROOT / "CONTRIBUTING.md"]:
        for key in re.findall(r"--(?:no)?config\.([\w.]+[a-zA-Z])", page.read_text(encoding="utf-8")):
            assert key in known or own & {*key.split(".")} or key.endswith(".key"), f"{page.name} names {key}"
