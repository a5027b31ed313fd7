"""What ``metagen tasks`` does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from launch.generators.evaluation import data_config
from launch.output import check_picture, write_picture
from launch.table import table_of
from metagen import tasks
from metagen.errors import UserError
from metagen.picture import contact_sheet
from metagen.seeding import numpy_generator
from metagen.tasks.config import DataConfig
from metagen.tasks.episodes import to_float
from metagen.tasks.imageset import SPLITS, ImageSet
from metagen.wording import counted


def load(data: str, image_size: int, channels: int) -> ImageSet:
    """The image set that the command line names, as training would see it."""
    form = DataConfig.parse({"image_size": image_size, "channels": channels})
    return tasks.load(data_config(form, Path(data), polarity="keep"))


def print_list(data: str, image_size: int, channels: int) -> None:
    """A table of splits, and what was left out."""
    images = load(data, image_size, channels)
    classes, count = counted(len(images.classes), "class", "classes"), counted(len(images.images), "image")
    table = table_of(f"{images.name}: {classes}, {count}")
    table.add_column("split", no_wrap=True)
    for column in ("classes", "images", "fewest", "most"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("for example", overflow="fold")  # alone gives way in a narrow terminal
    for split in SPLITS:
        members = images.members(split, 0)
        counts = images.counts[members] if len(members) else np.zeros(1, dtype=int)
        names = ", ".join(images.classes[i] for i in members[:: max(1, len(members) // 3)][:3])
        table.add_row(split, str(len(members)), str(counts.sum()), str(counts.min()), str(counts.max()), names)
    print_described(table, images)


def print_described(table: Table, images: ImageSet) -> None:
    """A table of an image set, where its split comes from, and what was left out."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(table)
    console.print()
    console.print(images.split_origin, soft_wrap=True)
    for note in images.notes:
        console.print(f"note: {note}", soft_wrap=True)


def draw_sheet(
    data: str, image_size: int, channels: int, split: str, classes: int, count: int, seed: int, out: Path
) -> None:
    """One row a class, drawn by seed."""
    check_picture(out, "--out")
    images = load(data, image_size, channels)
    members = images.members(split, 1)
    if not len(members):
        raise UserError(f"{images.name}: no classes in split '{split}': use another --split")
    chosen = np.sort(numpy_generator(seed, "contact sheet").permutation(members)[:classes])
    rows = [(images.classes[i], to_float(images.class_images(int(i))[:count])) for i in chosen]
    write_picture(contact_sheet(rows), out, "--out")
    print(f"wrote {out}")
