"""One trial: a full meta-training run that is judged as it goes. A run folder comes of it, like that of any other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metagen import checkpoint, work
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.evaluate import Method
from metagen.learner import Learner
from metagen.pool import Pool, one_thread
from metagen.search.config import SweepConfig
from metagen.search.inherit import inherited
from metagen.search.judge import Judge
from metagen.search.ledger import TRIALS
from metagen.search.limits import check, whole
from metagen.search.space import Assignment
from metagen.state import MetaState
from metagen.tasks.imageset import ImageSet
from metagen.train import to_save, train

CONFIG = "config.yaml"
KEEP = 4
"""Newest checkpoints of a trial: one that a population copies must still be there when the copy begins."""


@dataclass(frozen=True)
class Rung:
    """A judgement of a trial that goes on."""

    step: int
    number: int
    """From 1; ``sweep.rungs`` at the end."""
    values: dict[str, Any]
    """Objectives and what else is known: numbers and names, as they stand in the ledger."""
    checkpoint: Path


def folder_of(sweep: Path, number: int) -> Path:
    """Where trial ``number`` lies: a run folder."""
    return sweep / TRIALS / f"{number:04d}"


def run_trial(
    sweep: SweepConfig,
    assignment: Assignment,
    folder: Path,
    images: ImageSet,
    make_pool: Callable[[work.Parts], Pool],
    begin: Path | None = None,
    donor: Path | None = None,
) -> Generator[Rung, None, None]:
    """Train to the end, judging at every rung; each judgement has a checkpoint.

    ``begin`` is the checkpoint to go on from, bit for bit if it is the trial's own; one of another trial, with other
    outer hyperparameters, is taken over as it stands. ``donor`` is one to begin with the matching slices of. Raises
    ``Refused`` if a limit is broken, ``UserError`` if the run diverges.
    """
    one_thread()
    started = time.perf_counter()
    config = whole(sweep, sweep.make_space(), assignment)
    rungs = sweep.judged_at(config.steps)
    parts = work.build(config, images)
    learner = Learner.of(parts)
    layout = learner.layout
    if begin is not None:
        saved = checkpoint.load_checkpoint(begin)
        saved.fits(layout)
        learner.state = saved.state
    elif donor is not None:
        learner.state = _inheriting(learner.state, parts, donor)
    _write_config(folder, config)
    judge = Judge.of(sweep.judge, images, config.episode.shots)
    latency = judge.latency(method(parts, learner.state))
    check("latency", latency, sweep.limits)

    def judged(path: Path, **more: float) -> Rung:
        values = {**_values(judge, parts, learner.state), "latency": latency, **more}
        number = sum(at <= learner.state.step for at in rungs)
        return Rung(learner.state.step, number, {**values, "busy": time.perf_counter() - started}, path)

    if learner.state.step >= config.steps:  # killed between its last checkpoint and the word of it
        assert begin is not None
        yield judged(begin)
        return
    pool = make_pool(parts)
    try:
        first, begun = learner.state.step, time.perf_counter()
        for report in train(learner, pool):
            if report.step - first == sweep.trial.warmup:
                each = (time.perf_counter() - begun) / sweep.trial.warmup
                check("seconds", each * config.steps, sweep.limits)
            if report.step in rungs:
                name = checkpoint.FINAL if report.step == config.steps else checkpoint.step_name(report.step)
                path = folder / "checkpoints" / name
                if not folder.is_dir():  # made anew, it would lie where the sweep no longer is
                    raise UserError(f"{folder}: was moved or deleted")
                checkpoint.save_checkpoint(path, config, layout, to_save(learner, pool))
                checkpoint.prune(folder, KEEP)
                yield judged(path, train_loss=report.loss)
                started = time.perf_counter()
    finally:
        pool.close()


def method(parts: work.Parts, state: MetaState) -> Method:
    """What is judged: the running mean, with the policy as it stands."""
    device = parts.problem.network.device
    return Method(parts.problem, state.mean.to(device), parts.policy, state.policy.to(device))


def _values(judge: Judge, parts: work.Parts, state: MetaState) -> dict[str, Any]:
    before, after = judge.losses(method(parts, state))
    if not math.isfinite(after):
        raise UserError(f"step {state.step}: the loss on validation classes is {after}: the run has diverged")
    return {"loss": after, "loss_before": before, "tasks": state.tasks}


def _inheriting(state: MetaState, parts: work.Parts, donor: Path) -> MetaState:
    saved, layout = checkpoint.load_checkpoint(donor), parts.problem.network.layout
    theta, _ = inherited(state.theta, layout, saved.state.mean, saved.names, saved.shapes)
    return replace(state, theta=theta, mean=theta.clone())


def _write_config(folder: Path, config: RunConfig) -> None:
    """So that the trial is a run folder: ``metagen evaluate`` and ``sample`` take it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(config.to_yaml())
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}): choose another --out") from None
