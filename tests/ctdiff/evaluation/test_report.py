"""Reports of runs: complete, repeated to the bit, resumed where they were interrupted, and refused with a reason."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import continuous_diffusion
import discrete_diffusion
from ctdiff import load_run, progress, recipe, records, train
from ctdiff.cli import main
from ctdiff.data import ImageData, embedded_mnist
from ctdiff.evaluation import (
    Evaluator,
    Report,
    draw,
    drawing,
    evaluate_run,
    evaluation_table,
    repeat,
    run_bits_per_dim,
    with_interval,
)
from ctdiff.evaluation.report_format import Weights
from ctdiff.hashes import file_hash
from ctdiff.metrics import Features, GreyImages, Measurement, Reference, module_extractor
from ctdiff.records import Parts, digest, to_json, unequal
from ctdiff.runs import RunError
from ctdiff.sampling import numbers, spans
from diffusion_core import Sampler, stream_seed

from ..small import small
from ..tiny_runs import ENGINES, images, pixels, random_classifier, tiny_run

QUICK = {"num_samples": 20, "steps": 2, "likelihood_images": 12, "draws": 4, "replicates": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for preset in ENGINES:
        tiny_run(folder, preset, preset)
    tiny_run(folder, "classes", "mnist_guided", sampler__guidance__g=1.0)
    return folder


def _count(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[int]:
    """How many chains each later call of a sampler walks; a call fails."""
    called: list[int] = []
    trajectory = Sampler.trajectory

    def counted(self, n, *arguments, **settings):
        if len(called) == fail_at:
            raise KeyboardInterrupt
        called.append(n)
        yield from trajectory(self, n, *arguments, **settings)

    monkeypatch.setattr(Sampler, "trajectory", counted)
    return called


@pytest.mark.parametrize("preset", ENGINES)
def test_a_report_says_all_and_repeats_to_the_bit(preset, runs, tmp_path, monkeypatch):
    out = tmp_path / "new" / "report.json"
    content = evaluate_run(runs / preset, pixels(), out=out, **QUICK)
    json.loads(out.read_text(), parse_constant=pytest.fail)
    assert content == records.read_record(out, Report)
    settings, (found,) = content.settings, content.checkpoints
    assert settings.sampler == json.loads(json.dumps({**load_run(runs / preset).config.sampler.to_dict(), "steps": 2}))
    assert (settings.seeds, settings.labels, settings.ema) == ("0-19", None, True)
    weights = runs / preset / "checkpoints" / "step_0000004" / "ema.safetensors"
    assert settings.checkpoints == [Weights(4, file_hash(weights))]
    assert settings.extractor.hash == pixels().hash
    assert content.environment.threads == torch.get_num_threads()
    assert (content.data.train.count, content.data.held_out.count) == (36, 24)
    assert found.network_calls == 3
    names = ["FID", "KID", "precision", "recall", "density", "coverage", "nearer-to-train", "copies", "bits/dim"]
    assert list(found.metrics) == list(content.noise) == names
    assert content.noise["bits/dim"].value == math.log2(8)
    for row in found.metrics.values():
        assert (row.floor is None) == (row.name == "bits/dim")
    bits = found.bits_per_dim
    assert bits.value == found.metrics["bits/dim"].value
    assert bits.value == pytest.approx(bits.diffusion + bits.prior + bits.reconstruction)
    assert not list(tmp_path.rglob("*.parts"))

    # The metrics are those of the reference, of the very samples.
    run = load_run(runs / preset)
    splits = recipe.build_data(run.config)
    samples = run.images(run.sampler(2).sample(20, seeds=range(20)))
    expected = Reference(pixels(), splits.train, splits.test, replicates=3).measure(samples)
    assert expected["FID"] == found.metrics["FID"]

    with monkeypatch.context() as patch:
        called = _count(patch)
        assert evaluate_run(runs / preset, pixels(), out=out, **QUICK) == content
        assert called == []  # it is there
        assert repeat(out, pixels()) == []
        assert called == [20]
        evaluate_run(runs / preset, pixels(), out=out, fresh=True, **QUICK)
        assert called == [20, 20]
    altered = json.loads(out.read_text())
    altered["checkpoints"][0]["metrics"]["KID"]["floor"]["low"] += 1e-9
    altered["checkpoints"][0]["seconds_per_sample"] = 0.0
    out.write_text(to_json(altered))
    ((name, then, now),) = repeat(out, pixels())
    assert name == "checkpoints[0].metrics.KID.floor.low"
    assert then - now == pytest.approx(1e-9, rel=1e-3)


def test_an_interrupted_report_goes_on_where_it_was(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_PIECE", 8)  # pieces of 8 samples: two sub-batches
    monkeypatch.setattr(drawing, "_BLOCK", 8)
    settings = {**QUICK, "checkpoints": "all"}
    whole = evaluate_run(runs / "mnist", pixels(), out=tmp_path / "whole.json", **settings)
    cut = tmp_path / "cut.json"
    with monkeypatch.context() as patch:
        assert len(_count(patch, fail_at=4)) == 0
        with pytest.raises(KeyboardInterrupt):
            evaluate_run(runs / "mnist", pixels(), out=cut, **settings)
    assert not cut.exists()
    blocks = []
    engine = discrete_diffusion.bits_per_dim
    monkeypatch.setattr(discrete_diffusion, "bits_per_dim", lambda *a, **k: blocks.append(len(a[1])) or engine(*a, **k))
    called = _count(monkeypatch)
    content = evaluate_run(runs / "mnist", pixels(), out=cut, **settings)
    assert called == [8, 4]  # four of six pieces were there
    assert blocks == [8, 4]  # the first checkpoint's too
    for part in ("checkpoints", "noise"):
        assert unequal(getattr(content, part), getattr(whole, part), ignore=("seconds_per_sample",)) == []
    assert [each.step for each in content.checkpoints] == [2, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.json", "cut.png", "whole.json", "whole.png"]
    with Image.open(tmp_path / "cut.png") as picture:
        assert picture.size[0] > 2 * picture.size[1]
    lines = evaluation_table(content).splitlines()
    assert lines[0].split() == ["step", "FID", "KID", "precision", "recall", "coverage", "bits/dim"]
    assert [line.split()[0] for line in lines[1:3]] == ["2", "4"]


def test_classes_count_where_they_are_those_of_the_data(runs, tmp_path):
    def names(extractor, **settings):
        content = evaluate_run(
            runs / "classes", extractor, out=tmp_path / "report.json", **{**QUICK, "likelihood_images": 0}, **settings
        )
        return content, set(content.checkpoints[0].metrics)

    content, found = names(random_classifier())
    assert found >= {"agreement", "IS", "class-KL"}
    assert "bits/dim" not in found
    assert content.checkpoints[0].bits_per_dim is None
    assert content.noise["agreement"].n_fake == 20
    assert not names(random_classifier(7))[1] & {"agreement", "IS", "class-KL"}
    assert "agreement" not in names(random_classifier(), labels=[10])[1]  # drawn for no class
    # Samples of some classes are held against images of those.
    content, found = names(random_classifier(), labels=[1, 2, 3, 4, 5, 6])
    assert "agreement" in found
    assert content.data.train.count + content.data.held_out.count == 36
    assert repeat(tmp_path / "report.json", random_classifier()) == []


def test_guidance_is_counted_and_recorded(runs, tmp_path):
    guided = ["--config.sampler.guidance.g=2.0"]
    out = tmp_path / "report.json"
    content = evaluate_run(runs / "classes", pixels(), overrides=guided, out=out, **{**QUICK, "likelihood_images": 0})
    assert content.checkpoints[0].network_calls == 6
    assert content.settings.sampler["guidance"]["g"] == 2.0
    assert "guidance 2.0" in evaluation_table(content)
    content.settings.sampler["guidance"] = {"name": "module:Scale"}  # a scale of the user need not have g
    assert "guidance module:Scale" in evaluation_table(content)
    assert repeat(out, pixels()) == []


def test_a_sampler_is_chosen_with_its_settings(runs, tmp_path):
    settings = {**QUICK, "likelihood_images": 0, "out": tmp_path / "report.json"}
    content = evaluate_run(
        runs / "mnist_ddpm", pixels(), sampler="ddim", overrides=["--config.sampler.ddim.eta=0.5"], **settings
    )
    sampler = content.settings.sampler
    assert (sampler["name"], sampler["steps"], sampler["ddim"]["eta"]) == ("ddim", 2, 0.5)
    assert repeat(tmp_path / "report.json", pixels()) == []
    with pytest.raises(ValueError, match=r"ddim\.eta = 0\.5 cannot act: config\.sampler\.name = 'ancestral'"):
        evaluate_run(runs / "mnist_ddpm", pixels(), overrides=["--config.sampler.ddim.eta=0.5"], **settings)
    with pytest.raises(ValueError, match=r"config\.sampler\.steps = 0, expected an integer"):
        evaluate_run(runs / "mnist_ddpm", pixels(), **{**settings, "steps": 0})


@pytest.mark.parametrize("preset", [*ENGINES, "classes"])
def test_bits_per_dim_is_that_of_the_engine(preset, runs, monkeypatch):
    """Times that are learned on the pilot images, then blocks of images with random numbers of their own."""
    run = load_run(runs / preset)
    splits = recipe.build_data(run.config)
    data, pilot = splits.test.select(torch.arange(3)), splits.train
    before = torch.get_rng_state()
    monkeypatch.setattr(drawing, "_BLOCK", 2)
    found = run_bits_per_dim(run, data, pilot, draws=4)
    assert torch.equal(torch.get_rng_state(), before)
    engine = discrete_diffusion if preset == "mnist" else continuous_diffusion
    denoiser = recipe.engine_of(run.config).scored(run.config, run.denoiser)

    def labels(images: ImageData) -> dict[str, torch.Tensor]:
        return {"y": images.labels} if preset == "classes" else {}

    def noise(*key: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(0, *key))

    few = pilot.select(torch.arange(min(64, len(pilot))))
    interval = drawing.likelihood_times(run)
    times = engine.learn_times(denoiser, run.encode(few.images), interval, generator=noise(0), **labels(few))
    blocks = [data.select(torch.tensor(rows)) for rows in ([0, 1], [2])]
    parts = [
        engine.bits_per_dim(denoiser, run.encode(block.images), times, 4, generator=noise(1, first), **labels(block))
        for first, block in zip((0, 2), blocks, strict=True)
    ]
    expected = torch.cat([part.images for part in parts])
    torch.testing.assert_close(found.images, expected, rtol=1e-9, atol=0)
    assert found.value == pytest.approx(expected.mean().item())
    assert found.standard_error > 0


def test_samples_do_not_depend_on_pieces(runs, monkeypatch, tmp_path):
    run = load_run(runs / "mnist")
    whole = draw(run, run.sampler(), list(range(9)))
    monkeypatch.setattr(drawing, "_PIECE", 1)
    parts = Parts(tmp_path, {"what": 1})
    pieces = draw(run, run.sampler(), list(range(9)), parts=parts)
    assert torch.equal(whole.images, pieces.images)
    assert whole.nfe == pieces.nfe == 4
    files = sorted(parts.folder.iterdir())
    assert [path.name for path in files] == [f"samples_{first:06d}.npz" for first in (0, 4, 8)]
    files[1].write_bytes(b"damaged")
    assert torch.equal(draw(run, run.sampler(), list(range(9)), parts=parts).images, whole.images)
    parts.clear()
    assert not parts.folder.exists()
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected 2 rows"):
        draw(run, run.sampler(), [0, 1], {"y": torch.zeros(3)})


def test_the_progress_bar_ends_where_it_should(runs, monkeypatch):
    seen = []

    class Seen(progress.tqdm):
        def __init__(self, **settings):
            super().__init__(**{**settings, "disable": False})

        def update(self, n=1):
            super().update(n)
            seen.append(self.n)

    monkeypatch.setattr(progress, "tqdm", Seen)
    run = load_run(runs / "mnist")
    draw(run, run.sampler(steps=7), [0])
    assert max(seen) == 1, "nine ninths are more than 1 in floating point"


def test_what_contradicts_the_run_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(Sampler, "trajectory", pytest.fail)  # before anything is drawn
    out = tmp_path / "report.json"
    for settings, error, message in (
        ({"labels": [1]}, ValueError, "label 1, expected none: the network has no classes"),
        ({"num_samples": 11}, ValueError, "num_samples = 11, expected at least 12"),
        ({"seeds": [*range(12), 3]}, ValueError, "seed 3 is given twice"),
        ({"num_samples": 13, "seeds": range(12)}, ValueError, "num_samples = 13 and 12 seeds"),
        ({"sampler": "ddim"}, ValueError, "config.sampler.name = 'ddim', expected one of ancestral, euler"),
        ({"checkpoints": "3"}, RunError, r"has no checkpoint 3, expected some of \[2, 4\]"),
        ({"checkpoints": "some"}, ValueError, "checkpoints = 'some', expected"),
        ({"likelihood_images": 25}, ValueError, r"likelihood_images = 25, expected 0 \.\. 24: there are 24 held-out images"),
        ({"draws": 1}, ValueError, "draws = 1, expected an even number of at least 4"),
        (
            {"overrides": ["--config.sampler.guidance.g=2.0"]},
            ValueError,
            "guidance needs a network that was trained with labels",
        ),
        (
            {"overrides": ["--config.training.steps=2"]},
            ValueError,
            "config.training.steps cannot be changed: the run is trained",
        ),
        ({"out": tmp_path / "report.txt"}, ValueError, "expected a file that ends in .json"),
    ):
        with pytest.raises(error, match=message):
            evaluate_run(runs / "mnist", pixels(), **{"out": out, **settings})
    with pytest.raises(ValueError, match="label 11, expected 0"):
        evaluate_run(runs / "classes", pixels(), labels=[11])
    out.write_text("{}")
    with pytest.raises(ValueError, match="has the format None, expected 'ctdiff-evaluation-1'"):
        evaluate_run(runs / "mnist", pixels(), out=out)
    assert out.read_text() == "{}"
    out.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        repeat(out, pixels())


def test_what_is_no_repetition_is_refused(tmp_path):
    run = tiny_run(tmp_path, "run", "mnist")
    evaluate_run(run, pixels(), **QUICK)
    out = run / "evaluation.json"
    with pytest.raises(ValueError, match=r"the extractor is random-\w+, expected pixels-\w+"):
        repeat(out, random_classifier())
    with pytest.raises(ValueError, match="extractor = 'pixels', expected one of mnist-cnn, inception"):
        repeat(out)
    moved = run.rename(tmp_path / "moved")
    assert repeat(moved / "evaluation.json", pixels()) == []  # beside the file
    old = json.loads((moved / "evaluation.json").read_text())
    old["environment"]["torch"] = "1.0"
    (moved / "evaluation.json").write_text(to_json(old))
    with pytest.warns(UserWarning, match=r"torch was 1\.0, is now"):
        assert repeat(moved / "evaluation.json", pixels()) == []
    data = images(tmp_path)["data__array__path"]
    arrays = dict(np.load(data))
    np.savez(data, images=255 - arrays["images"], labels=arrays["labels"])
    with (
        pytest.warns(UserWarning, match="torch was"),
        pytest.raises(ValueError, match=r"the real images differ from those of the report: train\.sha256 was"),
    ):
        repeat(moved / "evaluation.json", pixels())
    np.savez(data, **arrays)
    train(small("mnist", **images(tmp_path), training__steps=4, training__seed=1), moved, fresh=True)
    with pytest.warns(UserWarning, match="torch was"), pytest.raises(RunError, match="the run was trained again"):
        repeat(moved / "evaluation.json", pixels())


def test_records():
    assert [spans(n) for n in ([0, 1, 2, 5], [7], [3, 2], [])] == ["0-2,5", "7", "3,2", ""]
    assert numbers(spans([4, 0, 1, 9])) == [4, 0, 1, 9]
    content = {"a": [math.inf, -math.inf, math.nan, 0.1], "b": (1, 2)}
    back = json.loads(to_json(content), parse_constant=pytest.fail)
    assert back == {"a": ["inf", "-inf", "nan", 0.1], "b": [1, 2]}
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    assert unequal({"a": [1, {"b": 2}], "t": 1}, {"a": [1, {"b": 3}], "c": 1}, ignore=("t",)) == [
        ("a[1].b", 2, 3),
        ("c", None, 1),
    ]


def test_a_report_with_wrong_keys_or_values_is_refused(runs, tmp_path):
    out = tmp_path / "report.json"
    written = records.as_json(evaluate_run(runs / "mnist", pixels(), out=out, **{**QUICK, "likelihood_images": 0}))
    del written["checkpoints"][0]["bits_per_dim"]  # reports without bits per dimension once had no such key
    out.write_text(to_json(written))
    assert records.as_json(records.read_record(out, Report)) == {
        **written,
        "checkpoints": [{**written["checkpoints"][0], "bits_per_dim": None}],
    }
    for change, message in (
        (lambda c: c.update(author="me"), r"report\.json has the unknown key 'author', expected run, settings"),
        (lambda c: c["settings"].pop("ema"), r"report\.json: settings has no key 'ema', expected checkpoints, ema"),
        (lambda c: c["settings"].update(ema=1), r"report\.json: settings: ema = 1, expected bool"),
        (lambda c: c["settings"].update(labels=[True]), r"settings: labels\[0\] = True, expected int"),
        (lambda c: c["noise"]["KID"].update(low="low"), r"noise\.KID: low = 'low', expected float"),
        (lambda c: c.update(data=None), r"report\.json: data = None, expected an object"),
        (lambda c: c["checkpoints"][0].update(step=4.5), r"checkpoints\[0\]: step = 4\.5, expected int"),
    ):
        content = copy.deepcopy(written)
        change(content)
        out.write_text(to_json(content))
        with pytest.raises(ValueError, match=message):
            repeat(out, pixels())


def test_an_infinite_divergence_is_written_and_repeated(runs, tmp_path):
    """A class that no training image is taken for, of an extractor of two images and eight classes."""

    class Darkness(nn.Module):
        def forward(self, x):
            dark = x.flatten(1).mean(1, keepdim=True) < 0.3
            return Features(x.flatten(1)[:, :3], torch.cat([~dark, dark, dark.expand(-1, 8) & False], 1).float())

    config = load_run(runs / "classes").config
    evaluator = Evaluator.of(
        config, recipe.build_data(config), module_extractor("dark", Darkness(), GreyImages(8, 8), 3), replicates=3
    )
    black = evaluator.measure(torch.zeros(20, 1, 8, 8, dtype=torch.uint8))["class-KL"]
    assert json.loads(to_json(black))["value"] == "inf"
    assert with_interval(records.from_json(Measurement, records.as_json(black), "row")) == "inf [nan, nan]"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 28 x 28 digits, which the committed classifier reads."""
    folder, some = tmp_path_factory.mktemp("digits"), embedded_mnist().test
    np.savez(folder / "digits.npz", images=some.images[:60].numpy(), labels=some.labels[:60].numpy())
    data = {"data__array__path": str(folder / "digits.npz"), "data__image_size": (28, 28), "data__num_values": 256}
    return tiny_run(folder, "run", "mnist_ddpm", **data)


def test_the_command(digits, capsys, monkeypatch):
    monkeypatch.setitem(evaluate_run.__kwdefaults__, "replicates", 5)  # each makes the root of a matrix for each distance
    command = ["evaluate", str(digits), "--seeds=0-14", "--steps=1", "--likelihood_images=3", "--draws=4"]
    with monkeypatch.context() as patch:
        _count(patch, fail_at=0)
        assert main(command) == 130
    assert "interrupted; finished work is kept, run the same command again to continue" in capsys.readouterr().err
    assert main(command) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].split() == ["metric", "better", "samples", "floor", "noise"]
    assert lines[1].startswith("FID-mnist-cnn-")
    assert not [line for line in lines if line.startswith(("IS", "class-KL", "agreement"))]  # of an array, nobody knows
    assert any(line.startswith("bits/dim") and " +- " in line and "reconstruction" in line for line in lines)
    assert "15 samples of step 4 (seeds 0-14), ancestral, 2 network calls a sample" in printed
    assert lines[-1] == str(digits / "evaluation.json")
    assert main(["evaluate", "--repeat", lines[-1]]) == 0
    assert capsys.readouterr().out == "every number is the same, bit for bit\n"
    content = json.loads((digits / "evaluation.json").read_text())
    content["noise"]["copies"]["value"] = 0.5
    (digits / "evaluation.json").write_text(to_json(content))
    assert main(["evaluate", str(digits), f"--repeat={lines[-1]}"]) == 1
    assert capsys.readouterr().out == "noise.copies.value: 0.5 in the file, 0.0 now\n1 numbers differ\n"


def test_mistakes_in_the_command(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CTDIFF_INCEPTION", str(tmp_path / "absent.pth"))
    for arguments, message in (
        ([], "the folder of a run or the name of a model is missing"),
        ([tmp_path], "is not a run"),
        ([digits, "more"], "unexpected 'more'"),
        ([digits, "--label=1", "--labels=0-3"], "--label=1 and --labels=0-3: give one of them"),
        ([digits, "--labels=0-3"], "label 0, expected none: the network has no classes"),
        ([digits, "--extractor=vgg"], "extractor"),
        ([digits, "--extractor=inception"], "absent.pth"),
        (["--repeat=x.json", "--steps=3"], "--steps: --repeat takes every setting from the file"),
        (["--repeat=x.json", "--config.sampler.steps=3"], "--repeat takes every setting from the file"),
        (["--repeat=x.json"], "x.json cannot be read"),
    ):
        assert main(["evaluate", *map(str, arguments)]) == 2, arguments
        assert message in capsys.readouterr().err
