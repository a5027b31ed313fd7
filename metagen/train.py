"""THE loop: buffer.due -> pool.submit -> pool.take -> learner.step -> yield a report. Callers log, not the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from metagen.buffer import Buffer
from metagen.learner import Learner
from metagen.pool import Pool
from metagen.records import StepReport
from metagen.state import MetaState


def train(learner: Learner, pool: Pool) -> Iterator[StepReport]:
    """Take outer steps until the run's number is reached; yields a report after each.

    In mode sync, step ``s`` is estimated at the version of step ``learner.basis(s)``: with ``max_staleness = 0`` at its
    own, so that workers wait while the learner applies the step before; with 1 or more at an earlier one, so that
    they have work already. Which version that is depends on the config alone, never on who was faster: every pool
    gives the same run bit for bit. In mode async a step is made of the pieces that come first, each estimated at the
    newest version that there was when it was handed out (``buffer.py``).

    After a report is yielded the learner's state is that of the report: a caller may save it, stop iterating at
    any time (``to_save``), and continue later from what was saved. The work of the next step is under way by then.
    """
    config, buffer = learner.config, Buffer(learner)

    def hand_out() -> None:
        for items, snapshot in buffer.due():
            pool.submit(items, snapshot)

    pool.restore(learner.state.residual)
    started = time.perf_counter()
    hand_out()
    while learner.state.step < config.steps:
        step, asked = learner.state.step, time.perf_counter()
        while not buffer.ready():
            buffer.add(pool.take())
        taken = time.perf_counter()
        mine = buffer.take()
        applied = learner.step(mine, pool.total)
        ended = time.perf_counter()
        if applied.rolled_back:  # what is under way was begun at versions that are no more
            buffer.clear()
        if applied.rolled_back or config.phase_at(step)[1] + 1 == config.phases[config.phase_at(step)[0]].steps:
            pool.restore(torch.zeros(0))  # what was held back is of a loss that is no more
        # Workers have their next work before the caller looks at this step, and need not wait for it.
        hand_out()

        busy: dict[str, float] = {}
        for result in mine:
            busy[result.worker] = busy.get(result.worker, 0.0) + result.seconds
        # In mode async a piece may have taken longer than this step, whose share of it is what there was time for.
        adapt = min(sum(busy.values()) / pool.workers, ended - started)
        # What the step took beyond its work; where the caller came back later than that was done, from then on. A pool
        # that works while it is asked begins then.
        begun = started if pool.background else asked
        transfer = max(taken - max(asked, begun + max(busy.values())), 0.0)
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
                "adapt": adapt,
                "transfer": transfer,
                "idle": max(ended - started - adapt - transfer - (ended - taken), 0.0),
                "learner": ended - taken,
                "total": ended - started,
            },
            outcomes=applied.outcomes,
            quarantined=applied.quarantined,
            rolled_back=applied.rolled_back,
            rollbacks=learner.state.watch.rollbacks,
            workers=pool.workers,
            events=dict(pool.events),
            samples=applied.samples,
        )
        started = ended


def to_save(learner: Learner, pool: Pool) -> MetaState:
    """The learner's state with what compression has held back: what a checkpoint between two steps must hold."""
    return replace(learner.state, residual=pool.residual())
