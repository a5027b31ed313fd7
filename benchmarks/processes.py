"""Processes of this machine, from /proc: who descends from whom, and who is an actor."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process, as it was when it was looked at."""

    pid: int
    parent: int
    state: str
    """A letter as in ps: T for one that is stopped."""
    title: str

    @property
    def is_actor(self) -> bool:
        return self.title.startswith("ray::Actor")


def processes() -> list[Process]:
    """All that are there; not those that have ended and wait for their parent to notice."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
                title = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended meanwhile
                continue
            if state not in "ZX":
                found.append(Process(int(path.name), int(parent), state, title))
    return found


def descendants(roots: Collection[int]) -> list[Process]:
    """Those that processes with the ids ``roots`` started, and those that these started."""
    everything, known = processes(), set(roots)
    while new := {one.pid for one in everything if one.parent in known} - known:
        known |= new
    return [one for one in everything if one.pid in known and one.pid not in roots]
