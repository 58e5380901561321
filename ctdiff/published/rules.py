"""Rules for the published keys whose values have to be translated.

A rule gets all values of the file and the value of its key. It returns a dictionary from keys of ctdiff to values, and a text.
If the value is changed, the text is a remark. If the dictionary is empty, the text is the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ctdiff.published.keys import LOSSES, SAMPLERS
from ctdiff.published.values import Homes, Values

__all__ = ["RULES"]

_STATIONARY = {"gaussian_target": "gaussian"}
"""The stationary law of each rate matrix, as an initial law. For other rate matrices it is uniform."""


def _loss(values: Values, value: str) -> tuple[Homes, str]:
    return {"loss.name": values.named("loss.name", LOSSES)}, ""


def _of_ct_elbo(name: str) -> Callable[[Values, Any], tuple[Homes, str]]:
    def rule(values: Values, value: Any) -> tuple[Homes, str]:
        if values.named("loss.name", LOSSES) != "ct_elbo":
            return {}, "it has an effect only with the continuous-time ELBO"
        return {f"loss.ct_elbo.{name}": value}, ""

    return rule


def _clip(values: Values, value: Any) -> tuple[Homes, str]:
    if not values.get("training.clip_grad", True):
        return {"training.clip": 0.0}, "Gradients are not clipped."
    return {"training.clip": values.number("training.grad_norm", 1.0)}, ""


def _shape(values: Values) -> tuple[Homes, int]:
    """Return the channels and the size of the images, from all keys that contain them, and the number of dimensions."""
    source = "cifar10" if values.data == "cifar10" else "mnist"
    channels, size = {"cifar10": (3, (32, 32)), "mnist": (1, (28, 28))}[source]
    side = values.get("data.image_size")
    size = size if side is None else (side, side) if isinstance(side, int) else tuple(side)
    shape = values.get("data.shape", (channels, *size))
    if len(size) != 2:
        values.refuse("data.image_size", "expected one number, or height and width")
    if len(shape) != 3:
        values.refuse("data.shape", "expected channels, height and width")
    if side is not None and tuple(shape[1:]) != size:
        values.refuse("data.shape", f"expected a height and a width of config.data.image_size = {side}")
    for key in ("model.input_channel", "model.input_channels"):
        if values.get(key, shape[0]) != shape[0]:
            values.refuse(key, f"expected the channels of config.data.shape = {shape}")
    return {"data.channels": shape[0], "data.image_size": tuple(shape[1:])}, math.prod(shape)


def _sizes(values: Values, value: Any) -> tuple[Homes, str]:
    return _shape(values)[0], ""


def _augmentation(values: Values, value: bool) -> tuple[Homes, str]:
    if value:
        return {}, "ctdiff does not have the published augmentation. Choose data.rotation, the largest angle, or data.flip"
    return {"data.rotation": 0.0}, ""


def _model(values: Values, value: str) -> tuple[Homes, str]:
    homes: Homes = {"model.name": values.model, "process.rates.name": values.rates}
    if not values.averaged:
        homes["training.ema_decay"] = 0.0
    return homes, "Rates and network are two keys here."


def _averaging(values: Values, value: float) -> tuple[Homes, str]:
    if not values.averaged:
        return {"training.ema_decay": 0.0}, "A model whose name does not end in EMA has no average."
    return {"training.ema_decay": value}, ""


def _depth(values: Values, value: int) -> tuple[Homes, str]:
    if values.model == "uvit" and value % 2:
        return {"model.uvit.depth": value - 1}, "The middle block is not counted here."
    return {f"model.{values.model}.depth": value}, ""


def _dropout(values: Values, value: float) -> tuple[Homes, str]:
    if values.model == "unet":
        return {"model.unet.dropout": value}, ""
    if values.model == "dit":
        why = "The published DiT uses it as the share of withheld labels. It has an effect only with labels."
        return {"loss.label_dropout": value}, f"{why} model.dit.dropout is dropout inside the blocks."
    return {}, "the published U-ViT does not use it. model.uvit.dropout is dropout inside the blocks"


def _head(values: Values, value: str) -> tuple[Homes, str]:
    names = {"logistic_pars": "truncated_logistic", "logits": "categorical"}
    return {"model.head.name": values.named("model.model_output", names)}, ""


def _widths(values: Values, value: Any) -> tuple[Homes, str]:
    channels, factors = values.get("model.ch"), values.get("model.ch_mult")
    if channels is None or factors is None:
        return {}, "model.ch and model.ch_mult have an effect only together"
    if not factors or values.get("model.num_scales", len(factors)) != len(factors):
        values.refuse("model.ch_mult", f"expected config.model.num_scales = {values.get('model.num_scales')} numbers")
    widths = tuple(channels * factor for factor in factors)
    # The published layers have a quarter as many groups as channels, and at most 32.
    return {"model.unet.widths": widths, "model.unet.groups": max(1, min(min(widths) // 4, 32))}, ""


def _attention(values: Values, value: Any) -> tuple[Homes, str]:
    level = values.get("model.scale_count_to_put_attn")
    if level is not None:
        return {"model.unet.attention_levels": (level,)}, ""
    sizes, factors = _shape(values)[0]["data.image_size"], values.get("model.ch_mult", ())
    levels = tuple(i for i in range(len(factors)) if sizes[0] / 2**i in values.get("model.attn_resolutions"))
    return {"model.unet.attention_levels": levels}, "Levels are counted here, not pixels."


def _residual_scale(values: Values, value: bool) -> tuple[Homes, str]:
    return {"model.unet.residual_scale": math.sqrt(0.5) if value else 1.0}, ""


def _time_features(values: Values, value: int) -> tuple[Homes, str]:
    return {"model.unet.time_features": value, "model.unet.time_dim": 4 * value}, ""


def _rate_constant(values: Values, value: float) -> tuple[Homes, str]:
    if values.rates != "uniform":
        return {}, f"it has an effect only with uniform rates, and config.model.name has the rates {values.rates}"
    scale = value * values.get("data.S", 256)
    return {"process.rates.uniform.scale": scale}, "This is the rate of uniform draws, S times the rate of a jump to one value."


def _time_function(values: Values, value: str) -> tuple[Homes, str]:
    if not values.published.leaves["model.name"].value.startswith("UniVar"):
        return {}, "it has an effect only with the rates UniVar"
    names = {"log_sqr": "log_square", "sqrt_cos": "cosine_root", "log": "exponential"}
    return {"process.schedule.name": values.named("model.t_func", names)}, ""


def _optimizer(values: Values, value: str) -> tuple[Homes, str]:
    name = values.named("optimizer.name", {"Adam": "adam", "AdamW": "adamw", "SGD": "sgd"})
    homes: Homes = {"optimizer.name": name, "optimizer.weight_decay": 0.01 if name == "adamw" else 0.0}
    return {**homes, "optimizer.sgd.momentum": 0.0} if name == "sgd" else {**homes, f"optimizer.{name}.betas": (0.9, 0.999)}, ""


def _sampler(values: Values, value: str) -> tuple[Homes, str]:
    homes: Homes = {"sampler.name": values.named("sampler.name", SAMPLERS)}
    if _is_corrected(values):
        homes["sampler.corrector.name"] = "forward_backward"
    return homes, "The last step draws x_0. With sampler.argmax=True, it takes the most probable x_0, as published."


def _is_corrected(values: Values) -> bool:
    steps, entry = (values.get(f"sampler.{name}", 0) for name in ("num_corrector_steps", "corrector_entry_time"))
    return bool(values.get("sampler.name") not in (None, "TauLeaping") and steps > 0 and entry > 0)


def _corrector(name: str) -> Callable[[Values, Any], tuple[Homes, str]]:
    def rule(values: Values, value: Any) -> tuple[Homes, str]:
        if _is_corrected(values):
            return {f"sampler.corrector.{name}": value}, ""
        return {}, "there is no corrector: it needs num_corrector_steps and corrector_entry_time above 0"

    return rule


def _end(values: Values, value: float) -> tuple[Homes, str]:
    if value == values.get("loss.min_time"):
        return {}, "it is equal to loss.min_time, which the sampler uses too"
    return {"sampler.t_min": value}, ""


def _initial(values: Values, value: str) -> tuple[Homes, str]:
    laws: Mapping[str, Homes] = {
        "uniform": {},
        "gaussian": {"sampler.tau_leaping.initial.gaussian.std": float(values.get("model.Q_sigma", 512.0))},
    }
    law = values.named("sampler.initial_dist", {name: name for name in laws})
    if law == _STATIONARY.get(values.rates, "uniform"):
        return {}, "it is the stationary law of the rates, from which samplers start without this key"
    return {"sampler.tau_leaping.initial.name": law, **laws[law]}, "It is not the stationary law of the rates."


def _leap(values: Values, value: bool) -> tuple[Homes, str]:
    if SAMPLERS.get(values.get("sampler.name", "TauL")) != "tau_leaping":
        return {}, "it has an effect only with tau-leaping"
    return _leaps(values, "ordinal" if value else "categorical")


def _rejection(values: Values, value: bool) -> tuple[Homes, str]:
    if values.get("sampler.is_ordinal") is not None:
        return {}, "sampler.is_ordinal chooses the leap"
    return _leaps(values, "categorical" if value else "ordinal")


def _leaps(values: Values, leap: str) -> tuple[Homes, str]:
    homes: Homes = {"sampler.tau_leaping.leap.name": leap}
    return {**homes, "sampler.corrector.forward_backward.leap.name": leap} if _is_corrected(values) else homes, ""


RULES: Mapping[str, Callable[[Values, Any], tuple[Homes, str]]] = {
    "loss.name": _loss,
    "loss.nll_weight": _of_ct_elbo("nll_weight"),
    "loss.one_forward_pass": _of_ct_elbo("one_forward_pass"),
    "training.clip_grad": _clip,
    "training.grad_norm": _clip,
    "data.name": lambda values, value: ({"data.name": values.data}, ""),
    "data.image_size": _sizes,
    "data.shape": _sizes,
    "data.use_augm": _augmentation,
    "model.name": _model,
    "model.ema_decay": _averaging,
    "model.input_channel": _sizes,
    "model.input_channels": _sizes,
    "model.depth": _depth,
    "model.dropout": _dropout,
    "model.model_output": _head,
    "model.ch": _widths,
    "model.ch_mult": _widths,
    "model.scale_count_to_put_attn": _attention,
    "model.attn_resolutions": _attention,
    "model.skip_rescale": _residual_scale,
    "model.time_embed_dim": _time_features,
    "model.rate_const": _rate_constant,
    "model.t_func": _time_function,
    "optimizer.name": _optimizer,
    "sampler.name": _sampler,
    "sampler.min_t": _end,
    "sampler.initial_dist": _initial,
    "sampler.num_corrector_steps": _corrector("corrector_steps"),
    "sampler.corrector_step_size_multiplier": _corrector("step_multiplier"),
    "sampler.corrector_entry_time": _corrector("entry_time"),
    "sampler.is_ordinal": _leap,
    "sampler.reject_multiple_jumps": _rejection,
}
