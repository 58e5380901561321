"""What a command prints: the result as text or JSON, messages, and progress bars."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import platform
import re
import signal
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctdiff import config as configuration
from ctdiff import figures, https, progress, sample_files, sample_run, trainer
from ctdiff.cli import main
from ctdiff.cli.main import VERBS
from ctdiff.cli.verb import Output, Result, Verb
from ctdiff.comparison import run_cards
from ctdiff.data.folders import image_folder
from ctdiff.evaluation import EXTRACTORS
from ctdiff.runs import RunError
from ctdiff.training.checkpoints import complete_checkpoints

from .small import flags, small
from .tiny_runs import images, pixels, tiny_run

PUBLISHED = Path(__file__).parent / "published" / "mnist_uvit.yaml"
MEASURE = ["--num_samples=12", "--likelihood_images=2", "--draws=4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("runs"), "tiny", "mnist")


@pytest.fixture(autouse=True)
def _small_extractor(monkeypatch):
    """And one preset for the commands on a page, because it takes seconds to load all."""
    monkeypatch.setattr(run_cards, "_presets", lambda: {"mnist": configuration.load("mnist")})
    for name in ("mnist-cnn", "pixels"):
        monkeypatch.setitem(EXTRACTORS, name, lambda *arguments: pixels())


def strict(text):
    """The value of strict JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def printed(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == status
    return capsys.readouterr()


def training(folder):
    return ["train", "--config=mnist", *flags(**images(folder)), f"--workdir={folder / 'run'}"]


FILES = ("samples/final.png", "samples/process.png", "loss.png", "metrics.jsonl")


def test_training_prints_messages_and_its_files(tmp_path, capsys):
    out, err = printed(capsys, *training(tmp_path))
    assert "36 training images, 24 test images, steps 0 .. 4" in out
    losses = re.findall(r"^step (\d) of 4: loss [\d.]+, test loss [\d.]+$", out, re.MULTILINE)
    assert losses == ["2", "4"], "without a terminal there is no bar, so the test loss is a message"
    assert [line.split()[-1] for line in out.splitlines()[-4:]] == [str(tmp_path / "run" / name) for name in FILES]
    assert err == ""
    again, err = printed(capsys, *training(tmp_path), "--quiet")
    assert again.splitlines() == out.splitlines()[-4:], "the run is finished, and its pictures are drawn again"
    assert err == ""
    out, err = printed(capsys, *training(tmp_path), "--json")
    content = {"run": str(tmp_path / "run"), "step": 4, "stopped_by": None, "skipped": 0}
    assert strict(out) == {**content, "files": [str(tmp_path / "run" / name) for name in FILES]}
    assert "is finished (4 steps)" in err


def test_the_folder_of_a_run_as_json_is_the_one_that_was_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    out, _ = printed(capsys, *training(tmp_path)[:-1], "--workdir=~/run", "--json")
    assert strict(out)["run"] == str(tmp_path / "run")


def test_a_stopped_training_has_an_outcome(tmp_path, capsys, monkeypatch):
    record = trainer._Recorder.__call__

    def interrupted(self, step, stop):
        os.kill(os.getpid(), signal.SIGTERM)
        return record(self, step, stop)

    monkeypatch.setattr(trainer._Recorder, "__call__", interrupted)
    out, err = printed(capsys, *training(tmp_path), "--json", status=143)
    assert strict(out) == {"run": str(tmp_path / "run"), "step": 1, "stopped_by": "SIGTERM", "skipped": 0, "files": []}
    assert "continue with: ctdiff train" in err


@pytest.mark.parametrize(
    ("error", "raised"), [(BrokenPipeError(32, "Broken pipe"), RunError), (ZeroDivisionError(), ZeroDivisionError)]
)
def test_a_message_that_cannot_be_written_loses_no_step(error, raised, tmp_path):
    """A closed pipe or a full disk: the training ends with its last step saved, and continues from there."""

    def say(message):
        if message.startswith("step 1 "):
            raise error

    config = small("mnist", **images(tmp_path), saving__validate_every=1, saving__checkpoint_every=9)
    with pytest.raises(raised, match=r"Broken pipe: stopped after step 1, everything is saved" if raised is RunError else None):
        trainer.train(config, tmp_path / "run", say=say)
    assert [step for step, _ in complete_checkpoints(tmp_path / "run" / "checkpoints")] == [1]
    trainer.train(config, tmp_path / "run", resume=True)
    trainer.train(config, tmp_path / "whole")
    one, other = (tmp_path / name / "checkpoints/step_0000004/model.safetensors" for name in ("run", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_the_configuration_as_json(capsys):
    content = strict(printed(capsys, "train", "--config=mnist", "--config.training.steps=7", "--dry_run", "--json").out)
    assert content["config"]["training"]["steps"] == 7
    assert content["cost"]["network"]["parameters"] > 1000
    keys = strict(printed(capsys, "train", "--config=mnist", "--help_config=optimizer.lr", "--json").out)["keys"]
    assert [(key["key"], key["value"], key["allowed"]) for key in keys] == [("optimizer.lr", 0.002, "a number above 0")]


def test_samples_as_json(run, tmp_path, capsys):
    files = [str(tmp_path / "drawn.png"), str(tmp_path / "drawn.npz")]
    command = ["sample", run, "--seeds=3,5", "--steps=1", f"--out={tmp_path / 'drawn'}"]
    assert printed(capsys, *command, "--quiet").out.splitlines() == files
    assert strict(printed(capsys, *command, "--json").out) == {"files": files, "seeds": [3, 5], "labels": None}


def test_measurements_as_json(run, tmp_path, capsys):
    """They are the content of the file, and a quiet command prints the same table as others.

    `comparison/test_study.py` has the same test for a comparison.
    """
    file = tmp_path / "report.json"
    command = ["evaluate", run, *MEASURE, "--steps=1", f"--out={file}"]
    table = printed(capsys, *command).out
    assert table.splitlines()[-1] == str(file)
    assert printed(capsys, *command, "--quiet").out == table
    assert strict(printed(capsys, *command, "--json").out) == json.loads(file.read_text())
    assert strict(printed(capsys, "evaluate", "--repeat", file, "--json").out) == {"different": []}
    content = json.loads(file.read_text())
    content["noise"]["copies"]["value"] = 0.5
    file.write_text(json.dumps(content))
    different = [{"name": "noise.copies.value", "then": 0.5, "now": 0.0}]
    assert strict(printed(capsys, "evaluate", "--repeat", file, "--json", status=1).out) == {"different": different}


def test_an_imported_configuration_as_json(tmp_path, capsys):
    file = tmp_path / "mine.py"
    out, _ = printed(capsys, "import-config", PUBLISHED, f"--out={file}")
    assert out.splitlines()[-1] == str(file)
    content = strict(printed(capsys, "import-config", PUBLISHED, f"--out={file}", "--json").out)
    assert content["file"] == str(file)
    assert f"{len(content['kept'])} keys were translated" in out
    notes = [*content["changed"], *content["dropped"]]
    assert notes
    for note in notes:
        assert f"line {note['line']}: {note['key']} = " in out
        assert note["text"] in out
    assert content["not_understood"] == []


@pytest.mark.parametrize("arguments", [["sample", "absent"], ["train", "--config=mnits"], ["import-config", "absent.py"]])
def test_errors_are_on_standard_error(arguments, capsys):
    for more in (["--quiet"], ["--json"], ["--json", "--quiet"]):
        out, err = printed(capsys, *arguments, *more, status=2)
        assert out == ""
        assert err.startswith("ctdiff: ")


class ClosedPipe(io.StringIO):
    """Standard output whose reader has ended."""

    def flush(self):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("arguments", [["--help"], ["help", "train"], ["info"]])
def test_a_closed_pipe_is_one_line(arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    assert main(arguments) == 2
    assert capsys.readouterr().err == "ctdiff: [Errno 32] Broken pipe\n"


def test_an_interruption_keeps_only_what_is_continued(capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Verb, "run", interrupted)
    continued = ("train", "evaluate", "compare", "verify", "push")
    for name in VERBS:
        assert main([name]) == 130
        kept = "; finished work is kept, run the same command again to continue"
        assert capsys.readouterr().err == f"ctdiff: interrupted{kept * (name in continued)}\n"


def test_numbers_that_are_not_finite_are_texts(capsys):
    Output(quiet=False, json=True).show(Result("", {"values": [math.nan, math.inf, -math.inf, 0.5]}))
    assert strict(capsys.readouterr().out) == {"values": ["nan", "inf", "-inf", 0.5]}


def test_info(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = strict(printed(capsys, "info", "--json").out)
    versions, folders = content["versions"], content["folders"]
    assert (versions["python"], versions["torch"]) == (platform.python_version(), torch.__version__)
    assert versions["numpy"] == np.__version__
    assert content["processor"]["threads of torch"] == torch.get_num_threads()
    assert "cpu" in content["devices"]
    assert folders["runs"] == str(tmp_path / "runs")
    assert folders["data"] == str(tmp_path / "data")
    assert folders["cache of image folders"] == str(Path(os.environ["XDG_CACHE_HOME"]) / "ctdiff" / "images")
    assert content["memory in GiB"]["total"] is None or content["memory in GiB"]["total"] > 0.1
    if {"ctdiff"} & {each.name for each in metadata.distributions()}:
        assert content["required packages"]["tqdm"] == metadata.version("tqdm")
        assert "torch-fidelity" in content["optional packages"]
    text = printed(capsys, "info").out
    for values in content.values():
        for name, value in values.items():
            shown = "-" if value is None else " ".join(value) if isinstance(value, list) else str(value)
            if name != "free":
                assert re.search(rf"^  {re.escape(name)}: +{re.escape(shown)}$", text, re.MULTILINE), name


def test_info_without_an_installation(capsys, monkeypatch):
    """From a folder, and on a system that does not describe its processor and its memory."""

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    monkeypatch.setattr("ctdiff.machine._CPU", Path("/absent"))
    monkeypatch.setattr(os, "sysconf_names", {})
    content = strict(printed(capsys, "info", "--json").out)
    assert content["required packages"] == content["optional packages"] == {}
    assert content["processor"]["vector units"] is None
    assert content["memory in GiB"] == {"total": None, "free": None}


# Progress bars


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self):
        return True


def terminal_of(monkeypatch):
    """A terminal on which bars appear at once."""
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    return shown


def titles(terminal):
    """The titles of the bars that were shown, each with a remaining time."""
    found = re.findall(r"([^\r\n\x1b]+): +\d+%\|[^|]*\| *\d+/\d+ \[\d\d:\d\d<[\d?:]+", terminal.getvalue())
    terminal.seek(0)
    terminal.truncate()
    return {title.strip() for title in found}


def test_long_operations_show_the_remaining_time(run, tmp_path, monkeypatch):
    terminal = terminal_of(monkeypatch)
    commands = {
        ("train", *training(tmp_path)[1:]): {"training", "test loss", "sampling"},
        ("sample", str(run), "--num_samples=2", f"--out={tmp_path / 'a'}"): {"sampling"},
        ("sample", str(run), "--num_samples=2", "--format=png", f"--out={tmp_path / 'b'}"): {"sampling", "writing images"},
        ("evaluate", str(run), *MEASURE, f"--out={tmp_path / 'a.json'}"): {
            *("12 samples of step 4", "features", "bits per dimension", "nearest images", "distances of features"),
            *(f"interval of {name}-{pixels().label}" for name in ("FID", "KID", "precision")),
            "interval of nearer-to-train",
        },
        ("compare", str(run), "--samplers=ancestral", "--calls=2", *MEASURE, f"--out={tmp_path / 'c'}"): {
            *("cells", "counting network calls", "tiny, ancestral, 2 calls", "features", "bits per dimension"),
        },
    }
    for command, expected in commands.items():
        assert main(list(command)) == 0
        assert expected <= titles(terminal), command
        if command[0] in ("sample", "evaluate"):
            assert main([*command, "--quiet", *["--fresh"] * (command[0] == "evaluate")]) == 0
            assert terminal.getvalue() == "", command


def test_a_data_set_shows_the_remaining_time(tmp_path, monkeypatch):
    terminal = terminal_of(monkeypatch)
    for i in range(12):
        Image.fromarray(np.full((9, 9), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    image_folder(tmp_path, image_size=8)
    assert {"reading images", "resizing images"} <= titles(terminal)
    content = bytes(3 << 20)
    monkeypatch.setattr(https.urllib.request, "build_opener", lambda *handlers: Server(content, len(content)))
    assert https.fetch("https://example.org/files/data.gz") == content
    assert "downloading data.gz" in titles(terminal)
    monkeypatch.setattr(https.urllib.request, "build_opener", lambda *handlers: Server(content[:-1], len(content)))
    with pytest.raises(OSError, match=rf"the download has {len(content) - 1} bytes, expected {len(content)}"):
        https.fetch("https://example.org/files/data.gz")


class Server(io.BytesIO):
    """An opener and its response."""

    def __init__(self, content, length):
        super().__init__(content)
        self.length = length

    def open(self, url, timeout):
        return self


def test_bars_are_for_long_operations_on_a_terminal(monkeypatch):
    def shown(stream, *, hide=False, delay=0.0):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "_DELAY", delay)
        with progress.hidden(hide):
            assert list(progress.tracked(range(4), "counting")) == [0, 1, 2, 3]
        return stream.getvalue()

    assert "counting:   0%|" in shown(Terminal())
    assert shown(Terminal(), hide=True) == ""
    assert shown(io.StringIO()) == "", "not a terminal"
    assert shown(Terminal(), delay=2.0) == "", "less than two seconds"
    assert progress._HIDDEN.get() is False


# Samples as files


def test_an_image_is_a_file(run, tmp_path):
    """The pixels are those of the integers, in the size of the data."""
    arrays = np.load(sample_run(run, seeds="0,7", steps=1, out=tmp_path / "grid").files[1])
    drawn = sample_run(run, seeds="0,7", steps=1, out=f"{tmp_path}/folder/", format="png")
    assert drawn.files == (tmp_path / "folder" / "seed_000000.png", tmp_path / "folder" / "seed_000007.png")
    assert sorted((tmp_path / "folder").glob("*.png")) == sorted(drawn.files)
    for path, states in zip(drawn.files, arrays["images"], strict=True):
        with Image.open(path) as picture:
            assert picture.mode == "L"
            assert np.array_equal(np.asarray(picture), np.rint(states[0].astype(float) * 255 / 7))  # of 8 values
    before = [path.read_bytes() for path in drawn.files]
    drawn.files[0].write_bytes(b"old")
    (tmp_path / "folder" / "other.png").write_bytes(b"mine")
    assert sample_run(run, seeds="0,7", steps=1, out=tmp_path / "folder", format="png").files == drawn.files
    assert [path.read_bytes() for path in drawn.files] == before, "replaced, as the files of a grid are"
    assert (tmp_path / "folder" / "other.png").read_bytes() == b"mine"
    (default, *_) = sample_run(run, num_samples=1, steps=1, format="png").files
    assert default == run / "samples" / "ancestral_1_seeds=0_checkpoint=4" / "seed_000000.png"


def test_a_folder_has_images_of_one_record(run, tmp_path, monkeypatch):
    def draw(**changes):
        return sample_run(run, **{"seeds": "0,7", "steps": 1, "out": tmp_path / "folder", "format": "png", **changes})

    draw()
    record = json.loads((tmp_path / "folder" / "samples.json").read_text())
    assert (record["step"], record["seeds"], record["labels"]) == (4, "0,7", None)
    assert (record["sampler"]["name"], record["sampler"]["steps"]) == ("ancestral", 1)
    before = {path: path.read_bytes() for path in (tmp_path / "folder").iterdir()}
    others = {"seeds": "0", "steps": 2, "sampler": "euler", "checkpoint": 2, "ema": False}
    for key, value in others.items():
        with pytest.raises(ValueError, match=r"folder has other samples: .* was .*, now .*Choose another --out"):
            draw(**{key: value})
    assert {path: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == before
    (tmp_path / "folder" / "samples.json").unlink()
    with pytest.raises(ValueError, match="has images whose record cannot be read"):
        draw()
    with pytest.raises(ValueError, match=r"out = '.*a_1\.png', expected a folder without a suffix"):
        draw(out=tmp_path / "a_1.png")


def test_a_fresh_start_deletes_the_folders_of_images(tmp_path):
    """And the checkpoints last: if something else cannot be deleted, the run goes on."""
    run = tiny_run(tmp_path, "run", "mnist")
    drawn = [sample_run(run, num_samples=2, steps=1, format="png", out=out) for out in (None, run / "samples" / "mine")]
    (run / "samples" / "mine" / "notes.txt").write_text("mine")
    (run / "loss.png").unlink()
    (run / "loss.png").mkdir()
    config = configuration.from_json((run / "config.json").read_text())
    with pytest.raises(RunError, match="cannot be written"):
        trainer.train(config, run, fresh=True)
    assert [step for step, _ in complete_checkpoints(run / "checkpoints")] == [2, 4]
    (run / "loss.png").rmdir()
    trainer.train(config, run, fresh=True)
    assert not drawn[0].files[0].parent.exists()
    assert [path.name for path in (run / "samples" / "mine").iterdir()] == ["notes.txt"]


def test_pictures_are_written_atomically(run, tmp_path, monkeypatch):
    """If writing stops in the middle, for example on a full disk, the old files stay complete."""
    states, new = torch.zeros(2, 1, 4, 4, dtype=torch.long), torch.ones(2, 1, 4, 4, dtype=torch.long)
    writers = {
        "grid.png": lambda x: figures.save_grid(tmp_path / "grid.png", x, 8),
        "frames.gif": lambda x: figures.save_animation(tmp_path / "frames.gif", [x, x], 8),
        "table.png": lambda x: figures.save_table(tmp_path / "table.png", [[figures.to_pixels(x, 8)[0]]], ["a"], ["b"]),
        "loss.png": lambda x: figures.loss_curve(tmp_path / "loss.png", [{"step": 1, "loss": 1.0 + float(x.max())}]),
        "out/seed_000000.png": lambda x: sample_run(run, num_samples=1, steps=1, out=tmp_path / "out", format="png"),
        "theirs_ctdiff.py": lambda x: main(["import-config", str(PUBLISHED), f"--out={tmp_path / 'theirs_ctdiff.py'}"]),
    }
    for write in writers.values():
        write(states)
    before = {name: (tmp_path / name).read_bytes() for name in writers}
    assert all(before.values())
    (tmp_path / "out" / "seed_000000.png").write_bytes(before["grid.png"])  # not what will be drawn
    before["out/seed_000000.png"] = before["grid.png"]

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(sample_files, "write_record", lambda *arguments: None)  # it would fail before the image
    for name, write in writers.items():
        if name == "theirs_ctdiff.py":
            assert write(new) == 2
        else:
            with pytest.raises(OSError, match="No space left"):
                write(new)
        assert (tmp_path / name).read_bytes() == before[name], name


def test_the_file_of_an_image_has_its_class(tmp_path):
    run = tiny_run(tmp_path, "guided", "mnist_guided")
    files = sample_run(run, seeds="1,2,3", labels="4,9", steps=1, out=tmp_path / "out", format="png").files
    assert [path.name for path in files] == ["seed_000001_class_4.png", "seed_000002_class_9.png", "seed_000003_class_4.png"]


def test_mistakes_in_the_format(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (["--format=jpg"], "flag --format=jpg: value should be one of <grid|png>"),
        (["--format=png", "--gif"], "gif = True, expected False: the format png"),
        (["--format=png", "--seeds=1,2,1"], "two images would be written to seed_000001.png, expected different seeds"),
        (["--format=png", f"--out={tmp_path / 'file'}"], f"out = '{tmp_path / 'file'}' cannot be written"),
    ):
        assert message in printed(capsys, "sample", run, *arguments, status=2).err
    with pytest.raises(ValueError, match="format = 'jpg', expected one of grid, png"):
        sample_run(run, format="jpg")


def test_colours_are_kept(tmp_path):
    from ctdiff.figures import image_pngs

    states = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5) % 7
    for png, image in zip(image_pngs(states, 7), states, strict=True):
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.mode == "RGB"
            assert np.array_equal(np.asarray(picture), np.rint(image.permute(1, 2, 0).numpy() * 255 / 6))
