"""Muon: momentum, orthogonalised. The weights of a layer change by a matrix whose singular values are all near 1.

A gradient of a weight matrix has a few large singular values and many small ones. Muon replaces the momentum M = U S V^T of
each matrix with U V^T, so that all directions are learned equally fast. It needs fewer steps than AdamW:
docs/training_speed.md has the measurements. The kernels of a convolution (out, in, height, width) are one matrix
(out, in height width).

AdamW updates all other parameters: biases and gains, kernels of one input channel (of depthwise convolutions),
and embeddings with a single row.

An update of a matrix (m, n) is `factor lr sqrt(max(1, m / n)) U V^T`. With this root, the outputs of a layer change by the
same amount for every width. (Liu et al. use `0.2 lr sqrt(max(m, n)) U V^T`, which learned digits more slowly.)

References:
    Muon: an optimizer for hidden layers in neural networks (Jordan et al., 2024) | https://kellerjordan.github.io/posts/muon
    Muon is scalable for LLM training (Liu et al., 2025) | https://arxiv.org/abs/2502.16982
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ctdiff.training.optimizers import Betas, Momentum, Optimizer, parameter_groups
from diffusion_core.ranges import Positive

__all__ = ["Muon", "MuonOptimizer", "is_matrix", "orthogonalised"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""The polynomial of Jordan et al. Small singular values grow by 3.4445 in each iteration; large ones end in 0.68 .. 1.14."""

_ITERATIONS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return a matrix (m, n) with nearly the same singular vectors, and with singular values near 1.

    Five Newton-Schulz iterations `X <- p(X X^T) X` with `p(A) = a + b A + c A^2` start from `X = matrix / |matrix|`. All
    factors are polynomials of the Gram matrix `A = X X^T`, so they commute. The iterations therefore change only A and the
    product of the factors, which are small squares, and X is multiplied once.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / torch.linalg.vector_norm(wide).clamp(min=torch.finfo(wide.dtype).tiny)
    a, b, c = _COEFFICIENTS
    gram = wide @ wide.T
    product = identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for _ in range(_ITERATIONS):
        factor = torch.addmm(torch.add(a * identity, gram, alpha=b), gram, gram, alpha=c)
        product = factor @ product
        gram = factor @ gram @ factor
    result: Tensor = product @ wide
    return result if matrix.shape[0] <= matrix.shape[1] else result.T


def is_matrix(parameter: Tensor) -> bool:
    """Return whether Muon orthogonalises the updates of a parameter: a matrix, or kernels that mix channels."""
    if parameter.ndim < 2:
        return False
    depthwise = parameter.ndim > 2 and parameter.shape[1] == 1
    return not depthwise and parameter.shape[0] > 1 and parameter[0].numel() > 1


class MuonOptimizer(torch.optim.Optimizer):
    """Muon for matrices and AdamW for all other parameters, as an optimiser of torch.

    Arguments:
        groups: groups of parameters, each with its learning rate `lr`. The entry `orthogonal` of a group says whether its
            updates are orthogonalised.
        momentum: the decay rate of the average of the gradients of matrices.
        betas: the decay rates of AdamW.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float, betas: tuple[float, float]) -> None:
        # With `fused`, `load_state_dict` moves the counts of steps to the device of the parameters, as the fused AdamW needs.
        super().__init__(groups, {"momentum": momentum, "betas": betas, "weight_decay": 0.0, "fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient, and return the result of `closure` if it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["orthogonal"]:
                for parameter in parameters:
                    self._orthogonal_step(parameter, group)
            elif parameters:
                self._adamw_step(parameters, group)
        return loss

    def _orthogonal_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Update one matrix with Nesterov momentum."""
        if not self.state[parameter]:
            self.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
        average = self.state[parameter]["exp_avg"]
        assert parameter.grad is not None
        average.lerp_(parameter.grad, 1 - group["momentum"])
        update = orthogonalised(parameter.grad.lerp(average, group["momentum"]).flatten(1))
        m, n = update.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * math.sqrt(max(1, m / n)))

    def _adamw_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                averages = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
                self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **averages}
        names = ("exp_avg", "exp_avg_sq", "step")
        averages_1, averages_2, steps = ([self.state[each][name] for each in parameters] for name in names)
        adamw(
            parameters,
            [each.grad for each in parameters if each.grad is not None],
            averages_1,
            averages_2,
            [],
            steps,
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


@dataclass(frozen=True)
class Muon(Optimizer):
    """Orthogonalised momentum for matrices and kernels, and AdamW for all other parameters.

    `lr` is the learning rate of the parameters that AdamW updates. So if you change a configuration from AdamW to Muon, you can
    keep its learning rate. Weight decay is decoupled, as in AdamW: a matrix is multiplied by `1 - factor lr weight_decay`. The
    learning rate in the metrics of a training is that of the matrices.

    References:
        Muon: an optimizer for hidden layers in neural networks (Jordan et al., 2024) | https://kellerjordan.github.io/posts/muon
        Muon is scalable for LLM training (Liu et al., 2025) | https://arxiv.org/abs/2502.16982

    Arguments:
        momentum: the decay rate of the average of the gradients of matrices.
        factor: the learning rate of matrices, as a multiple of `lr`. If a matrix has at most as many rows as columns, the
            largest singular value of its update is about `factor lr`.
        betas: the decay rates of AdamW.
    """

    copies: ClassVar[int] = 1  # for matrices, which are nearly all parameters

    momentum: Momentum = 0.9  # 0.95 in the references, for longer runs
    factor: Positive = 5.0
    betas: Betas = (0.9, 0.99)

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        groups = [
            {**group, "params": chosen, "orthogonal": orthogonal, "lr": self.lr * (self.factor if orthogonal else 1)}
            for group in parameter_groups(parameters, self.weight_decay)
            for orthogonal in (True, False)
            if (chosen := [each for each in group["params"] if is_matrix(each) is orthogonal])
        ]
        return MuonOptimizer(groups, self.momentum, self.betas)
