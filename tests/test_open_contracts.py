"""What the contracts are open to, each written as a user would: a loss of two passes, a given prefix, padding."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffusion_core import ConstantScale, Objective, Sample, StratifiedTimes, UniformTimes, as_randomness
from diffusion_core.distributions import inverse_cdf
from discrete_diffusion import (
    CTMC,
    ELBO,
    CrossEntropy,
    ELBOAndCrossEntropy,
    EnumeratedCTMC,
    LeaveOneOutDenoiser,
    Loss,
    PosteriorGuidance,
    WeightedSum,
    bits_per_dim,
)
from discrete_diffusion.rates import BirthDeathRates, UniformRates
from discrete_diffusion.schedules import Constant

F64 = torch.float64


def chain(values, dimensions, rates=UniformRates):
    law = torch.from_numpy(np.random.default_rng(0).gamma(0.4, size=values**dimensions) + 0.02)
    return EnumeratedCTMC(CTMC(rates(values), Constant(2.0)), law / law.sum(), dimensions)


class TwoPasses(Loss):
    """The published bound of Campbell et al. (2022), equation 13: exit rates at x, one jump to x', log ratios at x'.

    Constants are dropped in it: it differs from the complete integrand by what the model has no part in.
    """

    def draw(self, process, x_0, t, generator=None, active=None):
        sample = super().draw(process, x_0, t, generator, active)
        rates = process.forward_rates(sample.x_t, t)  # (B, D, n)
        u = as_randomness(generator).uniform((len(x_0),), F64)
        landing = inverse_cdf(rates.flatten(1), u)[:, None]
        d, state = landing // rates.shape[-1], landing % rates.shape[-1]
        return sample._replace(noise=sample.x_t.scatter(1, d, state))

    def __call__(self, denoiser, sample, **cond):
        process, t, x = denoiser.process, sample.t, sample.noise
        exits = denoiser(sample.x_t, t, **cond).reverse_rates.sum((1, 2))
        after = denoiser(x, t, **cond)
        flow = process.reverse_rates(process.conditional_ratio(sample.x_0, x, t, F64), x, t)  # R_t[y, x] w_y
        leave = process.forward_rates(x, t, F64).sum(-1)
        out = process.beta(t).reshape(-1, 1) * process.rates.exit_rates(torch.arange(flow.shape[-1]), F64)  # (1 or B, n)
        Z = (leave.sum(-1, keepdim=True) - leave)[..., None] + out[:, None]
        return exits - (flow * after.ratio.log()).sum((1, 2)) / (flow / Z).sum((1, 2))

    def evaluate(self, posterior, sample):
        raise NotImplementedError("it needs two posteriors")


class Table(nn.Module):
    """Logits that depend on x_t through a table."""

    def __init__(self, values, dimensions, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(values**dimensions, dimensions, values, generator=generator, dtype=F64))
        self.powers = values ** torch.arange(dimensions - 1, -1, -1)

    def forward(self, x_t, t, **cond):
        return self.table[(x_t * self.powers).sum(1)]


@pytest.mark.parametrize("rates", [UniformRates, BirthDeathRates])
def test_two_passes_are_the_bound_up_to_a_constant(rates):
    """Over all (x_0, x, jump), for two models: the published bound and the complete one differ by the same number."""
    oracle, t = chain(3, 2, rates), torch.tensor(0.3, dtype=F64)
    process = oracle.process
    x_0, x_t, weight = oracle._pairs(0.3)
    jumps = process.forward_rates(x_t, t, F64)  # (M, D, n)
    i, d, y = torch.nonzero(jumps, as_tuple=True)
    jumped = x_t[i].scatter(1, d[:, None], y[:, None])
    share = weight[i] * jumps[i, d, y] / jumps[i].sum((1, 2))
    differences = []
    for seed in (0, 1):
        denoiser = LeaveOneOutDenoiser(process, Table(3, 2, seed), (2,))
        published = (share * TwoPasses()(denoiser, Sample(x_0[i], x_t[i], t, jumped))).sum()
        differences.append((published - oracle.integrand(denoiser, 0.3)).item())
    assert differences[0] == pytest.approx(differences[1], abs=1e-9)
    objective = Objective(denoiser, TwoPasses(), StratifiedTimes(0.1))
    sample, _ = objective.draw(oracle.clean, torch.Generator().manual_seed(0))
    assert ((sample.noise != sample.x_t).sum(1) == 1).all()
    assert objective(sample).isfinite().all()


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


def test_losses_that_draw_in_their_own_way_are_not_added_up():
    with pytest.raises(TypeError, match="TwoPasses draws or calls the network in its own way"):
        WeightedSum((ELBO(), TwoPasses()), (1.0, 1.0))


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

    for kind in (TwoPasses, Prefixed, Padded):
        code = [line for line in inspect.getsource(kind).splitlines() if line.strip()]
        assert len(code) < 30, list(itertools.islice(code, 3))
