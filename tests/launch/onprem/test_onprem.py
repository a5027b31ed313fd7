"""A cluster on three hosts: started, used, broken and stopped through the command line, over ssh alone."""

from __future__ import annotations

import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import hosts as machines
import pytest
import yaml

from metagen.checkpoint import load_checkpoint

WAIT = 300
"""Seconds until a test gives up; a busy machine is slow, and no law is about time here."""

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RUN: dict[str, Any] = {
    "name": "cut",
    "seed": 3,
    "episode": {"shots": 3, "queries": 2, "draws": 1},
    "generator": {"architecture": {"patch": 4, "widths": [16], "embedding": 16}},
    "precision": "fp32",
    "together": 1,
    "phases": [{"estimator": "joint", "steps": 150, "items": 6, "tasks": 2, "outer": {"warmup": 1}}],
    "log": {"checkpoint_every": 20},
    "pool": {"backup": 0},  # what the lost host holds is missed, not done by another long before
}


def _refused(done: Any, *needles: str) -> None:
    """Exit code 2 and one error line that names every needle."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2, done
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for needle in needles:
        assert needle in errors[0], errors[0]


def _nothing_runs(site: Any) -> None:
    assert {number: site.processes(number) for number in (1, 2, 3)} == {1: [], 2: [], 3: []}


# What is refused before anything starts


def test_a_wrong_key_is_refused_and_nothing_is_started(site: Any) -> None:
    wrong = site.folder / "wrong"
    machines._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(wrong))
    file = site.changed("wrong.yaml", lambda config: config["auth"].update(ssh_private_key=str(wrong)))
    _refused(site.run("cluster", "up", file), "3 of 3 machines are not ready", "the key is refused")
    _nothing_runs(site)


def test_a_host_that_is_off_is_named_and_nothing_is_started(site: Any) -> None:
    machines.cut(3)
    try:
        done = site.run("cluster", "up", site.file)
    finally:
        machines.join(3)
    _refused(done, "1 of 3 machines are not ready, nothing was started", machines.address(3))
    _nothing_runs(site)


def test_another_version_on_a_host_is_named_and_nothing_is_started(site: Any) -> None:
    venv = site.folder / "shared" / "fake"
    (venv / "bin").mkdir(parents=True)
    (venv / "ray-2.0.0.dist-info").mkdir()
    (venv / "ray-2.0.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.0.0\n")
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH=/srv/fake exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = site.file.read_text().replace(f"{sys.prefix}", "/srv/fake")
    file = site.folder / "fake.yaml"
    file.write_text(text)
    _refused(site.run("cluster", "up", file), "ray 2.0.0 in /srv/fake", "install")
    _nothing_runs(site)


def test_a_command_for_a_cluster_that_is_down_says_so(site: Any) -> None:
    for words in (["cluster", "status"], ["jobs", "list"]):
        _refused(site.run(*words, site.file), "no token here")


# A cluster's life


@pytest.fixture(scope="module")
def running(site: Any) -> Any:
    """The cluster, up."""
    done = site.run("cluster", "up", site.file, "--timeout", "240")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "workers joined: 2 of 2" in done.stdout
    yield site
    site.run("cluster", "down", site.file, "--yes")


def test_all_hosts_join_and_status_names_them(running: Any) -> None:
    done = running.run("cluster", "status", running.file)
    assert done.returncode == 0, done.stderr
    for number in (1, 2, 3):
        assert f"{machines.address(number)}" in done.stdout
    assert done.stdout.count("alive") == 3


def test_the_doctor_finds_the_way_to_a_cluster_in_order(running: Any) -> None:
    done = running.run("doctor", "--address", running.file)
    assert done.returncode == 0, done.stdout
    for what in ("ssh", "clock", "storage", "cluster's ray", "cluster's token", "nodes"):
        assert any(line.startswith(f"ok    {what}:") for line in done.stdout.splitlines()), done.stdout


def test_the_token_is_private_and_the_dashboard_is_on_loopback(running: Any) -> None:
    token = running.folder / "home" / "clusters" / "metagen" / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    done = running.run("cluster", "ssh", running.file, "--", "stat", "-c", "%a", "/root/.metagen/token")
    assert done.stdout.strip() == "600"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((machines.address(1), 8265), timeout=5)
    socket.create_connection((machines.address(1), 6379), timeout=5).close()  # open, and asks for the token


def test_a_wrong_token_is_refused_in_one_line(running: Any) -> None:
    wrong = running.folder / "token"
    wrong.write_text("0" * 64)

    def change(config: Any) -> None:
        config["metadata"]["metagen"]["token"] = str(wrong)
        config["file_mounts"]["~/.metagen/token"] = str(wrong)

    file = running.changed("token.yaml", change)
    for words in (["cluster", "status", file], ["submit", file, "--", "train", "quickstart"]):
        _refused(running.run(*words), "the cluster refuses the token")


def test_a_cluster_that_runs_is_not_started_over(running: Any) -> None:
    before = len(running.processes(2))
    _refused(running.run("cluster", "up", running.file), "Ray is running there already")
    assert len(running.processes(2)) == before > 0


def test_a_run_over_all_hosts_survives_a_cut_link_and_ends_as_if_nothing_had_been(
    running: Any, tmp_path: Path, metagen: Any
) -> None:
    config = tmp_path / "cut.yaml"
    config.write_text(yaml.safe_dump(RUN))
    process, lines, thread = running.start("submit", running.file, "--", "train", config, "--actors", "3")
    _until(lambda: any("step 28/150" in line for line in lines), WAIT, lines)
    busy = {number: sum("ray::Actor" in words for words in running.processes(number)) for number in (1, 2, 3)}
    assert all(busy.values()), busy
    machines.cut(3)
    try:
        _until(lambda: any("is lost with its actor" in line for line in lines), WAIT, lines)
    finally:
        machines.join(3)
    assert process.wait(timeout=WAIT) == 0, lines
    thread.join()
    assert any("step 150/150" in line for line in lines)

    done = running.run("fetch", running.file, "cut", "--out", tmp_path / "fetched")
    assert done.returncode == 0, done.stderr
    assert metagen("train", config, "--pool", "serial", "--run-dir", tmp_path / "serial").code == 0
    one, other = (tmp_path / run / "checkpoints/final/state.safetensors" for run in ("fetched", "serial"))
    assert one.read_bytes() == other.read_bytes()
    assert load_checkpoint(tmp_path / "fetched").state.step == 150


def test_a_run_that_is_submitted_again_goes_on_and_is_refused_while_it_runs(running: Any, tmp_path: Path) -> None:
    config = tmp_path / "again.yaml"
    phases = [{**RUN["phases"][0], "steps": 100_000}]
    config.write_text(yaml.safe_dump({**RUN, "name": "again", "phases": phases}))
    process, lines, thread = running.start("submit", running.file, "--", "train", config)
    shared = running.folder / "shared" / "runs" / "again" / "checkpoints"
    _until(lambda: shared.exists() and any(shared.glob("step-*")), WAIT, lines)
    job = next(line.split()[1] for line in lines if line.endswith("submitted"))

    _refused(running.run("submit", running.file, "--", "train", config), f"run 'again' is being trained by job {job}")
    assert running.run("jobs", "stop", running.file, job).returncode == 0
    assert process.wait(timeout=WAIT) == 130
    thread.join()
    listed = running.run("jobs", "list", running.file).stdout
    assert any(job in line and "STOPPED" in line for line in listed.splitlines())

    reached = load_checkpoint(shared.parent).state.step
    process, lines, thread = running.start("submit", running.file, "--", "train", config)
    _until(lambda: any("it goes on from its newest checkpoint" in line for line in lines), WAIT, lines)
    _until(lambda: load_checkpoint(shared.parent).state.step > reached, WAIT, lines)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=WAIT) == 130
    thread.join()
    job = next(line.split()[1] for line in lines if line.endswith("submitted"))
    assert any(f"metagen jobs logs {running.file} {job} --follow" in line for line in lines)
    assert running.run("jobs", "stop", running.file, job).returncode == 0


def test_down_leaves_no_process_and_no_secret(running: Any) -> None:
    done = running.run("cluster", "down", running.file, "--yes")
    assert done.returncode == 0, done.stderr
    _nothing_runs(running)
    assert not (running.folder / "home" / "clusters" / "metagen" / "token").exists()
    left = running.run("cluster", "ssh", running.file, "--", "ls", "-A", "/root/.metagen")
    assert left.stdout.split() == []


def test_a_host_lost_while_the_cluster_starts_ends_the_start_and_leaves_nothing(site: Any) -> None:
    _nothing_runs(site)
    process, lines, thread = site.start("cluster", "up", site.file, "--timeout", "15")
    _until(lambda: any("starting the head" in line for line in lines), WAIT, lines)
    machines.cut(3)
    try:
        assert process.wait(timeout=WAIT) == 2
    finally:
        machines.join(3)
    thread.join()
    text = "\n".join(lines)
    assert re.search("only [01] of 2 workers joined within 15 s", text)
    assert "The end of the head's monitor log" in text
    assert "Traceback" not in lines[-1]
    assert f"not all could be stopped: {machines.address(3)}" in text  # it cannot be asked; nothing was started on it
    _nothing_runs(site)


def _until(true: Any, seconds: float, lines: list[str]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "\n".join(lines)
        time.sleep(0.1)
