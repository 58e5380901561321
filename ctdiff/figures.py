"""Pictures: grids of samples, the reverse process as rows or as an animation, tables of grids, the loss curve.

With S values, the value k is shown as the grey level 255 k / (S - 1). A masked pixel has the state S. It has no grey level and
is shown in blue.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ctdiff.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "grid_png",
    "image_pngs",
    "in_rows",
    "loss_curve",
    "save_animation",
    "save_figure",
    "save_grid",
    "save_table",
    "tile",
    "to_pixels",
]

_MASK_COLOUR = (70, 105, 150)
_GAP = 2  # pixels between images
_SIDE = 56  # images are magnified by a whole number to about this side
_FRAME, _LAST_FRAME = 60, 2000  # milliseconds of a frame of an animation, and of the last one
_CELL = 2.4  # inches of a table's cell, at _DPI dots an inch
_DPI = 120


def to_pixels(states: Tensor, num_values: int) -> Tensor:
    """Convert states to RGB pixels: 0 .. S - 1, or S for a mask, (N, C, H, W) -> uint8 (N, 3, H, W)."""
    states = states.long()  # the product overflows bytes
    grey = (states.clamp(max=num_values - 1) * 255 / (num_values - 1)).round().to(torch.uint8)
    colour = torch.tensor(_MASK_COLOUR, dtype=torch.uint8).reshape(1, 3, 1, 1)
    rgb = grey.expand(-1, 3, -1, -1)
    return torch.where(states.expand(-1, 3, -1, -1) >= num_values, colour, rgb)


def tile(pixels: Tensor, columns: int) -> Tensor:
    """Put images in a grid, row by row: uint8 (N, 3, H, W) -> (3, rows (H + gap) + gap, columns (W + gap) + gap)."""
    # torchvision.utils.make_grid differs: it drops the border of a single image, and the empty columns of a short row.
    n, channels, height, width = pixels.shape
    rows = -(-n // columns)
    sheet = torch.full((channels, rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = (i // columns) * (height + _GAP) + _GAP, (i % columns) * (width + _GAP) + _GAP
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def _sheet(states: Tensor, num_values: int, columns: int | None) -> Any:
    """Return a magnified PIL image of states (N, C, H, W) in a grid. If `columns` is None, the grid is about square."""
    from PIL import Image

    pixels = to_pixels(states, num_values)
    factor = max(1, _SIDE // max(pixels.shape[-2:]))
    pixels = pixels.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    sheet = tile(pixels, columns or max(1, round(len(pixels) ** 0.5)))
    return Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy())


def image_pngs(states: Tensor, num_values: int) -> Iterator[bytes]:
    """Yield a PNG of each image in its own size, as bytes. Grey images without masked pixels have one channel, others three.

    Arguments:
        states: integers 0 .. S - 1, or S for a mask, (N, C, H, W).
        num_values: S, the number of values of a pixel.
    """
    from PIL import Image

    grey = states.shape[1] == 1 and bool((states < num_values).all())
    for pixels in to_pixels(states, num_values):
        picture, buffer = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()), io.BytesIO()
        (picture.convert("L") if grey else picture).save(buffer, "PNG")
        yield buffer.getvalue()


def grid_png(states: Tensor, num_values: int, columns: int | None = None) -> bytes:
    """Return a PNG of images in a grid, as bytes. The arguments are those of `save_grid`."""
    buffer = io.BytesIO()
    _sheet(states, num_values, columns).save(buffer, "PNG")
    return buffer.getvalue()


def save_grid(path: str | Path, states: Tensor, num_values: int, columns: int | None = None) -> None:
    """Write a PNG of images in a grid.

    Arguments:
        path: the file.
        states: integers 0 .. S - 1, or S for a mask, (N, C, H, W).
        num_values: S, the number of values of a pixel.
        columns: the number of images in a row; None means a grid that is about square.
    """
    _write(path, grid_png(states, num_values, columns))


def in_rows(rows: Sequence[Tensor], num_values: int) -> tuple[Tensor, int]:
    """Arrange several sets of images as the rows of a grid. Shorter rows are filled with white images.

    Arguments:
        rows: the images of each row, integers (n, C, H, W). The number n may differ from row to row.
        num_values: S, the number of values of a pixel.

    Returns:
        The images of the grid, row by row, and the number of columns.
    """
    longest = max(len(row) for row in rows)
    white = num_values - 1
    padded = [torch.cat([row, row.new_full((longest - len(row), *row.shape[1:]), white)]) for row in rows]
    return torch.cat(padded), longest


def save_animation(path: str | Path, frames: Sequence[Tensor], num_values: int, columns: int | None = None) -> None:
    """Write a GIF of a grid of images, which repeats without end. The last frame is shown longer.

    Arguments:
        path: the file.
        frames: the images of each frame, integers 0 .. S - 1, or S for a mask, (N, C, H, W).
        num_values: S, the number of values of a pixel.
        columns: the number of images in a row; None means a grid that is about square.
    """
    sheets = [_sheet(frame, num_values, columns) for frame in frames]
    # A GIF has 256 colours a frame. They are exact for grey levels, and the nearest ones for colours.
    grey = all((frame < num_values).all() for frame in frames) and frames[0].shape[1] == 1
    first, *others = [sheet.convert("L") if grey else sheet.quantize(256) for sheet in sheets]
    durations, buffer = [_FRAME] * len(others) + [_LAST_FRAME], io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    _write(path, buffer.getvalue())


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a PNG of a figure of matplotlib, with 120 dots an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    figure.set_dpi(_DPI)
    FigureCanvasAgg(figure).print_png(buffer)  # `figure.savefig` draws everything twice
    _write(path, buffer.getvalue())


def save_table(path: str | Path, pictures: Sequence[Sequence[Tensor]], rows: Sequence[str], columns: Sequence[str]) -> None:
    """Write a PNG of pictures in a table, with a heading for each row and column.

    Arguments:
        path: the file.
        pictures: the pictures of each row of the table, uint8 (3, H, W), for example from `tile`.
        rows: the headings on the left.
        columns: the headings on top.

    Raises:
        ValueError: the numbers of pictures and headings differ.
    """
    from matplotlib.figure import Figure  # without pyplot, which would choose a display

    found, expected = [len(row) for row in pictures], [len(columns)] * len(rows)
    if found != expected or not rows or not columns:
        raise ValueError(f"the rows have {found} pictures, expected {len(rows)} rows of {len(columns)}, not empty")
    figure = Figure(figsize=(_CELL * len(columns), _CELL * len(rows)), layout="constrained")
    for line, row, heading in zip(figure.subplots(len(rows), len(columns), squeeze=False), pictures, rows, strict=True):
        for axes, picture in zip(line, row, strict=True):
            axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(heading)
        if row is pictures[0]:
            for axes, name in zip(line, columns, strict=True):
                axes.set_title(name)
    save_figure(path, figure)


def loss_curve(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write a PNG of the loss over steps.

    Arguments:
        path: the file.
        records: lines of metrics.jsonl: {"step": ..., "loss": ...} and {"step": ..., "validation_loss": ...}.
    """
    from matplotlib.figure import Figure  # without pyplot, which would choose a display

    training = [(record["step"], record["loss"]) for record in records if record.get("loss") is not None]
    validation = [
        (record["step"], record["validation_loss"]) for record in records if record.get("validation_loss") is not None
    ]
    figure = Figure(figsize=(7, 4))
    # There is room for labels such as 2.25 x 10^-3. To compute the room would take as long as to draw the figure.
    axes = figure.add_axes((0.16, 0.12, 0.82, 0.85))
    if training:
        steps, losses = zip(*training, strict=True)
        axes.plot(steps, losses, color="0.8", linewidth=0.8, label="training, every step")
        axes.plot(steps, _smoothed(losses), color="tab:blue", label="training, smoothed")
    if validation:
        steps, losses = zip(*validation, strict=True)
        axes.plot(steps, losses, color="tab:orange", marker="o", markersize=3, label="test images, averaged weights")
    values = sorted(loss for _, loss in [*training, *validation])
    if values and values[0] > 0:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss per pixel")
    if values:
        axes.legend()
    save_figure(path, figure)


def _write(path: str | Path, content: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), content)


def _smoothed(values: Sequence[float], memory: float = 0.95) -> list[float]:
    """Return the exponential moving average of values, with bias correction."""
    smooth, total, weight = [], 0.0, 0.0
    for value in values:
        total = memory * total + (1 - memory) * value
        weight = memory * weight + (1 - memory)
        smooth.append(total / weight)
    return smooth
