"""Guidance: how strongly a sample follows its label, read the same way by both engines.

    guided = uncond + g (cond - uncond)

in the log domain of a discrete process, in the epsilon domain of a Gaussian one. g = 0 is the unconditional model, g = 1
the conditional one, and g > 1 leans further: clean data would follow

    p_g(x_0) ~ p(x_0)^{1-g} p(x_0 | y)^g

if the rule did at every noise level what it does at the last one. It does not: the law of guided samples is
not p_g, and differs from method to method. How far it is from p_g is measured in docs/guidance.md.

A `GuidanceScale` says g as a function of time. The engines' guided denoisers wrap a denoiser (`guidance.py` of each);
what they share is here: the rule, the batch of 2 B that evaluates both models in one call, and
reading a classifier.

References:
    Classifier-free diffusion guidance (Ho & Salimans, 2022) | https://arxiv.org/abs/2207.12598
    Diffusion models beat GANs on image synthesis (Dhariwal & Nichol, 2021) | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion_core.base import Denoiser, batch_time, per_example
from diffusion_core.checks import check_positive
from diffusion_core.values import readable

__all__ = [
    "Classifier",
    "ConstantScale",
    "GuidanceScale",
    "IntervalScale",
    "PowerCosineScale",
    "check_labels",
    "class_log_prob",
    "doubled",
    "guided",
    "guided_logs",
    "null_class_of",
    "parameter_dtype",
]

Classifier = nn.Module | Callable[[Tensor, Tensor], Tensor]
"""(noisy data, c (B,)) -> logits (B, K) of the K classes; c is the time in the dtype of its parameters."""


class GuidanceScale(ABC):
    """The strength of guidance as a function of time: a frozen dataclass."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """g at time t, of the shape and dtype of t, () or (B,)."""


def _check_strength(g: float) -> None:
    if not (math.isfinite(g) and g >= 0):
        raise ValueError(f"g = {g}, expected a finite number of at least 0 (0 is unconditional, 1 conditional)")


@dataclass(frozen=True)
class ConstantScale(GuidanceScale):
    """The same g at all times.

    Arguments:
        g: the strength, at least 0.
    """

    g: float

    def __post_init__(self) -> None:
        _check_strength(self.g)

    def __call__(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.g)


@dataclass(frozen=True)
class IntervalScale(GuidanceScale):
    """g where `low <= t <= high`, elsewhere the plain conditional model: g = 1.

    At high noise guidance costs diversity, near the data it has nothing left to decide.

    References:
        Applying guidance in a limited interval improves sample and distribution quality in diffusion models
        (Kynkäänniemi et al., 2024) | https://arxiv.org/abs/2404.07724

    Arguments:
        g: the strength inside, at least 0.
        low: where it ends, a time in [0, 1].
        high: where it begins (time runs down), a time in [low, 1].
    """

    g: float
    low: float
    high: float

    def __post_init__(self) -> None:
        _check_strength(self.g)
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"low = {self.low}, high = {self.high}: expected 0 <= low <= high <= 1")

    def __call__(self, t: Tensor) -> Tensor:
        inside = (t >= self.low) & (t <= self.high)
        return torch.where(inside, self.g, 1.0).to(t.dtype)


@dataclass(frozen=True)
class PowerCosineScale(GuidanceScale):
    """From 1 at the noise to g at the data: `1 + (g - 1) (1 - cos(pi (1 - t)^power)) / 2`.

    References:
        Masked diffusion transformer is a strong image synthesizer (Gao et al., 2023) | https://arxiv.org/abs/2303.14389

    Arguments:
        g: the strength at t = 0, at least 0.
        power: how late it rises, above 0; the larger the later.
    """

    g: float
    power: float = 4.0

    def __post_init__(self) -> None:
        _check_strength(self.g)
        check_positive("power", self.power)

    def __call__(self, t: Tensor) -> Tensor:
        return 1 + (self.g - 1) * (1 - torch.cos(math.pi * (1 - t) ** self.power)) / 2


def guided(cond: Tensor, uncond: Tensor, g: Tensor) -> Tensor:
    """`uncond + g (cond - uncond)`, exact at g = 0 and 1: two (B, ...) and g of shape () or (B,) -> (B, ...)."""
    return torch.lerp(uncond, cond, per_example(g.to(cond.dtype), cond))


def guided_logs(cond: Tensor, uncond: Tensor, g: Tensor) -> Tensor:
    """The logarithm of `cond^g uncond^{1-g}` from logarithms, where -inf is a zero: (B, ...), g () or (B,).

    What either model excludes is excluded (`0^{1-g} := 0` for g > 1 too), except that g = 0 is the
    unconditional model and g = 1 the conditional one to the last bit.
    """
    g = per_example(g.to(cond.dtype), cond)
    possible = (cond > -torch.inf) & (uncond > -torch.inf)
    mixed = torch.where(possible, g * cond + (1 - g) * uncond, -torch.inf)
    return torch.where(g == 0, uncond, torch.where(g == 1, cond, mixed))


def null_class_of(denoiser: Denoiser, null_class: int | None = None) -> int:
    """The label that means "no label": the one given, or else the `num_classes` of the denoiser or its network.

    Raises:
        ValueError: the network is unconditional, or does not say and nothing is given, or null_class < 0.
    """
    network = getattr(denoiser, "network", denoiser)
    classes = getattr(denoiser, "num_classes", getattr(network, "num_classes", None))
    if classes == 0:
        raise ValueError("the network has num_classes = 0: guidance needs a network that was trained with labels")
    chosen = classes if null_class is None else null_class
    if chosen is None:
        raise ValueError(f"{type(network).__name__} has no num_classes: give the null_class of the network")
    if chosen < 0:
        raise ValueError(f"null_class = {chosen}, expected a label of at least 0")
    return int(chosen)


def check_labels(y: Tensor | None, batch: int) -> Tensor:
    """The labels to guide towards, refused if they are missing or cannot be labels.

    Raises:
        ValueError: y is None, is not (batch,) or is not integer.
    """
    if y is None:
        raise ValueError("y is None: a guided denoiser needs the labels to guide towards")
    if y.shape != (batch,):
        raise ValueError(f"y has shape {tuple(y.shape)}, expected ({batch},)")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"y has dtype {y.dtype}, expected an integer dtype")
    return y


def doubled(x_t: Tensor, t: Tensor, y: Tensor | None, null_class: int) -> tuple[Tensor, Tensor, Tensor]:
    """The batch whose first half has its labels and whose second half has none: (2 B, *event), () or (2 B,), (2 B,).

    Raises:
        ValueError: y is None, is not (B,) or is not integer.
    """
    y = check_labels(y, len(x_t))
    return torch.cat([x_t, x_t]), t if t.ndim == 0 else torch.cat([t, t]), torch.cat([y, torch.full_like(y, null_class)])


def class_log_prob(classifier: Classifier, x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
    """`log p(y | x, t)` in nats by a classifier of noisy data: (B,).

    Arguments:
        classifier: (x, c (B,)) -> logits (B, K).
        x: noisy data (B, ...), as the classifier takes them.
        t: the time, () or (B,).
        y: labels (B,) in 0 .. K - 1.

    Raises:
        ValueError: labels are missing or out of range, or the logits are not (B, K).
    """
    y = check_labels(y, len(x))
    logits = classifier(x, batch_time(t.to(parameter_dtype(classifier, t.dtype)), len(x)))
    if logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(f"the classifier's logits have shape {tuple(logits.shape)}, expected ({len(x)}, K)")
    classes = logits.shape[1]
    inside = ((y >= 0) & (y < classes)).all()
    if not readable(y):
        torch._assert_async(inside, "a label is outside the classifier's classes")
    elif not inside:
        raise ValueError(f"y has the value {int(y[(y < 0) | (y >= classes)][0])}, expected 0 .. {classes - 1}")
    chosen: Tensor = logits.log_softmax(-1).gather(1, y.long()[:, None])[:, 0]
    return chosen


def parameter_dtype(network: object, otherwise: torch.dtype) -> torch.dtype:
    """The floating dtype of a network's parameters; without any, `otherwise`."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((p.dtype for p in parameters if p.is_floating_point()), otherwise)
