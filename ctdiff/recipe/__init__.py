"""The recipe: from a configuration to objects.

schema.py       the keys, read from constructors
values.py       reads a value from text and checks it
tree.py         completes a configuration, and makes objects from it
user_classes.py classes of the user, `module:Class`, and trusted modules
sections.py     settings that belong to no class of the library
engine.py       the interface of an engine; discrete.py and gaussian.py implement it
parts.py        the objects of a configuration: `build_*`
tables.py       tables of the keys, for help and documentation
"""

from ctdiff.recipe import discrete, gaussian  # noqa: F401  (they define the engines)
from ctdiff.recipe.engine import build_grid, engine_of, engines, part, samplers_of
from ctdiff.recipe.errors import ConfigError
from ctdiff.recipe.parts import (
    advice,
    build_batches,
    build_data,
    build_denoiser,
    build_known,
    build_network,
    build_objective,
    build_pixels,
    build_process,
    build_sampler,
    event_shape,
    set_absolute_path,
)
from ctdiff.recipe.user_classes import trust

__all__ = [
    "ConfigError",
    "advice",
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
    "engine_of",
    "engines",
    "event_shape",
    "part",
    "samplers_of",
    "set_absolute_path",
    "trust",
]
