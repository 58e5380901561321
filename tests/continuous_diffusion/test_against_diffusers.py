"""Whole trajectories of DDPM and DDIM against the schedulers of diffusers, with one network and one noise.

Both libraries draw `torch.randn` from the generator they are given, once a step, so equal seeds are
equal noise. What differs, and why the tests say so:

- diffusers keeps its table of `alphas_cumprod` in float32, which alone moves a trajectory by 1e-6 to 1e-4. Where
  agreement in double precision is asked for, its table is replaced by the same one in float64.
- diffusers' DDIM clips x0hat and leaves the noise as it was, unless told `use_clipped_model_output=True`.
  Ours always recomputes the noise, so it is told.
- diffusers' DDIM takes a step of `T // N` whatever its list of timesteps says, so its "linspace" spacing does not
  go where its list does. It is compared on the spacings where both agree.
- diffusers' DDPM leaves out the noise of the step that begins at timestep 0. With "trailing" spacing the last step
  begins later, and it adds noise to the result. Ours never does: that last state is not compared.
- The network's time: diffusers' timestep k is our t = (k + 1) / T.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from continuous_diffusion import (
    DDIM,
    Ancestral,
    CosineSchedule,
    EpsilonDenoiser,
    FixedLarge,
    FixedSmall,
    GaussianProcess,
    LearnedRange,
    LearnedVarianceDenoiser,
    LinearSchedule,
    VelocityDenoiser,
    X0Denoiser,
)
from diffusion_core import CustomGrid, RespacedGrid, UniformGrid

diffusers = pytest.importorskip("diffusers")

T = 1000
BETAS = {"linear": ("linear", LinearSchedule(T)), "cosine": ("squaredcos_cap_v2", CosineSchedule(T))}
VARIANCES = {"fixed_small": FixedSmall(), "fixed_large": FixedLarge(), "learned_range": LearnedRange()}
PARAMETERISATIONS = {"epsilon": EpsilonDenoiser, "sample": X0Denoiser, "v_prediction": VelocityDenoiser}


def network(x, c, y=None):
    """A nonlinear toy that reads its time, about as large as unit noise."""
    return torch.tanh(1.3 * x + 0.5 * x.flip(-1)) * (0.6 + 0.4 * c[:, None, None])


def with_variance(x, c, y=None):
    """The same, with a second half of outputs in (-1, 1)."""
    return torch.cat([network(x, c), torch.sin(3 * x + c[:, None, None])], 1)


def scheduler_of(kind, schedule, double, clip, **options):
    """A scheduler of diffusers over 1000 timesteps; `double` gives it its own table in float64."""
    beta_schedule, ours = BETAS[schedule]
    options |= {"clip_sample": clip is not None, "clip_sample_range": clip or 1.0}
    scheduler = getattr(diffusers, kind)(T, beta_start=1e-4, beta_end=0.02, beta_schedule=beta_schedule, **options)
    table = torch.from_numpy(np.cumprod(1 - ours.betas()))
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), table, rtol=2e-5, atol=1e-9)
    if double:
        scheduler.alphas_cumprod = table
    return scheduler


def their_trajectory(scheduler, model, x, calls, **options):
    """All states of a chain, as its pipeline makes them."""
    scheduler.set_timesteps(calls)
    states = [x]
    for k in scheduler.timesteps:
        output = model(x, torch.full((len(x),), (k.item() + 1) / T, dtype=x.dtype))
        x = scheduler.step(output, k, x, **options).prev_sample
        states.append(x)
    return states


def our_grid(calls, spacing):
    """The grid of the same timesteps."""
    if spacing == "leading":
        return CustomGrid([(k * (T // calls) + 1) / T for k in range(calls - 1, -1, -1)])
    return UniformGrid(calls - 1, t_min=1 / calls) if spacing == "trailing" else RespacedGrid(calls - 1, T)


def compare(sampler, theirs, x, tolerance, last=True):
    ours = [state.x for state in sampler.trajectory(x, generator=torch.Generator().manual_seed(3))]
    assert len(ours) == len(theirs)
    ours, theirs = (ours, theirs) if last else (ours[:-1], theirs[:-1])
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype == x.dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def start(dtype):
    return torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize(
    ("calls", "spacing", "clip"),
    [(50, "leading", 1.0), (50, "leading", None), (20, "trailing", 1.0), (37, "linspace", None), (T, "leading", 1.0)],
)
def test_ddpm(schedule, variance, calls, spacing, clip):
    model = with_variance if variance == "learned_range" else network
    scheduler = scheduler_of("DDPMScheduler", schedule, True, clip, variance_type=variance, timestep_spacing=spacing)
    x, generator = start(torch.float64), torch.Generator().manual_seed(3)
    theirs = their_trajectory(scheduler, model, x, calls, generator=generator)
    denoiser = EpsilonDenoiser(GaussianProcess(BETAS[schedule][1]), model, (2, 5))
    denoiser = LearnedVarianceDenoiser(denoiser) if variance == "learned_range" else denoiser
    compare(
        Ancestral(denoiser, our_grid(calls, spacing), variance=VARIANCES[variance], clip=clip),
        theirs,
        x,
        1e-10,
        last=spacing != "trailing",
    )


@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("calls", "spacing"), [(50, "leading"), (20, "trailing")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_ddim(schedule, eta, calls, spacing, clip):
    scheduler = scheduler_of("DDIMScheduler", schedule, True, clip, timestep_spacing=spacing)
    x, generator = start(torch.float64), torch.Generator().manual_seed(3)
    options = {"eta": eta, "use_clipped_model_output": True, "generator": generator}
    theirs = their_trajectory(scheduler, network, x, calls, **options)
    denoiser = EpsilonDenoiser(GaussianProcess(BETAS[schedule][1]), network, (2, 5))
    compare(DDIM(denoiser, our_grid(calls, spacing), eta=eta, clip=clip), theirs, x, 1e-10)


@pytest.mark.parametrize("prediction", PARAMETERISATIONS)
def test_other_parameterisations(prediction):
    """Our x_0 and v parameterisations equal those of diffusers."""
    options = {"timestep_spacing": "trailing", "prediction_type": prediction}
    x, denoiser = start(torch.float64), PARAMETERISATIONS[prediction](GaussianProcess(LinearSchedule(T)), network, (2, 5))
    ddpm = scheduler_of("DDPMScheduler", "linear", True, 1.0, **options)
    theirs = their_trajectory(ddpm, network, x, 20, generator=torch.Generator().manual_seed(3))
    compare(Ancestral(denoiser, our_grid(20, "trailing"), clip=1.0), theirs, x, 1e-10, last=False)
    ddim = scheduler_of("DDIMScheduler", "linear", True, 1.0, **options)
    theirs = their_trajectory(ddim, network, x, 20, use_clipped_model_output=True)
    compare(DDIM(denoiser, our_grid(20, "trailing"), clip=1.0), theirs, x, 1e-10)


@pytest.mark.parametrize("schedule", BETAS)
def test_single_precision(schedule):
    """In float32, images clipped as they are in use, to 1e-5 (the table of diffusers in float64: see above)."""
    x, denoiser = start(torch.float32), EpsilonDenoiser(GaussianProcess(BETAS[schedule][1]), network, (2, 5))
    grid = our_grid(50, "leading")
    ddpm = scheduler_of("DDPMScheduler", schedule, True, 1.0)
    theirs = their_trajectory(ddpm, network, x, 50, generator=torch.Generator().manual_seed(3))
    compare(Ancestral(denoiser, grid, clip=1.0), theirs, x, 1e-5)
    for eta in (0.0, 0.5, 1.0):
        ddim = scheduler_of("DDIMScheduler", schedule, True, 1.0)
        options = {"eta": eta, "use_clipped_model_output": True, "generator": torch.Generator().manual_seed(3)}
        compare(DDIM(denoiser, grid, eta=eta, clip=1.0), their_trajectory(ddim, network, x, 50, **options), x, 1e-5)


def test_the_float32_table_is_the_difference():
    """With its table as it comes, diffusers is off by what rounding the table does, and no more."""
    x, denoiser = start(torch.float64), EpsilonDenoiser(GaussianProcess(LinearSchedule(T)), network, (2, 5))
    theirs = their_trajectory(
        scheduler_of("DDIMScheduler", "linear", False, 1.0), network, x, 50, use_clipped_model_output=True
    )
    ours = DDIM(denoiser, our_grid(50, "leading"), clip=1.0).sample(x)
    assert 1e-9 < (ours - theirs[-1]).abs().max().item() < 1e-4
