"""The models of the package: their files, their cards, and their section in docs/models.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctdiff import config as configuration
from ctdiff import pretrained
from ctdiff.evaluation import build_extractor, run_splits
from ctdiff.model_folder import FILES, MODELS, model_names
from ctdiff.models import Measurer, Setting, listed_models, with_models
from ctdiff.models.listing import BEGIN, END, section

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "models.md"


def folders():
    """The folders beside the modules."""
    return sorted(path.name for path in MODELS.iterdir() if path.is_dir() and path.name != "__pycache__")


def test_every_folder_is_a_model():
    assert model_names() == folders()
    assert [each["name"] for each in listed_models()] == folders()
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= 25 * 2**20


@pytest.mark.parametrize("name", model_names())
def test_a_model_of_the_package_has_its_card(name, tmp_path):
    """What takes no time is exact. Of the measured numbers, the bits per dimension of a few images are repeated."""
    files = {path.name for path in (MODELS / name).iterdir()}
    assert {*FILES} - {"classes.json"} <= files <= {*FILES}
    assert (MODELS / name / "model.safetensors").stat().st_size <= 4 * 2**20
    run = pretrained(name)  # compares the hashes
    card = run.folder.card
    assert card.name == name
    configuration.check(run.config, ())  # a model may be older than a rule about values without effect
    assert card.architecture.parameters == sum(parameter.numel() for parameter in run.denoiser.parameters())
    assert card.architecture.steps == run.config.sampler.steps
    assert card.training.images_seen == card.training.steps * card.training.batch_size
    assert card.main("FID") is not None
    assert {row.metric for row in card.numbers if row.quick} == {row.metric for row in card.numbers if not row.quick}
    (row,) = [row for row in card.numbers if row.quick and row.metric == "bits/dim"]
    splits = run_splits(run.config, None, run.folder)
    found = Measurer(run, splits, build_extractor(card.features.name), card.features.replicates, tmp_path)
    assert abs(found.measure(Setting.of(row)).metrics["bits/dim"].value - row.value) <= row.standard_error / 2


def test_the_page_is_up_to_date():
    """`make tables` updates it."""
    text = PAGE.read_text(encoding="utf-8")
    assert with_models(text) == text
    for name in model_names():
        assert f"../ctdiff/models/{name}/grid.png" in text


def test_the_section_of_a_model(tiny):
    text = section(tiny.model)
    card = tiny.card
    fid = card.main("FID")
    assert text.startswith("### tiny\n\n![samples of tiny](../ctdiff/models/tiny/grid.png)\n\nA tiny model.\n")
    assert f"```sh\n{card.training.command}\n```" in text
    rows = [line for line in text.splitlines() if line.startswith("| FID |")]
    assert len(rows) == 3, "one for each number of network calls, and none of the quick ones"
    assert f"| {fid.value:.3f} | {fid.standard_error:.3f} | 0.500 | {fid.floor:.3f} | 12 | 3 |" in rows[0]
    assert "- Licence of the weights: MIT.\n- Limit: It is tiny\n" in text
    assert max(len(line) for line in text.splitlines() if line[:1] not in "|!" and "ctdiff train" not in line) <= 120
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert with_models(page, tiny.model.parent / "nothing").count("no models yet") == 1


def test_a_page_without_lines_is_an_error():
    with pytest.raises(ValueError, match="generated: the models"):
        with_models("nothing")
