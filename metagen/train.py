"""THE loop: snapshot -> plan -> pool.run -> learner.step -> yield a report. Callers log; the loop does not."""

from __future__ import annotations

import time
from collections.abc import Iterator

from metagen import work
from metagen.learner import Learner
from metagen.pool import Pool
from metagen.records import StepReport


def train(learner: Learner, pool: Pool) -> Iterator[StepReport]:
    """Take outer steps until the run's number is reached; yields a report after each.

    What each part waits for: the pool waits for its workers, this loop for the pool, the caller for this loop.
    At ``max_staleness = 0`` a step ends when all its results are in, so workers idle while the learner
    applies them. After a report is yielded the learner's state is that of the report: a caller may save it,
    stop iterating at any time, and continue later from what was saved.
    """
    config = learner.config
    while learner.state.step < config.steps:
        started = time.perf_counter()
        step, version = learner.state.step, learner.state.version
        pool.publish(learner.snapshot())
        published = time.perf_counter()
        results = list(pool.run(work.plan(config, step, version)))
        returned = time.perf_counter()
        applied = learner.step(results)
        ended = time.perf_counter()

        busy: dict[str, float] = {}
        for result in results:
            busy[result.worker] = busy.get(result.worker, 0.0) + result.seconds
        longest = max(busy.values())
        yield StepReport(
            step=step + 1,
            steps=config.steps,
            phase=config.phase_at(step)[0],
            version=learner.state.version,
            tasks=applied.tasks,
            metrics=applied.metrics,
            verdicts=applied.verdicts,
            learning_rate=applied.learning_rate,
            gradient_norm=applied.gradient_norm,
            seconds={
                # Worker seconds a worker; what the slowest waited for; what the others waited for it.
                "adapt": sum(busy.values()) / pool.workers,
                "transfer": published - started + max(returned - published - longest, 0.0),
                "idle": max(longest - sum(busy.values()) / pool.workers, 0.0),
                "learner": ended - returned,
                "total": ended - started,
            },
        )
