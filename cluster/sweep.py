"""A sweep on Ray Tune: every trial a meta-training run with actors of its own, inside its placement group.

Tune runs trials, places them, and decides which go on. What was tried stands in the ledger, written here event by
event (``metagen.search.ledger``): a sweep goes on from it alone, whatever was killed. Of Tune's own memory, which is
pickled, nothing is read back.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.stopper import Stopper

from cluster.pool import RayPool
from cluster.sweep_room import resources, room
from cluster.sweep_schedule import scheduler_of
from cluster.sweep_search import BEGIN, DONOR, FACTS, NUMBER, Proposals
from metagen.errors import UserError
from metagen.pool import Crew, SerialPool
from metagen.search.config import SweepConfig
from metagen.search.heartbeat import beating
from metagen.search.ledger import STOP, Ledger, Progress
from metagen.search.limits import Refused
from metagen.search.trial import folder_of, run_trial
from metagen.tasks.imageset import ImageSet

TUNE = "tune"
TrialFunction = Callable[..., None]


def train_trial(config: dict[str, Any], sweep: dict[str, Any], folder: str, images: list[Any]) -> None:
    """What a trial's process does: train, judge, report. ``images`` holds a reference to the one set in the store.

    What the trial itself is to blame for (it diverged, broke a limit, took too much memory) is reported, and the trial
    ends. Anything else is raised: Tune then tries again, from the newest checkpoint.
    """
    parsed, root = SweepConfig.parse(sweep), Path(folder)
    assignment = {key: value for key, value in config.items() if not key.startswith("_")}
    number = int(tune.get_context().get_trial_name())
    trial = parsed.trial

    def make_pool(parts: Any) -> Any:
        if not trial.actors:
            return SerialPool(parts)
        return RayPool(parts.config, images[0], [Crew(trial.actors, trial.actors, trial.cpus, trial.gpus)])

    begin, donor = _place(tune.get_checkpoint()) or config[BEGIN], config[DONOR]
    rungs = run_trial(
        parsed,
        assignment,
        folder_of(root, number),
        ray.get(images[0]),
        make_pool,
        root / begin if begin else None,
        root / donor if donor else None,
    )
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for rung in rungs:
                place = str(rung.checkpoint.relative_to(root))
                (Path(scratch) / "place.json").write_text(json.dumps(place))
                tune.report(
                    {
                        **config[FACTS],
                        **rung.values,
                        "step": rung.step,
                        "rung": rung.number,
                        "checkpoint": place,
                        "assignment": json.dumps(assignment),
                        "done": rung.number == parsed.rungs,
                    },
                    checkpoint=tune.Checkpoint.from_directory(scratch),
                )
        except (UserError, MemoryError, torch.OutOfMemoryError) as error:
            kind = "refused" if isinstance(error, Refused) else "failed"
            reason = str(error) or type(error).__name__
            if not isinstance(error, UserError):
                reason = f"out of memory: {reason.splitlines()[0]}"
            worst: dict[str, Any] = dict.fromkeys(parsed.objectives, math.inf)
            tune.report({**worst, kind: reason, "step": 0, "rung": parsed.rungs, "done": True})
        finally:
            rungs.close()


def _place(saved: tune.Checkpoint | None) -> str | None:
    """Our checkpoint that one of Tune's stands for."""
    if saved is None:
        return None
    with saved.as_directory() as folder:
        place: str = json.loads((Path(folder) / "place.json").read_text())
    return place


class _Recorder(tune.Callback):
    """Writes what happens to trials into the ledger."""

    def __init__(self, sweep: SweepConfig, record: Callable[..., None], proposals: Proposals, leaving: _Leave) -> None:
        self.sweep, self.record, self.proposals, self.leaving = sweep, record, proposals, leaving

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.record("started", trial=_number(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "failed" in result or "refused" in result:
            return
        kept = {k: result[k] for k in KEPT if k in result}
        # Not of the trial's config: a population may have changed that already.
        self.record("result", trial=_number(trial), assignment=json.loads(result["assignment"]), **kept)
        self.proposals.judged(_number(trial), kept)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, last = _number(trial), trial.last_result or {}
        if "failed" in last:
            self._end(number, "failed", last["failed"])
        elif "refused" in last:
            self._end(number, "refused_trial", last["refused"])
        elif last.get("rung", 0) >= self.sweep.rungs:
            self._end(number, "complete")
        elif not self.leaving.asked:
            self._end(number, "stopped", f"by {self.sweep.schedule.name} at step {last.get('step', 0)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(_number(trial), "failed", _why(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.record("retried", trial=_number(trial), reason=_why(trial))

    def _end(self, number: int, kind: str, reason: str = "") -> None:
        self.record(kind, trial=number, reason=reason)
        self.proposals.ended(number)


KEPT = ("step", "rung", "loss", "loss_before", "latency", "train_loss", "tasks", "busy", "checkpoint")
"""What the ledger keeps of a result."""


def _number(trial: Any) -> int:
    return int(trial.custom_trial_name)


def _why(trial: Any) -> str:
    """What went wrong with a trial's process, in one line, from the last of the tracebacks that Tune wrote down."""
    if trial.error_file is None:
        return "its process died"
    text = Path(trial.error_file).read_text().rpartition("Failure #")[2]
    if "OutOfMemoryError" in text:
        return "out of memory: its node killed the process to save the others"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "ActorDiedError" in text or "ActorUnavailableError" in text:
        return "its process died: " + next(
            (line for line in lines if "exit detail" in line or "died" in line), lines[-1]
        )
    return lines[-1]


SPENT = "its budget of time is spent"


class _Leave(Stopper):
    """Asks Tune to leave: the budget is spent, or someone put the stop file there."""

    def __init__(self, folder: Path, seconds: float | None) -> None:
        self.file = folder / STOP
        self.until = None if seconds is None else time.monotonic() + seconds
        self.asked = ""
        self.gone = False
        """Whether the sweep's folder is: what is written there now would begin another one."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.gone:
            self.asked = "its folder is gone"
        elif self.file.exists():
            self.asked = "it was asked to stop"
        elif self.until is not None and time.monotonic() > self.until:
            self.asked = SPENT
        return bool(self.asked)


class _Here:
    """A function of this process. Tune pickles what it is given, and nobody reads that: the pickle holds nothing."""

    def __init__(self, function: Callable[..., None] | None = None) -> None:
        self.function = function

    def __call__(self, *arguments: Any, **values: Any) -> None:
        assert self.function is not None
        self.function(*arguments, **values)

    def __reduce__(self) -> tuple[type[_Here], tuple[()]]:
        return _Here, ()


def run_sweep(
    sweep: SweepConfig,
    folder: Path,
    images: Any,
    function: TrialFunction = train_trial,
    tell: Callable[[str, dict[str, Any], Progress], None] = lambda event, values, progress: None,
) -> Progress:
    """Run or go on with the sweep in ``folder``; Ray must be running. Gives what the ledger then tells.

    ``tell`` hears of every event that has gone into the ledger.

    Raises ``UserError`` if nothing can be proposed any more, a trial has no room on the cluster, or the folder is moved
    away or deleted meanwhile.
    """
    ledger = Ledger(folder)
    progress, place = ledger.read()
    space = sweep.make_space()

    def write(event: str, **values: Any) -> None:
        nonlocal place
        leave.gone = leave.gone or (event != "session" and not ledger.path.exists())
        if leave.gone:  # told at the end: Tune would take an error here for a trial's, and try that again
            return
        ledger.write(event, **values)
        _, place = ledger.read(progress, place)
        tell(event, values, progress)

    record = _Here(write)
    leave = _Leave(folder, None if sweep.budget is None else max(sweep.budget - progress.seconds, 0.0))
    proposals = Proposals(sweep, space, progress, record)
    scheduler = scheduler_of(sweep, space, progress)
    record("session", pid=os.getpid(), host=socket.gethostname())
    fit = room(sweep, ray.cluster_resources())
    record("slots", slots=min(fit, sweep.concurrent or fit, sweep.trials))
    shared = [ray.put(images)] if isinstance(images, ImageSet) else images
    trainable = tune.with_parameters(
        function, sweep=sweep.model_dump(mode="json"), folder=str(folder.absolute()), images=shared
    )
    with beating(folder), _tune_memory(folder.absolute() / TUNE) as storage:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources(sweep)),
            tune_config=tune.TuneConfig(
                search_alg=proposals,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"{trial.config[NUMBER]:04d}",
                trial_dirname_creator=lambda trial: f"{trial.config[NUMBER]:04d}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(storage),
                stop=leave,
                callbacks=[_Recorder(sweep, record, proposals, leave)],
                failure_config=tune.FailureConfig(max_failures=sweep.trial.retries),
                verbose=0,
            ),
        )
        tuner.fit()
    if leave.gone:
        raise UserError(f"{folder}: was moved or deleted: put it back, then 'metagen sweep resume {folder}'")
    if proposals.failure is not None:
        record("left", reason=str(proposals.failure))
        raise proposals.failure
    whole = not progress.unfinished and (proposals.exhausted or len(progress.trials) >= sweep.trials)
    if whole:
        record("finished")
    else:
        record("left", reason=leave.asked or "interrupted")
    return progress


@contextmanager
def _tune_memory(storage: Path) -> Iterator[Path]:
    """A folder for what Tune writes, which nobody reads later; and Tune without loggers and snapshots of its own."""
    # Told to Tune in this way alone. Snapshots would be pickles, and grow with every trial.
    told = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    before = {name: os.environ.get(name) for name in told}
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    os.environ.update(told)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    shutil.rmtree(storage, ignore_errors=True)
    try:
        yield storage
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
