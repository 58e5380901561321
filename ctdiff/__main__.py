"""The command `ctdiff`, also `python -m ctdiff`. Variables that torch reads when it is loaded are set first."""

from __future__ import annotations

import sys

from ctdiff.memory import keep_freed_memory
from ctdiff.waiting import spin_briefly

__all__ = ["main"]


def main() -> int:
    """Run the command and return its exit status."""
    spin_briefly()
    keep_freed_memory()
    from ctdiff.cli import main as command  # loads torch

    return command()


if __name__ == "__main__":
    sys.exit(main())
