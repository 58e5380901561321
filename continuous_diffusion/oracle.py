"""Gaussian mixtures, whose exact denoiser has a closed form. Tests use them as ground truth.

The forward process maps a mixture to a mixture. For data `sum_k w_k N(mu_k, diag v_k)`,

    q_t = sum_k w_k N(alpha mu_k, diag(alpha^2 v_k + sigma^2)),

and given component k, the moments of each dimension are

    E_k[x_0 | x_t]   = mu_k + alpha v_k / (alpha^2 v_k + sigma^2) (x_t - alpha mu_k)
    Var_k[x_0 | x_t] = v_k sigma^2 / (alpha^2 v_k + sigma^2)

The moments of the posterior are sums of these moments, weighted with the probabilities of the components given x_t (the
responsibilities). The noisy marginal, the distribution of one class, and the distribution of some dimensions given the
others are Gaussian mixtures too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from continuous_diffusion.denoisers import Posterior
from continuous_diffusion.process import GaussianProcess, check_real
from diffusion_core import Denoiser, Generator, as_randomness, check_time
from diffusion_core.conditions import Null, check_names
from diffusion_core.values import check_within

__all__ = ["GaussianMixture", "MixtureDenoiser"]


class GaussianMixture(nn.Module):
    """A Gaussian mixture `p(x) = sum_k w_k N(x; mu_k, diag v_k)` over data of any event shape (an event is one data point).

    Arguments:
        weights: the weights of the components (K,), non-negative with sum 1.
        means: the means of the components (K, *event).
        variances: the variance of each component (K,), or of each dimension of a component (K, *event).
        labels: the class of each component, K integers of at least 0. None means that each component is its own class.

    Raises:
        ValueError: shapes do not match, the weights are not a distribution, a variance is < 0, or a label is < 0.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    labels: Tensor

    def __init__(self, weights: Tensor, means: Tensor, variances: Tensor, labels: Sequence[int] | None = None) -> None:
        super().__init__()
        components = len(means)
        labels = list(range(components)) if labels is None else [int(label) for label in labels]
        if len(labels) != components or min(labels) < 0:
            raise ValueError(f"labels = {labels}, expected {components} integers of at least 0")
        if weights.shape != (components,):
            raise ValueError(f"weights have shape {tuple(weights.shape)}, expected ({components},)")
        if variances.shape not in ((components,), means.shape):
            raise ValueError(f"variances have shape {tuple(variances.shape)}, expected ({components},) or {tuple(means.shape)}")
        if weights.device.type == "cpu" and (weights.min() < 0 or abs(float(weights.sum()) - 1) > 1e-6):
            raise ValueError(f"weights = {weights.tolist()}, expected non-negative numbers of sum 1")
        if variances.device.type == "cpu" and (variances < 0).any():
            raise ValueError(f"variances contain {variances.min().item()}, expected non-negative numbers")
        self.event_shape = tuple(means.shape[1:])
        if variances.shape != means.shape:
            variances = variances.reshape(-1, *(1,) * len(self.event_shape)).expand_as(means)
        self.register_buffer("weights", weights.double(), persistent=False)
        self.register_buffer("means", means.double().flatten(1), persistent=False)  # (K, D)
        self.register_buffer("variances", variances.double().flatten(1).clone(), persistent=False)  # (K, D)
        self.register_buffer("labels", torch.tensor(labels, device=weights.device), persistent=False)  # (K,)
        self.num_classes = max(labels) + 1

    def sample(self, n: int, generator: Generator = None) -> Tensor:
        """Draw n data points: (n, *event), float64."""
        randomness = as_randomness(generator)
        u = randomness.uniform((n,), torch.float64, self.weights.device)
        k = torch.searchsorted(self.weights.cumsum(0), u, right=True).clamp(max=len(self.weights) - 1)
        noise = randomness.normal((n, self.means.shape[1]), torch.float64, self.weights.device)
        return (self.means[k] + self.variances[k].sqrt() * noise).reshape(n, *self.event_shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density in nats: (B, *event) -> (B,), float64."""
        one = torch.ones((), dtype=torch.float64, device=x.device)
        return self.noised_components(x, one, torch.zeros_like(one))[2].logsumexp(1)

    def entropy(self) -> float:
        """Return the differential entropy `-E log p` in nats.

        It is exact for one component. For several components in one dimension it is computed by the trapezoidal rule,
        over 12 standard deviations on both sides of each mean. The integrand is smooth, so the error is about as small
        as rounding errors.

        Raises:
            ValueError: there are several components in several dimensions, or a variance is 0.
        """
        components, dimensions = self.means.shape
        if components > 1 and dimensions > 1:
            raise ValueError(f"{components} components in {dimensions} dimensions, expected one component or one dimension")
        if self.variances.min() <= 0:
            raise ValueError(f"variances contain {self.variances.min().item()}, expected positive numbers, for a density")
        if components == 1:
            return float((self.variances.log() + math.log(2 * math.pi) + 1).sum() / 2)
        z = torch.linspace(-12, 12, 20_001, dtype=torch.float64, device=self.means.device)
        x = (self.means + self.variances.sqrt() * z).reshape(-1, *self.event_shape)  # (K * nodes, *event)
        density = self.weights[:, None] * (-z.square() / 2).exp() * (24 / 20_000 / math.sqrt(2 * math.pi))  # (K, nodes)
        return -float((density.flatten() * self.log_prob(x)).sum())

    def noised(self, alpha: float | Tensor, sigma: float | Tensor) -> GaussianMixture:
        """Return the distribution of `alpha x + sigma eps`. With alpha_t and sigma_t it is the marginal q_t."""
        means, variances = (part.reshape(-1, *self.event_shape) for part in (self.means, self.variances))
        return GaussianMixture(self.weights, alpha * means, alpha**2 * variances + sigma**2, self.labels.tolist())

    def of_class(self, label: int) -> GaussianMixture:
        """Return the distribution of x given its class: `sum_k w_k N(mu_k, v_k) / sum_k w_k` over its components.

        Raises:
            ValueError: no component has the label.
        """
        rows = (self.labels == label).nonzero()[:, 0]
        if len(rows) == 0:
            raise ValueError(f"label = {label}, expected one of {sorted(set(self.labels.tolist()))}")
        means, variances = (part[rows].reshape(-1, *self.event_shape) for part in (self.means, self.variances))
        weights = self.weights[rows] / self.weights[rows].sum()
        return GaussianMixture(weights, means, variances, self.labels[rows].tolist())

    def conditional(self, x: Tensor, known: Tensor) -> GaussianMixture:
        """Return the distribution of the unknown dimensions given the known dimensions of x.

        The dimensions of a component are independent, so the known dimensions change only its weight:
        `w_k prod_known N(x^d; mu_k^d, v_k^d)`.

        Arguments:
            x: one data point (*event). The values of its unknown dimensions are ignored.
            known: booleans (*event), True for known dimensions. At least one is False.

        Returns:
            A mixture over events of shape (number of unknown dimensions,). The dimensions keep their order.

        Raises:
            ValueError: a shape is not that of an event, or all dimensions are known.
        """
        for name, value in (("x", x), ("known", known)):
            if tuple(value.shape) != self.event_shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {self.event_shape}")
        given = known.flatten()
        if given.all():
            raise ValueError("every dimension is known, expected at least one unknown dimension")
        seen = GaussianMixture(self.weights, self.means[:, given], self.variances[:, given])
        one = torch.ones((), dtype=torch.float64, device=x.device)
        log_joint = seen.noised_components(x.flatten()[None, given], one, 0 * one)[2]  # (1, K)
        weights = responsibilities(log_joint)[0, :, 0]
        return GaussianMixture(weights, self.means[:, ~given], self.variances[:, ~given], self.labels.tolist())

    def log_weights(self, y: Tensor | None = None) -> Tensor:
        """Return the log probability of each component given the class: (1, K), or (B, K) for labels y (B,).

        The label `num_classes` is the null class. It means "no label" and includes all components.
        """
        log_weights = self.weights.log()[None]
        if y is None:
            return log_weights
        check_within(
            y, 0, self.num_classes, f"y contains {{}}, expected labels 0 .. {self.num_classes}, the last one the null class"
        )
        member = (self.labels == y[:, None]) | (y == self.num_classes)[:, None]
        log_weights = log_weights.masked_fill(~member, -math.inf)
        return log_weights - log_weights.logsumexp(1, keepdim=True)

    def noised_components(
        self, x_t: Tensor, alpha: Tensor, sigma: Tensor, y: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return, for each component, x_t - alpha mu_k, its variance, and log(w_k q_t(x_t | k)).

        Arguments:
            x_t: noisy events (B, *event).
            alpha: the scale of the data, () or (B,).
            sigma: the standard deviation of the noise, () or (B,).
            y: the class of each event (B,). Components of other classes get weight 0.

        Returns:
            Tensors (B, K, D), (B or 1, K, D) and (B, K), in float64.
        """
        alpha, sigma = (value.double().reshape(-1, 1, 1) for value in (alpha, sigma))
        offset = x_t.double().flatten(1)[:, None] - alpha * self.means  # (B, K, D)
        var = alpha.square() * self.variances + sigma.square()
        log_density = -(offset.square() / var + var.log() + math.log(2 * math.pi)).sum(2) / 2
        return offset, var, log_density + self.log_weights(y)


def responsibilities(log_joint: Tensor) -> Tensor:
    """Return the probability of each component given x_t, from log(w_k q_t(x_t | k)): (B, K) -> (B, K, 1)."""
    # `softmax` uses all threads even for small tensors, which is 20 times slower on a busy machine.
    return (log_joint - log_joint.logsumexp(1, keepdim=True)).exp()[:, :, None]


class MixtureDenoiser(Denoiser[Posterior]):
    """The exact denoiser of a Gaussian mixture.

    The returned posterior is a Gaussian with the exact mean and the exact variance of each dimension. The true
    posterior is Gaussian only for a single component. Results are computed in float64 and returned in the dtype of x_t.

    With labels y this is the exact denoiser of `p(x_0 | y)`, the target of a conditional network. The label
    `mixture.num_classes` is the null class. It has the same effect as no labels: all components count.

    Arguments:
        process: the forward process.
        mixture: the distribution of the data.
    """

    process: GaussianProcess
    learns_variance = False

    def __init__(self, process: GaussianProcess, mixture: GaussianMixture) -> None:
        super().__init__(process, mixture.event_shape)
        self.mixture = mixture

    @property
    def num_classes(self) -> int:
        """The number of classes of the data, and also the label of the null class."""
        return self.mixture.num_classes

    @property
    def conditions(self) -> Mapping[str, Null]:
        """The condition y (labels), with the null class."""
        return {"y": self.num_classes}

    def _components(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        self.check_event(x_t)
        check_real(x_t)
        check_time(t, len(x_t))
        if y is not None and y.shape != (len(x_t),):
            raise ValueError(f"y has shape {tuple(y.shape)}, expected ({len(x_t)},)")
        alpha, sigma = self.process.schedule(t.double())
        return alpha.reshape(-1, 1, 1), sigma.reshape(-1, 1, 1), *self.mixture.noised_components(x_t, alpha, sigma, y)

    def log_prob(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the log density log q_t(x_t | y) of the noisy data in nats: (B, *event) -> (B,), float64."""
        return self._components(x_t, t, y)[4].logsumexp(1)

    def class_log_probs(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return `log p(y | x_t)` of the exact classifier in nats, differentiable in x_t: (B, num_classes), float64."""
        log_joint = self._components(x_t, t)[4]  # (B, K)
        log_probs = log_joint - log_joint.logsumexp(1, keepdim=True)
        member = self.mixture.labels == torch.arange(self.num_classes, device=x_t.device)[:, None]  # (classes, K)
        return log_probs[:, None].masked_fill(~member, -math.inf).logsumexp(2)

    def score(self, x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the gradient of log q_t(. | y) at x_t: (B, *event), float64."""
        _, _, offset, var, log_joint = self._components(x_t, t, y)
        return -(responsibilities(log_joint) * offset / var).sum(1).reshape(x_t.shape)

    def forward(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior:
        """Return the exact moments of x_0 given x_t (B, *event) at time t, () or (B,), and optional labels y (B,).

        Raises:
            ValueError: y has values that are not labels, or there is a condition other than y.
        """
        check_names(cond, self.conditions)
        alpha, sigma, offset, var, log_joint = self._components(x_t, t, cond.get("y"))
        share = responsibilities(log_joint)  # (B, K, 1)
        v, mu = self.mixture.variances, self.mixture.means
        means = mu + alpha * v / var * offset  # (B, K, D)
        mean = (share * means).sum(1)  # (B, D)
        spread = (share * (v * sigma.square() / var + (means - mean[:, None]).square())).sum(1)
        epsilon = sigma[:, 0] * (share * offset / var).sum(1)  # -sigma score: no division by sigma
        parts = (part.reshape(x_t.shape).to(x_t.dtype) for part in (mean, epsilon, spread))
        return Posterior(self.process, t, *parts)
