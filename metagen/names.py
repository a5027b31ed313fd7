"""What runs and sweeps may be called: their names become folders, jobs and keys in a bucket."""

from __future__ import annotations

import re

from metagen.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def checked(name: str) -> str:
    """``name`` as it is; raises ``UserError`` for one that nothing can begin under."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"name: {name!r} cannot be used: give at most 100 letters, digits, dots, dashes and underscores, the first "
            "a letter or a digit, such as my-run"
        )
    return name


def name_of(stem: str) -> str:
    """The name that a file's name stands for: what a name cannot have becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:100] or "run"
