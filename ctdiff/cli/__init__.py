"""The command `ctdiff`: a module for each verb, and `main`, which calls them."""

from ctdiff.cli.main import main

__all__ = ["main"]
