"""Bits per dimension: how a bound is estimated and reported, in both engines.

    -log p(x_0) <= E[weight(t) l_t(x_0)] + KL(q_tmax(. | x_0) || prior) + E[-log p(x_0 | x_tmin)]
                   diffusion               prior                          reconstruction

The prior term is exact. The other two are means over times and noise. An engine says what its terms are in a `Bound`.

How the error is made small. Times follow a density that was learned on other images (`Bound.learn_times`). Each image has
times of its own, two in each of `draws / 2` strata, placed symmetrically about the middle of the stratum.

How the error is measured. The two draws of a stratum are averaged. Neighbouring strata then differ by their noise and hardly
by their time, so half their mean squared difference is the variance of one such average. It is a little too large, never
too small on average, by what neighbouring strata differ in the mean.

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

from diffusion_core.base import Denoiser, Loss
from diffusion_core.conditions import check_conditions
from diffusion_core.densities import PiecewiseTimes, learned_times, pilot_times
from diffusion_core.randomness import Generator, Randomness, as_randomness
from diffusion_core.tensors import event_sum
from diffusion_core.times import TimeSampler
from diffusion_core.values import listed

__all__ = ["BitsDifference", "BitsPerDim", "Bound"]

P = TypeVar("P")
"""The posterior that denoiser and losses share."""


def _reconstructions(draws: int) -> int:
    """How many draws of x_tmin an image: a quarter of those of the times, since they scatter less."""
    return max(2, draws // 4)


def _monte_carlo_variance(diffusion: Tensor, reconstruction: Tensor) -> Tensor:
    """The variance of each image's estimate: draws (n, K), two neighbours a stratum, and draws (n, J) -> (n,)."""
    strata = diffusion.unflatten(1, (-1, 2)).mean(-1)
    variance: Tensor = (
        strata.diff(dim=1).square().mean(1) / (2 * strata.shape[1]) + reconstruction.var(1) / reconstruction.shape[1]
    )
    return variance


def _image_spread(images: Tensor, variance: Tensor) -> float:
    """The standard deviation of what images (n,) are estimates of; variance (n,) is that of the estimates."""
    if len(images) < 2:
        return math.nan
    return (images.var() - variance.mean()).clamp(min=0).sqrt().item()


@dataclass(frozen=True)
class BitsDifference:
    """How many bits per dimension one model needs more than another one, on the same images.

    Arguments:
        value: the mean difference of the two bounds.
        standard_error: its Monte-Carlo standard error for these images.
        image_spread: the standard deviation of the difference between images; NaN of one image.
        num_images: how many images.
    """

    value: float
    standard_error: float
    image_spread: float
    num_images: int

    @property
    def image_error(self) -> float:
        """The standard error that other images would bring."""
        return self.image_spread / math.sqrt(self.num_images)


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """An upper bound on -log2 p(x_0) / D of n images, from draws of times and noise.

    Arguments:
        diffusion_draws: weighted integrands in bits per dimension (n, K), float64: in each row the two draws of each stratum.
        reconstruction_draws: -log2 p(x_0 | x_tmin) / D (n, J), float64.
        prior_terms: KL(q_tmax(. | x_0) || prior) in bits per dimension (n,), float64.
        weights: 1 / density of the times (n, K).
    """

    diffusion_draws: Tensor
    reconstruction_draws: Tensor
    prior_terms: Tensor
    weights: Tensor

    @classmethod
    def concatenated(cls, parts: Sequence[BitsPerDim]) -> BitsPerDim:
        """The bound of several batches of images together."""
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
        """The bound, a mean over the images: the sum of its three terms."""
        return self.images.mean().item()

    @property
    def diffusion(self) -> float:
        """The integral over the times."""
        return self.diffusion_draws.mean().item()

    @property
    def prior(self) -> float:
        """KL(q_tmax(. | x_0) || prior), exact."""
        return self.prior_terms.mean().item()

    @property
    def reconstruction(self) -> float:
        """-log2 p(x_0 | x_tmin) / D."""
        return self.reconstruction_draws.mean().item()

    @cached_property
    def _variance(self) -> Tensor:
        return _monte_carlo_variance(self.diffusion_draws, self.reconstruction_draws)

    @property
    def standard_error(self) -> float:
        """The Monte-Carlo standard error for these images: what other times and noise would change."""
        return (self._variance.mean() / len(self)).sqrt().item()

    @property
    def image_spread(self) -> float:
        """The standard deviation between images, without the Monte-Carlo error; NaN of one image."""
        return _image_spread(self.images, self._variance)

    @property
    def image_error(self) -> float:
        """The standard error that other images would bring, beside the Monte-Carlo error."""
        return self.image_spread / math.sqrt(len(self))

    @property
    def largest_weight(self) -> float:
        """The largest weight of a draw, in units of the mean weight."""
        return (self.weights.max() / self.weights.double().mean()).item()

    @property
    def largest_share(self) -> float:
        """The share of the diffusion term that its largest draw makes up: near 1, the estimate rests on one draw."""
        return (self.diffusion_draws.max() / self.diffusion_draws.sum()).item()

    @property
    def effective_draws(self) -> float:
        """`(sum_i d_i)^2 / sum_i d_i^2` of the draws d_i of the diffusion term: as many equal ones would scatter alike."""
        return (self.diffusion_draws.sum().square() / self.diffusion_draws.square().sum()).item()

    def difference(self, other: BitsPerDim) -> BitsDifference:
        """How many bits more this model needs than the other one.

        Draws are paired: where both were made with the same times and a generator of the same seed, what the two models
        have in common cancels, and the error is smaller than those of the two bounds.

        Raises:
            ValueError: the two have other numbers of images or draws.
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
        """The numbers that a report shows, by name."""
        names = ("value", "standard_error", "image_spread", "image_error", "diffusion", "prior", "reconstruction")
        diagnostics = ("largest_weight", "largest_share", "effective_draws")
        return {"num_images": len(self), **{name: getattr(self, name) for name in (*names, *diagnostics)}}


class Bound(ABC, Generic[P]):
    """The terms of a variational bound of some images, for any times: what an engine has to say.

    Where the denoiser says that only some positions are active, it is the bound on -log p(active | the others), in bits
    per active position.

    Arguments:
        denoiser: the model.
        steps: the loss whose mean over times is the diffusion term, in nats / unit of t.
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
        self.active = denoiser.active(x_0, **cond)

    def score(self, loss: Loss[P], rows: Tensor, t: Tensor, randomness: Randomness) -> Tensor:
        """A loss of the images at `rows` (b,), noised to times t, () or (b,): (b,)."""
        active = None if self.active is None else self.active[rows]
        sample = loss.draw(self.denoiser.process, self.x_0[rows], t, randomness, active)
        return loss(self.denoiser, sample, **{name: value[rows] for name, value in self.cond.items()})

    @abstractmethod
    def reconstruction(self, rows: Tensor, t_min: Tensor, randomness: Randomness) -> Tensor:
        """-log p(x_0 | x_tmin) in nats for one draw of x_tmin of the images at `rows` (b,), t_min (): (b,)."""

    @abstractmethod
    def prior(self) -> Tensor:
        """KL(q_tmax(. | x_0) || prior) in nats: (n,)."""

    def _dimensions(self) -> Tensor:
        """How many positions of each image are scored: (n, 1)."""
        every = torch.ones_like(self.x_0, dtype=torch.float64)
        count = event_sum(every, self.active)
        counts = listed(count, unseen=1)
        if 0 in counts:
            raise ValueError(f"example {counts.index(0)} has no active position, expected at least one to score")
        return count[:, None]

    def _integrals(self, times: TimeSampler, draws: int, batch_size: int, randomness: Randomness) -> tuple[Tensor, ...]:
        """Times, weights and integrands, each (n, draws)."""
        drawn = [times.at(_antithetic(draws, randomness)) for _ in range(len(self.x_0))]
        t, weight = (torch.stack(parts).to(self.x_0.device) for parts in zip(*drawn, strict=True))
        rows = torch.arange(len(self.x_0), device=self.x_0.device).repeat_interleave(draws)
        pairs = zip(rows.split(batch_size), t.flatten().split(batch_size), strict=True)
        values = torch.cat([self.score(self.steps, row, time, randomness).double() for row, time in pairs])
        return t, weight, values.reshape(t.shape)

    @torch.no_grad()
    def estimate(self, draws: int, batch_size: int, generator: Generator) -> BitsPerDim:
        """The bound of every image.

        Arguments:
            draws: how many times (and noises) an image: an even number, at least 4. A quarter as many are made of x_tmin.
            batch_size: how many evaluations the network sees at once.
            generator: the source of randomness; one stream for everything.

        Raises:
            ValueError: draws or batch_size are none of these.
        """
        _check(draws, batch_size)
        randomness = as_randomness(generator)
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
        """The density of times that makes the error small, from the integrands of these images.

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


def _antithetic(n: int, randomness: Randomness) -> Tensor:
    """Two numbers in each of n / 2 equal strata of [0, 1), placed symmetrically about its middle: (n,)."""
    u = randomness.uniform((n // 2,), torch.float64)
    start = torch.arange(n // 2, dtype=torch.float64, device=u.device)
    below = 1 - 2.0**-53
    return (torch.stack([start + u, start + (1 - u).clamp(max=below)], -1) / (n // 2)).flatten()
