"""The log of a run, and what ``metagen top`` reads from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.training.log import LOG, events
from launch.training.top import View
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.values import read_yaml


def _read(run: Path) -> list[dict[str, Any]]:
    return [event for _, event in events(run / LOG)]


def test_the_log_tells_every_step_with_every_result(trained: Path) -> None:
    log = _read(trained)
    assert [e["event"] for e in log] == [
        *("started", "step", "step", "checkpoint", "step", "step", "checkpoint", "step", "checkpoint", "ended")
    ]
    identity = RunConfig.parse(read_yaml(trained / "config.yaml")).identity
    assert {event["run"] for event in log} == {identity}
    steps = [event for event in log if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2, 3, 4, 5]
    assert [event["estimator"] for event in steps] == ["joint"] * 3 + ["fomaml"] * 2
    results = [result for event in steps for result in event["results"]]
    assert len({result["work_id"] for result in results}) == len(results) == 15
    assert {(r["actor"], r["verdict"], r["age"]) for r in results} == {("serial", "accepted", 0)}
    assert all(result["seconds"] > 0 for result in results)


def test_the_log_says_what_made_the_results(trained: Path) -> None:
    start = _read(trained)[0]
    assert (start["seed"], start["pool"], start["workers"], start["steps"]) == (3, "serial", 1, 5)
    assert {"python", "metagen", "torch", "ray"} <= start["versions"].keys()
    assert start["hardware"]["cores"] >= 1
    assert start["hardware"]["memory"] > 1 << 20
    assert start["git"] is None or len(start["git"]["commit"]) == 40


def test_a_line_that_a_kill_cut_short_spoils_no_other(metagen: Any, run_copy: Path) -> None:
    """And a resumed run appends to the log."""
    whole = _read(run_copy)
    for name in ("final", "step-000004"):
        (run_copy / "checkpoints" / name / "checkpoint.json").unlink()
    log = run_copy / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:6]) + lines[6][:30])
    assert _read(run_copy) == whole[:6]
    assert metagen("resume", run_copy).code == 0
    again = _read(run_copy)
    assert again[:6] == whole[:6]
    assert again[6]["event"] == "resumed"
    assert again[6]["step"] == 2
    assert [e["step"] for e in again if e["event"] == "step"] == [1, 2, 3, 4, 3, 4, 5]


def test_top_shows_a_run_after_its_end(metagen: Any, trained: Path) -> None:
    done = metagen("top", trained)
    assert done.code == 0, done.err
    for text in ("tiny", "ended", "5 of 5", "15 accepted", "serial", "staleness", "final"):
        assert text in done.out


def test_top_follows_a_run_line_by_line(trained: Path, tmp_path: Path) -> None:
    lines = (trained / LOG).read_bytes().splitlines(keepends=True)
    path, view, place = tmp_path / LOG, View(), 0
    seen = []
    for number, line in enumerate(lines):
        with path.open("ab") as file:
            file.write(line[: len(line) // 2])
        assert view.follow(path, place) == place  # half a line is none
        with path.open("ab") as file:
            file.write(line[len(line) // 2 :])
        place = view.follow(path, place)
        assert place == sum(map(len, lines[: number + 1]))
        seen.append((view.state, view.step))
    assert seen[0] == ("running", 0)
    assert seen[-1] == ("ended", 5)


def test_a_run_that_is_moved_while_it_is_watched_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"log\.jsonl: cannot be read \(No such file or directory\)"):
        View().follow(tmp_path / LOG, 10)


def test_a_run_that_has_gone_silent_is_said_to_be(trained: Path) -> None:
    view = View()
    for event in _read(trained)[:3]:
        view.add({**event, "time": "2020-01-01T00:00:00+00:00"})
    assert dict(view.rows())["state"].startswith("silent for ")


def test_a_step_that_was_not_finite_spoils_no_mean(trained: Path) -> None:
    """The log, which is strict JSON, has null for it."""
    view = View()
    for event in _read(trained)[:2]:
        view.add(event)
    loss = dict(view.rows())["loss"]
    view.add({**_read(trained)[2], "metrics": {"loss": None}, "gradient_norm": None})
    assert dict(view.rows())["loss"] == loss
    view.recent.popleft()
    assert dict(view.rows())["gradient norm"] == "not finite"


def test_faults_are_in_the_log_and_on_the_table(metagen: Any, tiny_yaml: Path, tmp_path: Path) -> None:
    fault = ("--set", "phases.1.estimator=faults:Overflowing", "--steps", "8", "--set", "guard.nonfinite_steps=1")
    assert metagen("train", tiny_yaml, *fault, "--run-dir", tmp_path / "run").code == 2
    log = _read(tmp_path / "run")
    assert log[-1]["event"] == "failed"
    [work_id] = {event["work_id"] for event in log if event["event"] == "quarantined"}
    assert metagen("replay", tmp_path / "run").out.split() == [work_id]
    out = metagen("top", tmp_path / "run", "--once").out
    assert "failed" in out
    assert "1 result quarantined" in out
    assert "non-finite results" in out


def test_top_of_no_run_is_one_line(metagen: Any, tmp_path: Path) -> None:
    done = metagen("top", tmp_path)
    assert (done.code, len(done.errors)) == (2, 1)
    assert f"no {LOG} in it" in done.errors[0]
    (tmp_path / "sweep.yaml").touch()
    assert f"watch it with 'metagen sweep status {tmp_path}'" in metagen("top", tmp_path).errors[0]


@pytest.mark.parametrize("line", [b"null\n", b"{}\n", b"\xff\n", b"[1]\n"])
def test_lines_that_are_no_events_are_skipped(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / LOG
    path.write_bytes(line + json.dumps({"event": "ended"}).encode() + b"\n")
    assert [event for _, event in events(path)] == [{"event": "ended"}]
