"""Bits per dimension: the bound on -log2 p(x_0) / D with its three terms.

    -log p(x_0) <= sum_i E[KL(q(x_s | x_t, x_0) || p(x_s | x_t))] + KL(q_tmax(. | x_0) || prior) + E[-log p(x_0 | x_tmin)]
                   diffusion                                        prior                          reconstruction

The diffusion term is a sum over the steps of a chain, or the limit of this sum for infinitely many steps. With
`GridTimes` it is the sum. With all other time samplers it is the limit. The prior term is exact. The other two terms
are Monte-Carlo means over times and noise (see `diffusion_core/likelihood.py`). If the process has `pixels`, the
reconstruction term is the probability of a value and not a density. The result then bounds the same quantity as in the
discrete engine.

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
    """Return `KL(q_tmax(. | x_0) || prior)` in nats per example: (B, *event) -> (B,). Sampling starts at t_max.

    The prior is N(0, r^2) with the variance r^2 of the process. The divergence is
    `1/2 ((alpha^2 x_0^2 + sigma^2) / r^2 - 1 - log(sigma^2 / r^2))`, summed over dimensions.
    """
    t = torch.tensor(t_max, dtype=torch.float64, device=x_0.device)
    alpha, sigma = process.schedule(t)
    prior_variance = process.prior_variance(x_0.device)
    # Written with n = alpha^2 + sigma^2, the variance of x_t for data of variance 1. This avoids cancellation near pure noise.
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
            raise ValueError(f"t_min = {times.t_min}, expected t_min > 0: the last term reconstructs x_0 from x_tmin")
        if self.chain is not None:
            self.chain.check_schedule(self.process.schedule)

    def reconstruction(self, rows: Tensor, t_min: Tensor, randomness: Randomness) -> Tensor:
        if self.chain is None:
            return self.score(Reconstruction(), rows, t_min, randomness)
        # The loss divides the term of the last step by its length, which is t_min.
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
    """Return an upper bound of -log2 p(x_0) / D, in bits per dimension.

    p is a probability if the process has `pixels`, and a density otherwise.

    Proven:
        With the exact posterior of a mixture, the expected bound of a chain of T steps converges to the entropy of the
        data; the difference decreases as 1 / T. The estimate agrees with the expected bound within its error. For
        pixels with a known distribution and infinitely many steps, the estimate agrees with the entropy of the integers
        within its error.

        continuous_diffusion/test_likelihood.py::test_the_exact_bound_falls_to_the_entropy
        continuous_diffusion/test_likelihood.py::test_the_estimate_is_the_expected_bound
        continuous_diffusion/test_likelihood.py::test_pixels_with_a_known_law

    Arguments:
        denoiser: any denoiser of the Gaussian engine, in evaluation mode.
        x_0: clean data (B, *event) for the process. For pixels this is `process.pixels.encode` of integers.
        times: `GridTimes(grid)` for the chain with the steps of a grid, or another time sampler for infinitely many
            steps. The times are between t_max and t_min. `learn_times` returns times with a smaller Monte-Carlo error.
            None means a chain of 1000 times, `GridTimes(UniformGrid(999, 0.001))`.
        draws: the number of random draws per example, an even number of at least 4. A draw is a time and the noise at
            this time. If the N steps of a chain have equal probability, N draws use each step once.
        batch_size: the number of evaluations per network call.
        generator: the source of randomness for all draws.
        cond: conditions of the network by name, batch first, for example labels y (B,).

    Raises:
        ValueError: draws or batch_size is out of range, there are no examples, t_min = 0, the log-SNR at t_max of a
            chain is below -100, or the data are not pixels of the process.
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
    """Learn a density of times that reduces the error of `bits_per_dim`. Use other images than those you evaluate.

    Arguments:
        denoiser: any denoiser of the Gaussian engine, in evaluation mode.
        x_0: clean data (B, *event) for the process, for example 64 training images.
        times: the chain or the interval of times, as in `bits_per_dim`.
        draws: the number of random draws per example, an even number of at least 4. A draw is a time and the noise at
            this time.
        batch_size: the number of evaluations per network call.
        generator: the source of randomness.
        cond: conditions of the network by name, batch first.

    Raises:
        ValueError: `bits_per_dim` raises it, or no measured loss is finite and positive.
    """
    return _Bound(denoiser, x_0, times, cond).learn_times(draws, batch_size, generator)
