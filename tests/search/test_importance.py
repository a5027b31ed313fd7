from __future__ import annotations

from typing import Any

from metagen.search.importance import LEAST, importance
from metagen.search.ledger import Tried
from metagen.seeding import numpy_generator


def _tried(space: Any, count: int) -> list[Tried]:
    trials = []
    for number in range(count):
        assignment = space.draw(numpy_generator("importance", number))
        trial = Tried(number, assignment, {}, "complete")
        trial.results = [{"step": 2, "rung": 1, "loss": float(assignment["width"])}]
        trials.append(trial)
    return trials


def test_what_alone_decides_has_nearly_all_of_the_importance(tiny_sweep: Any) -> None:
    space = tiny_sweep().make_space()
    found = importance(space, _tried(space, 40))
    assert found is not None
    assert next(iter(found.shares)) == "width"
    assert found.shares["width"] > 0.9
    assert abs(sum(found.shares.values()) - 1) < 1e-9
    assert found.fit > 0.8


def test_of_too_few_trials_nothing_is_said(tiny_sweep: Any) -> None:
    space = tiny_sweep().make_space()
    assert importance(space, _tried(space, LEAST - 1)) is None
