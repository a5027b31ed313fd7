"""The client of a cluster's dashboard: Ctrl-C, proxies, and servers that refuse or break off."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs import Dashboard, interruptible
from metagen.errors import UserError


async def _turned_into_an_error() -> None:
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        raise RuntimeError("connection closed") from None


def test_ctrl_c_while_a_log_is_followed_stays_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), interruptible():
        asyncio.run(_turned_into_an_error())
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_a_library_answers_with_an_error_stays_ctrl_c() -> None:
    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("connection closed") from None

    with pytest.raises(KeyboardInterrupt), interruptible():
        interrupted()


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="closed"), interruptible():
        raise RuntimeError("closed")


class Server(BaseHTTPRequestHandler):
    """A dashboard that knows its version alone; ``post`` says what becomes of everything that is sent to it."""

    post: int | str = 200
    heard: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers.get("Authorization")))
        if self.path == "/short":
            self._answer(200, b'{"cut": ', 1000)
        elif self.path == "/api/version":
            self._answer(200, json.dumps({"ray_version": "2.60.0"}).encode())
        else:
            self._answer(404, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if isinstance(self.post, int):
            told = {"stopped": True} if self.path.endswith("/stop") else {"submission_id": "a", "job_id": "a"}
            self._answer(self.post, json.dumps(told if self.post == 200 else self.path).encode())
        elif self.post == "cut":
            self._answer(200, b'{"stop', 1000)

    do_PUT = do_POST

    def _answer(self, code: int, body: bytes, length: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, serving: Any) -> Iterator[str]:
    monkeypatch.setattr(Server, "heard", [])
    with serving(Server) as url:
        yield url


def _work(dashboard: Dashboard, folder: Path) -> None:
    """All ways in which a request is made."""
    assert dashboard.version() == "2.60.0"
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text("seed: 1")
    dashboard.submit("true", "a", {"working_dir": str(folder)}, {})
    dashboard.stop("a")


def test_what_goes_through_a_tunnel_passes_by_every_proxy(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for before in (None, "example.org"):
        monkeypatch.delenv("no_proxy", raising=False)
        if before:
            monkeypatch.setenv("no_proxy", before)
        _work(Dashboard(server, "secret"), tmp_path / "job")
        assert os.environ.get("no_proxy") == before
    _work(Dashboard(server.replace("127.0.0.1", "localhost"), "secret"), tmp_path / "job")


def test_a_dashboard_elsewhere_is_reached_through_the_proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server)
    with pytest.raises(ConnectionError):  # this proxy knows no other pages than its own
        Dashboard("http://cluster.example:8265", None).version()
    assert Server.heard == [("http://cluster.example:8265/api/version", None)]


def test_an_answer_that_is_cut_is_a_lost_connection(server: str) -> None:
    with pytest.raises(ConnectionError):
        Dashboard(server, None).get("/short")


@pytest.mark.parametrize("how", ["close", "cut"])
def test_a_connection_lost_while_something_is_sent_is_a_lost_connection(
    server: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "post", how)
    with pytest.raises(ConnectionError) as caught:
        Dashboard(server, None).stop("a")
    assert "\n" not in str(caught.value)
    (tmp_path / "run.yaml").touch()
    with pytest.raises(ConnectionError):
        Dashboard(server, None).submit("true", "a", {"working_dir": str(tmp_path)}, {})


@pytest.mark.parametrize("code", [401, 403])
def test_a_token_refused_by_what_takes_jobs_is_told_as_such(
    server: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "post", code)
    with pytest.raises(UserError, match="the cluster refuses the token"):
        Dashboard(server, None).stop("a")


def test_another_refusal_is_not_taken_for_that_of_the_token(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number in a job's name is no status."""
    monkeypatch.setattr(Server, "post", 500)
    with pytest.raises(UserError, match="the cluster refuses the job") as caught:
        Dashboard(server, None).stop("run-20261124-140301")
    assert "token" not in str(caught.value)
