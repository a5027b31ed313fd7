"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launch.pretrained import FOLDER, is_packaged

FETCHED = Path("fetched")
"""Where checkpoints from a store are copied to: their address below it, so that results come to lie beside them."""


def checkpoint_path(word: str) -> Path:
    """Where the checkpoint lies that a word stands for: a local path, a URL, which is copied here first, or
    ``pretrained``."""
    if is_packaged(word):
        return FOLDER
    if "://" not in word:
        return Path(word)
    from metagen.store import fetch

    folder = fetch(word, FETCHED, lambda text: click.echo(text, err=True))
    click.echo(f"{word} is in {folder}", err=True)
    return folder


class CheckpointPath(click.Path):
    """As ``checkpoint_path``."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(checkpoint_path(value) if isinstance(value, str) else value, param, ctx)


checkpoint_argument = click.argument("checkpoint", type=CheckpointPath())


def int_list(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """``'0,5,10'`` to ``(0, 5, 10)``: sorted, without repeats, none negative."""
    try:
        numbers = sorted({int(part) for part in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"'{value}': give whole numbers separated by commas, such as 0,5,10") from None
    if numbers[0] < 0:
        raise click.BadParameter(f"'{value}': steps cannot be negative")
    return tuple(numbers)
