"""A training that has come to nothing says so, keeps what it had, and is not sampled in silence."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from ctdiff import fit, load_run, recipe, train, trainer
from ctdiff.cli import main
from ctdiff.comparison import compare_runs
from ctdiff.evaluation import evaluate_run, run_bits_per_dim
from ctdiff.runs import RunFolder
from ctdiff.training import CheckpointError
from ctdiff.training.checkpoints import not_finite, read_state, read_weights, write_checkpoint
from diffusion_core import NotFiniteError

from .small import flags, small
from .tiny_runs import images, pixels, tiny_run
from .toy import ToyBatches, make

ENGINES = ["mnist", "mnist_ddpm"]


def _spoil(run: Path, step: int, value: float) -> Path:
    """Put a value into the averaged weights of a checkpoint; returns the checkpoint."""
    checkpoint = RunFolder(run).checkpoints / f"step_{step:07d}"
    weights = {file: read_weights(checkpoint / f"{file}.safetensors") for file in ("model", "ema")}
    weights["ema"][min(weights["ema"])].view(-1)[0] = value
    state = read_state(checkpoint / "state.pt")
    return write_checkpoint(checkpoint.parent, step, weights, state)


@pytest.mark.parametrize("preset", ENGINES)
def test_a_learning_rate_that_destroys_the_network_is_an_error(preset, tmp_path, capsys):
    """The weights are finite, as steps without a finite gradient are skipped, but the network overflows."""
    run = tmp_path / "run"
    changes = {"optimizer__lr": 1e10, "training__clip": 0.0, "optimizer__schedule__warmup": 0, "training__steps": 3}
    changes["saving__validate_every"] = 9
    settings = flags(preset, **images(tmp_path), **changes)
    assert main(["train", f"--config={preset}", f"--workdir={run}", *settings]) == 2
    said = capsys.readouterr().err
    assert re.search(r"ctdiff: the network's output at t = 0\.\d+ is not finite: the training has diverged; use a lower ", said)
    assert f"{run} keeps the checkpoints of steps [2]" in said
    assert not list((run / "samples").iterdir())
    named = f"{run / 'checkpoints' / 'step_0000002' / 'ema.safetensors'}: the network's output at t = 1 is not finite"
    assert main(["sample", str(run)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"ctdiff: {named}"
    for work in (
        lambda: evaluate_run(run, pixels(), num_samples=20, steps=1, replicates=3),
        lambda: compare_runs([run], pixels(), calls=[2], num_samples=20, replicates=3, out=tmp_path / "out"),
    ):
        with pytest.raises(NotFiniteError, match=f"^{re.escape(named)}$"):
            work()
    splits = recipe.build_data(load_run(run).config)
    with pytest.raises(
        NotFiniteError, match=r"step_0000002/ema\.safetensors: the network's output at t = 0\.\d+ is not finite$"
    ):
        run_bits_per_dim(load_run(run), splits.test, splits.train, draws=4)


def test_weights_that_are_not_finite_are_not_saved_and_older_ones_stay(tmp_path, monkeypatch):
    record = trainer._Recorder.__call__

    def spoil(self, step, stop):
        record(self, step, stop)
        if step.step == 4:
            next(self.parts.state.network.parameters()).data.view(-1)[0] = math.nan

    monkeypatch.setattr(trainer._Recorder, "__call__", spoil)
    run, config = tmp_path / "run", small("mnist_ddpm", **images(tmp_path), saving__keep=1, saving__preview_every=9)
    message = (
        rf"^the weights after step 4 are not finite \(.*\): the training has diverged; .*; {run} keeps the .* steps \[2\]$"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(config, run)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_0000002"]
    assert load_run(run).step == 2


def test_a_loop_of_one_s_own_says_so_at_its_end():
    objective, state = make(steps=3)
    optimizer = torch.optim.SGD(objective.parameters(), lr=3e38)  # times a gradient above 1.2, more than float32 has
    steps = fit(objective, [(4 * ToyBatches()[0][0], {})], optimizer, steps=1)
    assert not next(steps).skipped
    with pytest.raises(
        FloatingPointError, match=r"the weights after step 1 are not finite \(network\..*the training has diverged"
    ):
        next(steps)
    with pytest.raises(FloatingPointError, match="the weights after step 1 are not finite"):
        state.save(Path("nowhere"), 1)
    objective, state = make(steps=3)
    next(state.ema.module.parameters()).data.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="the averaged weights after step 1 are not finite"):
        state.save(Path("nowhere"), 1)
    assert not_finite(state.network) is None
    assert not_finite(state.ema.module) == "0.weight"


def test_every_command_refuses_weights_that_are_not_finite(tmp_path, capsys):
    run, message, said = tiny_run(tmp_path, "run", "mnist_ddpm"), "has weights that are not finite", []
    weights = _spoil(run, 4, math.nan) / "ema.safetensors"
    for command in (["sample"], ["evaluate"], ["evaluate", "--checkpoints=2,4"], ["compare", f"--out={tmp_path / 'out'}"]):
        assert main([*command, str(run)]) == 2
        assert f"ctdiff: {weights} {message} (" in capsys.readouterr().err
    _spoil(run, 4, math.inf)
    with pytest.raises(CheckpointError, match=message):
        load_run(run)
    assert load_run(run, ema=False).step == 4
    assert main(["sample", str(run), "--checkpoint=2", "--num_samples=2", "--steps=1"]) == 0

    # A training goes on from the newest weights that are finite, and comes to where it was.
    expected = read_weights(weights.with_name("model.safetensors"))
    with pytest.warns(UserWarning, match=re.escape(f"{weights} {message}")):
        assert train(RunFolder(run).read_config(), run, say=said.append).step == 4
    assert said[0] == f"resuming {run} at step 2"
    again = read_weights(weights.with_name("model.safetensors"))
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
