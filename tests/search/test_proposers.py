from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from metagen.errors import UserError
from metagen.search.evolution import changed
from metagen.search.ledger import Ledger, Progress
from metagen.search.models import Optuna, optional
from metagen.search.proposers import proposer_of

OUTER = {"phases.0.outer.learning_rate": {"loguniform": [0.001, 0.1]}, "ema": {"uniform": [0.0, 0.9]}}


def _drive(sweep: Any, ledger: Ledger, loss: Callable[[dict[str, Any]], float], count: int) -> Any:
    """Propose and judge ``count`` trials, as the driver does; every third ends early. Gives the proposer."""
    proposer, (progress, place) = proposer_of(sweep, sweep.make_space()), ledger.read()
    if progress.trials:
        proposer.recall(progress)
    for number in range(len(progress.trials), len(progress.trials) + count):
        assignment = proposer.propose(number)
        assert assignment is not None
        facts = {"parameters": float(number), "flops": 1.0}
        ledger.write("proposed", trial=number, attempt=number, assignment=assignment, facts=facts)
        proposer.take(number)
        result = {"step": 2, "rung": 1, "loss": loss(assignment)}
        ledger.write("result", trial=number, **result)
        proposer.judge(number, result)
        ledger.write("stopped" if number % 3 == 2 and len(sweep.objectives) == 1 else "complete", trial=number)
        progress, place = ledger.read(progress, place)
        proposer.end(progress.trials[number])
    return proposer


def test_random_proposals_do_not_depend_on_what_was_interrupted(tiny_sweep: Any) -> None:
    sweep = tiny_sweep(search={"name": "random"})
    first, second = (proposer_of(sweep, sweep.make_space()) for _ in range(2))
    all_of_them = [first.propose(attempt) for attempt in range(6)]
    second.recall(Progress(attempts=3))
    assert [second.propose(attempt) for attempt in range(3, 6)] == all_of_them[3:]
    assert len({json.dumps(one) for one in all_of_them}) == 6


def test_a_grid_ends(tiny_sweep: Any) -> None:
    sweep = tiny_sweep(search={"name": "grid"}, space={"levels": {"range": [1, 3]}})
    grid = proposer_of(sweep, sweep.make_space())
    assert [grid.propose(attempt) for attempt in range(4)] == [{"levels": 1}, {"levels": 2}, {"levels": 3}, None]


def test_a_grid_of_a_continuum_is_refused(tiny_sweep: Any) -> None:
    sweep = tiny_sweep(search={"name": "grid"})
    with pytest.raises(UserError, match="learning_rate: a grid needs choice or range"):
        proposer_of(sweep, sweep.make_space())


def _told(proposer: Optuna) -> list[tuple[Any, ...]]:
    return [
        (trial.state, trial.params, trial.values, trial.intermediate_values)
        for trial in proposer.study.get_trials(deepcopy=False)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"name": "tpe", "options": {"startup": 3}}},
        {"search": {"name": "nsga2", "options": {"population": 4}}, "objectives": ["loss", "parameters"]},
    ],
)
def test_a_recalled_study_knows_what_the_first_was_told(
    tiny_sweep: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    sweep = tiny_sweep(**{"schedule": {"name": "none"}, **changes})
    ledger = Ledger(tmp_path)
    ledger.write("session", pid=1, host="here")
    first = _drive(sweep, ledger, lambda a: float(a["width"]), 7)
    second = proposer_of(sweep, sweep.make_space())
    second.recall(ledger.read()[0])
    assert _told(second) == _told(first)
    assert second.propose(7) is not None


@pytest.mark.parametrize(
    "search",
    [{"name": "tpe", "options": {"startup": 5}}, {"name": "bohb"}, {"name": "evolution", "options": {"startup": 5}}],
)
def test_a_searcher_finds_the_bottom_of_a_bowl_also_after_a_break(
    tiny_sweep: Any, tmp_path: Path, search: dict[str, Any]
) -> None:
    sweep = tiny_sweep(search=search, schedule={"name": "hyperband"}, space=OUTER)
    ledger = Ledger(tmp_path)
    ledger.write("session", pid=1, host="here")
    for _ in range(2):
        _drive(sweep, ledger, lambda a: abs(a["ema"] - 0.3), 20)
    trials = list(ledger.read()[0].trials.values())
    late = [trial.objective("loss") for trial in trials[25:]]
    at_random = 0.225  # the median of |ema - 0.3| for a uniform ema in [0, 0.9]
    assert median(late) < 0.5 * at_random


def test_evolution_proposes_the_same_after_a_break_and_nothing_twice(tiny_sweep: Any, tmp_path: Path) -> None:
    space = {"levels": {"range": [1, 3]}, "width": {"range": [8, 48], "step": 8}}
    sweep = tiny_sweep(search={"name": "evolution", "options": {"startup": 3, "sample": 4}}, space=space)
    ledger = Ledger(tmp_path)
    ledger.write("session", pid=1, host="here")
    first = _drive(sweep, ledger, lambda a: abs(a["width"] / 8 - 4) + abs(a["levels"] - 2), 12)
    second = proposer_of(sweep, sweep.make_space())
    second.recall(ledger.read()[0])
    assert [first.propose(attempt) for attempt in (12, 13)] == [second.propose(attempt) for attempt in (12, 13)]
    tried = [json.dumps(trial.assignment) for trial in ledger.read()[0].trials.values()]
    assert len(set(tried)) == 12
    assert json.dumps({"levels": 2, "width": 32}) in tried


def test_evolution_tries_no_run_twice_under_two_names(tiny_sweep: Any, tmp_path: Path) -> None:
    space = {"levels": {"choice": [1]}, "width": {"range": [8, 16], "step": 8}, "growth": {"choice": [1.0, 1.5, 2.0]}}
    sweep = tiny_sweep(search={"name": "evolution", "options": {"startup": 1}}, space=space)
    ledger = Ledger(tmp_path)
    ledger.write("session", pid=1, host="here")
    _drive(sweep, ledger, lambda a: 1.0, 2)
    assert {trial.assignment["width"] for trial in ledger.read()[0].trials.values()} == {8, 16}


def test_what_evolution_changes_is_in_the_space(tiny_sweep: Any) -> None:
    space = tiny_sweep(
        space={
            "levels": {"range": [1, 3]},
            "generator.options.kind": {"choice": [[1, 2], "none"], "when": {"levels": 2}},
            "width": {"range": [24, 96], "step": 8},
            "ema": {"uniform": [0.0, 0.9]},
            "phases.0.outer.learning_rate": {"loguniform": [0.001, 0.1]},
        }
    ).make_space()
    rng = np.random.default_rng(0)
    seen: dict[str, set[Any]] = {}
    parent = space.draw(rng)
    for _ in range(300):
        child = changed(space, parent, rng)
        space.check(child)
        assert child != parent
        for name, value in child.items():
            seen.setdefault(name, set()).add(json.dumps(value))
        parent = child
    assert [len(seen[name]) for name in ("levels", "generator.options.kind", "width")] == [3, 2, 10]


def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(UserError, match=r"search x needs no_such_library .*pip install 'metagen\[sweep\]'"):
        optional("no_such_library", "search x")


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"name": "random"}},
        {"search": {"name": "tpe"}},
        {"search": {"name": "evolution"}},
        {"search": {"name": "nsga2"}, "objectives": ["loss", "parameters"], "schedule": {"name": "none"}},
        {"search": {"name": "bohb"}, "schedule": {"name": "hyperband"}},
    ],
)
def test_what_a_sweep_names_first_is_tried_first(tiny_sweep: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    wanted = [{"levels": 2, "kind": [1, 2], "rate": 0.02}, {"levels": 1, "rate": 0.05}]
    space = {
        "levels": {"range": [1, 3]},
        "kind": {"choice": [[1, 2], "none"], "when": {"levels": 2}},
        "rate": {"loguniform": [0.001, 0.1]},
    }
    names = {"kind": "generator.options.kind", "rate": "phases.0.outer.learning_rate"}

    def named(values: dict[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): value for name, value in values.items()}

    sweep = tiny_sweep(**changes, space=named(space), first=[named(one) for one in wanted])
    ledger = Ledger(tmp_path)
    ledger.write("session", pid=1, host="here")
    _drive(sweep, ledger, lambda a: float(a["levels"]), 4)
    tried = [trial.assignment for trial in ledger.read()[0].trials.values()]
    assert tried[:2] == [named(one) for one in wanted]
    assert tried[2] not in tried[:2]
