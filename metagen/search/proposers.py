"""Who proposes what to try: at random, over a grid, by evolution, by a model. Each is rebuilt from the ledger."""

from __future__ import annotations

import itertools
from typing import Any, Protocol

from metagen.registry import find, options_of
from metagen.search.config import SweepConfig
from metagen.search.evolution import Evolution
from metagen.search.ledger import Progress, Tried
from metagen.search.models import Bohb, Nsga2, Tpe
from metagen.search.space import Assignment, Space
from metagen.seeding import numpy_generator


class Proposer(Protocol):
    """Proposes assignments, the sweep's ``first`` before its own, and hears what became of them.

    Trials are known by their number.
    """

    def propose(self, attempt: int) -> Assignment | None:
        """What to try in the ``attempt``-th proposal of the sweep, refused ones counted; None if all was proposed."""
        ...

    def take(self, number: int) -> None:
        """The last proposal is trial ``number``."""
        ...

    def refuse(self) -> None:
        """The last proposal cannot be."""
        ...

    def judge(self, number: int, result: dict[str, Any]) -> None:
        """A judgement came in."""
        ...

    def end(self, trial: Tried) -> None:
        """A trial ended."""
        ...

    def recall(self, progress: Progress) -> None:
        """Know again all that an earlier session has heard."""
        ...


class Random:
    """Each proposal drawn from the space by its own seed."""

    def __init__(self, sweep: SweepConfig, space: Space, options: None) -> None:
        self.sweep, self.space = sweep, space

    def propose(self, attempt: int) -> Assignment | None:
        return self.sweep.given(attempt) or self.space.draw(numpy_generator(self.sweep.seed, "proposal", attempt))

    def take(self, number: int) -> None: ...
    def refuse(self) -> None: ...
    def judge(self, number: int, result: dict[str, Any]) -> None: ...
    def end(self, trial: Tried) -> None: ...
    def recall(self, progress: Progress) -> None: ...


class Grid(Random):
    """All assignments in order."""

    def __init__(self, sweep: SweepConfig, space: Space, options: None) -> None:
        super().__init__(sweep, space, options)
        next(space.grid())  # a space without end is refused here

    def propose(self, attempt: int) -> Assignment | None:
        return next(itertools.islice(self.space.grid(), attempt, None), None)


PROPOSERS: dict[str, Any] = {
    "random": Random,
    "grid": Grid,
    "evolution": Evolution,
    "tpe": Tpe,
    "nsga2": Nsga2,
    "bohb": Bohb,
}


def proposer_of(sweep: SweepConfig, space: Space) -> Proposer:
    """The proposer that a sweep names; raises ``UserError`` for wrong options or a library that is not there."""
    entry = find("search", sweep.search.name, PROPOSERS)
    proposer: Proposer = entry(sweep, space, options_of(f"search {sweep.search.name}", entry, sweep.search.options))
    return proposer
