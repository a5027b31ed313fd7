from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import Tensor

from launch.policies.plot import Panel, plot
from metagen.picture import contact_sheet, grid, legible, pixels, save_image
from metagen.tasks.episodes import to_uint8


def _images(count: int, channels: int = 1, size: int = 8) -> Tensor:
    levels = torch.randint(0, 256, (count, channels, size, size), generator=torch.Generator().manual_seed(count))
    return levels / 127.5 - 1


def _holds(picture: Image.Image, image: Tensor, scale: int) -> bool:
    """Whether ``image``, enlarged, occurs in ``picture`` pixel by pixel."""
    small = np.repeat(np.repeat(to_uint8(image[None])[0].transpose(1, 2, 0), scale, 0), scale, 1)
    small = np.broadcast_to(small, (*small.shape[:2], 3))
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(picture), small.shape)[:, :, 0]
    return bool((windows == small).all(axis=(2, 3, 4)).any())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2])
def test_every_image_is_in_the_grid_unaltered(channels: int, scale: int) -> None:
    rows = [("cat", _images(3, channels), _images(4, channels)), ("owl", _images(2, channels), _images(1, channels))]
    picture = grid(rows, scale=scale)
    assert picture.mode == "RGB"
    for _, shown, made in rows:
        assert all(_holds(picture, image, scale) for image in (*shown, *made))


def test_rows_may_be_without_names_or_images() -> None:
    picture = grid([("", _images(2), _images(3)), ("", _images(2)[:0], _images(3))])
    assert picture.width > 0
    named = grid([("a long class name", _images(2), _images(3))])
    assert named.width > picture.width


def test_a_very_long_name_does_not_push_the_images_off_the_screen() -> None:
    rows = [(f"{'a' * 200}/{i}", _images(2), _images(3)) for i in range(2)]
    picture = grid(rows)
    assert picture.width < 1000
    assert picture.tobytes() != grid([(rows[0][0], *rows[0][1:]), (rows[0][0], *rows[1][1:])]).tobytes()  # told apart


def test_images_are_enlarged_to_about_64_pixels() -> None:
    widths = [grid([("", _images(1, size=size), _images(1, size=size))]).width for size in (8, 16, 28, 32, 64)]
    assert max(widths) - min(widths) <= 2 * 8
    assert grid([("", _images(1, size=128), _images(1, size=128))]).width > max(widths)


def test_a_contact_sheet_holds_every_image() -> None:
    rows = [("cat", _images(3)), ("owl", _images(1))]
    picture = contact_sheet(rows, scale=1)
    assert all(_holds(picture, image, 1) for _, images in rows for image in images)


def test_pixels_are_what_tensorboard_takes() -> None:
    picture = grid([("cat", _images(1), _images(1))])
    assert pixels(picture).shape == (3, picture.height, picture.width)
    assert pixels(picture).dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
def test_a_saved_image_reads_back_unaltered(channels: int, tmp_path: Path) -> None:
    [image] = _images(1, channels)
    save_image(image, tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as saved:
        assert saved.mode == {1: "L", 3: "RGB"}[channels]
        levels = np.asarray(saved).reshape(8, 8, channels).transpose(2, 0, 1)
    assert np.array_equal(levels, to_uint8(image[None])[0])


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("cat_2 (b)", "cat_2 (b)"),
        ("Käse", "Kase"),
        ("Ka\u0308se", "Kase"),
        ("Straße", "Strasse"),
        ("日本", "\\u65e5\\u672c"),
        ("한", "\\ud55c"),
        ("🙂", "\\U0001f642"),
        ("½", "\\xbd"),
    ],
)
def test_a_name_in_any_script_is_drawn_in_letters_and_not_in_boxes(name: str, drawn: str) -> None:
    font = ImageFont.load_default(13)
    box = bytes(font.getmask("\uffff"))
    assert legible(name) == drawn
    assert box not in [bytes(font.getmask(character)) for character in legible(name)]
    assert grid([(name, _images(1), _images(1))]) == grid([(drawn, _images(1), _images(1))])
    sizes = torch.zeros(1, 1)
    assert plot([Panel(name, {}, sizes)], [name]) == plot([Panel(drawn, {}, sizes)], [drawn])
