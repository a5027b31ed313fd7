from __future__ import annotations

from typing import Any

import pytest
import torch

from metagen import budget, work
from metagen.config import RunConfig
from metagen.pool import SerialPool
from metagen.tasks import ImageSet

PHASES = "phases=[{estimator: joint, steps: 60, items: 2, tasks: 2}, {estimator: joint, steps: 20, items: 3, tasks: 2}]"


@pytest.fixture
def parts(tiny_config: Any, tiny_images: ImageSet) -> Any:
    """Parts of a run of two phases with a budget."""

    def make(*assignments: str) -> work.Parts:
        return work.build(tiny_config(PHASES, *assignments), tiny_images)

    return make


def _fit(parts: work.Parts, workers: int = 1) -> RunConfig:
    return budget.fit(parts, SerialPool(parts), workers)


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rehearsals and the learner's step take the seconds that are given: those of each phase in turn."""

    def pace(rehearsals: list[list[float]], applying: float = 0.0) -> None:
        left = [iter(times) for times in rehearsals]
        monkeypatch.setattr(budget, "_rehearsed", lambda parts, pool, phase, *_, **half: (next(left[phase]), []))
        monkeypatch.setattr(budget, "_applying", lambda parts, pool, results: applying)
        monkeypatch.setattr(budget, "OVERHEAD", 1.0)

    return pace


def test_without_a_budget_nothing_is_measured_and_nothing_changes(parts: Any, paced: Any) -> None:
    paced([[], []])
    made = parts()
    assert _fit(made) is made.config


def test_a_run_that_fits_keeps_its_steps(parts: Any) -> None:
    made = parts("budget=10000")
    assert _fit(made) is made.config


@pytest.mark.parametrize(
    ("workers", "turns"),
    [(1, [2, 3]), (2, [1, 2])],  # three items for two workers take two turns
)
def test_a_run_that_does_not_fit_keeps_the_shares_of_its_phases(
    parts: Any, paced: Any, workers: int, turns: list[int]
) -> None:
    paced([[99.0, 10.0], [6.0]], applying=1.0)  # one is more than enough
    whole = 60 * (turns[0] * 10.0 + 1.0) + 20 * (turns[1] * 6.0 + 1.0)
    config = _fit(parts(f"budget={whole / 2}"), workers)
    assert [phase.steps for phase in config.phases] == [30, 10]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.25, 0.25, 0.25], 0.25),
        ([1.0, 0.5, 0.25, 0.25, 0.25], 0.25),  # others were busy for a moment
        ([1.0, 2.0] * 2, 1.5),  # and here all the time: six seconds are enough
        ([7.0], 7.0),
    ],
)
def test_the_first_rehearsal_does_not_count_and_those_after_it_do_once_they_are_alike(
    parts: Any, paced: Any, times: list[float], expected: float
) -> None:
    paced([[9.0, *times], [0.0]])
    config = _fit(parts(f"budget={60 * 2 * expected / 4}"))
    assert config.phases[0].steps == 15


def test_every_phase_keeps_a_step_however_small_the_budget(parts: Any) -> None:
    config = _fit(parts("budget=0.000001"))
    assert [phase.steps for phase in config.phases] == [1, 1]


def test_rehearsing_changes_nothing(parts: Any, run_to_end: Any, assert_same_state: Any) -> None:
    """Not the pool either, which the run then goes on with."""
    made, state = parts("budget=0.000001"), torch.get_rng_state()
    pool = SerialPool(made)
    config = budget.fit(made, pool, 1)
    assert torch.equal(torch.get_rng_state(), state)
    rehearsed, _ = run_to_end(config, lambda parts: pool)
    fresh, _ = run_to_end(config)
    assert_same_state(rehearsed, fresh)


@pytest.mark.ray
def test_actors_that_rehearsed_give_the_serial_run_bit_for_bit(
    parts: Any, run_to_end: Any, assert_same_state: Any, on_ray: Any
) -> None:
    made = parts("budget=0.000001", "wire=int8")
    pool = on_ray(2)(made)
    config = budget.fit(made, pool, 2)
    rehearsed, _ = run_to_end(config, lambda parts: pool)
    serial, _ = run_to_end(config)
    assert_same_state(rehearsed, serial)


def test_an_exact_number_of_steps_overrules_the_budget(parts: Any) -> None:
    assert parts("budget=1").config.with_steps(40).budget is None
