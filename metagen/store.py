"""Runs in an object store: their checkpoints at ``s3://`` or ``gs://``, laid out as in a run folder.

An object is there as a whole or not at all, so a checkpoint is published by writing its files and its manifest last,
and deleted by deleting its manifest first: what has no manifest is no checkpoint. Hashes in the manifest find the rest.
Nothing is cached between calls, so that many machines may read while one writes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from metagen.checkpoint import BEST, FINAL, MANIFEST, WEIGHTS, best_of, load_checkpoint, oldest_first, publishing
from metagen.errors import UserError

SCHEMES = ("s3", "gs", "file")
CONNECT_SECONDS, REQUEST_SECONDS, ATTEMPTS = 10.0, 60.0, 4


def is_url(text: str) -> bool:
    """Whether ``text`` names a store rather than a local path."""
    return "://" in text


class Store:
    """The folder at a URL. Raises ``UserError`` for what the store refuses, with its own words."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._root = _open(self.url)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if there is none of that name."""
        with self._telling("read"):
            try:
                with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                    data: bytes = stream.read()
                    return data
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        path = f"{self._root}/{name}"
        with self._telling("written"):
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
            # On a file system a reader could see half of it; in an object store it is there when it is closed.
            target = f"{path}.partial" if self._files.type_name == "local" else path
            with self._files.open_output_stream(target) as stream:
                stream.write(data)
            if target != path:
                self._files.move(target, path)

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""
        with self._telling("deleted"):
            try:
                self._files.delete_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return

    def publish(self, folder: Path) -> None:
        """Copy the local checkpoint ``folder`` to ``checkpoints/NAME``, its manifest last."""
        place = f"checkpoints/{folder.name}"
        self.delete(f"{place}/{MANIFEST}")  # one of that name: gone before its weights change
        for name in (WEIGHTS, MANIFEST):
            self.write(f"{place}/{name}", (folder / name).read_bytes())

    def checkpoints(self) -> list[str]:
        """Names of the checkpoints that have a manifest, oldest first; ``final`` is the last if it is there."""
        from pyarrow.fs import FileSelector

        with self._telling("listed"):
            where = FileSelector(f"{self._root}/checkpoints", recursive=True, allow_not_found=True)
            found = [info.path for info in self._files.get_file_info(where)]
        return oldest_first(path.split("/")[-2] for path in found if path.endswith(f"/{MANIFEST}"))

    def best(self) -> str | None:
        """The best of its checkpoints, as ``checkpoint.best_of`` says; None if none has a score."""
        return best_of({name: self.read(f"checkpoints/{name}/{MANIFEST}") or b"" for name in self.checkpoints()})

    def prune(self, keep: int) -> None:
        """Delete all step checkpoints but the ``keep`` newest and the best."""
        best = self.best()
        steps = [name for name in self.checkpoints() if name != FINAL]
        for name in steps[: max(len(steps) - keep, 0)]:
            if name != best:
                self.delete(f"checkpoints/{name}/{MANIFEST}")
                self.delete(f"checkpoints/{name}/{WEIGHTS}")

    def pull(self, name: str, run: Path) -> Path:
        """Copy checkpoint ``name`` into the local run folder ``run``; whether it is whole, loading it tells."""
        folder = run / "checkpoints" / name
        with publishing(folder) as partial:
            for file in (WEIGHTS, MANIFEST):
                data = self.read(f"checkpoints/{name}/{file}")
                if data is None:
                    raise UserError(f"{self.url}/checkpoints/{name}: {file} is missing")
                (partial / file).write_bytes(data)
        return folder

    @contextmanager
    def _telling(self, done: str) -> Iterator[None]:
        from pyarrow import ArrowException

        try:
            yield
        except (OSError, ArrowException) as error:
            why = " ".join(str(error).split())
            raise UserError(f"{self.url}: cannot be {done} ({why}): check the address and your credentials") from None


def bring_newest(store: Store, run: Path, skipped: Callable[[str], None]) -> Path | None:
    """Have the newest whole checkpoint of ``store`` in the run folder ``run`` too; None if there is none.

    Damaged ones are told to ``skipped`` and left out; one that is in ``run`` already and whole is not copied again.
    """
    for name in reversed(store.checkpoints()):
        folder = run / "checkpoints" / name
        try:
            if not _whole(folder):
                store.pull(name, run)
            load_checkpoint(folder)
            return folder
        except UserError as error:
            shutil.rmtree(folder, ignore_errors=True)
            skipped(f"skipped: {store.url}: {error}")
    return None


def fetch(url: str, into: Path, skipped: Callable[[str], None]) -> Path:
    """A local copy, below ``into``, of the checkpoint at ``url``: of a run (the newest whole one), or one by name.

    Names are those in ``RUN/checkpoints``, or ``best``. Raises ``UserError`` if there is none.
    """
    run_url, _, name = url.rstrip("/").partition("/checkpoints/")
    store = Store(run_url)
    run = into / Path(*_parts(run_url))
    if not name:
        if found := bring_newest(store, run, skipped):
            return found
        raise UserError(f"{url}: no whole checkpoint there; give the URL of a run or of RUN/checkpoints/NAME")
    if name == BEST:
        name = store.best() or BEST
    if name not in (known := store.checkpoints()):
        raise UserError(f"{url}: no such checkpoint; there are: {', '.join(known) or 'none'}")
    return store.pull(name, run)


def _whole(folder: Path) -> bool:
    try:
        load_checkpoint(folder)
    except UserError:
        return False
    return True


def _parts(url: str) -> list[str]:
    """Bucket and folders of a URL, fit for a local path."""
    parts = [part for part in url.partition("://")[2].split("/") if part]
    if not parts or any(part in (".", "..") or not part.isprintable() or "\\" in part for part in parts):
        raise UserError(f"{url}: not an address of a store: write s3://BUCKET/FOLDER")
    return parts


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise UserError(f"{url}: unknown kind of store '{scheme}': use {', '.join(f'{s}://' for s in SCHEMES)}")
    parts = _parts(url)
    from pyarrow import fs  # imported where a store is asked for: it takes a while

    path = "/".join(parts)
    try:
        if scheme == "file":
            return fs.LocalFileSystem(), f"/{path}"
        if scheme == "gs":
            return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=REQUEST_SECONDS)), path
        return _s3(fs, parts[0]), path
    except (OSError, ValueError) as error:  # no credentials, no network, no such bucket
        raise UserError(f"{url}: cannot be opened ({' '.join(str(error).split())})") from None


def _s3(fs: Any, bucket: str) -> Any:
    """S3, or what speaks its language at ``AWS_ENDPOINT_URL``; credentials as every AWS tool finds them."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )
