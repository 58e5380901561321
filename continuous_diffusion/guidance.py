"""Guided denoisers of the Gaussian engine.

Classifier-free guidance combines the unconditional and the conditional prediction of the noise:

    epsilon_g = epsilon_u + g (epsilon_c - epsilon_u)

The noise is proportional to the score, `epsilon = -sigma_t grad log q_t(x_t)`. So epsilon_g is -sigma_t times the
score of the tilted marginal `q_t(x_t)^{1-g} q_t(x_t | y)^g`. With a classifier of noisy data, Bayes' rule gives the form
of classifier guidance:

    epsilon_g = epsilon_u - sigma_t g grad log p(y | x_t, t)

The two forms are equal for an exact classifier. For g other than 0 and 1, the tilted marginals are not the marginals of
the forward process that starts from the tilted data distribution. Deterministic and stochastic samplers then have
different distributions, and neither is the tilted distribution.

The mean follows from the noise, `x0hat = (x_t - sigma_t epsilon_g) / alpha_t`. With two predictions no division by
alpha_t is needed: `x0hat_u + g (x0hat_c - x0hat_u)`. Guidance does not change the variance. If there is a conditional
model, its variance is used, because that model is closer to the samples.

References:
    Classifier-free diffusion guidance (Ho & Salimans, 2022) | https://arxiv.org/abs/2207.12598
    Diffusion models beat GANs on image synthesis (Dhariwal & Nichol, 2021) | https://arxiv.org/abs/2105.05233
    Classifier-free guidance is a predictor-corrector (Bradley & Nakkiran, 2024) | https://arxiv.org/abs/2408.09000
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.process import GaussianProcess, match
from diffusion_core import Denoiser
from diffusion_core.conditions import Null
from diffusion_core.dropout import repeated
from diffusion_core.guidance import Classifier, GuidanceScale, class_slope, doubled, guided, null_values, taken_labels

__all__ = ["ClassifierFreeGuidance", "ClassifierGuidance"]


class _Guidance(Denoiser[Posterior]):
    """The base class of guided denoisers. A guided denoiser wraps another denoiser and keeps its variance."""

    process: GaussianProcess

    def __init__(self, denoiser: Denoiser[Posterior], scale: GuidanceScale) -> None:
        super().__init__(denoiser.process, denoiser.event_shape)
        self.denoiser = denoiser
        self.scale = scale
        self.learns_variance = bool(denoiser.learns_variance)

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """Return the active dimensions of the wrapped denoiser."""
        return self.denoiser.active(x_0, **cond)


class ClassifierFreeGuidance(_Guidance):
    """Classifier-free guidance: `epsilon_g = epsilon(x_t, t) + g (epsilon(x_t, t, y) - epsilon(x_t, t))`.

    Both predictions come from one network call with a batch of 2 B.

    References:
        Classifier-free diffusion guidance (Ho & Salimans, 2022) | https://arxiv.org/abs/2207.12598

    Proven:
        For mixtures, tests compute the distribution of guided samples by numerical integration. It is not the tilted
        distribution `p(x_0) p(y | x_0)^g / Z`, which is the usual motivation of guidance. docs/guidance.md has tables
        of the distance between the two.

        continuous_diffusion/test_guidance.py::test_documented_distances_are_those_of_the_benchmark

    Arguments:
        denoiser: a denoiser whose network takes conditions. One guided evaluation evaluates this denoiser with the
            conditions and with the null values, both in one batch.
        scale: the guidance scale g as a function of time.
        null: a dict from the names of the guided conditions to their null values, which mean "no condition". None means
            that only the labels y are guided, with the null class of the network.

    Raises:
        ValueError: `null` is None and the network has no labels, or `null` names a condition that the network does not
            have.
    """

    def __init__(self, denoiser: Denoiser[Posterior], scale: GuidanceScale, null: Mapping[str, Null] | None = None) -> None:
        super().__init__(denoiser, scale)
        self.null = null_values(denoiser, null)
        self.nfe = 2 * denoiser.nfe

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """Return the guided posterior of x_0 given x_t (B, *event) at time t, () or (B,), and the conditions of the network.

        Its variance and its `interpolation` v are those of the conditional model.

        Raises:
            ValueError: a condition to guide towards is missing, or the wrapped denoiser raises it.
        """
        self.check_event(x_t)
        n, g = len(x_t), self.scale(t)
        twice, times, conditions = doubled(x_t, t, cond, self.null)
        with repeated(2):
            both = self.denoiser(twice, times, **conditions)
        mean, epsilon = (guided(part[:n], part[n:], g) for part in (both.mean, both.epsilon))
        interpolation = None if both.interpolation is None else both.interpolation[:n]
        return Posterior(self.process, t, mean, epsilon, both.var[:n], interpolation)


class ClassifierGuidance(_Guidance):
    """Classifier guidance of an unconditional model: `epsilon_g = epsilon(x_t, t) - sigma_t g grad log p(y | x_t, t)`.

    The mean is computed with a division by alpha_t, so alpha_t > 0 is required.

    References:
        Diffusion models beat GANs on image synthesis (Dhariwal & Nichol, 2021) | https://arxiv.org/abs/2105.05233

    Arguments:
        denoiser: the unconditional denoiser. If its network takes labels, it is evaluated without them.
        classifier: (x_t (B, *event), c (B,)) -> logits (B, K), differentiable in x_t.
        scale: the guidance scale g as a function of time.
    """

    def __init__(self, denoiser: Denoiser[Posterior], classifier: Classifier, scale: GuidanceScale) -> None:
        super().__init__(denoiser, scale)
        self.classifier = classifier
        self.nfe = denoiser.nfe

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """Return the guided posterior of x_0 given x_t (B, *event) at time t, () or (B,), and labels y (B,) in 0 .. K - 1.

        Raises:
            ValueError: y is missing, is not integers of shape (B,) or has a value out of range, or the wrapped denoiser
                raises it.
            NotFiniteError: the output of the classifier or its gradient is infinite or NaN.
        """
        y = taken_labels(cond, len(x_t))
        base = self.denoiser(x_t, t, **cond)
        slope = class_slope(self.classifier, x_t, t, y)
        alpha, sigma = self.process.schedule(t)
        shift = match(sigma * self.scale(t), x_t) * slope  # (B, *event)
        mean = base.mean + match(sigma / alpha, x_t) * shift
        return Posterior(self.process, t, mean, base.epsilon - shift, base.var, base.interpolation)
