"""A class of each kind, and a copy of the packages that has them.

`extensions/` holds the classes, each with an argument that has a range.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALL", "EXTENSIONS", "ROOT", "Extension", "add_to_copy", "run"]

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = Path(__file__).resolve().parent / "extensions"
PACKAGES = ("diffusion_core", "backbones", "discrete_diffusion", "continuous_diffusion", "ctdiff", "configs")


@dataclass(frozen=True)
class Extension:
    """A class of `extensions/`.

    Arguments:
        cls: its name.
        file: its module.
        package: the package that gets it.
        place: where a configuration chooses it.
        name: what it is called there.
        argument: an argument of it, a value out of its range, and one within.
        also: what else the configuration has to say.
        tests: a file of contract tests that have to meet it.
    """

    cls: str
    file: str
    package: str
    place: str
    name: str
    argument: tuple[str, str, str]
    also: tuple[str, ...] = ()
    tests: str = "test_settings.py"

    def flags(self, name: str) -> list[str]:
        return [f"--config.{key}" for key in self.also] + [f"--config.{self.place}.name={name}"]

    def argument_flag(self, value: str) -> str:
        return f"--config.{self.place}.{self.name}.{self.argument[0]}={value}"


GAUSSIAN = ("process.engine=gaussian", "model.parameterisation.name=v", "loss.name=v")
ALL = [
    Extension(
        "RingRates", "ring_rates", "discrete_diffusion.rates", "process.rates", "ring", ("drift", "1.5", "0.25"),
        ("process.schedule.name=exponential",), "discrete_diffusion/test_rate_contract.py",
    ),
    Extension(
        "MonomialSchedule", "monomial_schedule", "discrete_diffusion", "process.schedule", "monomial", ("power", "0.5", "3.0"),
        tests="discrete_diffusion/test_schedules.py",
    ),
    Extension(
        "SecantSchedule", "secant_schedule", "continuous_diffusion", "process.schedule", "secant", ("width", "0", "2.0"),
        GAUSSIAN, "continuous_diffusion/test_contracts.py",
    ),
    Extension("SoftenedLoss", "softened_loss", "discrete_diffusion", "loss", "softened", ("share", "0", "0.25")),
    Extension(
        "DividedEuler", "divided_euler", "discrete_diffusion.samplers", "sampler", "divided_euler", ("parts", "9", "3"),
        tests="discrete_diffusion/test_samplers.py",
    ),
    Extension(
        "DampedCorrector", "damped_corrector", "discrete_diffusion.samplers.correctors", "sampler.corrector",
        "damped_corrector", ("damping", "0", "0.25"), tests="discrete_diffusion/test_samplers.py",
    ),
    Extension(
        "TemperedDenoiser", "tempered_denoiser", "discrete_diffusion", "model.parameterisation", "tempered",
        ("temperature", "-1", "2.0"),
    ),
    Extension(
        "PlainNet", "plain_net", "backbones", "model", "plain_net", ("width", "1", "16"), tests="backbones/test_contract.py",
    ),
    Extension(
        "PowerGrid", "power_grid", "diffusion_core", "sampler.grid", "power", ("power", "10", "2.5"),
        tests="diffusion_core/test_times.py",
    ),
]  # fmt: skip


def run(code: list[str], path: Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *code], env=environment, capture_output=True, text=True, check=False, **options)


def add_to_copy(folder: Path) -> Path:
    """Copy the packages and their tests to a folder, add a file and a line for each class, and return the folder."""
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "extensions"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for extension in ALL:
        package = folder.joinpath(*extension.package.split("."))
        shutil.copy(EXTENSIONS / f"{extension.file}.py", package)
        with (package / "__init__.py").open("a") as file:
            file.write(f"\nfrom {extension.package}.{extension.file} import {extension.cls}; __all__ += ['{extension.cls}']\n")
    return folder
