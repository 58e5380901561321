"""One file and one line add a class of any kind: the command line, its help and the contract tests of its kind find it.

The classes of `extensions/` are added to a copy of the packages. Then they are used as a user's own modules, without a change
of a package.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctdiff.cli import main

from .extended import ALL, EXTENSIONS, Extension, add_to_copy, run

SHORT = [
    "--config.data.fraction=0.01",
    "--config.training.steps=2",
    "--config.training.batch_size=4",
    "--config.training.precision=float32",
    "--config.saving.preview_steps=2",
    "--config.saving.preview_samples=2",
    "--config.saving.validation_images=4",
    "--config.sampler.steps=2",
    "--config.sampler.num_samples=2",
]
UNET = ["--config.model.unet.widths=8", "--config.model.unet.blocks=1", "--config.model.unet.time_dim=8"]

# The command lines of standard input, then the contract tests that the arguments choose. They share what a process imports.
CALLS = """
import sys
import pytest
from ctdiff.cli import main
for line in sys.stdin.read().splitlines():
    sys.stderr.write(f"== {main(line.split())}\\n")
sys.exit(pytest.main(sys.argv[1:]))
"""
CONTRACTS = sorted({f"tests/{extension.tests}" for extension in ALL} | {"tests/test_settings.py"})


def each(extension: Extension, name: str, folder: Path) -> list[list[str]]:
    """The command lines that try a class: a short training, a value out of range, and the help of its place."""
    network = [] if extension.place == "model" else UNET
    train = ["train", "--config=mnist_uniform", f"--workdir={folder / extension.name}"]
    chosen = [*train, *SHORT, *network, *extension.flags(name)]
    _, wrong, right = extension.argument
    return [
        [*chosen, extension.argument_flag(right)],
        [*chosen, extension.argument_flag(wrong)],
        [*chosen, f"--help_config={extension.place}"],
    ]


def lines(names: dict[str, str], folder: Path) -> list[list[str]]:
    return [line for extension in ALL for line in each(extension, names[extension.cls], folder)]


def check_command_line(statuses: list[int], out: str, err: str, runs: Path) -> None:
    """A training with each class, a refused value of each, and the help of each."""
    assert statuses == [0, 2, 0] * len(ALL), err[-3000:]
    for extension in ALL:
        name, _, right = extension.argument
        key = f"config.{extension.place}.{extension.name}.{name}"
        assert f"ctdiff: {key} = " in err, err[-3000:]
        assert f"--{key}=" in out
        assert (runs / extension.name / "samples" / "final.png").is_file()
        assert f'"{name}": {right}' in (runs / extension.name / "config.json").read_text()
        module = (EXTENSIONS / f"{extension.file}.py").read_text()
        meaning = module.split(f"        {name}: ")[1].splitlines()[0]
        assert meaning in " ".join(out.split()), (extension, meaning)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder of runs, and the process that made them and ran the contract tests, with a copy of the packages."""
    packages, runs = add_to_copy(tmp_path_factory.mktemp("extended")), tmp_path_factory.mktemp("runs")
    typed = "\n".join(" ".join(line) for line in lines({extension.cls: extension.name for extension in ALL}, runs))
    names = " or ".join(extension.cls for extension in ALL)
    tests = ["-q", "-p", "no:cacheprovider", "-rA", "-k", names, *CONTRACTS]
    return runs, run(["-c", CALLS, *tests], packages, cwd=packages, input=typed)


def test_the_command_line_finds_a_class_of_each_kind(copy: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    runs, result = copy
    statuses = [int(line.removeprefix("== ")) for line in result.stderr.splitlines() if line.startswith("== ")]
    check_command_line(statuses, result.stdout, result.stderr, runs)


def test_contract_tests_find_a_class_of_each_kind(copy: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, result = copy
    passed = [line for line in result.stdout.splitlines() if line.startswith("PASSED")]
    assert result.returncode == 0, result.stdout[-5000:]
    for extension in ALL:
        for file in (extension.tests, "test_settings.py"):
            assert any(extension.cls in line and file in line for line in passed), (extension.cls, file)


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The classes as a user has them: in files of the working directory."""
    for file in EXTENSIONS.glob("*.py"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("ctdiff.recipe.user_classes._TRUSTED", set())
    yield
    for extension in ALL:
        sys.modules.pop(extension.file, None)


@pytest.mark.usefixtures("own_modules", "shared_tables")
def test_the_command_line_takes_classes_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {extension.cls: f"{extension.file}:{extension.cls}" for extension in ALL}
    statuses = [main(line) for line in lines(names, tmp_path / "runs")]
    check_command_line(statuses, *capsys.readouterr(), tmp_path / "runs")
