"""One image as people have it: turned, transparent, deep or damaged."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from ctdiff.data import from_dataset, image_folder
from ctdiff.data.photographs import DamagedImageError, image_suffixes, to_array

from .image_files import everything, grey, levels, opened, put, write_png, write_tiff

RNG = np.random.default_rng(0)
BLACK = 0

# Which way up

UPRIGHT = np.kron(np.array([[10, 60, 110], [160, 210, 250]]), np.ones((16, 16))).astype(np.uint8)
"""Blocks that no turn and no mirror leaves alone, of the size of those of a JPEG."""

STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # where the first row and the first column are, as EXIF defines it
    1: lambda u: u,  # top, left
    2: lambda u: u[:, ::-1],  # top, right
    3: lambda u: u[::-1, ::-1],  # bottom, right
    4: lambda u: u[::-1],  # bottom, left
    5: lambda u: u.T,  # left, top
    6: lambda u: u[:, ::-1].T,  # right, top
    7: lambda u: u[::-1, ::-1].T,  # right, bottom
    8: lambda u: u[::-1].T,  # left, bottom
}
FORMATS: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": 100},
    ".png": {},
    ".tif": {},
    ".tiff": {"compression": "tiff_lzw"},
    ".webp": {"lossless": True},
}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", STORED)
def test_photographs_are_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    path = put(tmp_path / f"a{suffix}", stored, exif=exif, **FORMATS[suffix])
    off = np.abs(opened(path)[0].astype(int) - UPRIGHT)
    assert off.max() <= (2 if suffix == ".jpg" else 0)
    with Image.open(path) as one, Image.open(path) as other:
        items = everything(from_dataset([one, other]))
        assert all(np.array_equal(item[0].numpy(), opened(path)[0]) for item in items)
        assert np.array_equal(items[0, 0].numpy(), np.asarray(ImageOps.exif_transpose(one).convert("L")))


def test_an_orientation_that_cannot_be_read_leaves_the_image_as_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert np.array_equal(opened(put(tmp_path / "a.png", Image.fromarray(UPRIGHT), exif=exif))[0], UPRIGHT)
    damaged = put(tmp_path / "b.png", Image.fromarray(UPRIGHT), exif=b"Exif\0\0nothing that is EXIF")
    assert np.array_equal(opened(damaged)[0], UPRIGHT)


# What is transparent

ALPHA = np.array([[0, 51, 102], [153, 204, 255]], np.uint8)


def strokes(mode: str) -> Image.Image:
    """Black in every opacity."""
    black = Image.new("RGB" if mode == "RGBA" else "L", (3, 2), BLACK)
    black.putalpha(Image.fromarray(ALPHA))
    return black


def palette_strokes() -> Image.Image:
    """Six black entries of a palette, each of another opacity."""
    image = Image.new("P", (3, 2))
    image.putdata(list(range(6)))
    image.putpalette([0] * 18)
    return image


@pytest.mark.parametrize("ground", [0, 100, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_shows_the_ground(tmp_path: Path, ground: int, channels: int) -> None:
    files = [
        put(tmp_path / "rgba.png", strokes("RGBA")),
        put(tmp_path / "la.png", strokes("LA")),
        put(tmp_path / "rgba.webp", strokes("RGBA"), lossless=True, exact=True),
        put(tmp_path / "rgba.tif", strokes("RGBA")),
        put(tmp_path / "p.png", palette_strokes(), transparency=ALPHA.tobytes()),
    ]
    expected = ground * (1 - ALPHA / 255)
    images = [opened(file, channels, ground=ground) for file in files]
    pa = strokes("RGBA").convert("RGB").convert("P").convert("PA")  # `convert("PA")` of Pillow before 12 drops the opacity
    pa.putalpha(Image.fromarray(ALPHA))
    images += [np.atleast_3d(to_array(pa, channels, "pa", ground)).transpose(2, 0, 1)]
    for image in images:
        assert image.shape == (channels, 2, 3)
        assert np.abs(image - expected).max() <= 1


@pytest.mark.parametrize("ground", [7, 255])
def test_a_colour_that_a_file_declares_transparent(tmp_path: Path, ground: int) -> None:
    values = np.array([[0, 200], [200, 0]], np.uint8)
    shown = np.where(values == 0, ground, values)
    gif = put(tmp_path / "a.gif", Image.fromarray(values), transparency=0)
    keyed = write_png(tmp_path / "l.png", values, 8, (0,))
    colour = write_png(tmp_path / "rgb.png", np.stack([values] * 3, -1), 8, (0, 0, 0))
    deep = write_png(tmp_path / "deep.png", values.astype(int) * 257, 16, (0,))
    for path in (gif, keyed, colour, deep):
        assert np.array_equal(opened(path, ground=ground)[0], shown), path.name


def test_a_transparent_colour_of_sixteen_bits_is_cut_as_the_pixels_are(tmp_path: Path) -> None:
    values = np.zeros((2, 2, 3), int)
    values[0, 0], values[1, 1] = (1000, 2000, 65535), (65535, 2000, 1000)
    shown = opened(write_png(tmp_path / "a.png", values, 16, (1000, 2000, 65535)), 3, ground=9)
    assert shown.transpose(1, 2, 0).tolist() == [[[9, 9, 9], [0, 0, 0]], [[0, 0, 0], [255, 7, 3]]]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
)
def test_every_mode_of_eight_bits(mode: str, channels: int) -> None:
    """White is white in all of them."""
    white = Image.new("RGB", (3, 2), (255, 255, 255))
    if mode in ("LA", "PA", "RGBA"):
        image = white.convert("RGBA").convert(mode)
    elif mode in ("La", "RGBa"):
        image = white.convert("RGBA").convert(mode.upper()).convert(mode)
    else:
        image = white.convert(mode)
    array = to_array(image, channels, mode, ground=0)
    assert array.shape == ((2, 3) if channels == 1 else (2, 3, 3))
    assert array.min() >= 254


def test_grounds(tmp_path: Path) -> None:
    for i in range(2):
        put(tmp_path / f"{i}.png", strokes("RGBA"))
    assert everything(image_folder(tmp_path))[0, 0, 0].tolist() == [255, 204, 153]
    assert everything(image_folder(tmp_path, ground=0)).max() == 0
    assert everything(from_dataset([strokes("LA"), strokes("LA")], ground=0)).max() == 0
    assert everything(from_dataset([strokes("LA"), strokes("LA")])).shape == (2, 1, 2, 3)
    for ground in (-1, 256):
        with pytest.raises(ValueError, match=rf"ground = {ground}, expected a grey level 0 \.\. 255"):
            image_folder(tmp_path, ground=ground)
        with pytest.raises(ValueError, match=rf"ground = {ground}, expected"):
            from_dataset([grey(1)], ground=ground)


# More than eight bits

DEEP = np.array([[0, 255, 256, 511], [32767, 32768, 65279, 65535]])


def test_sixteen_bits_are_cut_to_their_upper_eight(tmp_path: Path) -> None:
    expected = DEEP >> 8
    pgm = tmp_path / "a.pgm"
    pgm.write_bytes(b"P5 4 2 65535\n" + DEEP.astype(">u2").tobytes())
    white_is_zero = write_tiff(tmp_path / "w.tif", 65535 - DEEP, 16, photometric=0)
    files = [
        write_png(tmp_path / "a.png", DEEP, 16),
        put(tmp_path / "b.png", Image.fromarray(DEEP.astype(np.uint16))),
        put(tmp_path / "c.tif", Image.fromarray(DEEP.astype(np.uint16))),
        write_tiff(tmp_path / "d.tif", DEEP, 16),
        write_tiff(tmp_path / "e.tif", DEEP >> 4, 12),
        white_is_zero,
        pgm,
    ]
    for path in files:
        assert np.array_equal(opened(path)[0], expected), path.name
    colour = np.stack([DEEP, DEEP[::-1], 65535 - DEEP], -1)
    assert np.array_equal(opened(write_png(tmp_path / "rgb.png", colour, 16), 3), (colour >> 8).transpose(2, 0, 1))
    item = Image.fromarray(DEEP.astype(np.uint16))
    assert everything(from_dataset([item, item]))[0].tolist() == [expected.tolist()]


def test_floats_in_the_unit_interval(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)
    assert opened(put(tmp_path / "a.tif", Image.fromarray(values)))[0].tolist() == [[0, 64], [128, 255]]
    for wrong in (255 * values, values - 1, values * np.float32("nan")):
        with pytest.raises(ValueError, match=r"b\.tif has floats .*, expected 0 \.\. 1"):
            opened(put(tmp_path / "b.tif", Image.fromarray(wrong)))


def test_every_suffix_that_pillow_decodes(tmp_path: Path) -> None:
    assert {".jfif", ".jpe", ".jpeg", ".png", ".webp", ".tif", ".jp2", ".pbm"} <= image_suffixes()
    assert not {".eps", ".ps", ".mpg", ".h5", ".pdf", ".txt"} & image_suffixes()
    for i, suffix in enumerate((".jfif", ".JPE", ".PNG", ".TIF")):
        put(tmp_path / f"{i}{suffix}", grey(50 * i), format=None if i > 1 else "JPEG")
    assert levels(image_folder(tmp_path)) == [0, 50, 100, 150]


def test_nothing_is_run_to_decode_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript is a program, and Pillow would give it to Ghostscript."""
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"a\.png is damaged or not an image"):
        opened(tmp_path / "a.png")


# Damage


def damaged_files(folder: Path) -> list[Path]:
    whole = put(folder / "whole.png", Image.fromarray(RNG.integers(0, 256, (40, 40), dtype=np.uint8))).read_bytes()
    (folder / "whole.png").unlink()
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    jpeg = put(folder / "a.jpg", grey(3, 64)).read_bytes()
    tiff = bytearray(write_tiff(folder / "a.tif", DEEP, 16).read_bytes())
    tiff[8 + 2 + 5 * 12 + 8 : 8 + 2 + 5 * 12 + 12] = b"\xff\xff\xff\x7f"  # where the strip begins
    bomb = bytearray(whole)
    bomb[16:24] = struct.pack(">II", 60000, 60000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    contents = {
        "empty.png": b"",
        "text.png": b"hello",
        "cut.png": whole[:200],
        "flipped.png": whole[:60] + bytes(byte ^ 255 for byte in whole[60:80]) + whole[80:],
        "bomb.png": bytes(bomb),
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "head.jpg": jpeg[:30],
        "strip.tif": bytes(tiff),
        "cut.tif": bytes(tiff[:40]),
        "cut.gif": b"GIF89a\x04",
        "cut.bmp": b"BM" + bytes(20),
        "cut.webp": b"RIFF\x10\0\0\0WEBPVP8 ",
        "cut.tga": bytes(18),
        "cut.psd": b"8BPS\0\1",
        "cut.ico": b"\0\0\1\0\1\0",
        "cut.pgm": b"P5 4",
        "odd.pgm": b"P5 x y 255\n",
        "cut.sgi": b"\x01\xda\1",
    }
    for name in ("a.jpg", "a.tif"):
        (folder / name).unlink()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    put(folder / "comment.png", grey(1), pnginfo=text)
    return sorted(folder.iterdir())


def test_every_damaged_file_is_one_line_with_its_name(tmp_path: Path) -> None:
    files = damaged_files(tmp_path)
    assert len(files) == 19
    for path in files:
        with pytest.raises(DamagedImageError) as caught:
            opened(path)
        message = str(caught.value)
        assert message.startswith(f"{path} is damaged or not an image (")
        assert "\n" not in message
    with (
        Image.open(tmp_path / "cut.png") as item,
        pytest.raises(DamagedImageError, match=r"dataset\[0\] is damaged or not an image"),
    ):
        from_dataset([item])


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), struct.error("unpack"), IndexError("a\nb")])
def test_whatever_a_decoder_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    path = put(tmp_path / "a.png", grey(1))

    def load(self: Any) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(
        DamagedImageError, match=r"a\.png is damaged or not an image \((MemoryError|deep|unpack|a)\); \d+ bytes"
    ):
        opened(path)
