"""Where things lie: homes, other folders, names of files, consoles, and projects with folders named like ours."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctdiff import config as configuration
from ctdiff import data, load_run, sample_run, train
from ctdiff.cli.main import main
from ctdiff.comparison import compare_runs
from ctdiff.evaluation import build_extractor
from ctdiff.evaluation.evaluator import run_splits
from ctdiff.evaluation.report import evaluation_file
from ctdiff.runs import RunError, RunFolder
from ctdiff.sampling import numbers, spans

from .small import flags, small

ROOT = Path(__file__).parents[2]


def write_images(path: Path, seed: int = 0) -> Path:
    np.save(path, np.random.default_rng(seed).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    return path


def settings(path, **changes):
    return {
        "data__name": "array",
        "data__array__path": str(path),
        "data__fraction": 1.0,
        "saving__preview_every": 50,
        **changes,
    }


def test_a_tilde_is_the_home(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_images(tmp_path / "images.npy")
    (tmp_path / "mine.py").write_text("from configs import mnist\n\ndef get_config():\n    return mnist.get_config()\n")
    given = flags(**settings("~/images.npy", training__steps=1))
    assert main(["train", "--config=~/mine.py", "--workdir=~/run", *given]) == 0
    assert (tmp_path / "run" / "config.json").exists()
    assert main(["sample", "~/run", "--num_samples=2", "--out=~/pictures/"]) == 0
    assert (tmp_path / "pictures" / "ancestral_3.png").exists()
    assert evaluation_file("~/run", None) == tmp_path / "run" / "evaluation.json"
    assert evaluation_file("~/run", "~/other.json") == tmp_path / "other.json"
    assert load_run("~/run").path == tmp_path / "run"
    assert not Path("~").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "~nosuchuser/run"],
        ["train", "--config=~nosuchuser/x.py"],
        ["train", "--config=mnist", "--workdir=~nosuchuser/run"],
        ["import-config", "~nosuchuser/x.py"],
    ],
)
def test_the_home_of_a_user_that_there_is_not(arguments, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"ctdiff: ~nosuchuser/\S+: ~nosuchuser is not a known home folder, expected an absolute path\n", err)


def test_a_tilde_is_the_home_from_python(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_images(tmp_path / "images.npy")
    (tmp_path / "photos").mkdir()
    for i in range(2):
        Image.fromarray(np.full((8, 8), 100 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    assert len(data.array_file("~/images.npy").train) == 36
    assert len(data.image_folder("~/photos").train) == 1
    for read in (data.idx_folder, data.cifar10):
        with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path)):
            read("~/absent")


def test_where_the_images_lie_is_not_what_a_run_is(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    write_images(here / "images.npy")
    constant = settings("images.npy", optimizer__schedule__name="constant", training__steps=2)
    train(small("mnist", **constant), "run")
    monkeypatch.chdir(there)
    run = load_run(here / "run")
    assert run.config.data.array.path == str(here / "images.npy")
    assert len(run_splits(run.config, None, RunFolder(run.path)).train) == 36
    shutil.move(here / "images.npy", there / "moved.npy")
    longer = {**constant, "training__steps": 4}
    assert train(small("mnist", **{**longer, "data__array__path": "moved.npy"}), here / "run").step == 4
    write_images(there / "others.npy", seed=1)
    others = small("mnist", **{**longer, "data__array__path": "others.npy", "training__steps": 6})
    with pytest.raises(RunError, match=r"run was trained on other images: train was .*give --config\.data\.array\.path=\.\.\."):
        train(others, here / "run")
    assert load_run(here / "run").step == 4
    run.config.data.array.path = str(there / "others.npy")
    with pytest.raises(RunError, match="was trained on other images"):
        run_splits(run.config, None, RunFolder(run.path))
    (here / "run" / "data.json").write_text("{")
    with pytest.raises(RunError, match=r"data\.json is damaged"):
        run_splits(run.config, None, RunFolder(run.path))
    configuration.override(run.config, [f"--config.data.array.path={there / 'moved.npy'}"], ("sampler", "data"))
    with pytest.raises(configuration.ConfigError, match=r"config\.data\.fraction"):
        configuration.override(run.config, ["--config.data.fraction=0.5"], ("sampler", "data"))


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """A run with classes."""
    folder = tmp_path_factory.mktemp("guided")
    train(small("mnist_guided", training__steps=1, saving__preview_every=50), folder / "run")
    return folder / "run"


def test_samples_of_other_settings_have_other_names(guided, tmp_path):
    asked = [
        {},
        {"seeds": [7, 8, 9]},
        {"seeds": [7, 8, 10]},
        {"labels": [3]},
        {"labels": [3, 4]},
        {"checkpoint": 1},
        {"ema": False},
        {"overrides": ["--config.sampler.guidance.g=3.0"]},
        {"overrides": ["--config.sampler.guidance.g=5.0"]},
        {"steps": 4},
    ]
    names = [sample_run(guided, **{"num_samples": None if "seeds" in one else 3, **one}).files[0].name for one in asked]
    assert len(set(names)) == len(asked), names
    assert names[1] == f"{names[0].removesuffix('.png')}_seeds=7-9.png"
    assert names[7].endswith("_guidance.g=3.0.png")
    many = [f"--config.sampler.{key}={value}" for key, value in guided_settings().items()]
    long = sample_run(guided, num_samples=2, seeds=[2**40, 2**41 + 1], overrides=many).files[0]
    assert len(long.name) < 140
    for out, expected in (
        ("pic.png", "pic.png"),
        ("pic", "pic.png"),
        ("v1.2", "v1.2.png"),
        ("some/", f"some/{names[0]}"),
        ("pic.npz", "pic.png"),
    ):
        assert sample_run(guided, num_samples=3, out=f"{tmp_path}/{out}").files[0] == tmp_path / expected
    (tmp_path / "there").mkdir()
    assert sample_run(guided, num_samples=3, out=tmp_path / "there").files[0].parent == tmp_path / "there"


def guided_settings():
    return {
        "guidance.g": 2.5,
        "ddim.eta": 0.25,
        "grid.name": "quadratic",
        "name": "ddim",
        "guidance.name": "interval",
        "guidance.interval.low": 0.125,
        "guidance.interval.high": 0.875,
        "t_min": 0.015625,
    }


def test_spans_are_read_back():
    for integers in ([0, 1, 2, 5], [7], [3, 2], [4, 0, 1, 9]):
        assert numbers(spans(integers)) == integers


def test_a_console_that_cannot_show_a_path(tmp_path, monkeypatch):
    """A finished training ends well, and the run can be taken up."""
    path, images = tmp_path / "läufe-数字", write_images(tmp_path / "bilder-é.npy")
    given = flags(**settings(images, training__steps=1))
    for _ in range(2):
        console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", console)
        assert main(["train", "--config=mnist", f"--workdir={path}", *given]) == 0
        assert rb"l\xe4ufe-\u6570" in console.buffer.getvalue()
        assert main(["sample", str(path), "--num_samples=2"]) == 0
        monkeypatch.undo()


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a folder of a project, which is first on the path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_hidden_package_is_one_clear_error(tmp_path):
    (tmp_path / "backbones").mkdir()
    (tmp_path / "backbones" / "__init__.py").write_text("")
    done = python("import ctdiff", tmp_path)
    expected = (
        f"ImportError: the package backbones of ctdiff is in {ROOT / 'backbones'}, but Python finds {tmp_path / 'backbones'}"
    )
    assert expected in done.stderr.splitlines()[-1]


def test_classes_by_name(tmp_path, capsys):
    """A folder of classes: `--label` takes their names, and says which there are."""
    for number, name in enumerate(("cat", "dog", "emu")):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.random.default_rng(100 * number + i).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "animals" / name / f"{i}.png")
    given = flags(
        data__name="folder",
        data__folder__path=tmp_path / "animals",
        data__fraction=1.0,
        model__num_classes=3,
        training__steps=1,
    )
    run = tmp_path / "run"
    assert main(["train", "--config=mnist", f"--workdir={run}", *given, "--config.data.folder.test_fraction=0.4"]) == 0
    assert "0 cat, 1 dog, 2 emu" in capsys.readouterr().out
    for label, labels in (
        (["--label=dog"], [1, 1, 1]),
        (["--label=2"], [2, 2, 2]),
        (["--labels=emu,cat"], [2, 0, 2]),
        (["--labels=0-1"], [0, 1, 0]),
    ):
        assert main(["sample", str(run), "--num_samples=3", f"--out={tmp_path / 'out'}", *label]) == 0
        assert np.load(tmp_path / "out.npz")["labels"].tolist() == labels
    capsys.readouterr()
    for label, message in (
        ("dgo", "label 'dgo', expected a number or one of cat, dog, emu. Did you mean dog?"),
        ("7", "label 7, expected 0 .. 2, or 3 for no class"),
        ("-1", "label '-1', expected a number or one of cat, dog, emu"),
    ):
        assert main(["sample", str(run), f"--label={label}"]) == 2
        assert message in capsys.readouterr().err


def test_images_that_the_extractor_cannot_read(tmp_path, capsys):
    """8 x 8 pixels are nothing for a network of 28 x 28: what needs none is measured, and the reason is shown."""
    images = write_images(tmp_path / "images.npy")
    given = flags(**settings(images, training__steps=1, data__array__test_fraction=0.4))
    run = tmp_path / "run"
    assert main(["train", "--config=mnist", f"--workdir={run}", *given]) == 0
    capsys.readouterr()
    asked = ["evaluate", str(run), "--num_samples=13", "--likelihood_images=2", "--draws=4"]
    for _ in range(2):  # the second time the file is there
        assert main(asked) == 0
        out = capsys.readouterr().out
        assert "only metrics without an extractor were measured: mnist-cnn cannot read the images" in out
        assert "expected (B, 1, 28, 28)" in out
    report = json.loads((run / "evaluation.json").read_text())
    metrics = report["checkpoints"][0]["metrics"]
    assert set(metrics) == {"nearer-to-train", "copies", "bits/dim"}
    assert metrics["copies"]["floor"]["n_fake"] == 13
    assert set(report["noise"]) == set(metrics)
    assert main(["evaluate", f"--repeat={run / 'evaluation.json'}"]) == 0
    with pytest.raises(ValueError, match="mnist-cnn cannot read the images"):
        compare_runs([run], build_extractor("mnist-cnn"), calls=[4], out=tmp_path / "compared")
