"""Birth-death noise: values move one level up or down at a time.

    R[x, x + 1] = R[x, x - 1] = scale,   pi uniform

This is a random walk on 0 .. S - 1. There are no jumps out of this range. The walk mixes in a time of order S^2.
"""

from __future__ import annotations

import numpy as np

from diffusion_core.ranges import Positive, check_arguments
from discrete_diffusion.rates.base import NumStates
from discrete_diffusion.rates.dense import DenseRates

__all__ = ["BirthDeathRates"]


class BirthDeathRates(DenseRates):
    """Birth-death noise: jumps to the two neighbouring values, each at the same rate.

    Arguments:
        num_states: S, the number of values of the data.
        scale: the rate of a jump to one neighbour, in 1 / unit of tau.
    """

    ordered = True

    def __init__(self, num_states: NumStates, scale: Positive = 1.0) -> None:
        check_arguments(BirthDeathRates, locals())
        jumps = scale * (np.eye(num_states, k=1) + np.eye(num_states, k=-1))
        super().__init__(jumps - np.diag(jumps.sum(1)), np.full(num_states, 1 / num_states))
        self.scale = scale
