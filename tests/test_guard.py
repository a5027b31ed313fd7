"""The divergence guard: it goes back when a run has left its level, and at the same step whoever does the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metagen import work
from metagen.checkpoint import load_checkpoint, save_checkpoint
from metagen.guard import Diverged, GuardConfig, Watch, observe
from metagen.pool import Pool, SerialPool
from metagen.records import Snapshot, Verdict, WorkItem, WorkResult
from metagen.train import train

SETTINGS = "guard={window: 4, patience: 2, every: 3, rollbacks: 1, nonfinite_steps: 3}"
STEPS = "phases.0.steps=12"
MakePool = Callable[[work.Parts], Pool]


class Upset:
    """A pool whose results of some steps are of a run gone wrong: losses and meta-gradients a thousandfold, or NaN."""

    def __init__(
        self,
        inner: Pool,
        steps: tuple[int, ...],
        factor: float = 1000.0,
        index: int | None = None,
        losses: bool = True,
    ) -> None:
        self.inner, self.steps, self.factor, self.index, self.workers = inner, steps, factor, index, inner.workers
        self.losses = losses
        self.background, self.events = inner.background, dict[str, int]()

    def submit(self, items: list[WorkItem], snapshot: Snapshot) -> None:
        self.inner.submit(items, snapshot)

    def take(self) -> WorkResult:
        result = self.inner.take()
        if result.step not in self.steps or self.index not in (None, result.index):
            return result
        metrics = {**result.metrics, "loss": result.metrics["loss"] * (self.factor if self.losses else 1.0)}
        return replace(result, gradient=result.gradient * np.float32(self.factor), metrics=metrics)

    def total(self, *arguments: Any) -> Any:
        return self.inner.total(*arguments)

    def residual(self) -> Any:
        return self.inner.residual()

    def restore(self, residual: Any) -> None:
        self.inner.restore(residual)

    def close(self) -> None:
        self.inner.close()


def _upset(*steps: int, inner: MakePool = SerialPool, **how: Any) -> MakePool:
    return lambda parts: Upset(inner(parts), steps, **how)


CALM = (1.0, 1.1, 0.9, 1.0)


@pytest.mark.parametrize(("loss", "high"), [(1.4, 0), (20.0, 1), (-20.0, 0)])
def test_a_step_is_too_high_if_its_loss_is_far_above_the_level(loss: float, high: int) -> None:
    watch = observe(GuardConfig(window=4), Watch(CALM), loss, nonfinite=False)
    assert watch.high == high
    assert (watch.losses == CALM) == bool(high)  # the level is not raised by what lies above it


def test_the_level_of_negative_losses_is_a_level_too() -> None:
    window = tuple(-x for x in CALM)
    assert observe(GuardConfig(window=4), Watch(window), -0.8, nonfinite=False).high == 0
    assert observe(GuardConfig(window=4), Watch(window), 5.0, nonfinite=False).high == 1


def test_before_the_window_is_full_and_without_a_factor_nothing_is_too_high() -> None:
    assert observe(GuardConfig(window=4), Watch(CALM[:3]), 1e9, nonfinite=False).high == 0
    assert observe(GuardConfig(window=4, factor=0), Watch(CALM), 1e9, nonfinite=False).high == 0


def test_gradients_that_grow_while_the_loss_does_not_are_no_divergence(tiny_config: Any, run_to_end: Any) -> None:
    state, _ = run_to_end(tiny_config(STEPS, SETTINGS), _upset(*range(6, 12), losses=False))
    assert state.watch.rollbacks == 0


def test_one_hard_step_is_no_divergence(tiny_config: Any, run_to_end: Any) -> None:
    state, reports = run_to_end(tiny_config(STEPS, SETTINGS), _upset(6))
    assert state.watch.rollbacks == 0
    assert not any(report.rolled_back for report in reports)


def test_a_run_that_diverged_goes_on_from_the_last_good_state(tiny_config: Any, new_learner: Any) -> None:
    learner, parts = new_learner(tiny_config(STEPS, SETTINGS))
    thetas = []
    for report in train(learner, _upset(6, 7)(parts)):
        thetas.append(learner.state.theta)
        assert report.rolled_back == (report.step == 8)
        assert report.rollbacks == (report.step >= 8)
    assert torch.equal(thetas[7], thetas[5])  # steps 7 and 8 are undone; kept after every third
    assert not torch.equal(thetas[6], thetas[5])
    assert learner.state.step == learner.state.version == 14
    assert learner.state.tasks == 6 * 11 + 3 * 2
    assert learner.state.watch.since == 8


def test_a_run_that_diverges_once_too_often_ends(tiny_config: Any, run_to_end: Any) -> None:
    with pytest.raises(Diverged, match=r"step 11: diverged again after 1 rollbacks .*lower outer.learning_rate"):
        run_to_end(tiny_config(STEPS, SETTINGS), _upset(5, 6, 9, 10))


def test_a_divergence_long_after_the_last_one_is_another(tiny_config: Any, run_to_end: Any) -> None:
    settings = "guard={window: 4, patience: 2, every: 1, rollbacks: 1}"
    state, _ = run_to_end(tiny_config("phases.0.steps=24", settings), _upset(5, 6, 18, 19))
    assert (state.watch.rollbacks, state.watch.relapses) == (2, 1)
    with pytest.raises(Diverged, match=r"step 17: diverged again after 1 rollbacks \(loss .*, level "):
        run_to_end(tiny_config("phases.0.steps=24", settings), _upset(5, 6, 15, 16))


def test_a_new_phase_has_a_level_of_its_own(tiny_config: Any, run_to_end: Any) -> None:
    state, _ = run_to_end(tiny_config("phases.0.steps=6", "phases.1.steps=8", SETTINGS), _upset(*range(6, 14)))
    assert state.watch.rollbacks == 0


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("stop", [5, 7, 8, 9])
def test_a_resumed_run_rolls_back_as_the_uninterrupted_one(
    ahead: int, stop: int, tmp_path: Path, tiny_config: Any, new_learner: Any, run_to_end: Any, assert_same_state: Any
) -> None:
    """Stopped before the divergence, in its middle, right after the rollback, and later."""
    config = tiny_config(STEPS, SETTINGS, f"max_staleness={ahead}")
    whole, _ = run_to_end(config, _upset(6, 7))
    assert whole.watch.rollbacks == 1
    first, parts = new_learner(config)
    steps = train(first, _upset(6, 7)(parts))
    for _ in range(stop):
        next(steps)
    save_checkpoint(tmp_path / "c", config, first.layout, first.state)
    second, parts = new_learner(config)
    second.state = load_checkpoint(tmp_path / "c").state
    list(train(second, _upset(6, 7)(parts)))
    assert_same_state(second.state, whole)


@pytest.mark.ray
@pytest.mark.parametrize("ahead", [0, 2])
def test_a_run_on_ray_rolls_back_as_the_serial_one(
    ahead: int, tiny_config: Any, run_to_end: Any, on_ray: Any, assert_same_state: Any
) -> None:
    config = tiny_config(STEPS, SETTINGS, f"max_staleness={ahead}")
    serial, _ = run_to_end(config, _upset(6, 7))
    assert serial.watch.rollbacks == 1
    parallel, _ = run_to_end(config, _upset(6, 7, inner=on_ray(2)))
    assert_same_state(parallel, serial)


def test_steps_in_a_row_with_nonfinite_results_end_the_run(tiny_config: Any, run_to_end: Any) -> None:
    broken = {"factor": float("nan"), "index": 1}
    state, reports = run_to_end(tiny_config(STEPS, SETTINGS), _upset(3, 4, 6, 7, **broken))
    assert state.counts["nonfinite"] == 4
    assert [report.verdicts.get(Verdict.NONFINITE, 0) for report in reports[3:8]] == [1, 1, 0, 1, 1]
    with pytest.raises(Diverged, match=r"step 6: 3 steps in a row had non-finite results .*metagen replay") as caught:
        run_to_end(tiny_config(STEPS, SETTINGS), _upset(3, 4, 5, **broken))
    [quarantined] = caught.value.quarantined
    assert (quarantined.item.step, quarantined.item.index, quarantined.snapshot.version) == (5, 1, 5)
