"""Guided denoisers of the discrete engine: the same wish, four laws.

Clean data are to follow `p_g(x_0) ~ p(x_0)^{1-g} p(x_0 | y)^g`. Written for one dimension at one noise level, where
p_c is the posterior with the label, p_u without it, and Rhat_c, Rhat_u are the reverse rates,

- posterior form:  `p_g(x_0^d | x_t) ~ p_c^g p_u^{1-g}`, renormalised in each dimension, and every rate follows from it;
- rate form:       `Rhat_g = Rhat_c^g Rhat_u^{1-g}`, nothing is renormalised;
- a classifier:    `Rhat_g(x, y) = Rhat_u(x, y) (p(c | y, t) / p(c | x, t))^g`, for an exact classifier the rate form by
  Bayes' rule; or its Taylor expansion, with one gradient in place of D n evaluations.

The rate form multiplies rates by powers of a sum over x_0, the posterior form sums powers over x_0: they differ wherever x_0 is
not certain. In either form g = 0 and g = 1 are the unconditional and the conditional process. For a mask
both unmask towards the same values; the rate form does so at another speed, `sum_y p_c^g p_u^{1-g}` times as fast.

Where a clean value is drawn, in the last step of every sampler and in each one of the ancestral sampler, the rate form
uses the posterior form, and a classifier `p_u(x_0^d | x_t) (p(c | x_t with d -> x_0, t) / p(c | x_t, t))^g`, which is
right with a mask and at small t. So rate guidance is for samplers that draw from rates, `Euler` and `TauLeaping`.
A score model draws no clean value: its rates can be guided in rate form or by a classifier, to the last step.

In the leave-one-out reading the posterior form is that of the network's distributions: the
evidence P_t[x_0, x] of the dimension has the power g + (1 - g) = 1.

References:
    Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al., 2024) | https://arxiv.org/abs/2406.01572
    Simple guidance mechanisms for discrete diffusion models (Schiff et al., 2024) | https://arxiv.org/abs/2412.10193
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
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
    parameter_dtype,
    taken_labels,
)
from diffusion_core.lazy import lazy_property
from diffusion_core.ranges import Count, check_arguments
from discrete_diffusion.denoisers.base import Denoiser, P, Posterior, X0Posterior, check_x0
from discrete_diffusion.jumps import Jumps, ListedJumps

__all__ = [
    "ClassifierGuidance",
    "PosteriorGuidance",
    "RateGuidance",
    "TaylorClassifierGuidance",
]


class _GuidedPosterior(Posterior):
    """Rates that are written down."""

    def jumps(self) -> Jumps:
        return ListedJumps(self.x_t, self.reverse_rates)


class _RatePosterior(_GuidedPosterior):
    def __init__(self, cond: Posterior, uncond: Posterior, g: Tensor) -> None:
        super().__init__(cond.process, cond.x_t, cond.t)
        self._cond = cond
        self._uncond = uncond
        self._g = g

    @property
    def ratio(self) -> Tensor:
        # In float64: powers of ratios leave float32, and a ratio of 0 would make the integrand infinite.
        return flushed_exp(guided_logs(self._cond.ratio.double().log(), self._uncond.ratio.double().log(), self._g))

    @lazy_property
    def reverse_rates(self) -> Tensor:
        return flushed_exp(guided_logs(self._cond.reverse_rates.log(), self._uncond.reverse_rates.log(), self._g))


class _ClassifierPosterior(_GuidedPosterior):
    def __init__(self, base: Posterior, tilt: Tensor) -> None:
        super().__init__(base.process, base.x_t, base.t)
        self._base = base
        self._tilt = tilt

    @property
    def ratio(self) -> Tensor:
        return self._tilted(self._base.ratio.double())

    @lazy_property
    def reverse_rates(self) -> Tensor:
        return self._tilted(self._base.reverse_rates)

    def _tilted(self, rates: Tensor) -> Tensor:
        return torch.where(rates > 0, flushed_exp(rates.log() + self._tilt).to(rates.dtype), 0.0)


class _GuidedX0Posterior(X0Posterior):
    """Rates of one posterior, and a distribution to draw clean values from."""

    def __init__(self, rates: Posterior, distribution: Distribution) -> None:
        super().__init__(rates.process, rates.x_t, rates.t)
        self._rates = rates
        self._distribution = distribution

    @property
    def distribution(self) -> Distribution:
        return self._distribution

    @property
    def ratio(self) -> Tensor:
        return self._rates.ratio

    @property
    def reverse_rates(self) -> Tensor:
        return self._rates.reverse_rates

    def jumps(self) -> Jumps:
        return self._rates.jumps()


class _Guidance(Denoiser[P]):
    """What every guided denoiser is: a denoiser around another, whose reading of a distribution it keeps."""

    def __init__(self, denoiser: Denoiser[P], scale: GuidanceScale) -> None:
        super().__init__(denoiser.process, denoiser.network, denoiser.event_shape)
        self.denoiser = denoiser
        self.scale = scale
        self.has_x0 = denoiser.has_x0

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """What the wrapped denoiser says."""
        return self.denoiser.active(x_0, **cond)

    def posterior(self, x_t: Tensor, t: Tensor, distribution: Distribution) -> P:
        return self.denoiser.posterior(x_t, t, distribution)

    @abstractmethod
    def read(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Distribution:
        """The guided distribution that clean values are drawn from, up to the evidence of the wrapped reading."""


class ClassifierFree(_Guidance[P]):
    """Guidance by the network itself, with its conditions and without them."""

    def __init__(self, denoiser: Denoiser[P], scale: GuidanceScale, null: Mapping[str, Null] | None = None) -> None:
        super().__init__(denoiser, scale)
        self.null = null_values(denoiser, null)
        self.nfe = 2 * denoiser.nfe

    def both(self, x_t: Tensor, t: Tensor, given: Mapping[str, Tensor]) -> tuple[Distribution, Distribution]:
        """The network's distributions with the conditions and without them, from one call on a batch of 2 B."""
        self.check_event(x_t)
        twice, times, conditions = doubled(x_t, t, given, self.null)
        with repeated(2):
            pair = self.denoiser.read(twice, times, **conditions)
        first, second = ([p[half] for p in pair.parameters()] for half in (slice(len(x_t)), slice(len(x_t), None)))
        return pair.with_parameters(first), pair.with_parameters(second)

    def read(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Distribution:
        with_, without = self.both(x_t, t, cond)
        g = self.scale(t).expand(len(x_t))
        scores = [
            guided_logs(_some(with_, part).scores, _some(without, part).scores, g[part])
            for part in chunks(len(x_t), with_.shape.numel() * with_.num_values, x_t.device)
        ]
        return Categorical(torch.cat(scores))


def _some(distribution: Distribution, part: slice) -> Distribution:
    """The distributions of some examples."""
    return distribution.with_parameters([p[part] for p in distribution.parameters()])


class PosteriorGuidance(ClassifierFree[X0Posterior]):
    """Guides the posterior, `p_g(x_0^d | x_t) ~ p(x_0^d | x_t, y)^g p(x_0^d | x_t)^{1-g}`: ratios, rates and draws follow
    from it.

    References:
        Simple guidance mechanisms for discrete diffusion models (Schiff et al., 2024) | https://arxiv.org/abs/2412.10193

    Arguments:
        denoiser: a denoiser with a law of x_0, whose network takes conditions; two evaluations of it, in one batch, make one.
        scale: how strong guidance is, as a function of time.
        null: the values that mean "none" of the conditions to guide towards; None is the network's null class of y.

    Raises:
        ValueError: no null value is known, or one of a condition that the network does not have, or a score model.
    """

    def __init__(self, denoiser: Denoiser[X0Posterior], scale: GuidanceScale, null: Mapping[str, Null] | None = None) -> None:
        check_x0(denoiser, "PosteriorGuidance")
        super().__init__(denoiser, scale, null)


class RateGuidance(ClassifierFree[P]):
    """Guides the rates, `Rhat_g(x, y) = Rhat(x, y | label)^g Rhat(x, y)^{1-g}`, for samplers with rates; draws, if any, are
    in posterior form.

    References:
        Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al., 2024) | https://arxiv.org/abs/2406.01572

    Arguments:
        denoiser: a denoiser whose network takes conditions; two evaluations of it, in one batch, make one.
        scale: how strong guidance is, as a function of time.
        null: the values that mean "none" of the conditions to guide towards; None is the network's null class of y.

    Raises:
        ValueError: no null value is known, or one of a condition that the network does not have.
    """

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P:
        g = self.scale(t)
        with_, without = (Categorical(part.scores) for part in self.both(x_t, t, cond))
        rates = _RatePosterior(self.posterior(x_t, t, with_), self.posterior(x_t, t, without), g)
        guided = self.posterior(x_t, t, Categorical(guided_logs(with_.scores, without.scores, g)))
        drawn = _GuidedX0Posterior(rates, guided.distribution) if isinstance(guided, X0Posterior) else rates
        return cast("P", drawn)  # with a law of x_0 where the wrapped denoiser gives one


def _tilted_law(base: X0Posterior, tilt: Tensor) -> Categorical:
    """`p(x_0^d | x_t)` times a factor of every state, of which the data values' are used."""
    return Categorical(base.logits + tilt[..., : base.process.rates.data_states].to(base.logits.dtype))


class _ByClassifier(_Guidance[P]):
    def __init__(self, denoiser: Denoiser[P], classifier: Classifier, scale: GuidanceScale) -> None:
        super().__init__(denoiser, scale)
        self.classifier = classifier
        self.nfe = denoiser.nfe

    @abstractmethod
    def log_ratio(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """`log p(y | x_t with d -> k, t) - log p(y | x_t, t)` for every dimension d and state k: (B, *event, n)."""

    def read(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Distribution:
        posterior = self.forward(x_t, t, **cond)
        check_x0(posterior, "a guided distribution")
        return cast(X0Posterior, posterior).distribution

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> P:
        y = taken_labels(cond, len(x_t))
        base = self.denoiser(x_t, t, **cond)
        log_ratio = self.log_ratio(x_t, t, y)
        g = per_example(self.scale(t).to(log_ratio.dtype), log_ratio)
        # At g = 0 what the classifier excludes is not excluded.
        tilt = torch.where(g == 0, 0.0, g * log_ratio)
        rates = _ClassifierPosterior(base, tilt)
        drawn = _GuidedX0Posterior(rates, _tilted_law(base, tilt)) if isinstance(base, X0Posterior) else rates
        return cast("P", drawn)  # with a law of x_0 where the wrapped denoiser gives one


class ClassifierGuidance(_ByClassifier[P]):
    """`Rhat_g(x, z) = Rhat(x, z) (p(y | z, t) / p(y | x, t))^g`, with the classifier evaluated at every neighbour z of x.

    D n evaluations of the classifier an example: for small spaces.

    References:
        Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al., 2024) | https://arxiv.org/abs/2406.01572

    Arguments:
        denoiser: the unconditional denoiser; one whose network takes labels is asked without.
        classifier: (x_t (B, *event) integer, c (B,)) -> logits (B, K).
        scale: how strong guidance is, as a function of time.
        chunk: how many neighbours the classifier sees at once.
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
        # A chain that is where the classifier excludes its label follows the unconditional rates.
        return torch.where(here == -torch.inf, 0.0, log_prob - here)


class TaylorClassifierGuidance(_ByClassifier[P]):
    """The same with `log p(y | z, t) - log p(y | x, t)` to first order in the one-hot coding of x: one gradient a step.

    References:
        Oops I took a gradient: scalable sampling for discrete distributions (Grathwohl et al., 2021) | https://arxiv.org/abs/2102.04509
        Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al., 2024) | https://arxiv.org/abs/2406.01572

    Arguments:
        denoiser: the unconditional denoiser; one whose network takes labels is asked without.
        classifier: (one-hot x_t (B, *event, n) floating, c (B,)) -> logits (B, K), differentiable.
        scale: how strong guidance is, as a function of time.
    """

    def log_ratio(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        dtype = parameter_dtype(self.classifier, torch.float64)
        slope = class_slope(self.classifier, F.one_hot(x_t.long(), self.process.rates.num_states).to(dtype), t, y)
        return slope - slope.gather(-1, x_t.long()[..., None])
