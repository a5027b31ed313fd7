"""Ray's Jobs API and the list of nodes, over HTTP with the cluster's token."""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import json
import logging
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from metagen.errors import UserError

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
SECONDS = 30.0


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, as the head knows it."""

    address: str
    alive: bool
    head: bool
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Job:
    """A job that was submitted."""

    id: str
    status: str
    entrypoint: str
    run: str
    message: str
    code: int | None
    started: float | None
    """Seconds since 1970."""
    ended: float | None


class Dashboard:
    """The head's HTTP server at ``url``, such as http://127.0.0.1:8265."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Any:
        """The JSON at ``path``; ``UserError`` if the server refuses the token, ``ConnectionError`` if none answers."""
        request = urllib.request.Request(self.url + path, headers=self.headers)
        try:
            with _opener(self.url).open(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                raise UserError(REFUSED) from None
            raise ConnectionError(f"{self.url}{path}: HTTP {error.code}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:  # the last: cut in the middle
            raise ConnectionError(f"{self.url}: {error}") from None

    def nodes(self) -> list[Node]:
        """The nodes, dead ones too."""
        found = self.get("/api/v0/nodes?detail=true&limit=10000")["data"]["result"]["result"]
        return [
            Node(
                address=str(node["node_ip"]),
                alive=node["state"] == "ALIVE",
                head=bool(node.get("is_head_node")),
                cpus=float((node.get("resources_total") or {}).get("CPU", 0)),
                gpus=float((node.get("resources_total") or {}).get("GPU", 0)),
            )
            for node in found
        ]

    def version(self) -> str:
        """The cluster's Ray."""
        return str(self.get("/api/version")["ray_version"])

    def jobs(self) -> list[Job]:
        """Submitted jobs, oldest first."""
        found = [_job(job) for job in self.get("/api/jobs/") if job.get("submission_id")]
        return sorted(found, key=lambda job: job.started or 0)

    def job(self, job_id: str) -> Job:
        """One job; raises ``UserError`` if there is none of that name."""
        found = {job.id: job for job in self.jobs()}
        if job_id not in found:
            known = ", ".join(list(found)[-5:]) or "none"
            raise UserError(f"no job '{job_id}' on the cluster; there are: {known}")
        return found[job_id]

    def submit(self, entrypoint: str, job_id: str, runtime_env: Mapping[str, Any], metadata: dict[str, str]) -> None:
        """Hand a job over; what ``runtime_env`` names is packed and uploaded. Raises as ``get`` does."""
        with _client_errors(), _without_proxy(self.url):
            self._client().submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=dict(runtime_env), metadata=metadata
            )

    def log(self, job_id: str) -> str:
        """All that a job has printed."""
        return str(self.get(f"/api/jobs/{job_id}/logs")["logs"])

    def stop(self, job_id: str) -> None:
        """Ask a job to stop: SIGTERM, and SIGKILL when its time is over. Raises as ``get`` does."""
        with _client_errors(), _without_proxy(self.url):
            self._client().stop_job(job_id)

    def follow(self, job_id: str, seen: int, show: Callable[[str], None]) -> int:
        """Show a job's log beyond its first ``seen`` characters until the job ends; gives the characters now seen.

        Raises ``ConnectionError`` with that number as its argument where the connection breaks: go on from there.
        """
        position = 0

        async def tail(stream: AsyncIterator[str]) -> None:
            nonlocal position, seen
            async for text in stream:  # the server begins at the log's start every time
                new = text[max(seen - position, 0) :]
                position += len(text)
                if new:
                    show(new)
                    seen = position

        import aiohttp
        from ray.exceptions import AuthenticationError

        try:
            with interruptible(), _without_proxy(self.url):
                asyncio.run(tail(self._client().tail_job_logs(job_id)))
        except AuthenticationError:
            raise UserError(REFUSED) from None
        except (OSError, aiohttp.ClientError, RuntimeError) as error:
            raise ConnectionError(seen) from error
        return seen

    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk"):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # uploads and closed sockets are no news
        # Nor is it that what was asked to be sent along is large.
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
        return JobSubmissionClient(self.url, headers=self.headers)


def _loopback(url: str) -> bool:
    """Whether ``url`` is one of this machine, where a tunnel begins."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _opener(url: str) -> urllib.request.OpenerDirector:
    """What opens ``url``. A proxy for all of HTTP would get the token, and reach its own loopback, not this one's."""
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if _loopback(url) else []))


@contextmanager
def _without_proxy(url: str) -> Iterator[None]:
    """The same for Ray's client, which reads the environment at every call."""
    if not _loopback(url):
        yield
        return
    before, host = os.environ.get("no_proxy"), urlsplit(url).hostname
    os.environ["no_proxy"] = ",".join(filter(None, (before or os.environ.get("NO_PROXY"), host)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C end the block: asyncio cancels a task instead, which a library may answer with another error."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, hear)
    try:
        yield
    except Exception:
        if asked:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, previous)


TOO_LARGE = "status code 413: "
REFUSED = "the cluster refuses the token: use the machine that started it, or copy its token file here"


@contextmanager
def _client_errors() -> Iterator[None]:
    """What Ray's client raises, as ``UserError``, and as ``ConnectionError`` where the connection is lost."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    try:
        yield
    except AuthenticationError:
        raise UserError(REFUSED) from None
    except RequestException as error:
        raise ConnectionError(" ".join(str(error).split())) from None
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0].rstrip(".")
        if TOO_LARGE in said:
            raise UserError(
                f"what is sent along is more than the cluster takes ({said.partition(TOO_LARGE)[2]}): put it where the "
                "head can read it, and give that path"
            ) from None
        raise UserError(f"the cluster refuses the job: {said}") from None


def _job(values: Mapping[str, Any]) -> Job:
    def seconds(key: str) -> float | None:
        return values[key] / 1000 if values.get(key) else None

    return Job(
        id=str(values["submission_id"]),
        status=str(values["status"]),
        entrypoint=str(values.get("entrypoint", "")),
        run=str((values.get("metadata") or {}).get("run", "")),
        message=str(values.get("message") or ""),
        code=values.get("driver_exit_code"),
        started=seconds("start_time"),
        ended=seconds("end_time"),
    )


def alive(nodes: list[Node]) -> Iterator[Node]:
    """The nodes that work."""
    return (node for node in nodes if node.alive)
