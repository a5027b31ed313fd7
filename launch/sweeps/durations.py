"""Times on the command line: ``90s``, ``30m``, ``8h``."""

from __future__ import annotations

import re
from typing import Any

import click

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
FORM = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


class Seconds(click.ParamType):  # type: ignore[type-arg]  # not generic in older versions of click
    """A time with its unit, as seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = FORM.fullmatch(str(value))
        if found is None or not float(found[1]):
            self.fail(f"'{value}': give a number and its unit, such as 90s, 30m or 8h", param, ctx)
        return float(found[1]) * UNITS[found[2]]


SECONDS = Seconds()


def short(seconds: float) -> str:
    """``5400`` to ``1.5 h``."""
    for unit, size in (("h", 3600.0), ("m", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.3g} {'min' if unit == 'm' else unit}"
    return f"{seconds:.0f} s"
