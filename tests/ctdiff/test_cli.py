"""The command line from end to end: train, stop, resume, sample, load, and everything a user can get wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from continuous_diffusion.samplers import DDIM
from ctdiff import config as configuration
from ctdiff import load_run, memory, sample_run, train, trainer
from ctdiff.cli import main
from ctdiff.completion import completion_of
from ctdiff.data import Batches
from ctdiff.files import FolderError
from ctdiff.runs import Run, RunError, RunFolder
from ctdiff.sampling import chain_conditions, numbers
from ctdiff.training import CheckpointError, MetricsFile, precision

from .small import LARGE, flags, small

ENGINES = ["mnist", "mnist_ddpm"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Small images, so that nothing has to be resized, as the value of data.* keys."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(path, images=rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), labels=np.arange(40) % 10)
    return {"data__name": "array", "data__array__path": path, "data__fraction": 1.0}


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(small("mnist", **images), folder)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A finished run, which a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def _train(*arguments):
    return main(["train", *map(str, arguments)])


def _stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Send a signal while a step is recorded."""
    record = trainer._Recorder.__call__

    def interrupted(self, made, stop):
        if made.step == step:
            os.kill(os.getpid(), number)
        record(self, made, stop)

    monkeypatch.setattr(trainer._Recorder, "__call__", interrupted)


def _contents(run):
    """Everything a run says that must not depend on interruptions."""
    metrics = [{k: v for k, v in line.items() if k != "images_per_second"} for line in MetricsFile.read(run / "metrics.jsonl")]
    newest = sorted((run / "checkpoints").iterdir())[-1]
    weights = [(newest / f"{name}.safetensors").read_bytes() for name in ("model", "ema")]
    pictures = {path.name: path.read_bytes() for path in (run / "samples").glob("*.png")}
    return newest.name, metrics, weights, pictures


@pytest.mark.parametrize("preset", [name for name in configuration.preset_names() if name not in LARGE])
def test_every_preset_trains_two_steps_and_samples(preset, tmp_path, capsys):
    run = tmp_path / "run"
    settings = ["training.steps=2", "training.batch_size=2", "data.fraction=0.001", "optimizer.schedule.warmup=1"]
    settings += ["sampler.steps=2", "sampler.num_samples=2", "sampler.sub_batch=2", "saving.validation_images=2"]
    if preset.startswith("fashion"):
        settings += ["data.name=embedded_mnist"]  # of the same shape, and at hand
    assert _train(f"--config={preset}", f"--workdir={run}", *(f"--config.{setting}" for setting in settings)) == 0
    printed = capsys.readouterr().out
    for name in ("samples/final.png", "samples/process.png", "loss.png", "metrics.jsonl"):
        assert str(run / name) in printed
        assert (run / name).stat().st_size > 0
    assert main(["sample", str(run), "--num_samples=3", "--steps=1"]) == 0
    config = configuration.load(preset)
    with np.load(run / "samples" / f"{config.sampler.name}_1.npz") as file:
        arrays = dict(file)
    values = config.data.num_values
    assert arrays["images"].shape == (3, 1, 28, 28)
    assert arrays["images"].dtype == np.uint8
    assert arrays["images"].max() < values
    assert arrays["network_calls"] == (4 if config.sampler.guidance.g != 1 else 2)
    loaded = load_run(run)
    assert loaded.step == 2
    cond = chain_conditions(loaded.config, None, completion_of(loaded, None, None), 3)
    x = loaded.images(loaded.sampler(steps=1).sample(3, seeds=[0, 1, 2], **cond))
    assert np.array_equal(x.numpy(), arrays["images"])


@pytest.mark.parametrize(
    ("preset", "settings"),
    [("mnist", {"process__rates__gaussian_target__scale": 0.5}), ("mnist_absorbing", {}), ("mnist_ddpm", {})],
    ids=["gaussian_target", "absorbing", "gaussian"],
)
def test_binary_images_are_black_and_white(preset, settings, images, tmp_path):
    run = tmp_path / "run"
    settings = flags(preset, **images, **settings, data__num_values=2)
    assert _train(f"--config={preset}", f"--workdir={run}", *settings) == 0
    assert main(["sample", str(run), "--num_samples=4"]) == 0
    name = "ancestral_3"
    drawn = np.load(run / "samples" / f"{name}.npz")["images"]
    assert np.unique(drawn).tolist() == [0, 1]
    with Image.open(run / "samples" / f"{name}.png") as picture:
        sheet = np.asarray(picture.convert("L"))
    shown = [sheet[y + 2 : y + 58 : 7, x + 2 : x + 58 : 7] for y in (0, 58) for x in (0, 58)]
    assert np.array_equal(np.stack(shown), 255 * drawn[:, 0])


def test_what_a_run_leaves(images, tmp_path):
    run = tmp_path / "run"
    outcome = train(small("mnist", **images), run)
    assert (outcome.step, outcome.stopped_by, outcome.skipped) == (4, None, 0)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["step_0000002", "step_0000004"]
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["final.png", "process.png", "step_0000003.png"]
    records = MetricsFile.read(run / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4]
    assert [r["step"] for r in records if "validation_loss" in r] == [2, 4]
    assert {"loss", "grad_norm", "lr", "skipped", "images_per_second"} <= set(records[0])
    saved = configuration.from_json((run / "config.json").read_text())
    assert saved == small("mnist", **images)
    with Image.open(run / "samples" / "final.png") as picture:
        assert picture.size == (2 * (56 + 2) + 2, 2 * (56 + 2) + 2)
    with Image.open(run / "samples" / "process.png") as picture:
        assert picture.size == (5 * (56 + 2) + 2, 4 * (56 + 2) + 2)  # 3 steps make 5 states


@pytest.mark.parametrize(
    ("preset", "number", "changes"),
    [
        *((preset, number, {}) for preset in ENGINES for number in (signal.SIGTERM, signal.SIGINT)),
        ("mnist_iddpm", signal.SIGTERM, {"loss__times__name": "importance", "loss__times__importance__bins": 1}),
    ],
)
def test_a_stopped_run_continues_bit_for_bit(preset, number, changes, images, tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = [f"--config={preset}", *flags(preset, **images, **changes, training__steps=6)]
    assert _train(f"--workdir={whole}", *settings) == 0
    with monkeypatch.context() as patch:
        _stop_at(patch, 3, number)
        assert _train(f"--workdir={cut}", *settings) == 128 + number
    printed = capsys.readouterr().out
    assert f"stopped by {number.name} after step 3" in printed
    assert f"ctdiff train --workdir={cut} --resume" in printed
    assert not (cut / "samples" / "final.png").exists()
    assert _train(f"--workdir={cut}", "--resume") == 0
    assert f"resuming {cut} at step 3" in capsys.readouterr().out
    ours, expected = _contents(cut), _contents(whole)
    ours[3]["step_0000003.png"] = expected[3]["step_0000003.png"]  # a stop does not wait for pictures
    assert ours == expected


@pytest.mark.parametrize("preset", ["mnist", "mnist_ddpm"])
def test_a_finished_run_of_constant_rate_is_made_longer_bit_for_bit(preset, images, tmp_path, capsys):
    changes = {"optimizer__schedule__name": "constant", "loss__times__name": "importance", "loss__times__importance__bins": 1}
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    for run, steps in ((whole, 6), (longer, 3)):
        settings = flags(preset, **images, **changes, training__steps=steps)
        assert _train(f"--config={preset}", f"--workdir={run}", *settings) == 0
    assert _train(f"--workdir={longer}", "--resume", "--config.training.steps=6") == 0
    assert f"resuming {longer} at step 3" in capsys.readouterr().out
    ours, expected = _contents(longer), _contents(whole)
    end = {"step", "validation_loss"}  # measured once more, where the run would have ended
    assert [line for line in ours[1] if set(line) != end or line["step"] != 3] == expected[1]
    expected[3].pop("step_0000003.png")  # which was the final one
    assert (ours[0], ours[2], ours[3]) == (expected[0], expected[2], expected[3])
    state = [torch.load(run / "checkpoints" / "step_0000006" / "state.pt", weights_only=True) for run in (longer, whole)]
    assert str(state[0]) == str(state[1])
    assert RunFolder(longer).read_config().training.steps == 6
    assert _train(f"--workdir={longer}", "--resume", "--config.training.steps=4") == 2  # but not shorter
    assert "training.steps was 6, now 4" in capsys.readouterr().err


def test_a_run_whose_rate_falls_to_its_end_is_not_made_longer(run, capsys):
    assert _train(f"--workdir={run}", "--resume", "--config.training.steps=6") == 2
    message = capsys.readouterr().err
    assert "training.steps was 4, now 6 (steps can be added to a run if its optimizer.schedule.name is constant)" in message


def test_a_run_that_dies_continues_from_its_checkpoint(images, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = small("mnist", **images, training__steps=6)
    train(config, whole)
    record = trainer._Recorder.__call__

    def die(self, made, stop):
        record(self, made, stop)
        if made.step == 5:
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Recorder, "__call__", die)
        with pytest.raises(MemoryError):
            train(config, cut)
    assert [r["step"] for r in MetricsFile.read(cut / "metrics.jsonl")][-1] == 5
    train(config, cut)  # step 5 is made again, and recorded once
    assert _contents(cut) == _contents(whole)


def test_a_finished_run_only_draws_again(run, images, tmp_path):
    config = small("mnist", **images)
    before = _contents(run)
    (run / "samples" / "final.png").unlink()
    lines = []
    outcome = train(config, run, say=lines.append)
    assert "is finished (4 steps): only samples are drawn" in lines[0]
    files = [run / name for name in ("samples/final.png", "samples/process.png", "loss.png", "metrics.jsonl")]
    assert list(outcome.files.values()) == files
    assert _contents(run) == before
    again = tmp_path / "again"
    train(config, again)
    assert _contents(again) == before  # the same seed, the same everything


def test_sampling_settings_may_change_and_others_may_not(run, images, capsys):
    train(small("mnist", **images, sampler__num_samples=9), run)
    with Image.open(run / "samples" / "final.png") as picture:
        assert picture.size[0] == 3 * 58 + 2
    assert RunFolder(run).read_config().sampler.num_samples == 9
    changed = flags(**images, optimizer__lr=0.5, model__unet__blocks=(2, 1))
    assert _train("--config=mnist", f"--workdir={run}", *changed) == 2
    message = capsys.readouterr().err
    assert "has a run with another configuration" in message
    assert "optimizer.lr was 0.002, now 0.5" in message
    assert "model.unet.blocks was (1, 1), now (2, 1)" in message
    before = _contents(run)
    assert _train("--config=mnist", f"--workdir={run}", "--fresh", *changed) == 0
    assert _contents(run) != before
    assert RunFolder(run).read_config().optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        (
            "mnist_ddpm",
            {"sampler__grid__name": "respaced", "process__T": 30, "saving__preview_steps": 30},
            "steps = 30, expected at most T - 1",
        ),
        ("mnist_ddpm", {"process__t_max": 0.8}, "= 0.307 at t_max = 0.8, expected at most 0.1"),
        (
            "mnist_ddpm",
            {"process__schedule__name": "laplace"},
            "LaplaceSchedule has sigma = 0.207 at t_min = 0.001, expected at most 0.1",
        ),
        ("mnist", {"sampler__t_max": 0.0004}, "t_min = 0.0005, t_max = 0.0004: expected 0 <= t_min < t_max"),
    ],
)
def test_times_that_cannot_be_sampled_show_before_the_training(preset, settings, message, images, tmp_path, capsys):
    run = tmp_path / "run"
    assert _train(f"--config={preset}", f"--workdir={run}", *flags(preset, **images, **settings)) == 2
    assert message in capsys.readouterr().err
    assert [*run.rglob("*")] == []


def test_a_mistake_in_the_data_does_not_block_the_folder(images, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError):
        train(small("mnist", **{**images, "data__array__path": tmp_path / "absent.npz"}), run)
    assert train(small("mnist", **images), run).step == 4


def _everything(folder):
    """Every file of a folder with its content."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_deleted_before_everything_is_checked(run, images, tmp_path):
    before = _everything(run)
    for mistake in (
        f"data.array.path={tmp_path / 'absent.npz'}",
        "data.channels=3",
        "model.unet.blocks=(1, 1, 1)",
        "training.device=cuda:99",
        "sampler.name=ddim",
        "optimizer.adamw.betas=(0.9, 2.0)",
    ):
        settings = {word.partition("=")[0]: word for word in [*flags(**images), f"--config.{mistake}"]}.values()
        for fresh in ("--fresh", "--nofresh"):
            # Without a fresh start it is finished: no image is read, and where they lie stays as it was.
            status = 0 if "absent" in mistake and fresh == "--nofresh" else 2
            assert _train("--config=mnist", f"--workdir={run}", *settings, fresh) == status
            assert _everything(run) == before, mistake
    assert load_run(run).step == 4


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("at", ["build_batches", "__getitem__"])
def test_batches_that_cannot_be_made_leave_the_folder_as_it_was(at, fresh, images, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        _stop_at(patch, 3)
        train(small("mnist", **images), run)
    before = _everything(run)

    def fail(*arguments):
        raise ValueError("degrees = -5.0")

    monkeypatch.setattr(trainer.recipe if at == "build_batches" else Batches, at, fail)
    with pytest.raises(ValueError, match=r"degrees = -5\.0"):
        train(small("mnist", **images), run, fresh=fresh)
    assert _everything(run) == before


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "checkpoints/mine.pt", "samples/cat.png", "checkpoints/step_0000001/model.bin"]
)
def test_a_folder_of_something_else_is_left_alone(name, fresh, images, tmp_path):
    foreign = tmp_path / "foreign"
    (foreign / name).parent.mkdir(parents=True, exist_ok=True)
    (foreign / name).write_text('{"architectures": ["mine"]}')
    before = _everything(foreign)
    with pytest.raises(RunError, match=rf"has {name.split('/')[0]}, but no configuration of a run .*Nothing was changed"):
        train(small("mnist", **images), foreign, fresh=fresh)
    assert _everything(foreign) == before


def test_a_fresh_start_deletes_only_what_was_made_by_us(run, images):
    sample_run(run, num_samples=2)
    kept = ["notes.txt", "samples/cat.png", "samples/final.txt", "checkpoints/mine.pt", "checkpoints/step_best/model.pt"]
    left_over = [".writing_config.json_1", "checkpoints/.writing_step_0000003_1/state.pt", "samples/.writing_a.npz_1"]
    for name in (*kept, *left_over):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(name)
    train(small("mnist", **images, training__steps=2, saving__preview_every=9), run, fresh=True)
    assert all((run / name).read_text() == name for name in kept)
    ours = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} - set(kept)
    checkpoint = {f"checkpoints/step_0000002/{name}" for name in ("model.safetensors", "ema.safetensors", "state.pt")}
    assert ours == {
        "config.json",
        "data.json",
        "metrics.jsonl",
        "loss.png",
        "samples/final.png",
        "samples/process.png",
        *checkpoint,
    }


def test_one_training_at_a_time(images, tmp_path, capsys):
    run = tmp_path / "run"
    with RunFolder(run).locked():
        assert _train("--config=mnist", f"--workdir={run}", *flags(**images)) == 2
        assert f"another training uses {run}" in capsys.readouterr().err
        assert list(run.iterdir()) == []
    assert train(small("mnist", **images), run).step == 4


def test_a_start_deletes_what_a_killed_process_left_half_written(images, tmp_path):
    run = tmp_path / "run"
    train(small("mnist", **images, training__steps=1), run)
    left = [folder / ".writing_picture.png" for folder in (run, run / "samples", run / "checkpoints")]
    for path in left:
        path.write_bytes(b"half")
    train(small("mnist", **images, training__steps=1), run)
    assert not [path for path in left if path.exists()]


def test_a_signal_after_the_step_was_saved_is_heard_a_step_later(images, tmp_path, monkeypatch):
    def save(self, step, stopping):
        plain(self, step, stopping)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    plain = trainer._Recorder.save
    monkeypatch.setattr(trainer._Recorder, "save", save)
    outcome = train(small("mnist", **images, training__steps=6, saving__checkpoint_every=100), tmp_path / "run")
    assert (outcome.step, outcome.stopped_by) == (3, signal.SIGTERM)
    assert load_run(tmp_path / "run").step == 3


def test_an_automatic_precision_is_that_of_the_run(images, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(precision, "_CPU", tmp_path / "cpuinfo")
    config = small("mnist", **images, training__precision="auto")
    (tmp_path / "cpuinfo").write_text("amx_bf16")
    with monkeypatch.context() as patch:
        _stop_at(patch, 1)
        train(config, run)
    (tmp_path / "cpuinfo").write_text("another machine")
    assert train(config, run).step == 4
    assert RunFolder(run).read_config().training.precision == "bfloat16"
    with pytest.raises(RunError, match=r"training\.precision was 'bfloat16', now 'float32'"):
        train(small("mnist", **images), run)
    train(config, run, fresh=True)
    assert RunFolder(run).read_config().training.precision == "float32"


def test_devices_that_are_not_there(images, tmp_path, capsys):
    run = tmp_path / "run"
    for arguments, message in (
        (["--config.training.device=gpu"], "config.training.device = 'gpu', expected"),
        (["--config.training.device=cuda:99"], "config.training.device = 'cuda:99' cannot be used on this machine, expected"),
    ):
        assert _train("--config=mnist", f"--workdir={run}", *flags(**images), *arguments) == 2
        assert message in capsys.readouterr().err
    assert not run.exists()
    train(small("mnist", **images), run)
    assert main(["sample", str(run), "--device=cuda:99"]) == 2
    assert "device = 'cuda:99' cannot be used on this machine, expected" in capsys.readouterr().err
    saved = RunFolder(run).config.read_text()
    RunFolder(run).config.write_text(saved.replace('"device": "cpu"', '"device": "cuda:99"'))
    assert load_run(run).step == 4  # where a run was trained does not matter


def test_targets_are_tried_before_anything_is_drawn(run, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.npz").mkdir()
    monkeypatch.setattr(Run, "sampler", _without_drawing(Run.sampler))
    for out in (tmp_path / "file" / "out", tmp_path / "taken"):
        assert main(["sample", str(run), f"--out={out}"]) == 2
        assert f"out = '{out}' cannot be written" in capsys.readouterr().err


def _without_drawing(make):
    def sampler(*arguments):
        made = make(*arguments)
        made.trajectory = pytest.fail
        return made

    return sampler


@pytest.mark.parametrize("preset", ENGINES)
def test_sample(preset, images, tmp_path, capsys):
    run = tmp_path / "run"
    train(small(preset, **images, optimizer__lr=0.1), run)
    capsys.readouterr()
    assert main(["sample", str(run), "--seeds=0-4,9", "--steps", "2", f"--out={tmp_path / 'many'}"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "many.png"), str(tmp_path / "many.npz")]
    assert main(["sample", str(run), "--seeds=9,2", "--steps", "2", f"--out={tmp_path / 'few'}"]) == 0
    many, few = np.load(tmp_path / "many.npz"), np.load(tmp_path / "few.npz")
    assert many["seeds"].tolist() == [0, 1, 2, 3, 4, 9]
    assert np.array_equal(many["images"][[5, 2]], few["images"])  # a seed is a sample, in any company
    assert many["images"].max() < 8
    other = "ddim" if preset == "mnist_ddpm" else "tau_leaping"
    assert main(["sample", str(run), f"--sampler={other}", "--num_samples=2", "--config.sampler.grid.name=cosine"]) == 0
    assert (run / "samples" / f"{other}_3_grid.name=cosine.npz").exists()
    typed = sample_run(run, seeds="9,2", steps=2, out=tmp_path / "typed").files[1]
    assert np.array_equal(np.load(typed)["images"], few["images"])
    last = sample_run(run, num_samples=2, ema=False, out=tmp_path / "last").files[1]
    first = sample_run(run, num_samples=2, checkpoint=2, out=tmp_path / "first").files[1]
    assert not np.array_equal(np.load(last)["images"], np.load(first)["images"])
    assert (np.load(first)["step"], np.load(last)["step"]) == (2, 4)


def test_a_sampler_and_its_settings_are_chosen_together(images, tmp_path, capsys):
    """Before the run and behind it, in any order, and by `--sampler`: the images are those of the sampler made by hand."""
    run, chosen, eta = tmp_path / "run", "--config.sampler.name=ddim", "--config.sampler.ddim.eta=0.5"
    train(small("mnist_ddpm", **images, optimizer__lr=0.1), run)
    loaded = load_run(run)
    grid = loaded.sampler().grid
    by_hand, plain = (DDIM(loaded.denoiser, grid, eta=value, clip=1.0).sample(3, seeds=[3, 4, 5]) for value in (0.5, 0.0))
    assert not torch.equal(by_hand, plain)
    for i, arguments in enumerate(([run, eta, chosen], [chosen, eta, run], [eta, run, chosen], [run, eta, "--sampler=ddim"])):
        assert main(["sample", *map(str, arguments), "--seeds=3-5", f"--out={tmp_path / str(i)}"]) == 0
        assert np.array_equal(np.load(tmp_path / f"{i}.npz")["images"], loaded.images(by_hand).numpy())
    capsys.readouterr()
    for arguments in ([run, eta], [run, eta, "--sampler=heun"], [run, eta, "--config.sampler.name=ancestral"]):
        assert main(["sample", *map(str, arguments)]) == 2
        message = r"ctdiff: config.sampler.ddim.eta = 0.5 cannot act: config.sampler.name = '\w+', expected 'ddim'\n"
        assert re.fullmatch(message, capsys.readouterr().err)


def test_labels(images, tmp_path, capsys):
    run = tmp_path / "run"
    train(small("mnist", **images, model__num_classes=10), run)
    with Image.open(run / "samples" / "final.png") as picture:
        assert picture.size[0] == 10 * 58 + 2  # a column for each class
    assert main(["sample", str(run), "--num_samples=5", "--labels=3-4", "--gif", f"--out={tmp_path / 'out'}"]) == 0
    arrays = np.load(tmp_path / "out.npz")
    assert arrays["labels"].tolist() == [3, 4, 3, 4, 3]
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (3 * 58 + 2, 2 * 58 + 2)  # a row for each class, the second shorter
        sheet = np.asarray(picture)[2::58, 2::58, 0]  # upper left pixels
    expected = (arrays["images"][[0, 2, 4, 1, 3], 0, 0, 0].astype(float) * 255 / 7).round()
    assert sheet[:2, :3].flatten().tolist()[:5] == expected.tolist()
    assert sheet[1, 2] == 255
    with Image.open(tmp_path / "out.gif") as animation, Image.open(tmp_path / "out.png") as last:
        animation.seek(animation.n_frames - 1)
        assert np.array_equal(np.asarray(animation.convert("RGB")), np.asarray(last.convert("RGB"))), "rows of labels too"
    assert main(["sample", str(run), "--num_samples=4", "--label=3", f"--out={tmp_path / 'one'}"]) == 0
    assert np.load(tmp_path / "one.npz")["labels"].tolist() == [3, 3, 3, 3]
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (2 * 58 + 2, 2 * 58 + 2)
    for arguments, message in (
        (["--labels=11"], "label 11, expected 0 .. 9, or 10 for no class"),
        (["--label=-1"], "label"),
        (["--label=1", "--labels=0-3"], "--label=1 and --labels=0-3: give one of them"),
    ):
        assert main(["sample", str(run), *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("preset", [*ENGINES, "mnist_absorbing"])
def test_an_animation_of_the_reverse_process(preset, images, tmp_path, capsys):
    run = tmp_path / "run"
    config = small(preset, **images)
    train(config, run)
    capsys.readouterr()
    assert main(["sample", str(run), "--gif", "--num_samples=4", f"--out={tmp_path / 'out'}"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / f"out.{suffix}") for suffix in ("png", "npz", "gif")]
    with Image.open(tmp_path / "out.gif") as animation, Image.open(tmp_path / "out.png") as last:
        # Before the first of 3 steps, after each, and the clean images, which may equal those before.
        assert animation.n_frames in (4, 5)
        assert animation.info["loop"] == 0
        first = np.asarray(animation.convert("RGB"))
        animation.seek(animation.n_frames - 1)
        assert animation.info["duration"] >= 2000
        assert animation.size == last.size
        shown, clean = np.asarray(animation.convert("RGB")).astype(int), np.asarray(last.convert("RGB")).astype(int)
    assert not np.array_equal(first, clean)
    assert abs(shown - clean).max() <= (16 if preset == "mnist_absorbing" else 0)
    paths = sample_run(run, num_samples=2, steps=60, gif=True).files
    assert paths[2] == run / "samples" / "ancestral_60.gif"
    with Image.open(paths[2]) as animation:
        assert animation.n_frames <= 50
    train(config, run, fresh=True)
    assert not paths[2].exists()


def test_mistakes_in_sampling(run, tmp_path, capsys):
    for arguments, message in (
        ([], "the folder of a run or the name of a model is missing (see ctdiff sample --help)"),
        ([tmp_path], "is not a run"),
        ([run, "more"], "unexpected 'more'"),
        (
            [run, "--sampler=ddim"],
            "config.sampler.name = 'ddim', expected one of ancestral, euler, midpoint_tau_leaping",
        ),
        ([run, "--steps=0"], "steps"),
        ([run, "--seeds=5-2"], "seeds = '5-2', expected"),
        ([run, "--seeds=0-3", "--num_samples=3"], "num_samples = 3 and 4 seeds"),
        ([run, "--checkpoint=3"], "has no checkpoint 3, expected one of [2, 4]"),
        ([run, "--labels=1"], "label 1, expected none"),
        (
            [run, "--config.training.steps=3"],
            "config.training.steps cannot be changed: the run is trained. Expected a key of config.sampler",
        ),
        ([run, "--config.sampler.grid.name=square"], "expected one of cosine, custom, quadratic, uniform"),
        ([run, "--nme=3"], "nme"),
    ):
        assert main(["sample", *map(str, arguments)]) == 2, arguments
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "--config is missing, expected one of cifar10_ddpm, "),
        (["train", "--config"], "Missing value for flag --config"),
        (["train", "--config", "mnits"], "Did you mean mnist?"),
        (
            ["train", "--config=mnist", "--config.model.name=vit"],
            "config.model.name = 'vit', expected one of diffit, dit, latent_diffit, ssm, unet, uvit",
        ),
        (
            ["train", "--config=mnist", "--config.model.nme=unet"],
            "config.model.nme is not a key, expected one of name, num_classes, ",
        ),
        (
            ["train", "--config=mnist", "--config.training.steps=0"],
            "config.training.steps = 0, expected an integer of at least 1",
        ),
        (["train", "--config=mnist", "--wordir=x"], "'wordir'. Did you mean: workdir ?"),
        (["train", "--confg=mnist"], "'confg'. Did you mean: config ?"),
        (["train", "--config=mnist", "--config.training.steps"], "Missing value for flag --config.training.steps"),
        (["train", "--config=mnist", "--config.data.flip", "true"], "unexpected 'true'"),
        (["train", "--config=mnist", "--config.model.unet.widht=3"], "Did you mean widths?"),
        (["train", "--config=mnist", "more"], "unexpected 'more'"),
        (
            ["trian"],
            "'trian' is not a command, expected one of train, sample, evaluate, compare, models, verify, push, pull, ",
        ),
    ],
)
def test_mistakes_in_training(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())  # nothing was started


def test_folders_that_cannot_be_used(images, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    config = small("mnist", **images)
    with pytest.raises(FolderError, match="cannot be written"):
        train(config, tmp_path / "file" / "run")
    with pytest.raises(RunError, match="is not a run"):
        train(config, tmp_path / "new", resume=True)
    with pytest.raises(RunError, match="expected one of them or none"):
        train(config, tmp_path / "new", resume=True, fresh=True)
    with pytest.raises(RunError, match="is not a run"):
        load_run(tmp_path / "new")
    assert _train(f"--workdir={tmp_path / 'new'}", "--resume") == 2
    assert "is not a run" in capsys.readouterr().err


def test_broken_checkpoints(run, images, capsys):
    config = small("mnist", **images)
    newest = run / "checkpoints" / "step_0000004" / "ema.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match=re.escape(str(newest))):
        assert load_run(run).step == 2
    with pytest.raises(CheckpointError, match=re.escape(str(newest))):
        load_run(run, checkpoint=4)
    lines = []
    with pytest.warns(UserWarning, match=f"{re.escape(str(newest))}.*; an older checkpoint is used"):
        assert train(config, run, say=lines.append).step == 4
    assert "resuming" in lines[0]
    assert load_run(run).step == 4
    for path in (run / "checkpoints").glob("*/*"):
        path.write_bytes(b"")
    assert _train("--config=mnist", f"--workdir={run}", *flags(**images)) == 2
    assert "no checkpoint can be read" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        load_run(run)


def test_a_diverging_training_stops_with_a_message(images, tmp_path, capsys, monkeypatch):
    from discrete_diffusion import CrossEntropy

    monkeypatch.setattr(
        CrossEntropy, "evaluate", lambda self, posterior, sample: posterior.log_prob(sample.x_0).flatten(1).sum(-1) * torch.nan
    )
    assert _train("--config=mnist", f"--workdir={tmp_path / 'run'}", *flags(**images, training__steps=20)) == 2
    assert "10 steps in a row, up to step 10, had no finite gradient" in capsys.readouterr().err
    assert [r["loss"] for r in MetricsFile.read(tmp_path / "run" / "metrics.jsonl") if "loss" in r] == [None] * 10


def test_dry_run_needs_neither_data_nor_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _train("--config=mnist", "--dry_run", "--config.data.name=idx", "--config.data.idx.path=absent") == 0
    printed = capsys.readouterr().out
    config, rest = json.JSONDecoder().raw_decode(printed)
    assert config["data"]["idx"]["path"] == "absent"
    for word in ("parameters", "multiply-accumulates", "estimated memory"):
        assert word in printed[rest:]
    assert not list(tmp_path.iterdir())


def test_numbers():
    assert numbers("0-3,7, 9-9") == [0, 1, 2, 3, 7, 9]
    for text in ("", "a", "-1", "3-", "4-2", "1,,2"):
        with pytest.raises(ValueError, match="expected non-negative integers"):
            numbers(text)


def test_memory_settings_are_harmless(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
    monkeypatch.undo()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert memory.keep_freed_memory() is False
