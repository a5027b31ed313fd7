"""Runs in a bucket: pushed while they train, pulled to go on. S3, Google and Azure through pyarrow."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metagen.checkpoint import MANIFEST, publishing
from metagen.errors import UserError

PUSH_SECONDS = 15.0
LOCAL = "~/.metagen/runs"
"""Where a run lies on the head while it trains, if it is kept in a bucket."""


def is_bucket(storage: str) -> bool:
    """Whether ``storage`` is a URL of a bucket, not a folder."""
    return "://" in storage and not storage.startswith("file://")


def folder_of(storage: str) -> Path:
    """The folder that ``storage`` names."""
    return Path(storage.removeprefix("file://")).expanduser()


class Bucket:
    """The runs below a URL."""

    def __init__(self, url: str) -> None:
        from pyarrow import ArrowException
        from pyarrow.fs import FileSystem

        self.url = url
        self.errors = (OSError, ArrowException)
        with self._told("opened"):
            self.system, self.root = FileSystem.from_uri(url)
        self._pushed: dict[str, tuple[int, int]] = {}

    def push(self, folder: Path, run: str) -> None:
        """Copy what is new in ``folder``, and remove what is gone there.

        A checkpoint's manifest goes last: it holds the hash of the weights, so that half a checkpoint is none.
        """
        found = [path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder))]
        names = {str(path.relative_to(folder)): path for path in found}
        with self._told("written"):
            for name in sorted(names, key=lambda name: (name.endswith(MANIFEST), name)):
                try:
                    stamp, data = names[name].stat(), names[name].read_bytes
                    state = (stamp.st_size, stamp.st_mtime_ns)
                    if self._pushed.get(name) == state:
                        continue
                    content = data()
                except FileNotFoundError:  # pruned meanwhile
                    continue
                place = f"{self.root}/{run}/{name}"
                self.system.create_dir(place.rpartition("/")[0], recursive=True)
                with self.system.open_output_stream(place) as stream:
                    stream.write(content)
                self._pushed[name] = state
            for name in [name for name in self._pushed if name not in names]:
                self.system.delete_file(f"{self.root}/{run}/{name}")
                del self._pushed[name]

    def pull(self, run: str, folder: Path) -> bool:
        """Copy the run into ``folder``, which it replaces; False if there is none."""
        from pyarrow.fs import FileSelector, FileType

        with self._told("read"):
            top = f"{self.root}/{run}"
            infos = self.system.get_file_info(FileSelector(top, recursive=True, allow_not_found=True))
            files = [info.path for info in infos if info.type == FileType.File]
            if not files:
                return False
            with publishing(folder) as partial:
                for path in files:
                    place = partial / path[len(top) + 1 :]
                    if not place.resolve().is_relative_to(partial.resolve()):
                        raise UserError(f"{self.url}: {path} leads out of the run: remove it")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with self.system.open_input_stream(path) as stream:
                        place.write_bytes(stream.read())
        return True

    def reach(self) -> None:
        """Raise ``UserError`` unless the bucket answers."""
        with self._told("reached"):
            self.system.get_file_info(self.root)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except self.errors as error:
            first = " ".join(str(error).split())[:200]
            raise UserError(f"{self.url}: cannot be {what} ({first}): check its name and your credentials") from None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


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
