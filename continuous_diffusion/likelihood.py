"""Bits per dimension: the complete bound on -log2 p(x_0) / D, with its three terms.

    -log p(x_0) <= sum_i E[KL(q(x_s | x_t, x_0) || p(x_s | x_t))] + KL(q_tmax(. | x_0) || prior) + E[-log p(x_0 | x_tmin)]
                   diffusion                                        prior                          reconstruction

The diffusion term is that of a chain, step by step, or, where the times given are of no chain, its limit of
infinitely many steps. The prior term is exact; the other two are Monte-Carlo means over times (stratified) and
noise. Where the process knows that its data are pixels, the reconstruction is the probability of a value,
not a density: the number then bounds the same quantity as that of the discrete engine.

References:
    Denoising diffusion probabilistic models (Ho et al., 2020) | https://arxiv.org/abs/2006.11239
    Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from continuous_diffusion.divergence import reconstruction_error
from continuous_diffusion.losses import ELBO, VLB, Loss, Truth
from continuous_diffusion.process import GaussianProcess, check_real
from diffusion_core import (
    BitsPerDim,
    Denoiser,
    Generator,
    GridTimes,
    Randomness,
    TimeSampler,
    UniformGrid,
    as_randomness,
    readable,
)

__all__ = ["BitsPerDim", "bits_per_dim", "prior_divergence"]

RECONSTRUCTIONS = 16
"""Draws of x_tmin an example, at most: their spread is small beside that of the diffusion term."""

FAINTEST = -100.0
"""The least log-SNR that a chain may start at: alpha is 2e-22, and one step from there to the next noise level has no size."""


def prior_divergence(process: GaussianProcess, x_0: Tensor, t_max: float = 1.0) -> Tensor:
    """`KL(q_tmax(. | x_0) || prior)` in nats an example: (B, *event) -> (B,); t_max is where sampling starts.

    `1/2 (abar x_0^2 + sigma^2 - 1 - log sigma^2)` summed over dimensions.
    """
    log_abar = process.schedule.log_abar(torch.tensor(t_max, dtype=torch.float64, device=x_0.device))
    terms = log_abar.exp() * (x_0.double().square() - 1) - (-torch.expm1(log_abar)).log()
    return terms.flatten(1).sum(1) / 2


def _draw_times(times: TimeSampler, examples: int, draws: int, randomness: Randomness) -> tuple[Tensor, Tensor]:
    """(t, weight) of each example, in the order of its own strata: both (examples, draws)."""
    drawn = [times(draws, randomness) for _ in range(examples)]
    return torch.stack([t for t, _ in drawn]), torch.stack([weight for _, weight in drawn])


def _reconstruct(
    denoiser: Denoiser, chain: VLB | None, x_0: Tensor, t_min: float, y: Tensor | None, randomness: Randomness
) -> Tensor:
    """`-log p(x_0 | x_tmin)` in nats an example, for one draw of x_tmin: (B,), float64."""
    process: GaussianProcess = denoiser.process  # type: ignore[assignment]
    t = torch.tensor(t_min, dtype=torch.float64, device=x_0.device)
    epsilon = randomness.normal(x_0.shape, x_0.dtype, x_0.device)
    posterior = denoiser(process.perturb(x_0, epsilon, t), t, y)
    if chain is not None:
        every = torch.arange(len(x_0), device=x_0.device)
        return chain.reconstruction(posterior, Truth(process, x_0, epsilon, t), every).double()
    return reconstruction_error(process, x_0, posterior.mean, posterior.var.log()).flatten(1).sum(1).double()


def _check_beginning(process: GaussianProcess, t_max: float) -> None:
    log_snr = process.schedule.log_snr(torch.tensor(t_max, dtype=torch.float64, device="cpu"))
    # The tangent of the Cauchy schedule is rounded where it is infinite: such a schedule is noisier than any that ends.
    if readable(log_snr) and log_snr.item() < FAINTEST:
        raise ValueError(
            f"{type(process.schedule).__name__} has log-SNR {log_snr.item():.3g} at t_max = {t_max}, expected at least "
            f"{FAINTEST} where a chain starts: take the steps of a LogSNRGrid for a schedule that is made for training"
        )


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
    """Bound -log2 p(x_0) / D: in bits of a pixel's value where the process has `pixels`, of a density where it has none.

    Arguments:
        denoiser: any denoiser of the Gaussian engine, in evaluation mode.
        x_0: clean data (B, *event), as the process takes them: `process.pixels.encode` of integers.
        y: labels (B,), where the network is conditional.
        times: `GridTimes(grid)` for the chain that walks a grid and ends on x_0, a density for infinitely many
            steps; its t_min is where the chain ends and its t_max where it starts. None is the chain of
            1000 times, `GridTimes(UniformGrid(999, 0.001))`.
        draws: how many times (and noises) an example, at least 2, stratified; for a chain of N steps, N
            draws are all its terms, each once.
        batch_size: how many evaluations the network sees at once.
        generator: the source of randomness; one stream for everything.

    Raises:
        ValueError: draws < 2, batch_size < 1, no examples, t_min = 0, a chain whose first step is infinitely long in
            log-SNR, or data that are not the pixels that the process knows.
    """
    if draws < 2 or batch_size < 1 or len(x_0) < 1:
        raise ValueError(f"draws = {draws}, batch_size = {batch_size}, {len(x_0)} examples: expected at least 2, 1 and 1")
    check_real(x_0)
    process: GaussianProcess = denoiser.process  # type: ignore[assignment]
    if process.pixels is not None:
        process.pixels.check(x_0)
    times = GridTimes(UniformGrid(999, 0.001)) if times is None else times
    if times.t_min <= 0:
        raise ValueError(f"t_min = {times.t_min}, expected t_min > 0: x_0 is reconstructed from x_tmin")
    if isinstance(times, GridTimes):
        _check_beginning(process, times.t_max)
    randomness = as_randomness(generator)
    t, weight = (part.to(x_0.device) for part in _draw_times(times, len(x_0), draws, randomness))  # (n, draws)
    chain = VLB(times.grid) if isinstance(times, GridTimes) else None
    steps: Loss = ELBO() if chain is None else chain
    rows = torch.arange(len(x_0), device=x_0.device).repeat_interleave(draws)
    terms = []
    for part in torch.arange(len(rows), device=x_0.device).split(batch_size):
        row = rows[part]
        loss = steps(denoiser, x_0[row], t.flatten()[part], None if y is None else y[row], randomness)
        terms.append(loss.double() * weight.flatten()[part])
    diffusion = torch.cat(terms).reshape(t.shape)
    # Neighbours in the order of the strata differ by their noise and hardly by their time.
    variance = diffusion.diff(dim=1).square().mean(1) / (2 * draws)

    repeats, ends = min(draws, RECONSTRUCTIONS), []
    for row in torch.arange(len(x_0), device=x_0.device).repeat_interleave(repeats).split(batch_size):
        ends.append(_reconstruct(denoiser, chain, x_0[row], times.t_min, None if y is None else y[row], randomness))
    reconstruction = torch.cat(ends).reshape(-1, repeats)
    variance = variance + reconstruction.var(1) / repeats

    scale = x_0[0].numel() * math.log(2)
    prior = prior_divergence(process, x_0, times.t_max).mean().item() / scale
    means = [term.mean().item() / scale for term in (diffusion, reconstruction)]
    return BitsPerDim(
        value=sum(means) + prior,
        standard_error=variance.mean().div(len(x_0)).sqrt().item() / scale,
        diffusion=means[0],
        prior=prior,
        reconstruction=means[1],
    )
