"""A pool of Ray actors, with the interface of ``metagen.pool.SerialPool``."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.actor import Actor
from cluster.token import ensure_private
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.pool import available_cores
from metagen.records import Snapshot, Vector, WorkItem, WorkResult
from metagen.tasks.imageset import ImageSet

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
GIVE_UP_SECONDS = 120.0
PROBE_SECONDS = 5.0


class _Published(NamedTuple):
    """A snapshot that lies in the object store."""

    version: int
    theta: Any
    """Reference to the vector."""
    policy: Vector


class RayPool:
    """``workers`` actors, each one thread, each holding at most ``in_flight`` pieces of work.

    With two in flight the second waits at the actor, which never waits for the learner as long as there is work.
    An actor that dies is restarted by Ray; what it held is handed to whoever is free. Work is named by
    its work_id and depends on nothing but its arguments, so doing it again gives the same result.

    ``images`` are an ``ImageSet``, or a reference to one that lies in the object store already.
    """

    def __init__(
        self,
        config: RunConfig,
        images: Any,
        workers: int,
        cpus: float = 1.0,
        gpus: float = 0.0,
        in_flight: int | None = None,
    ) -> None:
        self.workers = workers
        # A piece in hand and one to begin while the learner applies: more where it may be further behind is waste.
        self.in_flight = in_flight or (2 if config.max_staleness else 1)
        self._waiting: deque[tuple[WorkItem, _Published]] = deque()
        self._running: dict[Any, tuple[WorkItem, _Published, int]] = {}
        self._load: Counter[int] = Counter()
        self._resting: dict[int, float] = {}  # actors that died, and when to try them again
        self._silent_since: float | None = None  # the first death since the last result
        self._published: _Published | None = None
        # One put: actors on a node read the images from the same shared memory. Kept for actors that restart.
        self._images = ray.put(images) if isinstance(images, ImageSet) else images
        options = {"num_cpus": cpus, "num_gpus": gpus, "runtime_env": {"env_vars": _environment()}}
        values = config.model_dump(mode="json")
        self._actors = [
            Actor.options(**options).remote(f"actor-{i}", values)  # type: ignore[attr-defined]
            for i in range(workers)
        ]
        try:
            ray.get([actor.prepare.remote([self._images]) for actor in self._actors])
        except RayTaskError as error:
            self.close()
            raise _reason(error) from None

    def submit(self, items: Sequence[WorkItem], snapshot: Snapshot) -> None:
        """Queue ``items``. A version goes into the object store once; workers of one node share the copy."""
        if self._published is None or self._published.version != snapshot.version:
            self._published = _Published(snapshot.version, ray.put(snapshot.theta), snapshot.policy)
        self._waiting.extend((item, self._published) for item in items)
        self._hand_out()

    def take(self) -> WorkResult:
        """The next result to come; an item whose actor died is done again by another."""
        while self._waiting or self._running:
            self._hand_out()
            if not self._running:
                time.sleep(RETRY_SECONDS / 4)
                continue
            for reference in ray.wait(list(self._running), num_returns=1, timeout=1.0)[0]:
                item, published, actor = self._running.pop(reference)
                self._load[actor] -= 1
                try:
                    result: WorkResult = ray.get(reference)
                except RayActorError as error:
                    self._lost(item, published, actor, error)
                    continue
                except RayTaskError as error:
                    raise _reason(error) from error
                self._silent_since = None
                self._hand_out()
                return result
        raise LookupError("no work is under way")

    def _hand_out(self) -> None:
        """Give waiting items to whoever has least to do."""
        now = time.monotonic()
        self._resting = {actor: when for actor, when in self._resting.items() if when > now}
        while self._waiting:
            free = [i for i in range(self.workers) if i not in self._resting and self._load[i] < self.in_flight]
            if not free:
                return
            actor = min(free, key=lambda i: self._load[i])
            item, published = self._waiting.popleft()
            self._load[actor] += 1
            reference = self._actors[actor].run.remote(item, *published, [self._images])
            self._running[reference] = (item, published, actor)

    def _lost(self, item: WorkItem, published: _Published, actor: int, error: RayActorError) -> None:
        """An actor died at ``item``: queue it first and let the actor rest; raise if none has come back for long."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if not self._running and now - self._silent_since > GIVE_UP_SECONDS:
            raise UserError(f"no actor came back within {GIVE_UP_SECONDS:.0f} s: {error}") from error
        log.warning("an actor is gone, its work (step %d, index %d) goes to another", item.step, item.index)
        self._waiting.appendleft((item, published))
        self._resting[actor] = now + RETRY_SECONDS

    def close(self) -> None:
        """Stop the actors; results still on their way are dropped."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._waiting, self._running = [], deque(), {}


def start_ray(address: str | None, workers: int, cpus: float = 1.0, gpus: float = 0.0) -> None:
    """Connect to the cluster at ``address``, or start Ray on this machine for ``workers`` actors.

    Without an address the environment's ``RAY_ADDRESS`` counts, which Ray sets for the jobs of a cluster.
    Raises ``UserError`` if there is no cluster there or fewer cores than the actors ask for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address is None:
        cores = available_cores()
        if workers * cpus > cores:
            most = int(cores // cpus)
            fix = f"use --actors {most}" if most else f"lower pool.cpus to {cores} or less"
            raise UserError(f"{workers} actors of {cpus:g} cores on {cores}: {fix}")
        ensure_private()
        # "local": a cluster that happens to run on this machine is joined only if it is asked for.
        ray.init(
            address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
        return
    _probe(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"no Ray cluster answers at {address} ({first}): check 'ray status' there") from None
    have = ray.cluster_resources()
    for name, need in (("CPU", workers * cpus), ("GPU", workers * gpus)):
        if need > have.get(name, 0.0):
            stop_ray()
            raise UserError(f"{workers} actors need {need:g} {name}, the cluster has {have.get(name, 0.0):g}")


def stop_ray() -> None:
    """Leave the cluster; a Ray that ``start_ray`` started on this machine ends with it."""
    ray.shutdown()


def _probe(address: str) -> None:
    """Raise ``UserError`` unless something listens at ``HOST:PORT``: Ray itself would try for minutes."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:  # "auto", or nothing that Ray would try either
        return
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"no Ray cluster answers at {address} ({why}): check 'ray status' there") from None


def _reason(error: RayTaskError) -> Exception:
    """What went wrong at an actor, as if it had happened here: a user's mistake, or a bug with its traceback."""
    cause: Exception = error.cause
    return cause if isinstance(cause, UserError) else error.as_instanceof_cause()


def _environment() -> dict[str, str]:
    """What an actor's process must have set before it starts: one compute thread, no telemetry."""
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
