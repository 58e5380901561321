"""The images that a run completes, and which of their pixels are known.

Some runs are trained to complete images (`config.model.known`): the network gets some pixels of an image, the known ones,
and draws the others. The samples of such a run need given images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from ml_collections import ConfigDict
from torch import Tensor

from ctdiff import figures, recipe
from ctdiff.data import ImageData, as_states, quantise
from ctdiff.data.photographs import open_image
from ctdiff.files import expanded
from ctdiff.runs import Run
from diffusion_core import PerSampleRandomness, stream_seed

__all__ = ["Completion", "check_unconditional", "completion_of", "mask_image", "of_images"]

_MASKS = 0x6D61736B  # the random stream of masks, which differs from those of the samples
_USUAL = 8  # the number of test images, if no images are given
_COLUMNS = 16  # about the number of columns of a picture


@dataclass(frozen=True, eq=False)
class Completion:
    """Images to complete. Their known pixels are given, and the model draws the others.

    Arguments:
        images: G images with values 0 .. S - 1, uint8 (G, C, H, W). The values of unknown pixels are not used.
        known: the known pixels, bool (G, C, H, W).
        labels: the classes of the images, (G,); None if they are not known.
    """

    images: Tensor
    known: Tensor
    labels: Tensor | None = None

    def rows(self, count: int) -> Tensor:
        """Return the index of the image that each sample completes: 0, 1, ..., G - 1, then 0 again: (count,)."""
        return torch.arange(count) % len(self.images)

    def conditions(self, config: ConfigDict, count: int) -> dict[str, Tensor]:
        """Return the arguments `given` and `known` of `Sampler.trajectory` for a number of samples."""
        rows, device = self.rows(count), config.training.device
        given = recipe.build_pixels(config).encode(self.images[rows].long())
        return {"given": given.to(device), "known": self.known[rows].to(device)}

    def laid_out(self, drawn: Tensor, num_values: int) -> tuple[Tensor, int | None]:
        """Return images for a grid, and its number of columns (None makes the grid about square).

        Each given image is shown with grey unknown pixels, and its completions follow it.

        Arguments:
            drawn: the completions (N, C, H, W). Completion i belongs to the image with the index i mod G.
            num_values: S, the number of values of a pixel.
        """
        grey = torch.where(self.known, self.images.long(), num_values // 2).to(drawn.dtype)
        count = len(self.images)
        groups = [torch.cat([grey[i : i + 1], drawn[i::count]]) for i in range(min(count, len(drawn)))]
        cells, width = figures.in_rows(groups, num_values)
        return cells, None if len(groups) == 1 else width * max(1, min(len(groups), _COLUMNS // width))


def check_unconditional(config: ConfigDict, name: object, verb: str) -> None:
    """Check that a run was trained without known pixels, so that its samples need no given images.

    Raises:
        ValueError: the run was trained with known pixels.
    """
    if (known := config.model.known.name) != "none":
        raise ValueError(
            f"{name}: config.model.known.name = {known!r}, expected none. The run completes given images, and ctdiff {verb} "
            "measures samples that are drawn without given images. ctdiff sample --given draws its completions"
        )


def of_images(config: ConfigDict, data: ImageData, chosen: Iterable[int], known: Tensor | None = None) -> Completion:
    """Complete images of a data set.

    Arguments:
        config: the configuration of a run that completes images.
        data: the images of the data set.
        chosen: the numbers of the images to complete, counted from 0.
        known: the known pixels, bool (C, H, W). None draws them with the kind of mask in the configuration. The mask of an
            image then depends only on the number of the image.
    """
    listed = list(chosen)
    images, labels = data.images[listed], None if data.labels is None else data.labels[listed]
    return Completion(images, _known(config, listed, known), labels)


def completion_of(run: Run, given: Path | Sequence[int] | None, mask: str | Path | None) -> Completion | None:
    """Return the images that a run completes, or None if the run was trained without known pixels.

    Arguments:
        run: the run.
        given: an image file, or the numbers of test images of the run's data. None means the first eight test images, or all
            if there are fewer.
        mask: the path of a picture that marks the known pixels of all given images. White is known, black is unknown. None
            means that the known pixels are chosen at random, in the same way as in the training of the run.

    Raises:
        ValueError: `given` or `mask` is set, but the run was trained without known pixels. Or an image does not exist, or has
            another size or other values than the images of the run.
        RunError: the images of the data set are not those that the run was trained on.
    """
    config = run.config
    if config.model.known.name == "none":
        for name, value in (("given", given), ("mask", mask)):
            if value is not None:
                raise ValueError(
                    f"{name} = {str(value)!r}, expected none: config.model.known.name = 'none', so {run.path} was trained "
                    "without known pixels"
                )
        return None
    known = None if mask is None else mask_image(mask, recipe.event_shape(config))
    if isinstance(given, Path):
        return Completion(_image(given, config)[None], _known(config, [0], known))
    splits = recipe.build_data(config)
    run.folder.check_data(splits)
    there = len(splits.test)
    chosen = range(min(_USUAL, there)) if given is None else given
    if not chosen or max(chosen) >= there:
        wrong = f"there is no test image {max(chosen)}" if chosen else "the list is empty"
        raise ValueError(f"given = {list(chosen)}: {wrong}, expected numbers of test images in 0 .. {there - 1}")
    return of_images(config, splits.test, chosen, known)


def mask_image(path: str | Path, event: tuple[int, int, int]) -> Tensor:
    """Read a picture that marks the known pixels: white is known, black is unknown. Return bool (C, H, W).

    Raises:
        ValueError: the file is not an image, has another size, is not black and white, or has no unknown pixel.
    """
    grey = _read(expanded(path), 1, event[1:], "mask")
    levels = grey.unique().tolist()
    if other := [level for level in levels if level not in (0, 255)]:
        raise ValueError(f"mask = {str(path)!r} has the grey level {other[0]}, expected 0 (unknown) and 255 (known) only")
    if levels == [255]:
        raise ValueError(f"mask = {str(path)!r} is white, expected black where pixels are unknown")
    return (grey == 255).expand(event)


def _known(config: ConfigDict, chosen: list[int], known: Tensor | None) -> Tensor:
    """Return the known pixels of images with these numbers: bool (G, C, H, W)."""
    shape = (len(chosen), *recipe.event_shape(config))
    if known is not None:
        return known.expand(shape)
    kind = recipe.build_known(config)
    assert kind is not None  # only runs that complete images get here
    return kind(shape, PerSampleRandomness([stream_seed(_MASKS, i) for i in chosen]))


def _image(path: Path, config: ConfigDict) -> Tensor:
    """Read an image file as values 0 .. S - 1: uint8 (C, H, W)."""
    channels, *size = recipe.event_shape(config)
    data = ImageData(_read(path, channels, size, "given")[None])
    states = quantise if config.data.quantise else as_states
    try:
        return states(data, config.data.num_values).images[0]
    except ValueError as error:
        why = f"config.data.num_values = {config.data.num_values} and config.data.quantise = {config.data.quantise}"
        raise ValueError(f"given = {str(path)!r}: {error} ({why})") from error


def _read(path: Path, channels: int, size: Iterable[int], name: str) -> Tensor:
    """Read an image file of a given size: uint8 (C, H, W).

    Raises:
        ValueError: the file does not exist, is not an image, or has another size.
    """
    if not path.is_file():
        raise ValueError(f"{name} = {str(path)!r}: there is no such file")
    pixels: Tensor = open_image(path, channels)
    if tuple(pixels.shape[-2:]) != tuple(size):
        found, expected = (" x ".join(map(str, sides)) for sides in (pixels.shape[-2:], size))
        raise ValueError(
            f"{name} = {str(path)!r} has {found} pixels (height x width), expected {expected}: the size of the run's images"
        )
    return pixels[0]
