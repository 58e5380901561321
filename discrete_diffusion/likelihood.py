"""Bits per dimension: the complete bound on -log2 p(x_0) / D, with its three terms.

    -log p(x_0) <= E_t[ l_t(x_0) / density(t) ] + KL( q_1(. | x_0) || prior ) + E_{q_eps}[ -log p(x_0 | x_eps) ]
                   diffusion                      prior                         reconstruction

The prior term is exact; the other two are Monte-Carlo means over times and noise (see `diffusion_core/likelihood.py`).
Nothing is dropped, so numbers of different processes can be compared.

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
    """`KL(q_tmax(. | x_0) || prior)` in nats an example: (B, *event) -> (B,); t_max is where sampling starts."""
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
    """Bound -log2 p(x_0) / D by Monte Carlo.

    Arguments:
        denoiser: any denoiser of the discrete engine that gives p(x_0 | x_t), in evaluation mode.
        x_0: clean states (B, *event), integer.
        times: the density of times, at best one that `learn_times` made; its t_min is where the chain ends and its t_max
            where it starts. None is uniform, from 0.01 to 1.
        draws: how many times (and noises) an example: an even number, at least 4.
        batch_size: how many evaluations the network sees at once.
        generator: the source of randomness; one stream for everything.
        cond: conditions of the network by name, batch first, such as labels y (B,).

    Raises:
        ValueError: draws or batch_size are out of range, there are no examples, or a score model.
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
    """The density of times that makes the error of `bits_per_dim` small, learned on other images than those it is used for.

    Arguments:
        denoiser: any denoiser of the discrete engine that gives p(x_0 | x_t), in evaluation mode.
        x_0: clean states (B, *event), integer, such as 64 training images.
        times: the interval, as in `bits_per_dim`.
        draws: how many times (and noises) an example: an even number, at least 4.
        batch_size: how many evaluations the network sees at once.
        generator: the source of randomness.
        cond: conditions of the network by name, batch first.

    Raises:
        ValueError: draws or batch_size are out of range, there are no examples, a score model, or no integrand is finite
            and positive.
    """
    return _Bound(denoiser, x_0, times, cond).learn_times(draws, batch_size, generator)
