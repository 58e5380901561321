"""The wheel, installed into an empty environment outside the clone, does what the clone does.

Nothing is downloaded: the wheel is built with the setuptools at hand, and the environment
borrows the dependencies (not our packages) of the one that runs the tests.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"backbones", "configs", "continuous_diffusion", "ctdiff", "diffusion_core", "discrete_diffusion"}

MODEL = ("card.yaml", "config.json", "grid.png", "model.safetensors")

# The preset, made small enough for a test: its classes stay.
SMALL = [
    "--config.training.batch_size=4",
    "--config.data.num_values=8",
    "--config.process.rates.gaussian_target.scale=0.2",
    "--config.model.unet.widths=(8, 8)",
    "--config.model.unet.blocks=(1, 1)",
    "--config.model.unet.num_heads=1",
    "--config.saving.validation_images=4",
    "--config.saving.preview_samples=2",
    "--config.saving.preview_steps=2",
    "--config.sampler.num_samples=2",
    "--config.sampler.steps=2",
]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command where nothing of the clone can be imported; return what it printed."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden} | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Installed:
    """The wheel, the environment's interpreter, and an empty folder to work in."""

    wheel: Path
    python: Path
    folder: Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, project_files: list[Path]) -> Path:
    """Built from a copy, so that a stale `build` folder can add nothing and none is left behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in project_files:
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    run(*pip, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", target, source, cwd=target)
    (built,) = target.glob("ctdiff-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Installed:
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install"]
    run(*pip, "--no-deps", "--no-index", "--no-compile", wheel, cwd=folder)
    # A .pth file adds folders behind the environment's own; .pth files in them (an editable install of ours) are not read.
    specs = [find_spec(name) for name in ("torch", "numpy", "ml_collections", "absl", "tqdm", "matplotlib", "PIL")]
    borrowed = sorted({str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin is not None})
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(site) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    (folder / "work").mkdir()
    return Installed(wheel, python, folder / "work")


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode())


def test_wheel_holds_our_packages_and_nothing_else(wheel: Path, project_files: list[Path]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == TOP_LEVEL
    ours = {str(path.relative_to(ROOT)) for path in project_files if path.relative_to(ROOT).parts[0] in TOP_LEVEL}
    assert names == ours, "every module, py.typed and data file of the packages"
    assert {f"{name}/py.typed" for name in TOP_LEVEL} <= names
    models = [path.relative_to(ROOT).as_posix() for path in project_files if path.name == "card.yaml"]
    assert {str(Path(card).parent / name) for card in models for name in MODEL} <= names, "every model, whole"
    assert wheel.stat().st_size <= 30 * 2**20


def test_metadata_states_licences_and_dependencies(wheel: Path) -> None:
    about = metadata(wheel)
    assert about["Name"] == "ctdiff"
    assert about["License-Expression"] == "MIT AND CC-BY-SA-3.0"
    assert set(about.get_all("License-File", [])) == {"LICENSE", "ctdiff/data/mnist-10k.LICENSE.txt"}
    description = about.get_payload()
    assert isinstance(description, str)
    for words in ("Yann LeCun, Corinna Cortes and Christopher J. C. Burges", "CC BY-SA 3.0"):
        assert words in description
    with zipfile.ZipFile(wheel) as archive:
        notice = archive.read("ctdiff/data/mnist-10k.LICENSE.txt").decode()
        assert "Attribution-ShareAlike 3.0 Unported" in notice
        assert "8. Miscellaneous" in notice, "the whole licence"
        assert sum(name.endswith("mnist-10k.LICENSE.txt") for name in archive.namelist()) == 2
    needed = [line.partition(";")[0] for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in needed if "<" in line or "==" in line or ">=" not in line], "lower bounds alone"


def imports(source: str) -> set[str]:
    """The modules that a module imports, at its top or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
    return found


def test_dependencies_are_what_is_imported(wheel: Path, project_files: list[Path]) -> None:
    ours = [path for path in project_files if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in TOP_LEVEL]
    imported = set().union(*(imports(path.read_text(encoding="utf-8")) for path in ours))
    foreign = {name.split(".")[0] for name in imported} - TOP_LEVEL - sys.stdlib_module_names
    names = {"PIL": "pillow", "absl": "absl-py", "ml_collections": "ml-collections", "torch_fidelity": "torch-fidelity"}
    names["yaml"] = "pyyaml"
    lines = metadata(wheel).get_all("Requires-Dist", [])
    needed = {re.split(r"[<>=! ]", line)[0] for line in lines if "extra ==" not in line}
    optional = {re.split(r"[<>=! ]", line)[0] for line in lines if re.search(r'extra == "(evaluation|hub|matlab)"', line)}
    assert {names.get(name, name) for name in foreign} - optional == needed


# A dry run, then a sample as `python -m ctdiff` draws it, then a run loaded from Python: one process, as each would load torch.
PROBE = """
import importlib, json, os, runpy, sys
from ctdiff.cli import main
from ctdiff.data import embedded_mnist
names, command = sys.argv[1].split(","), sys.argv[2:]
files = [importlib.import_module(name).__file__ for name in names]
digits = embedded_mnist()
print(json.dumps([files, [len(digits.train), len(digits.test), digits.num_classes]]))
os.mkdir("empty")
os.chdir("empty")
status = main(["train", "--config=mnist", "--dry_run"])
print("status", status, "left", os.listdir())
os.chdir("..")
sys.argv[1:] = command
try:
    runpy.run_module("ctdiff", run_name="__main__", alter_sys=True)
except SystemExit as ended:
    assert not ended.code, ended.code
import ctdiff
print("loaded", sum(p.numel() for p in ctdiff.load_run("run").denoiser.parameters()) > 0)
"""


def test_the_installed_copy_trains_samples_and_loads(installed: Installed) -> None:
    script = installed.python.with_name("ctdiff")
    run(script, "train", "--config=mnist", "--workdir=run", "--config.training.steps=2", *SMALL, cwd=installed.folder)
    assert (installed.folder / "run" / "loss.png").is_file()
    assert list((installed.folder / "run" / "samples").glob("*.png"))
    records = [json.loads(line) for line in (installed.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(record["step"] for record in records) == 2
    before = set(installed.folder.rglob("*.npz"))
    sample = ["sample", "run", "--num_samples=3", "--steps=2", "--seeds=0-2"]
    first, rest = run(installed.python, "-c", PROBE, ",".join(sorted(TOP_LEVEL)), *sample, cwd=installed.folder).split("\n", 1)
    files, digits = json.loads(first)
    environment = installed.python.parents[1]
    assert len(files) == len(TOP_LEVEL)
    assert all(Path(file).is_relative_to(environment) for file in files), files
    assert digits == [8000, 2000, 10]
    assert "parameters" in rest
    assert "status 0 left []" in rest, "a dry run leaves nothing behind"
    assert rest.endswith("loaded True\n")
    assert set(installed.folder.rglob("*.npz")) - before
