"""Images to complete: which images are given to a conditional run, and which of their pixels are known."""

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
from ctdiff.runs import Run, RunFolder
from diffusion_core import PerSampleRandomness, stream_seed

__all__ = ["Completion", "check_unconditional", "completion_of", "mask_image", "of_images"]

_MASKS = 0x6D61736B  # a stream of its own beside those of the samples
_USUAL = 8  # test images, unless others are given
_COLUMNS = 16  # of a picture, about


@dataclass(frozen=True, eq=False)
class Completion:
    """Images whose unknown pixels are to be drawn.

    Arguments:
        images: values 0 .. S - 1, uint8 (G, C, H, W); those of unknown pixels have no meaning.
        known: the known pixels, bool (G, C, H, W).
        labels: the classes of the images, (G,); None if they are not known.
    """

    images: Tensor
    known: Tensor
    labels: Tensor | None = None

    def rows(self, count: int) -> Tensor:
        """Return which image each chain completes, in turn: (count,)."""
        return torch.arange(count) % len(self.images)

    def conditions(self, config: ConfigDict, count: int) -> dict[str, Tensor]:
        """Return the arguments `given` and `known` of `Sampler.trajectory`, for a number of chains."""
        rows, device = self.rows(count), config.training.device
        given = recipe.build_pixels(config).encode(self.images[rows].long())
        return {"given": given.to(device), "known": self.known[rows].to(device)}

    def laid_out(self, drawn: Tensor, num_values: int) -> tuple[Tensor, int | None]:
        """Return images for a grid, and its number of columns (None makes the grid about square).

        Every given image comes first, with grey unknown pixels. Its completions follow.

        Arguments:
            drawn: the completions (N, C, H, W), of the given images in turn.
            num_values: S.
        """
        grey = torch.where(self.known, self.images.long(), num_values // 2).to(drawn.dtype)
        count = len(self.images)
        groups = [torch.cat([grey[i : i + 1], drawn[i::count]]) for i in range(min(count, len(drawn)))]
        cells, width = figures.in_rows(groups, num_values)
        return cells, None if len(groups) == 1 else width * max(1, min(len(groups), _COLUMNS // width))


def check_unconditional(config: ConfigDict, name: object, verb: str) -> None:
    """Refuse a run that completes images where its samples would need given images.

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
        config: the configuration of a conditional run.
        data: the images.
        chosen: their numbers, from 0 on.
        known: the known pixels, bool (C, H, W). None draws them by the configuration's kind of mask. The mask of an image
            depends on the number of the image only.
    """
    listed = list(chosen)
    images, labels = data.images[listed], None if data.labels is None else data.labels[listed]
    return Completion(images, _known(config, listed, known), labels)


def completion_of(run: Run, given: Path | Sequence[int] | None, mask: str | Path | None) -> Completion | None:
    """The images that a run completes; None for a run that was trained without known pixels.

    Arguments:
        run: the run.
        given: an image file, or the numbers of test images of the run's data. None is the first eight test images, or all if
            there are fewer.
        mask: the path of a picture of the known pixels, for all given images: white is known, black is unknown. None draws
            them by the kind of mask that the run was trained with.

    Raises:
        ValueError: the run was trained without known pixels, or an image does not fit the run.
        RunError: the test images are not those that the run was trained with.
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
    RunFolder(run.path).check_data(splits)
    there = len(splits.test)
    chosen = range(min(_USUAL, there)) if given is None else given
    if not chosen or max(chosen) >= there:
        wrong = f"there is no test image {max(chosen)}" if chosen else "there are no numbers"
        raise ValueError(f"given = {list(chosen)}: {wrong}, expected numbers of test images in 0 .. {there - 1}")
    return of_images(config, splits.test, chosen, known)


def mask_image(path: str | Path, event: tuple[int, int, int]) -> Tensor:
    """Read the known pixels from a picture: white is known, black is unknown. bool (C, H, W).

    Raises:
        ValueError: the file is no image, has another size, is not black and white, or leaves nothing to draw.
    """
    grey = _read(Path(path).expanduser(), 1, event[1:], "mask")
    levels = grey.unique().tolist()
    if other := [level for level in levels if level not in (0, 255)]:
        raise ValueError(f"mask = {str(path)!r} has the grey level {other[0]}, expected 0 (unknown) and 255 (known) only")
    if levels == [255]:
        raise ValueError(f"mask = {str(path)!r} is white, expected black where pixels are unknown")
    return (grey == 255).expand(event)


def _known(config: ConfigDict, chosen: list[int], known: Tensor | None) -> Tensor:
    """The known pixels of images with these numbers: bool (G, C, H, W)."""
    shape = (len(chosen), *recipe.event_shape(config))
    if known is not None:
        return known.expand(shape)
    kind = recipe.build_known(config)
    assert kind is not None  # only for conditional runs
    return kind(shape, PerSampleRandomness([stream_seed(_MASKS, i) for i in chosen]))


def _image(path: Path, config: ConfigDict) -> Tensor:
    """An image file as values 0 .. S - 1: uint8 (C, H, W)."""
    channels, *size = recipe.event_shape(config)
    data = ImageData(_read(path, channels, size, "given")[None])
    states = quantise if config.data.quantise else as_states
    try:
        return states(data, config.data.num_values).images[0]
    except ValueError as error:
        why = f"config.data.num_values = {config.data.num_values} and config.data.quantise = {config.data.quantise}"
        raise ValueError(f"given = {str(path)!r}: {error} ({why})") from error


def _read(path: Path, channels: int, size: Iterable[int], name: str) -> Tensor:
    """The pixels of an image file of a given size: uint8 (C, H, W).

    Raises:
        ValueError: there is no such file, it is no image, or it has another size.
    """
    if not path.is_file():
        raise ValueError(f"{name} = {str(path)!r}: there is no such file")
    pixels: Tensor = open_image(path, channels)
    if tuple(pixels.shape[-2:]) != tuple(size):
        found, expected = (" x ".join(map(str, sides)) for sides in (pixels.shape[-2:], size))
        raise ValueError(f"{name} = {str(path)!r} has {found} pixels (height x width), expected {expected}, as the run has")
    return pixels[0]
