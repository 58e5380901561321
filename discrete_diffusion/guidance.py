"""Guided denoisers of the discrete engine, in four forms.

Guidance aims at the distribution p_g, which is proportional to `p(x_0)^{1-g} p(x_0 | c)^g` for a label c. g is the guidance
scale. The four forms approximate p_g in different ways. They are written here for one dimension at one noise level. p_c is
the posterior with the label and p_u the posterior without it. Rhat_c and Rhat_u are the reverse rates with and without the
label.

- posterior form: the product `p_c^g p_u^{1-g}`, normalised in each dimension, replaces the posterior p(x_0^d | x_t). The
  rates are computed from this guided posterior.
- rate form: `Rhat_g = Rhat_c^g Rhat_u^{1-g}`, without normalisation.
- classifier form: `Rhat_g(x, y) = Rhat_u(x, y) (p(c | y, t) / p(c | x, t))^g`. With an exact classifier this is equal to
  the rate form, by Bayes' rule.
- Taylor form: a first-order expansion of the classifier form. It needs one gradient instead of D n evaluations.

The rate form takes powers of a sum over x_0. The posterior form sums powers over x_0. The two forms differ where x_0 is
not certain. In both forms g = 0 gives the unconditional process and g = 1 the conditional process. With a mask, both forms
unmask to the same values. In the rate form, unmasking is `sum_y p_c^g p_u^{1-g}` times as fast as in the posterior form.

Every sampler draws a clean value in its last step, and the ancestral sampler draws one in each step. For these draws, the
rate form uses the posterior form. The classifier forms use the probabilities
`p_u(x_0^d | x_t) (p(c | x_t with d -> x_0, t) / p(c | x_t, t))^g`, normalised. This is correct with a mask and at small t.
So use rate guidance with samplers that draw from rates: `Euler` and `TauLeaping`. With a score model no clean value is
drawn. The rate form and the classifier forms guide all its steps, including the last one.

In the leave-one-out parameterisation, the posterior form combines the network's distributions p_loo. The evidence
P_t[x_0, x] of the dimension then has the power g + (1 - g) = 1.

References:
    Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al., 2024) | https://arxiv.org/abs/2406.01572
    Simple guidance mechanisms for discrete diffusion models (Schiff et al., 2024) | https://arxiv.org/abs/2412.10193
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion_core import per_example
from diffusion_core.conditions import Null
from diffusion_core.distributions import Categorical, Distribution
from diffusion_core.distributions.numerics import chunks, flushed_exp
from diffusion_core.dropout import repeated
from diffusion_core.guidance import (
    Classifier,
    GuidanceScale,
    class_log_prob,
    class_slope,
    doubled,
    guided_logs,
    null_values,
    taken_labels,
)
from diffusion_core.lazy import lazy_property
from diffusion_core.ranges import Count, check_arguments
from diffusion_core.tensors import parameter_dtype
from discrete_diffusion.denoisers.base import Denoiser, P, Posterior, X0Posterior, check_x0
from discrete_diffusion.jumps import Jumps, ListedJumps

__all__ = [
    "ClassifierGuidance",
    "PosteriorGuidance",
    "RateGuidance",
    "TaylorClassifierGuidance",
]


class _GuidedPosterior(Posterior):
    """A posterior whose ratio and reverse rates are one function of those of other posteriors, the first of them conditional.

    Its jumps are drawn from a list of all its reverse rates.
    """

    def __init__(self, parts: Sequence[Posterior], combine: Callable[..., Tensor]) -> None:
        super().__init__(parts[0].process, parts[0].x_t, parts[0].t)
        self._parts = parts
        self._combine = combine

    @property
    def ratio(self) -> Tensor:
        # In float64, because powers of ratios underflow in float32. A ratio of 0 would make the integrand infinite.
        return self._combine(*(part.ratio.double() for part in self._parts))

    @lazy_property
    def reverse_rates(self) -> Tensor:
        return self._combine(*(part.reverse_rates for part in self._parts))

    def jumps(self) -> Jumps:
        return ListedJumps(self.x_t, self.reverse_rates)


class _GuidedX0Posterior(_GuidedPosterior, X0Posterior):
    """A guided posterior with a separate distribution of clean values."""

    def __init__(self, parts: Sequence[Posterior], combine: Callable[..., Tensor], distribution: Distribution) -> None:
        super().__init__(parts, combine)
        self._distribution = distribution

    @property
    def distribution(self) -> Distribution:
        return self._distribution


class _Guidance(Denoiser[P]):
    """The base class of guided denoisers. A guided denoiser wraps another denoiser and keeps its parameterisation."""

    def __init__(self, denoiser: Denoiser[P], scale: GuidanceScale) -> None:
        super().__init__(denoiser.process, denoiser.network, denoiser.event_shape)
        self.denoiser = denoiser
        self.scale = scale
        self.has_x0 = denoiser.has_x0

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """Return the active positions of the wrapped denoiser, or None for all positions."""
        return self.denoiser.active(x_0, **cond)

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> P:
        return self.denoiser.posterior(x_t, t, distribution)

    @abstractmethod
    def distribution(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Distribution:
        """Return the guided distribution from which clean values are drawn: (B, *event).

        Without a classifier, this distribution has the meaning of the network's output in the wrapped denoiser. So in the
        leave-one-out parameterisation it does not contain the evidence P_t[x_0, x_t].
        """


class ClassifierFree(_Guidance[P]):
    """Classifier-free guidance: the network is evaluated with its conditions and without them."""

    def __init__(self, denoiser: Denoiser[P], scale: GuidanceScale, null: Mapping[str, Null] | None = None) -> None:
        super().__init__(denoiser, scale)
        self.null = null_values(denoiser, null)
        self.nfe = 2 * denoiser.nfe

    def both(self, x_t: Tensor, t: Tensor, given: Mapping[str, Tensor]) -> tuple[Distribution, Distribution]:
        """Return the network's distributions with and without the conditions, from one call on a batch of 2 B."""
        self.check_event(x_t)
        twice, times, conditions = doubled(x_t, t, given, self.null)
        with repeated(2):
            pair = self.denoiser.distribution(twice, times, **conditions)
        first, second = ([p[half] for p in pair.parameters()] for half in (slice(len(x_t)), slice(len(x_t), None)))
        return pair.with_parameters(first), pair.with_parameters(second)

    def distribution(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Distribution:
        with_, without = self.both(x_t, t, cond)
        g = self.scale(t).expand(len(x_t))
        scores = [
            guided_logs(_some(with_, part).scores, _some(without, part).scores, g[part])
            for part in chunks(len(x_t), with_.shape.numel() * with_.num_values, x_t.device)
        ]
        return Categorical(torch.cat(scores))


def _some(distribution: Distribution, part: slice) -> Distribution:
    """Return the distributions of some examples."""
    return distribution.with_parameters([p[part] for p in distribution.parameters()])


class PosteriorGuidance(ClassifierFree[X0Posterior]):
    """Guidance in posterior form: the posterior of each dimension becomes `p(x_0^d | x_t, y)^g p(x_0^d | x_t)^{1-g} / Z`.

    y is the label, and Z normalises. The reverse rates are computed from this guided posterior. Clean values are also drawn
    from it.

    References:
        Simple guidance mechanisms for discrete diffusion models (Schiff et al., 2024) | https://arxiv.org/abs/2412.10193

    Proven:
        Tests list all states of small chains and compute the exact distribution of guided samples. Random samples agree with
        this distribution (chi-square test). It is not the distribution `p(x_0) p(y | x_0)^g / Z` at which guidance aims.
        docs/guidance.md has tables of the distance between the two.

        discrete_diffusion/test_guidance.py::test_runs_agree_with_the_exact_law
        discrete_diffusion/test_guidance.py::test_documented_distances_are_those_of_the_benchmark

    Arguments:
        denoiser: a denoiser that gives p(x_0 | x_t) and whose network takes conditions. One guided evaluation evaluates
            this denoiser twice, in one batch: with the conditions and with the null values.
        scale: the guidance scale g as a function of time.
        null: for each condition to guide towards, the value that means "no condition". None means guidance by the labels
            y only, with the network's null class as this value.

    Raises:
        ValueError: `null` is None, and the network has no labels.
        ValueError: `null` names a condition that the network does not have.
        ValueError: the denoiser is a score model, which has no p(x_0 | x_t).
    """

    def __init__(self, denoiser: Denoiser[X0Posterior], scale: GuidanceScale, null: Mapping[str, Null] | None = None) -> None:
        check_x0(denoiser, "PosteriorGuidance")
        super().__init__(denoiser, scale, null)


class RateGuidance(ClassifierFree[P]):
    """Guidance in rate form: the reverse rates are `Rhat_g(x, z) = Rhat(x, z | y)^g Rhat(x, z)^{1-g}`, for a label y.

    Use it with samplers that draw from rates: `Euler` and `TauLeaping`. Draws of clean values use the posterior form (see
    `PosteriorGuidance`).

    References:
        Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al., 2024) | https://arxiv.org/abs/2406.01572

    Proven:
        Tests list all states of small chains and compute the exact distribution of guided samples. Random samples agree with
        this distribution (chi-square test). It is not the distribution `p(x_0) p(y | x_0)^g / Z` at which guidance aims.
        docs/guidance.md has tables of the distance between the two.

        discrete_diffusion/test_guidance.py::test_runs_agree_with_the_exact_law
        discrete_diffusion/test_guidance.py::test_documented_distances_are_those_of_the_benchmark

    Arguments:
        denoiser: a denoiser whose network takes conditions. One guided evaluation evaluates this denoiser twice, in one
            batch: with the conditions and with the null values.
        scale: the guidance scale g as a function of time.
        null: for each condition to guide towards, the value that means "no condition". None means guidance by the labels
            y only, with the network's null class as this value.

    Raises:
        ValueError: `null` is None, and the network has no labels.
        ValueError: `null` names a condition that the network does not have.
    """

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P:
        g = self.scale(t)
        with_, without = (Categorical(part.scores) for part in self.both(x_t, t, cond))
        parts = self.posterior(x_t, t, with_), self.posterior(x_t, t, without)

        def combine(cond: Tensor, uncond: Tensor) -> Tensor:
            return flushed_exp(guided_logs(cond.log(), uncond.log(), g))

        guided = self.posterior(x_t, t, Categorical(guided_logs(with_.scores, without.scores, g)))
        if not isinstance(guided, X0Posterior):
            return cast("P", _GuidedPosterior(parts, combine))
        return cast("P", _GuidedX0Posterior(parts, combine, guided.distribution))


def _tilted_law(base: X0Posterior, tilt: Tensor) -> Categorical:
    """Return `p(x_0^d | x_t)` times `exp(tilt)`, normalised. Of the tilt (B, *event, n), only the S data values are used."""
    return Categorical(base.logits + tilt[..., : base.process.rates.data_states].to(base.logits.dtype))


class _ByClassifier(_Guidance[P]):
    def __init__(self, denoiser: Denoiser[P], classifier: Classifier, scale: GuidanceScale) -> None:
        super().__init__(denoiser, scale)
        self.classifier = classifier
        self.nfe = denoiser.nfe

    @abstractmethod
    def log_ratio(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return `log p(y | x_t with d -> k, t) - log p(y | x_t, t)` for every dimension d and state k: (B, *event, n)."""

    def distribution(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Distribution:
        posterior = self.forward(x_t, t, **cond)
        check_x0(posterior, "a guided distribution")
        return cast(X0Posterior, posterior).distribution

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P:
        y = taken_labels(cond, len(x_t))
        base = self.denoiser(x_t, t, **cond)
        log_ratio = self.log_ratio(x_t, t, y)
        g = per_example(self.scale(t).to(log_ratio.dtype), log_ratio)
        # At g = 0 the classifier has no effect. Without this line, 0 times -inf would be undefined.
        tilt = torch.where(g == 0, 0.0, g * log_ratio)

        def combine(rates: Tensor) -> Tensor:
            return torch.where(rates > 0, flushed_exp(rates.log() + tilt).to(rates.dtype), 0.0)

        if not isinstance(base, X0Posterior):
            return cast("P", _GuidedPosterior([base], combine))
        return cast("P", _GuidedX0Posterior([base], combine, _tilted_law(base, tilt)))


class ClassifierGuidance(_ByClassifier[P]):
    """Guidance by a classifier: the reverse rates are `Rhat_g(x, z) = Rhat(x, z) (p(y | z, t) / p(y | x, t))^g`.

    The classifier p(y | x, t) is evaluated at every neighbour z of x: every state that differs from x in one dimension. This
    takes D n evaluations for each example, so use it only for small D and n.

    References:
        Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al., 2024) | https://arxiv.org/abs/2406.01572

    Arguments:
        denoiser: the unconditional denoiser. If its network takes labels, the network is called without labels.
        classifier: (x_t (B, *event) integer, c (B,)) -> logits (B, K).
        scale: the guidance scale g as a function of time.
        chunk: the largest number of neighbours in one call of the classifier.
    """

    def __init__(self, denoiser: Denoiser[P], classifier: Classifier, scale: GuidanceScale, chunk: Count = 4096) -> None:
        check_arguments(ClassifierGuidance, locals())
        super().__init__(denoiser, classifier, scale)
        self.chunk = chunk

    def log_ratio(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        n, dimensions = self.process.rates.num_states, x_t[0].numel()
        flat, t = x_t.flatten(1), t.expand(len(x_t))
        parts = []
        for row in torch.arange(flat.numel() * n, device=x_t.device).split(self.chunk):
            example, d, state = row // (dimensions * n), row // n % dimensions, row % n
            neighbour = flat[example].scatter(1, d[:, None], state[:, None].to(flat.dtype)).reshape(-1, *x_t.shape[1:])
            parts.append(class_log_prob(self.classifier, neighbour, t[example], y[example]))
        log_prob = torch.cat(parts).reshape(*x_t.shape, n)
        here = log_prob.gather(-1, x_t.long()[..., None])
        # Where the classifier excludes the label at x_t itself, the chain follows the unconditional rates.
        return torch.where(here == -torch.inf, 0.0, log_prob - here)


class TaylorClassifierGuidance(_ByClassifier[P]):
    """Guidance by a first-order expansion of a classifier. A step needs one gradient of the classifier.

    The rates are those of `ClassifierGuidance`, but with `log p(y | z, t) - log p(y | x, t)` replaced by its first-order
    expansion in the one-hot coding of x.

    References:
        Oops I took a gradient: scalable sampling for discrete distributions (Grathwohl et al., 2021) | https://arxiv.org/abs/2102.04509
        Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al., 2024) | https://arxiv.org/abs/2406.01572

    Arguments:
        denoiser: the unconditional denoiser. If its network takes labels, the network is called without labels.
        classifier: (one-hot x_t (B, *event, n) floating, c (B,)) -> logits (B, K), differentiable.
        scale: the guidance scale g as a function of time.
    """

    def log_ratio(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        dtype = parameter_dtype(self.classifier, torch.float64)
        slope = class_slope(self.classifier, F.one_hot(x_t.long(), self.process.rates.num_states).to(dtype), t, y)
        return slope - slope.gather(-1, x_t.long()[..., None])
