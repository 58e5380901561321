"""The scripts of `ctdiff completion`, executed by the shells that they are for."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from types import ModuleType

import pytest

from ctdiff import model_folder
from ctdiff.cli import completion, main, sample
from ctdiff.cli.verb import Result, Verb
from ctdiff.config import preset_names

VERBS = [
    "train", "sample", "evaluate", "compare", "models", "verify", "push", "pull", "import-config", "info", "completion"
]  # fmt: skip


def script(shell, capsys):
    capsys.readouterr()
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def flags_in_help(name, capsys):
    """The flags that help explains, as they are typed: with `=` if they need a value."""
    capsys.readouterr()
    assert main([name, "--help"]) == 0
    found = re.findall(r"^  (?:-h,)?--(\[no\])?(\w+): ", capsys.readouterr().out, re.MULTILINE)
    return {f"--{flag}" if boolean else f"--{flag}=" for boolean, flag in found} - {"--h"}


def completed(text, lines, folder):
    """The words that bash suggests at the end of each line, in a folder.

    Readline divides a line at spaces and at `=`, which is a word of its own.
    """
    parts = [text]
    for line in lines:
        words = re.findall(r"""=|["'].*|(?:\\.|[^\s=])+""", line)
        words += [""] * line.endswith(" ")
        parts += [
            f"COMP_WORDS=({' '.join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1} COMPREPLY=()",
            "_ctdiff ctdiff",
            r"""printf '%s\n' "${COMPREPLY[@]}" END""",
        ]
    done = subprocess.run(["bash", "--norc"], input="\n".join(parts), cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    answers = done.stdout.split("END\n")[:-1]
    return [[word for word in answer.splitlines() if word] for answer in answers]


@pytest.fixture(autouse=True)
def _models(tmp_path_factory, monkeypatch):
    """One model in place of those of the package."""
    models = tmp_path_factory.mktemp("package")
    (models / "digits").mkdir()
    (models / "digits" / "card.yaml").write_text("")
    monkeypatch.setattr(model_folder, "MODELS", models)


@pytest.fixture
def folder(tmp_path):
    for name in ("runs/mnist", "results"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("mine.py", "runs.txt", "my results.json"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(folder, capsys):
    guided = [name for name in preset_names() if name.startswith("mnist_g")]
    assert guided
    expected = {
        "ctdiff ": VERBS,
        "ctdiff com": ["compare", "completion"],
        "ctdiff train --config=": [*preset_names(), "mine.py", "my results.json", "results", "runs", "runs.txt"],
        "ctdiff train --config=mnist_g": guided,
        "ctdiff train --config mnist_g": guided,
        "ctdiff train --resume --config=mi": ["mine.py"],
        "ctdiff train --workdir=ru": ["runs"],
        "ctdiff train --config=mnist --workdir=runs/": ["runs/mnist"],
        "ctdiff train ": [],
        "ctdiff sample r": ["results", "runs"],
        "ctdiff sample ": ["digits", "results", "runs"],
        "ctdiff verify d": ["digits"],
        "ctdiff pull d": ["digits"],
        "ctdiff evaluate --steps=3 d": ["digits"],
        "ctdiff push ": ["results", "runs"],
        "ctdiff sample --gif r": ["results", "runs"],
        "ctdiff sample runs/mnist --format=": ["grid", "png"],
        "ctdiff sample runs/mnist --out=r": ["results", "runs", "runs.txt"],
        "ctdiff sample runs/mnist --num_samples=": [],
        "ctdiff compare runs/mnist r": ["results", "runs"],
        "ctdiff compare runs/mnist di": ["digits"],
        "ctdiff evaluate --repeat=my": ["my results.json"],
        "ctdiff import-config m": ["mine.py", "my results.json"],
        "ctdiff completion ": ["bash", "zsh", "fish"],
        "ctdiff info ": [],
        "ctdiff absent ": [],
    }
    found = completed(script("bash", capsys), expected, folder)
    assert {line: sorted(words) for line, words in zip(expected, found, strict=True)} == {
        line: sorted(words) for line, words in expected.items()
    }


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_paths_with_special_letters(tmp_path, capsys):
    """With patterns, which are no patterns here, with spaces, and words that the user has begun to quote."""
    for name in ("run1", "run[1]", "a*b", "axb", "my runs"):
        (tmp_path / name).mkdir()
    expected = {
        "ctdiff sample ": ["a*b", "axb", "digits", "my runs", "run1", "run[1]"],
        "ctdiff sample r": ["run1", "run[1]"],
        r"ctdiff sample my\ r": ["my runs"],
        'ctdiff sample "my r': ["my runs"],
        "ctdiff sample 'my r": ["my runs"],
        r"ctdiff sample run\[": ["run[1]"],
        r"ctdiff sample a\*": ["a*b"],
        r"ctdiff train --workdir=my\ r": ["my runs"],
    }
    found = completed(script("bash", capsys), expected, tmp_path)
    assert dict(zip(expected, map(sorted, found), strict=True)) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_every_flag(folder, capsys):
    found = completed(script("bash", capsys), [f"ctdiff {name} --" for name in VERBS], folder)
    for name, words in zip(VERBS, found, strict=True):
        assert set(words) == flags_in_help(name, capsys)
        assert len(words) == len({*words})


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_if_equals_signs_are_no_words(folder, capsys):
    """As after `COMP_WORDBREAKS=${COMP_WORDBREAKS//=}`."""
    command = "COMP_WORDS=(ctdiff train --config=mnist_ab) COMP_CWORD=2; _ctdiff; echo ${COMPREPLY[@]}"
    done = subprocess.run(
        ["bash", "--norc"], input=script("bash", capsys) + command, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("--config=mnist_absorbing\n", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_new_verbs_and_flags_are_completed(folder, capsys, monkeypatch):
    def paint(*, colour: str = "red", bold: bool = False) -> Result:
        """Paint.

        Arguments:
            colour: the colour.
            bold: thick lines.
        """
        return Result("", {})

    module = ModuleType("ctdiff.cli.paint")
    module.VERB = Verb(paint)
    monkeypatch.setitem(sys.modules, "ctdiff.cli.paint", module)
    for place in (importlib.import_module("ctdiff.cli.main"), completion):
        monkeypatch.setattr(place, "VERBS", (*VERBS, "paint"))
    monkeypatch.setattr(sample, "VERB", Verb(sample.sample, reads=(*sample.VERB.reads, paint)))
    found = completed(script("bash", capsys), ["ctdiff pa", "ctdiff paint --b", "ctdiff sample --colo"], folder)
    assert found == [["paint"], ["--bold"], ["--colour="]]
    assert "complete -c ctdiff -n '__fish_seen_subcommand_from sample' -l colour -d 'The colour'" in script("fish", capsys)
    assert "'--colour=[The colour]:value:" in script("zsh", capsys)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_its_script(capsys):
    done = subprocess.run(["zsh", "-f", "-n"], input=script("zsh", capsys), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(folder, capsys):
    for line, expected in (
        ("ctdiff tr", ["train"]),
        ("ctdiff train --config=mnist_ab", ["--config=mnist_absorbing"]),
        ("ctdiff sample ru", ["runs/"]),
        ("ctdiff sample di", ["digits"]),
    ):
        text = f"{script('fish', capsys)}\ncomplete -C {shlex.quote(line)}"
        done = subprocess.run(["fish", "-N"], input=text, cwd=folder, capture_output=True, text=True, timeout=60)
        assert [answer.split("\t")[0] for answer in done.stdout.splitlines()] == expected


def test_a_shell_that_there_is_not(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "shell = 'tcsh', expected one of bash, zsh, fish" in capsys.readouterr().err
