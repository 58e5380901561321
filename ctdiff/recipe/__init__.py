"""The recipe: from a configuration to objects.

schema.py       which keys there are: read from constructors
values.py       one value: read from text, checked
tree.py         a whole configuration from what was given, and objects from it
user_classes.py classes of a user's own, `module:Class`, and trust in their modules
sections.py     settings that belong to no class of the library
engine.py       what is asked of an engine; discrete.py and gaussian.py answer
parts.py        the objects of a configuration: `build_*`
tables.py       the keys as tables, for help and documentation
"""

from ctdiff.recipe.discrete import Discrete, States
from ctdiff.recipe.engine import Engine, booleans, build_grid, engine_of, engines, part, samplers_of, tree
from ctdiff.recipe.errors import ConfigError, UnknownKey, closest, one_of
from ctdiff.recipe.gaussian import Gaussian
from ctdiff.recipe.parts import (
    advice,
    build_all,
    build_batches,
    build_data,
    build_denoiser,
    build_network,
    build_objective,
    build_pixels,
    build_process,
    build_sampler,
    event_shape,
    set_absolute_path,
)
from ctdiff.recipe.tree import completed, flatten
from ctdiff.recipe.user_classes import trust, trust_classes
from ctdiff.recipe.values import Text

__all__ = [
    "ConfigError",
    "Discrete",
    "Engine",
    "Gaussian",
    "States",
    "Text",
    "UnknownKey",
    "advice",
    "booleans",
    "build_all",
    "build_batches",
    "build_data",
    "build_denoiser",
    "build_grid",
    "build_network",
    "build_objective",
    "build_pixels",
    "build_process",
    "build_sampler",
    "closest",
    "completed",
    "engine_of",
    "engines",
    "event_shape",
    "flatten",
    "one_of",
    "part",
    "samplers_of",
    "set_absolute_path",
    "tree",
    "trust",
    "trust_classes",
]
