"""What ``metagen tasks categories`` does: a table, and a map of classes with thumbnails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from launch.generators.evaluation import data_config
from launch.output import check_picture, write_picture
from launch.table import table_of
from launch.tasks.sheets import load, print_described
from metagen import tasks
from metagen.checkpoint import load_checkpoint
from metagen.errors import UserError
from metagen.picture import MARGIN, PAPER, TEXT, thumbnail
from metagen.seeding import numpy_generator
from metagen.tasks.categories import Sorter, find_categories
from metagen.tasks.episodes import to_float
from metagen.tasks.imageset import SPLITS, Images, ImageSet, Indices
from metagen.tasks.pixels import MIDDLE, border_level
from metagen.wording import counted

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#9a8c00")
"""One a category; told apart by colour-blind people too (Okabe & Ito 2008, with two greys in place of yellow)."""
WIDTH, HEIGHT, EDGE = 1200, 900, 36
FONT = ImageFont.load_default(15)
SHOWN = 3
"""Classes named for each category, the nearest to its centroid."""


def show_categories(
    data: str, image_size: int, channels: int, checkpoint: Path | None, most: int, shots: int, seed: int, out: Path
) -> None:
    """Find categories in the training classes, or take a checkpoint's, and sort all classes by them."""
    check_picture(out, "--out")
    if checkpoint is None:
        images = load(data, image_size, channels)
        sorter = Sorter(find_categories(images, shots, most, seed))
    else:
        config = load_checkpoint(checkpoint).config
        if config.categories.found is None:
            raise UserError(f"{checkpoint}: trained without categories: leave --checkpoint out, or give another")
        images = tasks.load(data_config(config.data, Path(data)))
        sorter = Sorter(config.categories.found)
    members = images.members("all")
    points = np.stack([sorter.standardised(to_float(images.class_images(int(i)))).numpy() for i in members])
    distances = ((points[:, None] - sorter.centroids.numpy()) ** 2).sum(2)
    categories = distances.argmin(1).astype(np.int64)
    print_described(_table(images, members, categories, distances), images)
    write_picture(_map(images, members, points, categories, sorter, seed), out, "--out")
    print(f"wrote {out}")


def _table(images: ImageSet, members: Indices, categories: Indices, distances: NDArray[np.float32]) -> Table:
    table = table_of(f"{images.name}: {distances.shape[1]} categories of tasks")
    for column in ("category", *SPLITS, "ink"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("nearest to its centre", overflow="fold")  # alone gives way in a narrow terminal
    for category in range(distances.shape[1]):
        mine = np.flatnonzero(categories == category)
        codes = images.split[members[mine]]
        counts = [str(int((codes == code).sum())) for code in SPLITS.values()]
        if not len(mine):  # it was found in support sets, which are fewer images than a class's
            table.add_row(str(category), *counts, "-", "no class as a whole, some support sets")
            continue
        ink = np.mean([_ink(images.class_images(int(i))) for i in members[mine]])
        nearest = mine[np.argsort(distances[mine, category])[:SHOWN]]
        names = ", ".join(images.classes[i] for i in members[nearest])
        table.add_row(str(category), *counts, f"{ink:.0%}", names)
    return table


def _ink(images: Images) -> float:
    """The share of ink in the images of a class: of bright on a dark ground, or of dark on a bright one."""
    level = float(images.mean()) / 255
    return 1 - level if border_level(images) > MIDDLE else level


def _map(
    images: ImageSet, members: Indices, points: NDArray[np.float32], categories: Indices, sorter: Sorter, seed: int
) -> Image.Image:
    """Classes where their embeddings lie on the two axes of most variance: a dot each, a thumbnail where there is
    room, in the colour of the category."""
    from sklearn.decomposition import PCA

    flat = PCA(2, svd_solver="full").fit(points)
    low, high = np.percentile(flat.transform(points), (0.5, 99.5), axis=0)  # a stray class is not to squeeze the rest
    legend = _legend(np.bincount(categories, minlength=sorter.count))
    top = legend[-1][1] + 24
    room = np.array([WIDTH - EDGE - 2 * MARGIN, HEIGHT - EDGE - top - MARGIN])
    share = ((flat.transform(points) - low) / np.maximum(high - low, 1e-6)).clip(0, 1)
    corners = np.array([MARGIN, top]) + (share * room).round()
    canvas = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(canvas)
    for (x, y), category in zip(corners + EDGE / 2, categories, strict=True):
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=COLOURS[category])
    placed: list[NDArray[np.float64]] = []
    for i in numpy_generator(seed, "map").permutation(len(members)):
        if any(np.abs(corners[i] - other).max() < EDGE for other in placed):
            continue
        placed.append(corners[i])
        x, y = map(int, corners[i])
        draw.rectangle((x, y, x + EDGE - 2, y + EDGE - 2), fill=COLOURS[categories[i]])
        canvas.paste(thumbnail(images.class_images(int(members[i]))[0], EDGE - 5), (x + 2, y + 2))
    for category, (x, y, text) in enumerate(legend):
        draw.rectangle((x, y, x + 14, y + 14), fill=COLOURS[category])
        draw.text((x + 20, y - 2), text, fill=TEXT, font=FONT)
    return canvas


def _legend(counts: Indices) -> list[tuple[int, int, str]]:
    """Where each category's entry stands, and what it says: in as many lines as they need."""
    entries: list[tuple[int, int, str]] = []
    x, y = MARGIN, MARGIN
    for category, count in enumerate(counts):
        text = f"category {category} ({counted(int(count), 'class', 'classes')})"
        wide = 20 + int(FONT.getlength(text))
        if x + wide > WIDTH - MARGIN:
            x, y = MARGIN, y + 24
        entries.append((x, y, text))
        x += wide + 24
    return entries
