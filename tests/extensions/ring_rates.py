"""A rate matrix."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from diffusion_core.ranges import Range, check_arguments
from discrete_diffusion.rates.base import NumStates
from discrete_diffusion.rates.dense import DenseRates

__all__ = ["RingRates"]


class RingRates(DenseRates):
    """Jumps to the two neighbours on a ring, more often to one side: no reversible chain.

    Arguments:
        num_states: S.
        drift: how much more often jumps go up than down, as a share.
    """

    def __init__(self, num_states: NumStates, drift: Annotated[float, Range(least=0, most=1)] = 0.5) -> None:
        check_arguments(RingRates, locals())
        up = np.roll(np.eye(num_states), 1, axis=1)
        rates = (1 + drift) / 2 * up + (1 - drift) / 2 * up.T
        super().__init__(rates - np.diag(rates.sum(1)), np.full(num_states, 1 / num_states))
