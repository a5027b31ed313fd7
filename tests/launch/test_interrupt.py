"""A run that is stopped, politely or not, goes on to the same end as one that never was: bit for bit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from launch.cli import run_command
from launch.training.log import LOG, events
from metagen import work
from metagen.checkpoint import checkpoints, load_checkpoint
from metagen.records import WorkItem, WorkResult
from metagen.state import MetaState

LONG = ["--set", "phases.0.steps=40", "--set", "phases.1.steps=10", "--set", "log.checkpoint_every=1"]
"""Enough steps that a signal sent after the first checkpoint comes long before the last."""


@pytest.fixture(scope="module")
def uninterrupted(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> MetaState:
    from launch.preset import load_config
    from launch.training.session import start
    from launch.training.workers import Workers

    config = load_config(str(tiny_yaml), LONG[1::2], None, None)
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    start(config, folder, Workers.choose(config, "serial", None, None))
    return load_checkpoint(folder).state


def _wait_for_a_checkpoint(process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not checkpoints(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.005)


def _begun(start_metagen: Any, tiny_yaml: Path, folder: Path) -> subprocess.Popen[str]:
    """A long run in one process, with a checkpoint of it."""
    process: subprocess.Popen[str] = start_metagen("train", tiny_yaml, *LONG, "--pool", "serial", "--run-dir", folder)
    _wait_for_a_checkpoint(process, folder)
    return process


def test_a_killed_run_resumes_to_the_same_end(
    tiny_yaml: Path, tmp_path: Path, start_metagen: Any, metagen: Any, uninterrupted: MetaState, assert_same_state: Any
) -> None:
    folder = tmp_path / "run"
    process = _begun(start_metagen, tiny_yaml, folder)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    step = load_checkpoint(folder).state.step
    assert 0 < step < uninterrupted.step
    done = metagen("resume", folder)
    assert done.code == 0
    assert_same_state(load_checkpoint(folder / "checkpoints" / "final").state, uninterrupted)
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_run_that_is_being_trained_is_not_resumed_until_its_process_is_gone(
    tiny_yaml: Path, tmp_path: Path, start_metagen: Any, metagen: Any, assert_same_state: Any, uninterrupted: MetaState
) -> None:
    """Two that write one folder end each other, and mix their steps in its log."""
    folder = tmp_path / "run"
    process = _begun(start_metagen, tiny_yaml, folder)
    process.send_signal(signal.SIGSTOP)
    (folder / "checkpoints" / ".partial-its").mkdir()
    done = metagen("resume", folder)
    assert (done.code, len(done.errors)) == (2, 1)
    assert f"{folder}: is being trained by process {process.pid} on " in done.errors[0]
    assert (folder / "checkpoints" / ".partial-its").is_dir()
    process.kill()
    process.wait()
    assert metagen("resume", folder).code == 0
    assert_same_state(load_checkpoint(folder / "checkpoints" / "final").state, uninterrupted)


def test_a_run_that_fails_keeps_the_steps_it_took(
    tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metagen: Any, assert_same_state: Any
) -> None:
    """A bug in a part of one's own comes with the phase that it is for, after hours: mended, the run goes on."""
    train = ("train", tiny_yaml, "--pool", "serial", "--set", "log.checkpoint_every=1000", "--run-dir")
    assert metagen(*train, tmp_path / "whole").code == 0
    folder, run = tmp_path / "run", work.run

    def fails(parts: work.Parts, item: WorkItem, *rest: Any, **named: Any) -> WorkResult:
        if item.phase == 1:
            raise ZeroDivisionError("a bug in the estimator")
        return run(parts, item, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(work, "run", fails)
        with pytest.raises(ZeroDivisionError, match="a bug in the estimator"):
            metagen(*train, folder)
    assert load_checkpoint(folder).state.step == 3
    [failed] = [event for _, event in events(folder / LOG) if event["event"] == "failed"]
    assert failed["step"] == 3
    assert "a bug in the estimator" in failed["error"]
    assert metagen("resume", folder).code == 0
    assert_same_state(load_checkpoint(folder).state, load_checkpoint(tmp_path / "whole").state)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_cleanly_with_a_checkpoint(
    number: signal.Signals,
    tiny_yaml: Path,
    tmp_path: Path,
    start_metagen: Any,
    metagen: Any,
    uninterrupted: MetaState,
    assert_same_state: Any,
) -> None:
    folder = tmp_path / "run"
    process = _begun(start_metagen, tiny_yaml, folder)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    stopped = re.search(r"stopped after step (\d+) of 50: continue with 'metagen resume (.+)'", out)
    assert stopped
    assert stopped[2] == f"{folder} --pool serial"
    assert load_checkpoint(folder).state.step == int(stopped[1]) < 50
    assert not (folder / "checkpoints" / "final").exists()
    assert metagen("resume", folder).code == 0
    assert_same_state(load_checkpoint(folder / "checkpoints" / "final").state, uninterrupted)


@pytest.fixture
def heeded() -> Iterator[None]:
    """Ctrl-C raises here as in a terminal: a job in the background begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_a_signal_that_comes_where_python_can_raise_nothing_stops_a_command_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a fork: what its callbacks raise is printed and forgotten, like what ``__del__`` raises."""

    class Callback:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    @click.command()
    def starting() -> None:
        Callback()
        time.sleep(20)

    monkeypatch.setattr(sys, "argv", ["metagen"])
    with pytest.raises(SystemExit, match="130"):
        run_command(starting)
    assert capsys.readouterr().err == "\nstopped\n"


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_while_the_last_checkpoint_is_written_loses_nothing(
    tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch.preset import load_config
    from launch.training.session import start
    from launch.training.workers import Workers

    def write(path: Path, data: bytes) -> None:
        signal.raise_signal(signal.SIGINT)
        path.write_bytes(data)

    monkeypatch.setattr("metagen.checkpoint._write", write)
    config = load_config(str(tiny_yaml), (), None, None)
    with pytest.raises(KeyboardInterrupt):
        start(config, tmp_path / "run", Workers.choose(config, "serial", None, None))
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "final").state.step == config.steps


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_on_ray_stops_cleanly_and_the_run_resumes_on_another_number_of_actors(
    tiny_yaml: Path, tmp_path: Path, start_metagen: Any, uninterrupted: MetaState, assert_same_state: Any
) -> None:
    """Ctrl-C in a terminal reaches every process of the group: Ray's and the actors' too."""
    folder = tmp_path / "run"
    process = start_metagen("train", tiny_yaml, *LONG, "--pool", "ray", "--actors", 2, "--run-dir", folder)
    _wait_for_a_checkpoint(process, folder)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert f"continue with 'metagen resume {folder} --pool ray --actors 2'" in out
    assert "2 Ray actors" in out

    process = start_metagen("resume", folder, "--pool", "ray", "--actors", 1)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (out, err)
    assert "1 Ray actor" in out
    assert_same_state(load_checkpoint(folder / "checkpoints" / "final").state, uninterrupted)
    assert err == ""
