"""How far guided and inpainted samples are from the laws they are meant to follow, in total variation.

Nothing here is drawn: the discrete laws are composed from enumerated states, the Gaussian ones integrated on a grid. The
denoisers and classifiers are exact, so what is left is the method's own. The tables of docs/guidance.md are this script's.

    python benchmarks/guidance.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import continuous_diffusion as gaussian
from diffusion_core import ConstantScale, Inpainting, QuadraticGrid, SharedRandomness, State, UniformGrid
from discrete_diffusion import CTMC, AbsorbingDenoiser, Denoiser, EnumeratedCTMC, LeaveOneOutDenoiser, X0Posterior
from discrete_diffusion.guidance import ClassifierGuidance, PosteriorGuidance, RateGuidance, TaylorClassifierGuidance
from discrete_diffusion.oracle import labelled_network, total_variation
from discrete_diffusion.rates import AbsorbingRates, GaussianTargetRates, UniformRates
from discrete_diffusion.samplers import Ancestral, Euler, Sampler
from discrete_diffusion.schedules import Constant, Exponential, LinearSurvival

S, D = 4, 2
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
ROUNDS = (1, 2, 5, 10, 20)
PROCESSES: dict[str, Callable[..., CTMC]] = {
    "uniform": lambda values=S: CTMC(UniformRates(values), Constant(6.0)),
    "absorbing": lambda values=S: CTMC(AbsorbingRates(values), LinearSurvival()),
    "Gaussian target": lambda values=S: CTMC(GaussianTargetRates(values, 1.5, 2.0), Exponential(0.3, 20.0)),
}


# Discrete


def class_laws(classes: int = 2, seed: int = 0, values: int = S) -> Tensor:
    """The data laws of the classes over values^D states: gamma(0.7) weights plus 0.02, normalised, (classes, values^D)."""
    weights = np.random.default_rng(seed).gamma(0.7, size=(classes, values**D)) + 0.02
    return torch.from_numpy(weights / weights.sum(1, keepdims=True))


def tilted(cond: Tensor, uncond: Tensor, g: float) -> Tensor:
    """`cond^g uncond^{1-g}`, normalised."""
    law = cond**g * uncond ** (1 - g)
    return law / law.sum()


class Chains:
    """Enumerated chains of one process: one a class, and their mean as the last.

    Arguments:
        process: the forward process.
        laws: the data laws of the classes (K, S^D).
    """

    def __init__(self, process: CTMC, laws: Tensor) -> None:
        self.process = process
        self.classes = [EnumeratedCTMC(process, law, D) for law in laws]
        self.mean = EnumeratedCTMC(process, laws.mean(0), D)

    def denoiser(self) -> Denoiser[X0Posterior]:
        """The exact denoiser with labels 0 .. K - 1 and the null class K."""
        everything = [*self.classes, self.mean]
        if isinstance(self.process.rates, AbsorbingRates):
            return AbsorbingDenoiser(self.process, labelled_network([chain.x0_network() for chain in everything]), (D,))
        network = labelled_network([chain.leave_one_out_network() for chain in everything])
        return LeaveOneOutDenoiser(self.process, network, (D,))

    def classifier(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The exact `log q_t(x_t | y)`, up to a constant: integers (B, D) or their one-hot coding (B, D, n) -> (B, K).

        Between the corners of the cube, where only its slope is ever asked for, a logit is linear in each dimension's coding.
        """
        n = self.mean.num_states
        tables = torch.stack([chain.marginal(float(t[0])).reshape(n, n) for chain in self.classes]).log()
        if x_t.is_floating_point():
            return torch.einsum("kij,bi,bj->bk", tables, x_t[:, 0], x_t[:, 1])
        return tables[:, x_t[:, 0], x_t[:, 1]].T


METHODS: dict[str, Callable[[Chains, ConstantScale, QuadraticGrid], Sampler]] = {
    "`PosteriorGuidance`, `Ancestral`": lambda c, g, grid: Ancestral(PosteriorGuidance(c.denoiser(), g, {"y": 2}), grid),
    "`PosteriorGuidance`, `Euler`": lambda c, g, grid: Euler(PosteriorGuidance(c.denoiser(), g, {"y": 2}), grid),
    "`RateGuidance`, `Euler`": lambda c, g, grid: Euler(RateGuidance(c.denoiser(), g, {"y": 2}), grid),
    "`ClassifierGuidance`, `Euler`": lambda c, g, grid: Euler(ClassifierGuidance(c.denoiser(), c.classifier, g), grid),
    "`TaylorClassifierGuidance`, `Euler`": lambda c, g, grid: Euler(
        TaylorClassifierGuidance(c.denoiser(), c.classifier, g), grid
    ),
}


def guided_law(chains: Chains, method: str, g: float, steps: int) -> Tensor:
    """The exact law of guided samples of class 0 over clean states: (S^D,)."""
    sampler = METHODS[method](chains, ConstantScale(g), QuadraticGrid(steps, t_min=1e-3, t_max=0.999))
    return chains.mean.sampler_law(sampler, chains.mean.marginal(0.999), y=0)


def guidance_distance(process: str, method: str, g: float, steps: int = 256) -> float:
    """TV between guided samples and the tilted law."""
    laws = class_laws()
    target = tilted(laws[0], laws.mean(0), g)
    return total_variation(guided_law(Chains(PROCESSES[process](), laws), method, g, steps), target)


def inpainting_distance(process: str, rounds: int, steps: int = 64) -> float:
    """TV between inpainted samples and the exact conditional law, where the first dimension is known to be 0."""
    chain = EnumeratedCTMC(PROCESSES[process](), class_laws(1, seed=3)[0], D)
    make = AbsorbingDenoiser if process == "absorbing" else LeaveOneOutDenoiser
    network = chain.x0_network() if process == "absorbing" else chain.leave_one_out_network()
    sampler = Ancestral(make(chain.process, network, (D,)), QuadraticGrid(steps, t_min=1e-3))
    x_0, known = torch.tensor([0, 0]), torch.tensor([True, False])
    target = torch.where(chain.clean[:, 0] == 0, chain.data_law, 0.0)
    law = chain.inpainting_law(Inpainting(sampler, x_0, known, rounds), sampler)
    return total_variation(law, target / target.sum())


# Gaussian


class ConstantNoise(SharedRandomness):
    """Every normal number is the same: 0 shows the mean of a step, 1 its standard deviation.

    Arguments:
        value: that number.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """The number, everywhere."""
        return torch.full(tuple(shape), self.value, dtype=dtype, device=device)


def moments(sampler: gaussian.Sampler, x: Tensor, t: Tensor, s: Tensor | None, **cond: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the standard deviation of a step of x (B, 1) from t to s (None: the last step)."""
    states = (State(x, t, ConstantNoise(z)) for z in (0.0, 1.0))
    still, moved = (sampler.finish(state, **cond).x if s is None else sampler.step(state, t, s, **cond).x for state in states)
    return still, (moved - still).abs()


def times(sampler: gaussian.Sampler) -> Tensor:
    """The times of a sampler's grid as its steps take them: (N + 1,)."""
    return torch.tensor(sampler.grid.times(), dtype=torch.float64)


def line(points: int) -> Tensor:
    """Equidistant points on [-5, 5]: (N,)."""
    return torch.linspace(-5, 5, points, dtype=torch.float64)


def kernel(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The probabilities of the points x under Gaussians of the given moments, each (M,) or (): (M, N).

    The trapezoidal rule: exact to rounding for a standard deviation above the distance of the points.
    """
    width = x[1] - x[0]
    if bool(std.min() < width):
        raise ValueError(f"a standard deviation of {std.min():.4f} on points {width:.4f} apart")
    std = std.expand_as(mean)[:, None]
    return (-((x - mean[:, None]) / std).square() / 2).exp() * width / (std * np.sqrt(2 * np.pi))


def moved_law(x: Tensor, law: Tensor, to: Tensor) -> Tensor:
    """The law on the points x after they moved, in order, to the places `to`: (N,)."""
    if bool((to.diff() <= 0).any()):
        raise ValueError("the map is not monotone")
    middles = [
        torch.cat([at[:1] - (at[1] - at[0]) / 2, (at[1:] + at[:-1]) / 2, at[-1:] + (at[-1] - at[-2]) / 2]) for at in (x, to)
    ]
    cumulative = np.concatenate([[0.0], law.cumsum(0).numpy()])
    return torch.from_numpy(np.diff(np.interp(middles[0].numpy(), middles[1].numpy(), cumulative)))


def line_mixture() -> gaussian.GaussianMixture:
    """Two overlapping classes on the line, the second of two parts."""
    means, variances = torch.tensor([[-0.5], [0.1], [1.0]]), torch.tensor([0.09, 0.16, 0.04])
    return gaussian.GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, variances, [0, 1, 1])


GAUSSIAN: dict[str, Callable[[Denoiser, UniformGrid], gaussian.Sampler]] = {
    "`ClassifierFreeGuidance`, `DDIM`": gaussian.DDIM,
    "`ClassifierFreeGuidance`, `Ancestral`": gaussian.Ancestral,
}


def gaussian_law(sampler: gaussian.Sampler, x: Tensor, label: int, finish: bool = True) -> Tensor:
    """The law of x_0, or without the last step of x_tmin, on the points x, from N(0, 1) at t = 1."""
    batch, y = x[:, None], torch.full((len(x),), label)
    law = kernel(x, torch.zeros(1), torch.ones(1))[0]
    for t, s in pairwise([*times(sampler), None][: None if finish else -1]):
        mean, std = (part[:, 0] for part in moments(sampler, batch, t, s, y=y))
        law = law @ kernel(x, mean, std) if bool((std > 0).any()) else moved_law(x, law, mean)
    return law


def gaussian_guidance_distance(method: str, g: float, steps: int = 128, points: int = 1601) -> float:
    """TV between guided samples of class 1 and the tilted law, on the line."""
    x, mixture = line(points), line_mixture()
    denoiser = gaussian.MixtureDenoiser(gaussian.GaussianProcess(gaussian.CosineSchedule()), mixture)
    guided = gaussian.ClassifierFreeGuidance(denoiser, ConstantScale(g))
    sampler = GAUSSIAN[method](guided, UniformGrid(steps, t_min=0.01))
    cond, uncond = (part.log_prob(x[:, None]).exp() for part in (mixture.of_class(1), mixture))
    return total_variation(gaussian_law(sampler, x, 1), tilted(cond, uncond, g))


def plane_mixture() -> gaussian.GaussianMixture:
    """Three bumps in the plane whose first dimension says much of the second."""
    means = torch.tensor([[-1.0, -0.8], [0.2, 0.9], [0.9, -0.1]])
    return gaussian.GaussianMixture(torch.tensor([0.4, 0.35, 0.25]), means, torch.tensor([0.16, 0.09, 0.12]))


def gaussian_inpainting_distances(rounds: Sequence[int], steps: int = 64, points: int = 501, a: float = 0.3) -> list[float]:
    """TV between inpainted samples and the exact conditional law of the second dimension, where the first is a.

    The known dimension of x_s is drawn anew, independent of the unknown one, and stays so when both are noised
    again: so the unknown dimension is a chain of its own, the known one integrated out by Gauss-Hermite quadrature.
    """
    x, mixture = line(points), plane_mixture()
    process = gaussian.GaussianProcess(gaussian.CosineSchedule())
    sampler = gaussian.Ancestral(gaussian.MixtureDenoiser(process, mixture), UniformGrid(steps, t_min=0.02))
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(24))
    laws = [kernel(x, torch.zeros(1), torch.ones(1))[0]] * len(rounds)
    for t, s in pairwise([*times(sampler), None]):
        alpha, sigma = process.schedule(t)
        known = alpha * a + sigma * nodes
        parts = [moments(sampler, torch.stack([value.expand_as(x), x], 1), t, s) for value in known]
        shares = weights / weights.sum()
        if s is None:
            ends = [torch.stack([moved_law(x, law, mean[:, 1]) for mean, _ in parts]) for law in laws]
            laws = [shares @ end for end in ends]
            continue
        step = sum(share * kernel(x, mean[:, 1], std[:, 1]) for share, (mean, std) in zip(shares, parts, strict=True))
        again = kernel(x, alpha / process.schedule(s)[0] * x, process.added_variance(s, t).sqrt()) @ step
        laws = [law @ step @ torch.linalg.matrix_power(again, r - 1) for law, r in zip(laws, rounds, strict=True)]
    target = mixture.conditional(torch.tensor([a, 0.0]), torch.tensor([True, False])).log_prob(x[:, None]).exp()
    return [total_variation(law, target / target.sum()) for law in laws]


# Tables


def row(name: str, values: Sequence[float]) -> str:
    """One line of a table."""
    return f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + " |"


def main() -> None:
    """Print the tables of docs/guidance.md."""
    torch.set_num_threads(1)
    head = "".join(f" g = {g:g} |" for g in STRENGTHS)
    for process in PROCESSES:
        print(f"\n| {process}, 256 steps |{head}\n|---|{'---|' * len(STRENGTHS)}")
        for method in METHODS:
            print(row(method, [guidance_distance(process, method, g) for g in STRENGTHS]), flush=True)
    print(f"\n| Gaussian, 128 steps |{head}\n|---|{'---|' * len(STRENGTHS)}")
    for method in GAUSSIAN:
        print(row(method, [gaussian_guidance_distance(method, g) for g in STRENGTHS]), flush=True)
    print(f"\n| inpainting |{''.join(f' resample = {r} |' for r in ROUNDS)}\n|---|{'---|' * len(ROUNDS)}")
    for process in PROCESSES:
        print(row(f"{process}, 64 steps", [inpainting_distance(process, rounds) for rounds in ROUNDS]), flush=True)
    print(row("Gaussian, 64 steps", gaussian_inpainting_distances(ROUNDS)), flush=True)


if __name__ == "__main__":
    main()
