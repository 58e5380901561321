"""What a user meets before anything is computed: help, the ways to write a flag, and what a start imports."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ctdiff import config as configuration
from ctdiff.cli import main
from ctdiff.cli.verb import separate_overrides

ROOT = Path(__file__).resolve().parents[2]
VERBS = ["train", "sample", "evaluate", "compare"]


def verb(name):
    return importlib.import_module(f"ctdiff.cli.{name}").VERB


def test_help_lists_the_verbs_and_the_presets(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name in VERBS:
        assert f"  {name} " in printed
        assert verb(name).description.splitlines()[0] in printed
    assert set(configuration.preset_names()) <= set(printed.replace(",", " ").split())
    assert max(map(len, printed.splitlines())) <= 100
    for arguments, status in (([], 2), (["help"], 0), (["-h"], 0), (["-help"], 0)):
        assert main(arguments) == status
        assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb(name, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].startswith(f"Usage: ctdiff {name} ")
    assert max(map(len, lines)) <= 100
    assert not {"None", "nan"} & set(printed.split())
    (example,) = [line for line in lines if line.startswith(f"    ctdiff {name} ")]
    values = verb(name).flag_values()
    for key in {*values} - {"help", "h"}:
        (at,) = [i for i, line in enumerate(lines) if line.startswith((f"  --{key}=", f"  --[no]{key} "))]
        explained = " ".join(" ".join(lines[at + 1 :]).split())
        assert explained.startswith(values[key].help.removeprefix("<mnist-cnn|inception>: "))
        if values[key].default is None:
            assert "Without it, " in values[key].help, key
        elif not values[key].boolean:
            assert f"default: {values[key].default}" in lines[at]
    for other in ([name, "-h"], [name, "absent", "--help"]):
        assert main(other) == 0
        assert capsys.readouterr().out == printed
    line = verb(name).read(shlex.split(example)[2:])
    verb(name).check_runs(line.runs)


def test_defaults_and_bounds_in_help(capsys):
    main(["compare", "--help"])
    printed = capsys.readouterr().out
    assert "  --num_samples=INTEGER (at least 1, default: 500)\n" in printed
    assert "  --extractor=mnist-cnn|inception (default: mnist-cnn)\n" in printed
    assert "  --samplers=TEXT,TEXT,...\n" in printed
    assert "  --[no]fresh (default: off)\n" in printed


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        (["--config.training.steps=7"], ["--config.training.steps=7"]),
        (["-config.training.steps=7"], ["-config.training.steps=7"]),
        (["--config.training.steps", "7"], ["--config.training.steps=7"]),
        (["--config.process.scale", "-7"], ["--config.process.scale=-7"]),
        (["--config.data.path", "a=b"], ["--config.data.path=a=b"]),
        (["--config.data.flip"], ["--config.data.flip"]),
        (["--noconfig.data.flip"], ["--noconfig.data.flip"]),
        (["-noconfig.data.flip"], ["-noconfig.data.flip"]),
        (["--config.training.steps=7", "--config.training.steps=7"], ["--config.training.steps=7"] * 2),
    ],
)
def test_overrides_are_separated_from_flags(arguments, overrides):
    others = ["--config=mnist", "--config", "mnist", "--configure", "run", "config.training.steps=7"]
    for i in (0, 1, 3, 4, 5, 6):
        assert separate_overrides([*others[:i], *arguments, *others[i:]]) == (others, overrides)


@pytest.mark.parametrize("setting", [["--config.data.flip"], ["--config.data.flip=true"], ["-config.data.flip"]])
def test_a_boolean_key_is_set_without_a_value(setting, capsys):
    assert main(["train", *setting, "--config", "mnist", "-dry_run", "--config.training.steps", "7"]) == 0
    printed = capsys.readouterr().out
    assert '"flip": true' in printed
    assert '"steps": 7' in printed
    assert main(["train", "--config=mnist", "--dry_run", *setting, "--noconfig.data.flip"]) == 0
    assert '"flip": false' in capsys.readouterr().out


@pytest.mark.parametrize(
    "code",
    [
        "import ctdiff",
        "from ctdiff.cli import main; assert main(['train', '--config=mnist', '--dry_run']) == 0; "
        "assert not [name for name in ('sample', 'evaluate', 'compare') if f'ctdiff.cli.{name}' in sys.modules]",
        "import ctdiff.evaluation",
    ],
)
def test_a_start_imports_no_templates_and_no_plots(code):
    code = f"import sys; {code}; assert not {{'jinja2', 'matplotlib'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
