"""Numbers that are infinite or missing in tables, plots, pages and files: shown as what they are, and never the best."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from ctdiff.comparison import Comparison, compare_runs, comparison_plot, comparison_table
from ctdiff.comparison.comparison_format import Cell, ComparisonSettings
from ctdiff.comparison.page import overlap
from ctdiff.data.record import DataRecord, ImagesRecord
from ctdiff.evaluation import Report, checkpoint_curve, evaluate_run, evaluation_table, repeat
from ctdiff.evaluation.evaluator import Evaluator
from ctdiff.evaluation.plots import draw_intervals, not_finite_note
from ctdiff.evaluation.report_format import (
    BoundSettings,
    CheckpointReport,
    ExtractorRecord,
    ReferenceSettings,
    ReportSettings,
)
from ctdiff.evaluation.tables import distance_from_best, number
from ctdiff.metrics import Measurement, likelihood
from ctdiff.records import as_json, environment, from_json, read_record, to_json
from diffusion_core import BitsPerDim

from ..tiny_runs import pixels, tiny_run

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
    measure = Evaluator.measure

    def spoiled(self, samples, labels=None):
        rows = measure(self, samples, labels)
        row = rows["FID"]
        return {**rows, "FID": Measurement(row.name, math.nan, math.nan, math.nan, row.n_real, row.n_fake, row.floor)}

    monkeypatch.setattr(Evaluator, "measure", spoiled)
    for module in ("evaluation.report", "comparison.run_cards"):
        monkeypatch.setattr(f"ctdiff.{module}.run_bits_per_dim", lambda *arguments: BITS)
    return trained


def test_a_report_shows_them_and_repeats(run):
    quick = {"num_samples": 20, "steps": 1, "likelihood_images": 2, "draws": 4, "replicates": 3, "checkpoints": "all"}
    content = evaluate_run(run, pixels(), **quick)
    text = evaluation_table(content)
    assert "bits/dim inf +- nan (Monte Carlo, for these images) = diffusion inf + prior 0.2500 + reconstruction 0.5000" in text
    assert [line.split()[1:5] for line in text.splitlines() if line.startswith("FID")] == [["low", "nan", "[nan,", "nan]"]]
    written = json.loads((run / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert written == as_json(content) == as_json(evaluate_run(run, pixels(), **quick))
    assert as_json(read_record(run / "evaluation.json", Report)) == written
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
    assert [number(float(value)) for value in json.loads(text)["values"][:3]] == ["inf", "-inf", "nan"]
    for row in (likelihood(BITS), from_json(Measurement, json.loads(to_json(likelihood(BITS))), "row")):
        assert (row.value, math.isnan(row.low), math.isnan(row.high)) == (math.inf, True, True)


def test_what_is_not_a_number_is_never_the_best():
    assert min([math.nan, 3.0, math.inf], key=lambda value: distance_from_best("FID", value)) == 3.0
    assert min([math.nan, 0.2, -math.inf], key=lambda value: distance_from_best("recall", value)) == 0.2
    assert min([math.nan, 0.9], key=lambda value: distance_from_best("nearer-to-train", value)) == 0.9
    apart, nothing = (row(0.5, 0, 1), row(2.5, 2, 3)), row(math.nan, math.nan, math.nan)
    assert not overlap(*apart)
    assert overlap(apart[0], nothing), "an interval that is not known does not tell two values apart"


def row(value, low, high, floor=None):
    return Measurement("metric", value, low, high, 9, 9, floor)


IMAGES = DataRecord([1, 8, 8], 8, ImagesRecord(9, "0"), ImagesRecord(9, "1"))
EXTRACTOR, REFERENCE, BOUND = ExtractorRecord("e", "0", "p", 1), ReferenceSettings(5, 3, 0), BoundSettings(0, 4, 0)


@pytest.mark.filterwarnings("error")
def test_plots_mark_what_has_no_place_on_an_axis(tmp_path):
    fine, infinite, missing = row(2.0, 1.0, 3.0), row(math.inf, math.nan, math.nan), row(math.nan, math.nan, math.nan)
    for metric, rows, floor in (
        ("FID", [fine, infinite], fine),
        ("FID", [missing, infinite], None),
        ("class-KL", [missing, infinite], missing),
    ):
        measured = [{metric: replace(each, floor=floor)} for each in rows]
        cells = [Cell(i, 4 * i, i, each, "r", "s", 4 * i, "c") for i, each in enumerate(measured, start=1)]
        settings = ComparisonSettings("0-8", "cpu", EXTRACTOR, REFERENCE, [4, 8], None, [], metric, BOUND)
        comparison_plot(tmp_path / "comparison.png", Comparison(settings, IMAGES, environment(), [], cells, []), metric)
        with Image.open(tmp_path / "comparison.png") as picture:
            picture.verify()
    checkpoints = [CheckpointReport(i, 2, 1.0, {"FID": each}) for i, each in enumerate((infinite, missing))]
    settings = ReportSettings([], True, "cpu", {"name": "s", "steps": 2}, "0-8", None, EXTRACTOR, REFERENCE, BOUND)
    checkpoint_curve(tmp_path / "curve.png", Report("r", settings, IMAGES, environment(), checkpoints, {}))
    with Image.open(tmp_path / "curve.png") as picture:
        picture.verify()

    axes = Figure().add_subplot()
    draw_intervals(axes, [4, 8, 16], [fine, infinite, missing], color="red")
    (marks,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert (list(marks.get_xdata()), marks.get_color()) == ([8, 16], "red")
    assert all(0.9 < height < 1 for height in marks.get_ydata()), "of the axes' height"
    assert (not_finite_note([fine]), not_finite_note([fine, missing])) == ("", "; crosses at the top: not finite")
