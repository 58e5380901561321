"""Sets how long the threads of a parallel loop spin while they wait for each other.

The CPU kernels of torch use GNU OpenMP. There, a thread that has finished its part of a loop first spins: it waits without
releasing its core. After a while it sleeps. Spinning saves time if each thread has a core. But two trainings that share their
cores slow each other down by a large factor, which `benchmarks/two_trainings.py` measures.
"""

from __future__ import annotations

import os

__all__ = ["spin_briefly"]

_NAME, _COUNT = "GOMP_SPINCOUNT", "1000"
_CHOSEN = (_NAME, "OMP_WAIT_POLICY")
"""The environment variables that set how threads wait."""


def spin_briefly() -> bool:
    """Make GNU OpenMP spin briefly, unless the user has set how threads wait. Child processes inherit the setting.

    GNU OpenMP reads the setting when torch is loaded. Other OpenMP libraries ignore it.

    Returns:
        Whether the setting was made.
    """
    if any(name in os.environ for name in _CHOSEN):
        return False
    os.environ[_NAME] = _COUNT
    return True
