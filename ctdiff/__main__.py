"""The command `ctdiff`, and `python -m ctdiff`: what torch reads when it is loaded is set before anything loads it."""

from __future__ import annotations

import sys

from ctdiff.waiting import spin_briefly

__all__ = ["main"]


def main() -> int:
    """Run the command; returns its exit status."""
    spin_briefly()
    from ctdiff.cli import main as command  # loads torch

    return command()


if __name__ == "__main__":
    sys.exit(main())
