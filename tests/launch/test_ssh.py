"""The tunnel to the head, with a program in ssh's place."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.clusters import ssh
from metagen.errors import UserError

Play = Callable[[str], ssh.Machine]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """A machine whose ssh client is the script that is given."""

    def make(script: str) -> ssh.Machine:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "ssh").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/words\n{script}\n')
        (folder / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
        return ssh.Machine("10.0.0.1", "user", None, tmp_path / "known_hosts")

    return make


@pytest.fixture
def thief(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Another user, who listens on the tunnel's port as soon as it stands on ssh's command line."""
    held: list[socket.socket] = []
    start = subprocess.Popen

    def watched(words: list[str], **options: Any) -> Any:
        if words[0] == "ssh" and "-L" in words:
            local = int(words[words.index("-L") + 1].split(":")[1])
            held.append(socket.create_server(("127.0.0.1", local)))
        return start(words, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    yield held
    for one in held:
        one.close()


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("WARNING: UNPROTECTED PRIVATE KEY FILE!\nu@h: Permission denied (publickey).", "run 'chmod 600"),
        ("Warning: Identity file k not accessible: No such file.\nu@h: Permission denied", "cannot be read"),
        ("u@h: Permission denied (publickey).", "the key is refused"),
    ],
)
def test_what_is_wrong_with_a_key_is_told_before_the_refusal_that_follows(said: str, meaning: str, play: Play) -> None:
    with pytest.raises(UserError, match=meaning):
        play(f"echo '{said}' >&2; exit 255").run("true")


def test_who_else_listens_on_the_tunnels_port_is_not_trusted(play: Play, thief: list[socket.socket]) -> None:
    machine = play("sleep 0.5; echo 'bind: Address already in use\nCould not request local forwarding.' >&2; exit 255")
    with pytest.raises(UserError, match="another program took the tunnel's port"), machine.tunnel(8265):
        pytest.fail("the port was given away")
    [listening] = thief
    listening.setblocking(False)
    with pytest.raises(BlockingIOError):  # nobody came
        listening.accept()


def test_a_tunnel_is_there_when_the_machine_says_so_and_ends_with_its_use(play: Play, tmp_path: Path) -> None:
    machine = play(f"echo $$ >{tmp_path}/pid; echo welcome; echo {ssh.READY}; exec cat >/dev/null")
    with machine.tunnel(8265) as local:
        words = (tmp_path / "words").read_text()
        assert f"-L 127.0.0.1:{local}:127.0.0.1:8265" in words
        assert "ExitOnForwardFailure=yes" in words
        assert " -N " not in words
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_machine_that_says_nothing_is_given_up(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "TUNNEL_SECONDS", 0.3)
    machine = play("exec sleep 60")
    began = time.monotonic()
    with pytest.raises(UserError, match="no tunnel within"), machine.tunnel(8265):
        pytest.fail("there is no tunnel")
    assert time.monotonic() - began < 30
