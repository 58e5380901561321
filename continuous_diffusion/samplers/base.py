"""What every Gaussian sampler shares: the clipping of x0hat, the passes over the image, and the last step.

A step goes from t to s in terms of x_t and the prediction x0hat(x_t, t). Whatever uses the noise
writes it as `epshat = (x_t - alpha_t x0hat) / sigma_t`, so that clipping x0hat to the range of
the data recomputes the noise too.

The grid ends at t_min > 0, and the last step t_min -> 0 has no noise: it returns x0hat(x_tmin).
N grid steps therefore cost N + 1 network calls. The published chain of T calls over a table
of T times is the uniform grid of T - 1 steps from t = 1 to t = 1/T.
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
"""The largest `alpha / sqrt(alpha^2 + sigma^2)` at t_max that passes for pure noise: 1 % of the variance is then the data's."""

FINEST = 1e-3
"""The last time of the longest chain in common use. A coarse grid may end earlier; a schedule must be clean by then."""


def check_step(t: Tensor, s: Tensor) -> None:
    """Refuse what is no step down, where the times may be read.

    Raises:
        ValueError: not 0 <= s < t <= 1.
    """
    begin, end = number(t), number(s)
    if begin is not None and end is not None and not 0 <= end < begin <= 1:
        raise ValueError(f"a step from t = {begin} to s = {end}, expected 0 <= s < t <= 1")


class Sampler(diffusion_core.Sampler[Posterior]):
    """A sampler whose steps are functions of x_t and x0hat, and which ends on x0hat.

    Arguments:
        denoiser: the denoiser to sample from; its posterior has a `mean`.
        grid: the times to visit; t_min > 0.
        clip: the bound that the predicted x_0 is clipped to, [-clip, clip]; 1 for images; None does not clip.
        sub_batch: with seeds, how many chains the network sees at once.

    Raises:
        ValueError: t_min = 0, where no noise is left to remove, or a schedule that does not
            come near clean data, as one that is made for training on an even grid of times.
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
        """The state at t_max: n draws from the prior, or a given x (B, *event).

        Raises:
            ValueError: as in `diffusion_core.Sampler.start`, or the prior is not the law of x at t_max.
        """
        alpha, sigma = self.process.schedule(torch.tensor(self.grid.t_max, dtype=torch.float64, device="cpu"))
        signal = ends(alpha / (alpha**2 + sigma**2).sqrt(), NOTHING)[1]
        if not isinstance(n, Tensor) and signal > PURE_NOISE:
            schedule = type(self.process.schedule).__name__
            raise ValueError(
                f"{schedule} has alpha / sqrt(alpha^2 + sigma^2) = {signal:.3g} at t_max = {self.grid.t_max}, expected at most "
                f"{PURE_NOISE} where chains start from pure noise: sample with a schedule and a grid that reach it, or give "
                "the noisy x to start from"
            )
        return super().start(n, generator, seeds)

    def clipped(self, mean: Tensor) -> Tensor:
        """x0hat within the bounds: (B, *event)."""
        return mean if self.clip is None else mean.clamp(-self.clip, self.clip)

    def mixed(self, mean: Tensor, c_0: Tensor, x_t: Tensor, c_t: Tensor) -> Tensor:
        """`c_0 x0hat + c_t x_t` with x0hat clipped and coefficients (): a new tensor (B, *event)."""
        x_s = mean * c_0 if self.clip is None else self.clipped(mean).mul_(c_0)
        return x_s.addcmul_(x_t, c_t)

    def noisy(self, x: Tensor, std: Tensor, state: State) -> Tensor:
        """`x + std z` with z from the state's randomness, in the place of x (B, *event); std is () or (B, *event)."""
        return x.addcmul_(state.randomness.normal(x.shape, x.dtype, x.device), std)

    def finish(self, state: State, **cond: Tensor) -> State:
        """The step t_min -> 0 without noise: x_0 = x0hat(x_tmin), one network call."""
        posterior, state = self.evaluate(state, state.t, **cond)
        return replace(state, x=self.clipped(posterior.mean), t=torch.zeros_like(state.t))
