"""How long the threads of a parallel loop spin while they wait for one another.

GNU OpenMP, which torch's CPU kernels run on, lets a thread that has finished its part of a loop spin for a while before
it sleeps. With a core for each thread that saves time. Two trainings that share their cores spin instead of letting each
other work, and both become several times slower; `benchmarks/two_trainings.py` measures by how much.
"""

from __future__ import annotations

import os

__all__ = ["spin_briefly"]

_NAME, _COUNT = "GOMP_SPINCOUNT", "1000"
_CHOSEN = (_NAME, "OMP_WAIT_POLICY")
"""Variables with which a user has said how threads wait."""


def spin_briefly() -> bool:
    """Ask GNU OpenMP to spin briefly, unless the user has said how threads wait; processes that are started inherit it.

    It reads the setting when torch is loaded. With another OpenMP nothing happens.

    Returns:
        Whether the setting was made.
    """
    if any(name in os.environ for name in _CHOSEN):
        return False
    os.environ[_NAME] = _COUNT
    return True
