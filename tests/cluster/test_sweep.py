from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import instant, loss_of

from cluster import sweep_search
from cluster.sweep import _Leave, run_sweep
from metagen.checkpoint import load_checkpoint
from metagen.errors import UserError
from metagen.search import heartbeat
from metagen.search.ledger import STOP, Ledger, Progress
from metagen.search.trial import folder_of
from metagen.tasks import ImageSet

pytestmark = pytest.mark.ray

OUTER = {"phases.0.outer.learning_rate": {"loguniform": [0.001, 0.1]}, "ema": {"uniform": [0.0, 0.9]}}
CHEAP = {"actors": 0, "cpus": 4.0, "warmup": 1, "retries": 1}
"""One process after the other: each costs seconds to start."""


def _events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]


def _steps(folder: Path) -> Counter[tuple[int, int]]:
    """How often each trial took each step."""
    pairs = (tuple(map(int, line.split())) for line in (folder / "steps").read_text().splitlines())
    return Counter((number, step) for number, step in pairs)


@pytest.mark.parametrize(
    ("search", "schedule", "changes"),
    [
        ("bohb", "hyperband", {}),
        ("random", "pb2", {}),
    ],
)
def test_searchers_and_schedulers_of_tune_run_to_the_end(
    ray_session: None, tiny_sweep: Any, tmp_path: Path, search: str, schedule: str, changes: dict[str, Any]
) -> None:
    values = {"space": OUTER, "trials": 5, "steps": 8, "trial": CHEAP, **changes}
    sweep = tiny_sweep(search={"name": search}, schedule={"name": schedule}, **values)
    progress = run_sweep(sweep, tmp_path, [], instant)
    assert progress.state == "finished"
    assert not progress.unfinished
    assert len(progress.trials) == 5
    complete = [trial for trial in progress.trials.values() if trial.status == "complete"]
    assert complete
    assert all(trial.step == sweep.steps for trial in complete)
    assert not (tmp_path / "tune").exists()
    if schedule == "hyperband":
        assert {trial.status for trial in progress.trials.values()} == {"complete", "stopped"}
    if schedule == "pb2":
        proposed = {e["trial"]: e["assignment"] for e in _events(tmp_path) if e["event"] == "proposed"}
        changed = [n for n, trial in progress.trials.items() if trial.assignment != proposed[n]]
        assert changed, "nobody has copied the best"
        for trial in progress.trials.values():
            assert trial.last["loss"] == pytest.approx(loss_of(trial.assignment, sweep.steps))


def test_a_killed_process_is_tried_again_from_its_checkpoint_and_a_bug_is_a_failure_with_its_reason(
    ray_session: None, tiny_sweep: Any, tmp_path: Path
) -> None:
    (tmp_path / "dies").touch()
    (tmp_path / "breaks").touch()
    sweep = tiny_sweep(search={"name": "tpe"}, schedule={"name": "none"}, space=OUTER, trials=4, steps=8, trial=CHEAP)
    progress = run_sweep(sweep, tmp_path, [], instant)
    assert progress.state == "finished"
    assert {n: trial.status for n, trial in progress.trials.items()} == {
        0: "complete",
        1: "complete",
        2: "failed",
        3: "complete",
    }
    assert "ZeroDivisionError: a bug in the trial" in progress.trials[2].reason
    assert progress.trials[1].retries == 1
    steps = _steps(tmp_path)
    assert [steps[1, step] for step in (2, 4, 6, 8)] == [1, 2, 1, 1]  # the one it died at, again


def test_a_sweep_goes_on_from_any_line_of_its_ledger_with_nothing_repeated_but_what_was_unfinished(
    ray_session: None, tiny_sweep: Any, tmp_path: Path
) -> None:
    sweep = tiny_sweep(search={"name": "tpe"}, schedule={"name": "none"}, space=OUTER, trials=6, steps=8, trial=CHEAP)
    run_sweep(sweep, tmp_path, [], instant)
    lines = (tmp_path / "sweep.jsonl").read_bytes().splitlines(keepends=True)
    # As if the driver had been killed while trial 3 was at step 4, in the middle of a line.
    events = _events(tmp_path)
    cut = next(i for i, e in enumerate(events) if e["event"] == "result" and (e["trial"], e["step"]) == (3, 4)) + 1
    (tmp_path / "sweep.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:20])
    (tmp_path / "steps").unlink()
    before, _ = Ledger(tmp_path).read()
    ended = {n for n, trial in before.trials.items() if trial.status == "complete"}
    reached = {n: trial.step for n, trial in before.trials.items()}
    progress = run_sweep(sweep, tmp_path, [], instant)
    assert progress.state == "finished"
    assert {trial.status for trial in progress.trials.values()} == {"complete"}
    assert len(progress.trials) == 6
    for (number, step), count in _steps(tmp_path).items():
        assert count == 1
        assert number not in ended
        assert step > reached.get(number, 0)
    for number in reached:
        assert progress.trials[number].assignment == before.trials[number].assignment


def test_a_spent_budget_asks_to_leave(tmp_path: Path) -> None:
    assert _Leave(tmp_path, 0.0).stop_all()
    assert not _Leave(tmp_path, 60.0).stop_all()
    assert not _Leave(tmp_path, None).stop_all()


def test_the_stop_file_leaves_what_can_be_gone_on_with(
    ray_session: None, tiny_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And while the sweep runs it shows that it lives."""
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    sweep = tiny_sweep(search={"name": "random"}, schedule={"name": "none"}, space=OUTER, trials=4, trial=CHEAP)
    alive: list[bool] = []

    def stop(event: str, values: dict[str, Any], progress: Progress) -> None:
        if event == "result":
            alive.append(heartbeat.alive(tmp_path, replace(progress, host="another-machine")))
            (tmp_path / STOP).touch()

    progress = run_sweep(sweep, tmp_path, [], instant, stop)
    assert progress.state == "left"
    assert all(alive)
    assert alive
    assert len(progress.trials) < 4 or progress.unfinished
    (tmp_path / STOP).unlink()
    progress = run_sweep(sweep, tmp_path, [], instant)
    assert progress.state == "finished"
    assert {trial.status for trial in progress.trials.values()} == {"complete"}


def test_a_sweep_whose_folder_is_moved_away_ends_and_begins_no_other_there(
    ray_session: None, tiny_sweep: Any, tmp_path: Path
) -> None:
    sweep = tiny_sweep(search={"name": "random"}, schedule={"name": "none"}, space=OUTER, trials=4, trial=CHEAP)
    folder = tmp_path / "sweep"
    folder.mkdir()

    def move(event: str, values: dict[str, Any], progress: Progress) -> None:
        if event == "started":
            folder.rename(tmp_path / "elsewhere")

    with pytest.raises(UserError, match="was moved or deleted: put it back, then 'metagen sweep resume"):
        run_sweep(sweep, folder, [], instant, move)
    assert not (folder / "sweep.jsonl").exists()
    assert [event["event"] for event in _events(tmp_path / "elsewhere")][-1] == "started"


def test_a_space_that_is_refused_altogether_ends_with_the_reason(
    ray_session: None, tiny_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_search, "MOST_REFUSED", 5)
    sweep = tiny_sweep(limits={"parameters": 10}, space=OUTER, trial=CHEAP)
    with pytest.raises(UserError, match=r"in a row were refused.*parameters above limits.parameters 10"):
        run_sweep(sweep, tmp_path, [], instant)


def _faulty(tiny_sweep: Any, phases: list[dict[str, Any]], actors: int) -> Any:
    """A sweep of one trial a phase."""
    return tiny_sweep(
        space={"phases.0": {"choice": [{"items": 2, "tasks": 1, **phase} for phase in phases]}},
        search={"name": "grid"},
        schedule={"name": "none"},
        trials=len(phases),
        steps=2,
        every=1,
        trial={"actors": actors, "cpus": 0.9, "driver": 0.1, "warmup": 1, "retries": 1},
        concurrent=1,
    )


def test_a_trial_whose_own_actor_was_killed_ends_as_the_serial_run(
    ray_session: None,
    tiny_sweep: Any,
    tiny_images: ImageSet,
    run_to_end: Any,
    assert_same_state: Any,
    tmp_path: Path,
) -> None:
    options = {"query_at": {"0": 1.0}, "marker": str(tmp_path)}
    sweep = _faulty(tiny_sweep, [{"estimator": "faults:DiesAtWork", "options": options}], actors=1)
    (tmp_path / "sweep").mkdir()
    progress = run_sweep(sweep, tmp_path / "sweep", tiny_images)
    assert progress.trials[0].status == "complete"
    assert (tmp_path / "0").exists(), "nobody died"
    config = sweep.make_space().config(progress.trials[0].assignment)
    state, _ = run_to_end(config)
    assert_same_state(load_checkpoint(folder_of(tmp_path / "sweep", 0)).state, state)


def test_what_a_trial_is_to_blame_for_is_a_marked_failure_and_the_sweep_goes_on(
    ray_session: None, tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path
) -> None:
    phases = [
        {"estimator": "faults:OutOfMemory", "options": {"query_at": {"0": 1.0}}},
        {"estimator": "joint", "outer": {"learning_rate": 1e30}},
        {"estimator": "joint"},
    ]
    progress = run_sweep(_faulty(tiny_sweep, phases, actors=0), tmp_path, tiny_images)
    memory, diverges, well = progress.trials.values()
    assert progress.state == "finished"
    assert [trial.status for trial in (memory, diverges, well)] == ["failed", "failed", "complete"]
    assert memory.reason == "out of memory: cannot allocate 80 GB"
    assert "diverged" in diverges.reason
    assert math.isinf(diverges.objective("loss"))
    assert progress.ranked() == [well]
