"""What may be chosen: the names of every table that a configuration's process leaves open."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from ctdiff.build import networks, objectives, processes, samplers, sources

__all__ = ["choices"]


def choices(config: ConfigDict) -> dict[str, Collection[Any]]:
    """What each key may be, given the process: {"model.name": ("unet", "uvit", ...), ...}."""
    process, gaussian = config.process.name, processes.is_gaussian(config)
    readings: Collection[str] = ("absorbing",) if process == "absorbing" else ("x0", "leave_one_out")
    tables: dict[str, Collection[Any]] = {
        "process.name": (*processes.RATES, processes.GAUSSIAN),
        "process.schedule": processes.GAUSSIAN_SCHEDULES if gaussian else processes.SCHEDULES,
        "data.name": sources.SOURCES,
        "data.channels": (1, 3),
        "data.num_values": range(2, 257),
        "model.name": networks.BACKBONES,
        "model.parameterisation": processes.GAUSSIAN_DENOISERS if gaussian else readings,
        "model.learned_variance": (False, True) if gaussian else (False,),
        "model.head": networks.HEADS,
        "model.inputs": networks.INPUTS,
        **{f"model.{key}": table for key, table in networks.CLASSES.items()},
        "loss.name": objectives.GAUSSIAN_LOSSES if gaussian else objectives.LOSSES,
        "loss.times": objectives.GAUSSIAN_TIMES if gaussian else objectives.TIMES,
        "loss.distance": objectives.DISTANCES,
        "loss.weight": objectives.WEIGHTS,
        "training.precision": ("auto", "float32", "bfloat16"),
        "optimizer.name": objectives.OPTIMIZERS,
        "optimizer.schedule": objectives.FACTORS,
        "sampler.name": samplers.GAUSSIAN_SAMPLERS if gaussian else samplers.SAMPLERS,
        "sampler.grid": (*samplers.GRIDS, *samplers.GAUSSIAN_GRIDS) if gaussian else samplers.GRIDS,
        "sampler.guidance_scale": samplers.SCALES,
        "sampler.guidance_form": samplers.GUIDANCE,
        # A mask is no number to add jumps to.
        "sampler.leap": ("categorical",) if process == "absorbing" else samplers.LEAPS,
        "sampler.variance": [name for name in samplers.VARIANCES if name != "learned" or config.model.learned_variance],
    }
    return tables
