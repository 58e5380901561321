"""The settings of the sections that are no arguments of a class of the library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffusion_core.ranges import CheckedArguments, Count, CountOrZero, NonNegative, Range, Share
from diffusion_core.times import Early, Late

__all__ = ["Interval", "Labels", "Sampling", "Saving", "Training", "Withheld"]


@dataclass(frozen=True)
class Labels(CheckedArguments):
    """Settings of the section `model`.

    Arguments:
        num_classes: the number of classes of the labels; 0 ignores the labels.
    """

    num_classes: CountOrZero = 0


@dataclass(frozen=True)
class Interval(CheckedArguments):
    """Settings of the section `process`.

    Arguments:
        engine: the kind of process: discrete, a Markov chain on integers, or gaussian, Gaussian noise on real numbers.
        t_min: the first time. The noise at earlier times is invisible, so they are used neither in training nor in sampling.
        t_max: the last time, at which x_t is noise.
    """

    engine: str = "discrete"
    t_min: Early = 0.01
    t_max: Late = 1.0


@dataclass(frozen=True)
class Withheld(CheckedArguments):
    """Settings of the section `loss`.

    Arguments:
        label_dropout: the share of labels that are left out in training, so that the network also works without a label.
    """

    label_dropout: Share = 0.1


@dataclass(frozen=True)
class Training(CheckedArguments):
    """The section `training`.

    Arguments:
        steps: the number of steps of the optimiser.
        batch_size: the number of images in a step.
        accumulation: the number of parts that a batch is divided into. More parts need less memory, and give the same gradient.
        clip: the largest norm of a gradient. A larger gradient is scaled to this norm, against rare large steps. 0 means no
            clipping.
        ema_decay: the decay of the moving average of the weights. 0.998 averages over about 500 steps.
        seed: the seed of the initialisation, of the order of the data, of the noise, and of the generators of Python, numpy and
            torch.
        precision: the precision of the backbone. `auto` means bfloat16 on a CPU with units for it (AMX), and float32 elsewhere.
        device: the device that computes, for example `cpu`, `cuda:0` or `mps`.
    """

    steps: Count = 1500
    batch_size: Count = 64
    accumulation: Count = 1
    clip: NonNegative = 1.0
    ema_decay: Annotated[float, Range(least=0, below=1)] = 0.998
    seed: Annotated[int, Range(least=0, below=2**64)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "cpu"


@dataclass(frozen=True)
class Sampling(CheckedArguments):
    """Settings of the section `sampler`.

    Arguments:
        steps: the number of steps from noise to image.
        t_min: the time where the steps end; none means `process.t_min`, or 1 / T if `process.t_min` is 0 and the process is
            Gaussian.
        t_max: the time where the steps begin; none means `process.t_max`. But if the rate of the schedule is infinite or above
            1e6 at this time, a sampler that uses rates begins at the time 0.999, except with the absorbing
            parameterisation.
        num_samples: the default number of images to draw.
    """

    steps: Count = 100
    t_min: Early | None = None
    t_max: Late | None = None
    num_samples: Count = 64


@dataclass(frozen=True)
class Saving(CheckedArguments):
    """The section `saving`.

    Arguments:
        checkpoint_every: the number of steps between checkpoints. A machine that fails loses at most so many steps.
        keep: the number of checkpoints that are kept.
        validate_every: the number of steps between measurements of the loss on test images.
        validation_images: the number of test images for this loss; their noise is the same every time.
        preview_every: the number of steps between pictures of samples.
        preview_samples: the number of samples in such a picture.
        preview_steps: the number of steps of the sampler for such a picture; few steps are fast.
    """

    checkpoint_every: Count = 250
    keep: Count = 2
    validate_every: Count = 250
    validation_images: Count = 500
    preview_every: Count = 500
    preview_samples: Count = 16
    preview_steps: Count = 50
