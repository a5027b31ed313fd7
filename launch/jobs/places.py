"""Where runs are kept: a bucket, or a folder that all machines share."""

from __future__ import annotations

import shlex
from pathlib import Path

from metagen.files import is_url

LOCAL = "~/.metagen/runs"
"""Where a run lies on the head while it trains, if it is kept in a bucket."""


def is_bucket(storage: str) -> bool:
    """Whether ``storage`` is a URL of a bucket, not a folder."""
    return is_url(storage) and not storage.startswith("file://")


def folder_of(storage: str) -> Path:
    """The folder that ``storage`` names on this machine."""
    return Path(storage.removeprefix("file://")).expanduser()


def folder_there(storage: str) -> str:
    """The same folder on another machine, as a word for its shell: a ``~`` is the home of the user there."""
    home, slash, rest = storage.removeprefix("file://").partition("/")
    if home == "~":
        return f'"$HOME"{slash}{shlex.quote(rest) if rest else ""}'
    return shlex.quote(f"{home}{slash}{rest}")
