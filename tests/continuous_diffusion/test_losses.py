"""The losses against their formulas, torch's Kullback-Leibler divergences, and one another."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import norm

from continuous_diffusion import (
    ELBO,
    VLB,
    AbsoluteError,
    BoundedLogSNRGrid,
    CauchySchedule,
    CosineSchedule,
    EpsilonDenoiser,
    EpsilonLoss,
    GaussianProcess,
    HybridLoss,
    LaplaceSchedule,
    LearnedVarianceDenoiser,
    LinearSchedule,
    MinSNR,
    PixelScale,
    RectifiedSchedule,
    SigmoidSchedule,
    SmoothAbsoluteError,
    VelocityDenoiser,
    VelocityLoss,
    X0Loss,
)
from diffusion_core import (
    GridTimes,
    ImportanceTimes,
    Objective,
    PerSampleRandomness,
    QuadraticGrid,
    StratifiedTimes,
    UniformGrid,
    UniformTimes,
)

from ..losses import losses_of, scored

SHAPE = (1, 4, 4)
PUBLISHED = UniformGrid(19, 0.05)  # the chain of T = 20 times


@pytest.fixture
def process():
    return GaussianProcess(CosineSchedule())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=5, scale=16):
    x_0 = PixelScale(scale).encode(torch.randint(scale, (n, *SHAPE), generator=seeded(9)))
    return x_0.double(), torch.randn(n, *SHAPE, dtype=torch.float64, generator=seeded(0))


# Regression


def test_value(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), SHAPE)
    x_0, t = torch.rand(5, *SHAPE) * 2 - 1, UniformTimes()(5)[0]
    loss = scored(EpsilonLoss(), denoiser, x_0, t, generator=seeded())
    noise = torch.randn(5, *SHAPE, generator=seeded())
    alpha, sigma = (value[:, None, None, None] for value in process.schedule(t))
    expected = ((noise - denoiser.network(alpha * x_0 + sigma * noise, t)) ** 2).sum((1, 2, 3))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("t", [torch.tensor([0.02, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64), torch.tensor(0.4)])
def test_targets_and_distances(process, toy_network, t):
    denoiser = VelocityDenoiser(process, toy_network().double(), SHAPE)
    x_0, noise = batch()
    alpha, sigma = (value.double().reshape(-1, 1, 1, 1) for value in process.schedule(t))
    output = denoiser.network(alpha * x_0 + sigma * noise, t.double().expand(5))
    v = alpha * noise - sigma * x_0
    mean = alpha * (alpha * x_0 + sigma * noise) - sigma * output
    losses = {
        VelocityLoss(): (v - output) ** 2,
        X0Loss(): (x_0 - mean) ** 2,
        VelocityLoss(AbsoluteError()): (v - output).abs(),
        X0Loss(SmoothAbsoluteError(0.1)): torch.nn.functional.smooth_l1_loss(mean, x_0, beta=0.1, reduction="none"),
    }
    for loss, expected in losses.items():
        torch.testing.assert_close(
            scored(loss, denoiser, x_0, t, generator=seeded()), expected.sum((1, 2, 3)), rtol=1e-6, atol=1e-9
        )


def test_weighted_targets_are_one_loss(process, toy_network):
    """Min-SNR weights of eps, x_0 and v are `min(snr, gamma)` on the error of x_0."""
    denoiser = EpsilonDenoiser(process, toy_network().double(), SHAPE)
    x_0, _ = batch()
    t = torch.tensor([0.02, 0.3, 0.5, 0.8, 0.97], dtype=torch.float64)
    snr = process.schedule.log_snr(t).exp()
    expected = snr.clamp(max=5) * scored(X0Loss(), denoiser, x_0, t, generator=seeded())
    for loss in (EpsilonLoss, X0Loss, VelocityLoss):
        torch.testing.assert_close(scored(loss(weight=MinSNR(5.0)), denoiser, x_0, t, generator=seeded()), expected)


def test_labels_and_gradients_reach_the_network(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), SHAPE)
    t, y = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0, 1, 2])
    scored(EpsilonLoss(), denoiser, torch.zeros(3, *SHAPE), t, y=y).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.parameters())


def test_keyed_noise_does_not_depend_on_the_batch(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), SHAPE)
    x_0, t = torch.rand(6, *SHAPE), torch.linspace(0.1, 1, 6)
    whole = scored(EpsilonLoss(), denoiser, x_0, t, generator=PerSampleRandomness.keyed(0, 7, 0, 6))
    part = scored(EpsilonLoss(), denoiser, x_0[4:], t[4:], generator=PerSampleRandomness.keyed(0, 7, 4, 2))
    torch.testing.assert_close(whole[4:], part)


def test_integer_images_are_refused(process, toy_network):
    denoiser = EpsilonDenoiser(process, toy_network(), SHAPE)
    with pytest.raises(ValueError, match=r"dtype torch.uint8, expected float32 or float64"):
        scored(EpsilonLoss(), denoiser, torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"dtype torch.int64, expected float32 or float64"):
        process.sample(torch.zeros(2, 3, dtype=torch.int64), torch.tensor(0.5))
    with pytest.raises(ValueError, match=r"t = -0.5 is outside \[0, 1\]"):
        process.sample(torch.zeros(2, 3), torch.tensor([-0.5, 0.5]))


# The variational bound


def denoise(process, toy_network, learned):
    network = toy_network(1 + learned).double()
    denoiser = EpsilonDenoiser(process, network, SHAPE)
    return LearnedVarianceDenoiser(denoiser) if learned else denoiser


@pytest.mark.parametrize("interpolation", [0.0, 0.3, 1.0, "learned"])
@pytest.mark.parametrize("schedule", [CosineSchedule(), LinearSchedule()])
def test_every_step_is_a_divergence_of_gaussians(schedule, interpolation, toy_network):
    process, grid = GaussianProcess(schedule), QuadraticGrid(6, 0.03)
    denoiser = denoise(process, toy_network, interpolation == "learned")
    bound = VLB(grid) if interpolation == "learned" else VLB(grid, interpolation)
    x_0, noise = batch(6)
    times = torch.tensor(grid.times(), dtype=torch.float64)
    t, s = times[:-1], times[1:]
    x_t = process.perturb(x_0, noise, t)
    posterior = denoiser(x_t, t)
    c_0, c_t, small = (part[:, None, None, None] for part in process.bridge_coefficients(s, t))
    v = posterior.interpolation if interpolation == "learned" else torch.tensor(interpolation, dtype=torch.float64)
    large = process.added_variance(s, t)[:, None, None, None]
    model = torch.distributions.Normal(c_0 * posterior.mean + c_t * x_t, (v * large.log() + (1 - v) * small.log()).exp().sqrt())
    truth = torch.distributions.Normal(c_0 * x_0 + c_t * x_t, small.sqrt())
    expected = torch.distributions.kl_divergence(truth, model).sum((1, 2, 3)) / (t - s)
    middle = (s + t) / 2
    torch.testing.assert_close(scored(bound, denoiser, x_0, middle, generator=seeded()), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scored(bound, denoiser, x_0, t, generator=seeded()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("pixels", [None, PixelScale(16)])
def test_the_last_term_is_a_reconstruction(pixels, learned, toy_network):
    process = GaussianProcess(CosineSchedule(), pixels)
    denoiser = denoise(process, toy_network, learned)
    x_0, noise = batch()
    t_min, before = (torch.tensor(time, dtype=torch.float64) for time in PUBLISHED.times()[:-3:-1])
    posterior = denoiser(process.perturb(x_0, noise, t_min), t_min)
    var = posterior.var
    if learned:  # beta~ of the first step is replaced by that of the second
        low, high = process.bridge_coefficients(t_min, before)[2].log(), process.schedule(t_min)[1].square().log()
        var = (posterior.interpolation * high + (1 - posterior.interpolation) * low).exp()
    law = norm(posterior.mean.detach().numpy(), var.detach().sqrt().numpy())
    if pixels is None:
        expected = -law.logpdf(x_0.numpy())
    else:
        low, high = (x_0 - 1 / 16).numpy(), (x_0 + 1 / 16).numpy()
        low[low < -0.99], high[high > 0.99] = -math.inf, math.inf
        # As a difference of the nearer tails.
        mirrored = law.mean() < low
        first, last = law.logcdf(high), law.logcdf(low)
        first[mirrored], last[mirrored] = law.logsf(low)[mirrored], law.logsf(high)[mirrored]
        expected = -(first + torch.log(-torch.expm1(torch.from_numpy(last - first))).numpy())
    values = scored(VLB(PUBLISHED), denoiser, x_0, torch.tensor([0.0, 0.01, 0.02, 0.03, 0.05]), generator=seeded())
    expected = torch.from_numpy(expected).sum((1, 2, 3)) / 0.05
    torch.testing.assert_close(values.detach(), expected, rtol=1e-8, atol=1e-8)


def test_a_batch_may_be_at_different_terms(process, toy_network):
    denoiser = denoise(process, toy_network, True)
    x_0, _ = batch(4)
    t = torch.tensor([0.01, 0.06, 0.05, 0.99])
    whole = scored(VLB(PUBLISHED), denoiser, x_0, t, generator=PerSampleRandomness.keyed(0, 0, 0, 4))
    for i in range(4):
        one = scored(VLB(PUBLISHED), denoiser, x_0[i : i + 1], t[i], generator=PerSampleRandomness.keyed(0, 0, i, 1))
        torch.testing.assert_close(whole[i : i + 1], one)


@pytest.mark.parametrize("T", [20, 1000, 4000])
def test_steps_of_single_precision_times(T):
    """t = i / T in float32 is in the step that begins there, and the middles are in theirs."""
    bound = VLB(UniformGrid(T - 1, 1 / T))
    for dtype in (torch.float32, torch.float64):
        i = torch.arange(1, T + 1)
        for t in (i / T, (i - 0.5) / T):
            s, begin = bound.steps(t.to(dtype))
            torch.testing.assert_close(begin, i.double() / T, rtol=1e-12, atol=0)
            torch.testing.assert_close(s, (i.double() - 1) / T, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(bound.steps(begin)[1], begin, rtol=0, atol=0)


def test_importance_sampled_bound_has_the_same_mean(process, toy_network):
    """Over all T steps, with the noise held fixed, so that a term is a number."""
    denoiser = denoise(process, toy_network, False)
    x_0, _ = batch(1)
    T, bound = 20, VLB(PUBLISHED)
    middle = (torch.arange(T) + 0.5) / T
    with torch.no_grad():
        terms = torch.cat([scored(bound, denoiser, x_0, t, generator=seeded()) for t in middle])  # T L_t
    times = ImportanceTimes(0.0, 1.0, bins=T, history=2)
    for _ in range(2):
        times.update(middle, terms)
    assert times.probabilities().max() > 3 * times.probabilities().min()
    torch.testing.assert_close(
        torch.from_numpy(times.probabilities()), (0.999 * terms.abs() / terms.abs().sum() + 0.001 / T), rtol=1e-9, atol=0
    )
    t, weight = times(200_000, seeded())
    place = (t * T).floor().long().clamp(max=T - 1)
    torch.testing.assert_close(weight.double(), 1 / (T * torch.from_numpy(times.probabilities())[place]), rtol=1e-6, atol=0)
    assert (weight * terms[place]).mean().item() == pytest.approx(terms.mean().item(), rel=1e-4)


def test_many_steps_become_the_integrand(process, toy_network):
    denoiser = denoise(process, toy_network, False)
    x_0, _ = batch()
    t = torch.tensor([0.1004, 0.3004, 0.5004, 0.7004, 0.9004], dtype=torch.float64)  # between the knots of the table
    for interpolation in (0.0, 1.0):
        fine = VLB(UniformGrid(10_000, 1e-4), interpolation)
        limit = scored(ELBO(), denoiser, x_0, fine.steps(t)[1], generator=seeded())
        torch.testing.assert_close(scored(fine, denoiser, x_0, t, generator=seeded()), limit, rtol=3e-3, atol=0)


def test_bad_chains_are_named():
    with pytest.raises(ValueError, match=r"t_min = 0\.0, expected t_min > 0"):
        VLB(UniformGrid(5, 0.0))
    with pytest.raises(ValueError, match=r"interpolation = 1.5, expected a number in \[0, 1\]"):
        VLB(interpolation=1.5)


def test_times_that_leave_out_terms_of_the_sum_are_refused(process, toy_network):
    """At times from t_min on the last term would never be drawn, and nothing would tell."""
    denoiser, grid = denoise(process, toy_network, True), UniformGrid(19, 0.05, 0.9)
    for loss in (VLB(grid), HybridLoss(bound=VLB(grid))):
        for times in (
            StratifiedTimes(0.01),
            StratifiedTimes(0.0),
            UniformTimes(0.05),
            ImportanceTimes(0.05, 1.0),
            GridTimes(grid),
        ):
            message = (
                rf"{type(times).__name__} draws times from {times.t_min} to {times.t_max}, expected 0 to 0\.9: VLB is a sum"
            )
            with pytest.raises(ValueError, match=message):
                Objective(denoiser, loss, times)
        with pytest.raises(ValueError, match=r"UniformTimes draws times from 0 to 0\.5, expected 0 to 0\.9"):
            Objective(denoiser, loss, UniformTimes(0, 0.5))
        for times in (StratifiedTimes(0.0, 0.9), ImportanceTimes(0.0, 0.9)):
            assert losses_of(Objective(denoiser, loss, times), batch()[0]).isfinite().all()
    for loss in (ELBO(), EpsilonLoss()):
        Objective(denoise(process, toy_network, False), loss, StratifiedTimes())


def test_a_variance_is_learned_from_losses_that_teach_one(process, toy_network):
    plain, learned = (denoise(process, toy_network, learns) for learns in (False, True))
    whole = StratifiedTimes(0.0)
    for loss in (EpsilonLoss(), X0Loss(), VelocityLoss(), ELBO()):
        Objective(plain, loss, StratifiedTimes())
        with pytest.raises(ValueError, match=rf"{type(loss).__name__} does not train a variance, but LearnedVarianceDenoiser"):
            Objective(learned, loss, StratifiedTimes())
    for loss in (VLB(), HybridLoss()):
        Objective(learned, loss, whole)
    Objective(plain, VLB(), whole)
    with pytest.raises(ValueError, match=f"HybridLoss trains a variance, but {type(plain).__name__} does not learn one"):
        Objective(plain, HybridLoss(), whole)


@pytest.mark.parametrize("schedule", [LaplaceSchedule(), CauchySchedule(), RectifiedSchedule()])
def test_a_chain_is_trained_where_its_schedule_is_finite(schedule, toy_network):
    for loss in (VLB(), HybridLoss()):
        denoiser = denoise(GaussianProcess(schedule), toy_network, isinstance(loss, HybridLoss))
        with pytest.raises(
            ValueError, match=rf"{type(schedule).__name__} has log-SNR .* at t_max = 1\.0, expected at least -100"
        ):
            Objective(denoiser, loss, StratifiedTimes(0.0))


def test_an_integrand_that_is_infinite_at_clean_data_is_not_trained_there(process, toy_network):
    with pytest.raises(
        ValueError, match=r"UniformTimes draws times from t_min = 0\.0, where .* log-SNR inf, expected t_min > 0"
    ):
        Objective(denoise(process, toy_network, False), ELBO(), UniformTimes(0.0))
    straight = denoise(GaussianProcess(SigmoidSchedule()), toy_network, False)  # finite at both ends
    assert losses_of(Objective(straight, ELBO(), UniformTimes(0.0)), batch()[0]).isfinite().all()
    with pytest.raises(ValueError, match="the schedule is RectifiedSchedule, expected a VariancePreserving one"):
        Objective(denoise(GaussianProcess(RectifiedSchedule()), toy_network, False), VelocityLoss(), UniformTimes())


# The hybrid loss


def test_hybrid_is_the_sum_in_its_units(process, toy_network):
    denoiser = denoise(process, toy_network, True)
    x_0, _ = batch()
    t = torch.tensor([0.02, 0.3, 0.5, 0.8, 1.0])
    at = VLB(PUBLISHED).steps(t)[1]
    simple = scored(EpsilonLoss(), denoiser, x_0, at, generator=seeded())
    bits = scored(VLB(PUBLISHED), denoiser, x_0, t, generator=seeded()) / 20 / math.log(2)  # L_t
    hybrid = scored(HybridLoss(bound=VLB(PUBLISHED)), denoiser, x_0, t, generator=seeded())
    torch.testing.assert_close(hybrid, simple + 0.001 * 20 * bits)


def test_hybrid_trains_the_mean_by_regression_alone(process, toy_network):
    gradients = []
    x_0, t = batch()[0], torch.tensor([0.02, 0.3, 0.5, 0.8, 1.0])
    for loss in (HybridLoss(bound=VLB(PUBLISHED)), EpsilonLoss()):
        network = toy_network(2).double()
        denoiser = LearnedVarianceDenoiser(EpsilonDenoiser(process, network, SHAPE))
        scored(loss, denoiser, x_0, VLB(PUBLISHED).steps(t)[1], generator=seeded()).sum().backward()
        gradients.append(network.out.weight.grad)
    torch.testing.assert_close(gradients[0][:1], gradients[1][:1])
    assert gradients[0][1:].abs().min() > 0
    assert gradients[1][1:].abs().max() == 0


def test_hybrid_needs_a_variance_to_teach(process, toy_network):
    with pytest.raises(ValueError, match="HybridLoss trains a variance, but the denoiser does not learn one"):
        scored(HybridLoss(), denoise(process, toy_network, False), batch()[0], torch.tensor(0.5))
    with pytest.raises(ValueError, match="weight = -1, expected a number of at least 0"):
        HybridLoss(weight=-1)


def test_a_bound_refuses_steps_that_its_times_cannot_tell_apart():
    crowded = BoundedLogSNRGrid(100, LaplaceSchedule())  # from t = 1 - 8e-9
    with pytest.raises(ValueError, match=r"the shortest step of the grid is 3\.3e-09 times its .* expected at least 8e-07"):
        VLB(crowded)
    grid = BoundedLogSNRGrid(100, LaplaceSchedule(-2.0, 1.5))
    bound, times = VLB(grid), grid.times()
    for begin, end in itertools.pairwise(times):
        for t in (begin, (begin + end) / 2):
            assert [value.item() for value in bound.steps(torch.tensor(t).float())] == [end, begin]
