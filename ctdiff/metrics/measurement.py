r"""A metric with its uncertainty and its floor.

The value of a metric depends on the number of samples, by chance and by bias. So a measurement contains the number of images,
a confidence interval for the chance, and the *floor*. The floor is the same metric of as many real held-out images. It shows
the bias.

The interval is computed from random halves. Draw half of the samples without replacement, many times, and compute the metric
of each half. For a mean over n samples with variance v, the halves have the variance v (2 / n - 1 / n) = v / n around it. This
is the variance of the metric of all n samples, so no rescaling is needed (b of n samples have the variance v / b - v / n). The
interval is value +- 1.96 standard deviations of the halves. It describes how the value varies between sets of n samples of the
same model, with the same real images. The usual bootstrap draws with replacement. It makes copies of samples, which are
neighbours at distance 0, so metrics of nearest neighbours would be wrong.

References:
    A general theory for jackknife variance estimation (Shao and Wu, 1989) | https://doi.org/10.1214/aos/1176347263
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ctdiff.progress import tracked
from diffusion_core import BitsPerDim

# torchmetrics and torch-fidelity have no intervals from halves and no floors; so ctdiff has its own code.
__all__ = ["Measurement", "likelihood", "measured"]

_NORMAL = 1.959964  # 95 % of a normal distribution are within so many standard deviations


@dataclass(frozen=True)
class Measurement:
    """One metric of one set of samples.

    Arguments:
        name: the name of the metric with its extractor, such as `FID-mnist-cnn-1a2b3c4d`.
        value: the value of the metric.
        low: the lower end of the 95 % confidence interval.
        high: the upper end of this interval.
        n_real: the number of real images that the samples are compared with.
        n_fake: the number of samples.
        floor: the same metric of real held-out images instead of samples; None if this measurement is a floor or has none.
    """

    name: str
    value: float
    low: float
    high: float
    n_real: int
    n_fake: int
    floor: Measurement | None = None

    @property
    def standard_error(self) -> float:
        """The standard deviation from which the interval was made."""
        return (self.high - self.low) / (2 * _NORMAL)

    def beside(self, floor: Measurement) -> Measurement:
        """Return this measurement with a floor.

        Raises:
            ValueError: the floor is another metric.
        """
        if floor.name != self.name:
            raise ValueError(f"the floor of {self.name} cannot be {floor.name}")
        return replace(self, floor=floor)


def likelihood(bits: BitsPerDim) -> Measurement:
    """Return a likelihood bound as a measurement. Its interval is for other draws of times and noise, not for other images."""
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
        names: the name of each metric.
        statistic: a function from indices (n,) of samples, in ascending order, to the metrics of these samples.
        n_real: the number of real images that the samples are compared with.
        n_fake: the number of samples, at least 4.
        replicates: how often a random half of the samples is drawn. With 50 halves, the standard deviation has an error of
            about 10 %.
        seed: the seed of the random halves.

    Raises:
        ValueError: there are too few samples or replicates.
    """
    if n_fake < 4 or replicates < 2:
        raise ValueError(f"{n_fake} samples and {replicates} replicates, expected at least 4 and 2")
    values = statistic(torch.arange(n_fake))
    generator, half = torch.Generator().manual_seed(seed), n_fake // 2
    halves = [torch.randperm(n_fake, generator=generator)[:half].sort().values for _ in range(replicates)]
    rows_of_halves = [list(statistic(chosen)) for chosen in tracked(halves, f"interval of {names[0]}")]
    table = torch.tensor(rows_of_halves, dtype=torch.float64)  # (replicates, metrics)
    reach = table.std(0) * (_NORMAL * math.sqrt(half / (n_fake - half)))  # the root is 1, except for odd n
    rows = zip(names, values, reach.tolist(), strict=True)
    return tuple(Measurement(name, value, value - r, value + r, n_real, n_fake) for name, value, r in rows)
