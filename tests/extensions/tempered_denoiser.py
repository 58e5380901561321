"""A parameterisation of the discrete engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from diffusion_core.distributions import Categorical, Distribution
from diffusion_core.ranges import Positive, check_arguments
from discrete_diffusion import CTMC, Denoiser, X0Posterior
from discrete_diffusion.denoisers.leave_one_out import LeaveOneOutPosterior

__all__ = ["TemperedDenoiser"]


class TemperedDenoiser(Denoiser[X0Posterior]):
    """The leave-one-out parameterisation, with the logits divided by a temperature.

    Arguments:
        process: the process.
        network: (x_t, t) -> logits.
        event_shape: the shape of one example.
        temperature: what the logits are divided by.
    """

    def __init__(
        self,
        process: CTMC,
        network: nn.Module | Callable[..., Tensor],
        event_shape: Sequence[int],
        temperature: Positive = 1.5,
    ) -> None:
        check_arguments(TemperedDenoiser, locals())
        super().__init__(process, network, event_shape)
        self.temperature = temperature

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> X0Posterior:
        return LeaveOneOutPosterior(self.process, x_t, t, Categorical(distribution.scores / self.temperature))
