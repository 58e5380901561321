"""Exact answers to test with: mixtures of Gaussians, whose denoiser has a closed form.

A mixture stays one under the forward process. For data `sum_k w_k N(mu_k, diag v_k)`,

    q_t = sum_k w_k N(alpha mu_k, diag(alpha^2 v_k + sigma^2)),

and given component k every dimension is a conjugate pair:

    E_k[x_0 | x_t]   = mu_k + alpha v_k / (alpha^2 v_k + sigma^2) (x_t - alpha mu_k)
    Var_k[x_0 | x_t] = v_k sigma^2 / (alpha^2 v_k + sigma^2)

The posterior's moments mix these with the responsibilities of the components at x_t.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from continuous_diffusion.denoisers import GaussianPosterior
from continuous_diffusion.process import GaussianProcess, check_real
from diffusion_core import Denoiser, Generator, as_randomness, check_time

__all__ = ["GaussianMixture", "MixtureDenoiser"]


class GaussianMixture(nn.Module):
    """`p(x) = sum_k w_k N(x; mu_k, diag v_k)` over events of any shape.

    Arguments:
        weights: non-negative, of sum 1 (K,).
        means: (K, *event).
        variances: the variance of each component (K,), or of each of its dimensions (K, *event).

    Raises:
        ValueError: shapes that do not match, weights that are no distribution, a variance < 0.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def __init__(self, weights: Tensor, means: Tensor, variances: Tensor) -> None:
        super().__init__()
        components = len(means)
        if weights.shape != (components,):
            raise ValueError(f"weights have shape {tuple(weights.shape)}, expected ({components},)")
        if variances.shape not in ((components,), means.shape):
            raise ValueError(f"variances have shape {tuple(variances.shape)}, expected ({components},) or {tuple(means.shape)}")
        if weights.device.type == "cpu" and (weights.min() < 0 or abs(float(weights.sum()) - 1) > 1e-6):
            raise ValueError(f"weights = {weights.tolist()}, expected non-negative numbers of sum 1")
        if variances.device.type == "cpu" and variances.min() < 0:
            raise ValueError(f"variances contain {variances.min().item()}, expected non-negative numbers")
        self.event_shape = tuple(means.shape[1:])
        if variances.shape != means.shape:
            variances = variances.reshape(-1, *(1,) * len(self.event_shape)).expand_as(means)
        self.register_buffer("weights", weights.double(), persistent=False)
        self.register_buffer("means", means.double().flatten(1), persistent=False)  # (K, D)
        self.register_buffer("variances", variances.double().flatten(1).clone(), persistent=False)  # (K, D)

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        """Draw n events: (n, *event), float64."""
        randomness = as_randomness(generator)
        u = randomness.uniform((n,), torch.float64, self.weights.device)
        k = torch.searchsorted(self.weights.cumsum(0), u, right=True).clamp(max=len(self.weights) - 1)
        noise = randomness.normal((n, self.means.shape[1]), torch.float64, self.weights.device)
        return (self.means[k] + self.variances[k].sqrt() * noise).reshape(n, *self.event_shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log density in nats: (B, *event) -> (B,), float64."""
        one = torch.ones((), dtype=torch.float64, device=x.device)
        return self.noised_components(x, one, torch.zeros_like(one))[2].logsumexp(1)

    def noised_components(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each component says of x_t: (x_t - alpha mu_k), its variance, and log(w_k q_t(x_t | k)).

        Arguments:
            x_t: noisy events (B, *event).
            alpha: the scale of the data, () or (B,).
            sigma: the standard deviation of the noise, () or (B,).

        Returns:
            (B, K, D), (B or 1, K, D) and (B, K), in float64.
        """
        alpha, sigma = (value.double().reshape(-1, 1, 1) for value in (alpha, sigma))
        offset = x_t.double().flatten(1)[:, None] - alpha * self.means  # (B, K, D)
        var = alpha.square() * self.variances + sigma.square()
        log_density = -(offset.square() / var + var.log() + math.log(2 * math.pi)).sum(2) / 2
        return offset, var, log_density + self.weights.log()


def responsibilities(log_joint: Tensor) -> Tensor:
    """The probability of each component given x_t, from log(w_k q_t(x_t | k)): (B, K) -> (B, K, 1)."""
    # Not `softmax`, which wakes every thread for the smallest tensor: 20 times slower on a busy machine.
    return (log_joint - log_joint.logsumexp(1, keepdim=True)).exp()[:, :, None]


class MixtureDenoiser(Denoiser):
    """The exact denoiser of a Gaussian mixture.

    Its posterior has the exact mean and the exact variance of every dimension; as a law it is the
    Gaussian of those moments, which the true posterior is for a single component only.
    Computed in float64, returned in the dtype of x_t.

    Arguments:
        process: the forward process.
        mixture: the law of the data.
    """

    process: GaussianProcess

    def __init__(self, process: GaussianProcess, mixture: GaussianMixture) -> None:
        super().__init__(process, mixture.event_shape)
        self.mixture = mixture

    def _components(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        self.check_event(x_t)
        check_real(x_t)
        check_time(t, len(x_t))
        alpha, sigma = self.process.schedule(t.double())
        return alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1), *self.mixture.noised_components(x_t, alpha, sigma)

    def log_prob(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The log density log q_t(x_t) of the noisy data in nats: (B, *event) -> (B,), float64."""
        return self._components(x_t, t)[4].logsumexp(1)

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The gradient of log q_t at x_t: (B, *event), float64."""
        _, _, offset, var, log_joint = self._components(x_t, t)
        return -(responsibilities(log_joint) * offset / var).sum(1).reshape(x_t.shape)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> GaussianPosterior:
        """The exact moments of x_0 given x_t (B, *event) at time t, () or (B,); labels are ignored."""
        alpha, sigma, offset, var, log_joint = self._components(x_t, t)
        share = responsibilities(log_joint)  # (B, K, 1)
        v, mu = self.mixture.variances, self.mixture.means
        means = mu + alpha * v / var * offset  # (B, K, D)
        mean = (share * means).sum(1)  # (B, D)
        spread = (share * (v * sigma.square() / var + (means - mean[:, None]).square())).sum(1)
        epsilon = sigma[:, 0] * (share * offset / var).sum(1)  # -sigma score: no division by sigma
        parts = (part.reshape(x_t.shape).to(x_t.dtype) for part in (mean, spread, epsilon))
        return GaussianPosterior(*parts)
