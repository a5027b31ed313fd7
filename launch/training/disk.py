"""A run folder that cannot be written, told in one line."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metagen.errors import UserError

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


def disk_refusal(error: BaseException | None, folder: Path, resume: str) -> UserError | None:
    """What to tell the user if ``error`` says that ``folder`` cannot be written, or None if it says another thing.
    ``resume`` is the command that goes on."""
    gone = not folder.exists()
    if not isinstance(error, OSError) or not (gone or error.errno in REFUSALS):
        return None
    cure = "put it back" if gone else "free some space"
    return UserError(f"{folder}: cannot be written ({error.strerror}): {cure}, then '{resume}'")


@contextmanager
def quiet_disk_refusals(folder: Path, resume: str) -> Iterator[None]:
    """Keep TensorBoard's writing thread from printing what its next call in this thread raises as well."""
    previous = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if disk_refusal(failed.exc_value, folder, resume) is None:
            previous(failed)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous
