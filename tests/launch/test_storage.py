"""Where runs are kept: a bucket that holds what the folder holds, and folders of another machine's user."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.clusters import access, cluster_file, diagnosis, preflight, target
from launch.clusters.ssh import Machine
from launch.jobs.places import folder_there
from launch.jobs.storage import Bucket, pushing
from metagen.checkpoint import MANIFEST, load_checkpoint


@pytest.fixture
def pushed(run_copy: Path, tmp_path: Path) -> Path:
    """The folder that stands for a bucket, with the run of ``run_copy`` in it as ``a``."""
    top = tmp_path / "bucket"
    top.mkdir()
    Bucket(f"file://{top}").push(run_copy, "a")
    return top


def _scanning(monkeypatch: pytest.MonkeyPatch, name: str, meet: Callable[[Path], None]) -> None:
    """Have ``meet`` called as soon as somebody lists a folder of that name."""
    scan = os.scandir

    def watched(path: Any = ".") -> Any:
        if os.fspath(path).endswith(name):
            meet(Path(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", watched)


def test_a_checkpoint_that_is_pruned_while_it_is_looked_for_stops_no_push(
    run_copy: Path, pushed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, here = Bucket(f"file://{pushed}"), run_copy.parent / "here"
    bucket.pull("a", here)
    (here / "config.yaml").write_text("new")
    _scanning(monkeypatch, "checkpoints/step-000002", lambda folder: folder.rename(run_copy.parent / "pruned"))
    bucket.push(here, "a")
    assert not (here / "checkpoints/step-000002").exists()
    assert (pushed / "a/config.yaml").read_text() == "new"
    assert not list((pushed / "a/checkpoints/step-000002").iterdir())


def test_what_cannot_be_read_does_not_pass_for_removed(
    run_copy: Path, pushed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    before = sorted(pushed.rglob("*"))
    with pytest.raises(FileNotFoundError):
        Bucket(f"file://{pushed}").push(tmp_path / "nothing", "a")
    _scanning(monkeypatch, "checkpoints/step-000002", refuse)
    with pytest.raises(PermissionError):
        Bucket(f"file://{pushed}").push(run_copy, "a")
    monkeypatch.undo()
    assert sorted(pushed.rglob("*")) == before


def test_pushing_goes_on_after_an_error_of_the_disk(
    run_copy: Path, pushed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.jobs.storage.PUSH_SECONDS", 0.001)
    bucket, calls, again = Bucket(f"file://{pushed}"), 0, threading.Event()

    def push(folder: Path, run: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise OSError(5, "Input/output error")
        again.set()

    monkeypatch.setattr(bucket, "push", push)
    with pushing(bucket, run_copy, "a"):
        assert again.wait(30)
    assert "not saved yet: [Errno 5] Input/output error" in capsys.readouterr().err


def test_checkpoints_pruned_before_a_sessions_first_push_leave_the_bucket_and_nothing_else_does(
    run_copy: Path, pushed: Path
) -> None:
    Bucket(f"file://{pushed}").push(run_copy, "b")
    for name in ("a/notes.txt", "ab/checkpoints/step-000002/checkpoint.json", "checkpoints/step-000002/x"):
        (pushed / name).parent.mkdir(parents=True, exist_ok=True)
        (pushed / name).write_text("somebody's")
    before = {path for path in pushed.rglob("*") if path.is_file()}
    old = pushed / "a/checkpoints/step-000002"
    gone = set(old.iterdir())
    assert gone
    bucket, here = Bucket(f"file://{pushed}"), run_copy.parent / "here"
    assert bucket.pull("a", here)
    shutil.rmtree(here / "checkpoints/step-000002")
    bucket.push(here, "a")
    assert {path for path in pushed.rglob("*") if path.is_file()} == before - gone


def test_a_run_without_a_checkpoint_here_removes_none_from_the_bucket(run_copy: Path, pushed: Path) -> None:
    bucket, here = Bucket(f"file://{pushed}"), run_copy.parent / "here"
    bucket.pull("a", here)
    shutil.rmtree(here / "checkpoints")
    bucket.push(here, "a")
    assert load_checkpoint(pushed / "a")


def test_a_second_job_on_a_run_leaves_what_the_first_pushed_meanwhile(run_copy: Path, pushed: Path) -> None:
    first, second, other = Bucket(f"file://{pushed}"), Bucket(f"file://{pushed}"), run_copy.parent / "other"
    first.push(run_copy, "a")
    second.pull("a", other)
    shutil.copytree(run_copy / "checkpoints/step-000002", run_copy / "checkpoints/step-000099")
    first.push(run_copy, "a")
    second.push(other, "a")
    assert (pushed / "a/checkpoints/step-000099" / MANIFEST).is_file()


# Folders there


@pytest.fixture
def head(tmp_path: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A cluster's file that keeps runs in ``~/my-runs``, and the home of its head's user, on this machine."""
    home, programs, file = tmp_path / "there", tmp_path / "bin", tmp_path / "cluster.yaml"
    for folder in (home, programs, tmp_path / "here"):
        folder.mkdir()
    ssh = programs / "ssh"
    ssh.write_text(
        '#!/bin/sh\nwhile [ $# -gt 0 ]; do case "$1" in *@*|10.0.0.1) break;; esac; shift; done; shift\n'
        f'HOME={home}; export HOME; cd; exec sh -c "$*"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    (tmp_path / "key").touch(mode=0o600)
    hosts = ["--head", "10.0.0.1", "--host", "10.0.0.2", "--user", "somebody"]
    words = ["--key", tmp_path / "key", "--storage", "~/my-runs", "-o", file]
    assert metagen("cluster", "init", "onprem", *hosts, *words).code == 0
    return file, home


@pytest.mark.parametrize(
    ("storage", "folder"),
    [
        ("~", "/home/there"),
        ("~/runs", "/home/there/runs"),
        ('~/it\'s "$HOME" `id`', '/home/there/it\'s "$HOME" `id`'),
        ("/srv/a b;c", "/srv/a b;c"),
        ("file:///srv/runs", "/srv/runs"),
        ("/srv/~/runs", "/srv/~/runs"),
    ],
)
def test_a_tilde_is_the_home_of_the_user_there_and_all_else_stays_as_it_is(storage: str, folder: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"printf %s {folder_there(storage)}/{shlex.quote('run')}"],
        env={**os.environ, "HOME": "/home/there"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{folder}/run"


@pytest.mark.skipif(shutil.which("rsync") is None, reason="no rsync here")
def test_a_run_in_the_home_of_another_user_is_fetched(
    head: tuple[Path, Path], trained: Path, tmp_path: Path, metagen: Any
) -> None:
    file, home = head
    done = metagen("fetch", file, "a", "--out", tmp_path / "fetched")
    assert done.code == 2
    assert "no run 'a' in ~/my-runs" in done.errors[0]
    shutil.copytree(trained, home / "my-runs" / "a")
    done = metagen("fetch", file, "a", "--out", tmp_path / "fetched")
    assert done.code == 0, done.err
    assert load_checkpoint(tmp_path / "fetched").state.step == load_checkpoint(trained).state.step


@pytest.mark.parametrize("bucket", [False, True])
def test_tensorboard_shows_a_run_in_the_home_of_another_user(
    head: tuple[Path, Path], metagen: Any, bucket: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def tunnel(self: Machine, port: int) -> Iterator[int]:
        yield port

    monkeypatch.setattr(Machine, "tunnel", tunnel)
    file, home = head
    if bucket:
        values = yaml.safe_load(file.read_text())
        values["metadata"]["metagen"]["storage"] = "s3://bucket/runs"
        file.write_text(yaml.safe_dump(values))
    assert "no run 'a' there" in metagen("tensorboard", file, "--remote", "a").errors[0]
    run = home / (".metagen/runs" if bucket else "my-runs") / "a"
    run.mkdir(parents=True)
    board = home / ".metagen/venv/bin/tensorboard"
    board.parent.mkdir(parents=True)
    board.write_text(f'#!/bin/sh\necho "$2" > {home}/shown\n')
    board.chmod(0o755)
    assert metagen("tensorboard", file, "--remote", "a").code == 0
    assert (home / "shown").read_text().strip() == str(run)


def test_the_doctor_looks_for_the_folder_in_the_home_of_another_user(head: tuple[Path, Path]) -> None:
    """One that is not there yet is made by the start."""
    file, home = head
    for make, state in ((Path.touch, diagnosis.BAD), (Path.unlink, diagnosis.GOOD), (Path.mkdir, diagnosis.GOOD)):
        make(home / "my-runs")
        finding = list(diagnosis._over_ssh(target.find(str(file))))[-1]
        assert (finding.state, finding.seen.split()[0]) == (state, "~/my-runs")


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_start_sees_that_the_folder_for_runs_can_be_written(head: tuple[Path, Path], form: str) -> None:
    file, home = head
    (home / "taken").touch()
    values = yaml.safe_load(file.read_text())
    for name, wrong in (("taken", True), ("free", False)):
        values["metadata"]["metagen"]["storage"] = form.format(home / name)
        file.write_text(yaml.safe_dump(values))
        read = cluster_file.read(file)
        trouble = preflight._trouble(read, access.head(read)) or ""
        assert (f"{home / name} cannot be written" in trouble) == wrong, trouble
