"""Bits per dimension: the complete bound on -log2 p(x_0) / D, with its three terms.

    -log p(x_0) <= E_t[ l_t(x_0) / density(t) ] + KL( q_1(. | x_0) || prior ) + E_{q_eps}[ -log p(x_0 | x_eps) ]
                   diffusion                      prior                         reconstruction

The prior term is exact; the other two are Monte-Carlo means over times (stratified) and noise.
Nothing is dropped, so numbers of different processes can be compared.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_core import BitsPerDim, Generator, StratifiedTimes, TimeSampler, as_randomness
from discrete_diffusion.denoisers import Denoiser
from discrete_diffusion.losses import ELBO, CrossEntropy
from discrete_diffusion.process import CTMC

__all__ = ["BitsPerDim", "bits_per_dim", "prior_divergence"]


def prior_divergence(process: CTMC, x_0: Tensor, t_max: float = 1.0) -> Tensor:
    """`KL(q_tmax(. | x_0) || prior)` in nats an example: (B, *event) -> (B,); t_max is where sampling starts."""
    end = torch.tensor(t_max, dtype=torch.float64, device=x_0.device)
    values = torch.arange(process.rates.data_states, device=x_0.device)
    rows = process.kernel(end, torch.float64).rows(values[None])[0]  # (S, n)
    terms = torch.where(rows > 0, rows * (rows / process.prior_law(x_0.device)).log(), 0.0)
    return terms.sum(-1)[x_0.long()].flatten(1).sum(-1)


@torch.no_grad()
def bits_per_dim(
    denoiser: Denoiser,
    x_0: Tensor,
    y: Tensor | None = None,
    times: TimeSampler | None = None,
    draws: int = 16,
    batch_size: int = 64,
    generator: Generator = None,
) -> BitsPerDim:
    """Bound -log2 p(x_0) / D by Monte Carlo.

    Arguments:
        denoiser: any denoiser of the discrete engine, in evaluation mode.
        x_0: clean states (B, *event), integer.
        y: labels (B,), where the network is conditional.
        times: the density of times; its t_min is where the chain ends and its t_max where it
            starts. None is `StratifiedTimes()`, from 0.01 to 1.
        draws: how many independent times (and noises) an example, at least 2.
        batch_size: how many examples the network sees at once.
        generator: the source of randomness; one stream for everything.

    Raises:
        ValueError: draws < 2, batch_size < 1, or no examples.
    """
    if draws < 2 or batch_size < 1 or len(x_0) < 1:
        raise ValueError(f"draws = {draws}, batch_size = {batch_size}, {len(x_0)} examples: expected at least 2, 1 and 1")
    times = StratifiedTimes() if times is None else times
    randomness = as_randomness(generator)
    t_min = torch.tensor(times.t_min, dtype=torch.float64, device=x_0.device)
    diffusion, reconstruction, prior = [], [], []
    for rows in torch.arange(len(x_0)).split(batch_size):
        data = x_0[rows].repeat_interleave(draws, 0)  # (b * draws, *event)
        labels = None if y is None else y[rows].repeat_interleave(draws, 0)
        prior.append(prior_divergence(denoiser.process, x_0[rows], times.t_max))
        for part in torch.arange(len(data)).split(batch_size):
            label = None if labels is None else labels[part]
            t, weight = (value.to(x_0.device) for value in times(len(part), randomness))
            # Strata follow the order of the batch: shuffled, every example meets all of them.
            order = randomness.uniform((len(part),), device=x_0.device).argsort()
            diffusion.append(ELBO()(denoiser, data[part], t[order], label, randomness).double() * weight[order])
            reconstruction.append(CrossEntropy()(denoiser, data[part], t_min, label, randomness).double())
    scale = x_0[0].numel() * math.log(2)
    terms = torch.stack([torch.cat(diffusion), torch.cat(reconstruction)]).reshape(2, len(x_0), draws) / scale
    variance = terms.sum(0).var(-1) / draws
    means = terms.mean((1, 2)).tolist()
    prior_bits = (torch.cat(prior).mean() / scale).item()
    return BitsPerDim(
        value=sum(means) + prior_bits,
        standard_error=variance.mean().div(len(x_0)).sqrt().item(),
        diffusion=means[0],
        prior=prior_bits,
        reconstruction=means[1],
    )
