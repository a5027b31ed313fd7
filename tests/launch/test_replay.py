"""``metagen replay``: a run that met non-finite results says how to do them again, and doing so finds them again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

FAULT = ("--set", "phases.1.estimator=faults:Overflowing", "--steps", "8")


def test_a_run_goes_on_past_a_nonfinite_result_which_replay_finds_again(
    metagen: Any, tiny_yaml: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = metagen("train", tiny_yaml, *FAULT, "--set", "guard.nonfinite_steps=100", "--run-dir", folder)
    assert done.code == 0, done.err
    told = re.findall(r"'metagen replay (\S+) ([0-9a-f]{16})'", done.out.replace("\n", " "))
    assert told
    assert sorted(work_id for _, work_id in told) == metagen("replay", folder).out.split()
    again = metagen("replay", *told[0])
    assert again.code == 0, again.err
    assert "then  not finite: gradient" in again.out
    assert "now   not finite: gradient" in again.out
    assert re.search(r"meta-gradient: 1 in layer \S+", again.out)
    assert "theta it began with" not in again.out
    assert "loss = " in again.out


def test_a_run_of_them_stops_the_job_and_leaves_them_in_quarantine(
    metagen: Any, tiny_yaml: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = metagen("train", tiny_yaml, *FAULT, "--set", "guard.nonfinite_steps=1", "--run-dir", folder)
    assert done.code == 2
    assert len(done.errors) == 1
    assert "1 steps in a row had non-finite results" in done.errors[0]
    assert metagen("replay", folder).out.split()


def test_replay_of_what_is_not_there_is_one_line(metagen: Any, trained: Path, tmp_path: Path) -> None:
    assert "its quarantine is empty" in metagen("replay", trained).out
    done = metagen("replay", trained, "abc")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "its quarantine is empty" in done.errors[0]
    assert "not a run folder" in metagen("replay", tmp_path, "abc").errors[0]
