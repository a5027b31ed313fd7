"""The laws of mode async: whatever order results come in, each piece of work is applied once, and none too old."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metagen import work
from metagen.buffer import Buffer
from metagen.checkpoint import load_checkpoint, save_checkpoint
from metagen.pool import SerialPool
from metagen.records import Snapshot, Verdict, WorkItem, WorkResult
from metagen.train import train

PHASES = (
    "phases.0.steps=7",
    "phases.0.items=2",
    "phases.1.steps=3",
    "phases.1.items=3",
    "policy.options.step_size=1e-3",
)


def _result(parts: work.Parts, item: WorkItem, snapshot: Snapshot) -> WorkResult:
    """A result without the work: a gradient that the item's name alone decides."""
    numbers = np.random.default_rng([item.step, item.index])
    gradient = numbers.standard_normal(len(snapshot.theta), dtype=np.float32)
    policy = numbers.standard_normal(len(snapshot.policy), dtype=np.float32)
    return WorkResult(
        item.work_id, item.step, item.index, snapshot.version, item.tasks, gradient, policy, {"loss": 1.0}, 1e-3, "fake"
    )


class Disorderly(SerialPool):
    """Gives results in another order than work came in, and some of them twice."""

    def __init__(self, parts: work.Parts, seed: int, twice: float = 0.0) -> None:
        super().__init__(parts)
        self.rng, self.twice = np.random.default_rng(seed), twice

    def take(self) -> Any:
        place = int(self.rng.integers(len(self._waiting)))
        self._waiting.rotate(-place)
        piece = self._waiting.popleft()
        if self.rng.random() < self.twice:
            self._waiting.append(piece)
        return _result(self.parts, *piece)


def _applied(reports: Any) -> list[str]:
    return [one.work_id for report in reports for one in report.outcomes if one.verdict is Verdict.ACCEPTED]


def _planned(config: Any) -> set[str]:
    return {item.work_id for step in range(config.steps) for item in work.plan(config, step, 0)}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("staleness", [1, 2, 5])
def test_every_piece_is_applied_once_and_none_is_too_old(
    seed: int, staleness: int, tiny_config: Any, run_to_end: Any
) -> None:
    config = tiny_config("mode=async", f"max_staleness={staleness}", *PHASES)
    state, reports = run_to_end(config, lambda parts: Disorderly(parts, seed, twice=0.3))
    applied = _applied(reports)
    assert len(applied) == len(set(applied)) == 7 * 2 + 3 * 3
    assert set(applied) == _planned(config)
    ages = [one.age for report in reports for one in report.outcomes if one.verdict is Verdict.ACCEPTED]
    assert max(ages) <= staleness
    late = [one.work_id for report in reports for one in report.outcomes if one.verdict is not Verdict.ACCEPTED]
    assert set(late) <= set(applied)  # nothing is refused but copies of what was applied
    assert (state.counts["accepted"], state.owed) == (23, ())
    assert [report.step for report in reports] == list(range(1, 11))


def test_at_staleness_0_it_is_the_synchronous_run(tiny_config: Any, run_to_end: Any) -> None:
    sync, _ = run_to_end(tiny_config(), lambda parts: Disorderly(parts, 1))
    mixed, _ = run_to_end(tiny_config("mode=async"), lambda parts: Disorderly(parts, 2))
    assert torch.equal(mixed.theta, sync.theta)
    assert torch.equal(mixed.policy, sync.policy)


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_resumed_run_applies_what_the_first_one_has_not(
    stop: int, tmp_path: Path, tiny_config: Any, new_learner: Any
) -> None:
    config = tiny_config("mode=async", "max_staleness=2", *PHASES)
    first, parts = new_learner(config)
    before = []
    for report in train(first, Disorderly(parts, stop)):
        before.append(report)
        if report.step == stop:
            break
    save_checkpoint(tmp_path / "c", config, first.layout, first.state)
    second, parts = new_learner(config)
    second.state = load_checkpoint(tmp_path / "c").state
    assert second.state.owed == first.state.owed
    after = list(train(second, Disorderly(parts, stop + 1)))
    applied = [*_applied(before), *_applied(after)]
    assert len(applied) == len(set(applied))
    assert set(applied) == _planned(config)


def test_a_result_that_another_copy_was_faster_than_changes_nothing(tiny_config: Any, new_learner: Any) -> None:
    """Also where the copy was begun at a later version than the one that was applied."""
    config = tiny_config("mode=async", "max_staleness=2", "phases.0.steps=6", "phases.0.items=1")
    learner, parts = new_learner(config)
    snapshots, results = [learner.snapshot()], []
    for step in range(3):
        results.append(_result(parts, work.item(config, step, 0, step), snapshots[-1]))
        learner.step([results[-1]])
        snapshots.append(learner.snapshot())
    theta = learner.state.theta
    again = [_result(parts, work.item(config, 2, 0, version), snapshots[version]) for version in (1, 2)]
    fresh = _result(parts, work.item(config, 3, 0, 3), snapshots[3])
    alone, _ = new_learner(config)
    alone.state = learner.state
    alone.step([fresh])
    applied = learner.step([*again, fresh])
    assert applied.verdicts == {Verdict.ACCEPTED: 1, Verdict.DUPLICATE: 2}
    assert torch.equal(learner.state.theta, alone.state.theta)
    assert not torch.equal(learner.state.theta, theta)


@pytest.mark.parametrize(("power", "share"), [(0.0, 1.0), (1.0, 1 / 3), (0.5, 3**-0.5)])
def test_an_old_gradient_weighs_less(power: float, share: float, tiny_config: Any, new_learner: Any) -> None:
    sgd = "phases.0.outer={optimizer: sgd, learning_rate: 1.0, clip: 1e9, warmup: 0, schedule: constant}"
    config = tiny_config("mode=async", "max_staleness=2", f"age_power={power}", "phases.0.items=1", sgd)
    learner, parts = new_learner(config)
    old = learner.snapshot()
    for step in range(2):
        learner.step([_result(parts, work.item(config, step, 0, step), learner.snapshot())])
    late = _result(parts, work.item(config, 2, 0, 0), old)
    applied = learner.step([late])
    assert [one.age for one in applied.outcomes] == [2]
    assert applied.gradient_norm == pytest.approx(share * float(np.linalg.norm(late.gradient)), rel=1e-4)
    assert applied.metrics["loss"] == pytest.approx(late.metrics["loss"])


def test_no_more_work_is_under_way_than_the_cap(tiny_config: Any, new_learner: Any) -> None:
    config = tiny_config("mode=async", "max_staleness=3", *PHASES)
    learner, parts = new_learner(config)
    pool = Disorderly(parts, 1)
    most = []
    submit = pool.submit

    def watched(items: Any, snapshot: Any) -> None:
        submit(items, snapshot)
        most.append(len(pool._waiting))

    pool.submit = watched  # type: ignore[method-assign]
    list(train(learner, pool))
    assert max(most) == 3 * 3  # all of the second phase, for which there is room
    assert max(most[:-1]) == 2 * 4  # two pieces a step, and three steps ahead


def test_the_learner_waits_for_a_straggler_rather_than_discard_it(tiny_config: Any, new_learner: Any) -> None:
    config = tiny_config("mode=async", "max_staleness=1", "phases.0.steps=6", "phases.0.items=2")
    learner, parts = new_learner(config)
    buffer = Buffer(learner)
    [(items, snapshot)] = buffer.due()
    assert [(item.step, item.index) for item in items] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    straggler, *others = (_result(parts, item, snapshot) for item in items)
    for result in others:
        buffer.add(result)
    assert buffer.ready()
    learner.step(buffer.take())  # two of the three; the third and the straggler are now one version old
    [(items, snapshot)] = buffer.due()
    for item in items:
        buffer.add(_result(parts, item, snapshot))
    assert not buffer.ready()  # three have come, but a step of two of them would leave the straggler too old
    buffer.add(straggler)
    assert buffer.ready()
    applied = learner.step(buffer.take())
    assert [one.age for one in applied.outcomes] == [1, 1]


def test_after_a_rollback_the_pieces_under_way_are_done_anew(tiny_config: Any, run_to_end: Any) -> None:
    config = tiny_config(
        "mode=async",
        "max_staleness=2",
        "phases=[{estimator: joint, steps: 30, items: 2, tasks: 1, outer: {warmup: 0}}]",
        "guard={window: 4, patience: 2, every: 2, rollbacks: 5}",
    )

    class Upset(Disorderly):
        """The results of the steps 12 to 14 are far off."""

        def take(self) -> Any:
            result = super().take()
            if 12 <= result.step < 15:
                return replace(result, metrics={**result.metrics, "loss": 1e3}, gradient=result.gradient * 100)
            return result

    state, reports = run_to_end(config, lambda parts: Upset(parts, 3))
    assert 1 <= sum(report.rolled_back for report in reports) <= 2
    applied = _applied(reports)
    assert len(applied) == len(set(applied))
    assert set(applied) == _planned(config)
    assert state.owed == ()
