"""The one place where the names of a configuration meet classes.

Every kind of part has a table from names to builders and a function `build_*`. To name a new
class in configurations, add a line to its table (and its arguments to `configs.defaults`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from ml_collections import ConfigDict
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import continuous_diffusion as continuous
import discrete_diffusion as discrete
from backbones import (
    Backbone,
    CategoricalHead,
    EmbeddedInput,
    Head,
    LogisticMixtureHead,
    OneHotInput,
    OrdinalInput,
    PixelInput,
    PixelLogits,
    TruncatedLogisticHead,
    UNet,
    UViT,
)
from continuous_diffusion import samplers as gaussian_samplers
from ctdiff import data
from ctdiff.training import Batch, BatchSequence, ConstantFactor, CosineFactor, parameter_groups
from ctdiff.training.precision import HalfPrecision, resolved_precision
from diffusion_core import (
    CosineGrid,
    Denoiser,
    Loss,
    Objective,
    Process,
    QuadraticGrid,
    Sampler,
    StratifiedTimes,
    TimeGrid,
    TimeSampler,
    UniformGrid,
    UniformTimes,
)
from discrete_diffusion import rates, samplers, schedules

__all__ = [
    "EncodedBatches",
    "States",
    "build_batches",
    "build_data",
    "build_denoiser",
    "build_grid",
    "build_loss",
    "build_network",
    "build_objective",
    "build_optimizer",
    "build_pixels",
    "build_process",
    "build_sampler",
    "build_scheduler",
    "build_times",
    "choices",
    "event_shape",
]

Builder: TypeAlias = Callable[[ConfigDict], Any]

GAUSSIAN = "gaussian"
"""The process of the continuous engine; every other name is a rate matrix."""

PATH_SOURCES = ("idx", "array", "folder")
"""Sources that are nothing without `data.path`; the others have a place of their own."""

RATE_SAMPLERS = ("euler", "tau_leaping")
"""Samplers whose first step needs the reverse rates at the time it begins at."""

_LAST_FINITE = 0.999  # where they begin instead, with a thousandth of the way to the data behind them
_LARGEST_RATE = 1e6

SOURCES: dict[str, Builder] = {
    "embedded_mnist": lambda c: data.embedded_mnist(),
    "mnist": lambda c: data.torchvision_mnist(c.path or "data", c.download),
    "fashion_mnist": lambda c: data.torchvision_fashion_mnist(c.path or "data", c.download),
    "idx": lambda c: data.idx_folder(c.path),
    "array": lambda c: data.array_file(c.path, c.test_fraction),
    "folder": lambda c: data.image_folder(c.path, c.channels, _size(c), c.test_fraction),
}
BACKBONES: dict[str, type[Backbone]] = {"unet": UNet, "uvit": UViT}
HEADS: dict[str, Callable[[int, ConfigDict], Head]] = {
    "categorical": lambda channels, c: CategoricalHead(channels, c.data.num_values),
    "truncated_logistic": lambda channels, c: TruncatedLogisticHead(channels, c.data.num_values),
    "logistic_mixture": lambda channels, c: LogisticMixtureHead(channels, c.data.num_values, c.model.components),
}
INPUTS: dict[str, Callable[[ConfigDict, int, bool], PixelInput]] = {
    "ordinal": lambda c, states, masked: OrdinalInput(c.data.channels, masked),
    "one_hot": lambda c, states, masked: OneHotInput(c.data.channels, states),
    "embedded": lambda c, states, masked: EmbeddedInput(c.data.channels, states, c.model.embedding),
}
RATES: dict[str, Callable[[int, ConfigDict], rates.RateMatrix]] = {
    "gaussian_target": lambda n, c: rates.GaussianTargetRates(n, c.gaussian_target.sigma_r, c.gaussian_target.Q, c.scale),
    "uniform": lambda n, c: rates.UniformRates(n, c.scale),
    "absorbing": lambda n, c: rates.AbsorbingRates(n),
    "birth_death": lambda n, c: rates.BirthDeathRates(n, c.scale),
}
SCHEDULES: dict[str, Builder] = {
    "constant": lambda c: schedules.Constant(c.constant.rate),
    "exponential": lambda c: schedules.Exponential(c.exponential.a, c.exponential.b),
    "geometric": lambda c: schedules.Geometric(c.geometric.sigma_min, c.geometric.sigma_max),
    "linear": lambda c: schedules.LinearSurvival(),
    "log_linear": lambda c: schedules.LogLinear(c.log_linear.eps),
    "polynomial": lambda c: schedules.PolynomialSurvival(c.polynomial.power),
    "cosine": lambda c: schedules.CosineSurvival(),
    "cosine_amplitude": lambda c: schedules.CosineAmplitude(),
}
GAUSSIAN_SCHEDULES: dict[str, Builder] = {
    "linear": lambda c: continuous.LinearSchedule(c.gaussian.T),
    "cosine": lambda c: continuous.CosineSchedule(c.gaussian.T),
}
DENOISERS: dict[str, Callable[..., Denoiser]] = {
    "x0": discrete.X0Denoiser,
    "leave_one_out": discrete.LeaveOneOutDenoiser,
    "absorbing": discrete.AbsorbingDenoiser,
    "epsilon": continuous.EpsilonDenoiser,
}
LOSSES: dict[str, Builder] = {
    "cross_entropy": lambda c: discrete.WeightedSum((discrete.CrossEntropy(),), (1 / _dimensions(c),)),
    "elbo": lambda c: discrete.WeightedSum((discrete.ELBO(),), (1 / _dimensions(c),)),
    "elbo_and_cross_entropy": lambda c: discrete.WeightedSum(
        (discrete.ELBO(), discrete.CrossEntropy()), (1 / _dimensions(c), c.loss.cross_entropy_weight / _dimensions(c))
    ),
}
GAUSSIAN_LOSSES: dict[str, Builder] = {"epsilon": lambda c: continuous.EpsilonLoss()}
TIMES: dict[str, Callable[[float, float], TimeSampler]] = {"stratified": StratifiedTimes, "uniform": UniformTimes}
OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], ConfigDict], Optimizer]] = {
    "adamw": lambda groups, c: torch.optim.AdamW(groups, c.lr, c.betas, fused=True),
    "adam": lambda groups, c: torch.optim.Adam(groups, c.lr, c.betas, fused=True),
    "sgd": lambda groups, c: torch.optim.SGD(groups, c.lr, c.momentum),
}
FACTORS: dict[str, Callable[[ConfigDict, int], ConstantFactor]] = {
    "constant": lambda c, steps: ConstantFactor(c.warmup),
    "cosine": lambda c, steps: CosineFactor(c.warmup, steps, c.final),
}
GRIDS: dict[str, Callable[[int, float, float], TimeGrid]] = {
    "uniform": UniformGrid,
    "quadratic": QuadraticGrid,
    "cosine": CosineGrid,
}
LEAPS: dict[str, Callable[[], samplers.Leap]] = {"ordinal": samplers.OrdinalLeap, "categorical": samplers.CategoricalLeap}
SAMPLERS: dict[str, Callable[[Any, TimeGrid, ConfigDict], samplers.Sampler]] = {
    "ancestral": lambda d, grid, c: samplers.Ancestral(d, grid, c.sub_batch, c.argmax),
    "euler": lambda d, grid, c: samplers.Euler(d, grid, c.sub_batch, c.argmax),
    "tau_leaping": lambda d, grid, c: samplers.TauLeaping(d, grid, LEAPS[c.leap](), c.sub_batch, c.argmax),
}
VARIANCES: dict[str, Callable[[], gaussian_samplers.ReverseVariance]] = {
    "small": gaussian_samplers.FixedSmall,
    "large": gaussian_samplers.FixedLarge,
}
GAUSSIAN_SAMPLERS: dict[str, Callable[[Denoiser, TimeGrid, ConfigDict], Sampler]] = {
    "ancestral": lambda d, grid, c: gaussian_samplers.Ancestral(d, grid, VARIANCES[c.variance](), c.clip or None, c.sub_batch),
    "ddim": lambda d, grid, c: gaussian_samplers.DDIM(d, grid, c.eta, c.clip or None, c.sub_batch),
}


def choices(config: ConfigDict) -> dict[str, Collection[Any]]:
    """What each key may be, given the process: {"model.name": ("unet", "uvit"), ...}."""
    process = config.process.name
    gaussian = process == GAUSSIAN
    readings = {GAUSSIAN: ("epsilon",), "absorbing": ("absorbing",)}.get(process, ("x0", "leave_one_out"))
    tables: dict[str, Collection[Any]] = {
        "process.name": (*RATES, GAUSSIAN),
        "process.schedule": GAUSSIAN_SCHEDULES if gaussian else SCHEDULES,
        "data.name": SOURCES,
        "data.channels": (1, 3),
        "data.num_values": range(2, 257),
        "model.name": BACKBONES,
        "model.parameterisation": readings,
        "model.head": HEADS,
        "model.inputs": INPUTS,
        "loss.name": GAUSSIAN_LOSSES if gaussian else LOSSES,
        "loss.times": TIMES,
        "training.precision": ("auto", "float32", "bfloat16"),
        "optimizer.name": OPTIMIZERS,
        "optimizer.schedule": FACTORS,
        "sampler.name": GAUSSIAN_SAMPLERS if gaussian else SAMPLERS,
        "sampler.grid": GRIDS,
        "sampler.leap": ("categorical",) if process == "absorbing" else LEAPS,  # a mask is no number to add jumps to
        "sampler.variance": VARIANCES,
    }
    return tables


def _size(config: ConfigDict) -> tuple[int, int]:
    """Height and width of `config.data`; one number is a square."""
    sides = config.image_size
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise ValueError(f"config.data.image_size = {sides}, expected one or two positive numbers")
    return sides[0], sides[-1]


def event_shape(config: ConfigDict) -> tuple[int, int, int]:
    """The shape of one image (C, H, W)."""
    return (config.data.channels, *_size(config.data))


def _dimensions(config: ConfigDict) -> int:
    """D: the losses of the discrete engine are sums over so many dimensions.

    Divided by D, the learning rate, the clipping norm and the curve mean the same at every image size.
    """
    channels, height, width = event_shape(config)
    return channels * height * width


def build_data(config: ConfigDict) -> data.Splits:
    """The training and the test images, as states 0 .. S-1.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: the data are not there, or not what the configuration says.
    """
    settings = config.data
    splits: data.Splits = SOURCES[settings.name](settings)
    if splits.train.shape[0] != settings.channels:
        raise ValueError(f"the images have {splits.train.shape[0]} channels, config.data.channels = {settings.channels}")
    train = data.fraction(splits.train, settings.fraction, config.training.seed)
    size, states = _size(settings), data.quantise if settings.quantise else data.as_states
    splits = data.Splits(train, splits.test).map(lambda part: states(data.resized(part, size), settings.num_values))
    if config.model.num_classes and not 0 < splits.num_classes <= config.model.num_classes:
        raise ValueError(f"the images have {splits.num_classes} classes, config.model.num_classes = {config.model.num_classes}")
    return splits


@dataclass(frozen=True)
class States:
    """The discrete engine's pixels, which are states as they are; `PixelScale` is its Gaussian twin."""

    def encode(self, k: Tensor) -> Tensor:
        """Pixels to what the process takes: unchanged."""
        return k

    def decode(self, x: Tensor) -> Tensor:
        """What a sampler returns to pixels: unchanged."""
        return x


def build_pixels(config: ConfigDict) -> States | continuous.PixelScale:
    """The way between pixels 0 .. S-1 and what the process runs on."""
    return continuous.PixelScale(config.data.num_values) if config.process.name == GAUSSIAN else States()


@dataclass(frozen=True)
class EncodedBatches:
    """Batches as the process takes them: pixels encoded, labels only where the network wants them.

    Arguments:
        batches: pixels (B, C, H, W) and labels.
        pixels: the encoding.
        labelled: whether labels are passed on.
    """

    batches: BatchSequence
    pixels: States | continuous.PixelScale
    labelled: bool

    def __getitem__(self, step: int) -> Batch:
        x_0, y = self.batches[step]
        return self.pixels.encode(x_0), y if self.labelled else None


def build_batches(config: ConfigDict, images: data.ImageData) -> EncodedBatches:
    """The endless sequence of training batches."""
    rotation = data.Rotation(config.data.rotation) if config.data.rotation else None
    batches = data.Batches(images.images, images.labels, config.training.batch_size, config.training.seed, rotation)
    return EncodedBatches(batches, build_pixels(config), config.model.num_classes > 0)


def build_process(config: ConfigDict) -> Process:
    """The forward process."""
    settings = config.process
    if settings.name == GAUSSIAN:
        process: Process = continuous.GaussianProcess(GAUSSIAN_SCHEDULES[settings.schedule](settings))
    else:
        process = discrete.CTMC(RATES[settings.name](config.data.num_values, settings), SCHEDULES[settings.schedule](settings))
    return process.to(config.training.device)


def _build_backbone(config: ConfigDict, in_channels: int, out_channels: int) -> Backbone:
    arguments = dict(config.model[config.model.name])
    if BACKBONES[config.model.name] is UViT:
        arguments["img_size"] = _size(config.data)
    backbone = BACKBONES[config.model.name](
        in_channels=in_channels, out_channels=out_channels, num_classes=config.model.num_classes, **arguments
    )
    return HalfPrecision(backbone) if _half(config) else backbone


def _half(config: ConfigDict) -> bool:
    return resolved_precision(config.training.precision, config.training.device) == "bfloat16"


def build_network(config: ConfigDict) -> nn.Module:
    """The network, freshly initialised from torch's global random state."""
    channels, values = config.data.channels, config.data.num_values
    if config.process.name == GAUSSIAN:
        network: nn.Module = _build_backbone(config, channels, channels)
    else:
        masked = config.process.name == "absorbing"
        inputs = INPUTS[config.model.inputs](config, values + masked, masked)
        head = HEADS[config.model.head](channels, config)
        backbone = _build_backbone(config, inputs.out_channels, head.in_channels)
        network = PixelLogits(backbone, head, inputs, values, values + masked)
    # Convolutions in float32 on a CPU are fastest with the channels innermost; those in bfloat16 are not.
    layout = torch.contiguous_format if _half(config) else torch.channels_last
    return network.to(config.training.device).to(memory_format=layout)


def build_denoiser(config: ConfigDict, process: Process, network: nn.Module) -> Denoiser:
    """The configuration's reading of a network."""
    return DENOISERS[config.model.parameterisation](process, network, event_shape(config))


def build_loss(config: ConfigDict) -> Loss:
    """The training loss, per dimension."""
    loss: Loss = (GAUSSIAN_LOSSES if config.process.name == GAUSSIAN else LOSSES)[config.loss.name](config)
    return loss


def build_times(config: ConfigDict) -> TimeSampler:
    """The density of training times."""
    return TIMES[config.loss.times](config.process.t_min, config.process.t_max)


def build_objective(config: ConfigDict, denoiser: Denoiser) -> Objective:
    """The training objective."""
    classes = config.model.num_classes
    dropout = config.loss.label_dropout if classes else 0.0
    return Objective(denoiser, build_loss(config), build_times(config), dropout, classes or None)


def build_optimizer(config: ConfigDict, network: nn.Module) -> Optimizer:
    """The optimiser of a network's parameters."""
    return OPTIMIZERS[config.optimizer.name](
        parameter_groups(network.parameters(), config.optimizer.weight_decay), config.optimizer
    )


def build_scheduler(config: ConfigDict, optimizer: Optimizer) -> LambdaLR:
    """The schedule of the learning rate."""
    return LambdaLR(optimizer, FACTORS[config.optimizer.schedule](config.optimizer, config.training.steps))


def _beginning(config: ConfigDict, sampler: str) -> float:
    """`process.t_max`, or just before where a sampler would meet an infinite rate."""
    settings = config.process
    t_max = float(settings.t_max)
    if sampler not in RATE_SAMPLERS or settings.name in (GAUSSIAN, "absorbing"):  # a mask's reverse rates stay finite
        return t_max
    beta, _ = SCHEDULES[settings.schedule](settings)(torch.tensor(t_max, dtype=torch.float64))
    return t_max if beta <= _LARGEST_RATE else min(t_max, _LAST_FINITE)


def build_grid(config: ConfigDict, steps: int | None = None, name: str | None = None) -> TimeGrid:
    """The times of a sampler; its number of steps and its name are the configuration's where they are not given."""
    settings = config.sampler
    t_max = settings.t_max or _beginning(config, settings.name if name is None else name)
    return GRIDS[settings.grid](settings.steps if steps is None else steps, settings.t_min or config.process.t_min, t_max)


def build_sampler(config: ConfigDict, denoiser: Denoiser, name: str | None = None, steps: int | None = None) -> Sampler:
    """A sampler of a denoiser: the configuration's, or another one by name, with another number of steps.

    Raises:
        ValueError: the process has no sampler of this name.
    """
    settings = config.sampler
    gaussian = config.process.name == GAUSSIAN
    name = settings.name if name is None else name
    if name not in (table := GAUSSIAN_SAMPLERS if gaussian else SAMPLERS):
        raise ValueError(f"sampler = {name!r}, expected one of {', '.join(table)}")
    grid = build_grid(config, steps, name)
    if gaussian:
        return GAUSSIAN_SAMPLERS[name](denoiser, grid, settings)
    sampler = SAMPLERS[name](denoiser, grid, settings)
    if settings.corrector_steps == 0:
        return sampler
    leap, length = LEAPS[settings.leap](), settings.corrector_multiplier
    return samplers.PredictorCorrector(sampler, leap, settings.corrector_steps, length, settings.corrector_entry_time)
