"""Any rate matrix (generator), given as a tensor.

    P_tau = exp(tau R)  (n, n),   one matrix for each distinct tau

Each matrix is computed once (see `fast/transitions.py`). All dimensions use its rows, columns and products. Draws from
P_tau need no matrix (see `fast/alias.py`). Bridges need two matrices (see `fast/products.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion_core import Generator, as_randomness
from diffusion_core.lazy import lazy_property
from discrete_diffusion.rates.base import RateMatrix
from discrete_diffusion.rates.checks import check_bridge, check_states, check_tau
from discrete_diffusion.rates.fast.alias import JumpSampler
from discrete_diffusion.rates.fast.matrix_kernel import MatrixKernel, take_rows
from discrete_diffusion.rates.fast.products import ProductSampler
from discrete_diffusion.rates.fast.transitions import TransitionMatrices
from discrete_diffusion.rates.structure import checked_generator, checked_stationary, stationary_law
from discrete_diffusion.rates.tables import Recent, key_of

__all__ = ["DenseRates"]

_CACHED = 2**23  # the most entries of a batch of matrices that is kept for the next call
_SMALLEST = 1e-18  # float32 is not enough for transition probabilities below this
_MIXED = 0.03  # float32 is not enough for relative deviations from the stationary law below this


class DenseRates(RateMatrix):
    """Any rate matrix (generator), given as a tensor. It need not be reversible, and it can have transient states.

    A transient state is a state that the chain leaves forever, such as the values of absorbing noise.

    Arguments:
        generator_matrix: R (n, n), floating. Rows sum to zero, and off-diagonal entries are not negative.
        stationary: the stationary law pi (n,) with pi R = 0, if it is known in closed form. None means that it is computed.

    Raises:
        ValueError: the matrix is not a generator, or the chain has several closed classes (see `structure.py`).
    """

    generator_matrix: Tensor

    def __init__(self, generator_matrix: Tensor | NDArray[Any], stationary: Tensor | NDArray[Any] | None = None) -> None:
        rates = checked_generator(generator_matrix)
        law = stationary_law(rates) if stationary is None else checked_stationary(stationary, rates)
        super().__init__(len(rates), stationary=law)
        self.register_buffer("generator_matrix", torch.tensor(rates), persistent=False)
        self._tables["rates"], self._tables["rates to"], self._tables["exit"] = rates, rates.T, -rates.diagonal()
        self._matrices = TransitionMatrices(rates, law)
        self._jump_sampler = JumpSampler(rates, law)
        self._kernels: Recent[MatrixKernel] = Recent(16)
        self._batches: Recent[MatrixKernel] = Recent(2)
        self._bridges: Recent[ProductSampler] = Recent(4)

    def transition(self, tau: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return P_tau: (n, n) for tau of shape (), (B, n, n) for tau of shape (B,). dtype None means the dtype of tau.

        Do not change the result in place, because it can be in a cache.
        """
        return self.kernel(tau, dtype).matrix

    def kernel(self, tau: Tensor, dtype: torch.dtype | None = None) -> MatrixKernel:
        check_tau(tau)
        dtype = tau.dtype if dtype is None else dtype
        tau = tau.detach().double()
        key = key_of(tau) if tau.numel() * self.num_states**2 <= _CACHED else None
        if key is None:
            return self._make(tau, dtype)
        recent = self._kernels if tau.ndim == 0 else self._batches
        exact = recent.get((key, torch.float64), lambda: self._make(tau, torch.float64))
        return exact if dtype == torch.float64 else recent.get((key, dtype), lambda: exact.select(slice(None), dtype))

    def _make(self, tau: Tensor, dtype: torch.dtype) -> MatrixKernel:
        # Make ordinary tensors even in inference mode, because a cached kernel can be used later in training.
        with torch.inference_mode(False), torch.no_grad():
            return MatrixKernel(self, tau.clone(), self._matrices(tau), dtype)

    def rates_from(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return take_rows(self._tables.on("rates", x.device, dtype), x)

    def rates_to(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return take_rows(self._tables.on("rates to", x.device, dtype), x)

    def exit_rates(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._tables.on("exit", x.device, dtype).index_select(0, x.long().flatten()).view(x.shape)

    @lazy_property
    def float32_range(self) -> tuple[float, float]:
        # Both conditions are monotone in tau, so a bisection finds the limits. It uses numpy tables on the CPU, and so works
        # on any device and in any mode of the caller.
        return self._matrices.find_range(_SMALLEST, _MIXED)

    def sample_from(self, x: Tensor, tau: Tensor, generator: Generator = None) -> Tensor:
        check_states(x, self.num_states)
        check_tau(tau, len(x))
        return self._jump_sampler(x, tau.double(), as_randomness(generator))

    def sample_bridge(self, x_0: Tensor, x_t: Tensor, tau_s: Tensor, tau_t: Tensor, generator: Generator = None) -> Tensor:
        if tau_s.ndim or tau_t.ndim:
            return super().sample_bridge(x_0, x_t, tau_s, tau_t, generator)
        rest = check_bridge(x_0, x_t, tau_s, tau_t, self.num_states)
        u = as_randomness(generator).uniform(x_0.shape, torch.float64, x_0.device)
        tau_s = tau_s.double()
        sampler = self._bridges.get(key_of(tau_s, rest), lambda: ProductSampler(self.transition(tau_s), self.transition(rest)))
        return sampler.draw(x_0.long().flatten(), x_t.long().flatten(), u.flatten()).view(x_0.shape)
