"""`python -m ctdiff` is the command `ctdiff`."""

from __future__ import annotations

import sys

from ctdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
