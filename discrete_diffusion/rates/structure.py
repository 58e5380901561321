"""The structure of a generator: checks of its entries, its stationary law, and whether it is reversible.

States that can reach each other form a class. A class without jumps to other classes is closed. A finite chain with one
closed class converges to a unique stationary law pi with pi R = 0. This law is zero outside the closed class. The law is
computed by an elimination that has no subtractions. So the relative error of every entry is only a rounding error, even if
the entry is very small.

References:
    Regenerative analysis and steady state distributions for Markov chains (Grassmann, Taksar and Heyman, 1985) |
    https://doi.org/10.1287/opre.33.5.1107
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from discrete_diffusion.rates.tables import Array

__all__ = ["checked_generator", "checked_stationary", "is_reversible", "stationary_law"]

_TOLERANCE = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-5}


def checked_generator(matrix: Tensor | NDArray[Any]) -> Array:
    """Check a generator, and return it in float64 with a recomputed diagonal.

    Arguments:
        matrix: the generator (n, n), floating. The sum of a row can differ from zero by 1e-9 times its exit rate (1e-5 in
            float32).

    Raises:
        ValueError: the matrix is not square, or has less than 2 states.
        ValueError: the matrix is not floating, or not finite.
        ValueError: a rate is negative, or a row does not sum to zero.
    """
    given = matrix.detach().cpu().numpy() if isinstance(matrix, Tensor) else np.asarray(matrix)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or len(given) < 2:
        raise ValueError(f"the generator has shape {given.shape}, expected (n, n) with n of at least 2")
    if given.dtype not in _TOLERANCE:
        raise ValueError(f"the generator has dtype {given.dtype}, expected float32 or float64")
    rates: Array = given.astype(np.float64)
    if not np.isfinite(rates).all():
        x, y = np.argwhere(~np.isfinite(rates))[0]
        raise ValueError(f"the generator has R[{x}, {y}] = {rates[x, y]}, expected finite rates")
    sums = rates.sum(1)
    np.fill_diagonal(rates, 0.0)
    if (rates < 0).any():
        x, y = np.argwhere(rates < 0)[0]
        raise ValueError(f"the generator has R[{x}, {y}] = {rates[x, y]}, expected non-negative rates off the diagonal")
    exits = rates.sum(1)
    wrong = np.abs(sums) > _TOLERANCE[given.dtype] * exits
    if wrong.any():
        x = int(np.argmax(wrong))
        raise ValueError(f"row {x} of the generator sums to {sums[x]}, expected 0")
    np.fill_diagonal(rates, -exits)
    return rates


def checked_stationary(stationary: Tensor | NDArray[Any], generator: Array) -> Array:
    """Check a given stationary law, and return it in float64 with sum 1.

    Raises:
        ValueError: the given numbers are not probabilities of the states, or this law is not stationary.
    """
    given = stationary.detach().cpu().numpy() if isinstance(stationary, Tensor) else np.asarray(stationary)
    tolerance = _TOLERANCE.get(given.dtype, 1e-9)
    law: Array = given.astype(np.float64)
    if law.shape != generator.shape[:1] or (law < 0).any() or not abs(law.sum() - 1) <= tolerance:
        raise ValueError(
            f"stationary has shape {law.shape}, minimum {law.min()} and sum {law.sum()}, expected the probabilities of "
            f"{len(generator)} states"
        )
    law /= law.sum()
    defect = np.abs(law @ generator).max()
    if defect > tolerance * np.abs(generator).max():
        raise ValueError(f"the product stationary R has an entry of size {defect}, expected 0: the given law is not stationary")
    return law


def _recurrent(generator: Array) -> NDArray[np.intp]:
    """Return the states of the closed class, or raise an error if there are several closed classes."""
    n = len(generator)
    reaches = (generator > 0) | np.eye(n, dtype=bool)
    for _ in range(max(1, (n - 1).bit_length())):
        reaches = (reaches.astype(np.float32) @ reaches.astype(np.float32)) > 0
    # A state is recurrent if it can be reached from every state that it reaches.
    recurrent = np.flatnonzero((~reaches | reaches.T).all(1))
    apart = recurrent[~reaches[recurrent[0], recurrent]]
    if len(apart):
        raise ValueError(
            f"the states {recurrent[0]} and {apart[0]} are in different closed classes of the generator, so they cannot reach "
            "each other. Expected one closed class: with several, the chain has no unique stationary law"
        )
    return recurrent


def stationary_law(generator: Array) -> Array:
    """Return the stationary law pi with `pi R = 0`: (n, n) -> (n,). Every entry has a small relative error.

    Raises:
        ValueError: the chain has several closed classes, and so no unique stationary law.
    """
    states = _recurrent(generator)
    rates = generator[np.ix_(states, states)].copy()
    for k in range(len(states) - 1, 0, -1):
        rates[:k, k] /= rates[k, :k].sum()
        rates[:k, :k] += np.outer(rates[:k, k], rates[k, :k])
    law = np.ones(len(states))
    for k in range(1, len(states)):
        law[k] = law[:k] @ rates[:k, k]
    stationary = np.zeros(len(generator))
    stationary[states] = law / law.sum()
    return stationary


def is_reversible(generator: Array, stationary: Array) -> bool:
    """Return whether pi > 0 and `pi_x R[x, y] = pi_y R[y, x]` for all x and y, up to rounding."""
    flow = stationary[:, None] * generator
    return bool((stationary > 0).all() and (np.abs(flow - flow.T) <= 1e-11 * np.abs(flow)).all())
