"""Exponentials that flush what is too small: against float64, derivatives included."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion_core.distributions.numerics import flushed_exp, log_sum

DTYPES = [(torch.float32, -87.0, 3e-7), (torch.float64, -700.0, 1e-15)]


@pytest.mark.parametrize(("dtype", "lowest", "close"), DTYPES)
def test_flushed_exp(dtype, lowest, close):
    x = torch.cat(
        [torch.linspace(2 * lowest, 20, 4001, dtype=torch.float64), torch.tensor([-math.inf, math.inf, math.nan, 0.0])]
    )
    x = x.to(dtype)
    found, exact = flushed_exp(x), x.double().exp()
    kept = x > lowest + 0.01
    assert (found[x < lowest] == 0).all()
    assert found[-4] == 0  # of minus infinity
    assert found[-3] == math.inf
    assert found[-2].isnan()
    finite = kept & x.isfinite()
    assert ((found[finite].double() / exact[finite]).log().abs() <= close).all()
    for given, out in ((x, torch.empty_like(x)), (x.clone(),) * 2):
        assert flushed_exp(given, out=out) is out
        torch.testing.assert_close(out, found, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("dtype", "lowest", "close"), DTYPES)
def test_its_gradient_is_itself(dtype, lowest, close):
    x = torch.linspace(1.5 * lowest, 5, 301, dtype=dtype).requires_grad_()
    found = flushed_exp(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(gradient, found)


@pytest.mark.parametrize(("dtype", "lowest", "close"), DTYPES)
def test_log_sum(dtype, lowest, close):
    x = (300 * torch.randn(3, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)
    x[0, 0], x[:, 1] = -math.inf, -math.inf
    x[:, 2] = -1000.0
    x.requires_grad_()
    found, exact = log_sum(x), torch.logsumexp(x.detach().double(), 0)
    assert found[1] == -math.inf
    rest = torch.arange(500) != 1
    torch.testing.assert_close(found.double()[rest], exact[rest], rtol=close, atol=close)
    (gradient,) = torch.autograd.grad(found[rest].sum(), x)
    torch.testing.assert_close(gradient.double()[:, rest], x.detach().double().softmax(0)[:, rest], rtol=1e-4, atol=1e-30)
    assert torch.autograd.gradcheck(log_sum, x.detach().double()[:, 3:20].div(100).requires_grad_())
