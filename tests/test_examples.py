"""Every example runs as a user would run it, made small."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctdiff import figures, load_run, metrics
from ctdiff.config import ConfigError
from ctdiff.data import embedded_mnist

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# The presets, made small enough for a test: their classes stay.
SMALL = [
    "--config.data.fraction=0.01",
    "--config.data.num_values=8",
    "--config.data.image_size=(8, 8)",
    "--config.model.unet.widths=(8, 8)",
    "--config.model.unet.blocks=(1, 1)",
    "--config.model.unet.num_heads=1",
    "--config.training.batch_size=4",
    "--config.sampler.steps=2",
    "--config.sampler.num_samples=2",
    "--config.sampler.sub_batch=4",
    "--config.saving.validation_images=4",
]
SCALE = "--config.process.rates.gaussian_target.scale=0.2"  # the slowest rate over 8 values is 1 / 5.2
DIT = ["--config.model.dit.depth=1", "--config.model.dit.hidden_dim=16", "--config.model.dit.num_heads=2"]
OTHERS = [
    *DIT,
    "--config.model.uvit.depth=2",
    "--config.model.uvit.hidden_dim=16",
    "--config.model.uvit.num_heads=2",
    "--config.model.diffit.widths=(8, 8)",
    "--config.model.diffit.blocks=(1, 1)",
    "--config.model.diffit.windows=(0, 0)",
    "--config.model.diffit.num_heads=2",
    "--config.model.ssm.depth=1",
    "--config.model.ssm.hidden_dim=16",
    "--config.model.ssm.num_heads=2",
]


def example(name: str) -> Callable[[Sequence[str]], None]:
    """The `main` of a script."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[Sequence[str]], None] = module.main
    return main


def picture(path: Path) -> np.ndarray:
    """A PNG as numbers: it can be read, and is not blank."""
    pixels = np.asarray(Image.open(path))
    assert pixels.min() < pixels.max()
    return pixels


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each engine, made by the example."""
    folder = tmp_path_factory.mktemp("runs")
    for name, own in (("mnist", [SCALE]), ("mnist_ddpm", [])):
        example("train_mnist")([f"--config={name}", f"--workdir={folder / name}", *SMALL, *own, "--config.training.steps=2"])
    return folder


def test_train_mnist(runs: Path) -> None:
    assert load_run(runs / "mnist").step == 2
    picture(runs / "mnist_ddpm" / "samples" / "final.png")


@pytest.mark.parametrize(("run", "sampler"), [("mnist", "ancestral"), ("mnist_ddpm", "ddim")])
def test_sample(run: str, sampler: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "samples.png"
    example("sample")([str(runs / run), "--num_samples=4", "--steps=3", f"--sampler={sampler}", f"--out={out}"])
    picture(out)
    assert "4 samples" in capsys.readouterr().out


@pytest.mark.parametrize("run", ["mnist", "mnist_ddpm"])
def test_inpaint(run: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "inpainted.png"
    example("inpaint")([str(runs / run), "--digits=2", "--completions=3", "--steps=2", "--resample=2", f"--out={out}"])
    assert "2 digits, 3 completions each, 2 rounds per step" in capsys.readouterr().out
    sheet = picture(out)
    pitch = sheet.shape[1] // 5  # the digit, what is shown of it, three completions
    gap = sheet.shape[1] - 5 * pitch
    side = pitch - gap
    whole, *others = (sheet[gap : gap + side // 2, place * pitch + gap : (place + 1) * pitch] for place in range(5))
    assert whole.min() < whole.max()
    assert all(np.array_equal(whole, other) for other in others)  # the upper half is that of the digit, exactly


def test_swap_backbone(tmp_path: Path) -> None:
    families = ["unet", "uvit", "dit", "diffit", "ssm"]
    with pytest.raises(ValueError, match=r"config.model.uvit.dept is not a key, .* Did you mean depth\?"):
        example("swap_backbone")([f"--out={tmp_path}", "--config.model.uvit.dept=3"])
    example("swap_backbone")(["--steps=2", "--num_samples=2", f"--out={tmp_path}", *SMALL, SCALE, *OTHERS])
    picture(tmp_path / "backbones.png")
    assert [load_run(tmp_path / name).config.model.name for name in families] == families


def test_own_rate_matrix(tmp_path: Path) -> None:
    example("own_rate_matrix")(["--steps=2", "--batch_size=2", "--sampler_steps=2", f"--out={tmp_path / 'fading.png'}"])
    picture(tmp_path / "fading.png")


@pytest.mark.parametrize("source", ["dataset", "npz", "folder"])
def test_own_data(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 12, 10, 3), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", images=pixels)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i}.png")
    paths = {
        "dataset": [],
        "npz": [f"--data={tmp_path / 'mine.npz'}"],
        "folder": [f"--data={tmp_path / 'folder'}", "--channels=3"],
    }
    small = [flag for flag in SMALL if "data." not in flag]
    example("own_data")([*paths[source], "--size=8", "--steps=2", *small])
    picture(tmp_path / "own_data.png")


def test_compare_samplers(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "samplers.png"
    example("compare_samplers")(
        [str(runs / "mnist"), str(runs / "mnist_ddpm"), "--calls", "2", "3", "--num_samples=4", f"--out={out}"]
    )
    height, width, _ = picture(out).shape
    columns = ["mnist, ancestral", "mnist, euler", "mnist, tau_leaping", "mnist_ddpm, ancestral", "mnist_ddpm, ddim"]
    assert width / height == (len(columns) + 2) / 2
    printed = capsys.readouterr().out.splitlines()
    for column in columns:
        assert [line for line in printed if line.startswith(column)] == [f"{column}: {calls} network calls" for calls in (2, 3)]
    for column in ("mnist, midpoint_tau_leaping", "mnist_ddpm, heun"):
        assert printed.count(f"{column}: 3 network calls") == 2  # one step of two calls, and the last call


@pytest.mark.parametrize("run", ["mnist", "mnist_ddpm"])
def test_bits_per_dim(run: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("bits_per_dim")([str(runs / run), "--images=12", "--draws=4"])
    first, second, third = capsys.readouterr().out.splitlines()
    match = re.fullmatch(r"([\d.]+) \+- ([\d.]+) bits per dimension, 12 images of 8 values", first)
    assert match is not None, first
    terms = [float(number) for number in re.findall(r"[\d.]+", second)]
    assert sum(terms) == pytest.approx(float(match[1]), abs=2e-4)
    assert float(match[2]) > 0
    assert re.fullmatch(r"for other images \+- [\d.]+: standard deviation of single images [\d.]+", third)


def test_evidence_floor(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = example("evidence_floor")
    pixels = torch.zeros(4, 1, 5, 5, dtype=torch.uint8)
    pixels[0, 0, 2, 2] = 255
    pixels[1, 0, 2, 2:4] = 255  # a pair
    pixels[2, 0, 0, 4] = 101
    pixels[3, 0, 3, 3] = 100
    assert main.__globals__["isolated"](pixels).tolist() == [True, False, True, False]
    main([str(runs / "mnist"), "--floors", "0", "0.1", "--num_samples=4"])
    *drawn, real = capsys.readouterr().out.splitlines()
    for line, floor in zip(drawn, ("0.0", "0.1"), strict=True):
        assert re.fullmatch(rf"evidence floor {floor}: [\d.]+ % of 4 samples have an isolated pixel", line)
    assert re.fullmatch(r"real images: 0\.0 % of \d+", real)
    with pytest.raises(ConfigError, match=r"evidence_floor is not a key"):
        main([str(runs / "mnist_ddpm")])


def test_little_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "Reference", partial(metrics.Reference, replicates=5))  # 50 take most of the time
    some = embedded_mnist().train
    np.savez(tmp_path / "digits.npz", images=some.images[:50].numpy(), labels=some.labels[:50].numpy())
    small = [flag for flag in SMALL if "image_size" not in flag and "fraction" not in flag]
    array = {"path": tmp_path / "digits.npz", "test_fraction": 0.3}
    data = ["--config.data.name=array", *(f"--config.data.array.{key}={value}" for key, value in array.items())]
    study = ["--steps=2", "--num_samples=12", "--images", "12", "0", f"--out={tmp_path / 'runs'}"]
    example("little_data")([*study, *data, *small, *DIT])
    head, _, *rows, floor = [
        line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")
    ]
    assert [row[1] for row in rows] == 2 * ["unet", "dit", "dit"]
    few, *_, everything = [int(row[0]) for row in rows]
    assert (few, everything) == (pytest.approx(12, abs=4), 35)  # every class keeps its share
    assert {len(row) for row in rows} == {len(head)} == {11}
    assert all("[" in cell for row in rows for cell in row[4:])
    assert (floor[0], rows[0][2]) == ("held-out", "2")
    # Equal compute: as near to the U-Net's as a whole number of steps comes.
    price = {row[1]: float(row[3]) / int(row[2]) for row in rows}
    assert int(rows[2][2]) == pytest.approx(2 * price["unet"] / price["dit"], rel=0.02, abs=0.51)
    assert load_run(tmp_path / "runs" / "dit_12_2").config.model.name == "dit"


def test_compare_schedules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = "--config.process.schedule.laplace.b=0.5"
    example("compare_schedules")(["--steps=2", "--images=4", f"--out={tmp_path}", *SMALL, own])
    assert load_run(tmp_path / "laplace").config.process.schedule.laplace.to_dict() == {"mu": -2.0, "b": 0.5}
    assert load_run(tmp_path / "cosine").config.process.schedule.name == "cosine"
    picture(tmp_path / "schedules.png")
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["schedule", "laplace", "cauchy", "cosine", "linear"]
    assert {len(row) for row in rows} == {9}
    assert all(0 < float(error) < 10 for row in rows[1:] for error in row[2:])


def test_a_table_has_a_heading_for_every_picture(tmp_path: Path) -> None:
    sheet = torch.zeros(3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"the rows have \[2, 1\] pictures, expected 2 rows of 2"):
        figures.save_table(tmp_path / "table.png", [[sheet, sheet], [sheet]], ["a", "b"], ["c", "d"])


def test_every_example_is_tested() -> None:
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts
    assert scripts - tests == set()
