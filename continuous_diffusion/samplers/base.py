"""What every Gaussian sampler shares: the clean prediction, its clipping, and the last step.

A step goes from t to s in terms of x_t and the prediction x0hat(x_t, t). Whatever uses the noise
writes it as `epshat = (x_t - alpha_t x0hat) / sigma_t`, so that clipping x0hat to the range of
the data recomputes the noise too.

The grid ends at t_min > 0, and the last step t_min -> 0 has no noise: it returns x0hat(x_tmin).
N grid steps therefore cost N + 1 network calls. The published chain of T calls over a table
of T times is the uniform grid of T - 1 steps from t = 1 to t = 1/T.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from continuous_diffusion.process import GaussianProcess
from diffusion_core import Denoiser, Sampler, State, TimeGrid

__all__ = ["GaussianSampler", "clock"]


def clock(s: float, t: float) -> tuple[Tensor, Tensor]:
    """The times of one step as float64 scalars on the CPU, where their coefficients cost no device a launch.

    Raises:
        ValueError: not 0 <= s < t <= 1.
    """
    if not 0 <= s < t <= 1:
        raise ValueError(f"a step from t = {t} to s = {s}, expected 0 <= s < t <= 1")
    return torch.tensor(s, dtype=torch.float64, device="cpu"), torch.tensor(t, dtype=torch.float64, device="cpu")


class GaussianSampler(Sampler):
    """A sampler whose steps are functions of x_t and x0hat, and which ends on x0hat.

    Arguments:
        denoiser: the denoiser to sample from; its posterior has a `mean`.
        grid: the times to visit; t_min > 0.
        clip: the bound that x0hat is clipped to, [-clip, clip]; 1 for images; None does not clip.
        sub_batch: with seeds, how many chains the network sees at once.

    Raises:
        ValueError: t_min = 0, where no noise is left to remove, or a bound that is not positive.
        TypeError: the denoiser's process is not Gaussian.
    """

    def __init__(self, denoiser: Denoiser, grid: TimeGrid, clip: float | None = None, sub_batch: int = 16) -> None:
        super().__init__(denoiser, grid, sub_batch)
        if grid.t_min <= 0:
            raise ValueError(f"t_min = {grid.t_min}, expected t_min > 0: the step t_min -> 0 is the sampler's last")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip = {clip}, expected a positive bound or None")
        if not isinstance(denoiser.process, GaussianProcess):
            raise TypeError(f"the denoiser's process is {type(denoiser.process).__name__}, expected a GaussianProcess")
        self.process: GaussianProcess = denoiser.process
        self.clip = clip

    def clipped(self, mean: Tensor) -> Tensor:
        """x0hat within the bounds: (B, *event)."""
        return mean if self.clip is None else mean.clamp(-self.clip, self.clip)

    def finish(self, state: State, y: Tensor | None = None) -> State:
        """The step t_min -> 0 without noise: x_0 = x0hat(x_tmin), one network call."""
        posterior, state = self.evaluate(state, self.grid.t_min, y)
        return replace(state, x=self.clipped(posterior.mean), t=0.0)
