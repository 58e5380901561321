"""Enumerated chains that the tests of the discrete engine share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from discrete_diffusion.denoisers import AbsorbingDenoiser, Denoiser, LeaveOneOutDenoiser, X0Posterior
from discrete_diffusion.oracle import EnumeratedCTMC
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates import (
    AbsorbingRates,
    BirthDeathRates,
    DenseRates,
    GaussianTargetRates,
    RateMatrix,
    UniformRates,
)
from discrete_diffusion.schedules import Constant, CosineSurvival, Exponential, LinearSurvival, Schedule

CHAINS = ["uniform", "absorbing", "birth_death", "gaussian_target", "non_reversible"]


def random_generator(n: int, seed: int = 3) -> np.ndarray:
    """A dense generator that is neither symmetric nor reversible."""
    rates = np.random.default_rng(seed).gamma(0.7, size=(n, n)) + 0.05
    np.fill_diagonal(rates, 0)
    return rates - np.diag(rates.sum(1))


def toy_law(states: int) -> Tensor:
    """The data law of the published figures: gamma(0.4) weights plus 0.02, normalised."""
    weights = torch.from_numpy(np.random.default_rng(0).gamma(0.4, size=states) + 0.02)
    return weights / weights.sum()


def make_process(name: str, n: int = 4) -> CTMC:
    choices: dict[str, tuple[RateMatrix, Schedule]] = {
        "uniform": (UniformRates(n), CosineSurvival()),
        "absorbing": (AbsorbingRates(n), LinearSurvival()),
        "birth_death": (BirthDeathRates(n), Exponential(0.3, 20.0)),
        "gaussian_target": (GaussianTargetRates(n, 1.5, 2.0), Exponential(0.3, 20.0)),
        "non_reversible": (DenseRates(random_generator(n)), Constant(3.0)),
    }
    return CTMC(*choices[name])


@pytest.fixture
def process() -> Callable[..., CTMC]:
    return make_process


@pytest.fixture
def chain() -> Callable[..., EnumeratedCTMC]:
    def make(name: str, n: int = 4, dimensions: int = 2) -> EnumeratedCTMC:
        return EnumeratedCTMC(make_process(name, n), toy_law(n**dimensions), dimensions)

    return make


@pytest.fixture
def toy() -> EnumeratedCTMC:
    """The chain of the published figures: uniform rates, tau = 4 t, S = 4, D = 2."""
    return EnumeratedCTMC(CTMC(UniformRates(4), Constant(4.0)), toy_law(16), 2)


def exact_denoiser(chain: EnumeratedCTMC) -> Denoiser[X0Posterior]:
    """The exact denoiser of a chain, in the parameterisation that suits it."""
    if isinstance(chain.process.rates, AbsorbingRates):
        return AbsorbingDenoiser(chain.process, chain.x0_network(), (chain.dimensions,))
    return LeaveOneOutDenoiser(chain.process, chain.leave_one_out_network(), (chain.dimensions,))


@pytest.fixture
def exact() -> Callable[[EnumeratedCTMC], Denoiser[X0Posterior]]:
    return exact_denoiser
