"""Settings of sampling that cannot act, whichever sampler a run is drawn from with.

A sampler's settings stay beside those of others: `sampler.eta` waits for `ddim`, `sampler.corrector_multiplier` for
`tau_leaping+2` in a comparison. What is of the other engine, of another grid, or of guidance without classes waits for
nothing: who sets it means something that will not happen.
"""

from __future__ import annotations

from collections.abc import Iterator

from ml_collections import ConfigDict

from ctdiff import presets
from ctdiff.build.processes import GAUSSIAN, is_gaussian
from ctdiff.build.samplers import GAUSSIAN_GRIDS

__all__ = ["idle"]

_DISCRETE = (
    "argmax",
    "leap",
    "corrector_steps",
    "corrector_multiplier",
    "corrector_entry_time",
    "guidance_form",
    "evidence_floor",
)
_GAUSSIAN = ("variance", "eta", "clip", "log_snr_max", "log_snr_min")
_GUIDANCE = ("guidance_scale", "guidance_interval", "guidance_power", "guidance_form")


def _without_effect(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """The keys of the section `sampler` that nothing reads, and why."""
    process, grid = f"config.process.name = {config.process.name!r}", f"config.sampler.grid = {config.sampler.grid!r}"
    if is_gaussian(config):
        yield from ((key, f"{process}, and it is of Markov chains") for key in _DISCRETE)
    else:
        yield from ((key, f"{process}, and it is of the process {GAUSSIAN}") for key in _GAUSSIAN)
    if config.sampler.grid in GAUSSIAN_GRIDS:
        yield from ((key, f"{grid} has ends of its own") for key in ("t_min", "t_max"))
    if config.sampler.grid != "log_snr":
        yield from ((key, f"{grid}, and it is of log_snr") for key in ("log_snr_max", "log_snr_min"))
    if config.model.parameterisation != "x0":
        parameterisation = f"config.model.parameterisation = {config.model.parameterisation!r}"
        yield "evidence_floor", f"{parameterisation}, and it is of x0"
    if not config.model.num_classes:
        yield from ((key, "config.model.num_classes = 0, and guidance needs classes") for key in _GUIDANCE)


def idle(config: ConfigDict) -> dict[str, str]:
    """Keys whose values are not the defaults and cannot act, with what to say about each."""
    usual, given = presets.default_config().sampler, config.sampler
    found: dict[str, str] = {}
    for key, why in _without_effect(config):
        if given[key] != usual[key]:
            message = f"config.sampler.{key} = {given[key]!r} cannot act, expected its default {usual[key]!r}: {why}"
            found.setdefault(f"sampler.{key}", message)
    return found
