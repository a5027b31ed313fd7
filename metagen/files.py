"""Files at a URL: ``s3://``, ``gs://``, ``abfs://`` and ``file://`` through pyarrow, with errors in one line.

Nothing is cached between calls, so that many machines may read while one writes. Nothing here loads torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from metagen.errors import UserError

AZURE = ("abfs", "abfss")
SCHEMES = ("s3", "gs", *AZURE, "file")
CONNECT_SECONDS, REQUEST_SECONDS, ATTEMPTS = 10.0, 15.0, 4
"""How long S3 may be silent, and how often it is asked again: a store that does not answer costs a minute."""
GCS_SECONDS = 60.0
T = TypeVar("T")

_unanswered: set[Future[Any]] = set()


def is_url(text: str) -> bool:
    """Whether ``text`` names a store rather than a local path."""
    return "://" in text


def unanswered() -> bool:
    """Whether a call to a store was left behind by Ctrl-C: pyarrow lets no process end before its calls have."""
    return bool(_unanswered)


class Files:
    """The folder at a URL. Raises ``UserError`` for what the store refuses, with its own words. Ctrl-C is heard."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._root = _waited_for(lambda: _open(self.url))

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if there is none of that name."""

        def read() -> bytes | None:
            try:
                with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                    data: bytes = stream.read()
                    return data
            except FileNotFoundError:
                return None

        return self._ask("read", read)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        path = f"{self._root}/{name}"

        def write() -> None:
            self._files.create_dir(path.rpartition("/")[0], recursive=True)
            # On a file system a reader could see half of it; in an object store it is there when it is closed.
            target = f"{path}.partial" if self._files.type_name == "local" else path
            with self._files.open_output_stream(target) as stream:
                stream.write(data)
            if target != path:
                self._files.move(target, path)

        self._ask("written", write)

    def delete(self, name: str) -> None:
        """Delete a file if it is there."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self._files.delete_file(f"{self._root}/{name}")

        self._ask("deleted", delete)

    def names(self, folder: str) -> list[str]:
        """Names of the files below ``folder``, in it and in its folders; none if there is no such folder."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(f"{self._root}/{folder}", recursive=True, allow_not_found=True)
        infos = self._ask("listed", lambda: self._files.get_file_info(selector))
        return sorted(info.path[len(self._root) + 1 :] for info in infos if info.type == FileType.File)

    def reach(self) -> None:
        """Raise ``UserError`` unless the store answers."""
        self._ask("reached", lambda: self._files.get_file_info(self._root))

    def _ask(self, done: str, call: Callable[[], T]) -> T:
        from pyarrow import ArrowException

        try:
            return _waited_for(call)
        except (OSError, ArrowException) as error:
            why = " ".join(str(error).split())
            raise UserError(f"{self.url}: cannot be {done} ({why}): check the address and your credentials") from None


def _waited_for(call: Callable[[], T]) -> T:
    """What ``call`` gives, from a thread of its own: pyarrow hears no signal, however long a store is silent."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    try:
        threading.Thread(target=work, daemon=True).start()
        return answer.result()
    except KeyboardInterrupt:
        _unanswered.add(answer)
        answer.add_done_callback(_unanswered.discard)
        raise


def parts_of(url: str) -> list[str]:
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
    parts = parts_of(url)
    from pyarrow import fs  # imported where a store is asked for: it takes a while

    path = "/".join(parts)
    try:
        if scheme == "file":
            return fs.LocalFileSystem(), f"/{path}"
        if scheme == "gs":
            return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=GCS_SECONDS)), path
        if scheme in AZURE:  # the account stands in the address: abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/FOLDER
            opened: tuple[Any, str] = fs.FileSystem.from_uri(url)
            return opened
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
