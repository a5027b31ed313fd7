"""Who can talk to the Ray that we start: nobody from outside this machine, and on it only who has the token, which is
made before Ray starts and which nobody else can read."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.token import ensure_private
from metagen.errors import UserError


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the token of a user without one will be."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)  # what is set in the test is taken back after it
    path = tmp_path / "home" / ".ray" / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_random_and_private(token: Path) -> None:
    assert ensure_private() == token
    assert _mode(token) == 0o600
    assert _mode(token.parent) & 0o077 == 0
    assert len(bytes.fromhex(token.read_text())) == 32
    assert list(token.parent.iterdir()) == [token]
    first = token.read_text()
    token.unlink()
    ensure_private()
    assert token.read_text() != first


def test_a_token_that_others_could_read_is_kept_and_made_private(token: Path) -> None:
    token.parent.mkdir(parents=True)
    token.write_text("a token")
    token.chmod(0o644)
    ensure_private()
    assert (token.read_text(), _mode(token)) == ("a token", 0o600)


def test_many_at_once_agree_on_one_token(token: Path) -> None:
    def look(_: int) -> str:
        ensure_private()
        return token.read_text()

    with ThreadPoolExecutor(8) as threads:
        seen = set(threads.map(look, range(32)))
    assert len(seen) == 1
    assert len(seen.pop()) == 64


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_TOKEN", "x" * 32), ("RAY_AUTH_MODE", "disabled")])
def test_what_the_user_says_stands(token: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert ensure_private() is None
    assert not token.exists()


def test_a_place_where_no_token_can_be_kept_is_one_line(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token.parent.parent.mkdir()
    token.parent.write_text("a file")
    with pytest.raises(UserError, match=r"cannot be kept private .*set RAY_AUTH_TOKEN_PATH") as caught:
        ensure_private()
    assert "\n" not in str(caught.value)


START = """
import os, subprocess, sys
import ray
from cluster.connect import start_ray
from metagen.pool import Crew
start_ray(None, [Crew(1, 1)])
ask = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).check_alive([], timeout=30)"
for change in ({}, {"RAY_AUTH_TOKEN": "0" * 64}):
    command = [sys.executable, "-c", ask, ray.get_runtime_context().gcs_address]
    done = subprocess.run(command, env={**os.environ, **change}, capture_output=True, text=True)
    print(done.returncode, done.stderr)
"""
"""Asks the cluster's head for what it knows, with the token and with another."""

JOIN = """
import os, subprocess, sys
import ray
from cluster.connect import start_ray
from metagen.pool import Crew
start_ray(None, [Crew(1, 1)])
join = "import sys; from cluster.connect import _log_in; _log_in(sys.argv[1])"
environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
for change in ({}, {"RAY_AUTH_TOKEN": "0" * 64}):
    command = [sys.executable, "-c", join, ray.get_runtime_context().gcs_address]
    done = subprocess.run(command, env={**environment, **change}, capture_output=True, text=True, timeout=60)
    print(done.returncode, *done.stderr.splitlines()[-1:])
"""
"""Logs in as another process does that is told the address, with the token in its file and with another."""

OPEN = """
import os, subprocess, sys
import ray
os.environ["RAY_AUTH_MODE"] = "disabled"
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
join = '''
import ray, sys
from cluster.connect import start_ray
from metagen.errors import UserError
from metagen.pool import Crew
try:
    start_ray(sys.argv[1], [Crew(1, 1)])
except UserError as error:
    print(error)
else:
    answers = ray.remote(type("Echo", (), {"echo": lambda self: "alive"})).remote().echo
    print(ray.get(answers.remote(), timeout=60))
'''
del os.environ["RAY_AUTH_MODE"]
for change in ({}, {"RAY_AUTH_MODE": "token"}):
    command = [sys.executable, "-c", join, ray.get_runtime_context().gcs_address]
    done = subprocess.run(command, env={**os.environ, **change}, capture_output=True, text=True, timeout=90)
    print(done.stdout.strip() or done.stderr)
"""
"""An actor's answer on a cluster that was started without a token, to a driver that has one and to one that insists."""

REACH = """
import socket
import ray
from cluster.connect import start_ray
from metagen.pool import Crew
start_ray(None, [Crew(1, 1)])
[node] = ray.nodes()
ports = [int(ray.get_runtime_context().gcs_address.split(":")[1])]
ports += [node[name] for name in ("NodeManagerPort", "ObjectManagerPort")]
for port in ports:
    answers = []
    for address in ("127.0.0.1", "127.0.0.2"):
        try:
            socket.create_connection((address, port), timeout=5).close()
        except ConnectionRefusedError:
            answers.append("refused")
        else:
            answers.append("open")
    print(*answers)
"""
"""Knocks at Ray's ports, at the address it is given and at another of this machine's."""


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_we_start_refuses_another_token(token: Path) -> None:
    right, wrong = _printed(START).split("\n", 1)
    assert right.strip() == "0"
    assert wrong.startswith("1 ")
    assert "AuthenticationError" in wrong
    assert _mode(token) == 0o600


@pytest.mark.ray
@pytest.mark.slow
def test_who_joins_by_address_shows_the_token_that_is_there_and_hears_at_once_of_a_wrong_one(token: Path) -> None:
    right, wrong = _printed(JOIN).splitlines()
    assert right.strip() == "0"
    assert wrong.startswith("1 ray.exceptions.AuthenticationError: ")


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_without_a_token_is_joined_without_one_and_who_insists_is_told(token: Path) -> None:
    ensure_private()  # the token is there wherever Ray has once been started here
    unasked, insisting = _printed(OPEN).splitlines()
    assert unasked == "alive"
    assert "was started without a token" in insisting
    assert "RAY_AUTH_MODE=token" in insisting


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of this machine")
def test_a_cluster_that_we_start_answers_on_loopback_alone(token: Path) -> None:
    assert _printed(REACH).splitlines() == ["open refused"] * 3


def _printed(script: str) -> str:
    """What a driver of its own prints."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_AUTH_MODE")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
