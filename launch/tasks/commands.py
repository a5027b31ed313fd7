"""``metagen tasks``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from launch.options import CheckpointPath


@click.group()
def tasks() -> None:
    """List, show and sort the image sets that tasks are drawn from."""


def _data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--channels", type=click.Choice(["1", "3"]), default="1", show_default=True),
        click.option("--image-size", type=click.IntRange(8, 512), default=28, show_default=True),
        click.option("--data", default="pictograms", show_default=True, help="A source's name, a folder or an .npz."),
    ):
        command = option(command)
    return command


@tasks.command("list")
@_data_options
def list_tasks(data: str, image_size: int, channels: str) -> None:
    """Classes, images and splits of a data set.

    Also where its split comes from, and what was left out.

    \b
    Example:
      metagen tasks list --data my_folder
    """
    from launch.tasks.sheets import print_list

    print_list(data, image_size, int(channels))


@tasks.command("show")
@_data_options
@click.option("--split", type=click.Choice(["train", "valid", "test", "all"]), default="train", show_default=True)
@click.option("--classes", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--images", type=click.IntRange(min=1), default=12, show_default=True, help="Images of each class.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("tasks.png"), show_default=True)
def show(
    data: str, image_size: int, channels: str, split: str, classes: int, images: int, seed: int, out: Path
) -> None:
    """A contact sheet: some classes, some images of each.

    \b
    Example:
      metagen tasks show --split test --out test_classes.png
    """
    from launch.tasks.sheets import draw_sheet

    draw_sheet(data, image_size, int(channels), split, classes, images, seed, out)


@tasks.command("categories")
@_data_options
@click.option("--checkpoint", type=CheckpointPath(), help="Sort by this run's categories instead of finding new ones.")
@click.option("--most", type=click.IntRange(2, 8), default=8, show_default=True)
@click.option("--shots", type=click.IntRange(min=1), default=5, show_default=True, help="Images of a support set.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("categories.png"), show_default=True)
def categories(
    data: str, image_size: int, channels: str, checkpoint: Path | None, most: int, shots: int, seed: int, out: Path
) -> None:
    """Sort tasks into categories by what they look like.

    Prints a table and draws a map of the classes. Categories are found in the training classes; how many, up to --most,
    is what the silhouette is best at. A run finds its own with --set categories.most=8.

    \b
    Example:
      metagen tasks categories --out categories.png
    """
    from launch.tasks.categories import show_categories

    show_categories(data, image_size, int(channels), checkpoint, most, shots, seed, out)
