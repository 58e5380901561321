"""The numbers that a configuration may hold: one table, an interval for every key.

A key that becomes an argument of a constructor has the range that stands there (`range_of`). Stated here are the ranges of
the other keys, and of those that take more than the constructor does, as where 0 stands for None. A tuple is within an
interval if each of its items is. Some pairs of keys are the ends of one interval: the first is below the second.

What a name chooses (`data.channels` and `data.num_values` among it) is in `ctdiff.build.choices`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import backbones
import continuous_diffusion as gaussian
import diffusion_core as core
from ctdiff import data, training
from diffusion_core.ranges import Range, range_of
from discrete_diffusion import WeightedSum, X0Denoiser, rates, samplers, schedules

__all__ = ["ASCENDING", "RANGES", "out_of_range"]

_NON_NEGATIVE = Range(least=0)
_SHARE = Range(least=0, most=1)
_BELOW_ONE = Range(least=0, below=1)
_COUNT, _COUNT_OR_NONE = Range(least=1), Range(least=0)

_DROPOUTS = ("dropout", "dropout_attention")
_TRANSFORMER = ("patch_size", "depth", "hidden_dim", "num_heads", "mlp_ratio", *_DROPOUTS)
_LEVELS = ("widths", "blocks", "patch_size", "num_heads", "groups", "time_features", "time_dim")

# Keys that have the name of the argument, which follows the class.
_NAMED: dict[str, tuple[Callable[..., object], tuple[str, ...]]] = {
    "data": (data.Folder, ("ground", "test_fraction")),
    "model": (backbones.UNet, ("num_classes",)),
    "model.unet": (backbones.UNet, (*_LEVELS, "attention_levels", "dropout", "residual_scale")),
    "model.uvit": (backbones.UViT, _TRANSFORMER),
    "model.dit": (backbones.DiT, _TRANSFORMER),
    "model.diffit": (backbones.DiffiT, (*_LEVELS, *_DROPOUTS, "windows", "mlp_ratio")),
    "model.latent_diffit": (backbones.LatentDiffiT, (*_TRANSFORMER, "time_features")),
    "process": (core.UniformTimes, ("t_min", "t_max")),
    "process.gaussian_target": (rates.GaussianTargetRates, ("sigma_r", "Q")),
    "process.constant": (schedules.Constant, ("rate",)),
    "process.exponential": (schedules.Exponential, ("a", "b")),
    "process.geometric": (schedules.Geometric, ("sigma_min", "sigma_max")),
    "process.log_linear": (schedules.LogLinear, ("eps",)),
    "process.polynomial": (schedules.PolynomialSurvival, ("power",)),
    "process.gaussian": (core.RespacedGrid, ("T",)),  # a chain has a step between two times
    "process.sigmoid": (gaussian.SigmoidSchedule, ("log_snr_max", "log_snr_min")),
    "process.shifted_cosine": (gaussian.ShiftedCosineSchedule, ("side",)),
    "process.laplace": (gaussian.LaplaceSchedule, ("mu", "b")),
    "process.cauchy": (gaussian.CauchySchedule, ("mu", "g")),
    "loss": (core.Objective, ("label_dropout",)),
    "loss.smooth_l1": (gaussian.SmoothAbsoluteError, ("beta",)),
    "loss.min_snr": (gaussian.MinSNR, ("gamma",)),
    "loss.hybrid": (gaussian.HybridLoss, ("weight",)),
    "loss.importance": (core.ImportanceTimes, ("bins",)),
    "loss.log_snr": (gaussian.LaplaceSchedule, ("mu", "b")),
    "optimizer": (training.AdamW, ("lr", "betas", "weight_decay")),
}

_SECTIONS: dict[str, dict[str, Range]] = {
    "data": {
        "image_size": _COUNT,
        "rotation": Range(least=0, most=180),
        "fraction": Range(above=0, most=1),
    },
    "model": {
        "karras_std": range_of(gaussian.KarrasDenoiser, "std"),
        "components": range_of(backbones.LogisticMixtureHead, "components"),
        "embedding": range_of(backbones.EmbeddedInput, "dim"),
        "unet.head_width": _COUNT_OR_NONE,
    },
    "process": {"scale": range_of(rates.GaussianTargetRates, "scale")},
    "loss": {"cross_entropy_weight": range_of(WeightedSum, "weights")},
    "training": {
        "steps": _COUNT,
        "batch_size": _COUNT,
        "accumulation": _COUNT,
        "clip": _NON_NEGATIVE,
        "ema_decay": _BELOW_ONE,
        "seed": Range(least=0, below=2**64),  # what torch takes
    },
    "optimizer": {
        "momentum": range_of(training.SGD, "momentum"),
        "warmup": range_of(training.CosineFactor, "warmup"),
        "final": range_of(training.CosineFactor, "final"),
    },
    "sampler": {
        "steps": range_of(core.UniformGrid, "steps"),
        "log_snr_max": range_of(gaussian.LogSNRGrid.between, "log_snr_max"),
        "log_snr_min": range_of(gaussian.LogSNRGrid.between, "log_snr_min"),
        "t_min": _BELOW_ONE,
        "t_max": _SHARE,
        "num_samples": _COUNT,
        "sub_batch": range_of(core.Sampler, "sub_batch"),
        "corrector_steps": range_of(samplers.PredictorCorrector, "corrector_steps"),
        "corrector_multiplier": range_of(samplers.PredictorCorrector, "step_multiplier"),
        "corrector_entry_time": range_of(samplers.PredictorCorrector, "entry_time"),
        "evidence_floor": range_of(X0Denoiser, "evidence_floor"),
        "eta": range_of(gaussian.DDIM, "eta"),
        "guidance": range_of(core.ConstantScale, "g"),
        "guidance_interval": range_of(core.IntervalScale, "low"),
        "guidance_power": range_of(core.PowerCosineScale, "power"),
        "clip": _NON_NEGATIVE,
    },
    "saving": {
        "checkpoint_every": _COUNT,
        "keep": _COUNT,
        "validate_every": _COUNT,
        "validation_images": _COUNT,
        "preview_every": _COUNT,
        "preview_samples": _COUNT,
        "preview_steps": _COUNT,
    },
}

RANGES: dict[str, Range] = {
    **{f"{section}.{key}": range_of(target, key) for section, (target, keys) in _NAMED.items() for key in keys},
    **{f"{section}.{key}": value for section, keys in _SECTIONS.items() for key, value in keys.items()},
}
"""The interval of every key that is a number or a tuple of numbers."""

ASCENDING: tuple[tuple[str, str], ...] = (
    ("process.t_min", "process.t_max"),
    ("process.geometric.sigma_min", "process.geometric.sigma_max"),
    ("process.sigmoid.log_snr_min", "process.sigmoid.log_snr_max"),
    ("sampler.log_snr_min", "sampler.log_snr_max"),
)
"""Keys of which the first has to be below the second."""


def out_of_range(given: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with the numbers of a configuration, by key.

    Arguments:
        given: the values by dotted key, of the right types.
    """
    wrong: dict[str, str] = {}
    for key, allowed in RANGES.items():
        value = given[key]
        items = value if isinstance(value, tuple) else (value,)
        integer = all(isinstance(item, int) for item in items)
        try:
            allowed.check(f"config.{key}", value, int | tuple[int, ...] if integer else float | tuple[float, ...])
        except ValueError as error:
            wrong[key] = str(error)
    for low, high in ASCENDING:
        if not given[low] < given[high]:
            wrong.setdefault(low, f"config.{low} = {given[low]!r}, expected less than config.{high} = {given[high]!r}")
    if not given["sampler.guidance_interval"][0] <= given["sampler.guidance_interval"][1]:
        value = given["sampler.guidance_interval"]
        wrong.setdefault("sampler.guidance_interval", f"config.sampler.guidance_interval = {value!r}, expected ascending times")
    return wrong
