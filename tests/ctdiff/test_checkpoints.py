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

from ctdiff.files import remove_leftovers, write_atomically
from ctdiff.training import (
    CheckpointError,
    ConstantFactor,
    MetricsFile,
    MovingAverage,
    TrainingState,
    complete_checkpoints,
    fit,
    load_weights,
    write_checkpoint,
)
from ctdiff.training.checkpoints import read_state, read_weights
from diffusion_core import Objective, StratifiedTimes, UniformGrid
from discrete_diffusion import CTMC, CrossEntropy, X0Denoiser
from discrete_diffusion.rates import UniformRates
from discrete_diffusion.samplers import Ancestral
from discrete_diffusion.schedules import Constant

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
    with pytest.raises(CheckpointError, match="is not part of a checkpoint of ctdiff"):
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
    with pytest.raises(CheckpointError, match=r"state\.pt belongs to another training"):
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


class _Tied(nn.Module):
    """Logits (B, D, 5) of states (B, D): the same matrix embeds the values and reads them out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)
        self.head.weight = self.embedding.weight

    def forward(self, x_t, t):
        h = self.embedding(x_t)
        return self.head(torch.tanh(self.body(h + h.mean(1, keepdim=True))))


class _TiedBatches:
    def __getitem__(self, step):
        return torch.randint(5, (8, 3), generator=torch.Generator().manual_seed(step)), {}


def _tied(seed):
    """A training of a network with tied weights, and a sampler of its average."""
    torch.manual_seed(seed)
    network = _Tied()
    process = CTMC(UniformRates(5), Constant(3.0))
    average, optimizer = MovingAverage(network, 0.5), torch.optim.AdamW(network.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, ConstantFactor(2))
    objective = Objective(X0Denoiser(process, network, event_shape=(3,)), CrossEntropy(), StratifiedTimes())
    sampler = Ancestral(X0Denoiser(process, average.module, event_shape=(3,)).eval(), UniformGrid(5))
    return objective, sampler, TrainingState(network, average, optimizer, scheduler)


def _train_tied(folder, seed, until, steps=6):
    objective, sampler, state = _tied(seed)
    start, _ = state.restore(folder)
    loop = fit(
        objective, _TiedBatches(), state.optimizer, steps=steps, ema=state.ema, scheduler=state.scheduler, clip=1.0, start=start
    )
    for step in loop:
        state.save(folder, step.step)
        if step.step == until:
            break
    for network in (state.network, state.ema.module):
        assert network.head.weight is network.embedding.weight
    return sampler.sample(16, seeds=range(16)), state


def test_a_network_with_tied_weights_is_saved_resumed_and_sampled(tmp_path):
    expected, whole = _train_tied(tmp_path / "whole", 0, 6)
    _train_tied(tmp_path / "cut", 0, 3)
    found, resumed = _train_tied(tmp_path / "cut", 1, 6)  # made with other weights, which the checkpoint replaces
    assert toy.weights(tmp_path / "whole", 6) == toy.weights(tmp_path / "cut", 6)
    assert torch.equal(found, expected)
    for one, other in ((whole.network, resumed.network), (whole.ema.module, resumed.ema.module)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)
    for a, b in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    file = tmp_path / "cut" / "step_0000006" / "model.safetensors"
    assert sorted(read_weights(file)) == ["body.bias", "body.weight", "embedding.weight", "head.bias"], "each tensor once"
    assert file.stat().st_size < 4 * (5 * 8 + 8 * 8 + 8 + 5) + 512, "and once on the disk"


def test_tied_and_untied_networks_are_different_networks(tmp_path):
    network = _Tied()
    tied = write_checkpoint(tmp_path, 1, {"model": network.state_dict()}, {}) / "model.safetensors"
    network.head.weight = nn.Parameter(network.embedding.weight.detach().clone())
    with pytest.raises(
        CheckpointError, match=r"belongs to another network: only the network has 'head\.weight' \(1 such names\)"
    ):
        load_weights(network, tied)
    untied = write_checkpoint(tmp_path, 2, {"model": network.state_dict()}, {}) / "model.safetensors"
    other = _Tied()
    load_weights(other, untied)  # two tensors of equal values are what the one holds
    assert torch.equal(other.head.weight, network.head.weight)
    network.head.weight.data[0, 0] += 1
    untied = write_checkpoint(tmp_path, 3, {"model": network.state_dict()}, {}) / "model.safetensors"
    with pytest.raises(
        CheckpointError, match=r"'head\.weight' and 'embedding\.weight' differ, the network has one tensor for both"
    ):
        load_weights(other, untied)


class _Views(nn.Module):
    """Parameters and buffers that overlap, that are not contiguous, or that are empty."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6).t())
        self.kernel = nn.Parameter(torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last))
        table = torch.randn(5, 4)
        buffers = {
            "first_row": self.weight.detach()[0],
            "table": table,
            "rows": table[1:3],
            "overlapping": table[2:4],
            "again": table,
            "transposed": table.t(),
            "every_second": table[:, ::2],
            "begins_alike": table[:5, :2],
            "as_integers": table.view(torch.int32),
            "no_rows": table[:0],
            "no_columns": table[:, :0],
        }
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return x @ self.weight[:4] @ self.weight[2:].t() * self.kernel.square().mean() + self.rows[0]


def _views(seed):
    torch.manual_seed(seed)
    network = _Views()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, ConstantFactor(2))
    return TrainingState(network, MovingAverage(network, 0.5), optimizer, scheduler)


def test_views_and_other_layouts_are_saved_and_resumed_bit_for_bit(tmp_path):
    def train(folder, seed, until):
        state = _views(seed)
        start, _ = state.restore(folder)
        steps = fit(toy.ToyObjective(state.network), toy.ToyBatches(), state.optimizer, steps=until, ema=state.ema, start=start)
        for step in steps:
            state.save(folder, step.step)
        return state

    whole = train(tmp_path / "whole", 0, 4)
    train(tmp_path / "cut", 0, 2)
    resumed = train(tmp_path / "cut", 1, 4)
    assert toy.weights(tmp_path / "whole", 4) == toy.weights(tmp_path / "cut", 4)
    tensors, network = read_weights(tmp_path / "cut" / "step_0000004" / "model.safetensors"), resumed.network
    assert set(network.state_dict()) - set(tensors) == {"again"}, "one tensor of two names; views are beside their base"
    for one, other in ((whole.network, network), (whole.ema.module, resumed.ema.module)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)
            assert other.state_dict()[name].stride() == tensor.stride()
    for a, b in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert all(torch.equal(a[name], b[name]) and a[name].stride() == b[name].stride() for name in a)
    network.table.zero_()
    network.weight.data.zero_()
    assert not any(buffer.any() for buffer in network.buffers()), "what was a view still is one"


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
