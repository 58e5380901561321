"""Studies of samplers: equal network calls, cells that are computed once, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ctdiff import config as configuration
from ctdiff.cli import main
from ctdiff.comparison import Comparison, compare_runs, comparison_table, count_nfe, most_steps, nfe_of_steps, study
from ctdiff.comparison.contenders import contenders_of
from ctdiff.config import ConfigError
from ctdiff.evaluation import EXTRACTORS
from ctdiff.files import FolderError, locked
from ctdiff.records import read_record, unequal
from ctdiff.runs import load_run

from ..tiny_runs import ENGINES, images, pixels, random_classifier, tiny_run

QUICK = {"num_samples": 12, "replicates": 3, "likelihood_images": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [tiny_run(folder, preset, preset) for preset in ENGINES]


def _drawn(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[str]:
    """The titles of the cells that are drawn from now on; one is interrupted."""
    titles: list[str] = []
    draw = study.draw

    def counted(*arguments, title, **settings):
        if len(titles) == fail_at:
            raise KeyboardInterrupt
        titles.append(title)
        return draw(*arguments, title=title, **settings)

    monkeypatch.setattr(study, "draw", counted)
    return titles


def test_every_sampler_at_the_same_network_calls(runs, tmp_path):
    content = compare_runs(runs, pixels(), calls=[2, 4, 9], out=tmp_path, **QUICK)
    cells = {(cell.run, cell.sampler, cell.calls): cell for cell in content.cells}
    samplers = [("mnist", name) for name in ("ancestral", "euler", "midpoint_tau_leaping", "tau_leaping")]
    samplers += [("mnist_ddpm", name) for name in ("ancestral", "ddim", "heun")]
    assert set(cells) == {(*pair, calls) for pair in samplers for calls in (2, 4, 9)} - {
        ("mnist", "midpoint_tau_leaping", 2),
        ("mnist_ddpm", "heun", 2),
    }
    skipped = [(each.run, each.sampler, each.calls) for each in content.skipped]
    assert skipped == [("mnist", "midpoint_tau_leaping", 2), ("mnist_ddpm", "heun", 2)]
    for (_, sampler, calls), cell in cells.items():
        twice = sampler in ("heun", "midpoint_tau_leaping")  # two calls a step, and the last one
        steps = (calls - 1) // 2 if twice else calls - 1
        assert (cell.steps, cell.network_calls) == (steps, 2 * steps + 1 if twice else calls)
        assert cell.seconds_per_sample > 0
        assert cell.metrics["FID"].n_fake == 12
        assert cell.metrics["FID"].floor.n_fake == 12
    json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert read_record(tmp_path / "comparison.json", Comparison) == content
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert len(rows) == 19
    for row, cell in zip(rows, content.cells, strict=True):
        assert (row["run"], row["sampler"], row["network_calls"]) == (cell.run, cell.sampler, str(cell.network_calls))
        kid = cell.metrics["KID"]
        assert [float(row[f"KID{end}"]) for end in ("", " low", " high", " floor")] == [
            kid.value, kid.low, kid.high, kid.floor.value,
        ]  # fmt: skip
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.size[0] >= 1200
    lines = comparison_table(content, "KID").splitlines()
    assert len(lines) == 22
    assert lines[-1] == "mnist_ddpm, heun: 2 calls are too few for one step"
    assert content.runs[0].samplers["euler"]["name"] == "euler"


@pytest.mark.usefixtures("no_layout")
def test_correctors_and_guidance_cost_calls(runs, tmp_path):
    names = ["tau_leaping", "tau_leaping+2", "ancestral"]
    late = ["--config.sampler.corrector.entry_time=0.4"]
    content = compare_runs(runs[:1], pixels(), calls=[7], samplers=names, overrides=late, out=tmp_path, **QUICK)
    found = {cell.sampler: (cell.steps, cell.network_calls) for cell in content.cells}
    # Three steps and the last draw are 4 calls, and two of the steps end where leaps happen.
    assert found == {"tau_leaping": (6, 7), "ancestral": (6, 7), "tau_leaping+2": (2, 5)}
    guided = tiny_run(runs[0].parent, "classes", "mnist_guided", sampler__guidance__g=2.0, model__num_classes=10)
    content = compare_runs([guided], random_classifier(), calls=[9], samplers=["ddim", "heun"], out=tmp_path, **QUICK)
    assert [(cell.steps, cell.network_calls) for cell in content.cells] == [(3, 8), (1, 6)]
    assert "agreement" in content.cells[0].metrics


def _settings(paths, samplers, *overrides):
    """The settings of samplers by run and name, of a comparison with overrides."""
    flags = [f"--config.sampler.{override}" for override in overrides]
    return {(each.name, each.sampler): each.run.config.sampler for each in contenders_of(paths, samplers, flags, "cpu")}


def test_an_override_acts_on_the_samplers_that_have_it(runs):
    pairs = [("mnist", "ancestral"), ("mnist_ddpm", "ancestral"), ("mnist_ddpm", "ddim")]
    plain, noisy = (_settings(runs, ["ancestral", "ddim"], *given) for given in ((), ("ddim.eta=0.5",)))
    assert list(plain) == list(noisy) == pairs
    assert plain[pairs[2]].ddim.eta == 0.0
    assert noisy.pop(pairs[2]).ddim.eta == 0.5
    assert all(noisy[pair] == plain[pair] for pair in noisy)
    run = contenders_of(runs[1:], ["ddim"], ["--config.sampler.ddim.eta=0.5"], "cpu")[0].run
    assert run.sampler().eta == 0.5
    assert load_run(runs[1]).config.sampler.name == "ancestral"
    both = _settings(runs, ["tau_leaping", "heun"], "clip=none", "tau_leaping.leap.name=categorical", "grid.name=quadratic")
    assert both["mnist_ddpm", "heun"].clip is None
    assert both["mnist", "tau_leaping"].tau_leaping.leap.name == "categorical"
    assert {settings.grid.name for settings in both.values()} == {"quadratic"}


def test_correctors_are_those_of_the_run_of_overrides_or_of_the_label(runs):
    leaping = ["tau_leaping", "tau_leaping+0", "tau_leaping+2"]
    found = _settings(runs[:1], leaping, "corrector.entry_time=0.5")
    assert list(found) == [("mnist", "tau_leaping"), ("mnist", "tau_leaping+2")]
    assert found["mnist", "tau_leaping"].corrector.name == "none"
    assert found["mnist", "tau_leaping+2"].corrector.entry_time == 0.5
    # The label has the last word on the number of leaps, and a sampler that is meant twice stands there once.
    found = _settings(runs[:1], [*leaping, "tau_leaping+3"], "corrector.name=forward_backward", "corrector.corrector_steps=3")
    assert {name: settings.corrector.corrector_steps for (_, name), settings in found.items()} == {
        "tau_leaping+3": 3, "tau_leaping": 0, "tau_leaping+2": 2,
    }  # fmt: skip
    given = {"sampler__corrector__name": "forward_backward", "sampler__corrector__step_multiplier": 0.1}
    own = tiny_run(runs[0].parent, "corrected", "mnist", **given)
    found = _settings([own], ["euler", "euler+4"])
    assert [(name, settings.corrector.step_multiplier) for (_, name), settings in found.items()] == [
        ("euler+1", 0.1), ("euler+4", 0.1),
    ]  # fmt: skip


def test_an_override_that_acts_on_nothing_is_refused(runs):
    for samplers, override, message in (
        (["ancestral"], "ddim.eta=0.5", "ddim.eta = 0.5 cannot act: config.sampler.name = 'ancestral', expected 'ddim'"),
        (None, "ddim.etta=0.5", r"ddim.etta is not a key, .* Did you mean eta\?"),
        (None, "ddim.eta=7", r"ddim.eta = 7, expected a number in \[0, 1\]"),
        (None, "guidance.g=2", "guidance needs a network that was trained with labels"),
        (
            ["euler", "heun"],
            "corrector.entry_time=0.5",
            "cannot act: config.sampler.corrector.name = 'none', expected 'forward",
        ),
        (["euler+2", "heun"], "corrector.name=none", "corrector_steps = 2 cannot act: config.sampler.corrector.name = 'none'"),
        (None, "steps=5", "--config.sampler.steps=5 has no effect on a comparison, expected --calls"),
        (None, "name=heun", "--config.sampler.name=heun has no effect on a comparison, expected --samplers"),
        (None, "num_samples=3", "has no effect on a comparison, expected --num_samples"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            _settings(runs, samplers, override)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"config\.training\.steps cannot be changed: the run is trained"):
        contenders_of(runs, None, ["--config.training.steps=5"], "cpu")


@pytest.mark.usefixtures("no_layout")
def test_an_interrupted_study_computes_nothing_twice(runs, tmp_path, monkeypatch):
    settings = {"calls": [2, 3], "samplers": ["ancestral", "ddim", "euler"], **QUICK}
    whole = compare_runs(runs, pixels(), out=tmp_path / "whole", **settings)
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        first = _drawn(patch, fail_at=5)
        with pytest.raises(KeyboardInterrupt):
            compare_runs(runs, pixels(), out=cut, **settings)
    assert len(first) == 5
    assert len(list((cut / "cells").glob("*.json"))) == 5
    assert not (cut / "comparison.json").exists()
    with monkeypatch.context() as patch:
        second = _drawn(patch)
        content = compare_runs(runs, pixels(), out=cut, **settings)
        assert len(second) == 3
        assert set(first) & set(second) == set()
        assert unequal(content.cells, whole.cells, ignore=("seconds_per_sample",)) == []
        # Nothing is left to do, not even to count calls; and more calls are that many more cells.
        patch.setattr(study, "nfe_of_steps", lambda *arguments, **cond: pytest.fail)
        assert compare_runs(runs, pixels(), out=cut, **settings) == content
        assert len(second) == 3
    third = _drawn(monkeypatch)
    compare_runs(runs, pixels(), out=cut, **{**settings, "calls": [2, 3, 4]})
    assert [title.rpartition(", ")[2] for title in third] == ["4 calls"] * 4
    damaged = sorted((cut / "cells").glob("*.json"))[0]
    damaged.write_text("{")
    compare_runs(runs, pixels(), out=cut, **{**settings, "calls": [2, 3, 4]})
    assert len(third) == 5
    few = {**settings, "calls": [2], "samplers": ["ancestral"]}
    compare_runs(runs[:1], pixels(), out=cut, fresh=True, **few)
    assert len(third) == 6
    compare_runs(runs[:1], pixels(), out=cut, **{**few, "num_samples": 13})
    assert len(third) == 7


def test_one_comparison_at_a_time(runs, tmp_path, monkeypatch):
    titles = _drawn(monkeypatch)
    with locked(tmp_path, "comparison", "--out"):
        with pytest.raises(FolderError, match=f"another comparison uses {tmp_path}: wait until it ends, or give another --out"):
            compare_runs(runs[:1], pixels(), calls=[4], samplers=["ancestral"], out=tmp_path, **QUICK)
        assert not titles
        assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="cannot be written"):
        compare_runs(runs[:1], pixels(), calls=[4], samplers=["ancestral"], out=tmp_path / "file", **QUICK)
    assert not titles
    compare_runs(runs[:1], pixels(), calls=[4], samplers=["ancestral"], out=tmp_path, **QUICK)
    assert titles == ["mnist, ancestral, 4 calls"]


def test_most_steps():
    assert [most_steps(calls, lambda n: n + 1) for calls in (1, 2, 3, 64)] == [None, 1, 2, 63]
    assert [most_steps(calls, lambda n: 2 * n + 1) for calls in (2, 3, 4, 5, 64)] == [None, 1, 1, 2, 31]
    assert most_steps(5, lambda n: n) == 5
    uneven = lambda n: n + 1 + max(0, n - 10) * 3 + 2 * (n > 2)  # noqa: E731
    for calls in range(2, 60):
        best = max(n for n in range(1, 60) if uneven(n) <= calls)
        assert most_steps(calls, uneven) == best
    assert most_steps(1000, lambda n: n + 1 if n < 100 else None) == 99
    asked = []
    most_steps(64, lambda n: asked.append(n) or 3 * n + 1)
    assert len(asked) <= 6  # two to see how it grows, two to be sure, and the first twice


def test_calls_are_counted_by_walking(runs):
    run = load_run(runs[1])
    assert count_nfe(run.sampler(5, "heun")) == 11
    run = replace(run, config=configuration.changed(run.config, {"sampler.grid.name": "respaced"}))
    cost = nfe_of_steps(lambda steps: run.sampler(steps, "ddim"))
    assert (cost(3), cost(1000)) == (4, None)
    with pytest.raises(ValueError, match=r"config\.sampler\.name = 'euler'"):
        nfe_of_steps(lambda steps: run.sampler(steps, "euler"))


def test_what_cannot_be_compared_is_refused(runs, tmp_path):
    other = tiny_run(tmp_path, "other", "mnist", **images(tmp_path, seed=1))
    for paths, settings, error, message in (
        (runs, {"calls": []}, ValueError, r"calls = \[\], expected positive numbers"),
        (runs, {"calls": [0, 4]}, ValueError, r"calls = \[0, 4\], expected positive numbers"),
        (runs, {"calls": [1]}, ValueError, "calls = 1, expected more: no sampler can make a step with so few network calls"),
        (
            runs,
            {"samplers": ["eulr"]},
            ValueError,
            "sampler = 'eulr', expected one of ancestral, euler, midpoint_tau_leaping",
        ),
        (
            runs,
            {"samplers": ["ddim+x"]},
            ValueError,
            r"sampler = 'ddim\+x', expected a name, or a name and its corrector steps",
        ),
        (runs, {"samplers": ["ddim"]}, ValueError, "mnist has none of the samplers ddim: mnist has ancestral, euler"),
        (runs, {"samplers": ["ancestral", "heun+1"]}, ValueError, r"no run has the sampler heun\+1"),
        (runs, {"num_samples": 11}, ValueError, "num_samples = 11, expected at least 12"),
        (runs, {"metric": "fid"}, ValueError, "metric = 'fid', expected one of FID, KID, precision"),
        (
            runs,
            {"overrides": ["--config.sampler.grid.name=square"]},
            ConfigError,
            r"config.sampler.grid.name = 'square', expected one of .*quadratic",
        ),
        ([runs[0], other], {}, ValueError, r"mnist and other were trained on different images \(data.array.path = "),
        ([runs[0], runs[0]], {}, ValueError, "expected different runs"),
        ([], {}, ValueError, "there are no runs, expected at least one"),
        (runs, {"samplers": []}, ValueError, "mnist has none of the samplers"),
    ):
        with pytest.raises(error, match=message):
            compare_runs(paths, pixels(), **{"calls": [2], "out": tmp_path / "out", **QUICK, **settings})


@pytest.mark.usefixtures("no_layout")
def test_the_command(runs, tmp_path, capsys, monkeypatch):
    """With an extractor of small images under the name of the usual one."""
    monkeypatch.setitem(EXTRACTORS, "mnist-cnn", lambda *arguments: pixels())
    out = tmp_path / "study"
    command = ["compare", *map(str, runs), "--samplers=ancestral,ddim", "--calls=2-3", "--num_samples=12", f"--out={out}"]
    command.append("--likelihood_images=2")
    assert main([*command, "--metric=coverage"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "sampler", "calls", "steps", "coverage", "floor", "ms/sample"]
    assert lines[-4:] == [str(out / name) for name in ("comparison.json", "comparison.csv", "comparison.png", "index.html")]
    assert len(lines) == 1 + 6 + 4
    assert main([*command, "--metric=coverage", "--json"]) == 0
    assert capsys.readouterr().out == (out / "comparison.json").read_text(encoding="utf-8")
    for arguments, message in (
        (["compare"], "the folder of a run or the name of a model is missing"),
        (["compare", str(tmp_path)], "is not a run"),
        (["compare", *map(str, runs), "--calls=many"], "calls = 'many', expected"),
        ([*command, "--steps=4"], "steps"),
        ([*command, "--metric=fid"], "metric = 'fid'"),
        (
            [*command, "--samplers=eulr"],
            "sampler = 'eulr', expected one of ancestral, euler, midpoint_tau_leaping",
        ),
        ([*command, "--config.sampler.heun=2"], "config.sampler.heun is not a key"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
