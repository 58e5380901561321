"""Bits per dimension: the complete bound on -log2 p(x_0) / D, with its three terms.

    -log p(x_0) <= sum_i E[KL(q(x_s | x_t, x_0) || p(x_s | x_t))] + KL(q_tmax(. | x_0) || prior) + E[-log p(x_0 | x_tmin)]
                   diffusion                                        prior                          reconstruction

The diffusion term is that of a chain, step by step, or, where the times given are of no chain, its limit of
infinitely many steps. The prior term is exact; the other two are Monte-Carlo means over times and noise (see
`diffusion_core/likelihood.py`). Where the process knows that its data are pixels, the reconstruction is the probability
of a value, not a density: the number then bounds the same quantity as that of the discrete engine.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.losses import ELBO, VLB, Reconstruction
from continuous_diffusion.process import GaussianProcess, check_real
from diffusion_core import (
    BitsPerDim,
    Bound,
    Denoiser,
    Generator,
    GridTimes,
    Randomness,
    TimeSampler,
    UniformGrid,
    event_sum,
)

__all__ = ["BitsPerDim", "bits_per_dim", "learn_times", "prior_divergence"]


def prior_divergence(process: GaussianProcess, x_0: Tensor, t_max: float = 1.0, active: Tensor | None = None) -> Tensor:
    """`KL(q_tmax(. | x_0) || prior)` in nats an example: (B, *event) -> (B,); t_max is where sampling starts.

    The prior is N(0, r^2) with the variance of the process, so it is `1/2 ((alpha^2 x_0^2 + sigma^2) / r^2 - 1 -
    log(sigma^2 / r^2))` summed over dimensions.
    """
    t = torch.tensor(t_max, dtype=torch.float64, device=x_0.device)
    alpha, sigma = process.schedule(t)
    prior_variance = process.prior_variance(x_0.device)
    # With n = alpha^2 + sigma^2, the variance of x_t for white data, what would cancel in the noise is left out.
    n_excess = (alpha.square() + sigma.square()) / prior_variance - 1
    constant = n_excess - torch.log1p(n_excess) - torch.nn.functional.logsigmoid(-process.schedule.log_snr(t))
    terms = alpha.square() / prior_variance * (x_0.double().square() - 1) + constant
    return event_sum(terms, active) / 2


class _Bound(Bound[Posterior]):
    def __init__(
        self, denoiser: Denoiser[Posterior], x_0: Tensor, times: TimeSampler | None, cond: Mapping[str, Tensor]
    ) -> None:
        times = GridTimes(UniformGrid(999, 0.001)) if times is None else times
        self.chain = VLB(times.grid) if isinstance(times, GridTimes) else None
        super().__init__(denoiser, ELBO() if self.chain is None else self.chain, x_0, times, cond)
        check_real(x_0)
        self.process: GaussianProcess = denoiser.process  # type: ignore[assignment]
        if self.process.pixels is not None:
            self.process.pixels.check(x_0)
        if times.t_min <= 0:
            raise ValueError(f"t_min = {times.t_min}, expected t_min > 0: x_0 is reconstructed from x_tmin")
        if self.chain is not None:
            self.chain.check_schedule(self.process.schedule)

    def reconstruction(self, rows: Tensor, t_min: Tensor, randomness: Randomness) -> Tensor:
        if self.chain is None:
            return self.score(Reconstruction(), rows, t_min, randomness)
        # The term of the chain's last step, whose length is t_min.
        return self.score(self.chain, rows, t_min, randomness) * t_min

    def prior(self) -> Tensor:
        return prior_divergence(self.process, self.x_0, self.times.t_max, self.active)


def bits_per_dim(
    denoiser: Denoiser[Posterior],
    x_0: Tensor,
    times: TimeSampler | None = None,
    draws: int = 16,
    batch_size: int = 64,
    generator: Generator = None,
    **cond: Tensor,
) -> BitsPerDim:
    """Bound -log2 p(x_0) / D: in bits of a pixel's value where the process has `pixels`, of a density where it has none.

    Arguments:
        denoiser: any denoiser of the Gaussian engine, in evaluation mode.
        x_0: clean data (B, *event), as the process takes them: `process.pixels.encode` of integers.
        times: `GridTimes(grid)` for the chain that walks a grid and ends on x_0, a density for infinitely many
            steps, at best one that `learn_times` made of these; its t_min is where the chain ends and its t_max where it
            starts. None is the chain of 1000 times, `GridTimes(UniformGrid(999, 0.001))`.
        draws: how many times (and noises) an example: an even number, at least 4. For a chain of N steps that are
            drawn alike, N draws are all its terms, each once.
        batch_size: how many evaluations the network sees at once.
        generator: the source of randomness; one stream for everything.
        cond: conditions of the network by name, batch first, such as labels y (B,).

    Raises:
        ValueError: draws or batch_size are out of range, there are no examples, t_min = 0, a chain whose first step is
            infinitely long in log-SNR, or data that are not the pixels that the process knows.
    """
    return _Bound(denoiser, x_0, times, cond).estimate(draws, batch_size, generator)


def learn_times(
    denoiser: Denoiser[Posterior],
    x_0: Tensor,
    times: TimeSampler | None = None,
    draws: int = 32,
    batch_size: int = 64,
    generator: Generator = None,
    **cond: Tensor,
) -> TimeSampler:
    """The density of times that makes the error of `bits_per_dim` small, learned on other images than those it is used for.

    Arguments:
        denoiser: any denoiser of the Gaussian engine, in evaluation mode.
        x_0: clean data (B, *event), as the process takes them, such as 64 training images.
        times: the chain or the interval, as in `bits_per_dim`.
        draws: how many times (and noises) an example: an even number, at least 4.
        batch_size: how many evaluations the network sees at once.
        generator: the source of randomness.
        cond: conditions of the network by name, batch first.

    Raises:
        ValueError: as `bits_per_dim`, or no term is finite and positive.
    """
    return _Bound(denoiser, x_0, times, cond).learn_times(draws, batch_size, generator)
