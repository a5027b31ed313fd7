"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

checkpoint_argument = click.argument("checkpoint", type=click.Path(path_type=Path))


def int_list(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """``'0,5,10'`` to ``(0, 5, 10)``: sorted, without repeats, none negative."""
    try:
        numbers = sorted({int(part) for part in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"'{value}': give whole numbers separated by commas, such as 0,5,10") from None
    if numbers[0] < 0:
        raise click.BadParameter(f"'{value}': steps cannot be negative")
    return tuple(numbers)
