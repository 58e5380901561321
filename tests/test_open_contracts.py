"""What the contracts are open to, each written as a user would: a given prefix, padding."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffusion_core import ConstantScale, Objective, Sample, StratifiedTimes, UniformTimes
from discrete_diffusion import (
    CTMC,
    ELBO,
    CrossEntropy,
    ELBOAndCrossEntropy,
    EnumeratedCTMC,
    LeaveOneOutDenoiser,
    PosteriorGuidance,
    WeightedSum,
    bits_per_dim,
)
from discrete_diffusion.rates import UniformRates
from discrete_diffusion.schedules import Constant

F64 = torch.float64


def chain(values, dimensions, rates=UniformRates):
    law = torch.from_numpy(np.random.default_rng(0).gamma(0.4, size=values**dimensions) + 0.02)
    return EnumeratedCTMC(CTMC(rates(values), Constant(2.0)), law / law.sum(), dimensions)


class Prefixed(LeaveOneOutDenoiser):
    """The first position is given: it is neither noised nor scored."""

    def active(self, x_0, **cond):
        return (torch.arange(x_0.shape[1]) > 0).expand_as(x_0)


def test_a_given_prefix_is_scored_by_its_conditional_law():
    """The bound of the exact conditional model is the mean of those of p(x_2, x_3 | x_1), known by enumeration."""
    oracle = chain(3, 3)

    def network(x_t, t, **cond):
        columns = oracle._joint_columns(x_t, t)
        columns[0] = F.one_hot(x_t[:, 0], 3).to(F64)
        others = [[torch.ones_like(c) if i == d else c for i, c in enumerate(columns)] for d in range(3)]
        return torch.stack([oracle._axis_marginal(oracle._joint(part), d) for d, part in enumerate(others)], 1).log()

    denoiser = Prefixed(oracle.process, network, (3,))
    x_0 = oracle.clean.repeat(40, 1)
    sample, _ = Objective(denoiser, ELBO(), UniformTimes(0.05)).draw(x_0, torch.Generator().manual_seed(0))
    assert torch.equal(sample.x_t[:, 0], x_0[:, 0])
    assert (sample.x_t[:, 1:] != x_0[:, 1:]).any()
    bits = bits_per_dim(denoiser, x_0, StratifiedTimes(0.05), draws=128, generator=torch.Generator().manual_seed(1))
    found = bits.images.double().reshape(40, 27).mean(0) @ oracle.data_law
    by_prefix = oracle.data_law.reshape(3, 9)
    expected = sum(
        mass.item() * EnumeratedCTMC(oracle.process, law / mass, 2).exact_bound(0.05) / (2 * math.log(2))
        for law, mass in zip(by_prefix, by_prefix.sum(1), strict=True)
    )
    assert found.item() == pytest.approx(expected, abs=4 * bits.standard_error * math.sqrt(27 * oracle.data_law.square().sum()))
    assert bits.standard_error < 0.008


class Padded(LeaveOneOutDenoiser):
    """Sequences of several lengths: `padding` (B, L) says where they have ended."""

    def active(self, x_0, **cond):
        return ~cond["padding"]


def test_padding_is_neither_noised_nor_scored():
    """A padded sequence has the loss and the gradient of the short one."""
    process = CTMC(UniformRates(4), Constant(2.0))
    table = nn.Parameter(torch.randn(4, 4, dtype=F64))
    denoiser = Padded(process, lambda x_t, t, padding=None: table[x_t] * (1 + t[:, None, None]), (5,))
    short = LeaveOneOutDenoiser(process, lambda x_t, t: table[x_t] * (1 + t[:, None, None]), (3,))
    x_0, padding = torch.randint(4, (6, 5)), (torch.arange(5) >= 3).expand(6, 5)
    for loss in (ELBO(), CrossEntropy()):
        objective = Objective(denoiser, loss, StratifiedTimes(0.1))
        sample, cond = objective.draw(x_0, torch.Generator().manual_seed(0), padding=padding)
        assert torch.equal(sample.x_t[:, 3:], x_0[:, 3:])
        cut = Sample(x_0[:, :3], sample.x_t[:, :3], sample.t)
        gradients = [torch.autograd.grad(value.sum(), table)[0] for value in (loss(denoiser, sample, **cond), loss(short, cut))]
        torch.testing.assert_close(loss(denoiser, sample, **cond), loss(short, cut))
        torch.testing.assert_close(*gradients)
    generators = [torch.Generator().manual_seed(3) for _ in range(3)]
    guided = PosteriorGuidance(denoiser, ConstantScale(1.0), {"padding": torch.ones(5, dtype=torch.bool)})
    bits = [
        bits_per_dim(each, x_0, draws=4, generator=generator, padding=padding)
        for each, generator in zip((denoiser, guided), generators[:2], strict=True)
    ]
    torch.testing.assert_close(bits[1].images, bits[0].images)  # a wrapper asks the one that it wraps
    longer = torch.cat([x_0, x_0], 1)  # what stands in the padding changes nothing
    wide = Padded(process, denoiser.network, (10,))
    more = bits_per_dim(wide, longer, draws=256, generator=generators[2], padding=(torch.arange(10) >= 3).expand(6, 10))
    exact = bits_per_dim(short, x_0[:, :3], draws=256)
    assert more.value == pytest.approx(exact.value, abs=4 * math.hypot(more.standard_error, exact.standard_error))
    with pytest.raises(ValueError, match="example 0 has no active position"):
        bits_per_dim(denoiser, x_0, draws=4, padding=torch.ones(6, 5, dtype=torch.bool))


def test_the_bound_and_the_cross_entropy_add_up():
    oracle = chain(4, 2)
    denoiser = LeaveOneOutDenoiser(oracle.process, oracle.x0_network(), (2,))
    sample = ELBO().draw(oracle.process, oracle.clean, torch.tensor(0.3), torch.Generator().manual_seed(0))
    assert ELBOAndCrossEntropy() == ELBOAndCrossEntropy(0.001)
    for weight in (0.0, 0.001, 0.5):
        summed = WeightedSum((ELBO(), CrossEntropy()), (1.0, weight))(denoiser, sample)
        assert torch.equal(ELBOAndCrossEntropy(weight)(denoiser, sample), summed)


def test_each_is_short():
    """In under 30 lines, and without an edit of the engines."""
    import inspect

    for kind in (Prefixed, Padded):
        code = [line for line in inspect.getsource(kind).splitlines() if line.strip()]
        assert len(code) < 30, list(itertools.islice(code, 3))
