"""The settings of a section that belong to no class of the library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffusion_core.ranges import CheckedArguments, Count, CountOrZero, NonNegative, Range, Share

__all__ = ["Interval", "Labels", "Sampling", "Saving", "Training", "Withheld"]


@dataclass(frozen=True)
class Labels(CheckedArguments):
    """Of the section `model`.

    Arguments:
        num_classes: how many classes the labels have; 0 ignores the labels.
    """

    num_classes: CountOrZero = 0


@dataclass(frozen=True)
class Interval(CheckedArguments):
    """Of the section `process`.

    Arguments:
        engine: what runs the process: discrete, a Markov chain on integers, or gaussian, Gaussian noise on real numbers.
        t_min: where the times begin. Noise below this time is invisible: it is neither trained on nor sampled through.
        t_max: where the times end: all is noise.
    """

    engine: str = "discrete"
    t_min: Annotated[float, Range(least=0, below=1)] = 0.01
    t_max: Annotated[float, Range(above=0, most=1)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.t_min < self.t_max:
            raise ValueError(f"t_min = {self.t_min!r}, t_max = {self.t_max!r}: expected t_min < t_max")


@dataclass(frozen=True)
class Withheld(CheckedArguments):
    """Of the section `loss`.

    Arguments:
        label_dropout: the share of labels that are withheld in training, so that the network can do without one.
    """

    label_dropout: Share = 0.1


@dataclass(frozen=True)
class Training(CheckedArguments):
    """The section `training`.

    Arguments:
        steps: how many steps of the optimiser.
        batch_size: how many images a step sees.
        accumulation: how many parts a batch is divided in: less memory, the same gradient.
        clip: the largest norm of a gradient; larger ones are scaled to it, against rare large steps. 0 does not clip.
        ema_decay: the share of the moving average of weights that a step keeps: 0.998 averages over about 500 steps.
        seed: keys initialisation, the order of the data and the noise, and seeds the generators of Python, numpy and torch.
        precision: that of the backbone. auto is bfloat16 on a CPU with units for it (AMX), float32 elsewhere.
        device: where to compute, such as cpu, cuda:0 or mps.
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
    """Of the section `sampler`.

    Arguments:
        steps: how many steps the sampler takes from noise to image.
        t_min: where the steps end; none is `process.t_min`, and where that is 0 the last step of a Gaussian chain, 1 / T.
        t_max: where the steps begin; none is `process.t_max`, but a sampler that steps by rates begins at 0.999 if the
            schedule's rate there is infinite or above 1e6.
        num_samples: how many images are drawn if nothing else is asked for.
    """

    steps: Count = 100
    t_min: Annotated[float, Range(least=0, below=1)] | None = None
    t_max: Annotated[float, Range(above=0, most=1)] | None = None
    num_samples: Count = 64


@dataclass(frozen=True)
class Saving(CheckedArguments):
    """The section `saving`.

    Arguments:
        checkpoint_every: steps between checkpoints, which an interrupted machine may lose.
        keep: how many checkpoints stay.
        validate_every: steps between measurements of the loss of test images.
        validation_images: how many test images these use, with the same noise every time.
        preview_every: steps between pictures of samples.
        preview_samples: how many samples such a picture has.
        preview_steps: how many steps the sampler takes for them, fewer to keep them quick.
    """

    checkpoint_every: Count = 250
    keep: Count = 2
    validate_every: Count = 250
    validation_images: Count = 500
    preview_every: Count = 500
    preview_samples: Count = 16
    preview_steps: Count = 50
