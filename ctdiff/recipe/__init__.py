"""The recipe: from a configuration to objects.

The way from a key to a constructor:

1. engine.py has the table of everything that can be chosen, by key. discrete.py and gaussian.py add what only one engine has.
   sections.py has the settings that are no arguments of a class of the library.
2. schema.py finds the classes that can be chosen for a key, and reads their settings from their constructors.
3. tree.py completes a configuration with the defaults of what is chosen (`completed`). values.py reads and checks each value.
4. tree.py calls the constructor of what is chosen (`made`). data.py and parts.py put the objects together (`build_*`).

errors.py       the errors of a configuration
user_classes.py classes of the user, `module:Class`, and trusted modules
tables.py       tables of the keys, for help and documentation
"""

from ctdiff.recipe import discrete, gaussian  # noqa: F401  (they define the engines)
from ctdiff.recipe.data import build_batches, build_data, build_known, build_pixels, event_shape, set_absolute_path
from ctdiff.recipe.engine import engine_of, engines, is_guided, part, samplers_of
from ctdiff.recipe.errors import ConfigError
from ctdiff.recipe.parts import (
    build_denoiser,
    build_grid,
    build_network,
    build_objective,
    build_process,
    build_sampler,
    build_shapes,
)
from ctdiff.recipe.user_classes import trust

__all__ = [
    "ConfigError",
    "build_batches",
    "build_data",
    "build_denoiser",
    "build_grid",
    "build_known",
    "build_network",
    "build_objective",
    "build_pixels",
    "build_process",
    "build_sampler",
    "build_shapes",
    "engine_of",
    "engines",
    "event_shape",
    "is_guided",
    "part",
    "samplers_of",
    "set_absolute_path",
    "trust",
]
