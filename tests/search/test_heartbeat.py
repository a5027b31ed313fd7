from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from metagen.lock import held
from metagen.search import heartbeat
from metagen.search.heartbeat import HEARTBEAT, Pulse, alive, beating
from metagen.search.ledger import Progress

THERE = Progress(state="running", pid=1, host="another-machine")
HOUR = 3600.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_SECONDS", 0.1), ("SILENT_SECONDS", 1.5), ("POLL_SECONDS", 0.01)):
        monkeypatch.setattr(heartbeat, name, seconds)


def test_on_its_own_machine_the_lock_tells_at_once_whatever_process_has_its_number_now(tmp_path: Path) -> None:
    mine = Progress(pid=os.getpid(), host=socket.gethostname())
    with held(tmp_path, "run", "stop it first"):
        assert alive(tmp_path, mine)
    assert not alive(tmp_path, mine)


def test_on_another_machine_that_sees_the_lock_it_tells_as_well(tmp_path: Path) -> None:
    with held(tmp_path, "run", "stop it first"):
        assert alive(tmp_path, THERE)


def test_where_the_file_system_knows_no_locks_it_lives_as_long_as_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    mine = Progress(pid=os.getpid(), host=socket.gethostname())
    with held(tmp_path, "run", "stop it first"), beating(tmp_path):
        assert alive(tmp_path, mine)
    assert not alive(tmp_path, mine)


def test_on_another_machine_it_lives_as_long_as_it_beats(tmp_path: Path) -> None:
    with beating(tmp_path):
        assert alive(tmp_path, THERE)
    began = time.monotonic()
    assert not alive(tmp_path, THERE)
    assert time.monotonic() - began >= heartbeat.SILENT_SECONDS


def test_a_sweep_that_never_beat_is_dead_after_the_same_time(tmp_path: Path) -> None:
    assert not alive(tmp_path, THERE)


@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
def test_clocks_that_differ_tell_nothing(tmp_path: Path, ahead: float) -> None:
    """The file's times are those of the other machine, an hour off; they go on, or they do not."""
    done = threading.Event()
    (tmp_path / HEARTBEAT).touch()

    def beat() -> None:
        while not done.wait(heartbeat.BEAT_SECONDS):
            os.utime(tmp_path / HEARTBEAT, (time.time() + ahead,) * 2)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert alive(tmp_path, THERE)
    finally:
        done.set()
        thread.join()
    assert not alive(tmp_path, THERE)


def test_one_look_at_another_machine_settles_nothing(tmp_path: Path) -> None:
    (tmp_path / HEARTBEAT).touch()
    os.utime(tmp_path / HEARTBEAT, (0, 0))
    assert Pulse(tmp_path).lives(THERE) is None


def test_a_folder_that_is_away_for_a_moment_ends_no_heartbeat(tmp_path: Path) -> None:
    folder, away = tmp_path / "sweep", tmp_path / "away"
    folder.mkdir()
    with beating(folder):
        folder.rename(away)
        time.sleep(3 * heartbeat.BEAT_SECONDS)
        away.rename(folder)
        assert alive(folder, THERE)
