"""Per-sample streams: an example's draws depend on its seed alone."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare, kstest, norm, poisson
from torch._subclasses.fake_tensor import DataDependentOutputException

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from diffusion_core import (
    GridTimes,
    ImportanceTimes,
    Objective,
    PerSampleRandomness,
    Randomness,
    SharedRandomness,
    StratifiedTimes,
    UniformGrid,
    as_randomness,
    stream_seed,
)

from ..devices import ABSENT, fake_tensors
from ..losses import losses_of


def draws(source: Randomness, n: int) -> list[torch.Tensor]:
    rate = torch.linspace(0.5, 20, 5).expand(n, 5)
    return [source.uniform((n, 3)), source.normal((n, 2, 2)), source.poisson(rate), source.uniform((n,), torch.float64)]


def test_draws_do_not_depend_on_the_batch():
    whole = draws(PerSampleRandomness(range(8)), 8)
    parts = [draws(PerSampleRandomness(range(i, j)), j - i) for i, j in ((0, 3), (3, 8))]
    for together, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(together, torch.cat([first, second]))


def test_ragged_draws_do_not_depend_on_the_batch():
    counts = torch.tensor([3, 0, 5, 1])
    rate = torch.rand(9, 4) * 10
    whole = PerSampleRandomness(range(4))
    u, k = whole.ragged_uniform(counts), whole.ragged_poisson(rate, counts)
    for i, (a, b) in enumerate(zip(counts.cumsum(0) - counts, counts.cumsum(0), strict=True)):
        one = PerSampleRandomness([i])
        assert torch.equal(u[a:b], one.ragged_uniform(counts[i : i + 1]))
        assert torch.equal(k[a:b], one.ragged_poisson(rate[a:b], counts[i : i + 1]))


def test_split_and_padding_leave_the_streams_alone():
    whole = PerSampleRandomness(range(5)).uniform((5, 4))
    parts = PerSampleRandomness(range(5)).split(2)
    last = parts[2].padded(2)
    pieces = [parts[0].uniform((2, 4)), parts[1].uniform((2, 4)), last.uniform((2, 4))[:1]]
    assert torch.equal(whole, torch.cat(pieces))


def test_keyed_noise_is_that_of_the_global_batch():
    """Two halves of a batch, as two ranks would hold them, see the noise of the whole one."""
    whole = PerSampleRandomness.keyed(seed=7, step=3, first=0, n=6)
    halves = [PerSampleRandomness.keyed(seed=7, step=3, first=i, n=3, total=6) for i in (0, 3)]
    assert torch.equal(whole.normal((6, 2)), torch.cat([half.normal((3, 2)) for half in halves]))
    assert torch.equal(whole.stratified(6), torch.cat([half.stratified(3) for half in halves]))
    other = PerSampleRandomness.keyed(seed=7, step=4, first=0, n=6)
    assert not torch.equal(other.normal((6, 2)), PerSampleRandomness.keyed(7, 3, 0, 6).normal((6, 2)))


def test_streams_of_consecutive_seeds_are_uniform_and_unrelated():
    u = PerSampleRandomness(range(2000)).uniform((2000, 2), torch.float64)
    assert kstest(u[:, 0].numpy(), "uniform").pvalue > 1e-3
    assert abs(torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1]) < 0.1
    assert len({stream_seed(a, b) for a in range(50) for b in range(50)}) == 2500


def test_no_two_seeds_share_a_stream():
    """45886 and 67139 hash to the same low 32 bits, which is all that torch's generator keeps of a seed."""
    assert stream_seed(45886) & 0xFFFFFFFF == stream_seed(67139) & 0xFFFFFFFF
    a, b = PerSampleRandomness([45886, 67139]).uniform((2, 4))
    assert not torch.equal(a, b)


def test_stratified_numbers_fill_their_strata():
    for source in (as_randomness(torch.Generator().manual_seed(0)), PerSampleRandomness(range(10))):
        u = source.stratified(10)
        assert torch.equal((u * 10).long(), torch.arange(10))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="seed -3"):
        PerSampleRandomness([-3])
    with pytest.raises(ValueError, match="a batch of 3 examples was given 2 seeds"):
        PerSampleRandomness([0, 1]).uniform((3, 2))
    with pytest.raises(TypeError, match="per-sample seeds"):
        SharedRandomness().split(2)


class TestManyNormals:
    """Large float32 draws on the CPU come from a faster stream than torch's; its law is the same."""

    def test_law(self):
        source = SharedRandomness(torch.Generator().manual_seed(0))
        numbers = source.normal((1_000_001,)).double()
        assert kstest(numbers.numpy(), "norm").pvalue > 1e-3
        scale = len(numbers) ** 0.5
        assert abs(numbers.mean().item()) * scale < 4
        assert abs(numbers.square().mean().item() - 1) * scale < 4 * 2**0.5
        first, second = numbers[:500_000], numbers[500_001:]  # the two coordinates of the same points
        for one, other in ((first, second), (first.square(), second.square()), (numbers[:-1], numbers[1:])):
            assert abs(torch.corrcoef(torch.stack((one, other)))[0, 1].item()) * scale < 6
        for far in (2.0, 3.0, 4.0):
            expected = len(numbers) * 2 * norm.sf(far)
            assert abs((numbers.abs() > far).sum().item() - expected) < 5 * expected**0.5

    def test_the_generator_decides(self):
        one, other = (SharedRandomness(torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(one.normal((5, 7, 999)), other.normal((5, 7, 999)))
        state = one.generator.get_state()
        after = one.normal((20_000,))
        one.generator.set_state(state)
        assert torch.equal(one.normal((20_000,)), after)
        assert not torch.equal(one.normal((20_000,)), after)

    def test_small_and_double_draws_are_torch_s(self):
        for shape, dtype in (((3, 5), torch.float32), ((20_000,), torch.float64)):
            numbers = SharedRandomness(torch.Generator().manual_seed(3)).normal(shape, dtype)
            assert torch.equal(numbers, torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(3)))


class TestManyCounts:
    """Many Poisson counts of moderate means come by inversion; their law is Poisson's."""

    @pytest.mark.parametrize("mean", [0.0, 1e-6, 0.3, 1.6, 4.0, 11.0, 32.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_law(self, mean, dtype):
        means = torch.full((400, 1000), mean, dtype=dtype)
        means[::2] = 2.5  # others in the same list
        counts = SharedRandomness(torch.Generator().manual_seed(1)).poisson(means)
        assert counts.dtype == dtype
        found = counts[1::2].flatten().long().bincount().numpy()
        law = poisson(float(means[1, 0]))
        ends = [k for k in range(len(found) + 40) if 200_000 * law.cdf(k) > 20 and 200_000 * law.sf(k) > 20]
        if not ends:  # nearly all in one place
            assert found[0] >= 200_000 - 20
            return
        edges = [-1, *ends, 10_000]
        expected = [200_000 * (law.cdf(b) - law.cdf(a)) for a, b in itertools.pairwise(edges)]
        padded = [found[a + 1 : b + 1].sum() for a, b in itertools.pairwise(edges)]
        assert chisquare(padded, expected).pvalue > 1e-4

    def test_others_are_torch_s(self):
        for means in (torch.ones(100), torch.full((20_000,), 33.0)):
            one, other = (torch.Generator().manual_seed(4) for _ in range(2))
            if len(means) > 100:
                torch.randint(2**63 - 1, (), generator=other)  # the key that was not used
            assert torch.equal(SharedRandomness(one).poisson(means), torch.poisson(means, generator=other))
        for wrong in (-1.0, float("nan")):
            with pytest.raises(RuntimeError):
                SharedRandomness().poisson(torch.full((20_000,), wrong))

    def test_the_generator_decides(self):
        means = torch.rand(30, 1000, generator=torch.Generator().manual_seed(0)) * 9
        one, other = (SharedRandomness(torch.Generator().manual_seed(3)) for _ in range(2))
        first = one.poisson(means)
        assert torch.equal(first, other.poisson(means))
        assert not torch.equal(first, one.poisson(means))


class TestGeneratorsOfOneDevice:
    """A generator draws on its own device only; fake tensors do not notice, so the functions that draw are asked here."""

    @pytest.fixture
    def drawing(self, request, monkeypatch):
        """A source whose generator is on one device, the device of the data, a list of the devices drawn on; without a GPU."""
        source, target = request.param
        generator = SimpleNamespace(device=torch.device(source))
        drawn_on = []

        def checked(draw):
            def on_its_device(*args, generator, **kwargs):
                device = torch.device(kwargs["device"]) if "device" in kwargs else args[0].device
                drawn_on.append(device.type)
                assert device.type == generator.device.type, f"Expected a '{device.type}' device type for generator"
                return draw(*args, **kwargs)

            return on_its_device

        with torch.device("cpu"):
            torch.empty(0)  # torch lists what a device context redirects once, at its first use: not with what is patched here
        for name in ("rand", "randn", "randint", "poisson"):
            monkeypatch.setattr(torch, name, checked(getattr(torch, name)))
        with fake_tensors():
            yield SharedRandomness(generator), target, drawn_on

    @pytest.mark.parametrize("drawing", [("cpu", ABSENT), (ABSENT, "cpu"), (ABSENT, ABSENT)], indirect=True)
    def test_every_draw(self, drawing):
        source, device, drawn_on = drawing
        for dtype in (torch.float32, torch.float64):
            for n in (3, 20_000):
                draws = [source.uniform((n, 2), dtype, device), source.normal((n, 2), dtype, device)]
                draws.append(source.stratified(n, dtype, device))
                rate = torch.ones(n, dtype=dtype, device=device)
                draws += [source.poisson(rate), source.ragged_poisson(rate, torch.ones(n, dtype=torch.int64, device=device))]
                assert {(draw.device.type, draw.dtype) for draw in draws} == {(device, dtype)}
        assert len(drawn_on) >= 20

    @pytest.mark.parametrize("drawing", [("cpu", ABSENT), (ABSENT, ABSENT)], indirect=True)
    def test_training_and_sampling(self, drawing):
        source, device, drawn_on = drawing
        with torch.device(device):
            chain = discrete.CTMC(discrete.rates.BirthDeathRates(8), discrete.schedules.Constant(3.0))
            loo = discrete.LeaveOneOutDenoiser(chain, lambda x, t, **cond: torch.zeros(*x.shape, 8, dtype=torch.float32), (5,))
            process = continuous.GaussianProcess(continuous.CosineSchedule())
            gaussian = continuous.EpsilonDenoiser(process, lambda x, c, **cond: x, (5,))
            grid = UniformGrid(3, t_max=0.9)
            x_0, y = torch.zeros(4, 5, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
            for times in (StratifiedTimes(), ImportanceTimes(), GridTimes(grid)):
                for denoiser, data, loss in ((loo, x_0, discrete.ELBO()), (gaussian, x_0.float(), continuous.EpsilonLoss())):
                    objective = Objective(denoiser, loss, times, label_dropout=0.5, null={"y": 0})
                    value = losses_of(objective, data, source, y=y)
                    assert (value.device.type, value.shape) == (device, (4,))
            for sampler in (
                discrete.samplers.Ancestral(loo, grid),
                discrete.samplers.Euler(loo, grid),
                discrete.samplers.TauLeaping(loo, grid),
                continuous.Ancestral(gaussian, grid),
            ):
                assert sampler.sample(4, generator=source).device.type == device
            for bits_per_dim, denoiser, data in (
                (discrete.bits_per_dim, loo, x_0),
                (continuous.bits_per_dim, gaussian, x_0.float()),
            ):
                before = len(drawn_on)
                with contextlib.suppress(DataDependentOutputException):  # the numbers of its report; all has been drawn by then
                    bits_per_dim(denoiser, data, draws=4, generator=source)
                assert len(drawn_on) >= before + 3
