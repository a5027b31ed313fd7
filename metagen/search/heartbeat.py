"""Whether the process that drives a sweep lives, as far as one can tell from here.

On its own machine its number tells. From another one a file does, which it touches every few seconds. No clock is
compared with another: the file counts as touched if its time changes while it is watched from here.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metagen.background import now_and_then
from metagen.search.ledger import Progress

HEARTBEAT = "heartbeat"
BEAT_SECONDS = 10.0
SILENT_SECONDS = 90.0
"""Watched for so long without a change, its process is dead. A shared folder may show what is new a minute late."""
POLL_SECONDS = 0.5


@contextmanager
def beating(folder: Path) -> Iterator[None]:
    """Touch the file in the sweep's ``folder`` while the block runs."""

    def beat() -> None:
        with suppress(OSError):  # the next may go through; if the folder is gone for good, the ledger tells
            (folder / HEARTBEAT).touch()

    beat()
    with now_and_then(BEAT_SECONDS, beat):
        yield


def elsewhere(progress: Progress) -> bool:
    """Whether another machine than this last drove the sweep."""
    return progress.host != socket.gethostname() or progress.pid is None


class Pulse:
    """Watches the process that last drove the sweep in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / HEARTBEAT
        self._seen, self._since = self._time(), time.monotonic()
        self.beats = False
        """Whether the file was touched while it was watched."""

    def dead(self, progress: Progress) -> bool:
        """Whether the process is dead, as far as was seen up to now; False while that is open."""
        if not elsewhere(progress):
            return not _exists(progress.pid or 0)
        now = self._time()
        if now is not None and now != self._seen:
            self._seen, self._since, self.beats = now, time.monotonic(), True
        return time.monotonic() - self._since > SILENT_SECONDS

    def _time(self) -> int | None:
        try:
            with self.path.open("rb") as file:  # opening has a network file system ask its server
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None


def alive(folder: Path, progress: Progress) -> bool:
    """Whether the process that last drove the sweep lives; watches until it is known.

    That takes ``BEAT_SECONDS`` for one of another machine, and ``SILENT_SECONDS`` if it is dead.
    """
    pulse = Pulse(folder)
    while not (dead := pulse.dead(progress)) and elsewhere(progress) and not pulse.beats:
        time.sleep(POLL_SECONDS)
    return not dead


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
