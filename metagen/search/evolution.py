"""Proposals by small changes to the best so far: regularised evolution (Real et al. 2019)."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from pydantic import Field

from metagen.errors import UserError
from metagen.search.config import SweepConfig
from metagen.search.ledger import Progress, Tried
from metagen.search.space import Assignment, Domain, Space, Value
from metagen.seeding import numpy_generator
from metagen.strict import Strict

REACH = 0.15
"""Standard deviation of a change to a number, as a share of its domain."""
AGAIN = 0.5
"""Chance that another parameter changes too, and after it another: a wider network may have to be less deep."""
ATTEMPTS = 100
"""Children drawn to find a run that was not tried."""


class EvolutionOptions(Strict):
    startup: int = Field(8, ge=1)
    """Trials at random, or the sweep's ``first``, before there are children."""
    population: int = Field(24, ge=1)
    """The newest whole trials, of which parents are chosen: older ones, however good, have had their luck."""
    sample: int = Field(8, ge=1)
    """Of them at random, the best of which is the parent."""


class Evolution:
    """Regularised evolution (Real et al. 2019, "Regularized evolution for image classifier architecture search").

    A proposal is the best of a sample of the newest whole trials, with one parameter changed or a few. What it proposes
    depends on the seed, the proposal's number and what was tried, so that a sweep goes on as if it had not been
    interrupted.
    """

    Options = EvolutionOptions

    def __init__(self, sweep: SweepConfig, space: Space, options: EvolutionOptions) -> None:
        self.sweep, self.space, self.options = sweep, space, options
        self.trials = 0
        self.tried: set[str] = set()
        self.whole: list[tuple[int, float, Assignment]] = []

    def propose(self, attempt: int) -> Assignment | None:
        rng = numpy_generator(self.sweep.seed, "evolution", attempt)
        proposed = self.sweep.given(attempt) or self._new(rng)
        self.tried.add(self._key(proposed))
        return proposed

    def _new(self, rng: np.random.Generator) -> Assignment:
        draw = self.space.draw if self.trials < self.options.startup or not self.whole else self._child
        child: Assignment = {}
        for _ in range(ATTEMPTS):
            child = draw(rng)
            if self._key(child) not in self.tried:
                break
        return child

    def _child(self, rng: np.random.Generator) -> Assignment:
        newest = sorted(self.whole)[-self.options.population :]
        among = rng.permutation(len(newest))[: self.options.sample]
        parent = min((newest[index] for index in among), key=lambda one: one[1])[2]
        return changed(self.space, parent, rng)

    def take(self, number: int) -> None:
        self.trials += 1

    def refuse(self) -> None: ...

    def judge(self, number: int, result: dict[str, Any]) -> None: ...

    def end(self, trial: Tried) -> None:
        loss = trial.objective(self.sweep.objectives[0])
        if trial.status == "complete" and math.isfinite(loss):
            self.whole.append((trial.number, loss, trial.assignment))

    def recall(self, progress: Progress) -> None:
        self.trials = len(progress.trials)
        self.tried |= {self._key(assignment) for _, assignment, _ in progress.refusals}
        for trial in progress.trials.values():
            self.tried.add(self._key(trial.assignment))
            self.end(trial)

    def _key(self, assignment: Assignment) -> str:
        """The run that it stands for: several assignments may, as with attention at no level that there is."""
        try:
            return self.space.config(assignment).model_dump_json()
        except UserError:  # there is no such run; whoever asked for a proposal will refuse it
            return json.dumps(assignment, sort_keys=True)


def changed(space: Space, parent: Assignment, rng: np.random.Generator) -> Assignment:
    """``parent`` with one of its parameters changed, or a few; those that come to be active are drawn."""
    free = [name for name in parent if (values := space.parameters[name].finite) is None or len(values) > 1]
    count = min(len(free), int(rng.geometric(1 - AGAIN)))
    moving = {free[index] for index in rng.permutation(len(free))[:count]}

    def ask(name: str, domain: Domain) -> Value:
        if name not in parent:
            return domain.draw(rng)
        return near(domain, parent[name], rng) if name in moving else parent[name]

    return space.assign(ask)


def near(domain: Domain, value: Value, rng: np.random.Generator) -> Value:
    """Another value: any other choice, or a number nearby."""
    if domain.choice is not None:
        others = [one for one in domain.choice if domain.label(one) != domain.label(value)]
        return others[int(rng.integers(len(others)))]
    log = domain.loguniform is not None
    low, high = np.log(domain.ends) if log else domain.ends
    moved = (np.log(value) if log else value) + rng.normal() * REACH * (high - low)
    # What would lie outside is mirrored at the end that it passed.
    moved = low + abs(moved - low) if moved < low else high - abs(high - moved)
    if domain.finite is None:
        return float(np.clip(np.exp(moved) if log else moved, *domain.ends))
    return min((number for number in domain.finite if number != value), key=lambda number: abs(number - moved))
