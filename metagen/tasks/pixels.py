"""From any picture to uint8 [C, size, size]: decode, flatten, square, resize, polarity."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from metagen.errors import UserError
from metagen.tasks.config import Polarity
from metagen.tasks.imageset import Images, ImageSet

MOST_PIXELS = 64_000_000
MIDDLE = 127
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


class CorruptImage(Exception):
    """The bytes are no readable image: an expected failure, which callers count or turn into a ``UserError``."""


def decode(source: Path | BinaryIO, name: str) -> Image.Image:
    """Decode a PNG, JPEG, WebP or BMP and turn it upright as its EXIF orientation says.

    Raises ``CorruptImage`` if it cannot be decoded and ``UserError``, before decoding, if it declares more
    than 64 megapixels. ``name`` is used in messages.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(source, formats=FORMATS)  # reads the header only
    except Image.DecompressionBombError:
        raise _too_large(name) from None
    except Exception as error:  # Pillow's parsers raise nearly anything on hostile bytes
        raise CorruptImage(f"{name}: not a readable PNG, JPEG, WebP or BMP image ({_reason(error)})") from None
    with image:
        if image.width * image.height > MOST_PIXELS:
            raise _too_large(name)
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
        except Exception as error:
            raise CorruptImage(f"{name}: cannot be decoded ({_reason(error)})") from None
    return upright


def _too_large(name: str) -> UserError:
    return UserError(f"{name}: more than {MOST_PIXELS // 10**6} megapixels; make it smaller or remove it")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"  # its own message repeats the path
    if isinstance(error, OSError) and error.strerror:  # so does that of a file that may not be read
        return error.strerror
    return str(error).split("\n")[0][:100] or type(error).__name__


def flatten(image: Image.Image, channels: int) -> Image.Image:
    """Any mode to 'L' or 'RGB', with transparency composited on white and 16 bits scaled to 8."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255 in some versions.
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        grey = ((levels + 128) // 257).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[levels == transparent] = 255
        image = Image.fromarray(grey)
    elif image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image.convert("L" if channels == 1 else "RGB")


def fit(image: Image.Image, size: int, channels: int) -> Images:
    """uint8 [channels, size, size]: the whole picture, its aspect kept, padded with its border's median colour."""
    picture = flatten(image, channels)
    # Resized first and padded after: padding a 1 x 60,000 picture first would take gigabytes.
    scale = size / max(picture.size)
    inner = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if picture.size != inner:
        whole = picture.width % inner[0] == 0 and picture.height % inner[1] == 0
        resized = picture.resize(inner, Image.Resampling.BOX if whole else Image.Resampling.LANCZOS)
    else:
        resized = picture
    if inner != (size, size):
        canvas = Image.new(picture.mode, (size, size), border_colour(picture))
        canvas.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
        resized = canvas
    pixels = np.asarray(resized).reshape(size, size, channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def border_colour(image: Image.Image) -> tuple[int, ...]:
    """The median, a channel, of the outermost pixels of an 'L' or 'RGB' image."""
    width, height = image.size
    edges = [(0, 0, width, 1), (0, height - 1, width, height), (0, 0, 1, height), (width - 1, 0, width, height)]
    channels = len(image.getbands())
    pixels = np.concatenate([np.asarray(image.crop(edge)).reshape(-1, channels) for edge in edges])
    return tuple(int(level) for level in np.median(pixels, axis=0))


def blank(count: int, channels: int, size: int) -> Images:
    """uint8 [count, channels, size, size], to be filled; raises ``UserError`` if there is no memory for it."""
    try:
        return np.empty((count, channels, size, size), dtype=np.uint8)
    except MemoryError:
        gigabytes = count * channels * size * size / 1e9
        raise UserError(
            f"{count} images at {size}x{size} need {gigabytes:.0f} GB of memory: lower image_size"
        ) from None


def fit_all(pictures: Images, size: int, channels: int) -> Images:
    """uint8 [N, H, W] or [N, H, W, 1 or 3] to uint8 [N, channels, size, size], as ``fit`` does for one."""
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    if pictures.shape[1:3] == (size, size) and pictures.shape[3] in (1, channels):
        filled = blank(len(pictures), channels, size)
        filled[:] = pictures.transpose(0, 3, 1, 2)  # broadcasts grey to RGB
        return filled
    filled = blank(len(pictures), channels, size)
    for index, picture in enumerate(pictures):
        # fromarray reads [H, W] as grey.
        filled[index] = fit(Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture), size, channels)
    return filled


def border_level(images: Images) -> float:
    """The median of the outermost pixels of all of ``images [N, C, H, W]``: above ``MIDDLE`` the ground is bright."""
    return float(np.median(_borders(images)))


def _borders(images: Images) -> Images:
    """The outermost pixels of each image, uint8 [N, C, 2 H + 2 W]."""
    edges = [images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]]
    return np.concatenate(edges, axis=-1)


def with_polarity(images: Images, polarity: Polarity) -> tuple[Images, tuple[str, ...]]:
    """The images [N, C, H, W], inverted or not as ``polarity`` says, and a note for ``ImageSet.notes``."""
    if polarity == "keep":
        return images, ()
    if polarity == "invert":
        return np.invert(images), ("polarity invert: images were inverted",)
    borders = _borders(images)
    median = float(np.median(borders))
    bright = int((np.median(borders, axis=(1, 2)) > MIDDLE).sum())
    turn = median > MIDDLE
    others, ground = (len(images) - bright, "dark") if turn else (bright, "bright")
    also = f", also {others} of {len(images)} on a {ground} ground" if others else ""
    done = "inverted" if turn else "kept"
    note = f"polarity auto: images were {done} (the median of the border is {median:g}){also}"
    return np.invert(images) if turn else images, (note,)


def in_polarity(images: ImageSet, polarity: Polarity) -> ImageSet:
    """``images`` as ``polarity`` asks, with a note that says what was done."""
    pixels, notes = with_polarity(images.images, polarity)
    return replace(images, images=pixels, notes=(*images.notes, *notes), inverted=pixels is not images.images)
