"""Birth-death noise: each jump goes to the next larger or the next smaller value.

    R[x, x + 1] = R[x, x - 1] = scale,   pi uniform

This is a random walk on 0 .. S - 1. There are no jumps out of this range. The walk needs a tau of order S^2 to get near its
stationary law pi.
"""

from __future__ import annotations

import numpy as np

from diffusion_core.ranges import Positive, check_arguments
from discrete_diffusion.rates.base import NumStates
from discrete_diffusion.rates.dense import DenseRates

__all__ = ["BirthDeathRates"]


class BirthDeathRates(DenseRates):
    """Birth-death noise: a value jumps only to its two neighbouring values, with the same rate for both.

    Arguments:
        num_states: S, the number of values of the data.
        scale: the rate of a jump to one neighbour, in 1 / unit of tau.
    """

    ordered = True
    evidence_floor = 0.1

    def __init__(self, num_states: NumStates, scale: Positive = 1.0) -> None:
        check_arguments(BirthDeathRates, locals())
        jumps = scale * (np.eye(num_states, k=1) + np.eye(num_states, k=-1))
        super().__init__(jumps - np.diag(jumps.sum(1)), np.full(num_states, 1 / num_states))
        self.scale = scale
