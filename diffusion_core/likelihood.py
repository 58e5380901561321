"""What a likelihood is reported as, in both engines."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BitsPerDim"]


class BitsPerDim(NamedTuple):
    """An upper bound on -log2 p(x_0) / D, a mean over the given examples, in bits per dimension.

    Arguments:
        value: the bound, the sum of its three terms.
        standard_error: its Monte-Carlo standard error for these examples: what another draw of
            times and noise would change, not what other examples would. Stratified times make
            the true one a little smaller.
        diffusion: the integral over [t_min, t_max].
        prior: KL(q_tmax(. | x_0) || prior), exact.
        reconstruction: -log2 p(x_0 | x_tmin).
    """

    value: float
    standard_error: float
    diffusion: float
    prior: float
    reconstruction: float
