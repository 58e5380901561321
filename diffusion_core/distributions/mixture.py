"""Mixtures of distributions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffusion_core.distributions.base import Distribution
from diffusion_core.distributions.inversion import centred, chosen
from diffusion_core.distributions.numerics import log_sum
from diffusion_core.lazy import lazy_property

__all__ = ["Mixture"]


class Mixture(Distribution):
    """A mixture of distributions: `p(k) = sum_j w_j p_j(k)`, w = softmax(weights).

    Arguments:
        weights: the unnormalised log-weights (J, B, *event) of the J components.
        components: J distributions of the same shape (B, *event) and number of values.

    Raises:
        ValueError: there are no components, components differ in shape or number of values, or the weights have a wrong shape.
    """

    def __init__(self, weights: Tensor, components: Sequence[Distribution]) -> None:
        if not components:
            raise ValueError(f"components = {components}, expected at least one distribution")
        first = components[0]
        if any(part.shape != first.shape or part.num_values != first.num_values for part in components):
            given = [(tuple(part.shape), part.num_values) for part in components]
            raise ValueError(f"components have shapes and numbers of values {given}, expected equal ones")
        if weights.shape != (len(components), *first.shape):
            raise ValueError(f"weights have shape {tuple(weights.shape)}, expected {(len(components), *first.shape)}")
        super().__init__(first.shape, first.num_values)
        self.log_weights = weights.log_softmax(0)
        self.components = tuple(components)

    def parameters(self) -> tuple[Tensor, ...]:
        """Return the log-weights (B, *event, J), then the parameters of the components in order."""
        return (self.log_weights.movedim(0, -1), *(tensor for part in self.components for tensor in part.parameters()))

    def with_parameters(self, parameters: Sequence[Tensor]) -> Mixture:
        weights, *tensors = parameters
        given = iter(tensors)
        components = [part.with_parameters([next(given) for _ in part.parameters()]) for part in self.components]
        return Mixture(weights.movedim(-1, 0), components)

    def defined(self) -> Tensor:
        weights = self.log_weights.amax(0).isfinite().flatten(1).all(1)  # single log-weights may be -inf (weight 0)
        return torch.stack([weights, *(part.defined() for part in self.components)]).all(0)

    @lazy_property
    def logits(self) -> Tensor:
        out = self.log_weights[0].unsqueeze(-1) + self.components[0].logits
        for weight, part in zip(self.log_weights[1:], self.components[1:], strict=True):
            out = torch.logaddexp(out, weight.unsqueeze(-1) + part.logits)
        return out

    def log_prob(self, k: Tensor) -> Tensor:
        return log_sum(self.log_weights + torch.stack([part.log_prob(k) for part in self.components]))

    def log_expectation(self, weights: Callable[[slice], Tensor]) -> Tensor:
        parts = torch.stack([part.log_expectation(weights) for part in self.components])
        return log_sum(self.log_weights + parts)

    def sample(self, u: Tensor) -> Tensor:
        """Sample with one uniform number for each position: it chooses the component, and the rest of its digits the value."""
        self._check_uniform(u)
        weights = self.log_weights.detach().double().exp().flatten(1).t()  # (N, J)
        component, left = chosen(weights, centred(u.reshape(-1, 1), torch.float64))
        u = (left / weights.gather(1, component)).clamp_(max=1 - torch.finfo(torch.float64).eps).view(u.shape)
        component = component.view(u.shape)
        out = self.components[0].sample(u)
        for j, part in enumerate(self.components[1:], start=1):
            out = torch.where(component == j, part.sample(u), out)
        return out

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)
