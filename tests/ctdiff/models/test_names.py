"""The name of a model is used in place of the folder of a run: in Python, by every command, and in the shell."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ctdiff import load_run, model_folder, pretrained, sample_run
from ctdiff.cli import main
from ctdiff.cli.sample import VERB
from ctdiff.comparison import compare_runs
from ctdiff.evaluation import evaluate_run, repeat
from ctdiff.model_folder import ModelError
from ctdiff.runs import RunError

from ..tiny_runs import random_classifier
from .test_pull import contents

DATA = "--config.data.array.path=images_0_60.npz"


@pytest.fixture
def package(copy, tmp_path, monkeypatch):
    """The model in the folder of the models of the package; the working directory has no model."""
    (tmp_path / "package").mkdir()
    shutil.move(copy, tmp_path / "package" / "tiny")
    (tmp_path / "package" / "notes").mkdir()
    monkeypatch.setattr(model_folder, "MODELS", tmp_path / "package")
    return tmp_path / "package" / "tiny"


def test_a_model_is_found_by_listing_folders(package, capsys):
    assert model_folder.model_names() == ["tiny"]
    run = pretrained("tiny")
    assert (run.path, run.weights, run.step) == (Path("runs/tiny"), package / "model.safetensors", 2)
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "parameters", "FID", "process"]
    assert lines[1].split()[:2] == ["tiny", f"{run.folder.card.architecture.parameters:,}"]
    fid = run.folder.card.main("FID")
    assert f" {fid.value:.3f} +- {fid.standard_error:.3f} " in lines[1]
    assert main(["models", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    assert found["FID"] == fid.value
    assert VERB.suggested()[0].words() == ["tiny"]
    assert main(["completion", "bash"]) == 0
    assert re.search(r"'sample '\*\).*words=tiny paths=-d", capsys.readouterr().out)


def test_a_name_is_the_model_and_a_path_is_the_run(package, tiny):
    shutil.copytree(tiny.run, "tiny")
    assert load_run("tiny").weights == package / "model.safetensors"
    for path in ("./tiny", Path("tiny"), str(Path("tiny").absolute())):
        assert load_run(path).weights.name == "ema.safetensors"
    with pytest.raises(ModelError, match="is not a model, expected one of tiny, or a folder"):
        pretrained("./tiny")


def test_a_wrong_name_lists_similar_names(package):
    for name in ("runs/tin", "runs/mine"):
        Path(name).mkdir(parents=True)
    with pytest.raises(RunError, match=r"^tinny is not a run and not a model, .*Did you mean tiny or runs/tin\?$"):
        load_run("tinny")
    with pytest.raises(RunError, match=r"Did you mean runs/mine\?$"):
        load_run("mine")
    with pytest.raises(RunError, match=r"`ctdiff models`$"):
        load_run("something-else")


def test_a_model_has_one_checkpoint(package):
    assert load_run("tiny", checkpoint=2).step == 2
    with pytest.raises(ModelError, match="has no checkpoint 4, expected 2"):
        load_run("tiny", checkpoint=4)
    with pytest.raises(ModelError, match="ema = False, expected True"):
        load_run("tiny", ema=False)


def test_commands_take_a_model_and_do_not_change_it(package, capsys):
    before = contents(package)
    assert main(["sample", "tiny", "--label=class 3"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "runs/tiny/samples/ancestral_2_labels=3.png"
    arrays = np.load("runs/tiny/samples/ancestral_2_labels=3.npz")
    run = pretrained("tiny")
    expected = run.images(run.sampler().sample(4, seeds=range(4), y=torch.full((4,), 3)))
    assert np.array_equal(arrays["images"], expected.numpy())
    settings = {"num_samples": 12, "likelihood_images": 2, "replicates": 10, "overrides": [DATA]}
    report = evaluate_run("tiny", random_classifier(), **settings)
    assert report.checkpoints[0].metrics["FID"].value == run.folder.card.main("FID").value
    assert report.settings.checkpoints[0].weights == run.folder.card.files.weights
    file = Path("runs/tiny/evaluation.json")
    assert file.is_file()
    assert evaluate_run("tiny", random_classifier(), **settings) == report
    with pytest.raises(RunError, match="has no checkpoint 4"):
        evaluate_run("tiny", random_classifier(), checkpoints="4", **settings)
    assert contents(package) == before
    assert not Path("runs/tiny/config.json").exists()


def test_files_of_a_run_with_the_name_of_a_model_are_kept(package, tiny):
    shutil.copytree(tiny.run, "runs/tiny")
    assert pretrained("tiny").path == Path("runs/tiny-model")
    assert load_run("runs/tiny").path == Path("runs/tiny")


def test_images_of_another_training_are_refused(package):
    rng = np.random.default_rng(1)
    np.savez("images_0_60.npz", images=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), labels=np.arange(60) % 10)
    with pytest.raises(RunError, match=r"was trained on other images: train was .*--config.data.array.path=\.\.\."):
        evaluate_run("tiny", random_classifier(), num_samples=12, likelihood_images=0, replicates=10, overrides=[DATA])


def test_a_report_of_a_model_is_repeated(package):
    evaluate_run("tiny", random_classifier(), num_samples=12, likelihood_images=0, replicates=10)
    assert repeat("runs/tiny/evaluation.json", random_classifier()) == []


def test_a_model_is_compared_with_a_run(package, tiny):
    settings = {"calls": "3", "samplers": ["ancestral"], "num_samples": 12, "likelihood_images": 0, "replicates": 10}
    found = compare_runs(["tiny", str(tiny.run)], random_classifier(), out="both", **settings)
    assert [(cell.run, cell.network_calls) for cell in found.cells] == [("tiny", 3), ("run", 3)]
    assert found.cells[0].metrics["FID"].value == tiny.card.main("FID").value
    assert [card.path for card in found.runs] == [str(package), str(tiny.run)], "the command of the page can be run"


def test_a_folder_of_a_model_in_place_of_a_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = sample_run(str(tiny.model), num_samples=2)
    assert [path.as_posix() for path in drawn.files] == [
        "runs/tiny/samples/ancestral_2.png",
        "runs/tiny/samples/ancestral_2.npz",
    ]
