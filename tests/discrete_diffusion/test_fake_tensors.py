"""Every loss and sampler step runs on a device other than the CPU: nothing looks at a value, no tensor is left on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from backbones import CategoricalHead, LogisticMixtureHead, OneHotInput, PixelLogits, TruncatedLogisticHead, UNet
from diffusion_core import QuadraticGrid
from discrete_diffusion import CTELBO, ELBO, CrossEntropy, WeightedSum
from discrete_diffusion.denoisers import AbsorbingDenoiser, Denoiser, LeaveOneOutDenoiser, X0Denoiser
from discrete_diffusion.samplers import (
    Ancestral,
    CategoricalLeap,
    Euler,
    ForwardBackward,
    MidpointTauLeaping,
    OrdinalLeap,
    PredictorCorrector,
    TauLeaping,
)

from ..devices import ABSENT, fake_tensors
from ..losses import scored

PARAMETERISATIONS = {"x0": X0Denoiser, "leave-one-out": LeaveOneOutDenoiser}


class TableNetwork(nn.Module):
    """The smallest network there is: logits looked up by the noisy value."""

    def __init__(self, states: int, values: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(states, values))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.table[x] * t.float()[:, None, None, None, None]


def check(denoiser: Denoiser, ordinal: bool) -> None:
    x_0 = torch.zeros(4, 1, 8, 8, dtype=torch.int64, device=ABSENT)
    for loss in (ELBO(), CrossEntropy(), WeightedSum((ELBO(), CrossEntropy()), (1.0, 0.1)), CTELBO(), CTELBO(True)):
        value = scored(loss, denoiser, x_0, torch.rand(4, device=ABSENT))
        assert value.requires_grad
        assert value.shape == (4,)
        assert value.device.type == ABSENT
        value.sum().backward()
    grid = QuadraticGrid(4, t_max=0.9)
    samplers = [Ancestral(denoiser, grid), Euler(denoiser, grid), TauLeaping(denoiser, grid, leap=CategoricalLeap())]
    # A head ends at the probabilities and the rates: what samplers do with them is the same for all heads.
    if isinstance(denoiser.network, TableNetwork):
        samplers.append(
            PredictorCorrector(Euler(denoiser, grid), ForwardBackward(denoiser, leap=CategoricalLeap()), entry_time=0.5)
        )
        if ordinal:
            samplers += [
                TauLeaping(denoiser, grid, leap=OrdinalLeap()),
                MidpointTauLeaping(denoiser, grid),
                PredictorCorrector(Euler(denoiser, grid), ForwardBackward(denoiser, leap=OrdinalLeap())),
            ]
    for sampler in samplers:
        state = sampler.start(x_0)
        with torch.no_grad():
            state = sampler.finish(sampler.step(state, *torch.tensor([0.5, 0.4], dtype=torch.float64, device=ABSENT)))
        assert state.x.device.type == ABSENT
        assert state.x.shape == x_0.shape


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
@pytest.mark.parametrize("name", ["uniform", "absorbing", "birth_death", "gaussian_target", "non_reversible"])
def test_every_loss_and_sampler_step_runs_on_an_absent_device(name, parameterisation, process):
    with fake_tensors(), torch.device(ABSENT):
        chain = process(name, 8)
        network = TableNetwork(chain.rates.num_states, chain.rates.data_states)
        cls = AbsorbingDenoiser if name == "absorbing" else PARAMETERISATIONS[parameterisation]
        check(cls(chain, network, (1, 8, 8)), ordinal=name != "absorbing")


@pytest.mark.parametrize("head", [CategoricalHead, TruncatedLogisticHead, LogisticMixtureHead])
@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS)
def test_every_head_runs_on_an_absent_device(head, parameterisation, process):
    with fake_tensors(), torch.device(ABSENT):
        inputs, outputs = OneHotInput(1, 8), head(1, 8)
        backbone = UNet(inputs.out_channels, outputs.in_channels, widths=(8,), blocks=1, patch_size=1, num_heads=1)
        network = PixelLogits(backbone, outputs, inputs, 8)
        check(PARAMETERISATIONS[parameterisation](process("gaussian_target", 8), network, (1, 8, 8)), ordinal=True)
