"""Bits per dimension: the complete upper bound on -log2 p(x_0) / D, as the sum of three terms.

    -log p(x_0) <= E_t[ l_t(x_0) / density(t) ] + KL( q_1(. | x_0) || prior ) + E_{q_eps}[ -log p(x_0 | x_eps) ]
                   diffusion                      prior                         reconstruction

l_t is the ELBO integrand (see `losses/base.py`), D the number of dimensions, and eps the time at which the chain ends. The
prior term is exact. The other two are Monte Carlo means over times and noise (see `diffusion_core/likelihood.py`). No term
is dropped, so values of different processes can be compared.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion_core import BitsPerDim, Bound, Generator, Randomness, StratifiedTimes, TimeSampler, event_sum
from discrete_diffusion.denoisers.base import Denoiser, X0Posterior, check_x0
from discrete_diffusion.losses import ELBO, CrossEntropy
from discrete_diffusion.process import CTMC

__all__ = ["BitsPerDim", "bits_per_dim", "learn_times", "prior_divergence"]


def prior_divergence(process: CTMC, x_0: Tensor, t_max: float = 1.0, active: Tensor | None = None) -> Tensor:
    """Return `KL(q_tmax(. | x_0) || prior)` in nats for each example: (B, *event) -> (B,).

    Arguments:
        process: the forward process.
        x_0: clean states (B, *event), integer.
        t_max: the time at which sampling starts.
        active: the positions that count in the sum, bool (B, *event). None means all.
    """
    end = torch.tensor(t_max, dtype=torch.float64, device=x_0.device)
    values = torch.arange(process.rates.data_states, device=x_0.device)
    rows = process.kernel(end, torch.float64).rows(values[None])[0]  # (S, n)
    terms = torch.where(rows > 0, rows * (rows / process.prior_law(x_0.device)).log(), 0.0)
    return event_sum(terms.sum(-1)[x_0.long()], active)


class _Bound(Bound[X0Posterior]):
    denoiser: Denoiser[X0Posterior]

    def __init__(
        self, denoiser: Denoiser[X0Posterior], x_0: Tensor, times: TimeSampler | None, cond: Mapping[str, Tensor]
    ) -> None:
        check_x0(denoiser, "the reconstruction term of bits per dimension")
        super().__init__(denoiser, ELBO(), x_0, StratifiedTimes() if times is None else times, cond)

    def reconstruction(self, rows: Tensor, t_min: Tensor, randomness: Randomness) -> Tensor:
        return self.score(CrossEntropy(), rows, t_min, randomness)

    def prior(self) -> Tensor:
        return prior_divergence(self.denoiser.process, self.x_0, self.times.t_max, self.active)


def bits_per_dim(
    denoiser: Denoiser[X0Posterior],
    x_0: Tensor,
    times: TimeSampler | None = None,
    draws: int = 16,
    batch_size: int = 64,
    generator: Generator = None,
    **cond: Tensor,
) -> BitsPerDim:
    """Estimate the upper bound on -log2 p(x_0) / D, in bits per dimension, by Monte Carlo.

    Proven:
        Tests compute the expected bound of the exact posterior for small chains, by enumeration of all states. It is equal
        to the entropy of the data plus the known gaps of the bound, to 1e-6 nats. The rate matrices are uniform, absorbing,
        birth-death, Gaussian-target and one that is not reversible. The Monte Carlo estimate agrees with the expected bound
        within its statistical error.

        discrete_diffusion/test_likelihood.py::test_bound_of_the_exact_posterior_is_the_entropy_and_its_known_gaps
        discrete_diffusion/test_likelihood.py::test_bits_per_dim_agrees_with_the_enumerated_bound

    Arguments:
        denoiser: any denoiser of the discrete engine that gives p(x_0 | x_t), in evaluation mode.
        x_0: clean states (B, *event), integer.
        times: the density from which times are drawn. The result of `learn_times` gives the smallest error. Sampling is
            assumed to start at its t_max and to end at its t_min. None means the uniform density from 0.01 to 1.
        draws: the number of random draws for each example, an even number of at least 4. A draw is a time and the noise at this
            time, and needs one network evaluation.
        batch_size: the number of noisy examples in one network call.
        generator: the source of randomness. All draws use one stream.
        cond: conditions of the network as keyword arguments, with B rows, such as labels y (B,).

    Raises:
        ValueError: draws or batch_size are out of range.
        ValueError: there are no examples.
        ValueError: the denoiser is a score model, which has no p(x_0 | x_t).
    """
    return _Bound(denoiser, x_0, times, cond).estimate(draws, batch_size, generator)


def learn_times(
    denoiser: Denoiser[X0Posterior],
    x_0: Tensor,
    times: TimeSampler | None = None,
    draws: int = 32,
    batch_size: int = 64,
    generator: Generator = None,
    **cond: Tensor,
) -> TimeSampler:
    """Learn a density of times that makes the statistical error of `bits_per_dim` small.

    Use other examples for this than those for which `bits_per_dim` is computed.

    Arguments:
        denoiser: any denoiser of the discrete engine that gives p(x_0 | x_t), in evaluation mode.
        x_0: clean states (B, *event), integer, such as 64 training images.
        times: the interval of times, as in `bits_per_dim`.
        draws: the number of random draws for each example, an even number of at least 4. A draw is a time and the noise at this
            time, and needs one network evaluation.
        batch_size: the number of noisy examples in one network call.
        generator: the source of randomness.
        cond: conditions of the network as keyword arguments, with B rows.

    Raises:
        ValueError: draws or batch_size are out of range.
        ValueError: there are no examples.
        ValueError: the denoiser is a score model, which has no p(x_0 | x_t).
        ValueError: no value of the ELBO integrand is finite and positive.
    """
    return _Bound(denoiser, x_0, times, cond).learn_times(draws, batch_size, generator)
