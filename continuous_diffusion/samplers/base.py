"""The base class of Gaussian samplers: the clipping of x0hat and the last step.

A step from t to s is a function of x_t and the prediction x0hat(x_t, t). Samplers compute the predicted noise as
`epshat = (x_t - alpha_t x0hat) / sigma_t`, so it changes too when x0hat is clipped to the range of the data.

The grid ends at t_min > 0. The last step t_min -> 0 has no noise and returns x0hat(x_tmin). N grid steps therefore need
N + 1 network calls. The published chain of T network calls for a table of T times is the uniform grid of T - 1 steps from
t = 1 to t = 1/T.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

import diffusion_core
from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.process import GaussianProcess
from diffusion_core import Denoiser, Generator, State, TimeGrid
from diffusion_core.ranges import Count, Positive, check_arguments
from diffusion_core.values import NOTHING, ends, number

__all__ = ["Sampler", "check_step"]

PURE_NOISE = 0.1
"""The largest `alpha / sqrt(alpha^2 + sigma^2)` at t_max that counts as pure noise. 1 % of the variance is then from data."""

FINEST = 1e-3
"""The last time of the longest common chain. A schedule must be nearly clean here, also if a coarse grid ends earlier."""


def check_step(t: Tensor, s: Tensor) -> None:
    """Check that s < t. The check is skipped if reading the times is not possible, for example on a GPU.

    Raises:
        ValueError: if 0 <= s < t <= 1 does not hold.
    """
    begin, end = number(t), number(s)
    if begin is not None and end is not None and not 0 <= end < begin <= 1:
        raise ValueError(f"a step from t = {begin} to s = {end}, expected 0 <= s < t <= 1")


class Sampler(diffusion_core.Sampler[Posterior]):
    """The base class of samplers whose steps are functions of x_t and x0hat. The last step returns x0hat.

    Arguments:
        denoiser: the denoiser to sample from.
        grid: the times of the steps, with t_min > 0.
        clip: the bound of the predicted x_0, which is clipped to [-clip, clip]. Use 1 for images. None means no clipping.
        sub_batch: the number of chains in one network call when `sample` gets seeds; without seeds all chains share one call.

    Raises:
        ValueError: t_min = 0, or the schedule is not nearly clean at t_min. That happens with schedules that are made for
            training, on a uniform grid of times.
        TypeError: the denoiser's process is not Gaussian.
    """

    def __init__(
        self, denoiser: Denoiser[Posterior], grid: TimeGrid, *, clip: Positive | None = None, sub_batch: Count = 16
    ) -> None:
        check_arguments(Sampler, locals())
        super().__init__(denoiser, grid, sub_batch=sub_batch)
        if grid.t_min <= 0:
            raise ValueError(f"t_min = {grid.t_min}, expected t_min > 0: the step t_min -> 0 is the sampler's last")
        if not isinstance(denoiser.process, GaussianProcess):
            raise TypeError(f"the denoiser's process is {type(denoiser.process).__name__}, expected a GaussianProcess")
        self.process: GaussianProcess = denoiser.process
        self.process.schedule.check_clean_end(min(grid.t_min, FINEST))
        self.clip = clip

    def start(self, n: int | Tensor, generator: Generator = None, seeds: Sequence[int] | None = None) -> State:
        """Return the state at t_max: n draws from the prior, or a given x (B, *event).

        Raises:
            ValueError: an error of `diffusion_core.Sampler.start`, or x at t_max does not have the distribution of the prior.
        """
        alpha, sigma = self.process.schedule(torch.tensor(self.grid.t_max, dtype=torch.float64, device="cpu"))
        signal = ends(alpha / (alpha**2 + sigma**2).sqrt(), NOTHING)[1]
        if not isinstance(n, Tensor) and signal > PURE_NOISE:
            schedule = type(self.process.schedule).__name__
            raise ValueError(
                f"{schedule} has alpha / sqrt(alpha^2 + sigma^2) = {signal:.3g} at t_max = {self.grid.t_max}, expected at most "
                f"{PURE_NOISE} for chains that start from pure noise: use a schedule and a grid that reach it, or give a noisy "
                "x to start from"
            )
        return super().start(n, generator, seeds)

    def clipped(self, mean: Tensor) -> Tensor:
        """Return x0hat, clipped to the bounds: (B, *event)."""
        return mean if self.clip is None else mean.clamp(-self.clip, self.clip)

    def mixed(self, mean: Tensor, c_0: Tensor, x_t: Tensor, c_t: Tensor) -> Tensor:
        """Return `c_0 x0hat + c_t x_t` with x0hat clipped and coefficients (): a new tensor (B, *event)."""
        x_s = mean * c_0 if self.clip is None else self.clipped(mean).mul_(c_0)
        return x_s.addcmul_(x_t, c_t)

    def noisy(self, x: Tensor, std: Tensor, state: State) -> Tensor:
        """Return `x + std z` with z from the state's randomness, in place in x (B, *event). std is () or (B, *event)."""
        return x.addcmul_(state.randomness.normal(x.shape, x.dtype, x.device), std)

    def finish(self, state: State, **cond: Tensor) -> State:
        """Make the last step t_min -> 0 without noise: x_0 = x0hat(x_tmin), with one network call."""
        posterior, state = self.evaluate(state, state.t, **cond)
        return replace(state, x=self.clipped(posterior.mean), t=torch.zeros_like(state.t))
