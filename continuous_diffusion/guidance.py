"""Guided denoisers of the Gaussian engine: the noise of the unconditional model, moved towards the conditional one's.

    epsilon_g = epsilon_u + g (epsilon_c - epsilon_u)

The noise is the score, `epsilon = -sigma_t grad log q_t(x_t)`, so the rule is that of the log domain:
epsilon_g is the score of `q_t(x_t)^{1-g} q_t(x_t | y)^g`. With a classifier of noisy data Bayes' rule gives the same,

    epsilon_g = epsilon_u - sigma_t g grad log p(y | x_t, t),

and for an exact classifier it is the same. For 0 < g != 1 those tilted marginals are not the marginals of this process
of noising started at the tilted law of the data: a deterministic and a noisy sampler then have different laws, neither
of them the tilted one.

The mean moves along, `x0hat = (x_t - sigma_t epsilon_g) / alpha_t`, and without a division by alpha_t where there are two of
them: `x0hat_u + g (x0hat_c - x0hat_u)`. The variance is that of the model that is closer to the samples: the conditional one's
where it is at hand.

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


class ClassifierFreeGuidance(Denoiser[Posterior]):
    """`epsilon_g = epsilon(x_t, t) + g (epsilon(x_t, t, y) - epsilon(x_t, t))`, both from one batch of 2 B.

    References:
        Classifier-free diffusion guidance (Ho & Salimans, 2022) | https://arxiv.org/abs/2207.12598

    Arguments:
        denoiser: a denoiser whose network takes conditions; two evaluations of it, in one batch, make one.
        scale: how strong guidance is, as a function of time.
        null: the values that mean "none" of the conditions to guide towards; None is the network's null class of y.

    Raises:
        ValueError: no null value is known, or one of a condition that the network does not have.
    """

    process: GaussianProcess

    def __init__(self, denoiser: Denoiser[Posterior], scale: GuidanceScale, null: Mapping[str, Null] | None = None) -> None:
        super().__init__(denoiser.process, denoiser.event_shape)
        self.null = null_values(denoiser, null)
        self.denoiser = denoiser
        self.scale = scale
        self.learns_variance = bool(denoiser.learns_variance)
        self.nfe = 2 * denoiser.nfe

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """What the wrapped denoiser says."""
        return self.denoiser.active(x_0, **cond)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """The guided posterior of x_0 given x_t (B, *event) at time t, () or (B,), and the conditions of the network.

        Its variance, and what a network learned of it, is the conditional model's.

        Raises:
            ValueError: a condition to guide towards is missing, as in `doubled`; and what the wrapped denoiser refuses.
        """
        self.check_event(x_t)
        n, g = len(x_t), self.scale(t)
        twice, times, conditions = doubled(x_t, t, cond, self.null)
        with repeated(2):
            both = self.denoiser(twice, times, **conditions)
        mean, epsilon = (guided(part[:n], part[n:], g) for part in (both.mean, both.epsilon))
        interpolation = None if both.interpolation is None else both.interpolation[:n]
        return Posterior(self.process, t, mean, epsilon, both.var[:n], interpolation)


class ClassifierGuidance(Denoiser[Posterior]):
    """`epsilon_g = epsilon(x_t, t) - sigma_t g grad log p(y | x_t, t)`: a model without labels, a classifier with them.

    The mean that goes with it divides by alpha_t, so it needs alpha_t > 0.

    References:
        Diffusion models beat GANs on image synthesis (Dhariwal & Nichol, 2021) | https://arxiv.org/abs/2105.05233

    Arguments:
        denoiser: the unconditional denoiser; one whose network takes labels is asked without.
        classifier: (x_t (B, *event), c (B,)) -> logits (B, K), differentiable in x_t.
        scale: how strong guidance is, as a function of time.
    """

    process: GaussianProcess

    def __init__(self, denoiser: Denoiser[Posterior], classifier: Classifier, scale: GuidanceScale) -> None:
        super().__init__(denoiser.process, denoiser.event_shape)
        self.denoiser = denoiser
        self.classifier = classifier
        self.scale = scale
        self.learns_variance = bool(denoiser.learns_variance)
        self.nfe = denoiser.nfe

    def active(self, x_0: Tensor, **cond: Tensor) -> Tensor | None:
        """What the wrapped denoiser says."""
        return self.denoiser.active(x_0, **cond)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """The guided posterior of x_0 given x_t (B, *event) at time t, () or (B,), and labels y (B,) in 0 .. K - 1.

        Raises:
            ValueError: y is missing, is not (B,), not integer or out of range; and what the wrapped denoiser refuses.
            NotFiniteError: the classifier's output, or its slope, is infinite or not a number.
        """
        y = taken_labels(cond, len(x_t))
        base = self.denoiser(x_t, t, **cond)
        slope = class_slope(self.classifier, x_t, t, y)
        alpha, sigma = self.process.schedule(t)
        shift = match(sigma * self.scale(t), x_t) * slope  # (B, *event)
        mean = base.mean + match(sigma / alpha, x_t) * shift
        return Posterior(self.process, t, mean, base.epsilon - shift, base.var, base.interpolation)
