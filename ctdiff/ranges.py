"""The numbers that a configuration may hold: one table, an interval for every key.

    low <= value <= high,   low < value  where low is open,   value < high  where high is open

An infinite end is open, so numbers are finite, and no comparison holds for NaN. A tuple is within
an interval if each of its items is. Some pairs of keys are the ends of one interval: the first
is below the second.

What a name chooses (`data.channels` and `data.num_values` among it) is in `ctdiff.build.choices`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ASCENDING", "RANGES", "Range", "out_of_range"]


@dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Arguments:
        low: its lower end.
        high: its upper end.
        above: whether the lower end is outside.
        below: whether the upper end is outside.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = self.low < value if self.above or self.low == -math.inf else self.low <= value
        high = value < self.high if self.below or self.high == math.inf else value <= self.high
        return low and high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"a number in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"
        if self.low == -math.inf:
            return "a finite number"
        if self.above:
            return f"a finite number above {self.low:g}"
        return f"at least {self.low}" if isinstance(self.low, int) else f"a finite number of at least {self.low:g}"


_FINITE = Range()
_POSITIVE = Range(0.0, above=True)
_NON_NEGATIVE = Range(0.0)
_SHARE = Range(0.0, 1.0)
_BELOW_ONE = Range(0.0, 1.0, below=True)
_COUNT, _COUNT_OR_NONE = Range(1), Range(0)

_DROPOUTS = {"dropout": _BELOW_ONE, "dropout_attention": _BELOW_ONE}
_TRANSFORMER = {
    "patch_size": _COUNT,
    "depth": _COUNT_OR_NONE,
    "hidden_dim": _COUNT,
    "num_heads": _COUNT,
    "mlp_ratio": _POSITIVE,
    **_DROPOUTS,
}
_LEVELS = {
    "widths": _COUNT,
    "blocks": _COUNT,
    "patch_size": _COUNT,
    "num_heads": _COUNT,
    "groups": _COUNT,
    "time_features": Range(2),  # a sine and a cosine
    "time_dim": _COUNT,
}

_NETWORKS: dict[str, dict[str, Range]] = {
    "unet": {
        **_LEVELS,
        "attention_levels": _FINITE,  # from either end: those that there are depend on the widths
        "head_width": _COUNT_OR_NONE,
        "dropout": _BELOW_ONE,
        "residual_scale": _POSITIVE,
    },
    "uvit": {**_TRANSFORMER, "hidden_dim": Range(2)},
    "dit": _TRANSFORMER,
    "diffit": {**_LEVELS, **_DROPOUTS, "windows": _COUNT_OR_NONE, "mlp_ratio": _POSITIVE},
    "latent_diffit": {**_TRANSFORMER, "time_features": Range(2)},
}

_SECTIONS: dict[str, dict[str, Range]] = {
    "data": {
        "image_size": _COUNT,
        "ground": Range(0, 255),
        "rotation": Range(0.0, 180.0),
        "fraction": Range(0.0, 1.0, above=True),
        "test_fraction": Range(0.0, 1.0, above=True, below=True),
    },
    "model": {
        "karras_std": _POSITIVE,
        "components": Range(2),  # the background's among them
        "embedding": _COUNT,
        "num_classes": _COUNT_OR_NONE,
        **{f"{name}.{key}": values for name, keys in _NETWORKS.items() for key, values in keys.items()},
    },
    "process": {
        "scale": _POSITIVE,
        "t_min": _BELOW_ONE,
        "t_max": Range(0.0, 1.0, above=True),
        "gaussian_target.sigma_r": _POSITIVE,
        "gaussian_target.Q": _POSITIVE,
        "constant.rate": _POSITIVE,
        "exponential.a": _POSITIVE,
        "exponential.b": Range(1.0, above=True),
        "geometric.sigma_min": _POSITIVE,
        "geometric.sigma_max": _POSITIVE,
        "log_linear.eps": _BELOW_ONE,
        "polynomial.power": Range(1.0),
        "gaussian.T": Range(2),  # a chain has a step between two times
        "sigmoid.log_snr_max": _FINITE,
        "sigmoid.log_snr_min": _FINITE,
        "shifted_cosine.side": _POSITIVE,
        "laplace.mu": _FINITE,
        "laplace.b": _POSITIVE,
        "cauchy.mu": _FINITE,
        "cauchy.g": _POSITIVE,
    },
    "loss": {
        "cross_entropy_weight": _NON_NEGATIVE,
        "smooth_l1.beta": _POSITIVE,
        "min_snr.gamma": _POSITIVE,
        "hybrid.weight": _NON_NEGATIVE,
        "importance.bins": _COUNT,
        "log_snr.mu": _FINITE,
        "log_snr.b": _POSITIVE,
        "label_dropout": _SHARE,
    },
    "training": {
        "steps": _COUNT,
        "batch_size": _COUNT,
        "accumulation": _COUNT,
        "clip": _NON_NEGATIVE,
        "ema_decay": _BELOW_ONE,
        "seed": Range(0, 2**64, below=True),  # what torch takes
    },
    "optimizer": {
        "lr": _POSITIVE,
        "betas": _BELOW_ONE,
        "momentum": _BELOW_ONE,
        "weight_decay": _NON_NEGATIVE,
        "warmup": _COUNT_OR_NONE,
        "final": _SHARE,
    },
    "sampler": {
        "steps": _COUNT,
        "log_snr_max": _FINITE,
        "log_snr_min": _FINITE,
        "t_min": _BELOW_ONE,
        "t_max": _SHARE,
        "num_samples": _COUNT,
        "sub_batch": _COUNT,
        "corrector_steps": _COUNT_OR_NONE,
        "corrector_multiplier": _POSITIVE,
        "corrector_entry_time": _SHARE,
        "evidence_floor": _SHARE,
        "eta": _SHARE,
        "guidance": _NON_NEGATIVE,
        "guidance_interval": _SHARE,
        "guidance_power": _POSITIVE,
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

RANGES: dict[str, Range] = {f"{section}.{key}": value for section, keys in _SECTIONS.items() for key, value in keys.items()}
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
        each = value if isinstance(value, tuple) else (value,)
        if not all(item in allowed for item in each):
            items = "each " if isinstance(value, tuple) else ""
            wrong[key] = f"config.{key} = {value!r}, expected {items}{allowed}"
    for low, high in ASCENDING:
        if not given[low] < given[high]:
            wrong.setdefault(low, f"config.{low} = {given[low]!r}, expected less than config.{high} = {given[high]!r}")
    if not given["sampler.guidance_interval"][0] <= given["sampler.guidance_interval"][1]:
        value = given["sampler.guidance_interval"]
        wrong.setdefault("sampler.guidance_interval", f"config.sampler.guidance_interval = {value!r}, expected ascending times")
    return wrong
