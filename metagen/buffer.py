"""Which work is due, and which results make up the next outer step: one buffer for both modes.

At most ``items * (max_staleness + 1)`` pieces of work are under way or wait here. That bounds how far workers are ahead
and what results take of memory and, with the order in which they are applied, how old they get.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from metagen import work
from metagen.learner import Learner
from metagen.records import Piece, Snapshot, WorkItem, WorkResult


class Buffer:
    """The work and the results between ``learner`` and its workers."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.config = learner, learner.config
        self._under_way: dict[Piece, int] = {}  # pieces handed out, with their versions
        self._came: dict[Piece, list[WorkResult]] = {}  # their results; of a second one the learner is the judge
        self._late: list[WorkResult] = []  # results of pieces that earlier steps have taken
        self._planned = learner.state.step
        self._plan: Iterator[Piece] = iter(())

    def due(self) -> list[tuple[list[WorkItem], Snapshot]]:
        """Work to hand out now, with the version that it is to be estimated at.

        In mode sync all work of every step whose version is there; in mode async, as many pieces of the phase as there
        is room for, at the newest version.
        """
        return list(self._steps_due() if self.config.mode == "sync" else self._pieces_due())

    def _steps_due(self) -> Iterator[tuple[list[WorkItem], Snapshot]]:
        while self._planned < self.config.steps and self.learner.basis(self._planned) <= self.learner.state.step:
            snapshot = self.learner.snapshot(self._planned)
            yield self._handed_out(work.plan(self.config, self._planned, snapshot.version)), snapshot
            self._planned += 1

    def _pieces_due(self) -> Iterator[tuple[list[WorkItem], Snapshot]]:
        if self.learner.state.step == self.config.steps:
            return
        if self._planned <= self.learner.state.step:  # at the start, and as a phase begins
            self._plan, self._planned = self._phase_plan()
        room = self._items * (self.config.max_staleness + 1) - len(self._under_way) - len(self._came)
        if pieces := list(islice(self._plan, room)):
            snapshot = self.learner.snapshot()
            yield self._handed_out(work.items(self.config, pieces, snapshot.version)), snapshot

    def _phase_plan(self) -> tuple[Iterator[Piece], int]:
        """The pieces of the phase that have not been taken, in order, and the step that it ends before."""
        state, items = self.learner.state, self._items
        number, local = self.config.phase_at(state.step)
        first, steps = state.step - local, self.config.phases[number].steps
        places = range(local * items + len(state.owed), steps * items)
        return chain(state.owed, ((first + place // items, place % items) for place in places)), first + steps

    def _handed_out(self, items: list[WorkItem]) -> list[WorkItem]:
        self._under_way |= {(item.step, item.index): item.version for item in items}
        return items

    def add(self, result: WorkResult) -> None:
        """Take a result in; one that was begun before a rollback is void: its work is done anew."""
        if result.version < self.learner.state.watch.since:
            return
        piece = result.step, result.index
        if self._under_way.pop(piece, None) is not None or piece in self._came:
            self._came.setdefault(piece, []).append(result)
        else:
            self._late.append(result)

    def ready(self) -> bool:
        """Whether the next step can be taken.

        In mode sync: all of its own pieces have come. In mode async: as many have come, and none of those that it would
        leave is bound to get older than ``max_staleness``. Where one would, the learner waits for it rather than
        discard it. If the pieces left are applied oldest first, the one at place ``i`` is applied ``1 + i // items``
        versions from now.
        """
        if self.config.mode == "sync":
            step = self.learner.state.step
            return all((step, index) in self._came for index in range(self._items))
        if len(self._came) < self._items:
            return False
        soonest = self.learner.state.version + 1 - self.config.max_staleness
        if min(self._under_way.values(), default=soonest) < soonest:
            return False  # it would get too old
        chosen = set(self._chosen())
        waiting = (results[0].version for piece, results in self._came.items() if piece not in chosen)
        left = sorted(chain(waiting, self._under_way.values()))
        return all(version >= soonest + place // self._items for place, version in enumerate(left))

    def take(self) -> list[WorkResult]:
        """The results of the next step, and those that came too late for theirs."""
        late, self._late = self._late, []
        return [result for piece in self._chosen() for result in self._came.pop(piece)] + late

    def clear(self) -> None:
        """Forget all that was begun before a rollback."""
        self._under_way.clear()
        self._came.clear()
        self._planned = self.learner.state.step

    @property
    def _items(self) -> int:
        """Pieces that the next step is made of."""
        return self.config.phases[self.config.phase_at(self.learner.state.step)[0]].items

    def _chosen(self) -> list[Piece]:
        """The pieces of the next step: its own, or the oldest that have come."""
        if self.config.mode == "sync":
            return [(self.learner.state.step, index) for index in range(self._items)]
        return sorted(self._came, key=lambda piece: (self._came[piece][0].version, piece))[: self._items]
