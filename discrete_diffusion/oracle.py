"""Exact results for small chains, by enumeration of all states.

With D dimensions of S values there are S^D clean states and n^D noisy states. They are listed in lexicographic order. Sums
over these lists give the marginals q_t and the posteriors p(x_0^d | x_t), in the x0 and the leave-one-out parameterisation.
They also give the expected ELBO of any denoiser, and the exact law of any sampler after N steps. A law is a probability
distribution. Nothing here is random. All results are finite sums in float64, except the time integral of the bound, which
is a Gauss-Legendre quadrature.

For the exact posterior, the expected bound can also be computed from entropies:

    E[bound] = H(p_0) + KL(q_1 || prior) + sum_d H(x_0^d | x_tmin) - H(x_0 | x_tmin)

The last difference arises because the last step draws the dimensions of x_0 independently. It is the total correlation of
x_0 given x_tmin.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion_core import Inpainting
from discrete_diffusion.denoisers import Denoiser, Posterior, X0Posterior
from discrete_diffusion.likelihood import prior_divergence
from discrete_diffusion.process import CTMC
from discrete_diffusion.rates.checks import remaining
from discrete_diffusion.samplers.base import Sampler, Stage

__all__ = ["EnumeratedCTMC", "kl_divergence", "labelled_network", "total_variation"]

Network = Callable[..., Tensor]
"""(x_t, t, **cond) -> logits."""

_LIMIT = 20_000


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """Return `KL(p || q)` in nats for two laws over the same states."""
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum().item()


def total_variation(p: Tensor, q: Tensor) -> float:
    """Return the total variation distance `1/2 sum |p - q|` of two laws over the same states."""
    return 0.5 * (p - q).abs().sum().item()


def labelled_network(networks: Sequence[Network]) -> Network:
    """Combine several networks into one network with labels: label y selects network y.

    The last network is the null class. It is also used if no labels are given.
    """

    def network(x_t: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            return networks[-1](x_t, t)
        answers = torch.stack([one(x_t, t) for one in networks])
        return answers[y, torch.arange(len(y))]

    return network


def _logits(marginals: Sequence[Tensor]) -> Tensor:
    """Return unnormalised laws of D dimensions, each (B, S), as logits (B, D, S). Where x_t cannot occur, they are 0."""
    laws = torch.stack(list(marginals), 1)
    return torch.where(laws.sum(-1, keepdim=True) > 0, laws, 1.0).log()


def _enumerate(values: int, dimensions: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(values), repeat=dimensions)), dtype=torch.int64)


class EnumeratedCTMC:
    """A process and a data distribution on D dimensions, with exact results from the list of all states.

    Arguments:
        process: the forward process, on the CPU.
        data_law: p_0 over all S^D clean states in lexicographic order, float64, with sum 1.
        dimensions: the number D of dimensions.

    Raises:
        ValueError: data_law does not have the shape (S^D,), has a negative entry, or does not have the sum 1.
        ValueError: there are more than 20,000 noisy states.
    """

    def __init__(self, process: CTMC, data_law: Tensor, dimensions: int) -> None:
        self.process = process
        self.dimensions = dimensions
        self.num_states = process.rates.num_states
        self.data_states = process.rates.data_states
        if self.num_states**dimensions > _LIMIT:
            raise ValueError(f"the process has {self.num_states}^{dimensions} noisy states, expected at most {_LIMIT}")
        if data_law.shape != (self.data_states**dimensions,):
            raise ValueError(f"data_law has shape {tuple(data_law.shape)}, expected ({self.data_states**dimensions},)")
        if bool((data_law < 0).any()) or abs(data_law.sum().item() - 1) > 1e-9:
            minimum, total = data_law.min().item(), data_law.sum().item()
            raise ValueError(f"data_law has minimum {minimum} and sum {total}, expected non-negative numbers with sum 1")
        self.data_law = data_law.double()
        self.clean = _enumerate(self.data_states, dimensions)  # (S^D, D)
        self.noisy = _enumerate(self.num_states, dimensions)  # (n^D, D)

    def _joint_columns(self, x_t: Tensor, t: Tensor) -> list[Tensor]:
        """Return P_t[., x_t^d] for every dimension d: D tensors (B, S)."""
        return list(self.process.kernel(t, torch.float64).columns(x_t).unbind(1))

    def _joint(self, columns: list[Tensor]) -> Tensor:
        """Return `p_0(x_0) prod_d column_d(x_0^d)`: (B, S, ..., S) with D axes of clean values."""
        batch = len(columns[0])
        joint = self.data_law.reshape(1, *(self.data_states,) * self.dimensions)
        for d, column in enumerate(columns):
            axes = [batch] + [1] * self.dimensions
            axes[1 + d] = self.data_states
            joint = joint * column.reshape(axes)
        return joint

    def marginal(self, t: float) -> Tensor:
        """Return the marginal q_t over the noisy states: (n^D,)."""
        law = self.data_law.reshape((self.data_states,) * self.dimensions)
        kernel = self.process.kernel(torch.tensor(t, dtype=torch.float64), torch.float64)
        rows = kernel.rows(torch.arange(self.data_states)[None])[0]  # (S, n)
        for _ in range(self.dimensions):
            law = torch.tensordot(law, rows, dims=([0], [0]))  # the first clean axis becomes the last noisy one
        return law.flatten()

    def prior_law(self) -> Tensor:
        """Return the law from which sampling starts, over the noisy states: (n^D,)."""
        one = self.process.prior_law(torch.device("cpu"))
        law = torch.ones((), dtype=torch.float64)
        for _ in range(self.dimensions):
            law = law[..., None] * one
        return law.flatten()

    def x0_network(self) -> Network:
        """Return the exact log p(x_0^d | x_t) as a network for `X0Denoiser`: (x_t, t) -> (B, D, S)."""

        def logits(x_t: Tensor, t: Tensor) -> Tensor:
            joint = self._joint(self._joint_columns(x_t, t))
            return _logits([self._axis_marginal(joint, d) for d in range(self.dimensions)])

        return self._network(logits)

    def leave_one_out_network(self) -> Network:
        """Return the exact log p_loo(x_0^d) as a network for `LeaveOneOutDenoiser`: (x_t, t) -> (B, D, S)."""

        def logits(x_t: Tensor, t: Tensor) -> Tensor:
            columns = self._joint_columns(x_t, t)
            marginals = []
            for d in range(self.dimensions):
                others = [torch.ones_like(column) if i == d else column for i, column in enumerate(columns)]
                marginals.append(self._axis_marginal(self._joint(others), d))
            return _logits(marginals)

        return self._network(logits)

    def _network(self, logits: Callable[[Tensor, Tensor], Tensor]) -> Network:
        """Return a network that computes its logits once for each state if all examples have the same time."""
        places = self.num_states ** torch.arange(self.dimensions - 1, -1, -1)

        def network(x_t: Tensor, t: Tensor, **cond: Tensor) -> Tensor:
            if t.ndim and len(t) and bool((t == t[0]).all()):
                t = t[0]  # one transition matrix instead of many
            if t.ndim or len(x_t) <= len(self.noisy):
                return logits(x_t, t)
            return logits(self.noisy, t)[(x_t * places).sum(-1)]

        return network

    def _axis_marginal(self, joint: Tensor, d: int) -> Tensor:
        return joint.movedim(1 + d, 1).flatten(2).sum(-1) if self.dimensions > 1 else joint

    def entropy(self) -> float:
        """Return the entropy H(p_0) of the data in nats."""
        p = self.data_law
        return -torch.where(p > 0, p * p.log(), 0.0).sum().item()

    def decoder_gap(self, t_min: float) -> float:
        """Return how much the bound grows because the last step draws the dimensions independently, in nats.

        The result is `E_q[ KL(p(x_0 | x) || prod_d p(x_0^d | x)) ]` for x ~ q at t_min.
        """
        t = torch.tensor(t_min, dtype=torch.float64)
        joint = self._joint(self._joint_columns(self.noisy, t))
        q = joint.flatten(1).sum(-1)
        posterior = joint[q > 0] / q[q > 0].reshape(-1, *(1,) * self.dimensions)
        product = torch.ones_like(posterior)
        for d in range(self.dimensions):
            axes = [len(posterior)] + [1] * self.dimensions
            axes[1 + d] = self.data_states
            product = product * self._axis_marginal(posterior, d).reshape(axes)
        gaps = torch.where(posterior > 0, posterior * (posterior / product).log(), 0.0).flatten(1).sum(-1)
        return (q[q > 0] * gaps).sum().item()

    def exact_bound(self, t_min: float) -> float:
        """Return the expected bound of the exact posterior in nats. It is computed from entropies and divergences only."""
        return self.entropy() + kl_divergence(self.marginal(1.0), self.prior_law()) + self.decoder_gap(t_min)

    def bound(self, denoiser: Denoiser[X0Posterior], t_min: float, nodes: int = 120, t_max: float = 1.0) -> float:
        """Return the expected bound of any denoiser in nats: a sum over all states and an integral over time.

        Arguments:
            denoiser: a denoiser of this process with event shape (D,).
            t_min: the lower end of the integral. The reconstruction term is evaluated at this time.
            nodes: the number of Gauss-Legendre nodes in log t on [t_min, t_max].
            t_max: the upper end of the integral. The prior term is evaluated at this time.
        """
        points, weights = np.polynomial.legendre.leggauss(nodes)
        span = -np.log(t_min / t_max)
        times = t_max * np.exp(span * (points - 1) / 2)
        scales = weights * span / 2 * times
        prior = (self.data_law * prior_divergence(self.process, self.clean, t_max)).sum().item()
        return self._weighted_integrands(denoiser, times, scales) + prior + self._reconstruction(denoiser, t_min)

    def _pairs(self, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return all pairs with positive probability: x_0 (M, D), x_t (M, D), and p_0(x_0) q_t(x_t | x_0) (M,)."""
        kernel = self.process.kernel(torch.tensor(t, dtype=torch.float64), torch.float64)
        rows = kernel.rows(self.clean)  # (S^D, D, n)
        joint = self.data_law[:, None]
        for d in range(self.dimensions):
            joint = joint * rows[:, d, self.noisy[:, d]]
        i, j = torch.nonzero(joint, as_tuple=True)
        return self.clean[i], self.noisy[j], joint[i, j]

    def integrand(self, denoiser: Denoiser[Posterior], t: float) -> float:
        """Return the expected ELBO integrand `E[ l_t(x_0) ]` over the data and the noise, in nats / unit of t."""
        return self._weighted_integrands(denoiser, [t], [1.0])

    @torch.no_grad()
    def _weighted_integrands(self, denoiser: Denoiser[Posterior], times: Sequence[float], scales: Sequence[float]) -> float:
        """Return `sum_i scale_i E[ l_{t_i}(x_0) ]`. One call of the denoiser evaluates as many times as memory allows."""
        total, group = 0.0, max(1, _LIMIT // (len(self.clean) * len(self.noisy)))
        for first in range(0, len(times), group):
            pairs = [self._pairs(float(t)) for t in times[first : first + group]]
            x_0, x_t, weight = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            sizes = torch.tensor([len(part) for part, _, _ in pairs])
            t, scale = (
                torch.tensor(values[first : first + group], dtype=torch.float64).repeat_interleave(sizes)
                for values in (times, scales)
            )
            total += float((scale * weight * denoiser(x_t, t).rate_divergence(x_0).sum(-1)).sum())
        return total

    @torch.no_grad()
    def _reconstruction(self, denoiser: Denoiser[X0Posterior], t: float) -> float:
        x_0, x_t, weight = self._pairs(t)
        return -float((weight * denoiser(x_t, torch.tensor(t, dtype=torch.float64)).log_prob(x_0).sum(-1)).sum())

    def generator_at(self, sampler_jumps: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the rate matrix of all dimensions together, over all noisy states: (n^D, n^D).

        Arguments:
            sampler_jumps: the jump rates in each dimension, as a function of the states: (N, D) -> (N, D, n).
        """
        rates = sampler_jumps(self.noisy)
        generator = torch.zeros(len(self.noisy), len(self.noisy), dtype=torch.float64)
        for d in range(self.dimensions):
            place = self.num_states ** (self.dimensions - 1 - d)
            for value in range(self.num_states):
                target = torch.arange(len(self.noisy)) + (value - self.noisy[:, d]) * place
                moves = value != self.noisy[:, d]
                generator[torch.arange(len(self.noisy))[moves], target[moves]] += rates[moves, d, value].double()
        return generator - torch.diag(generator.sum(1))

    def compose(self, law: Tensor, stage: Stage) -> Tensor:
        """Return the law over the noisy states after one stage of a step: (n^D,) -> (n^D,).

        Arguments:
            law: the law before the stage (n^D,).
            stage: a function from all states to the probabilities of the n states of each dimension. Given the state before
                the stage, dimensions move independently.
        """
        return self._moved(law, stage(self.noisy).double())

    def _moved(self, law: Tensor, moves: Tensor) -> Tensor:
        """Return the law after one move. `moves` (n^D, D, n) has the probabilities for each dimension of each state."""
        moves = torch.where(law[:, None, None] > 0, moves, 0.0)  # a posterior can be undefined at states of probability 0
        result = law[:, None]
        for d in range(self.dimensions):
            result = (result[:, :, None] * moves[:, d, None, :]).flatten(1)
        return result.sum(0)

    def _labels(self, y: int | None) -> dict[str, Tensor]:
        return {} if y is None else {"y": torch.full((len(self.noisy),), y)}

    @torch.no_grad()
    def sampler_law(
        self, sampler: Sampler[Posterior], start: Tensor | None = None, finish: bool = True, y: int | None = None
    ) -> Tensor:
        """Return the exact law of the samples of a sampler.

        Arguments:
            sampler: any sampler of the discrete engine on this process.
            start: the law over the noisy states at grid.t_max. None means the exact marginal at this time.
            finish: whether to include the last step to clean data. Without it, the result is the law of x_tmin.
            y: the label of all samples, if the denoiser takes labels.

        Returns:
            the law over clean states (S^D,), or over noisy states (n^D,) without the last step.
        """
        times = torch.tensor(sampler.grid.times(), dtype=torch.float64)
        cond = self._labels(y)
        law = self.marginal(sampler.grid.t_max) if start is None else start
        for t, s in itertools.pairwise(times):
            for stage in sampler.stages(t, s, **cond):
                law = self.compose(law, stage)
        return self.compose(law, lambda x: sampler.finish_law(x, **cond)) if finish else law

    @torch.no_grad()
    def completion_law(self, sampler: Sampler[Posterior], given: Tensor, known: Tensor) -> Tensor:
        """Return the exact law of samples that complete one example with known dimensions: over clean states, (S^D,).

        Sampling starts from the prior.

        Arguments:
            sampler: any sampler of the discrete engine, with a denoiser that takes the condition `known`.
            given: the clean values (D,). Only the values of known dimensions are used.
            known: the known dimensions, bool (D,).
        """
        times = torch.tensor(sampler.grid.times(), dtype=torch.float64)
        cond = {"known": known.expand(len(self.noisy), -1)}
        given = torch.where(known, given, 0)

        def fixed(moves: Tensor) -> Tensor:
            """Replace the laws of known dimensions (n^D, D, n) by the given values."""
            return torch.where(known[:, None], torch.eye(moves.shape[-1], dtype=torch.float64)[given], moves.double())

        law = self._moved(self.prior_law(), fixed(torch.eye(self.num_states)[self.noisy]))
        for t, s in itertools.pairwise(times):
            for stage in sampler.stages(t, s, **cond):
                law = self._moved(law, fixed(stage(self.noisy)))
        return self._moved(law, fixed(sampler.finish_law(self.noisy, **cond)))

    @torch.no_grad()
    def inpainting_law(self, inpainting: Inpainting, sampler: Sampler[Posterior], y: int | None = None) -> Tensor:
        """Return the exact law of the samples of an `Inpainting`: over clean states, (S^D,).

        Arguments:
            inpainting: the inpainting. Only its first x_0 is used.
            sampler: the sampler of the discrete engine that the inpainting wraps.
            y: the label of all samples, if the denoiser takes labels.
        """
        times, cond = torch.tensor(sampler.grid.times(), dtype=torch.float64), self._labels(y)
        x_0, known = inpainting.x_0[:1], inpainting.known[0]
        itself = torch.eye(self.num_states, dtype=torch.float64)[self.noisy]  # (n^D, D, n)

        def replaced(s: Tensor) -> Tensor:
            drawn = self.process.kernel(s, torch.float64).rows(x_0)
            return torch.where(known[:, None], drawn, itself)

        law = self._moved(self.prior_law(), replaced(times[0]))
        for t, s in itertools.pairwise(times):
            again = self.process.rates.transition_from(self.noisy, remaining(self.process.tau(s), self.process.tau(t)))
            for rounds_left in range(inpainting.resample - 1, -1, -1):
                for stage in sampler.stages(t, s, **cond):
                    law = self.compose(law, stage)
                law = self._moved(law, replaced(s))
                law = self._moved(law, again) if rounds_left else law
        exact = torch.eye(self.data_states, dtype=torch.float64)[x_0]
        return self._moved(law, torch.where(known[:, None], exact, sampler.finish_law(self.noisy, **cond).double()))
