"""Code that both engines share: base classes, times, randomness, guidance, the training objective and the sampling loop."""

from diffusion_core.base import Denoiser, Loss, Process, Sample, Schedule
from diffusion_core.checks import NotFiniteError
from diffusion_core.densities import GridTimes, PiecewiseTimes, learned_times
from diffusion_core.guidance import ConstantScale, GuidanceScale, IntervalScale, PowerCosineScale
from diffusion_core.importance import ImportanceTimes
from diffusion_core.inpainting import Inpainting
from diffusion_core.known import HalfMask, KnownMask, PrefixMask, RandomPixelsMask, RectangleMask
from diffusion_core.likelihood import BitsDifference, BitsPerDim, Bound
from diffusion_core.objective import Objective
from diffusion_core.randomness import (
    Generator,
    PerSampleRandomness,
    Randomness,
    SharedRandomness,
    as_randomness,
    stream_seed,
)
from diffusion_core.sampler import Sampler, State
from diffusion_core.tensors import batch_time, check_time, event_sum, per_example
from diffusion_core.times import (
    CosineGrid,
    CustomGrid,
    QuadraticGrid,
    RespacedGrid,
    ShapedGrid,
    StratifiedTimes,
    TimeGrid,
    TimeSampler,
    UniformGrid,
    UniformTimes,
)
from diffusion_core.values import readable

__all__ = [
    "BitsDifference",
    "BitsPerDim",
    "Bound",
    "ConstantScale",
    "CosineGrid",
    "CustomGrid",
    "Denoiser",
    "Generator",
    "GridTimes",
    "GuidanceScale",
    "HalfMask",
    "ImportanceTimes",
    "Inpainting",
    "IntervalScale",
    "KnownMask",
    "Loss",
    "NotFiniteError",
    "Objective",
    "PerSampleRandomness",
    "PiecewiseTimes",
    "PowerCosineScale",
    "PrefixMask",
    "Process",
    "QuadraticGrid",
    "RandomPixelsMask",
    "Randomness",
    "RectangleMask",
    "RespacedGrid",
    "Sample",
    "Sampler",
    "Schedule",
    "ShapedGrid",
    "SharedRandomness",
    "State",
    "StratifiedTimes",
    "TimeGrid",
    "TimeSampler",
    "UniformGrid",
    "UniformTimes",
    "as_randomness",
    "batch_time",
    "check_time",
    "event_sum",
    "learned_times",
    "per_example",
    "readable",
    "stream_seed",
]
