"""Advice on a configuration: values that have no effect or do not fit."""

from __future__ import annotations

from collections.abc import Iterator

from ml_collections import ConfigDict

from ctdiff.recipe.engine import chosen_class, engine_of
from ctdiff.recipe.values import flatten
from diffusion_core.ranges import arguments

__all__ = ["advice"]


def advice(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yield the keys of values that have no effect or do not fit, each with a message."""
    values = flatten(config)
    for key, end in (*engine_of(config).advice(config), *_without_effect(config)):
        yield key, f"config.{key} = {values[key]!r}{end}"


def _without_effect(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yield the keys of settings of the sampler that have no effect, each with the end of a message."""
    guidance, grid = config.sampler.guidance, chosen_class(config, "sampler.grid")
    if guidance.g != 1 and not config.model.num_classes:
        why = "config.model.num_classes = 0, and guidance needs a network that was trained with labels"
        yield "sampler.guidance.g", f", expected 1.0: {why}"
    if guidance.g == 1 and guidance.name != "constant":
        why = "config.sampler.guidance.g = 1.0 is the model without guidance"
        yield "sampler.guidance.name", f" has no effect, expected 'constant': {why}"
    for name in ("t_min", "t_max"):
        if config.sampler[name] is not None and name not in arguments(grid):
            why = f"config.sampler.grid.name = {config.sampler.grid.name!r} has ends of its own"
            yield f"sampler.{name}", f" cannot act, expected none: {why}"
