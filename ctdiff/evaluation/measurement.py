r"""A number, how certain it is, and what real data score: the record of a metric.

A score without these is not readable: it moves with the number of samples, by chance and by bias. So every
record holds how many images went in, an interval for chance, and for bias the *floor*: the same metric of as
many real held-out images.

The interval. Draw half of the samples without replacement, again and again, and compute the metric of each half.
For a mean over n samples with variance v, halves scatter around it by v (2 / n - 1 / n) = v / n, which is the
variance of the metric of all n itself: no rescaling is needed (b of n drawn scatter by v / b - v / n). The interval is
value +- 1.96 standard deviations of the halves: what another n samples of the same model would give, the real
images staying the same. The usual bootstrap draws with replacement; its copies are neighbours at distance 0,
which ruins every metric made of neighbours.

References:
    A general theory for jackknife variance estimation (Shao and Wu, 1989) | https://doi.org/10.1214/aos/1176347263
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffusion_core import BitsPerDim

__all__ = ["Measurement", "likelihood", "measured"]

_NORMAL = 1.959964  # 95 % of a normal law are within as many standard deviations


@dataclass(frozen=True)
class Measurement:
    """One metric of one set of samples.

    Arguments:
        name: the metric with its extractor, `FID-mnist-cnn-1a2b3c4d`.
        value: the metric.
        low: the lower end of a 95 % interval for chance.
        high: the upper end.
        n_real: how many real images it was compared with.
        n_fake: how many samples were measured.
        floor: the same metric of real held-out images in place of the samples; None where this is that.
    """

    name: str
    value: float
    low: float
    high: float
    n_real: int
    n_fake: int
    floor: Measurement | None = None

    def beside(self, floor: Measurement) -> Measurement:
        """The same record with its floor.

        Raises:
            ValueError: that is another metric.
        """
        if floor.name != self.name:
            raise ValueError(f"the floor of {self.name} cannot be {floor.name}")
        return replace(self, floor=floor)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for a JSON file."""
        return asdict(self)


def likelihood(bits: BitsPerDim) -> Measurement:
    """The record of a likelihood bound: its interval is for the draws of times and noise, not for other images."""
    reach = _NORMAL * bits.standard_error
    return Measurement("bits/dim", bits.value, bits.value - reach, bits.value + reach, len(bits), 0)


def measured(
    names: Sequence[str],
    statistic: Callable[[Tensor], Sequence[float]],
    n_real: int,
    n_fake: int,
    replicates: int = 50,
    seed: int = 0,
) -> tuple[Measurement, ...]:
    """Compute metrics of all samples, and their intervals from random halves.

    Arguments:
        names: one a metric.
        statistic: places (n,) of samples, in ascending order -> the metrics of those.
        n_real: how many real images the metric is compared with.
        n_fake: how many samples there are, at least 4.
        replicates: how many halves; 50 give a standard deviation to 10 %.
        seed: fixes the halves.

    Raises:
        ValueError: there are too few samples or replicates.
    """
    if n_fake < 4 or replicates < 2:
        raise ValueError(f"{n_fake} samples and {replicates} replicates, expected at least 4 and 2")
    values = statistic(torch.arange(n_fake))
    generator, half = torch.Generator().manual_seed(seed), n_fake // 2
    halves = [torch.randperm(n_fake, generator=generator)[:half].sort().values for _ in range(replicates)]
    table = torch.tensor([list(statistic(chosen)) for chosen in halves], dtype=torch.float64)  # (replicates, metrics)
    reach = table.std(0) * (_NORMAL * math.sqrt(half / (n_fake - half)))  # the root is 1 but for odd n
    rows = zip(names, values, reach.tolist(), strict=True)
    return tuple(Measurement(name, value, value - r, value + r, n_real, n_fake) for name, value, r in rows)
