"""How many steps fit into a time: found out by the run's own workers before the first, and written into the config."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from metagen import work
from metagen.config import RunConfig
from metagen.guard import Diverged
from metagen.learner import Learner
from metagen.pool import Pool
from metagen.records import Snapshot, WorkResult

OVERHEAD = 1.05
"""A step's time over that of its work and the learner's: waiting for the slowest, logs, checkpoints, pictures."""
ALIKE, APART, ENOUGH = 3, 1.1, 6.0
"""The first phase is rehearsed until so many in a row are within this factor, or have taken so many seconds in all."""


def fit(parts: work.Parts, pool: Pool, workers: int) -> RunConfig:
    """The config of ``parts`` with its phases scaled down to ``budget`` seconds of ``pool``, of so many workers.

    The config's own steps are the most that there can be: a faster machine is done earlier. Without a budget, or where
    the run fits, the config is given back as it is. The steps are then part of the run's config, so that a resumed run
    takes as many. All workers rehearse at once, as they will work: a worker alone is faster than one of many that share
    a machine. Costs some seconds: items of the first phase, and one of half as many tasks of every other, thrown away.
    """
    config = parts.config
    if config.budget is None:
        return config
    first, *rest = range(len(config.phases))
    learner = Learner.of(parts)
    snapshot = learner.snapshot()
    _, results = _rehearsed(parts, pool, first, workers, snapshot)  # the first time takes longer
    applying = _applying(learner, pool, results)
    usual = _usual(lambda: _rehearsed(parts, pool, first, workers, snapshot)[0])
    others = (_rehearsed(parts, pool, number, workers, snapshot, half=True)[0] for number in rest)
    turns = [usual, *others]
    seconds = sum(
        phase.steps * (math.ceil(phase.items / workers) * turn + applying) * OVERHEAD
        for phase, turn in zip(config.phases, turns, strict=True)
    )
    if seconds <= config.budget:
        return config
    return config.with_steps(max(len(config.phases), int(config.steps * config.budget / seconds)))


def _usual(seconds: Callable[[], float]) -> float:
    """What ``seconds`` usually gives: the mean of its last few once these are alike, else of all there was time for.

    Others on the machine may be busy for a moment: what was taken then does not count. If they come and go all the
    time, no few are alike, and the run will have bad moments as well as good ones.
    """
    times: list[float] = []
    while sum(times) < ENOUGH:
        times.append(seconds())
        last = times[-ALIKE:]
        if len(last) == ALIKE and max(last) <= APART * min(last):
            return sum(last) / ALIKE
    return sum(times) / len(times)


def _rehearsed(
    parts: work.Parts, pool: Pool, phase: int, workers: int, snapshot: Snapshot, half: bool = False
) -> tuple[float, list[WorkResult]]:
    """Seconds in which all workers do an item of a phase, one each, and their results; taken from half of one."""
    config = parts.config
    first, tasks = sum(earlier.steps for earlier in config.phases[:phase]), config.phases[phase].tasks
    some = max(1, tasks // 2) if half else tasks
    items = [replace(item, tasks=some) for item in work.plan(config, first, 0)[:workers]]
    begun = time.perf_counter()
    pool.submit(items, snapshot)
    results = [pool.take() for _ in items]
    return (time.perf_counter() - begun) * tasks / some, results


def _applying(learner: Learner, pool: Pool, results: list[WorkResult]) -> float:
    """Seconds that the learner takes for a step."""
    begun = time.perf_counter()
    with suppress(Diverged):  # the run will meet it too, and keep what it was that was not finite
        learner.step(results, pool.total)
    learner.snapshot()
    return time.perf_counter() - begun
