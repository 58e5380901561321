"""One file and one line add a class of any kind: tests, the command line and its help find it.

`extensions/` holds a class of each kind, each with an argument that has a range. They are added to a copy of the packages, and
they are used from there as a user's own modules, without touching a package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

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
SHORT = [
    "--config.training.steps=2",
    "--config.training.batch_size=4",
    "--config.training.precision=float32",
    "--config.model.unet.widths=8",
    "--config.model.unet.blocks=1",
    "--config.model.unet.time_dim=8",
    "--config.saving.preview_steps=2",
    "--config.saving.preview_samples=2",
    "--config.saving.validation_images=4",
    "--config.sampler.steps=2",
    "--config.sampler.num_samples=2",
]
CALLS = """
import sys
from ctdiff.cli import main
for line in sys.stdin.read().splitlines():
    sys.stderr.write(f"== {main(line.split())}\\n")
"""


def each(extension: Extension, name: str, folder: Path) -> list[list[str]]:
    """The command lines that try a class: a short training, a value out of range, and the help of its place."""
    network = [] if extension.place == "model" else SHORT[3:6]
    train = ["train", "--config=mnist_uniform", f"--workdir={folder / extension.name}"]
    short = [flag for flag in SHORT if flag not in SHORT[3:6]]
    chosen = [*train, *short, *network, *extension.flags(name)]
    _, wrong, right = extension.argument
    return [
        [*chosen, extension.argument_flag(right)],
        [*chosen, extension.argument_flag(wrong)],
        [*chosen, f"--help_config={extension.place}"],
    ]


def run(code: list[str], path: Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *code], env=environment, capture_output=True, text=True, check=False, **options)


def check_command_line(names: dict[str, str], packages: Path, cwd: Path) -> None:
    """Train with each class, refuse a value of each, explain each."""
    lines = [line for extension in ALL for line in each(extension, names[extension.cls], cwd / "runs")]
    result = run(["-c", CALLS], packages, cwd=cwd, input="\n".join(" ".join(line) for line in lines))
    assert result.stderr.count("== ") == len(lines), result.stderr[-3000:]
    statuses = [line for line in result.stderr.splitlines() if line.startswith("== ")]
    assert statuses == ["== 0", "== 2", "== 0"] * len(ALL), result.stderr[-3000:]
    for extension in ALL:
        name, _, right = extension.argument
        key = f"config.{extension.place}.{extension.name}.{name}"
        assert f"ctdiff: {key} = " in result.stderr, result.stderr[-3000:]
        assert f"--{key}=" in result.stdout
        assert (cwd / "runs" / extension.name / "samples" / "final.png").is_file()
        assert f'"{name}": {right}' in (cwd / "runs" / extension.name / "config.json").read_text()
        module = (EXTENSIONS / f"{extension.file}.py").read_text()
        meaning = module.split(f"        {name}: ")[1].splitlines()[0]
        assert meaning in " ".join(result.stdout.split()), (extension, meaning)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages and their tests, with a file and a line more for each class."""
    folder = tmp_path_factory.mktemp("extended")
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "extensions"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for extension in ALL:
        package = folder.joinpath(*extension.package.split("."))
        shutil.copy(EXTENSIONS / f"{extension.file}.py", package)
        with (package / "__init__.py").open("a") as file:
            file.write(f"\nfrom {extension.package}.{extension.file} import {extension.cls}; __all__ += ['{extension.cls}']\n")
    return folder


def test_the_command_line_finds_a_class_of_each_kind(copy: Path, tmp_path: Path) -> None:
    check_command_line({extension.cls: extension.name for extension in ALL}, copy, tmp_path)


def test_contract_tests_find_a_class_of_each_kind(copy: Path) -> None:
    files = sorted({f"tests/{extension.tests}" for extension in ALL} | {"tests/test_settings.py"})
    names = " or ".join(extension.cls for extension in ALL)
    result = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-k", names, *files], copy, cwd=copy)
    passed = [line for line in result.stdout.splitlines() if line.startswith("PASSED")]
    assert result.returncode == 0, result.stdout[-5000:]
    for extension in ALL:
        for file in (extension.tests, "test_settings.py"):
            assert any(extension.cls in line and file in line for line in passed), (extension.cls, file)


def test_the_command_line_takes_classes_of_ones_own(tmp_path: Path) -> None:
    for file in EXTENSIONS.glob("*.py"):
        shutil.copy(file, tmp_path)
    check_command_line({extension.cls: f"{extension.file}:{extension.cls}" for extension in ALL}, ROOT, tmp_path)
