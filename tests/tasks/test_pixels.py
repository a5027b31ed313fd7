"""Every kind of picture becomes the same pixels."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metagen.errors import UserError
from metagen.tasks.pixels import CorruptImage, blank, decode, fit, fit_all

RAMP = np.repeat(np.arange(0, 256, 17, dtype=np.uint8)[None], 16, axis=0)  # [16, 16], 0..255


def _saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def _header_only_png(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_the_same_grey_ramp_in_any_mode_gives_the_same_pixels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RAMP.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(RAMP).convert(mode)
    assert image.mode == mode
    decoded = decode(_saved(image, tmp_path / "ramp.png"), "ramp")
    assert np.array_equal(fit(decoded, 16, 1), RAMP[None])
    assert np.array_equal(fit(decoded, 16, 3), np.stack([RAMP] * 3))


def test_one_bit_and_cmyk_pictures_are_read(tmp_path: Path) -> None:
    black_and_white = np.where(RAMP > 127, 255, 0).astype(np.uint8)
    bits = decode(_saved(Image.fromarray(black_and_white).convert("1"), tmp_path / "bits.png"), "bits")
    assert bits.mode == "1"
    assert np.array_equal(fit(bits, 16, 1), black_and_white[None])
    inks = decode(_saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "red.jpg"), "red")
    assert inks.mode == "CMYK"
    red, green, blue = fit(inks, 16, 3).reshape(3, -1).mean(1)
    assert red > 250
    assert max(green, blue) < 5


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_lossless_formats_agree(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = _saved(Image.fromarray(RAMP).convert("RGB"), tmp_path / f"ramp.{suffix}", **options)
    assert np.array_equal(fit(decode(path, "ramp"), 16, 1), RAMP[None])


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "L", "1", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_is_composited_on_white(tmp_path: Path, kind: str, channels: int) -> None:
    path = tmp_path / "clear.png"
    if kind in ("RGBA", "LA"):
        _saved(Image.new(kind, (8, 8), (0, 0, 0, 0) if kind == "RGBA" else (0, 0)), path)
    elif kind == "I;16":
        _saved(Image.fromarray(np.zeros((8, 8), np.uint16)), path, transparency=0)
    else:
        _saved(Image.new("L", (8, 8), 0).convert(kind), path, transparency=0)
    assert (fit(decode(path, "clear"), 8, channels) == 255).all()


def test_half_transparency_is_half_white() -> None:
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert set(fit(picture, 8, 1).ravel().tolist()) <= {126, 127, 128}


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    path = _saved(Image.fromarray(RAMP), tmp_path / "turned.png", exif=exif)
    assert np.array_equal(fit(decode(path, "turned"), 16, 1)[0], np.rot90(RAMP, k=-1))


def test_the_aspect_is_kept_and_the_border_colour_pads() -> None:
    wide = Image.new("RGB", (40, 20), (10, 200, 30))
    wide.paste((255, 255, 255), (10, 5, 30, 15))
    pixels = fit(wide, 20, 3)
    assert (pixels[:, [0, 4, 15, 19]].transpose(1, 2, 0) == (10, 200, 30)).all()
    white = np.argwhere((pixels == 255).all(0))
    assert white.min(0).tolist() == [8, 5]  # halved to 10 x 5 pixels or a little less, in the middle
    assert white.max(0).tolist() == [11, 14]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5), (500, 333)])
def test_any_shape_fits(size: tuple[int, int]) -> None:
    assert (fit(Image.new("L", size, 77), 28, 1) == 77).all()


def test_a_bomb_is_refused_before_decoding() -> None:
    for width, height in ((8001, 8000), (10_000, 10_000), (60_000, 60_000)):  # above our limit, and Pillow's two
        with pytest.raises(UserError, match=r"bomb\.png: more than 64 megapixels"):
            decode(io.BytesIO(_header_only_png(width, height)), "bomb.png")
    with pytest.raises(CorruptImage):  # at the limit it is decoded, and found to be empty
        decode(io.BytesIO(_header_only_png(8000, 8000)[:-20]), "empty.png")


def test_corrupt_bytes_are_one_kind_of_failure(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for suffix in ("png", "jpg", "webp", "bmp"):
        whole = _saved(Image.fromarray(noise), tmp_path / f"whole.{suffix}").read_bytes()
        for cut in (0, 1, 10, 40, len(whole) // 2):
            with pytest.raises(CorruptImage, match="cut"):
                decode(io.BytesIO(whole[:cut]), "cut")
    with pytest.raises(CorruptImage, match="unknown format"):
        decode(io.BytesIO(b"GIF89a" + bytes(100)), "cut")


def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "x.png")  # what root, who may run the tests, never meets

    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(CorruptImage, match=r"^x: not a readable .* image \(Permission denied\)$"):
        decode(tmp_path / "x.png", "x")


def test_many_pictures_fit_as_one_does() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 20, 14, 3), dtype=np.uint8)
    for size, channels in ((20, 1), (14, 3), (9, 3)):
        singles = np.stack([fit(Image.fromarray(picture), size, channels) for picture in pictures])
        assert np.array_equal(fit_all(pictures, size, channels), singles)
    grey = pictures[..., 0]
    assert np.array_equal(fit_all(grey, 9, 1), fit_all(grey[..., None], 9, 1))
    square = grey[:, :14]
    assert np.array_equal(fit_all(square, 14, 3), np.repeat(square[:, None], 3, axis=1))


def test_too_much_memory_is_a_user_error() -> None:
    with pytest.raises(UserError, match="lower image_size"):
        blank(10**13, 3, 512)
