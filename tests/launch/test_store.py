"""The command line with a store: trained to it, resumed from it on another machine, evaluated from it."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from launch.training import keeping
from launch.training.log import LOG, events
from metagen import files
from metagen.checkpoint import MANIFEST, load_checkpoint
from metagen.errors import UserError
from metagen.store import Store


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_is_stored_and_resumes_elsewhere_to_the_same_end(
    s3: str, metagen: Any, tiny_yaml: Path, trained: Path, assert_same_state: Any
) -> None:
    url = f"{s3}/runs/mine"
    done = metagen("train", tiny_yaml, "--set", "log.checkpoint_every=2", "--store", url, "--run-dir", "first")
    assert done.code == 0, done.err
    store = Store(url)
    assert store.checkpoints() == ["step-000002", "step-000004", "final"]
    store.delete(f"checkpoints/final/{MANIFEST}")  # the machine was lost before its end, and all that was on it
    shutil.rmtree("first")
    done = metagen("resume", url)
    assert done.code == 0, done.err
    assert_same_state(load_checkpoint(Path("runs/mine")).state, load_checkpoint(trained).state)
    assert store.checkpoints()[-1] == "final"
    assert "is complete" in metagen("resume", url).out


def test_a_damaged_checkpoint_in_the_store_is_skipped_by_name(
    s3: str, metagen: Any, tiny_yaml: Path, trained: Path, assert_same_state: Any
) -> None:
    url = f"{s3}/run"
    metagen("train", tiny_yaml, "--set", "log.checkpoint_every=2", "--store", url, "--run-dir", "first")
    for name in ("final", "step-000004"):
        Store(url).write(f"checkpoints/{name}/{MANIFEST}", b"{")
    done = metagen("resume", url)
    assert done.code == 0, done.err
    assert [line.startswith("skipped: ") for line in done.err.splitlines()] == [True, True]
    assert_same_state(load_checkpoint(Path("runs/run")).state, load_checkpoint(trained).state)


def test_a_checkpoint_may_be_a_url(s3: str, metagen: Any, trained: Path) -> None:
    url = f"{s3}/run"
    Store(url).publish(trained / "checkpoints" / "final")
    done = metagen("sample", url, "--classes", "2", "--samples", "2")
    assert done.code == 0, done.err
    assert Path("samples.png").is_file()
    assert metagen("sample", f"{url}/checkpoints/nope").errors[0].startswith(f"error: {url}/checkpoints/nope: no such")


def test_a_store_that_holds_a_run_is_left_alone(s3: str, metagen: Any, tiny_yaml: Path) -> None:
    Store(f"{s3}/run").write("config.yaml", b"name: other")
    done = metagen("train", tiny_yaml, "--store", f"{s3}/run", "--run-dir", "mine")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "already holds a run" in done.errors[0]
    assert not Path("mine").exists()


def test_a_store_that_refuses_at_the_start_leaves_no_run_in_the_way(s3: str, metagen: Any, tiny_yaml: Path) -> None:
    done = metagen("train", tiny_yaml, "--store", "s3://no-such-bucket/run", "--run-dir", "mine")
    assert done.code == 2
    assert "no-such-bucket" in done.errors[-1]
    assert metagen("train", tiny_yaml, "--store", f"{s3}/run", "--run-dir", "mine").code == 0


def test_a_run_outlives_its_store_but_says_so_at_the_end(
    s3: str, metagen: Any, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch, assert_same_state: Any, trained: Path
) -> None:
    publish = Store.publish

    def down(self: Store, folder: Path) -> None:
        raise UserError("the store is down")

    monkeypatch.setattr(Store, "publish", down)
    monkeypatch.setattr(keeping, "LAST_WAITS", (0.0,))
    url = f"{s3}/run"
    done = metagen("train", tiny_yaml, "--set", "log.checkpoint_every=2", "--store", url, "--run-dir", "mine")
    assert done.code == 2
    assert done.out.count("not stored, the next checkpoint will try again: the store is down") == 2
    assert "is written, but not stored: the store is down; then 'metagen resume mine'" in done.errors[0]
    assert_same_state(load_checkpoint(Path("mine")).state, load_checkpoint(trained).state)
    monkeypatch.setattr(Store, "publish", publish)
    assert metagen("resume", "mine").code == 0
    assert Store(url).checkpoints() == ["final"]


def test_a_store_that_refuses_for_a_moment_at_the_end_is_asked_again(
    s3: str, metagen: Any, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, asked = Store.publish, []

    def down_at_first(self: Store, folder: Path) -> None:
        asked.append(folder.name)
        if asked.count("final") == 1:
            raise UserError("the store is down")
        publish(self, folder)

    monkeypatch.setattr(Store, "publish", down_at_first)
    monkeypatch.setattr(keeping, "LAST_WAITS", (0.0,))
    done = metagen("train", tiny_yaml, "--store", f"{s3}/run", "--run-dir", "mine")
    assert done.code == 0, done.err
    assert "not stored, tried again in 0 s: the store is down" in done.out
    assert Store(f"{s3}/run").checkpoints() == ["final"]


def test_a_store_that_cannot_be_reached_stops_the_run_before_it_begins(
    metagen: Any, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = metagen("train", tiny_yaml, "--store", "ftp://a/b", "--run-dir", "mine")
    assert (done.code, len(done.errors)) == (2, 1)
    assert not Path("mine").exists()


def test_a_run_whose_last_checkpoint_waits_for_its_store_has_ended(
    s3: str, metagen: Any, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends the wait: by then the run has said where its checkpoint is, and its log that it ended."""

    def interrupted(self: Store, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "publish", interrupted)
    done = metagen("train", tiny_yaml, "--store", f"{s3}/run", "--run-dir", "mine")
    assert done.code == 130
    assert f"checkpoint: {Path('mine/checkpoints/final')}" in done.out
    assert [event["event"] for _, event in events(Path("mine") / LOG)][-2:] == ["checkpoint", "ended"]


def test_a_second_ctrl_c_while_a_checkpoint_waits_for_its_store_keeps_it_and_asks_the_store_no_more(
    s3: str, metagen: Any, tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def interrupted(self: Store, folder: Path) -> None:
        asked.append(folder.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "publish", interrupted)
    every = ("--set", "log.checkpoint_every=2")
    done = metagen("train", tiny_yaml, *every, "--store", f"{s3}/run", "--run-dir", "mine")
    assert (done.code, asked) == (130, ["step-000002"])
    assert "stopped after step 2 of 5: continue with 'metagen resume mine'" in done.out
    assert load_checkpoint(Path("mine")).state.step == 2


def test_ctrl_c_is_heard_while_a_store_is_silent(start_metagen: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "AWS_DEFAULT_REGION": "us-east-1"}
        key = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        process = start_metagen("resume", "s3://bucket/run", "--pool", "serial", **place, **key)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=2 * files.REQUEST_SECONDS)
    assert (process.returncode, errors.split()) == (130, ["stopped"])
