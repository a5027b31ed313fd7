from __future__ import annotations

import random
from pathlib import Path

from metagen.search.ledger import Ledger, Progress


def _session(ledger: Ledger) -> None:
    ledger.write("session", pid=1, host="here")
    ledger.write("proposed", trial=0, attempt=0, assignment={"levels": 1}, facts={"parameters": 5})
    ledger.write("refused", attempt=1, assignment={"levels": 9}, reason="parameters 9 is above limits.parameters 7")
    ledger.write("proposed", trial=1, attempt=2, assignment={"levels": 2}, facts={"parameters": 6})
    ledger.write("started", trial=0)
    ledger.write("started", trial=1)
    for step in (2, 4):
        for trial in (0, 1):
            ledger.write("result", trial=trial, step=step, rung=step // 2, loss=1.0 / step + trial, busy=1.5)
    ledger.write("complete", trial=0)


def test_the_ledger_alone_says_what_is_left_to_do(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    _session(ledger)
    progress, _ = ledger.read()
    assert [trial.number for trial in progress.unfinished] == [1]
    assert progress.attempts == 3
    assert [trial.number for trial in progress.ranked()] == [0, 1]
    assert progress.trials[0].objective("parameters") == 5
    assert progress.trials[0].seconds == 3.0
    assert progress.reasons() == {"parameters above limits.parameters 7": 1}


def test_no_trial_of_a_sweep_that_was_left_runs(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    _session(ledger)
    progress, place = ledger.read()
    assert progress.trials[1].status == "running"
    ledger.write("left", reason="its budget of time is spent")
    ledger.read(progress, place)
    assert [trial.status for trial in progress.trials.values()] == ["complete", "waiting"]


def test_whatever_a_kill_cut_off_the_rest_is_read_and_goes_on(tmp_path: Path) -> None:
    whole = Ledger(tmp_path)
    _session(whole)
    data = whole.path.read_bytes()
    rng = random.Random(0)
    for _ in range(30):
        cut = rng.randrange(1, len(data))
        whole.path.write_bytes(data[:cut])
        before = data[:cut].count(b"\n")
        whole.write("left")
        lines = 0
        progress, place = whole.read()
        assert place == whole.path.stat().st_size
        assert progress.state == "left"
        for _ in whole.path.read_bytes().splitlines():
            lines += 1
        assert lines in (before + 1, before + 2)


def test_reading_on_gives_what_reading_all_gives(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    progress, place = Progress(), 0
    _session(ledger)
    ledger.read(progress, place)
    whole, place = ledger.read()
    assert progress == whole
    ledger.write("failed", trial=1, reason="diverged")
    progress, _ = ledger.read(progress, place)
    assert progress == ledger.read()[0]
    assert progress.trials[1].status == "failed"
    assert [trial.number for trial in progress.ranked()] == [0]


def test_the_last_line_of_a_step_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    _session(ledger)
    ledger.write("result", trial=1, step=2, rung=1, loss=7.0)
    trial = ledger.read()[0].trials[1]
    assert [(result["step"], result["loss"]) for result in trial.results] == [(2, 7.0)]
