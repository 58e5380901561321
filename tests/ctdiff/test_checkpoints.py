"""Checkpoints: whole or absent, refused when touched, and continued from bit for bit."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from ctdiff.training import CheckpointError, MetricsFile, TrainingState, complete_checkpoints, load_weights, write_checkpoint
from ctdiff.training.checkpoints import read_state, read_weights, remove_leftovers, write_atomically

from . import toy


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of steps 3, 4 and 5."""
    toy.run(tmp_path, steps=5, keep=3)
    return tmp_path


def test_layout_and_how_many_are_kept(tmp_path):
    toy.run(tmp_path, steps=5, keep=2)
    assert [step for step, _ in complete_checkpoints(tmp_path)] == [4, 5]
    newest = tmp_path / "step_0000005"
    assert sorted(path.name for path in newest.iterdir()) == ["ema.safetensors", "model.safetensors", "state.pt"]
    with pytest.raises(ValueError, match="keep = 0"):
        write_checkpoint(tmp_path, 6, {}, {}, keep=0)


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_resumed_training_equals_the_uninterrupted_one_bit_for_bit(tmp_path, cut):
    whole = toy.run(tmp_path / "whole", steps=8)
    first = toy.run(tmp_path / "cut", steps=8, until=cut)
    torch.rand(7), np.random.rand(3)  # noqa: NPY002 - what a restart does to global random states
    second = toy.run(tmp_path / "cut", steps=8)
    for a, b in zip(whole, first + second, strict=True):
        assert (a.step, a.loss, a.grad_norm, a.lr) == (b.step, b.loss, b.grad_norm, b.lr)
    assert toy.weights(tmp_path / "whole", 8) == toy.weights(tmp_path / "cut", 8)
    one, other = (read_state(tmp_path / name / "step_0000008" / "state.pt") for name in ("whole", "cut"))
    assert one["ema_updates"] == other["ema_updates"] == 8
    assert one["scheduler"] == other["scheduler"]
    assert torch.equal(one["random"]["torch"], other["random"]["torch"])
    for a, b in zip(one["optimizer"]["state"].values(), other["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_random_states_of_python_and_numpy_come_back(tmp_path):
    import random

    _, state = toy.make(2)
    state.save(tmp_path, 1)
    expected = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002
    state.restore(tmp_path)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected  # noqa: NPY002


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _empty, _alter, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "state.pt"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_taken(saved, damage, name):
    broken = saved / "step_0000005" / name
    damage(broken)
    _, state = toy.make(5)
    step, errors = state.restore(saved)
    assert step == 4
    assert len(errors) == 1
    assert str(broken) in str(errors[0])
    continued = toy.run(saved, steps=5, keep=3)  # and the broken one is written anew
    assert [step.step for step in continued] == [5]
    assert state.restore(saved) == (5, [])


def test_no_readable_checkpoint_is_an_error(saved):
    for _, path in complete_checkpoints(saved):
        _truncate(path / "state.pt")
    with pytest.raises(CheckpointError, match=r"no checkpoint can be read: .*step_0000005.*step_0000003"):
        toy.make(5)[1].restore(saved)


def test_nothing_is_not_an_error(tmp_path):
    assert toy.make(5)[1].restore(tmp_path / "absent") == (0, [])


class _Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_no_pickle_is_executed(saved, tmp_path):
    mark = tmp_path / "executed"
    torch.save({"format": "ctdiff-1", "step": 5, "optimizer": _Bomb(str(mark))}, saved / "step_0000005" / "state.pt")
    with pytest.raises(CheckpointError, match=r"state.pt cannot be read"):
        read_state(saved / "step_0000005" / "state.pt")
    (saved / "plain.pt").write_bytes(pickle.dumps(_Bomb(str(mark))))
    with pytest.raises(CheckpointError, match=r"plain.pt cannot be read"):
        read_state(saved / "plain.pt")
    assert not mark.exists()


def test_foreign_files_are_refused(tmp_path):
    network = nn.Linear(3, 2)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(safetensors.torch.save(network.state_dict()))
    with pytest.raises(CheckpointError, match="is not of a checkpoint of ctdiff"):
        read_weights(foreign)
    torch.save([1, 2], tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="is not a checkpoint of ctdiff"):
        read_state(tmp_path / "foreign.pt")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state(tmp_path / "some.zip")


def test_weights_of_another_network_are_refused(tmp_path):
    path = write_checkpoint(tmp_path, 1, {"model": nn.Linear(3, 2).state_dict()}, {}) / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"'weight' has shape \(2, 3\), the network expects \(2, 4\)"):
        load_weights(nn.Linear(4, 2), path)
    with pytest.raises(CheckpointError, match="only the file has 'bias'"):
        load_weights(nn.Linear(3, 2, bias=False), path)
    with pytest.raises(CheckpointError, match=r"only the network has '0\.bias'"):
        load_weights(nn.Sequential(nn.Linear(3, 2)), path)
    load_weights(nn.Linear(3, 2), path)


def test_an_optimiser_of_another_training_is_refused(saved):
    _, state = toy.make(5)
    other = TrainingState(state.network, state.ema, torch.optim.SGD(state.network.parameters(), 0.1), state.scheduler)
    with pytest.raises(CheckpointError, match=r"state\.pt is of another training"):
        other.load(saved / "step_0000005")


def test_every_dtype_and_layout_survives(tmp_path):
    tensors = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "half": torch.randn(5).bfloat16(),
        "strided": torch.randn(4, 6).t(),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "counts": torch.arange(5),
    }
    found = read_weights(write_checkpoint(tmp_path, 1, {"model": tensors}, {}) / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_half_written_folders_are_no_checkpoints_and_are_cleaned_up(saved):
    for name in (".writing_step_0000006_1", ".deleting_step_0000001_1"):
        (saved / name).mkdir()
        (saved / name / "state.pt").write_bytes(b"half")
    (saved / ".writing_config.json_1").write_text("half")
    (saved / "step_tmp").mkdir()
    assert [step for step, _ in complete_checkpoints(saved)] == [3, 4, 5]
    remove_leftovers(saved)
    assert not list(saved.glob(".*"))


def test_metrics_are_cut_at_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    for step in range(1, 5):
        metrics.write({"step": step, "loss": float("nan") if step == 2 else step / 2})
    metrics.flush()
    metrics.close()
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # the process was killed here
    again = MetricsFile(path, step=3)
    again.write({"step": 4, "loss": 9.0})
    again.close()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, None), (3, 1.5), (4, 9.0)]
    assert MetricsFile.read(tmp_path / "absent") == []


def test_atomic_writing_replaces(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_torch_save_writes_what_we_check():
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    assert zipfile.ZipFile(buffer).testzip() is None  # the archive has checksums, and they are right


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
def test_thirty_kills_at_random_moments_never_leave_an_unloadable_run(tmp_path):
    script = Path(__file__).with_name("kill_nine.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "30"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 30
    assert len(set(result["reached"])) > 3, "the kills are all at the same moment"
