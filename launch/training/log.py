"""Reading a run's log, without what it takes to write one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOG = "log.jsonl"


def events(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """The log's whole lines from byte ``start`` on, each with where it ends; lines that are no JSON are skipped."""
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
