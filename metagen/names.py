"""What runs and sweeps may be called: their names become folders, jobs and keys in a bucket."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def named(name: str) -> str:
    """``name`` as it is; raises ``ValueError`` for one that a run cannot have."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be used: give at most 100 letters, digits, dots, dashes and underscores, the first a "
            "letter or a digit, such as my-run"
        )
    return name


def name_of(stem: str) -> str:
    """The name that a file's name stands for: what a name cannot have becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:100] or "run"


Name = Annotated[str, AfterValidator(named)]
