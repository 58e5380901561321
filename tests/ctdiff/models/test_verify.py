"""A card is compared with its model, and a wrong card is found out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from ctdiff.card import read_card
from ctdiff.cli import main
from ctdiff.hashes import file_hash
from ctdiff.model_folder import ModelError
from ctdiff.models import verification_table, verify_model
from ctdiff.training.checkpoints import encode_weights, read_weights

from ..tiny_runs import pixels, random_classifier
from .tiny_models import push, rewrite


def verdicts(model, **settings):
    found = verify_model(str(model), random_classifier(), **settings)
    assert found.passed == all(check.verdict == "ok" for check in found.checks)
    return {(check.name, check.steps, check.quick): check for check in found.checks}, found


def measured(found):
    return [check for check in found.checks if check.standard_error is not None]


def changed_number(model, metric, change):
    """Change the number of the model's own sampler; returns its key."""
    card = read_card(model / "card.yaml")
    row = card.main(metric)
    rows = [replace(each, value=each.value + change(row)) if each == row else each for each in card.numbers]
    rewrite(model, numbers=rows)
    return metric, row.steps, False


def test_a_card_is_repeated(copy, tiny):
    checks, found = verdicts(copy)
    assert found.passed, verification_table(found)
    exact = [check.name for check in found.checks if check.standard_error is None]
    files = ["config.json", "model.safetensors", "classes.json"]
    assert exact == [*files, "schedule", "parameterisation", "parameters", "classes", "sampler", "steps"]
    assert len(measured(found)) == len(tiny.card.numbers)
    for check in measured(found):
        assert check.repeated == pytest.approx(check.card, rel=1e-6), check.name
    fresh = checks["FID", 2, False]
    assert fresh.fresh != fresh.card
    assert not (copy.parent / "runs" / "tiny" / "verify").exists()
    table = verification_table(found)
    assert "every number agrees with the card" in table
    assert table.splitlines()[0].split() == ["number", "n", "steps", "card", "+-", "repeated", "fresh", "+-", "verdict"]


def test_quick_rows_and_chosen_metrics(copy, tiny):
    _, found = verdicts(copy, quick=True)
    assert [check.name for check in measured(found)] == [row.metric for row in tiny.card.numbers if row.quick]
    _, found = verdicts(copy, metrics=["bits/dim"], seed=7)
    assert [check.name for check in measured(found)] == ["bits/dim", "bits/dim"]
    with pytest.raises(ValueError, match=r"metrics = 'FIT', expected some of FID, .*Did you mean FID\?"):
        verdicts(copy, metrics=["FIT"])
    with pytest.raises(ValueError, match="seed = 5, expected at least 12"):
        verdicts(copy, metrics=["FID"], seed=5)


@pytest.mark.parametrize("metric", ["FID", "precision", "bits/dim"])
def test_a_number_that_is_three_standard_errors_off_is_found(metric, copy):
    key = changed_number(copy, metric, lambda row: 3 * row.standard_error)
    checks, found = verdicts(copy, metrics=[metric])
    assert not found.passed
    assert "repeated value differs" in checks[key].verdict
    others = [check.name for other, check in checks.items() if other != key and check.verdict != "ok"]
    assert others == []
    assert "1 number differs from the card" in verification_table(found)


def test_a_number_far_away_differs_from_fresh_values(copy):
    """A single large error: the fresh value differs too. The interval is that of both standard errors."""
    key = changed_number(copy, "FID", lambda row: 100 * row.standard_error + 1)
    checks, _ = verdicts(copy, metrics=["FID"])
    assert checks[key].verdict == "repeated value differs, fresh value differs"
    check = checks[key]
    reach = 3.2905 * (check.standard_error**2 + check.fresh_standard_error**2) ** 0.5
    assert abs(check.fresh - check.card) > reach


def test_half_a_standard_error_is_allowed(copy):
    key = changed_number(copy, "FID", lambda row: 0.49 * row.standard_error)
    checks, _ = verdicts(copy, metrics=["FID"])
    assert checks[key].verdict == "ok"


def swapped_weights(model):
    tensors = read_weights(model / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    others = {name: torch.randn(value.shape, generator=generator).to(value.dtype) for name, value in tensors.items()}
    (model / "model.safetensors").write_bytes(encode_weights(others))


def test_swapped_weights_are_found(copy):
    swapped_weights(copy)
    _, found = verdicts(copy)
    assert [(check.name, check.verdict) for check in found.checks] == [
        ("config.json", "ok"),
        ("model.safetensors", "repeated value differs"),
        ("classes.json", "ok"),
    ]


def test_swapped_weights_with_a_new_hash_are_found(copy):
    swapped_weights(copy)
    files = replace(read_card(copy / "card.yaml").files, weights=file_hash(copy / "model.safetensors"))
    rewrite(copy, files=files)
    checks, found = verdicts(copy, metrics=["bits/dim"])
    assert not found.passed
    assert "repeated value differs" in checks["bits/dim", None, False].verdict


def test_a_wrong_number_of_parameters_is_found(copy):
    card = read_card(copy / "card.yaml")
    rewrite(copy, architecture=replace(card.architecture, parameters=7))
    checks, _ = verdicts(copy, metrics=["bits/dim"], quick=True)
    assert checks["parameters", None, True].verdict == "repeated value differs"


def test_a_wrong_floor_and_wrong_network_calls_are_found(copy):
    card, key = read_card(copy / "card.yaml"), ("FID", 2, False)
    wrong = replace(card.main("FID"), floor=9.0, network_calls=1)
    rewrite(copy, numbers=[wrong if (row.metric, row.steps, row.quick) == key else row for row in card.numbers])
    checks, _ = verdicts(copy, metrics=["FID"])
    assert checks.pop(key).verdict == "network calls differ, floor differs"
    assert {check.verdict for check in checks.values()} == {"ok"}


def test_another_extractor_is_refused(copy):
    with pytest.raises(ModelError, match=r"the extractor is pixels-.*, the card was made with random-"):
        verify_model(str(copy), pixels())


def test_the_command(copy, tiny, capsys):
    """With the extractor of the command, which cannot read these images: only the other metrics are measured."""
    shutil.copytree(tiny.run, "run")
    words = ["--num_samples=12", "--likelihood_images=2", "--draws=4", "--description=Tiny.", "--licence=MIT"]
    data = "--config.data.array.path=images_0_60.npz"
    assert main(["push", "run", "mine", *words, "--json", data]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["target"] == "mine"
    assert {row["metric"] for row in content["card"]["numbers"]} == {"nearer-to-train", "copies", "bits/dim"}
    assert main(["verify", "mine", "--quick"]) == 0
    assert capsys.readouterr().out.endswith("mine: every number agrees with the card\n")
    swapped_weights(copy.parent / "mine")
    assert main(["verify", "mine", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert not content["passed"]
    assert main(["push", "run", "other", *words, data, "--calls=2"]) == 2
    assert "calls = 2, expected none: there is no FID" in capsys.readouterr().err


def test_a_push_without_numbers_of_bits(tiny, tmp_path):
    card = push(tiny.run, tmp_path / "new", likelihood_images=0)
    assert "bits/dim" not in {row.metric for row in card.numbers}
