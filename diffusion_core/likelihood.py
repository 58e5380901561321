"""Bits per dimension: estimate and report a variational bound on the likelihood, in both engines.

    -log p(x_0) <= E[weight(t) l_t(x_0)] + KL(q_tmax(. | x_0) || prior) + E[-log p(x_0 | x_tmin)]
                   diffusion               prior                          reconstruction

The prior term is exact. The other two terms are Monte-Carlo means over times and noise. Each engine implements its terms in
a subclass of `Bound`.

Variance reduction: times are drawn from a density that is learned on other images (`Bound.learn_times`). Each image has
its own times. There are `draws / 2` strata of times, each with two draws that are symmetric about the middle of the
stratum.

Error estimate: the two draws of a stratum are averaged. The averages of neighbouring strata differ mainly by their
random errors, because their times are close. So half of their mean squared difference estimates the variance of one
average. The estimate also contains half the squared difference of the means of neighbouring strata. So the expectation
of the estimate is slightly too large, never too small.

References:
    A continuous time framework for discrete denoising models (Campbell et al., 2022) | https://arxiv.org/abs/2205.14987
    Variational diffusion models (Kingma et al., 2021) | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from diffusion_core.base import Denoiser, Loss, active_positions
from diffusion_core.conditions import check_conditions
from diffusion_core.densities import PiecewiseTimes, learned_times, pilot_times
from diffusion_core.randomness import Generator, Randomness, as_randomness
from diffusion_core.tensors import event_sum
from diffusion_core.times import TimeSampler
from diffusion_core.values import listed

__all__ = ["BitsDifference", "BitsPerDim", "Bound"]

P = TypeVar("P")
"""The type of posterior that the denoiser returns and the losses need."""


def _reconstructions(draws: int) -> int:
    """Return the number of draws of x_tmin per image: a quarter of the draws of times, because their variance is smaller."""
    return max(2, draws // 4)


def _monte_carlo_variance(diffusion: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the Monte-Carlo variance of the bound of each image: (n,), from draws (n, K) in adjacent pairs, and (n, J)."""
    strata = diffusion.unflatten(1, (-1, 2)).mean(-1)
    variance: Tensor = (
        strata.diff(dim=1).square().mean(1) / (2 * strata.shape[1]) + reconstruction.var(1) / reconstruction.shape[1]
    )
    return variance


def _image_spread(images: Tensor, variance: Tensor) -> float:
    """Return the standard deviation between images, from estimates (n,) and the variances of their Monte-Carlo errors (n,)."""
    if len(images) < 2:
        return math.nan
    return (images.var() - variance.mean()).clamp(min=0).sqrt().item()


@dataclass(frozen=True)
class BitsDifference:
    """The difference of two models in bits per dimension, on the same images.

    Arguments:
        value: the mean difference of the two bounds.
        standard_error: the Monte-Carlo standard error of the mean difference, for these images.
        image_spread: the standard deviation of the difference over the images; NaN for one image.
        num_images: the number of images.
    """

    value: float
    standard_error: float
    image_spread: float
    num_images: int

    @property
    def image_error(self) -> float:
        """The standard error of the mean difference due to the choice of images."""
        return self.image_spread / math.sqrt(self.num_images)


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """A Monte-Carlo estimate of an upper bound on -log2 p(x_0) / D, in bits per dimension, for n images.

    Arguments:
        diffusion_draws: weighted integrands in bits per dimension (n, K), float64; the two draws of a stratum are adjacent.
        reconstruction_draws: -log2 p(x_0 | x_tmin) / D (n, J), float64.
        prior_terms: KL(q_tmax(. | x_0) || prior) in bits per dimension (n,), float64.
        weights: 1 / (the probability density with which each time was drawn), (n, K).
    """

    diffusion_draws: Tensor
    reconstruction_draws: Tensor
    prior_terms: Tensor
    weights: Tensor

    @classmethod
    def concatenated(cls, parts: Sequence[BitsPerDim]) -> BitsPerDim:
        """Join the bounds of several batches of images."""
        names = ("diffusion_draws", "reconstruction_draws", "prior_terms", "weights")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def __len__(self) -> int:
        return len(self.prior_terms)

    @cached_property
    def images(self) -> Tensor:
        """The bound of each image: (n,)."""
        return self.diffusion_draws.mean(1) + self.reconstruction_draws.mean(1) + self.prior_terms

    @property
    def value(self) -> float:
        """The mean of the bound over the images, which is the sum of the three terms."""
        return self.images.mean().item()

    @property
    def diffusion(self) -> float:
        """The diffusion term: the integral over the times."""
        return self.diffusion_draws.mean().item()

    @property
    def prior(self) -> float:
        """The prior term: KL(q_tmax(. | x_0) || prior), exact."""
        return self.prior_terms.mean().item()

    @property
    def reconstruction(self) -> float:
        """The reconstruction term: -log2 p(x_0 | x_tmin) / D."""
        return self.reconstruction_draws.mean().item()

    @cached_property
    def _variance(self) -> Tensor:
        return _monte_carlo_variance(self.diffusion_draws, self.reconstruction_draws)

    @property
    def standard_error(self) -> float:
        """The Monte-Carlo standard error for these images, due to the random times and noise."""
        return (self._variance.mean() / len(self)).sqrt().item()

    @property
    def image_spread(self) -> float:
        """The standard deviation between images, without the Monte-Carlo error; NaN for one image."""
        return _image_spread(self.images, self._variance)

    @property
    def image_error(self) -> float:
        """The standard error due to the choice of images, without the Monte-Carlo error."""
        return self.image_spread / math.sqrt(len(self))

    @property
    def largest_weight(self) -> float:
        """The largest weight of a draw, in units of the mean weight."""
        return (self.weights.max() / self.weights.double().mean()).item()

    @property
    def largest_share(self) -> float:
        """The fraction of the diffusion term that is due to the largest draw. Near 1, the estimate depends on a single draw."""
        return (self.diffusion_draws.max() / self.diffusion_draws.sum()).item()

    @property
    def effective_draws(self) -> float:
        """The effective sample size of the diffusion term: `(sum_i d_i)^2 / sum_i d_i^2` for its draws d_i."""
        return (self.diffusion_draws.sum().square() / self.diffusion_draws.square().sum()).item()

    def difference(self, other: BitsPerDim) -> BitsDifference:
        """Return the bits per dimension of this model minus those of the other one.

        The draws of the two bounds are paired. Use the same density of times and generators with the same seed for
        both. The common part of the error then cancels, and the error of the difference is smaller than the errors of
        the two bounds.

        Raises:
            ValueError: the two bounds have different numbers of images or draws.
        """
        shapes = [(*bits.diffusion_draws.shape, bits.reconstruction_draws.shape[1]) for bits in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"(images, draws, reconstructions) are {shapes[0]} and {shapes[1]}, expected the same")
        variance = _monte_carlo_variance(
            self.diffusion_draws - other.diffusion_draws, self.reconstruction_draws - other.reconstruction_draws
        )
        images = self.images - other.images
        error = (variance.mean() / len(images)).sqrt().item()
        return BitsDifference(images.mean().item(), error, _image_spread(images, variance), len(images))

    def summary(self) -> dict[str, Any]:
        """Return the numbers for a report, as a dict."""
        names = ("value", "standard_error", "image_spread", "image_error", "diffusion", "prior", "reconstruction")
        diagnostics = ("largest_weight", "largest_share", "effective_draws")
        return {"num_images": len(self), **{name: getattr(self, name) for name in (*names, *diagnostics)}}


class Bound(ABC, Generic[P]):
    """The terms of the variational bound on the likelihood of given images, for any density of times.

    Each engine implements the prior and the reconstruction term. If `Denoiser.active` selects some of the positions,
    the bound is on -log p(active | the others), in bits per active position.

    Arguments:
        denoiser: the model.
        steps: the loss whose integral over time is the diffusion term, in nats per unit of t.
        x_0: clean data (n, *event).
        times: the density of times.
        cond: conditions of the network by name, n rows each.
    """

    def __init__(
        self, denoiser: Denoiser[P], steps: Loss[P], x_0: Tensor, times: TimeSampler, cond: Mapping[str, Tensor]
    ) -> None:
        if len(x_0) < 1:
            raise ValueError("there are 0 examples, expected at least 1")
        check_conditions(cond, len(x_0))
        self.denoiser = denoiser
        self.steps = steps
        self.x_0 = x_0
        self.times = times
        self.cond = cond
        self.active = active_positions(denoiser, x_0, **cond)

    def score(self, loss: Loss[P], rows: Tensor, t: Tensor, randomness: Randomness) -> Tensor:
        """Add noise up to times t, () or (b,), to the images with indices `rows` (b,), and return their losses: (b,)."""
        active = None if self.active is None else self.active[rows]
        sample = loss.draw(self.denoiser.process, self.x_0[rows], t, randomness, active)
        return loss(self.denoiser, sample, **{name: value[rows] for name, value in self.cond.items()})

    @abstractmethod
    def reconstruction(self, rows: Tensor, t_min: Tensor, randomness: Randomness) -> Tensor:
        """Return -log p(x_0 | x_tmin) in nats (b,), with one draw of x_tmin for each image in `rows` (b,)."""

    @abstractmethod
    def prior(self) -> Tensor:
        """Return KL(q_tmax(. | x_0) || prior) in nats for each image: (n,)."""

    def _dimensions(self) -> Tensor:
        """Return the number of positions of each image that count in the bound: (n, 1)."""
        every = torch.ones_like(self.x_0, dtype=torch.float64)
        count = event_sum(every, self.active)
        counts = listed(count, unseen=1)
        if 0 in counts:
            raise ValueError(f"example {counts.index(0)} has no active position, expected at least one that counts")
        return count[:, None]

    def _integrals(self, times: TimeSampler, draws: int, batch_size: int, randomness: Randomness) -> tuple[Tensor, ...]:
        """Draw times and evaluate the loss: times, weights and losses, each (n, draws)."""
        u = _antithetic(len(self.x_0), draws, randomness)
        t, weight = (part.view(u.shape).to(self.x_0.device) for part in times.at(u.flatten()))
        rows = torch.arange(len(self.x_0), device=self.x_0.device).repeat_interleave(draws)
        pairs = zip(rows.split(batch_size), t.flatten().split(batch_size), strict=True)
        values = torch.cat([self.score(self.steps, row, time, randomness).double() for row, time in pairs])
        return t, weight, values.reshape(t.shape)

    @torch.no_grad()
    def estimate(self, draws: int, batch_size: int, generator: Generator) -> BitsPerDim:
        """Estimate the bound of every image.

        Arguments:
            draws: the number of random draws for each image, an even number of at least 4. A draw is a time and the noise at
                this time. The reconstruction term uses a quarter as many draws of x_tmin, at least 2.
            batch_size: the number of noisy images in one network call.
            generator: the source of all randomness.

        Raises:
            ValueError: draws is odd or less than 4, or batch_size is less than 1.
        """
        _check(draws, batch_size)
        randomness = as_randomness(generator)
        self.times.check_weighted("the bound")
        _, weight, values = self._integrals(self.times, draws, batch_size, randomness)
        repeats = _reconstructions(draws)
        rows = torch.arange(len(self.x_0), device=self.x_0.device).repeat_interleave(repeats)
        t_min = torch.tensor(self.times.t_min, dtype=torch.float64, device=self.x_0.device)
        ends = torch.cat([self.reconstruction(part, t_min, randomness).double() for part in rows.split(batch_size)])
        scale = self._dimensions() * math.log(2)
        prior = self.prior().double() / scale[:, 0]
        tables = (values * weight / scale, ends.reshape(-1, repeats) / scale, prior, weight)
        return BitsPerDim(*(table.cpu() for table in tables))

    @torch.no_grad()
    def learn_times(self, draws: int, batch_size: int, generator: Generator) -> PiecewiseTimes:
        """Learn a density of times with a small Monte-Carlo error from the losses of these images.

        The arguments are those of `estimate`.
        """
        _check(draws, batch_size)
        t, _, values = self._integrals(pilot_times(self.times), draws, batch_size, as_randomness(generator))
        return learned_times(self.times, t.flatten(), values.flatten())


def _check(draws: int, batch_size: int) -> None:
    if draws < 4 or draws % 2:
        raise ValueError(f"draws = {draws}, expected an even number of at least 4")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}, expected at least 1")


def _antithetic(batch: int, n: int, randomness: Randomness) -> Tensor:
    """Draw two numbers in each of n / 2 equal strata of [0, 1), symmetric about the middle of the stratum: (batch, n)."""
    u = randomness.uniform((batch, n // 2), torch.float64)
    start = torch.arange(n // 2, dtype=torch.float64, device=u.device)
    below = 1 - 2.0**-53
    return (torch.stack([start + u, start + (1 - u).clamp(max=below)], -1) / (n // 2)).flatten(1)
