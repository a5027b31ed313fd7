"""Runs in a bucket: pushed while they train, pulled to go on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from launch.training import run_folder
from metagen.checkpoint import MANIFEST, publishing
from metagen.errors import UserError
from metagen.files import Files, is_url

PUSH_SECONDS = 15.0
LOCAL = "~/.metagen/runs"
"""Where a run lies on the head while it trains, if it is kept in a bucket."""


def is_bucket(storage: str) -> bool:
    """Whether ``storage`` is a URL of a bucket, not a folder."""
    return is_url(storage) and not storage.startswith("file://")


def folder_of(storage: str) -> Path:
    """The folder that ``storage`` names."""
    return Path(storage.removeprefix("file://")).expanduser()


class Bucket:
    """The runs below a URL, whole: config, log, pictures and checkpoints."""

    def __init__(self, url: str) -> None:
        self.files = Files(url)
        self._pushed: dict[str, tuple[int, int]] = {}

    def push(self, folder: Path, run: str) -> None:
        """Copy what is new in ``folder``, and remove what is gone there.

        A checkpoint's manifest goes last: it holds the hash of the weights, so that half a checkpoint is none.
        """
        found = [
            path
            for path in folder.rglob("*")
            if path.is_file() and not run_folder.half_written(path.relative_to(folder))
        ]
        names = {str(path.relative_to(folder)): path for path in found}
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
        for name in [name for name in self._pushed if name not in names]:
            self.files.delete(f"{run}/{name}")
            del self._pushed[name]

    def pull(self, run: str, folder: Path) -> bool:
        """Copy the run into ``folder``, which it replaces; False if there is none."""
        names = self.files.names(run)
        if not names:
            return False
        with publishing(folder) as partial:
            for name in names:
                place = run_folder.place(partial, name.removeprefix(f"{run}/"))
                if place is None:
                    raise UserError(f"{self.files.url}: {name} leads out of the run: remove it")
                data = self.files.read(name)
                if data is None:  # pruned meanwhile
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
        return True


@contextmanager
def pushing(bucket: Bucket, folder: Path, run: str) -> Iterator[None]:
    """Push ``folder`` now and then while the block runs, and once more at its end."""
    done = threading.Event()

    def push_often() -> None:
        while not done.wait(PUSH_SECONDS):
            try:
                bucket.push(folder, run)
            except UserError as error:  # the next one may go through; the last one must
                print(f"not saved yet: {error}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=push_often, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if folder.exists():
            bucket.push(folder, run)
