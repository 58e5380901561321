"""The training loop, its average and its learning rates, against what they should compute by hand."""

from __future__ import annotations

import copy
import itertools
import math
import os
import signal

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ctdiff.training import ConstantFactor, CosineFactor, MovingAverage, StopRequest, fit, parameter_groups

from .toy import ToyBatches, ToyObjective, make

BATCHES = ToyBatches()


def test_one_step_is_the_plain_torch_step():
    objective, state = make(steps=5, dropout=0.0)
    reference = copy.deepcopy(objective)
    optimizer = torch.optim.AdamW(parameter_groups(reference.network.parameters(), 0.1), lr=0.01)  # warm-up: half of 0.02
    made = list(fit(objective, BATCHES, state.optimizer, steps=3, ema=state.ema))
    averages = []
    for step in range(3):
        x_0, _ = BATCHES[step]
        loss = (x_0 - reference.network(x_0 + objective.seen[step])).square().mean()  # over examples and dimensions
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm()
        optimizer.step()
        assert made[step].step == step + 1
        assert made[step].loss == pytest.approx(loss.item(), rel=1e-6)
        assert made[step].grad_norm == pytest.approx(norm.item(), rel=1e-5)
        torch.testing.assert_close(objective.learned[step].mean() / 4, loss.detach())
        assert made[step].images_per_second > 0
        assert not made[step].skipped
        parameters = [p.detach().clone() for p in reference.parameters()]
        decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0  # the first update copies
        averages = [decay * a + (1 - decay) * p for a, p in zip(averages or parameters, parameters, strict=True)]
    for ours, theirs, mean, average in zip(
        state.network.parameters(), reference.network.parameters(), state.ema.module.parameters(), averages, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(mean.detach(), average)


@pytest.mark.parametrize("parts", [2, 3, 8, 20])
def test_accumulation_leaves_the_step_unchanged(parts):
    whole, whole_state = make(steps=4, dropout=0.0)
    divided, divided_state = make(steps=4, dropout=0.0)
    one = list(fit(whole, BATCHES, whole_state.optimizer, steps=4))
    many = list(fit(divided, BATCHES, divided_state.optimizer, steps=4, accumulation=parts))
    torch.testing.assert_close(torch.cat(divided.seen), torch.cat(whole.seen))
    for a, b in zip(one, many, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-5)
        assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-5)


def test_noise_is_keyed_by_seed_step_and_place():
    def noise(**options):
        objective, state = make(steps=9)
        list(fit(objective, BATCHES, state.optimizer, steps=4, **options))
        return objective.seen

    first = noise()
    torch.testing.assert_close(noise(start=2), first[2:])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0][0], first[0][1])
    assert not torch.equal(noise(seed=1)[0], first[0])


def test_clipping():
    objective, state = make(steps=1, dropout=0.0)
    free = next(fit(objective, BATCHES, state.optimizer, steps=1))
    objective, state = make(steps=1, dropout=0.0)
    step = next(fit(objective, BATCHES, state.optimizer, steps=1, clip=1e-3))
    norm = torch.cat([p.grad.flatten() for p in state.network.parameters()]).norm()
    assert step.grad_norm == free.grad_norm
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


class _Spoiled(ToyObjective):
    """A loss that is not finite at some steps; `where` says whether in the loss or in the gradient alone."""

    def __init__(self, network, bad, where):
        super().__init__(network)
        self.bad, self.where, self.calls = bad, where, 0

    def forward(self, sample):
        loss = super().forward(sample)
        self.calls += 1
        if self.calls - 1 not in self.bad:
            return loss
        if self.where == "loss":
            return loss * math.nan
        zero = (loss.detach() * 0 + next(self.network.parameters()).sum() * 0).abs()
        return loss + zero.sqrt()  # finite, with an infinite slope times zero in its gradient


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped(where):
    _, state = make(steps=6)
    objective = _Spoiled(state.network, {0, 2, 3}, where)
    seen = []
    for step in fit(objective, BATCHES, state.optimizer, steps=6, ema=state.ema, scheduler=state.scheduler, clip=1.0):
        seen.append(step.skipped)
        for parameter in (*state.network.parameters(), *state.ema.module.parameters()):
            assert parameter.isfinite().all()
    assert seen == [True, False, True, True, False, False]
    assert state.ema.updates == 3


def test_ten_skipped_steps_in_a_row_stop():
    _, state = make(steps=40)
    before = copy.deepcopy(state.network.state_dict())
    steps = fit(_Spoiled(state.network, set(range(40)), "loss"), BATCHES, state.optimizer, steps=40, ema=state.ema)
    assert sum(step.skipped for step in itertools.islice(steps, 10)) == 10
    with pytest.raises(FloatingPointError, match="10 steps in a row, up to step 10"):
        next(steps)
    for name, tensor in state.network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_batches_may_be_an_iterator():
    objective, state = make(steps=3)
    assert len(list(fit(objective, (BATCHES[i] for i in range(3)), state.optimizer, steps=3))) == 3
    objective, state = make(steps=3)
    with pytest.raises(ValueError, match="there are only 2 batches, expected another one for step 3"):
        list(fit(objective, iter([BATCHES[0], BATCHES[1]]), state.optimizer, steps=3))


def test_batches_may_be_a_list_or_a_data_loader():
    batches = [BATCHES[0], BATCHES[1]]
    examples = [(x, {}) for x_0, _ in batches for x in x_0]
    losses = []
    for given in (batches, tuple(batches), DataLoader(examples, batch_size=8)):
        objective, state = make(steps=3, dropout=0.0)
        losses.append([step.loss for step in fit(objective, given, state.optimizer, steps=2)])
        objective, state = make(steps=3)
        with pytest.raises(ValueError, match="there are only 2 batches, expected another one for step 3"):
            list(fit(objective, given, state.optimizer, steps=3))
    assert losses[0] == losses[1] == losses[2]
    labelled = TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(
        TypeError, match=r"a batch is \(x_0, Tensor\), expected a dictionary of conditions, as in \(x_0, {'y': labels}\)"
    ):
        next(fit(objective, DataLoader(labelled, batch_size=8), state.optimizer, steps=3))
    with pytest.raises(TypeError, match="batches is of type int, expected a sequence or an iterable"):
        fit(objective, 3, state.optimizer, steps=3)


def test_batches_of_examples_alone_have_no_conditions():
    x = torch.cat([BATCHES[0][0], BATCHES[1][0]])
    losses = []
    for given in (
        [BATCHES[0], BATCHES[1]],
        [x[:8], x[8:]],
        [(x[:8],), [x[8:]]],
        DataLoader(TensorDataset(x), batch_size=8),
        DataLoader(x, batch_size=8),
    ):
        objective, state = make(steps=2, dropout=0.0)
        losses.append([step.loss for step in fit(objective, given, state.optimizer, steps=2)])
    assert all(other == losses[0] for other in losses)


def test_the_line_that_makes_pairs_of_tensors_batches():
    """What the error advises trains, with labels as the condition y."""

    class Labelled(ToyObjective):
        def draw(self, x_0, generator, y):
            sample, _ = super().draw(x_0, generator)
            return sample, {"y": y}

        def forward(self, sample, y):
            return super().forward(sample) + y

    loader = DataLoader(TensorDataset(torch.zeros(8, 4), torch.arange(8)), batch_size=4)
    _, state = make(steps=2)
    objective = Labelled(state.network)
    with pytest.raises(TypeError, match="expected a dictionary of conditions") as error:
        next(fit(objective, loader, state.optimizer, steps=2))
    line = "((x_0, {'y': y}) for x_0, y in loader)"
    assert str(error.value).endswith(f": fit(objective, {line}, ...)")
    advised = eval(line, {"loader": loader})
    assert [step.step for step in fit(objective, advised, state.optimizer, steps=2)] == [1, 2]


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ([torch.zeros(2, 4)] * 3, r"\(Tensor, Tensor, Tensor\)"),
        ((), r"\(\)"),
        (([[0.0] * 4], {}), r"\(list, dict\)"),
        ({"image": torch.zeros(2, 4)}, "dict"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_batch_is_said_to_be_none(batch, found):
    objective, state = make(steps=1)
    with pytest.raises(TypeError, match=rf"^a batch is {found}, expected a tensor x_0 or a pair \(x_0, cond\), such as"):
        next(fit(objective, [batch], state.optimizer, steps=1))


@pytest.mark.parametrize("given", [TensorDataset(torch.zeros(8, 4)), torch.zeros(8, 4), {"train": torch.zeros(8, 4)}])
def test_single_examples_are_no_batches(given):
    objective, state = make(steps=1)
    message = rf"^batches is of type {type(given).__name__}, which holds single examples, .* DataLoader\(dataset, batch_size"
    with pytest.raises(TypeError, match=message):
        fit(objective, given, state.optimizer, steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps = 0, expected at least 1"),
        ({"steps": 3, "start": 4}, "start = 4, expected 0 .. steps = 3"),
        ({"steps": 3, "accumulation": 0}, "accumulation = 0"),
        ({"steps": 3, "clip": 0.0}, "clip = 0.0"),
    ],
)
def test_bad_arguments_fail_before_the_first_step(options, message):
    objective, state = make(steps=3)
    with pytest.raises(ValueError, match=message):
        fit(objective, BATCHES, state.optimizer, **options)


def test_average_knows_only_parameters_and_stays_in_evaluation_mode():
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    average = MovingAverage(network, 0.99)
    average.train()
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
    assert len(list(average.parameters())) == len(list(network.parameters()))
    with pytest.raises(ValueError, match=r"decay = 1.0"):
        MovingAverage(network, 1.0)


def test_learning_rate_factors():
    assert [ConstantFactor(4)(n) for n in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = CosineFactor(warmup=0, steps=100, final=0.1)
    assert cosine(0) == 1
    assert cosine(50) == pytest.approx(0.55)
    assert cosine(100) == cosine(1000) == pytest.approx(0.1)
    warm = CosineFactor(warmup=4, steps=100, final=0.1)
    assert [warm(n) for n in range(6)] == [ConstantFactor(4)(n) * cosine(n) for n in range(6)]
    for arguments, message in (
        ({"warmup": -1}, "warmup = -1, expected an integer of at least 0"),
        ({"steps": 0}, "steps = 0, expected an integer of at least 1"),
        ({"final": 2.0}, r"final = 2.0, expected a number in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            CosineFactor(**{"steps": 1, **arguments})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.received == number
    assert signal.getsignal(number) is before


def test_a_second_interrupt_is_not_held_back():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
