"""Whether the process that drives a sweep lives, as far as one can tell from here.

On its own machine the lock that it holds tells (``metagen.lock``), and on others as far as they see it. Where no lock
tells, a file does, which it touches every few seconds. No clock is compared with another: the file counts as touched if
its time changes while it is watched from here.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metagen.background import now_and_then
from metagen.lock import is_held
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
        self.folder = folder
        self._seen, self._since = self._time(), time.monotonic()

    def lives(self, progress: Progress) -> bool | None:
        """Whether the process lives, as far as was seen up to now; None while that is open."""
        locked = is_held(self.folder)
        if locked or (locked is False and not elsewhere(progress)):
            return locked
        now = self._time()
        if now is not None and now != self._seen:
            self._seen, self._since = now, time.monotonic()
            return True
        return False if time.monotonic() - self._since > SILENT_SECONDS else None

    def _time(self) -> int | None:
        try:
            with (self.folder / HEARTBEAT).open("rb") as file:  # opening has a network file system ask its server
                return os.fstat(file.fileno()).st_mtime_ns
        except OSError:
            return None


def alive(folder: Path, progress: Progress) -> bool:
    """Whether the process that last drove the sweep lives; watches until it is known.

    Where no lock tells, that takes ``BEAT_SECONDS``, and ``SILENT_SECONDS`` if it is dead.
    """
    pulse = Pulse(folder)
    while (known := pulse.lives(progress)) is None:
        time.sleep(POLL_SECONDS)
    return known
