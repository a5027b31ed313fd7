"""A pool of Ray actors, with the interface of ``metagen.pool.SerialPool``: hands work out, survives lost actors."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from torch import Tensor

from cluster.actor import Order
from cluster.piece import Piece, Published
from cluster.reduction import Reduction
from cluster.roster import Member, Roster
from metagen.config import RunConfig
from metagen.pool import Crew
from metagen.records import Snapshot, WorkItem, WorkResult, borrowed
from metagen.tasks.imageset import ImageSet
from metagen.wire import total

log = logging.getLogger(__name__)

WAIT_SECONDS, TEND_SECONDS = 0.25, 0.2
AT_ONCE = 16
"""Results that are fetched at once where so many have come."""
SHORTEST_SLOW, FROZEN_SECONDS, LONE_SECONDS = 0.5, 10.0, 120.0
"""Seconds below which no piece is slow; in which an actor whose work others have done must answer; and one whose work
nobody could do."""


class RayPool:
    """Actors of ``crews``, each one thread, each holding at most ``in_flight`` pieces of work.

    With two in flight the second waits at the actor, which never waits for the learner as long as there is work.
    Work is named by its work_id and depends on its arguments alone: whoever does it again gives the same result.

    - What an actor held that is lost (``events["lost"]``) goes to others, before all other work.
    - What takes much longer than most is given to a free actor as well (``"backups"``; backup tasks of Dean & Ghemawat
      2004, *MapReduce*, section 3.6). The first result counts, the other is never fetched (``"duplicates"``).
    - A result that is not finite is asked of another actor before it counts (``"again"``): one that overflows does so
      anywhere, a fault of a machine does not.
    - An actor that does not answer long after others have done its work is replaced (``"frozen"``).
    - Actors that come later (``"joined"``) get work as soon as they can.

    ``images`` are an image set, or a reference to one that lies in the object store already.

    With ``pool.aggregate``, or a wire of its own, meta-gradients stay on the nodes where they are made until the
    learner knows their weights. Then each node sums its own and sends one vector (``reduction.py``). What was on a node
    that is gone is done again.
    """

    roster: type[Roster] = Roster
    background = True

    def __init__(
        self,
        config: RunConfig,
        images: ImageSet | ray.ObjectRef[ImageSet],
        workers: int | Sequence[Crew],
        in_flight: int | None = None,
    ) -> None:
        crews = [Crew(workers, workers)] if isinstance(workers, int) else workers
        # A piece in hand and one to begin while the learner applies: more where it may be further behind is waste.
        self.in_flight = in_flight or config.pool.in_flight or (2 if config.max_staleness else 1)
        self.backup = config.pool.backup
        self._waiting: deque[Piece] = deque()
        self._running: dict[Any, tuple[Piece, Member]] = {}
        self._vectors: dict[Any, Any] = {}  # of those, references to meta-gradients that stay on their nodes
        self._keep = config.max_staleness + 1
        self._arrived: deque[WorkResult] = deque()
        self._seconds: dict[int, deque[float]] = {}  # what pieces of each phase took of late
        self._published: Published | None = None
        self._tended = 0.0
        self.wire, self._aggregate = config.wire, config.pool.aggregate
        self._apart: dict[tuple[str, int], Piece] = {}  # pieces whose meta-gradients are on their nodes
        self._reduction = Reduction(config.wire)
        self._roster = self.roster(config, images, crews)

    @property
    def workers(self) -> int:
        """Actors that can work now."""
        return max(len(self._roster.able), 1)

    @property
    def events(self) -> Mapping[str, int]:
        """What befell the actors since the start: joined, lost, frozen, backups, duplicates, again."""
        return self._roster.events

    def submit(self, items: Sequence[WorkItem], snapshot: Snapshot) -> None:
        """Queue ``items``. A version goes into the object store once; a node fetches it once for all its actors."""
        if self._published is None or self._published.version != snapshot.version:
            self._published = Published(snapshot.version, ray.put(snapshot.theta), snapshot.policy)
        self._waiting.extend(Piece(item, self._published) for item in items)
        self._hand_out()

    def take(self) -> WorkResult:
        """The next result to come, of whoever was first to give it."""
        while not self._arrived:
            if not self._waiting and all(piece.done for piece, _ in self._running.values()):
                raise LookupError("no work is under way")
            if time.monotonic() - self._tended > TEND_SECONDS:
                self._tend()
            self._hand_out()
            self._receive()
        return self._arrived.popleft()

    def total(
        self, results: Sequence[WorkResult], weights: Sequence[float], parameters: int, policy: int
    ) -> tuple[Tensor, Tensor]:
        """The weighted sums ``[P]`` and ``[G]``: of vectors that are here in their order, then node by node."""
        here: list[tuple[WorkResult, float]] = []
        apart: list[tuple[WorkResult, float, Piece]] = []
        for result, weight in zip(results, weights, strict=True):
            if piece := self._apart.get((result.work_id, result.version)):
                apart.append((result, weight, piece))
            else:
                here.append((result, weight))
        gradient, policy_gradient = total([r for r, _ in here], [w for _, w in here], parameters, policy)
        for result, weight, _ in apart:
            policy_gradient.add_(borrowed(result.policy_update), alpha=weight)
        left = [(weight, piece) for _, weight, piece in apart]
        while left:
            self._make_again([piece for _, piece in left if piece.vector is None])
            nodes = list(dict.fromkeys(piece.node for _, piece in left))
            groups = {node: [(weight, piece.vector) for weight, piece in left if piece.node == node] for node in nodes}
            for node, sums in self._reduction.totals(groups).items():
                if sums is not None:
                    gradient.add_(sums)
                    left = [(weight, piece) for weight, piece in left if piece.node != node]
            for _, piece in left:
                piece.vector = None
        # Copies that the learner has refused, and results of steps that were undone, are asked for no more.
        newest = max((result.version for result in results), default=0)
        taken = {(result.work_id, result.version) for result in results}
        self._apart = {
            key: piece for key, piece in self._apart.items() if key not in taken and key[1] >= newest - self._keep
        }
        return gradient, policy_gradient

    def residual(self) -> Tensor:
        """What the nodes' senders have not said yet, in sum ``[P]``; empty if there is none."""
        return self._reduction.residual()

    def restore(self, residual: Tensor) -> None:
        """Go on with ``residual`` as what has not been said."""
        self._reduction.restore(residual)

    def close(self) -> None:
        """Stop the actors; results still on their way are dropped."""
        self._reduction.close()
        self._apart = {}
        self._roster.close()
        self._waiting, self._running, self._arrived = deque(), {}, deque()

    def _hand_out(self) -> None:
        """Give waiting pieces to whoever has least to do."""
        while self._waiting and self._waiting[0].done:
            self._waiting.popleft()
        if not self._waiting:
            return
        able = self._roster.able
        for load in range(self.in_flight):
            for member in able:
                if len(member.held) == load:
                    if not self._waiting:
                        return
                    self._give(self._waiting.popleft(), member)

    def _give(self, piece: Piece, member: Member) -> None:
        if not member.held:
            member.since = time.monotonic()
        member.held.append(piece)
        piece.holders.append(member)
        published = piece.published
        order = Order(piece.item, published.version, published.policy).written()
        few = self._aggregate is None or len(self._roster.able) < self._aggregate
        if self.wire == "auto" and few and not piece.node:  # what is made again is made for its vector
            self._running[member.handle.run.remote(published.theta, order)] = (piece, member)
        else:
            head, vector = member.handle.run_apart.remote(published.theta, order)
            self._running[head] = (piece, member)
            self._vectors[head] = vector

    def _give_another(self, piece: Piece, member: Member) -> None:
        """Give ``piece`` to anybody but ``member``, who has least to do; to ``member`` if there is nobody else."""
        others = [other for other in self._roster.able if other is not member] or [member]
        self._give(piece, min(others, key=lambda other: len(other.held)))

    def _receive(self) -> None:
        """Wait a little for results, take in those that have come, and give whoever is free by that the next work:
        it need not wait until the caller has looked at them all."""
        if not self._running:
            self._roster.wait(WAIT_SECONDS)
            return
        references = list(self._running)
        ready, _ = ray.wait(references, num_returns=min(AT_ONCE, len(references)), timeout=0)
        if not ready:
            ready, _ = ray.wait(references, num_returns=1, timeout=WAIT_SECONDS)
        fetched = self._fetched([reference for reference in ready if not self._running[reference][0].done])
        for reference in ready:
            if reference in self._running:  # a loss takes all that the actor held
                self._settle(reference, *self._running[reference], fetched.get(reference))
        if self._roster.failing:  # what is tried again at once would fail at once
            self._roster.wait(WAIT_SECONDS)
        self._hand_out()

    def _fetched(self, references: list[Any]) -> dict[Any, WorkResult]:
        """The results behind ``references`` in one call of Ray; none if any of them cannot be had."""
        try:
            return dict(zip(references, ray.get(references), strict=True))
        except RayError:  # each will say for itself
            return {}

    def _settle(self, reference: Any, piece: Piece, member: Member, fetched: WorkResult | None) -> None:
        """Take in the result behind ``reference``, or give its piece to others."""
        if piece.done:  # another was faster; what this one says is not fetched, and whether it lives shows later
            self._release(reference, piece, member)
            self._roster.events["duplicates"] += 1
            return
        try:
            result: WorkResult = fetched or ray.get(reference)
        except RayActorError:
            self._lose(member)
            return
        except RayError as error:  # the actor lives, what it was given or gave does not, unless the work is to blame
            self._roster.failed(error)
            self._release(reference, piece, member)
            if not piece.holders:
                self._give_another(piece, member)
            return
        self._roster.worked()
        vector = self._vectors.get(reference)
        self._release(reference, piece, member)
        if not result.sound and not piece.again:
            piece.again = True
            self._roster.events["again"] += 1
            self._give_another(piece, member)
            return
        kept = vector is not None and result.sound and not result.probes
        known = piece.node != ""  # made again, for its vector alone
        if known and not kept:  # of a copy that was given out before its vector was asked for
            self._redo(piece)
            return
        piece.done = True
        self._seconds.setdefault(piece.item.phase, deque(maxlen=32)).append(result.seconds)
        if kept:
            piece.vector, piece.node = vector, member.node
            self._apart[result.work_id, result.version] = piece
        if not known:
            self._arrived.append(result)

    def _release(self, reference: Any, piece: Piece, member: Member) -> None:
        del self._running[reference]
        self._vectors.pop(reference, None)
        member.held.remove(piece)
        piece.holders.remove(member)
        member.since = time.monotonic()

    def _lose(self, member: Member, frozen: bool = False) -> None:
        """An actor is gone, or taken for gone: what it held is for others, before all other work."""
        for reference, (piece, holder) in list(self._running.items()):
            if holder is member:
                self._release(reference, piece, member)
                if self._redo(piece):
                    log.warning("step %d, index %d is lost with its actor", piece.item.step, piece.item.index)
        if frozen:
            self._roster.freeze(member)
        else:
            self._roster.lost(member)

    def _redo(self, piece: Piece) -> bool:
        """Give out a piece again, before all others, unless somebody has it or it is done; whether that was so."""
        again = not piece.done and not piece.holders
        if again:
            self._waiting.appendleft(piece)
        return again

    def _make_again(self, pieces: list[Piece]) -> None:
        """Have the vectors of ``pieces`` made again, whose node is gone."""
        for piece in pieces:
            piece.done = False
            self._redo(piece)
        while not all(piece.done for piece in pieces):
            self._tend()
            self._hand_out()
            self._receive()

    def _tend(self) -> None:
        """Look after the actors, and after what takes too long."""
        now = self._tended = time.monotonic()
        self._roster.tend()
        if not self.backup:
            return
        usual = self._usual()
        busy = [member for member in self._roster.able if member.held]
        slow = [member for member in busy if now - member.since > usual[member.held[0].item.phase]]
        free = [member for member in self._roster.able if not member.held]
        for member in slow:
            for piece in member.held:
                if free and not self._waiting and not piece.done and all(one in slow for one in piece.holders):
                    self._roster.events["backups"] += 1
                    self._give(piece, free.pop())
            limit = FROZEN_SECONDS if member.held[0].done else LONE_SECONDS
            if now - member.since > member.patience * max(limit, 10 * usual[member.held[0].item.phase]):
                self._lose(member, frozen=True)

    def _usual(self) -> Mapping[int, float]:
        """Seconds in which most actors have done a piece, by its phase: one of another phase is no measure."""
        known = {phase: max(self.backup * median(times), SHORTEST_SLOW) for phase, times in self._seconds.items()}
        return defaultdict(lambda: LONE_SECONDS, known)
