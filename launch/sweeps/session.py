"""One session of a sweep: check it, start Ray, run it, say what happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from launch.sweeps import folder as folders
from launch.sweeps.durations import short
from launch.sweeps.hparams import HParams
from launch.sweeps.names import choices
from metagen import tasks
from metagen.errors import UserError
from metagen.lock import held, is_held
from metagen.pool import Crew, one_thread
from metagen.precision import resolve
from metagen.search import heartbeat
from metagen.search.config import SweepConfig
from metagen.search.judge import Judge
from metagen.search.ledger import STOP, Progress, Tried
from metagen.search.limits import Facts, Refused, admitted
from metagen.search.proposers import proposer_of
from metagen.search.space import Assignment
from metagen.seeding import numpy_generator
from metagen.tasks.categories import with_found
from metagen.tasks.imageset import ImageSet
from metagen.wording import counted

LOOKED_AT, SHOWN = 40, 8
"""Proposals that a dry run makes, and shows."""
POLL_SECONDS = 0.5


def begin(sweep: SweepConfig, folder: Path, address: str | None) -> None:
    """A new sweep in ``folder``."""
    folders.check_free(folder)
    one_thread()
    images = _images(sweep)
    _check_options(sweep)
    sweep = _settled(sweep, images)
    with _ray(sweep, address):
        folders.create(folder, sweep)
        with _held(folder):
            _run(sweep, folder, images)


def proceed(folder: Path, trials: int | None, budget: float | None, address: str | None) -> None:
    """Go on with the sweep in ``folder``, made longer if asked."""
    sweep, progress = folders.read(folder)
    if not is_held(folder) and _driven(folder, progress):  # who holds it is told below
        raise UserError(f"{folder}: is being run by process {progress.pid} on {progress.host}: {_stop_it(folder)}")
    with _held(folder):  # of two that found it idle, one goes on
        _proceed(sweep, progress, folder, trials, budget, address)


def _proceed(
    sweep: SweepConfig, progress: Progress, folder: Path, trials: int | None, budget: float | None, address: str | None
) -> None:
    changes = {name: value for name, value in (("trials", trials), ("budget", budget)) if value is not None}
    sweep = SweepConfig.parse({**sweep.model_dump(mode="json"), **changes})
    if not progress.unfinished and len(progress.trials) >= sweep.trials:
        print(f"{folder} is complete: {counted(len(progress.trials), 'trial')}; --trials N makes it longer")
        return
    if sweep.budget is not None and progress.seconds >= sweep.budget:
        raise UserError(f"{folder}: its budget of {short(sweep.budget)} is spent: give more, such as --budget 2h")
    if len(progress.trials) > sweep.trials:
        raise UserError(
            f"{folder}: {counted(len(progress.trials), 'trial')} were begun: give at least as many --trials"
        )
    one_thread()
    images = _images(sweep)
    with _ray(sweep, address):
        if changes:  # for whoever watches it, and for those who resume it after this
            try:
                folders.write(folder, sweep)
            except OSError as error:
                raise UserError(f"{folder}: cannot be written ({error.strerror}): free some space") from None
        _run(sweep, folder, images)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Run the sweep in ``folder`` alone while the block runs; raises ``UserError`` if another process does."""
    with held(folder, "run", _stop_it(folder)):
        (folder / STOP).unlink(missing_ok=True)  # asked of one that is gone; from here on it is asked of this one
        yield


def _stop_it(folder: Path) -> str:
    return f"'metagen sweep stop {folder}' first"


def _driven(folder: Path, progress: Progress) -> bool:
    """Whether a process runs the sweep now, on this machine or on another."""
    if is_held(folder):
        return True
    if progress.state != "running":
        return False
    if heartbeat.elsewhere(progress):
        limit = f"{heartbeat.SILENT_SECONDS:.0f} s"
        print(f"{folder}: last run on {progress.host}: watching for up to {limit} whether it still is", flush=True)
    return heartbeat.alive(folder, progress)


def ask_to_stop(folder: Path, wait: int) -> None:
    """Put the stop file there and wait until the sweep has left."""
    sweep, progress = folders.read(folder)
    if not _driven(folder, progress):
        done = not progress.unfinished and len(progress.trials) >= sweep.trials
        hint = f"it is complete: {len(progress.trials)} trials" if done else f"'metagen sweep resume {folder}' goes on"
        print(f"{folder}: does not run; {hint}")
        return
    (folder / STOP).touch()
    until = time.monotonic() + wait
    while time.monotonic() < until:
        if not is_held(folder) and folders.read(folder)[1].state != "running":
            print(f"{folder}: left; 'metagen sweep resume {folder}' goes on")
            return
        time.sleep(POLL_SECONDS)
    print(f"{folder}: asked; it leaves as soon as Ray lets go of its trials")


def preview(sweep: SweepConfig) -> None:
    """What ``--dry-run`` shows: proposals, what is refused and why, what a trial takes. Trains nothing."""
    one_thread()
    _check_options(sweep)
    images, space = _images(sweep), sweep.make_space()
    console = Console(highlight=False, markup=False, emoji=False)

    def show(assignment: Assignment, said: Facts | Refused) -> None:
        size = (
            said
            if isinstance(said, Refused)
            else f"{said.parameters:,} parameters, {said.flops / 1e6:,.0f} MFLOPs, {said.steps} steps"
        )
        console.print(f"  {size}: {choices(assignment)}", soft_wrap=True)

    if sweep.first:
        console.print(f"{sweep.name}: tried first", style="bold")
    for assignment in sweep.first:
        try:
            show(assignment, admitted(sweep, space, assignment)[1])
        except Refused as refused:
            show(assignment, refused)
    console.print(f"{sweep.name}: proposals at random", style="bold")
    found: list[Facts] = []
    refusals: list[tuple[int, Assignment, str]] = []
    for index in range(LOOKED_AT):
        assignment = space.draw(numpy_generator(sweep.seed, "preview", index))
        try:
            _, facts = admitted(sweep, space, assignment)
        except Refused as refused:
            refusals.append((index, assignment, str(refused)))
            continue
        found.append(facts)
        if len(found) <= SHOWN:
            show(assignment, facts)

    def line(name: str, text: str) -> None:
        console.print(f"{name:<11}{text}", soft_wrap=True)

    reasons = Progress(refusals=refusals).reasons()
    line("refused", f"{len(refusals)} of {LOOKED_AT}, before they cost anything")
    for reason, count in reasons.most_common(5):
        line("", f"{count} x {reason}")
    if found:
        sizes, lengths = sorted(one.parameters for one in found), [one.steps for one in found]
        line("networks", f"{sizes[0]:,} to {sizes[-1]:,} parameters, {sizes[len(sizes) // 2]:,} in the middle")
    else:
        raise UserError(f"all of {LOOKED_AT} proposals were refused: widen the limits or the space")
    judge = Judge.of(sweep.judge, images, space.base.episode.shots)
    each = f"{sweep.steps} outer steps"
    if sweep.equal == "flops":
        each = f"as many FLOPs as {each} of the base, {min(lengths)} to {max(lengths)} of its own"
    line("trials", f"{sweep.trials}, each {each}; judged {sweep.rungs} times")
    line("search", f"{sweep.search.name}; schedule {sweep.schedule.name}; objectives {', '.join(sweep.objectives)}")
    line("judged by", f"{len(judge.bench.classes)} validation classes of {images.name}, {judge.steps} adaptation steps")
    trial = sweep.trial
    cores = trial.driver + trial.actors * trial.cpus if trial.actors else trial.cpus
    who = f"actors ({trial.actors}) and a process that learns" if trial.actors else "one process"
    gpus = f", GPUs: {max(1, trial.actors) * trial.gpus:g}" if trial.gpus else ""
    line("a trial", f"{who}; cores: {cores:g}{gpus}")
    line("budget", short(sweep.budget) if sweep.budget else "none: until all trials have ended")


def _images(sweep: SweepConfig) -> ImageSet:
    base = sweep.make_space().base
    images = tasks.load(base.data)
    need = base.episode.shots + base.episode.queries
    if not len(images.members("train", need)):
        raise UserError(f"{images.name}: no training class has {need} images (episode.shots + episode.queries)")
    Judge.of(sweep.judge, images, base.episode.shots)  # raises where there is nothing to judge by
    return images


def _check_options(sweep: SweepConfig) -> None:
    """Raise ``UserError`` if the searcher or the scheduler does not take its options, or does not fit the space."""
    from cluster.sweep_schedule import scheduler_of

    space = sweep.make_space()
    proposer_of(sweep, space)
    scheduler_of(sweep, space, Progress())


def _settled(sweep: SweepConfig, images: ImageSet) -> SweepConfig:
    """The sweep with all that its trials share found out once: precision on this machine, categories of tasks."""
    config = with_found(sweep.make_space().base, images)
    config = resolve(config) if config.device == "cpu" else config
    return SweepConfig.parse({**sweep.model_dump(mode="json"), "base": config.model_dump(mode="json")})


@contextmanager
def _ray(sweep: SweepConfig, address: str | None) -> Iterator[None]:
    from cluster.connect import start_ray, stop_ray
    from cluster.sweep_room import room

    trial = sweep.trial
    count = max(1, trial.actors)
    crews = [Crew(count, count, trial.cpus, trial.gpus)]
    start_ray(address or sweep.make_space().base.pool.address, crews, partial(room, sweep))
    try:
        yield
    finally:
        stop_ray()


def _run(sweep: SweepConfig, folder: Path, images: ImageSet) -> None:
    from cluster.sweep import SPENT, run_sweep

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(f"{sweep.name} -> {folder}", style="bold", soft_wrap=True)
    console.print(f"  watch it   metagen sweep status {folder}", soft_wrap=True)
    with HParams(folder, sweep) as board:

        def tell(event: str, values: dict[str, Any], progress: Progress) -> None:
            board.write(event, values, progress)
            if text := _line(sweep, event, values, progress):
                console.print(text, soft_wrap=True)

        progress = run_sweep(sweep, folder, images, tell=tell)
    ranked = progress.ranked(sweep.objectives[0])
    found = f"trial {ranked[0].number}, {_objectives(sweep, ranked[0])}" if ranked else "no trial was judged"
    console.print(f"best: {found}", soft_wrap=True)
    if progress.reason == SPENT:  # as it was meant to end
        console.print(f"{SPENT}: 'metagen sweep resume {folder} --budget ...' goes on", soft_wrap=True)
    elif progress.state == "left":
        console.print(f"left: continue with 'metagen sweep resume {folder}'", soft_wrap=True)
        raise KeyboardInterrupt
    if ranked:
        console.print(
            f"next: metagen sweep report {folder}; metagen sweep best {folder} --export best.yaml", soft_wrap=True
        )


def _objectives(sweep: SweepConfig, trial: Tried) -> str:
    return ", ".join(f"{name} {trial.objective(name):.5g}" for name in sweep.objectives)


def _line(sweep: SweepConfig, event: str, values: dict[str, Any], progress: Progress) -> str | None:
    """What a person wants to hear of; None for the rest."""
    if event in ("complete", "stopped"):
        trial = progress.trials[values["trial"]]
        ended = sum(t.status not in ("waiting", "running") for t in progress.trials.values())
        how = "complete" if event == "complete" else f"stopped at step {trial.step}"
        return (
            f"{ended}/{sweep.trials} trial {trial.number}: {how}, {_objectives(sweep, trial)}, "
            f"{short(trial.seconds)}; {short(progress.seconds)} in all"
        )
    if event in ("failed", "refused_trial", "retried"):
        word = {"failed": "failed", "refused_trial": "refused", "retried": "tried again"}[event]
        return f"trial {values['trial']}: {word}: {values['reason']}"
    return None
