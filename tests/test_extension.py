"""One file and one line add a class of any kind: the command line and its help find it.

The classes of `extensions/` are added to a copy of the packages. Then they are used as a user's own modules, without a change
of a package.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .extended import ALL, EXTENSIONS, ROOT, Extension, add_to_copy, run

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


def test_the_command_line_finds_a_class_of_each_kind(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = add_to_copy(tmp_path_factory.mktemp("extended"))
    check_command_line({extension.cls: extension.name for extension in ALL}, copy, tmp_path)


def test_the_command_line_takes_classes_of_ones_own(tmp_path: Path) -> None:
    for file in EXTENSIONS.glob("*.py"):
        shutil.copy(file, tmp_path)
    check_command_line({extension.cls: f"{extension.file}:{extension.cls}" for extension in ALL}, ROOT, tmp_path)
