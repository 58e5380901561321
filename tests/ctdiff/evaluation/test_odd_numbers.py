"""Numbers that are infinite or missing in tables, plots, pages and files: shown as what they are, and never the best."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ctdiff.evaluation import (
    Measurement,
    checkpoint_curve,
    compare_runs,
    comparison_plot,
    comparison_table,
    evaluate_run,
    evaluation_table,
    likelihood,
    repeat,
)
from ctdiff.evaluation.judges import Judge
from ctdiff.evaluation.page import _overlap
from ctdiff.evaluation.plots import _draw, _note
from ctdiff.evaluation.records import to_json
from ctdiff.evaluation.tables import number, shortfall
from diffusion_core import BitsPerDim

from .tiny_runs import pixels, tiny_run

BITS = BitsPerDim(
    diffusion_draws=torch.full((3, 4), math.inf, dtype=torch.float64),
    reconstruction_draws=torch.full((3, 2), 0.5, dtype=torch.float64),
    prior_terms=torch.full((3,), 0.25, dtype=torch.float64),
    weights=torch.ones(3, 4),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("runs"), "run", "mnist_ddpm")


@pytest.fixture
def run(trained, monkeypatch):
    """A run whose bits per dimension are infinite, and whose FID is not a number."""
    measure = Judge.measure

    def spoiled(self, samples, labels=None):
        rows = measure(self, samples, labels)
        row = rows["FID"]
        return {**rows, "FID": Measurement(row.name, math.nan, math.nan, math.nan, row.n_real, row.n_fake, row.floor)}

    monkeypatch.setattr(Judge, "measure", spoiled)
    for module in ("report", "portraits"):
        monkeypatch.setattr(f"ctdiff.evaluation.{module}.run_bits_per_dim", lambda *arguments: BITS)
    return trained


def test_a_report_shows_them_and_repeats(run):
    quick = {"num_samples": 20, "steps": 1, "likelihood_images": 2, "draws": 4, "replicates": 3, "checkpoints": "all"}
    content = evaluate_run(run, pixels(), **quick)
    text = evaluation_table(content)
    assert "bits/dim inf +- nan (Monte Carlo, for these images) = diffusion inf + prior 0.2500 + reconstruction 0.5000" in text
    assert [line.split()[1:5] for line in text.splitlines() if line.startswith("FID")] == [["low", "nan", "[nan,", "nan]"]]
    written = json.loads((run / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert written == content == evaluate_run(run, pixels(), **quick)
    found = {name: float(value) for name, value in written["checkpoints"][0]["bits_per_dim"].items()}
    assert found == pytest.approx(BITS.summary(), nan_ok=True)
    assert repeat(run / "evaluation.json", pixels()) == []
    with Image.open(run / "evaluation.png") as picture:
        picture.verify()


def test_a_comparison_shows_them(run, tmp_path):
    content = compare_runs(
        [run], pixels(), calls=[2], samplers=["ddim"], num_samples=12, replicates=3, likelihood_images=2, draws=4, out=tmp_path
    )
    assert "nan [nan, nan]" in comparison_table(content, "FID")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text()))
    assert (row["FID"], row["FID low"]) == ("nan", "nan")
    page = (tmp_path / "index.html").read_text()
    assert "<strong>inf &plusmn; nan</strong>" in page
    assert "diffusion inf + prior 0.250" in page
    assert "nan [nan, nan]" in page


def test_numbers_come_back_from_json():
    values = [math.inf, -math.inf, math.nan, 0.1, 1e300]
    text = to_json({"values": values})
    assert [float(value) for value in json.loads(text, parse_constant=pytest.fail)["values"]] == pytest.approx(
        values, nan_ok=True
    )
    assert to_json(json.loads(text)) == text
    assert [number(value) for value in json.loads(text)["values"][:3]] == ["inf", "-inf", "nan"]
    row = likelihood(BITS)
    assert (row.value, math.isnan(row.low), math.isnan(row.high)) == (math.inf, True, True)


def test_what_is_not_a_number_is_never_the_best():
    assert min(["nan", 3.0, "inf"], key=lambda value: shortfall("FID", value)) == 3.0
    assert min(["nan", 0.2, "-inf"], key=lambda value: shortfall("recall", value)) == 0.2
    assert min(["nan", 0.9], key=lambda value: shortfall("nearer-to-train", value)) == 0.9
    apart, nothing = ({"low": 0, "high": 1}, {"low": 2, "high": 3}), {"low": "nan", "high": "nan"}
    assert not _overlap(*apart)
    assert _overlap(apart[0], nothing), "an interval that is not known does not tell two values apart"


@pytest.mark.filterwarnings("error")
def test_plots_mark_what_has_no_place_on_an_axis(tmp_path):
    def row(value, low, high, floor=None):
        return {"name": "metric", "value": value, "low": low, "high": high, "n_fake": 9, "floor": floor}

    fine, infinite, missing = row(2.0, 1.0, 3.0), row("inf", "nan", "nan"), row("nan", "nan", "nan")
    for metric, rows, floor in (
        ("FID", [fine, infinite], fine),
        ("FID", [missing, infinite], None),
        ("class-KL", [missing, infinite], missing),
    ):
        measured = [{metric: {**each, "floor": floor}} for each in rows]
        cells = [
            {"run": "r", "sampler": "s", "network_calls": 4 * i, "seconds_per_sample": i, "metrics": each}
            for i, each in enumerate(measured, start=1)
        ]
        content = {"cells": cells, "settings": {"calls": [4, 8]}, "environment": {"threads": 1}}
        comparison_plot(tmp_path / "comparison.png", content, metric)
        with Image.open(tmp_path / "comparison.png") as picture:
            picture.verify()
    checkpoints = [{"step": i, "metrics": {"FID": each}} for i, each in enumerate((infinite, missing))]
    settings = {"sampler": {"name": "s", "steps": 2}}
    checkpoint_curve(tmp_path / "curve.png", {"run": "r", "settings": settings, "checkpoints": checkpoints})
    with Image.open(tmp_path / "curve.png") as picture:
        picture.verify()

    axes = Figure().add_subplot()
    _draw(axes, [4, 8, 16], [fine, infinite, missing], color="red")
    (marks,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert (list(marks.get_xdata()), marks.get_color()) == ([8, 16], "red")
    assert all(0.9 < height < 1 for height in marks.get_ydata()), "of the axes' height"
    assert (_note([fine]), _note([fine, missing])) == ("", "; crosses at the top: not finite")
