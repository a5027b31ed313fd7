"""The README's file map names every file, and none that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def mapped(text: str) -> Iterator[str]:
    """Paths in a map whose lines are indented by two spaces a folder and begin with a name."""
    folders: list[str] = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [line.split()[0]]
        yield "".join(folders)


def test_the_file_map_is_complete() -> None:
    found = re.search(r"```text\n(metagen/ .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    there = {
        path.relative_to(ROOT).as_posix()
        for package in ("metagen", "cluster", "launch")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {path for path in mapped(found.group(1)) if path.endswith(".py")} == there
