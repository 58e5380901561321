"""Budgets of network calls, and the steps that they pay for.

How a sampler's calls grow with its steps is its own affair: N steps and the last draw are N + 1 calls for most, 2 N + 1 where
a step looks twice, more with correctors (perhaps below some time only) or guidance. So nothing of it is known here. One
chain is walked, its `State.nfe` read, and the largest N sought that stays within the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor

from diffusion_core import Sampler

__all__ = ["most_steps", "network_calls", "step_costs"]


def network_calls(sampler: Sampler[object], **cond: Tensor) -> int:
    """How many network evaluations a sample costs: one chain is walked, and counts them.

    Arguments:
        sampler: the sampler, whose sub-batches become of one chain.
        cond: the conditions of that chain, one row each.
    """
    sampler.sub_batch = 1
    for state in sampler.trajectory(1, generator=None, seeds=[0], progress=False, **cond):
        calls = state.nfe
    return calls


def step_costs(make: Callable[[int], Sampler[object]], **cond: Tensor) -> Callable[[int], int | None]:
    """What numbers of steps cost: each is counted by walking one chain, once.

    Arguments:
        make: the sampler with a number of steps.
        cond: the conditions of the chain, one row each.

    Returns:
        Steps -> network calls, None where the sampler cannot make so many.

    Raises:
        ValueError: what the sampler refuses whatever the number of steps.
    """
    make(1)

    @cache
    def cost(steps: int) -> int | None:
        try:
            sampler = make(steps)
        except ValueError:  # a table of T times has no more than T - 1 steps
            return None
        return network_calls(sampler, **cond)

    return cost


def most_steps(calls: int, cost: Callable[[int], int | None]) -> int | None:
    """The largest number of steps that costs at most so many network calls; None if there is none.

    The search begins where a cost that grows by equal amounts would have it.

    Arguments:
        calls: the budget.
        cost: what a number of steps costs, more for more steps; None where the sampler cannot make so many.
    """

    def fits(steps: int) -> bool:
        found = cost(steps)
        return found is not None and found <= calls

    if not fits(1):
        return None
    one, two = cost(1), cost(2)
    low, high = 1, max(1, calls)  # fits(low); what is above high does not
    guess = high if one is None or two is None or two <= one else 1 + (calls - one) // (two - one)
    while low < high:
        steps = min(max(guess, low + 1), high)
        if fits(steps):
            low, guess = steps, steps + 1
        else:
            high, guess = steps - 1, (low + steps) // 2
    return low
