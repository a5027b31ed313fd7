from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.sweep_schedule import SCHEDULERS, _Within, scheduler_of
from metagen.errors import UserError
from metagen.search.config import ScheduleConfig, SearchConfig
from metagen.search.ledger import Progress, Tried
from metagen.search.proposers import PROPOSERS
from metagen.seeding import numpy_generator

OUTER = {"phases.0.outer.learning_rate": {"loguniform": [0.001, 0.1]}, "ema": {"uniform": [0.0, 0.9]}}


def _results(number: int, rungs: int) -> list[dict[str, Any]]:
    rng = numpy_generator("schedule", number)
    level = float(rng.uniform())
    return [{"rung": rung, "loss": level + 1.0 / rung, "time_total_s": float(rung)} for rung in range(1, rungs + 1)]


def _decide(scheduler: Any, number: int, rungs: int) -> list[str]:
    """What a scheduler says of a trial at each rung, until it stops it."""
    trial, said = SimpleNamespace(trial_id=f"t{number}"), []
    controller = SimpleNamespace(search_alg=None)
    hashable = type("Trial", (), {"trial_id": trial.trial_id})()
    scheduler.on_trial_add(controller, hashable)
    for result in _results(number, rungs):
        said.append(scheduler.on_trial_result(controller, hashable, dict(result)))
        if said[-1] == "STOP":
            break
    return said


@pytest.mark.parametrize("name", ["asha", "median"])
def test_a_scheduler_that_is_told_of_the_past_decides_as_one_that_saw_it(tiny_sweep: Any, name: str) -> None:
    sweep = tiny_sweep(schedule={"name": name}, steps=18)
    space, rungs = sweep.make_space(), 9
    saw, progress = scheduler_of(sweep, space, Progress()), Progress()
    for number in range(12):
        taken = len(_decide(saw, number, rungs))
        status: Any = "complete" if taken == rungs else "stopped"
        progress.trials[number] = Tried(number, {}, {}, status, _results(number, rungs)[:taken])
    told = scheduler_of(sweep, space, progress)
    decisions = [_decide(saw, number, rungs) for number in range(12, 24)]
    assert [_decide(told, number, rungs) for number in range(12, 24)] == decisions
    assert any("STOP" in said for said in decisions)
    fresh = scheduler_of(sweep, space, Progress())
    assert [_decide(fresh, number, rungs) for number in range(12, 24)] != decisions


def test_a_sweep_whose_trials_diverge_goes_on_without_a_warning(tiny_sweep: Any) -> None:
    sweep = tiny_sweep(schedule={"name": "asha"}, steps=18)
    scheduler: Any = scheduler_of(sweep, sweep.make_space(), Progress())
    for number in range(2):
        trial: Any = type("Trial", (), {"trial_id": f"diverged{number}"})()
        scheduler.on_trial_add(None, trial)
        scheduler.on_trial_result(None, trial, {"rung": sweep.rungs, "loss": float("inf"), "time_total_s": 1.0})
    assert "STOP" not in _decide(scheduler, 0, sweep.rungs)


def test_every_scheduler_of_the_config_is_there_and_refuses_a_wrong_option(tiny_sweep: Any) -> None:
    names = ScheduleConfig.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
    assert set(names) == set(SCHEDULERS)
    for name in set(SCHEDULERS) - {"none"}:
        sweep = tiny_sweep(schedule={"name": name, "options": {"graces": 1}}, space=OUTER)
        with pytest.raises(UserError, match=f"schedule {name} options: graces: unknown key"):
            scheduler_of(sweep, sweep.make_space(), Progress())


def test_every_searcher_of_the_config_is_there() -> None:
    assert set(SearchConfig.model_fields["name"].annotation.__args__) == set(PROPOSERS)  # type: ignore[union-attr]


def test_a_perturbed_value_stays_in_its_domain(tiny_sweep: Any) -> None:
    sweep = tiny_sweep(schedule={"name": "pbt"}, space=OUTER)
    within = _Within(sweep.make_space().parameters)
    assert within({"phases.0.outer.learning_rate": 0.12, "ema": -0.1, "_trial": 3}) == {
        "phases.0.outer.learning_rate": 0.1,
        "ema": 0.0,
        "_trial": 3,
    }
