"""A model is copied only as what its card says, and nothing in it is executed."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ctdiff import hub, load_run, pretrained
from ctdiff.card import read_card
from ctdiff.cli import main
from ctdiff.files import FolderError
from ctdiff.hashes import bytes_hash
from ctdiff.model_folder import FILES, ModelError, model_folder
from ctdiff.models import pull_model
from ctdiff.recipe import ConfigError, user_classes
from ctdiff.run_folder import RunError
from ctdiff.training.checkpoints import CheckpointError, encode_weights, read_weights

from .tiny_models import push, rewrite


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def put(model, name, content):
    """Write a file, and its hash on the card."""
    (model / name).write_bytes(content)
    key = {"config.json": "config", "model.safetensors": "weights", "classes.json": "classes"}[name]
    rewrite(model, files=replace(read_card(model / "card.yaml").files, **{key: bytes_hash(content)}))


def test_a_copy_has_the_files_of_a_model_and_no_others(copy, capsys):
    (copy / "evil.py").write_text("raise SystemExit")
    (copy / "model.pt").write_bytes(b"")
    (copy / "__init__.py").write_text("raise SystemExit")
    assert main(["pull", "copy"]) == 0
    assert capsys.readouterr().out == "models/tiny\n"
    target = copy.parent / "models" / "tiny"
    assert contents(target) == {name: (copy / name).read_bytes() for name in FILES}
    one, two = (pretrained(folder).denoiser.state_dict() for folder in (copy, target))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert main(["pull", "copy"]) == 2
    assert "models/tiny exists, expected a new folder; --fresh replaces the model" in capsys.readouterr().err
    (target / "grid.png").unlink()
    assert main(["pull", "copy", "--fresh"]) == 0
    assert (target / "grid.png").is_file()


def altered_weights(model):
    tensors = read_weights(model / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1
    (model / "model.safetensors").write_bytes(encode_weights(tensors))


ALTERED = {
    "config.json": lambda model: (model / "config.json").write_text((model / "config.json").read_text() + " "),
    "model.safetensors": altered_weights,
    "classes.json": lambda model: (model / "classes.json").write_text(json.dumps(["a"] * 10)),
    "grid.png": lambda model: (model / "grid.png").write_bytes(b"GIF89a"),
    "card.yaml": lambda model: (model / "card.yaml").write_text("name: x\n"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_file_is_refused(name, copy):
    ALTERED[name](copy)
    with pytest.raises(ModelError, match=rf"copy/{re.escape(name)} (is missing|was altered|is no PNG picture|is no card)"):
        pull_model("copy", out="new")
    if name != "grid.png":
        with pytest.raises(ModelError, match=f"copy/{re.escape(name)} (was altered|is no card)"):
            _ = pretrained(copy).class_names
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy", "images_0_60.npz"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "classes.json", "grid.png", "card.yaml"])
def test_a_missing_file_is_refused(name, copy):
    (copy / name).unlink()
    with pytest.raises(ModelError, match=re.escape(name)):
        pull_model("copy", out="new")
    assert not (copy.parent / "new").exists()


def test_a_file_without_a_hash_is_not_copied(copy):
    """An older version of a model on the hub may have had names of classes."""
    rewrite(copy, files=replace(read_card(copy / "card.yaml").files, classes=None))
    assert pretrained(pull_model("copy", out="new")).class_names == ()
    assert not (copy.parent / "new" / "classes.json").exists()


def test_deep_nesting_is_refused(copy):
    put(copy, "classes.json", b"[" * 100_000)
    with pytest.raises(RunError, match=r"classes.json cannot be read"):
        pull_model("copy", out="new")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/etc/passwd", "passwd"), ("../../a.npz", "a.npz"), ("~/a.npz", "a.npz"), ("~root", "root"), ("..", ""), ("a/..", "")],
)
def test_a_configuration_chooses_no_folder(path, expected, copy):
    config = json.loads((copy / "config.json").read_text())
    config["data"]["array"]["path"] = path
    put(copy, "config.json", json.dumps(config).encode())
    assert model_folder(copy).read_config().data.array.path == expected


@pytest.mark.parametrize("name", FILES)
def test_links_are_refused(name, copy, tmp_path):
    secret = tmp_path / "secret"
    shutil.copyfile(copy / name, secret)
    (copy / name).unlink()
    (copy / name).symlink_to(secret)
    with pytest.raises(ModelError, match=rf"{re.escape(name)} is no plain file"):
        pull_model("copy", out="new")
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(ModelError, match=re.escape(name)):
        pull_model("copy", out="new")
    assert not (tmp_path / "new").exists()


def test_a_target_that_is_a_link_or_a_file_is_refused(copy, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(ModelError, match="exists and is no folder"):
            pull_model("copy", out=name, fresh=True)
    assert not list((tmp_path / "other").iterdir())
    assert pull_model("copy", out="other") == Path("other")  # an empty folder


class Evil:
    def __reduce__(self):
        return (sys.exit, ("executed",))


def test_a_pickle_is_not_loaded(copy):
    for content in (pickle.dumps(Evil()), b"\x80\x04.", b""):
        put(copy, "model.safetensors", content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            pull_model("copy", out="new")
    assert not (copy.parent / "new").exists()


def test_weights_of_another_network_are_refused(copy):
    tensors = read_weights(copy / "model.safetensors")
    put(copy, "model.safetensors", encode_weights(dict(list(tensors.items())[1:])))
    with pytest.raises(CheckpointError, match="belongs to another network"):
        pull_model("copy", out="new")


def test_the_number_of_parameters_is_compared(copy):
    rewrite(copy, architecture=replace(read_card(copy / "card.yaml").architecture, parameters=7))
    with pytest.raises(ModelError, match="parameters, the card has 7"):
        pull_model("copy", out="new")


def test_a_configuration_chooses_nothing_that_is_executed(copy, tmp_path, monkeypatch, capsys):
    (tmp_path / "pulled_evil.py").write_text(
        "from pathlib import Path\n"
        "from continuous_diffusion import schedules\n"
        "Path('executed').touch()\n"
        "class Mine(schedules.CosineSchedule):\n"
        '    """The cosine schedule."""\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(user_classes, "_TRUSTED", set())
    config = json.loads((copy / "config.json").read_text())
    config["process"]["schedule"] = {"name": "pulled_evil:Mine"}
    put(copy, "config.json", json.dumps(config).encode())
    with pytest.raises(ConfigError, match="--trust=pulled_evil allows it"):
        pull_model("copy", out="new")
    for words in (["pull", "copy", "--out=new"], ["sample", "copy"], ["verify", "copy", "--quick"]):
        assert main(words) == 2
        assert "--trust=pulled_evil allows it" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "new").exists()
    assert main(["pull", "copy", "--out=new", "--trust=pulled_evil"]) == 0
    assert (tmp_path / "executed").exists()


def test_what_is_no_model(copy, tiny):
    with pytest.raises(ModelError, match=r"is not a model, expected .*a folder with card.yaml"):
        pull_model(str(tiny.run))
    with pytest.raises(ModelError, match="is not a model"):
        pretrained("absent")


# The hub. Its library is replaced by one that keeps repositories in a folder, because tests are offline.


class Library:
    """The functions of huggingface_hub that are used."""

    def __init__(self, folder):
        self.folder, self.calls = folder, []

    def HfApi(self):
        return self

    def snapshot_download(self, name, allow_patterns, local_dir):
        self.calls.append(name)
        if not (self.folder / name).is_dir():
            raise OSError("Repository Not Found")
        local_dir.mkdir(parents=True, exist_ok=True)
        for path in (self.folder / name).iterdir():
            if path.name in allow_patterns:
                shutil.copyfile(path, local_dir / path.name)

    def repo_exists(self, name):
        return (self.folder / name).is_dir()

    def file_exists(self, name, file):
        return (self.folder / name / file).is_file()

    def create_repo(self, name, exist_ok):
        assert exist_ok
        (self.folder / name).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


@pytest.fixture
def library(tmp_path, monkeypatch):
    made = Library(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    hub.downloaded.cache_clear()
    yield made
    hub.downloaded.cache_clear()


def test_a_model_goes_to_the_hub_and_comes_back(copy, tiny, library, tmp_path):
    card = push(tiny.run, "hub:me/mine")
    assert card.name == "mine"
    assert sorted(path.name for path in (tmp_path / "hub/me/mine").iterdir()) == sorted(FILES)
    (tmp_path / "hub/me/mine/evil.py").write_text("")
    with pytest.raises(FolderError, match="hub:me/mine exists, expected a new name; --fresh"):
        push(tiny.run / "absent", "hub:me/mine")  # before the run is measured
    push(tiny.run, "hub:me/mine", fresh=True)
    run = load_run("hub:me/mine")
    assert run.path.as_posix() == "runs/mine"
    assert not (run.folder.path / "evil.py").exists()
    target = pull_model("hub:me/mine", out="pulled")
    assert contents(target) == {name: (tmp_path / "hub/me/mine" / name).read_bytes() for name in FILES}
    assert library.calls == ["me/mine"], "a process downloads a model once"


def test_errors_of_the_hub(library, monkeypatch):
    with pytest.raises(FolderError, match="hub:me/absent cannot be downloaded: Repository Not Found"):
        pretrained("hub:me/absent")
    for wrong in ("hub:absent", "hub:../x", "hub:a/../b", "hub:a/..", "hub:"):
        with pytest.raises(ValueError, match=re.escape(f"{wrong!r} is no model on the hub, expected hub:user/name")):
            pretrained(wrong)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FolderError, match=re.escape("pip install 'ctdiff[hub]'")):
        pretrained("hub:me/mine")


def test_without_a_network_the_message_is_one_line(capsys):
    pytest.importorskip("huggingface_hub")
    assert main(["sample", "hub:me/mine"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("ctdiff: hub:me/mine cannot be downloaded: ")
    assert len(printed.splitlines()) == 1
