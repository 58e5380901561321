"""The number of function evaluations (NFE) of a sample, and the number of steps that a budget of NFE allows.

The NFE of N steps depends on the sampler. Most samplers need N + 1 (N steps and the last draw). A sampler that evaluates the
network twice in a step needs 2 N + 1. Correctors and guidance need more. So the NFE is measured: one sample is drawn, and its
`State.nfe` is the result. A search then finds the largest N within the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor

from ctdiff.progress import tracked
from diffusion_core import Sampler

__all__ = ["count_nfe", "most_steps", "nfe_of_steps"]


def count_nfe(sampler: Sampler[object], **cond: Tensor) -> int:
    """Draw one sample and return its number of function evaluations (network calls).

    Arguments:
        sampler: the sampler. Its attribute `sub_batch` is set to 1.
        cond: the conditions of the sample, as tensors with one row.
    """
    sampler.sub_batch = 1
    states = sampler.trajectory(1, generator=None, seeds=[0], progress=False, **cond)
    for state in tracked(states, "counting network calls", sampler.grid.steps + 2):
        nfe = state.nfe
    return nfe


def nfe_of_steps(make: Callable[[int], Sampler[object]], **cond: Tensor) -> Callable[[int], int | None]:
    """Return a function that measures the NFE of a sample for a number of steps.

    The function draws one sample for each number of steps, and keeps the result.

    Arguments:
        make: a function that makes the sampler with a given number of steps.
        cond: the conditions of the sample, as tensors with one row.

    Returns:
        A function from the number of steps to the NFE. It returns None if the sampler cannot make so many steps.

    Raises:
        ValueError: the sampler cannot be made, even with one step.
    """
    make(1)

    @cache
    def nfe(steps: int) -> int | None:
        try:
            sampler = make(steps)
        except ValueError:  # a table of T times has no more than T - 1 steps
            return None
        return count_nfe(sampler, **cond)

    return nfe


def most_steps(budget: int, nfe: Callable[[int], int | None]) -> int | None:
    """Find the largest number of steps whose NFE is within the budget. Return None if one step needs more.

    The search starts at the number of steps at which an NFE that grows linearly reaches the budget.

    Arguments:
        budget: the largest NFE.
        nfe: the result of `nfe_of_steps`, an increasing function from the number of steps to the NFE.
    """

    def fits(steps: int) -> bool:
        found = nfe(steps)
        return found is not None and found <= budget

    if not fits(1):
        return None
    one, two = nfe(1), nfe(2)
    low, high = 1, max(1, budget)  # `low` steps fit, and more than `high` steps do not
    guess = high if one is None or two is None or two <= one else 1 + (budget - one) // (two - one)
    while low < high:
        steps = min(max(guess, low + 1), high)
        if fits(steps):
            low, guess = steps, steps + 1
        else:
            high, guess = steps - 1, (low + steps) // 2
    return low
