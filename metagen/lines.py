"""Files of JSON lines that grow: every line is a whole event or is skipped, whatever kill cut one short."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metagen.errors import UserError
from metagen.values import strict_json


def append(path: Path, event: str, values: Mapping[str, Any]) -> None:
    """Append one line with ``time`` (UTC) and ``event``; raises ``UserError`` if the disk refuses.

    The file is opened for each line: events are far apart, and nothing is left open.
    """
    line = strict_json({"time": datetime.now(UTC).isoformat(), **values, "event": event})
    try:
        with path.open("ab+") as file:
            if file.tell() and not _ends_whole(file):  # what a kill cut short is not to spoil this line
                file.write(b"\n")
            file.write(line.encode() + b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}): free some space, then resume") from None


def events(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The whole lines from byte ``start`` on, each with where it ends; lines that are no events are skipped."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                return
            start += len(line)
            try:
                value = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            if isinstance(value, dict) and "event" in value:
                yield start, value


def _ends_whole(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
