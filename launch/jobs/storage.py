"""Runs in a bucket: pushed while they train, pulled to go on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.training import run_folder
from metagen.background import now_and_then
from metagen.checkpoint import MANIFEST, publishing
from metagen.errors import UserError
from metagen.files import Files

PUSH_SECONDS = 15.0
CHECKPOINTS = "checkpoints"
UNKNOWN = (-1, -1)
"""Size and time of a file that an earlier session pushed, and this one pulled."""


class Bucket:
    """The runs below a URL, whole: config, log, pictures and checkpoints."""

    def __init__(self, url: str) -> None:
        self.files = Files(url)
        self._pushed: dict[str, tuple[int, int]] = {}

    def push(self, folder: Path, run: str) -> None:
        """Copy what is new in ``folder``, and remove what was pushed or pulled from here and is gone.

        A checkpoint's manifest goes last: it holds the hash of the weights, so that half a checkpoint is none.
        Raises ``OSError`` if the folder cannot be read.
        """
        names = {str(path.relative_to(folder)): path for path in _files(folder)}
        for name in sorted(names, key=lambda name: (name.endswith(MANIFEST), name)):
            try:
                stamp = names[name].stat()
                state = (stamp.st_size, stamp.st_mtime_ns)
                if self._pushed.get(name) == state:
                    continue
                content = names[name].read_bytes()
            except FileNotFoundError:  # pruned meanwhile
                continue
            self.files.write(f"{run}/{name}", content)
            self._pushed[name] = state
        gone = [name for name in self._pushed if name not in names]
        if not any(name.endswith(MANIFEST) for name in names):
            gone = []  # a run that has lost all checkpoints has not pruned them
        for name in sorted(gone, key=lambda name: (not name.endswith(MANIFEST), name)):  # the manifest first
            self.files.delete(f"{run}/{name}")
            del self._pushed[name]

    def pull(self, run: str, folder: Path) -> bool:
        """Copy the run into ``folder``, which it replaces; False if there is none."""
        names = self.files.names(run)
        if not names:
            return False
        with publishing(folder) as partial:
            for name in names:
                short = name.removeprefix(f"{run}/")
                place = run_folder.place(partial, short)
                if place is None:
                    raise UserError(f"{self.files.url}: {name} leads out of the run: remove it")
                data = self.files.read(name)
                if data is None:  # pruned meanwhile
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
                if short.startswith(f"{CHECKPOINTS}/"):  # the trainer may prune it: then it is to go there too
                    self._pushed[short] = UNKNOWN
        return True


def _files(folder: Path) -> Iterator[Path]:
    """The whole files in ``folder`` and below, while another thread adds and prunes.

    A folder that goes meanwhile is left out. One that cannot be read raises ``OSError``, and so does ``folder`` itself
    if it is not there: what is in it must not pass for removed.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError) or error.filename == str(folder):
            raise error

    for top, below, names in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not run_folder.half_written(Path(name))]
        for path in (Path(top, name) for name in names):
            if not run_folder.half_written(Path(path.name)) and path.is_file():
                yield path


@contextmanager
def pushing(bucket: Bucket, folder: Path, run: str) -> Iterator[None]:
    """Push ``folder`` now and then while the block runs, and once more at its end."""

    def push() -> None:
        if folder.exists():
            bucket.push(folder, run)

    def try_to_push() -> None:
        try:
            push()
        except (UserError, OSError) as error:  # the next one may go through; the last one must
            print(f"not saved yet: {error}", file=sys.stderr, flush=True)

    try:
        with now_and_then(PUSH_SECONDS, try_to_push):
            yield
    finally:
        push()
