"""The page of a comparison: whole, true to its JSON, safe with any name, and with a word on every sampler."""

from __future__ import annotations

import ast
import base64
import io
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import continuous_diffusion
from ctdiff import config as configuration
from ctdiff import recipe
from ctdiff.cli import main
from ctdiff.comparison import Comparison, compare_runs, comparison_page, proven, proven_table, run_cards, study
from ctdiff.comparison.run_cards import backbone_settings, engine_in_words, training_command
from ctdiff.evaluation import draw, run_bits_per_dim, with_interval
from ctdiff.evaluation.evaluator import run_splits
from ctdiff.evaluation.tables import milliseconds
from ctdiff.recipe.engine import tree
from ctdiff.recipe.schema import alternatives
from ctdiff.records import as_json, from_json, read_record, unequal
from ctdiff.runs import load_run
from discrete_diffusion import PosteriorGuidance
from discrete_diffusion.samplers import Ancestral, Euler, ForwardBackward, PredictorCorrector, TauLeaping

from ..tiny_runs import ENGINES, pixels, random_classifier, tiny_run
from .conftest import without_layout

pytestmark = pytest.mark.usefixtures("no_layout")

TESTS = Path(__file__).resolve().parents[2]
VOID = {"meta", "link", "img", "br"}
QUICK = {
    "calls": [2, 5],
    "samplers": ["ancestral", "ddim"],
    "num_samples": 12,
    "replicates": 3,
    "likelihood_images": 4,
    "draws": 4,
}


class Page(HTMLParser):
    """The elements of a page with their attributes, its texts, and the rows of its tables; tags must be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a beginning"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def pictures(self) -> list[Image.Image]:
        prefix, found = "data:image/png;base64,", []
        for source in (attributes["src"] for tag, attributes in self.elements if tag == "img"):
            assert source is not None
            assert source.startswith(prefix)
            picture = Image.open(io.BytesIO(base64.b64decode(source.removeprefix(prefix), validate=True)))
            picture.load()
            assert picture.format == "PNG"
            found.append(picture)
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [tiny_run(folder, preset, preset) for preset in ENGINES]


@pytest.fixture(scope="module")
def folder(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison")
    with without_layout():
        compare_runs(runs, pixels(), out=out, **QUICK)
    return out


@pytest.fixture
def content(folder: Path) -> Comparison:
    return read_record(folder / "comparison.json", Comparison)


@pytest.fixture
def page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text())


def redraw(content: Comparison, folder: Path) -> str:
    """The page of a changed content."""
    pictures = {run.name: (folder / "cells" / f"{run.shown.cell}.png").read_bytes() for run in content.runs if run.shown}
    return comparison_page(content, (folder / "comparison.png").read_bytes(), pictures)


def test_one_file_that_asks_for_nothing(page, folder):
    """No scripts, no addresses but of the tables beside it, and a policy that would stop both."""
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "form")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert str(attributes.get(name, "data:")).startswith(("data:", "comparison."))
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    text = (folder / "index.html").read_text()
    assert "url(" not in text
    assert "@import" not in text
    assert text.startswith("<!DOCTYPE html>")


def test_every_number_is_that_of_the_json(page, content):
    rows = [row for row in page.rows if len(row) == 5][1:]
    assert len(rows) == len(content.cells) == 4 + 2
    marks = []
    for row, cell in zip(rows, content.cells, strict=True):
        match = re.fullmatch("(?:([●○]) )?(.*)", row[3])
        assert match is not None
        marks.append((cell.run, match[1], cell.metrics["FID"]))
        cost = [str(cell.network_calls), str(cell.steps)]
        assert row[:3] == [cell.sampler, *cost]
        assert (match[2], row[4]) == (with_interval(cell.metrics["FID"]), milliseconds(cell.seconds_per_sample))
    for run in content.runs:
        own = [(mark, row) for name, mark, row in marks if name == run.name]
        best = min(own, key=lambda pair: pair[1].value)[1]
        for mark, row in own:
            overlap = row.low <= best.high and best.low <= row.high
            assert mark == ("●" if row is best else "○" if overlap else None)
        bits = run.bits_per_dim
        assert f"{bits.value:.3f} ± {bits.standard_error:.3f} , at most, on 4 held-out images" in page.text
        assert f"(± {bits.image_error:.3f} for other images)" in page.text
        names = ("diffusion", "prior", "reconstruction")
        terms = " ".join(f"{'' if name == 'diffusion' else '+ '}{name} {getattr(bits, name):.3f}" for name in names)
        assert terms in page.text
        assert f"{run.parameters:,} parameters" in page.text
        assert run.weights in page.text
        assert run.command in page.text
    floor = content.cells[0].metrics["FID"].floor
    assert f"{with_interval(floor)}: the value of {floor.n_fake} real held-out images" in page.text
    assert "4 steps of 4 images" in page.text


def test_the_bound_is_that_of_the_run(runs, content):
    for path, entry in zip(runs, content.runs, strict=True):
        run = load_run(path)
        splits = run_splits(run.config)
        bits = run_bits_per_dim(run, splits.test.select(torch.arange(4)), splits.train, draws=4)
        assert as_json(entry.bits_per_dim) == bits.summary()
        assert entry.parameters == sum(parameter.numel() for parameter in run.denoiser.parameters())


def test_pictures_are_the_samples_of_their_seeds(runs, folder, page, content):
    first, second, curve = page.pictures
    assert curve.size == Image.open(folder / "comparison.png").size
    for path, entry, picture in zip(runs, content.runs, (first, second), strict=True):
        shown, run = entry.shown, load_run(path)
        cells = [cell for cell in content.cells if cell.run == entry.name and cell.calls == 5]
        assert shown.cell == min(cells, key=lambda cell: cell.metrics["FID"].value).cell
        sample = draw(run, run.sampler(shown.steps, shown.sampler), [0]).images
        grey = np.round(sample[0, 0].numpy() * 255.0 / 7).repeat(7, 0).repeat(7, 1)  # 8 values; 8 pixels become 56
        corner = np.asarray(picture.convert("RGB"))[2:58, 2:58]
        assert np.array_equal(corner, grey[..., None].repeat(3, -1))
        assert len(np.unique(corner)) > 1
        assert shown.samples == 12
    assert "Not selected: the seeds 0 to 11" in page.text


def _counting(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What is drawn, and whose likelihood is bounded, from now on."""
    counts: dict[str, list[str]] = {"cells": [], "pictures": [], "bounds": []}

    def count(kind: str, place: Any, name: str) -> None:
        original = getattr(place, name)

        def counted(run: Any, *arguments: Any, **settings: Any) -> Any:
            counts[kind].append(run.path.name)
            return original(run, *arguments, **settings)

        monkeypatch.setattr(place, name, counted)

    count("cells", study, "draw")
    count("pictures", run_cards, "draw")
    count("bounds", run_cards, "run_bits_per_dim")
    return counts


def test_a_study_that_grows_takes_what_is_there(runs, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "index.html").read_text()
    counts = _counting(monkeypatch)
    compare_runs(runs, pixels(), out=tmp_path, **QUICK)
    assert counts == {"cells": [], "pictures": [], "bounds": []}
    assert (tmp_path / "index.html").read_text() == before
    grown = compare_runs(runs, pixels(), out=tmp_path, **{**QUICK, "calls": [2, 5, 6]})
    assert (len(counts["cells"]), counts["pictures"], counts["bounds"]) == (3, [], [])
    assert [run.shown.calls for run in grown.runs] == [6, 6]
    compare_runs(runs, pixels(), out=tmp_path, **{**QUICK, "likelihood_images": 5})
    assert counts["bounds"] == list(ENGINES)
    compare_runs(runs, pixels(), out=tmp_path, fresh=True, **QUICK)
    assert len(counts["bounds"]) == 4


def test_cells_from_before_there_were_pictures(runs, folder, content, tmp_path, monkeypatch):
    """Only those that are shown are drawn, and they are the same; so are damaged ones."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before, shown = (tmp_path / "index.html").read_text(), {run.shown.cell for run in content.runs}
    for path in (tmp_path / "cells").glob("*.png"):
        path.unlink()
    counts = _counting(monkeypatch)
    compare_runs(runs, pixels(), out=tmp_path, **QUICK)
    assert (counts["cells"], counts["pictures"]) == ([], list(ENGINES))
    assert {path.stem for path in (tmp_path / "cells").glob("*.png")} == shown
    assert (tmp_path / "index.html").read_text() == before
    damaged = next((tmp_path / "cells").glob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    compare_runs(runs, pixels(), out=tmp_path, **QUICK)
    assert len(counts["pictures"]) == 3
    assert (tmp_path / "index.html").read_text() == before


@pytest.mark.parametrize("name", ["keep_picture", "keep_result", "comparison_plot", "comparison_page"])
def test_a_kill_at_any_moment_loses_nothing(name, runs, tmp_path, monkeypatch, folder, content):
    """Before and after the picture of a cell, its result, the curves and the page: what comes of it is the same."""
    for kept in ("bounds",) if name.startswith("keep") else ("bounds", "cells"):  # what was made before the kill
        shutil.copytree(folder / kept, tmp_path / kept)
    done, original = 0, getattr(study, name)
    with monkeypatch.context() as patch:

        def killed(*arguments: Any) -> Any:
            nonlocal done
            done += 1
            if done == (2 if name.startswith("keep") else 1):
                raise KeyboardInterrupt
            return original(*arguments)

        patch.setattr(study, name, killed)
        with pytest.raises(KeyboardInterrupt):
            compare_runs(runs, pixels(), out=tmp_path, **QUICK)
    assert not (tmp_path / "index.html").exists()
    results, pictures = ({path.stem for path in (tmp_path / "cells").glob(f"*.{end}")} for end in ("json", "png"))
    assert results <= pictures
    assert bool(pictures - results) == (name == "keep_result")
    again = compare_runs(runs, pixels(), out=tmp_path, **QUICK)
    assert unequal(again, content, ignore=("seconds_per_sample",)) == []
    assert len(Page((tmp_path / "index.html").read_text()).pictures) == 3


def test_hostile_names_are_text(runs, folder, content, tmp_path):
    evil = "<script>alert('x')</script>\"'&{{ 7 * 7 }}"
    raw = as_json(content)
    for run in raw["runs"]:
        for key in ("name", "path", "engine", "backbone", "command", "weights"):
            run[key] = f"{evil}{run[key]}"
        run["shown"]["sampler"] = evil
        run["proven"] = {f"{evil}{name}": {"text": evil, "tests": [f"{evil}::{evil}"]} for name in run["proven"]}
    for cell in raw["cells"]:
        cell["run"] = f"{evil}{cell['run']}"
        cell["sampler"] = f"{evil}{cell['sampler']}"
        cell["metrics"]["FID"]["name"] = evil
    raw["skipped"] = [{"run": evil, "sampler": evil, "calls": 1, "cell": evil}]
    raw["environment"]["machine"] = evil
    raw["settings"]["overrides"] = [evil]
    raw["settings"]["extractor"]["name"] = evil
    content = from_json(Comparison, raw, "comparison.json")
    text = redraw(content, folder)
    page = Page(text)
    assert "<script" not in text
    assert page.text.count(evil) > 20
    # And from a folder of that name, as far as folders can have it.
    name = "<b onclick=x>&amp;'\" $run$"
    runs[0].parent.joinpath(name).symlink_to(runs[0], target_is_directory=True)
    compare_runs([runs[0].parent / name], pixels(), out=tmp_path, **{**QUICK, "samplers": None, "likelihood_images": 0})
    page = Page((tmp_path / "index.html").read_text())
    assert name in "".join(page.words)
    assert not [attributes for tag, attributes in page.elements if "onclick" in attributes]
    assert shlex.quote(str(runs[0].parent / name)) in "".join(page.words)


def test_without_bits_per_dim(runs, tmp_path):
    content = compare_runs(runs, pixels(), out=tmp_path, **{**QUICK, "likelihood_images": 0})
    page = Page((tmp_path / "index.html").read_text())
    assert [run.bits_per_dim for run in content.runs] == [None, None]
    assert "Bits per dimension" not in page.text
    assert "at most" not in page.text
    assert not (tmp_path / "bounds").exists()
    for settings, message in (
        ({"likelihood_images": 25}, r"likelihood_images = 25, expected 0 \.\. 24"),
        ({"draws": 5}, "draws = 5, expected an even number of at least 4"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_runs(runs, pixels(), out=tmp_path, **{**QUICK, **settings})


def test_classes_correctors_other_metrics_and_a_run_without_cells(runs, tmp_path):
    guided = tiny_run(runs[0].parent, "classes", "mnist_guided_discrete", sampler__guidance__g=2.0, model__num_classes=10)
    names = ["tau_leaping+1", "heun"]
    settings = {**QUICK, "samplers": names, "calls": [8], "metric": "coverage"}
    content = compare_runs([guided, runs[1]], random_classifier(), out=tmp_path / "guided", **settings)
    page = Page((tmp_path / "guided" / "index.html").read_text())
    assert "more is better" in page.text
    assert "tau_leaping+1, guided" in page.text
    for part in (ForwardBackward, PosteriorGuidance):
        words = proven.proven(part).text.replace("`", "").split()
        assert "".join(words) in "".join(page.text.split())  # where code begins and ends, texts are joined with spaces
    assert "10 classes" in content.runs[0].engine
    assert "--metric=coverage" in page.text
    few = {**QUICK, "samplers": ["tau_leaping", "heun"], "calls": [2]}
    content = compare_runs(runs, pixels(), out=tmp_path / "few", **few)
    page = Page((tmp_path / "few" / "index.html").read_text())
    assert [run.shown is None for run in content.runs] == [False, True]
    assert len(page.pictures) == 2
    assert "mnist_ddpm, heun: 2 calls are too few for one step." in page.text
    assert "At the largest budget" not in page.text


def test_the_command_trains_the_same(runs):
    for path, preset in zip(runs, ENGINES, strict=True):
        run = load_run(path)
        command = shlex.split(training_command(run.config, run.path))
        assert command[:3] == ["ctdiff", "train", f"--config={preset}"]
        again = configuration.load(preset, command[3:-1])
        assert configuration.flatten(again.data) == configuration.flatten(run.config.data)
        assert configuration.differences(again, run.config, configuration.FREE_SECTIONS) == {}
    assert main([*command[1:-1], "--dry_run"]) == 0


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("mnist", {"model.name": "dit", "model.dit.depth": 3}),
        ("mnist", {"data.name": "array", "data.array.path": "/images with spaces.npz"}),
        ("mnist", {"optimizer.name": "sgd", "optimizer.sgd.momentum": 0.5, "model.use_checkpoint": True}),
        ("mnist_uniform", {"process.rates.name": "gaussian_target", "process.rates.gaussian_target.sigma_r": 3.0}),
        ("mnist_ddpm", {"loss.epsilon.distance.name": "smooth_l1", "loss.epsilon.distance.smooth_l1.beta": 0.3}),
        ("mnist_ddpm", {"model.unet.head_width": 8, "loss.name": "v", "model.parameterisation.name": "v"}),
        *((preset, {}) for preset in configuration.preset_names()),
    ],
)
def test_commands_of_other_runs(preset, changes):
    """What is typed gives the run's configuration; choices stand before settings, and every flag is a key of the run."""
    flags = [f"--config.{key}={value}" for key, value in changes.items()]
    config = configuration.from_json(configuration.to_json(configuration.load(preset, flags)))
    recipe.set_absolute_path(config)
    command = shlex.split(training_command(config, Path("runs/a")))
    keys = [flag.partition("=")[0].removeprefix("--config.") for flag in command[3:-1]]
    choices = [key.endswith(".name") for key in keys]
    assert choices == sorted(choices, reverse=True)
    assert set(changes) <= set(keys) | {"model.name"}  # another preset may have the backbone already
    assert set(keys) <= set(configuration.flatten(config))
    again = configuration.load(command[2].removeprefix("--config="), command[3:-1])
    recipe.set_absolute_path(again)
    assert {key: value for key, value in configuration.flatten(again).items() if key.split(".")[0] != "sampler"} == {
        key: value for key, value in configuration.flatten(config).items() if key.split(".")[0] != "sampler"
    }


def test_backbones_are_alike_where_their_arguments_are():
    """Whatever the engine, its parameterisation and the labels."""
    chain, gaussian = (configuration.load(preset) for preset in ENGINES)
    assert backbone_settings(chain) == backbone_settings(gaussian)
    assert backbone_settings(chain)["unet"] == chain.model.unet.to_dict()
    deeper = configuration.changed(chain, {"model.unet.patch_size": 1})
    assert backbone_settings(deeper) != backbone_settings(chain)
    other = configuration.changed(chain, {"model.parameterisation.name": "x0", "model.num_classes": 10})
    assert backbone_settings(other) == backbone_settings(chain)


@pytest.mark.parametrize("preset", configuration.preset_names())
def test_engines_in_words(preset):
    config = configuration.load(preset)
    words = engine_in_words(config)
    assert ("Gaussian diffusion" in words) == (config.process.engine == "gaussian")
    assert "_" not in words
    assert preset != "mnist" or words == "Markov chain on 256 grey levels, Gaussian target rates, linear schedule"


def assert_exists(test: str) -> None:
    file, *names = test.split("::")
    node: Any = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    for name in names:
        node = next((each for each in node.body if getattr(each, "name", None) == name), None)
        assert node is not None, test


def test_docstrings_state_what_is_proven_by_tests_that_exist():
    """Of every sampler, corrector, form of guidance and bound."""
    needed = [each.package.bits_per_dim for each in recipe.engines().values()]
    for engine in recipe.engines():
        place = tree(engine).inner("sampler")
        for inner in (place, *(place.inner(name) for name in ("corrector", "guidance_form") if name in place.fields)):
            needed += alternatives(inner.base, inner.wired).values()
    needed.append(continuous_diffusion.ClassifierFreeGuidance)
    assert len(needed) >= 12
    for part in needed:
        statement = proven.proven(part)
        assert statement.text.endswith("."), part
        assert "::" not in statement.text
        assert statement.tests, part
        for test in statement.tests:
            assert_exists(test)
    table = proven_table().splitlines()
    assert table[2].startswith("| discrete | `")
    stated = [statement for each in recipe.engines().values() for statement in proven.stated(each.package).values()]
    assert len(table) == 2 + len(stated) >= 2 + len(needed)
    assert {line.count(" | ") for line in (table[0], *table[2:])} == {3}
    for statement in stated:
        assert all(f"`tests/{test}`" in "".join(table) for test in statement.tests)


class Unproven(Euler):
    """A sampler with a docstring of its own."""


class Doubled(Euler):
    """A sampler of a user.

    Proven:
        It is
        exact.

        my/test_doubled.py::TestIt::test_exact

    Arguments:
        denoiser: a denoiser.
    """


def test_a_users_class_states_its_own(runs):
    assert proven.proven(Doubled) == proven.Statement("It is exact.", ["my/test_doubled.py::TestIt::test_exact"])
    assert proven.proven(Unproven) == proven.Statement("Nothing: its docstring has no section `Proven:`.", [])
    run = load_run(runs[0])
    sampler, plain = run.sampler(2, "euler"), Unproven(run.denoiser, run.sampler(2).grid)
    assert proven.of_sampler(sampler, guided=False) == proven.proven(Euler)
    corrected = PredictorCorrector(sampler, ForwardBackward(run.denoiser))
    found, parts = proven.of_sampler(corrected, guided=False), [proven.proven(Euler), proven.proven(ForwardBackward)]
    assert found.text == " ".join(part.text for part in parts)
    assert found.tests == list(dict.fromkeys(test for part in parts for test in part.tests))
    assert proven.of_sampler(plain, guided=False).tests == []


def test_figures_in_statements_are_those_of_the_tests():
    """The divergences at 128 steps, which `make test` computes."""
    text = (TESTS / "discrete_diffusion" / "test_samplers.py").read_text(encoding="utf-8")
    found = dict(re.findall(r'"(\w+)": \(lambda d, g: .*, (\d\.\d+e-\d)\]\),', text))
    for sampler in (Ancestral, Euler, TauLeaping):
        assert f"KL(data || samples) is {found[sampler.__name__]} nats after 128 steps" in proven.proven(sampler).text


def test_milliseconds():
    assert [milliseconds(x) for x in (0.0051234, 0.24, 1.8712, 0.000001, 12.5)] == ["5.12", "240", "1,870", "0.001", "12,500"]
