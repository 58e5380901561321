"""A run becomes a model: rounded weights, and numbers that other code finds again."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from PIL import Image

from ctdiff import config as configuration
from ctdiff import load_run, pretrained, recipe
from ctdiff.card import card_text, read_card
from ctdiff.evaluation import draw, run_bits_per_dim
from ctdiff.files import FolderError, locked
from ctdiff.hashes import file_hash
from ctdiff.metrics import Reference
from ctdiff.model_folder import ModelError
from ctdiff.models import measuring
from ctdiff.training.checkpoints import read_weights

from ..tiny_runs import random_classifier
from .tiny_models import NAMES, push


def images_of(tiny):
    """The model with the path of its images on this machine."""
    run = pretrained(tiny.model)
    run.config.data.array.path = str(tiny.model.parent / "images_0_60.npz")
    return run


def test_the_folder_of_a_model(tiny):
    names = ["card.yaml", "classes.json", "config.json", "grid.png", "model.safetensors"]
    assert sorted(path.name for path in tiny.model.iterdir()) == names
    assert read_card(tiny.model / "card.yaml") == tiny.card
    assert tiny.card.files.config == file_hash(tiny.model / "config.json")
    assert tiny.card.files.weights == file_hash(tiny.model / "model.safetensors")
    assert tiny.card.files.classes == file_hash(tiny.model / "classes.json")
    with Image.open(tiny.model / "grid.png") as picture:
        assert picture.size == (10 * (56 + 2) + 2, (56 + 2) + 2)  # a column for each class
    config = json.loads((tiny.model / "config.json").read_text())
    assert config["sampler"]["steps"] == 2
    assert config["data"]["array"]["path"] == "images_0_60.npz", "no folder of this machine"
    assert str(tiny.run.parent) not in (tiny.model / "card.yaml").read_text()


def test_weights_are_averaged_weights_in_half_the_bytes(tiny):
    average = read_weights(tiny.run / "checkpoints" / "step_0000002" / "ema.safetensors")
    stored = read_weights(tiny.model / "model.safetensors")
    network = recipe.build_network(load_run(tiny.run).config)
    parameters = dict(network.named_parameters())
    assert len(parameters) > 20
    assert stored.keys() == average.keys()
    for name, value in average.items():
        assert torch.equal(stored[name], value.bfloat16() if name in parameters else value), name
    loaded = dict(pretrained(tiny.model).denoiser.network.named_parameters())
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert all(torch.equal(value, average[name].bfloat16().float()) for name, value in loaded.items())
    assert tiny.card.architecture.parameters == sum(value.numel() for value in parameters.values())


def test_what_the_card_says_of_the_training(tiny):
    training = tiny.card.training
    assert (training.steps, training.batch_size, training.images_seen) == (2, 4, 8)
    records = [json.loads(line) for line in (tiny.run / "metrics.jsonl").read_text().splitlines()]
    rates = [record["images_per_second"] for record in records if "loss" in record]
    assert len(rates) == 2
    assert training.seconds == pytest.approx(4 / rates[0] + 4 / rates[1], abs=5e-4)
    assert training.commit == "abc1234"
    command = shlex.split(training.command)
    assert (command[:2], command[-1]) == (["ctdiff", "train"], "--workdir=runs/tiny-again")
    config = configuration.load(command[2].removeprefix("--config="), command[3:-1])
    assert configuration.differences(config, load_run(tiny.run).config, configuration.FREE_SECTIONS) == {}
    assert tiny.card.limits == ["It is tiny", "nothing was tested."]
    assert tiny.card.data.images.train.count == 36
    record = json.loads((tiny.run / "data.json").read_text())
    assert tiny.card.data.images.train.sha256 == record["train"]["sha256"]
    assert tiny.card.architecture.parameterisation == "epsilon"


def test_numbers_are_those_of_the_rounded_weights(tiny):
    run = images_of(tiny)
    splits = recipe.build_data(run.config)
    y = torch.arange(12) % 10
    samples = run.images(run.sampler(2).sample(12, seeds=range(12), y=y))
    rows = Reference(random_classifier(), splits.train, splits.test, replicates=10).measure(samples, y)
    found = {row.metric: row for row in tiny.card.numbers if row.steps == 2 and not row.quick}
    assert found.keys() == rows.keys()
    assert {"FID", "precision", "recall", "coverage", "agreement", "copies"} <= found.keys()
    for name, row in rows.items():
        assert (found[name].value, found[name].standard_error) == (row.value, (row.high - row.low) / (2 * 1.959964)), name
        assert found[name].floor == row.floor.value
    (bits,) = [row for row in tiny.card.numbers if row.metric == "bits/dim" and not row.quick]
    held_out, pilot = (part.select(torch.arange(n)) for part, n in ((splits.test, 2), (splits.train, 4)))
    expected = run_bits_per_dim(run, held_out, pilot, 4, 0)
    assert (bits.value, bits.standard_error) == (expected.value, pytest.approx(expected.standard_error, rel=1e-12))
    assert (bits.n, bits.draws) == (2, 4)


def test_rows_goals_and_quick_rows(tiny):
    rows = {(row.steps, row.quick): row for row in tiny.card.numbers if row.metric == "FID"}
    assert {key: row.network_calls for key, row in rows.items()} == {(2, False): 3, (1, False): 2, (3, False): 4, (2, True): 3}
    assert {key: row.goal for key, row in rows.items() if row.goal} == {(2, False): 0.5, (1, False): 1.0}
    assert rows[2, False] == tiny.card.main("FID")
    quick, others = ({row.metric for row in tiny.card.numbers if row.quick is value} for value in (True, False))
    assert quick == others


def test_an_interrupted_push_continues_and_leaves_no_target(tiny, tmp_path, monkeypatch):
    target, drawn = tmp_path / "new", []

    def counted(run, sampler, seeds, *rest):
        parts = rest[1]
        known = parts.folder.exists()
        drawn.append("read" if known else "drawn")
        return draw(run, sampler, seeds, *rest)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "draw", counted)
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "run_bits_per_dim", interrupted)
        with pytest.raises(KeyboardInterrupt):
            push(tiny.run, target)
    assert drawn == ["drawn"]
    assert not target.exists()
    card = push(tiny.run, target)
    assert drawn == ["drawn", "read"]
    assert card.main("FID") is not None
    assert not (tiny.run / "push").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"description": None}, "description = None, expected a text"),
        ({"licence": ""}, "licence = '', expected a text"),
        ({"description": "two\nlines"}, "description = .*, expected a text in one line"),
        ({"name": "a/b"}, "name = 'a/b', expected 1 to 64 letters"),
        ({"goals": "FID:3"}, "goals = 'FID:3'.*expected METRIC=NUMBER"),
        ({"goals": "FIT=3"}, "goals: there is no number FIT, expected one of FID"),
        ({"calls": "1"}, "calls = 1, expected more"),
        ({"likelihood_images": 25}, "25 held-out images, expected at most 24"),
    ],
)
def test_mistakes_in_a_push(changes, message, tiny, tmp_path):
    with pytest.raises(ValueError, match=message):
        push(tiny.run, tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_two_pushes_of_a_run_at_a_time_are_an_error(tiny, tmp_path):
    with locked(tiny.run / "push", "push"), pytest.raises(FolderError, match=r"another push .*: wait until it ends$"):
        push(tiny.run, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_targets_that_exist(tiny, copy):
    with pytest.raises(ModelError, match="--fresh replaces the model"):
        push(tiny.run, copy)
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"no part of a model: notes.txt"):
        push(tiny.run, copy, fresh=True)
    (copy / "notes.txt").unlink()
    assert push(tiny.run, copy, fresh=True, name="other").name == "other"
    assert read_card(copy / "card.yaml").name == "other"
    (copy / "card.yaml").unlink()
    with pytest.raises(ModelError, match="it has no model"):
        push(tiny.run, copy, fresh=True)
    with pytest.raises(ModelError, match="is a model, expected a run"):
        push(tiny.model, copy.parent / "new")
    assert not (pretrained(tiny.model).path / "push").exists()


def test_the_text_of_a_card_has_one_line_for_a_number(tiny):
    lines = card_text(tiny.card).splitlines()
    assert sum(line.startswith("- {metric: ") for line in lines) == len(tiny.card.numbers)
    assert "null" not in card_text(tiny.card)


def test_names_of_classes(tiny):
    assert pretrained(tiny.model).class_names == tuple(NAMES)
