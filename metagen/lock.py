"""One process at a time works in a folder. The lock is the kernel's, which lets go of it with the process, however that
ends. It counts on this machine, and on others as far as the file system carries locks."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metagen.errors import UserError

LOCK = ".lock"


@contextmanager
def held(folder: Path, doing: str, hint: str) -> Iterator[None]:
    """Work in ``folder`` alone while the block runs; a file system that knows no locks is not kept from.

    Raises ``UserError`` if another process does: that the folder is being ``doing`` (trained, run), and a ``hint``.
    """
    try:
        file = (folder / LOCK).open("a+")
    except OSError:  # what cannot be locked cannot be written either, which tells by itself
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "another process"
            raise UserError(f"{folder}: is being {doing} by {who}: {hint}") from None
        except OSError:  # no locks there
            yield
            return
        with suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield


def is_held(folder: Path) -> bool | None:
    """Whether a process works in ``folder``, as far as is seen from here; None where no lock can tell."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return False
