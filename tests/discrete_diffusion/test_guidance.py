"""Guided denoisers against enumerated laws: what g = 0 and g = 1 are, what tells the forms apart, how far they are."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn

from backbones import CategoricalHead, OneHotInput, PixelLogits, UNet
from benchmarks.guidance import PROCESSES, Chains, class_laws, guidance_distance, guided_law, tilted
from diffusion_core import ConstantScale, IntervalScale, PowerCosineScale, QuadraticGrid, UniformGrid
from discrete_diffusion import CTMC, ELBO, AbsorbingDenoiser, LeaveOneOutDenoiser, X0Denoiser, bits_per_dim
from discrete_diffusion.guidance import (
    ClassifierGuidance,
    PosteriorGuidance,
    RateGuidance,
    TaylorClassifierGuidance,
)
from discrete_diffusion.jumps import ListedJumps
from discrete_diffusion.oracle import EnumeratedCTMC, labelled_network, total_variation
from discrete_diffusion.rates import AbsorbingRates, GaussianTargetRates
from discrete_diffusion.samplers import (
    Ancestral,
    CategoricalLeap,
    Euler,
    ForwardBackward,
    OrdinalLeap,
    PredictorCorrector,
    TauLeaping,
)
from discrete_diffusion.schedules import Constant, LinearSurvival

from ..devices import ABSENT, fake_tensors
from ..losses import scored

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "guidance.md"
METHODS = ["PosteriorGuidance", "RateGuidance", "ClassifierGuidance"]


@pytest.fixture(scope="module")
def chains() -> dict[str, Chains]:
    return {name: Chains(make(), class_laws()) for name, make in PROCESSES.items()}


@pytest.fixture(scope="module", params=[2, 4])
def sized_chains(request) -> dict[str, Chains]:
    """The same on two values, and on four."""
    return {name: Chains(make(request.param), class_laws(values=request.param)) for name, make in PROCESSES.items()}


def guide(chains: Chains, method: str, scale):
    if method == "ClassifierGuidance":
        return ClassifierGuidance(chains.denoiser(), chains.classifier, scale)
    if method == "TaylorClassifierGuidance":
        return TaylorClassifierGuidance(chains.denoiser(), chains.classifier, scale)
    return {"PosteriorGuidance": PosteriorGuidance, "RateGuidance": RateGuidance}[method](chains.denoiser(), scale, {"y": 2})


def labels(x: Tensor, y: int = 0) -> Tensor:
    return torch.full((len(x),), y)


def plain(chains: Chains, g: float):
    """The denoiser that g = 0 and g = 1 stand for, without any guidance."""
    chain = chains.classes[0] if g == 1 else chains.mean
    if isinstance(chains.process.rates, AbsorbingRates):
        return AbsorbingDenoiser(chains.process, chain.x0_network(), (2,))
    return LeaveOneOutDenoiser(chains.process, chain.leave_one_out_network(), (2,))


@pytest.mark.parametrize("g", [0.0, 1.0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROCESSES)
def test_ends_of_the_scale_are_the_plain_processes(name, method, g, sized_chains):
    """g = 0 is the unconditional, g = 1 the conditional one: rates, ratios, jumps and, without a classifier, draws."""
    here, t = sized_chains[name], torch.tensor(0.37, dtype=torch.float64)
    x = here.mean.noisy
    posterior, expected = guide(here, method, ConstantScale(g))(x, t, y=labels(x)), plain(here, g)(x, t)
    torch.testing.assert_close(posterior.reverse_rates.double(), expected.reverse_rates.double())
    torch.testing.assert_close(posterior.jumps().exit_rates.double(), expected.jumps().exit_rates.double())
    torch.testing.assert_close(posterior.jumps().matrix().double(), expected.jumps().matrix().double())
    torch.testing.assert_close(posterior.ratio.double(), expected.ratio.double())
    if method != "ClassifierGuidance" or g == 0 or name == "absorbing":
        torch.testing.assert_close(posterior.probs, expected.probs)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_two_forms_are_what_their_formulas_say(name, sized_chains):
    here, t, g = sized_chains[name], torch.tensor(0.15, dtype=torch.float64), 2.5
    x = here.mean.noisy
    cond, uncond = plain(here, 1.0)(x, t), plain(here, 0.0)(x, t)
    rate = guide(here, "RateGuidance", ConstantScale(g))(x, t, y=labels(x))
    form = guide(here, "PosteriorGuidance", ConstantScale(g))(x, t, y=labels(x))
    c, u = cond.reverse_rates.double(), uncond.reverse_rates.double()
    expected = torch.where(u > 0, c**g * u.clamp(min=1e-300) ** (1 - g), 0.0)
    torch.testing.assert_close(rate.reverse_rates.double(), expected)
    powers = torch.where(uncond.probs > 0, cond.probs**g * uncond.probs.clamp(min=1e-300) ** (1 - g), 0.0)
    torch.testing.assert_close(form.probs, powers / powers.sum(-1, keepdim=True))
    torch.testing.assert_close(rate.probs, form.probs)
    if name == "absorbing":
        # Both unmask towards the same values; the rate form at another speed.
        speed = torch.where(x == here.mean.data_states, powers.sum(-1), 0.0)
        torch.testing.assert_close(rate.jumps().matrix(), speed[..., None] * form.jumps().matrix())
        assert (speed[x == here.mean.data_states] - 1).abs().max() > 0.02
    else:
        rates = here.process.reverse_rates(here.process.posterior_ratio(form.probs, x, t), x, t)
        torch.testing.assert_close(form.reverse_rates.double(), rates.double(), rtol=1e-5, atol=1e-6)
        assert ((rate.reverse_rates - form.reverse_rates).abs().sum((1, 2)) / form.reverse_rates.sum((1, 2))).max() > 0.02


@pytest.mark.parametrize("name", PROCESSES)
def test_an_exact_classifier_is_the_rate_form(name, sized_chains):
    """By Bayes' rule, for every g; its first-order expansion is not."""
    here, t, scale = sized_chains[name], torch.tensor(0.15, dtype=torch.float64), ConstantScale(2.5)
    x = here.mean.noisy
    rates, exact, taylor = (
        guide(here, method, scale)(x, t, y=labels(x)).reverse_rates.double()
        for method in ("RateGuidance", "ClassifierGuidance", "TaylorClassifierGuidance")
    )
    torch.testing.assert_close(exact, rates)
    assert (taylor / rates)[rates > 0].log().abs().max() > 0.01
    # What the expansion must agree on: the slope of the logits.
    g = guide(here, "TaylorClassifierGuidance", ConstantScale(1.0))
    code = nn.functional.one_hot(x, here.mean.num_states).double().requires_grad_()
    log_prob = here.classifier(code, t.expand(len(x))).log_softmax(-1)[:, 0]
    (slope,) = torch.autograd.grad(log_prob.sum(), code)
    torch.testing.assert_close(g.log_ratio(x, t, labels(x)), slope - slope.gather(-1, x[..., None]))


@pytest.mark.parametrize("g", [0.0, 1.0])
@pytest.mark.parametrize("method", ["`PosteriorGuidance`, `Ancestral`", "`RateGuidance`, `Euler`"])
def test_ends_of_the_scale_are_reached_at_first_order(method, g, chains):
    here, laws = chains["uniform"], class_laws()
    target = laws[0] if g == 1 else laws.mean(0)
    start = (here.classes[0] if g == 1 else here.mean).marginal(0.999)
    errors = []
    for steps in (32, 64, 128):
        grid, cls = QuadraticGrid(steps, t_min=1e-5, t_max=0.999), Euler if "Euler" in method else Ancestral
        sampler = cls(guide(here, method.split("`")[1], ConstantScale(g)), grid)
        errors.append(total_variation(here.mean.sampler_law(sampler, start, y=0), target))
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(slope > 0.9 for slope in slopes), (errors, slopes)


def test_posterior_form_and_rate_form_have_different_laws(chains):
    """Told apart by more than their samplers' errors: the laws, and their distances from the tilted one."""
    here = chains["Gaussian target"]
    fine, coarse = (
        [guided_law(here, f"`{name}`, `Euler`", 2.0, steps) for name in ("PosteriorGuidance", "RateGuidance")]
        for steps in (128, 64)
    )
    assert total_variation(*fine) > 0.02
    assert all(total_variation(a, b) < 0.005 for a, b in zip(fine, coarse, strict=True))
    laws = class_laws()
    target = tilted(laws[0], laws.mean(0), 2.0)
    posterior, rate = (total_variation(law, target) for law in fine)
    assert rate < 0.7 * posterior
    assert total_variation(target, laws[0]) > 0.1  # and it is guidance that brings them there
    assert posterior < 0.5 * total_variation(target, laws[0])


@pytest.mark.parametrize("name", PROCESSES)
def test_documented_distances_are_those_of_the_benchmark(name):
    """One column of each table, computed again."""
    section = DOCUMENTATION.read_text("utf-8").split(f"| {name}, 256 steps |")[1].split("\n\n")[0]
    for method, column, g in (("`PosteriorGuidance`, `Ancestral`", 3, 2.0), ("`RateGuidance`, `Euler`", 3, 2.0)):
        line = next(line for line in section.splitlines() if line.startswith(f"| {method} |"))
        stated = float(line.split("|")[2:][column])
        assert guidance_distance(name, method, g) == pytest.approx(stated, abs=1e-4)


@pytest.mark.parametrize("method", [*METHODS, "TaylorClassifierGuidance"])
@pytest.mark.parametrize("name", PROCESSES)
def test_runs_agree_with_the_exact_law(name, method, sized_chains):
    """A chi-square test of guided samplers' output against their exact law."""
    here = sized_chains[name]
    chains = 625 * len(here.mean.data_law)
    denoiser, grid = guide(here, method, ConstantScale(1.7)), QuadraticGrid(4, t_min=0.02, t_max=0.9)
    samplers = [Ancestral(denoiser, grid), TauLeaping(denoiser, grid, leap=CategoricalLeap())]
    if name != "absorbing":
        corrector = ForwardBackward(denoiser, leap=OrdinalLeap())
        samplers.append(PredictorCorrector(TauLeaping(denoiser, grid, leap=OrdinalLeap(dense_above=0.5)), corrector))
    for sampler in samplers:
        generator = torch.Generator().manual_seed(5)
        rows = torch.multinomial(here.mean.marginal(0.9), chains, replacement=True, generator=generator)
        x_0 = sampler.sample(here.mean.noisy[rows], generator=generator, y=torch.zeros(chains, dtype=torch.int64))
        counts = torch.bincount((x_0 * torch.tensor([here.mean.data_states, 1])).sum(-1), minlength=len(here.mean.data_law))
        law = here.mean.sampler_law(sampler, y=0)
        assert chisquare(counts.numpy(), (law / law.sum() * chains).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("method", [*METHODS, "TaylorClassifierGuidance"])
def test_seeds_labels_and_calls(method, chains):
    here = chains["Gaussian target"]
    denoiser = guide(here, method, PowerCosineScale(3.0))
    sampler = TauLeaping(denoiser, UniformGrid(4), leap=OrdinalLeap())
    y = torch.arange(20) % 2
    together = sampler.sample(20, seeds=range(20), y=y)
    uneven = torch.cat([sampler.sample(7, seeds=range(7), y=y[:7]), sampler.sample(13, seeds=range(7, 20), y=y[7:])])
    assert torch.equal(together, uneven)
    calls = [state.nfe for state in sampler.trajectory(2, seeds=[0, 1], y=y[:2])]
    each = 1 if "Classifier" in method else 2
    assert calls == [each * i for i in range(6)]
    with pytest.raises(ValueError, match=r"y is missing: a .* needs the (labels|condition) to guide towards"):
        sampler.sample(2)
    with pytest.raises(ValueError, match=r"y has dtype torch\.float32"):
        sampler.sample(2, y=torch.zeros(2))
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected (2 rows|\(2,\))"):
        denoiser(torch.zeros(2, 2, dtype=torch.int64), torch.tensor(0.5), y=y[:3])


def test_both_readings_give_one_guided_law(chains):
    here, t = chains["Gaussian target"], torch.tensor(0.3, dtype=torch.float64)
    x = here.mean.noisy
    network = labelled_network([chain.x0_network() for chain in (*here.classes, here.mean)])
    for cls in (PosteriorGuidance, RateGuidance):
        scale = ConstantScale(2.0)
        one = cls(X0Denoiser(here.process, network, (2,)), scale, {"y": 2})(x, t, y=labels(x, 1))
        other = cls(here.denoiser(), scale, {"y": 2})(x, t, y=labels(x, 1))
        torch.testing.assert_close(one.probs, other.probs)
        torch.testing.assert_close(one.jumps().matrix().double(), other.jumps().matrix().double())


def test_scales_change_with_time_example_by_example(chains):
    here = chains["uniform"]
    denoiser = guide(here, "PosteriorGuidance", IntervalScale(3.0, 0.2, 0.6))
    x, y = here.mean.noisy[:2], torch.tensor([0, 1])
    posterior = denoiser(x, torch.tensor([0.1, 0.4], dtype=torch.float64), y=y)
    for i, (t, g) in enumerate([(0.1, 1.0), (0.4, 3.0)]):
        alone = guide(here, "PosteriorGuidance", ConstantScale(g))(
            x[i : i + 1], torch.tensor(t, dtype=torch.float64), y=y[i : i + 1]
        )
        torch.testing.assert_close(posterior.probs[i], alone.probs[0])


def test_a_guided_process_has_a_likelihood(chains):
    """Guided rates are rates: their bound on the conditional data is finite, and larger than that of g = 1."""
    here = chains["Gaussian target"]
    x_0 = here.mean.clean[torch.multinomial(class_laws()[0], 400, replacement=True)]
    bounds = []
    for g in (1.0, 3.0):
        denoiser = guide(here, "RateGuidance", ConstantScale(g))
        estimate = bits_per_dim(denoiser, x_0, draws=4, generator=torch.Generator().manual_seed(0), y=labels(x_0))
        bounds.append(estimate.value)
    plain_bound = bits_per_dim(plain(here, 1.0), x_0, draws=4, generator=torch.Generator().manual_seed(0)).value
    assert bounds[0] == pytest.approx(plain_bound, rel=1e-5)
    assert bounds[1] > bounds[0] + 0.01


def test_zeros_stay_zeros(chains):
    """A value that the unconditional model excludes is excluded, at any g > 0."""
    process = chains["uniform"].process
    table = torch.tensor([[0.0, -1.0, -2.0, -3.0], [0.0, -torch.inf, -1.0, -torch.inf]])
    denoiser = LeaveOneOutDenoiser(process, lambda x, t, y: table[y][:, None].expand(*x.shape, 4), (2,))
    x, t = torch.zeros(1, 2, dtype=torch.int64), torch.tensor(0.5)
    for g, zeros in ((0.0, [1, 3]), (0.5, [1, 3]), (1.0, []), (4.0, [1, 3])):
        probs = PosteriorGuidance(denoiser, ConstantScale(g), {"y": 1})(x, t, y=torch.tensor([0])).probs
        assert torch.equal((probs[0, 0] == 0).nonzero()[:, 0], torch.tensor(zeros, dtype=torch.int64))


class Classifier(nn.Module):
    """Logits of three classes from integer images or their one-hot coding."""

    def __init__(self, states: int, dimensions: int) -> None:
        super().__init__()
        self.states = states
        self.layer = nn.Linear(states * dimensions, 3)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        code = x if x.is_floating_point() else nn.functional.one_hot(x, self.states).to(c.dtype)
        return self.layer(code.flatten(1)) * (1 - c[:, None])


def pixel_network(values: int, states: int, classes: int) -> PixelLogits:
    inputs, outputs = OneHotInput(1, states), CategoricalHead(1, values)
    backbone = UNet(
        inputs.out_channels, outputs.in_channels, widths=(8,), blocks=1, patch_size=1, num_heads=1, num_classes=classes
    )
    return PixelLogits(backbone, outputs, inputs, values, states)


@pytest.mark.parametrize("masked", [False, True])
def test_networks_on_an_absent_accelerator(masked):
    with fake_tensors(), torch.device(ABSENT):
        process = CTMC(AbsorbingRates(4), LinearSurvival()) if masked else CTMC(GaussianTargetRates(4, 1.5, 2.0), Constant(3.0))
        parameterisation = AbsorbingDenoiser if masked else LeaveOneOutDenoiser
        states = process.rates.num_states
        denoiser = parameterisation(process, pixel_network(4, states, 3), (1, 4, 4))
        classifier, scale = Classifier(states, 16), IntervalScale(2.0, 0.1, 0.8)
        x, y = torch.zeros(2, 1, 4, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
        for guided in (
            PosteriorGuidance(denoiser, scale),
            RateGuidance(denoiser, scale),
            ClassifierGuidance(denoiser, classifier, scale),
            TaylorClassifierGuidance(denoiser, classifier, scale),
        ):
            grid, times = UniformGrid(2, t_max=0.9), torch.tensor([0.5, 0.4], dtype=torch.float64)
            for sampler in (Ancestral(guided, grid), Euler(guided, grid), TauLeaping(guided, grid)):
                with torch.no_grad():
                    state = sampler.finish(sampler.step(sampler.start(x), *times, y=y), y=y)
                assert (state.x.device.type, state.x.shape) == (ABSENT, x.shape)
            assert scored(ELBO(), guided, x, torch.rand(2), y=y).shape == (2,)


def test_networks_with_their_own_classes():
    process = CTMC(GaussianTargetRates(4, 1.5, 2.0), Constant(3.0))
    denoiser = LeaveOneOutDenoiser(process, pixel_network(4, 4, 3), (1, 4, 4))
    guided = PosteriorGuidance(denoiser, ConstantScale(2.0))
    assert guided.null == {"y": 3}
    x_0 = TauLeaping(guided, UniformGrid(2)).sample(3, seeds=range(3), y=torch.tensor([0, 1, 2]))
    assert x_0.shape == (3, 1, 4, 4)
    exact = ClassifierGuidance(denoiser, Classifier(4, 16), ConstantScale(2.0), chunk=100)
    whole = ClassifierGuidance(denoiser, exact.classifier, ConstantScale(2.0))
    t, y = torch.tensor(0.4), torch.tensor([0, 1, 2])
    torch.testing.assert_close(exact(x_0, t, y=y).reverse_rates, whole(x_0, t, y=y).reverse_rates)
    # A classifier that is linear in the one-hot coding up to its softmax: the expansion is near the exact ratio.
    taylor = TaylorClassifierGuidance(denoiser, exact.classifier, ConstantScale(2.0))
    assert (taylor.log_ratio(x_0, t, y) - exact.log_ratio(x_0, t, y)).abs().max() < 0.05


def test_bad_arguments_are_named(chains):
    here, scale = chains["uniform"], ConstantScale(1.0)
    process = here.process
    with pytest.raises(ValueError, match="the network has the conditions: none; expected y among them"):
        PosteriorGuidance(LeaveOneOutDenoiser(process, pixel_network(4, 4, 0), (1, 4, 4)), scale)
    with pytest.raises(ValueError, match=r"function lists no conditions: give null, such as {'y': the null class}"):
        RateGuidance(here.denoiser(), scale)
    with pytest.raises(ValueError, match=r"null = {'y': -1}, expected a label of at least 0"):
        RateGuidance(here.denoiser(), scale, {"y": -1})
    with pytest.raises(ValueError, match="chunk = 0"):
        ClassifierGuidance(here.denoiser(), here.classifier, scale, 0)
    x, t = here.mean.noisy, torch.tensor(0.5)
    with pytest.raises(ValueError, match=r"y has the value 2, expected 0 \.\. 1"):
        ClassifierGuidance(here.denoiser(), here.classifier, scale)(x, t, y=labels(x, 2))
    with pytest.raises(ValueError, match=r"logits have shape \(16,\), expected \(16, K\)"):
        TaylorClassifierGuidance(here.denoiser(), lambda code, c: code.sum((1, 2)), scale)(x, t, y=labels(x))
    with pytest.raises(ValueError, match=r"x has shape \(16, 2, 1\)"):
        PosteriorGuidance(here.denoiser(), scale, {"y": 2})(x[..., None], t, y=labels(x))


def test_listed_jumps_have_their_law():
    rates = torch.tensor([[[0.0, 2.0, 1.0], [0.5, 0.0, 0.0]]], dtype=torch.float64)
    jumps = ListedJumps(torch.tensor([[0, 1]]), rates)
    assert jumps.exit_rates.tolist() == [[3.0, 0.5]]
    assert torch.equal(jumps.matrix(), rates)
    u = torch.rand(30_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = jumps.draw(torch.zeros(30_000, dtype=torch.int64), u)
    assert chisquare(torch.bincount(drawn)[1:].numpy(), [20_000, 10_000]).pvalue > 1e-4
    assert drawn.min() > 0


def test_labelled_networks_answer_by_label(chains):
    chain: EnumeratedCTMC = chains["uniform"].mean
    networks = [one.x0_network() for one in (*chains["uniform"].classes, chain)]
    network, t = labelled_network(networks), torch.full((16,), 0.3, dtype=torch.float64)
    for label, one in enumerate(networks):
        torch.testing.assert_close(network(chain.noisy, t, y=labels(chain.noisy, label)), one(chain.noisy, t))
    torch.testing.assert_close(network(chain.noisy, t), networks[-1](chain.noisy, t))
