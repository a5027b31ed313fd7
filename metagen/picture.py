"""Grids of images as pictures: what was shown on the left, what was generated on the right."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from metagen.tasks.episodes import to_uint8

LONGEST = 48
"""Characters of a class's name beside its row: a longer one would push the images off the screen."""
GAP, MARGIN, PAPER, TEXT = 2, 10, (255, 255, 255), (40, 40, 40)
ACCENT = (214, 232, 250)
SPELT = {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L"}
"""Latin letters that Unicode does not take apart into a letter and its marks."""


def grid(
    rows: Sequence[tuple[str, Tensor, Tensor]],
    titles: tuple[str, str] = ("shown", "generated"),
    scale: int = 0,
) -> Image.Image:
    """A picture with one row a class: ``(name, shown [K, C, H, W], generated [N, C, H, W])`` in [-1, 1].

    ``scale`` enlarges each pixel; 0 chooses so that an image is about 64 pixels wide.
    """
    size = rows[0][1].shape[-1]
    scale = scale or max(1, 64 // size)
    cell = size * scale + GAP
    font = ImageFont.load_default(13)
    rows = [(_short(legible(name)), support, generated) for name, support, generated in rows]
    label = max(int(font.getlength(name)) for name, _, _ in rows) + MARGIN if any(r[0] for r in rows) else 0
    shown, made = max(len(r[1]) for r in rows), max(len(r[2]) for r in rows)
    left = MARGIN + label
    right = left + shown * cell + 2 * MARGIN
    width, height = right + made * cell + MARGIN, 2 * MARGIN + 18 + len(rows) * cell
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    top = MARGIN + 18
    for x, title in ((left, titles[0]), (right, titles[1])):
        draw.text((x, MARGIN - 2), title, fill=TEXT, font=font)
    for i, (name, support, generated) in enumerate(rows):
        y = top + i * cell
        if len(support):
            draw.rectangle((left - GAP, y - GAP, left + len(support) * cell - 1, y + cell - 1), fill=ACCENT)
        draw.text((MARGIN, y + cell / 2 - 8), name, fill=TEXT, font=font)
        for x, images in ((left, support), (right, generated)):
            for j, image in enumerate(to_uint8(images)):
                canvas.paste(_enlarged(image, scale), (x + j * cell, y))
    return canvas


def contact_sheet(rows: Sequence[tuple[str, Tensor]], scale: int = 0) -> Image.Image:
    """A picture with one row a class: ``(name, images [N, C, H, W])``."""
    return grid([(name, images, images[:0]) for name, images in rows], titles=("", ""), scale=scale)


def legible(text: str) -> str:
    """``text`` in the characters that Pillow's own font has, which are those of ASCII: it draws all others as boxes.

    Letters lose their marks, and what has no letter of ASCII is spelt by its number: ``Käse 日`` as ``Kase \\u65e5``.
    """
    return "".join(_plain(character) for character in unicodedata.normalize("NFC", text))


def _short(name: str) -> str:
    """Both ends of a name that is too long: what tells classes apart may be in either."""
    half = (LONGEST - 3) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}...{name[-half:]}"


def _plain(character: str) -> str:
    parts = unicodedata.normalize("NFKD", SPELT.get(character, character))
    letters = "".join(part for part in parts if not unicodedata.combining(part))
    return letters if letters and letters.isascii() else character.encode("ascii", "backslashreplace").decode()


def pixels(image: Image.Image) -> np.ndarray:
    """``[3, H, W]`` uint8, the form TensorBoard takes."""
    return np.asarray(image).transpose(2, 0, 1)


def save_image(image: Tensor, path: Path) -> None:
    """One image ``[C, H, W]`` in [-1, 1] as a file at its own size."""
    picture_of(image).save(path)


def picture_of(image: Tensor) -> Image.Image:
    """One image ``[C, H, W]`` in [-1, 1] at its own size."""
    return _picture(to_uint8(image[None])[0])


def thumbnail(image: np.ndarray, edge: int) -> Image.Image:
    """An image, uint8 ``[C, H, W]``, as a picture of ``edge`` x ``edge``."""
    return _picture(image).resize((edge, edge), Image.Resampling.BOX)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0], "L") if len(image) == 1 else Image.fromarray(image.transpose(1, 2, 0), "RGB")


def _enlarged(image: np.ndarray, scale: int) -> Image.Image:
    picture = _picture(image)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
