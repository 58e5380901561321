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
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion_core.base import Denoiser
from diffusion_core.checks import check_finite, finite_examples
from diffusion_core.conditions import Null, check_conditions, check_labels, check_names, null_like
from diffusion_core.ranges import CheckedArguments, NonNegative, Positive, Share
from diffusion_core.tensors import batch_time, per_example
from diffusion_core.values import check_within

__all__ = [
    "Classifier",
    "ConstantScale",
    "GuidanceScale",
    "IntervalScale",
    "PowerCosineScale",
    "class_log_prob",
    "class_slope",
    "doubled",
    "guided",
    "guided_logs",
    "null_values",
    "parameter_dtype",
    "taken_labels",
]

Classifier = nn.Module | Callable[[Tensor, Tensor], Tensor]
"""(noisy data, c (B,)) -> logits (B, K) of the K classes; c is the time in the dtype of its parameters."""


class GuidanceScale(CheckedArguments, ABC):
    """The strength of guidance as a function of time: a frozen dataclass."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """g at time t, of the shape and dtype of t, () or (B,)."""


@dataclass(frozen=True)
class ConstantScale(GuidanceScale):
    """The same g at all times.

    Arguments:
        g: the strength: 0 is unconditional, 1 conditional.
    """

    g: NonNegative

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
        g: the strength inside: 0 is unconditional, 1 conditional.
        low: where it ends, a time.
        high: where it begins (time runs down), a time, at least low.
    """

    g: NonNegative
    low: Share
    high: Share

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low = {self.low}, high = {self.high}: expected low <= high")

    def __call__(self, t: Tensor) -> Tensor:
        inside = (t >= self.low) & (t <= self.high)
        return torch.where(inside, self.g, 1.0).to(t.dtype)


@dataclass(frozen=True)
class PowerCosineScale(GuidanceScale):
    """From 1 at the noise to g at the data: `1 + (g - 1) (1 - cos(pi (1 - t)^power)) / 2`.

    References:
        Masked diffusion transformer is a strong image synthesizer (Gao et al., 2023) | https://arxiv.org/abs/2303.14389

    Arguments:
        g: the strength at t = 0: 0 is unconditional, 1 conditional.
        power: how late it rises; the larger the later.
    """

    g: NonNegative
    power: Positive = 4.0

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


def null_values(denoiser: Denoiser[object], null: Mapping[str, Null] | None = None) -> dict[str, Null]:
    """The values that stand for "none" of what guidance leads towards: those given, or the null class of the labels.

    Raises:
        ValueError: nothing is given and the network lists no labels, a condition that the network does not have, or a
            null class that is negative.
    """
    network = getattr(denoiser, "network", denoiser)
    conditions = getattr(denoiser, "conditions", getattr(network, "conditions", None))
    if null is None:
        if conditions is None:
            raise ValueError(f"{type(network).__name__} lists no conditions: give null, such as {{'y': the null class}}")
        if "y" not in conditions:
            has = ", ".join(conditions) or "none"
            raise ValueError(f"the network has the conditions: {has}; guidance and label dropout need y, or null for others")
        null = {"y": conditions["y"]}
    if not null:
        raise ValueError("null = {}, expected the null value of at least one condition")
    if conditions is not None:
        check_names(null, conditions)
    if isinstance(label := null.get("y", 0), int) and label < 0:
        raise ValueError(f"null = {dict(null)}, expected a label of at least 0")
    return dict(null)


def doubled(
    x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor], null: Mapping[str, Null]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The batch twice, first with its conditions, then with null values: (2 B, *event), () or (2 B,), conditions.

    Conditions without a null value stay in both halves.

    Raises:
        TypeError: a condition is no tensor.
        ValueError: a condition that has a null value is missing, one has not B rows, labels are not (B,) integers, or a
            null value has not the shape of one row.
    """
    for name in null:
        if name not in cond:
            raise ValueError(f"{name} is missing: a guided denoiser needs the condition to guide towards")
    check_conditions(cond, len(x_t))
    if "y" in cond:
        check_labels(cond["y"], len(x_t))
    without = {name: null_like(name, null[name], value) if name in null else value for name, value in cond.items()}
    twice = {name: torch.cat([value, without[name]]) for name, value in cond.items()}
    return torch.cat([x_t, x_t]), t if t.ndim == 0 else torch.cat([t, t]), twice


def taken_labels(cond: dict[str, Tensor], batch: int) -> Tensor:
    """The labels y (B,), taken out of the conditions: a classifier reads them, and the denoiser that it guides does not.

    Raises:
        TypeError: a condition is no tensor.
        ValueError: there are no labels, they are not (B,) integers, or a condition has not B rows.
    """
    if "y" not in cond:
        raise ValueError("y is missing: a classifier needs the labels to guide towards")
    check_conditions(cond, batch)
    check_labels(cond["y"], batch)
    return cond.pop("y")


def class_log_prob(classifier: Classifier, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """`log p(y | x, t)` in nats by a classifier of noisy data: (B,).

    Arguments:
        classifier: (x, c (B,)) -> logits (B, K).
        x: noisy data (B, ...), as the classifier takes them.
        t: the time, () or (B,).
        y: labels (B,) in 0 .. K - 1.

    Raises:
        ValueError: labels are not (B,) integers or out of range, or the logits are not (B, K).
        NotFiniteError: the logits say no distribution; a class of probability 0 may have -inf.
    """
    check_labels(y, len(x))
    logits = classifier(x, batch_time(t.to(parameter_dtype(classifier, t.dtype)), len(x)))
    if logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(f"the classifier's logits have shape {tuple(logits.shape)}, expected ({len(x)}, K)")
    check_finite(logits.amax(1).isfinite(), x, t, "the classifier's output")
    classes = logits.shape[1]
    check_within(y, 0, classes - 1, f"y has the value {{}}, expected 0 .. {classes - 1}")
    chosen: Tensor = logits.log_softmax(-1).gather(1, y.long()[:, None])[:, 0]
    return chosen


def class_slope(classifier: Classifier, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """`grad_x log p(y | x, t)` by a classifier that is differentiable in x; the arguments are those of `class_log_prob`.

    Raises:
        ValueError: labels are not (B,) integers or out of range, or the logits are not (B, K).
        NotFiniteError: the logits say no distribution, or have no finite slope, as where the classifier excludes the label.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        slope: Tensor = torch.autograd.grad(class_log_prob(classifier, x, t, y).sum(), x)[0]
    check_finite(finite_examples(slope), x, t, "the slope of the classifier's log p(y | x, t)")
    return slope


def parameter_dtype(network: object, otherwise: torch.dtype) -> torch.dtype:
    """The floating dtype of a network's parameters; without any, `otherwise`."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((p.dtype for p in parameters if p.is_floating_point()), otherwise)
