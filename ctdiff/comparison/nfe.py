"""The number of function evaluations (NFE) of a sample, and the number of steps that a budget of NFE allows.

The NFE of N steps depends on the sampler. Most samplers need N + 1 (N steps and the last draw). A sampler that evaluates the
network twice in a step needs 2 N + 1. Correctors and guidance need more. So the NFE is measured: one chain is sampled, and
its `State.nfe` is read. A search then finds the largest N within the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor

from diffusion_core import Sampler

__all__ = ["count_nfe", "most_steps", "nfe_of_steps"]


def count_nfe(sampler: Sampler[object], **cond: Tensor) -> int:
    """Sample one chain and count its function evaluations (network calls).

    Arguments:
        sampler: the sampler; its `sub_batch` becomes 1.
        cond: the conditions of the chain by name, one row each.
    """
    sampler.sub_batch = 1
    for state in sampler.trajectory(1, generator=None, seeds=[0], progress=False, **cond):
        nfe = state.nfe
    return nfe


def nfe_of_steps(make: Callable[[int], Sampler[object]], **cond: Tensor) -> Callable[[int], int | None]:
    """The NFE of a sample as a function of the number of steps. Each number of steps is sampled once.

    Arguments:
        make: makes the sampler with a given number of steps.
        cond: the conditions of the chain by name, one row each.

    Returns:
        A function from steps to NFE. It is None if the sampler cannot make so many steps.

    Raises:
        ValueError: the sampler cannot be made with any number of steps.
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
    """The largest number of steps whose NFE is within the budget. None if one step needs more.

    The first guess assumes that the NFE grows linearly.

    Arguments:
        budget: the largest NFE.
        nfe: the NFE of a number of steps, increasing; None if the sampler cannot make so many steps.
    """

    def fits(steps: int) -> bool:
        found = nfe(steps)
        return found is not None and found <= budget

    if not fits(1):
        return None
    one, two = nfe(1), nfe(2)
    low, high = 1, max(1, budget)  # low fits, and nothing above high does
    guess = high if one is None or two is None or two <= one else 1 + (budget - one) // (two - one)
    while low < high:
        steps = min(max(guess, low + 1), high)
        if fits(steps):
            low, guess = steps, steps + 1
        else:
            high, guess = steps - 1, (low + steps) // 2
    return low
