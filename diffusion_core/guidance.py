"""Classifier-free and classifier guidance: the parts that both engines share.

    guided = uncond + g (cond - uncond)

The discrete engine applies this rule to logarithms of probabilities or rates, the Gaussian engine to the noise prediction
epsilon. g = 0 is the unconditional model and g = 1 the conditional model. g > 1 follows the condition more strongly.
Guidance is often motivated by the distribution

    p_g(x_0) = p(x_0)^{1-g} p(x_0 | y)^g / Z

but guided samples do not follow p_g. The rule is exact for p_g only at the end of sampling (t = 0), not at earlier noise
levels. The distribution of guided samples also depends on the method of guidance and on the sampler. docs/guidance.md
measures its distance from p_g.

A `GuidanceScale` gives g as a function of time. The guided denoisers of each engine are in its `guidance.py`. This module has
three parts: the rule; a function that doubles the batch, so that one network call evaluates both the conditional and the
unconditional model; and the gradients of a classifier.

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
from diffusion_core.tensors import batch_time, parameter_dtype, per_example
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
    "taken_labels",
]

Classifier = nn.Module | Callable[[Tensor, Tensor], Tensor]
"""A classifier of noisy data: (x, c (B,)) -> logits (B, K) of K classes. c is the time, in the weights' dtype."""


@dataclass(frozen=True)
class GuidanceScale(CheckedArguments, ABC):
    """The strength of guidance as a function of time.

    Arguments:
        g: the strength. 0 is unconditional, 1 is conditional, and larger values follow the condition more strongly.
    """

    g: NonNegative = 1.0

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """Return g at time t. The result has the shape of t, () or (B,), and the dtype of t."""


@dataclass(frozen=True)
class ConstantScale(GuidanceScale):
    """Guidance with the same strength g at all times."""

    def __call__(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.g)


@dataclass(frozen=True)
class IntervalScale(GuidanceScale):
    """Guidance in a limited interval: strength g where `low <= t <= high`, and the conditional model (g = 1) elsewhere.

    Guidance at high noise reduces diversity. Guidance near the data has almost no effect.

    References:
        Applying guidance in a limited interval improves sample and distribution quality in diffusion models
        (Kynkäänniemi et al., 2024) | https://arxiv.org/abs/2404.07724

    Arguments:
        g: the strength inside the interval. 0 is unconditional, 1 is conditional.
        low: the smallest time with guidance. Sampling runs from t = 1 to t = 0, so guidance ends at this time.
        high: the largest time with guidance, at which guidance begins; at least `low`.
    """

    low: Share = 0.2
    high: Share = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low = {self.low}, high = {self.high}: expected low <= high")

    def __call__(self, t: Tensor) -> Tensor:
        inside = (t >= self.low) & (t <= self.high)
        return torch.where(inside, self.g, 1.0).to(t.dtype)


@dataclass(frozen=True)
class PowerCosineScale(GuidanceScale):
    """Guidance that increases from 1 at the noise to g at the data: `1 + (g - 1) (1 - cos(pi (1 - t)^power)) / 2`.

    References:
        Masked diffusion transformer is a strong image synthesizer (Gao et al., 2023) | https://arxiv.org/abs/2303.14389

    Arguments:
        g: the strength at the data (t = 0). 0 is unconditional, 1 is conditional.
        power: the exponent of the time; with a larger power, guidance increases later.
    """

    power: Positive = 4.0

    def __call__(self, t: Tensor) -> Tensor:
        return 1 + (self.g - 1) * (1 - torch.cos(math.pi * (1 - t) ** self.power)) / 2


def guided(cond: Tensor, uncond: Tensor, g: Tensor) -> Tensor:
    """Return `uncond + g (cond - uncond)`: (B, ...). cond and uncond are (B, ...), and g has the shape () or (B,).

    The result is exactly `uncond` at g = 0 and exactly `cond` at g = 1.
    """
    return torch.lerp(uncond, cond, per_example(g.to(cond.dtype), cond))


def guided_logs(cond: Tensor, uncond: Tensor, g: Tensor) -> Tensor:
    """Return `log(p_cond^g p_uncond^{1-g})` (B, ...), where cond (B, ...) and uncond (B, ...) are log p_cond and log p_uncond.

    g has the shape () or (B,).

    g = 0 returns exactly `uncond`, and g = 1 returns exactly `cond`. For all other g, the result is -inf, the logarithm
    of 0, if either input is -inf. So for these g, an outcome with unconditional probability 0 stays impossible, although
    `0^{1-g}` is infinite for g > 1.
    """
    g = per_example(g.to(cond.dtype), cond)
    possible = (cond > -torch.inf) & (uncond > -torch.inf)
    mixed = torch.where(possible, g * cond + (1 - g) * uncond, -torch.inf)
    return torch.where(g == 0, uncond, torch.where(g == 1, cond, mixed))


def null_values(denoiser: Denoiser[object], null: Mapping[str, Null] | None = None) -> dict[str, Null]:
    """Return a dict from names of conditions to their null values, which mean "no condition".

    These are the conditions that guidance, or label dropout in training, replaces by their null values.

    Arguments:
        denoiser: the denoiser, whose network lists its conditions.
        null: the dict, if it is given. None means only the labels y, with the null class of the network.

    Raises:
        ValueError: `null` is None and the network has no labels, `null` is empty or names a condition that the network does
            not have, or the null class is negative.
    """
    network = getattr(denoiser, "network", denoiser)
    conditions = getattr(denoiser, "conditions", getattr(network, "conditions", None))
    if null is None:
        if conditions is None:
            raise ValueError(f"{type(network).__name__} lists no conditions: give null, such as {{'y': the null class}}")
        if "y" not in conditions:
            has = ", ".join(conditions) or "none"
            raise ValueError(f"the network has the conditions: {has}; expected y among them, or null for another condition")
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
    """Repeat the batch: the first half keeps its conditions, the second half has null values.

    A condition without a null value is the same in both halves.

    Returns:
        x_t (2 B, *event), t () or (2 B,), and the conditions with 2 B rows.

    Raises:
        TypeError: a condition is not a tensor.
        ValueError: a condition that has a null value is missing, a condition does not have B rows, the labels are not
            integers of shape (B,), or a null value does not have the shape of one row.
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
    """Remove the labels y (B,) from the conditions and return the labels. The classifier needs them; the denoiser does not.

    Raises:
        TypeError: a condition is not a tensor.
        ValueError: there are no labels, the labels are not integers of shape (B,), or a condition does not have B rows.
    """
    if "y" not in cond:
        raise ValueError("y is missing: a classifier needs the labels to guide towards")
    check_conditions(cond, batch)
    check_labels(cond["y"], batch)
    return cond.pop("y")


def class_log_prob(classifier: Classifier, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """Return `log p(y | x, t)` in nats, from a classifier of noisy data: (B,).

    Arguments:
        classifier: (x, c (B,)) -> logits (B, K). c is the time t of each example, in the dtype of the classifier's
            parameters.
        x: noisy data (B, ...), in the form that the classifier accepts.
        t: the time, () or (B,).
        y: labels (B,) in 0 .. K - 1.

    Raises:
        ValueError: the labels are not integers of shape (B,), a label is out of range, or the logits do not have the shape
            (B, K).
        NotFiniteError: the largest logit of an example is not finite. The logit of a class of probability 0 may be -inf.
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
    """Return `grad_x log p(y | x, t)` of a classifier that is differentiable in x: (B, ...).

    The arguments are those of `class_log_prob`.

    Raises:
        ValueError: the labels are not integers of shape (B,), a label is out of range, or the logits do not have the shape
            (B, K).
        NotFiniteError: the largest logit of an example is not finite, or the gradient is not finite. The gradient is not
            finite if the label has probability 0.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        slope: Tensor = torch.autograd.grad(class_log_prob(classifier, x, t, y).sum(), x)[0]
    check_finite(finite_examples(slope), x, t, "the slope of the classifier's log p(y | x, t)")
    return slope
