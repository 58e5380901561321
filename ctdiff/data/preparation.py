"""Prepares the images of a source for training: resizes and quantises them, selects a share, and makes batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from torch import Tensor

from ctdiff.data.batches import Batches, Encoding, Flip, Rotation
from ctdiff.data.images import Splits
from ctdiff.data.transforms import as_states, fraction, quantise, resized
from diffusion_core.ranges import CheckedArguments, Range

__all__ = ["Preparation"]

Sides: TypeAlias = Annotated[tuple[int, ...], Range(least=1)]


@dataclass(frozen=True)
class Preparation(CheckedArguments):
    """Settings of the section `data`: how the images of a source are prepared.

    Arguments:
        image_size: height and width, or one number for both; images of another size are resized with antialiasing.
        channels: 1 is grey, 3 is RGB.
        num_values: S, the number of values that a pixel can have.
        quantise: whether 256 grey levels are quantised to num_values levels; False if the images already have these levels.
        rotation: the largest angle of a random rotation of each training image, in degrees. A few degrees help if there are
            few images.
        flip: whether to mirror each training image with probability 1/2. Use it for photographs, not for digits.
        fraction: the share of the training set that is used, for studies with little data.
    """

    image_size: Sides = (28, 28)
    channels: Literal[1, 3] = 1
    num_values: Annotated[int, Range(least=2, most=256)] = 256
    quantise: bool = True
    rotation: Annotated[float, Range(least=0, most=180)] = 0.0
    flip: bool = False
    fraction: Annotated[float, Range(above=0, most=1)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image_size) not in (1, 2):
            raise ValueError(f"image_size = {self.image_size!r}, expected one number or two")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image_size[0], self.image_size[-1]

    def prepared(self, splits: Splits, seed: int) -> Splits:
        """Return the images of a source as states 0 .. S - 1.

        Arguments:
            splits: the images of the source.
            seed: the seed of the choice of images, if `fraction` is below 1.

        Raises:
            ValueError: the images have another number of channels, or all pixels of the training images have the same value.
        """
        if splits.train.shape[0] != self.channels:
            raise ValueError(f"the images have {splits.train.shape[0]} channels, config.data.channels = {self.channels}")
        train, states = fraction(splits.train, self.fraction, seed), quantise if self.quantise else as_states
        splits = Splits(train, splits.test).map(lambda part: states(resized(part, self.size), self.num_values))
        low, high = (int(value) for value in splits.train.images.aminmax())
        if low == high:
            raise ValueError(
                f"every pixel of the training images is {low} of config.data.num_values = {self.num_values} values, expected "
                "two or more: if the images already have the values 0 .. num_values - 1, use config.data.quantise = False"
            )
        return splits

    def batches(self, images: Tensor, labels: Tensor | None, batch_size: int, seed: int, encode: Encoding | None) -> Batches:
        """Return the endless sequence of training batches. The arguments are those of `Batches`."""
        rotation, flip = Rotation(self.rotation) if self.rotation else None, Flip() if self.flip else None
        return Batches(images, labels, batch_size, seed, rotation, flip, encode)
