"""Who works: actors that start, join a running job, are lost and replaced."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, UnserializableException

from cluster.actor import Actor
from cluster.connect import actor_environment
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.pool import Crew
from metagen.tasks.imageset import ImageSet

log = logging.getLogger(__name__)

GROW_SECONDS = 5.0
RETRY_SECONDS = 1.0
SILENT_SECONDS = 10.0
"""Without another actor at the start of a run, after which it says that it waits."""
FAILURES = 10
"""Calls of living actors that Ray must have failed at, one after the other, before a run gives up."""


@dataclass(eq=False)
class Member:
    """One actor, or the place of one that is being started."""

    name: str
    crew: Crew
    handle: Any = None
    preparing: Any = None
    """Reference to its answer that it can work."""
    able: bool = False
    """Whether it has given it."""
    node: str = ""
    """Where it then is."""
    held: list[Any] = field(default_factory=list)
    """Pieces of work that it holds, the one that it works on first."""
    since: float = 0.0
    """When it began the first of them, as far as one can tell from here."""
    patience: float = 1.0
    """Grows with every time that it was taken for frozen and replaced."""


class Roster:
    """The actors of ``crews``. A lost one is replaced by a new one in its place, as soon as Ray has room for it."""

    def __init__(self, config: RunConfig, images: ImageSet | ray.ObjectRef[ImageSet], crews: Sequence[Crew]) -> None:
        self.config, self.crews, self.patience = config, crews, config.pool.patience
        self.events: Counter[str] = Counter()
        self.members: list[Member] = []
        # One put: actors on a node read the images from the same shared memory. Kept for actors that come later.
        self._images = ray.put(images) if isinstance(images, ImageSet) else images
        self._most = max(phase.items for phase in config.phases) * (config.max_staleness + 1)
        self._grown = 0.0
        self._alone_since: float | None = None  # since when there has been no actor
        self._again: dict[Member, float] = {}  # places to fill, and from when on
        self._reason = ""  # why the last actor that was lost at its start was lost
        self._failing: list[float] = []  # when Ray failed at work, since the last that was done
        for crew in crews:
            for _ in range(crew.most or crew.least):
                self._add(crew)
        try:
            self._await_least()
        except BaseException:
            self.close()
            raise
        self.events.clear()

    @property
    def able(self) -> list[Member]:
        """The actors that can be given work."""
        return [member for member in self.members if member.able]

    @property
    def preparing(self) -> dict[Any, Member]:
        """Those that have been started, by the reference to their answer that they can work."""
        return {member.preparing: member for member in self.members if member.preparing is not None}

    def tend(self) -> None:
        """See who has become able to work, fill places, grow with the cluster; raise if there has long been nobody."""
        now = time.monotonic()
        if waited := self.preparing:
            for reference in ray.wait(list(waited), num_returns=len(waited), timeout=0, fetch_local=False)[0]:
                self._welcome(waited[reference], reference)
        for member in [member for member, when in self._again.items() if when <= now]:
            del self._again[member]
            self._start(member)
        if now - self._grown > GROW_SECONDS:
            self._grown = now
            self._grow()
        if self.able:
            self._alone_since = None
        else:
            self._alone_since = self._alone_since or now
            if now - self._alone_since > self.patience:
                raise UserError(
                    f"no actor for {self.patience:g} s{self._reason}: look at 'ray status'; 'metagen resume' goes on "
                    "from the last checkpoint; for more time raise pool.patience"
                )

    def wait(self, seconds: float) -> None:
        """Let time pass, but not beyond the moment that an actor becomes able to work."""
        if waited := list(self.preparing):
            ray.wait(waited, num_returns=1, timeout=seconds)
        else:
            time.sleep(seconds)

    def lost(self, member: Member) -> None:
        """An actor is gone: put another into its place. What it held is the caller's to give to others."""
        self.events["lost"] += 1
        self._replace(member)

    def freeze(self, member: Member) -> None:
        """An actor answers no more: end it, and put another into its place."""
        self.events["frozen"] += 1
        member.patience *= 2
        ray.kill(member.handle)
        self._replace(member)

    @property
    def failing(self) -> bool:
        """Whether Ray has failed at the last work that came back."""
        return bool(self._failing)

    def worked(self) -> None:
        """An actor has done a piece of work."""
        self._failing = []

    def failed(self, error: RayError) -> None:
        """A piece of work has failed, and its actor lives: raise if the work is to blame, or if Ray has long failed at
        all work. What is left then is the caller's to give to others."""
        if own(error):
            raise reason(error) from error
        now = time.monotonic()
        if not self._failing:
            log.warning("Ray failed at a piece of work%s, which goes to another actor", _said(error))
        self._failing.append(now)
        if len(self._failing) >= FAILURES and now - self._failing[0] > self.patience:
            raise UserError(
                f"Ray has failed at all work for {self.patience:g} s{_said(error)}: look at 'ray status'; 'metagen "
                "resume' goes on from the last checkpoint; for more time raise pool.patience"
            )

    def close(self) -> None:
        """Stop the actors."""
        for member in self.members:
            if member.handle is not None:
                self._end(member.handle)
        self.members = []

    def _begin(self, name: str, values: dict[str, Any], options: dict[str, Any]) -> Any:
        """An actor for a run with the config ``values``."""
        return Actor.options(**options).remote(name, values)  # type: ignore[attr-defined]

    def _end(self, actor: Any) -> None:
        """An actor is needed no more."""
        ray.kill(actor)

    def _await_least(self) -> None:
        """Wait for the least actors of each crew; say so if none comes for long, and raise if that goes on."""
        least = sum(crew.least for crew in self.crews)
        most, since, said = 0, time.monotonic(), False
        while (ready := sum(min(self._ready(crew), crew.least) for crew in self.crews)) < least:
            waited = time.monotonic() - since
            if ready > most:
                most, since, said = ready, time.monotonic(), False
            elif waited > SILENT_SECONDS and not said:
                said = True
                log.warning("%d of %d actors are ready: waiting for room for the others%s", ready, least, self._reason)
            elif most and waited > self.patience:  # where there are none at all, tend() raises
                fix = f"--actors {most}-{self.crews[0].most or least}"
                if len(self.crews) > 1:
                    fix = "ranges (pool.actors, and actors in pool.others)"
                raise UserError(
                    f"{ready} of {least} actors are ready, and no other came for {self.patience:g} s{self._reason}: "
                    f"use {fix} to begin with those that there is room for; for more time raise pool.patience"
                )
            self.tend()
            self.wait(RETRY_SECONDS)

    def _ready(self, crew: Crew) -> int:
        return sum(member.crew is crew for member in self.able)

    def _add(self, crew: Crew) -> None:
        member = Member(f"actor-{len(self.members)}", crew)
        self.members.append(member)
        self._start(member)

    def _start(self, member: Member) -> None:
        crew, config = member.crew, self.config
        if crew.device is not None:
            config = config.model_copy(update={"device": crew.device})
        options: dict[str, Any] = {"num_cpus": crew.cpus, "num_gpus": crew.gpus}
        if environment := actor_environment():
            options["runtime_env"] = {"env_vars": environment}
        member.handle = self._begin(member.name, config.model_dump(mode="json"), options)
        member.preparing = member.handle.prepare.remote([self._images])

    def _welcome(self, member: Member, reference: Any) -> None:
        try:
            node = ray.get(reference)
        except RayError as error:  # gone before it could work, such as with its node, or Ray could not start it
            if own(error):
                raise reason(error) from None
            self.events["lost"] += 1
            self._reason = _said(error)
            self._replace(member)
            return
        self._reason = ""
        member.preparing, member.able, member.node, member.since = None, True, node, time.monotonic()
        self.events["joined"] += 1

    def _replace(self, member: Member) -> None:
        """Start another at once; if that one is lost before it can work, wait a little between attempts."""
        was_able, member.able, member.preparing, member.held = member.able, False, None, []
        if was_able:
            self._start(member)
        else:
            self._again[member] = time.monotonic() + RETRY_SECONDS

    def _grow(self) -> None:
        """Add actors to crews without an upper bound, as many as the cluster has room for and there is work for."""
        if all(crew.most is not None for crew in self.crews):
            return
        have = ray.cluster_resources()
        room = {what: have.get(what.upper()[:-1], 0.0) for what in ("cpus", "gpus")}
        for member in self.members:
            for what in room:
                room[what] -= getattr(member.crew, what)
        for crew in self.crews:
            needs = {what: getattr(crew, what) for what in room if getattr(crew, what) > 0}
            while crew.most is None and len(self.members) < self._most and needs:
                if any(room[what] < need for what, need in needs.items()):
                    break
                for what, need in needs.items():
                    room[what] -= need
                self._add(crew)


def own(error: RayError) -> bool:
    """Whether what was called has failed by itself, and not Ray: a node that is gone, an argument that is lost.

    An exception that cannot be pickled comes as a plain ``RayError``, one that cannot be read back as one that says so.
    """
    while isinstance(error, RayTaskError) and isinstance(error.cause, RayError):
        error = error.cause
    return isinstance(error, RayTaskError) or type(error) in (RayError, UnserializableException)


def reason(error: RayError) -> Exception:
    """What went wrong at an actor, as if it had happened here: a user's mistake, or a bug with its traceback."""
    if not isinstance(error, RayTaskError):
        return error
    cause: Exception = error.cause
    return cause if isinstance(cause, UserError) else error.as_instanceof_cause()


def _said(error: RayError) -> str:
    """What Ray says of its failure, within a line and without its lists of ids."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    words = " ".join(line for line in str(cause).splitlines() if not line.startswith("\t"))
    return f" ({shorten(f'{type(cause).__name__}: {words}', 200, placeholder=' ...')})"
