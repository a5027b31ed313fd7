"""One training session: build the parts, drive the loop, and write what comes out of it."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from launch.options import checkpoint_path
from launch.training import run_folder
from launch.training.board import Board
from launch.training.console import Console
from launch.training.disk import disk_refusal, quiet_disk_refusals
from launch.training.journal import Journal
from launch.training.keeping import Keeper
from launch.training.profiling import trace_pieces, traced
from launch.training.stopping import Stop
from launch.training.workers import Workers
from metagen import checkpoint, tasks, work
from metagen.budget import fit
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.evaluate import MIN_QUERIES
from metagen.guard import Diverged
from metagen.learner import Learner
from metagen.pool import Pool, one_thread
from metagen.precision import resolve
from metagen.records import StepReport
from metagen.store import Store, bring_newest
from metagen.tasks.categories import with_found
from metagen.tasks.imageset import ImageSet
from metagen.train import to_save, train
from metagen.warm_start import begun_with, polarity_note
from metagen.wording import counted, some


def start(config: RunConfig, folder: Path, workers: Workers, profiled: bool = False) -> None:
    """Begin a new run in ``folder``; ``profiled`` writes traces of where the time goes into it."""
    run_folder.check_free(folder)
    store = run_folder.open_store(config)
    if store and store.read(run_folder.CONFIG):
        raise UserError(f"{store.url} already holds a run: 'metagen resume {store.url}' or choose another --store")
    one_thread()
    begun = None if config.start_from is None else checkpoint.load_checkpoint(checkpoint_path(config.start_from))
    images = tasks.load(config.data)
    _enough(config, images)
    if begun is not None and (note := polarity_note(begun, images)):
        print(f"note: {note}", file=sys.stderr)
    with workers.pooling() as make_pool:
        config = resolve(with_found(config, images))
        parts = work.build(config, images)
        state = None if begun is None else begun_with(begun, parts)
        pool = make_pool(parts)
        config = fit(parts, pool, workers.count)
        if config.steps < parts.config.steps:
            fits = f"{config.steps} of {parts.config.steps} steps fit into {parts.config.budget:g} s here"
            print(f"note: {fits} (budget)", file=sys.stderr)
        parts = replace(parts, config=config)
        learner = Learner.of(parts, state)
        first = folder / "checkpoints" / checkpoint.step_name(0)
        if state is not None:  # before there is a run to resume: from here on it does not need the other's checkpoint
            checkpoint.save_checkpoint(first, config, learner.layout, state)
        if store:  # before there is a run here: a store that refuses may be misspelt
            if state is not None:
                store.publish(first)
            store.write(run_folder.CONFIG, config.to_yaml().encode())
        run_folder.create(folder, config)
        with run_folder.held(folder):
            _drive(learner, parts, pool, folder, workers, store, profiled)


def proceed(folder: Path, workers: Workers) -> None:
    """Continue the run in ``folder`` from its newest whole checkpoint; with none, from its start."""
    config = run_folder.read_config(folder)
    with run_folder.held(folder):
        _proceed(config, folder, workers)


def _proceed(config: RunConfig, folder: Path, workers: Workers) -> None:
    one_thread()
    store = run_folder.open_store(config)
    if store:
        bring_newest(store, folder, lambda text: print(text, file=sys.stderr))
    images = tasks.load(config.data)
    with workers.pooling() as make_pool:
        parts = work.build(config, images)
        learner = Learner.of(parts)
        for path in reversed(checkpoint.checkpoints(folder)):
            try:
                saved = checkpoint.load_checkpoint(path)
            except UserError as error:
                print(f"skipped: {error}", file=sys.stderr)
                continue
            saved.fits(learner.layout)
            if saved.config.identity != config.identity:
                raise UserError(
                    f"{path} belongs to another config than {folder / run_folder.CONFIG}: restore that file"
                )
            learner.state = saved.state
            break
        else:
            if config.start_from is not None:
                raise UserError(f"{folder}: no checkpoint is whole, and it began with another's weights: train it anew")
        step = learner.state.step
        if step >= config.steps:
            if store:
                store.publish(folder / "checkpoints" / checkpoint.FINAL)
            print(f"{folder} is complete: {counted(step, 'step')}")
            return
        _drive(learner, parts, make_pool(parts), folder, workers, store)


def _drive(
    learner: Learner,
    parts: work.Parts,
    pool: Pool,
    folder: Path,
    workers: Workers,
    store: Store | None,
    profiled: bool = False,
) -> None:
    """Run the loop to its end, logging and saving; a signal stops it between two steps."""
    config, stop = learner.config, Stop()
    resume = f"metagen resume {folder}{workers.options}"
    console = Console(config, folder, workers, parts)
    journal = Journal(folder, config)

    keeper = Keeper(learner, folder, store, console, journal, resume)
    observe = workers.observer(config)
    try:
        with (
            stop.listening(),
            quiet_disk_refusals(folder, resume),
            Board(folder, parts, learner.state.step) as board,
            console,
        ):
            journal.start(learner.state.step, workers.kind, workers.count)
            reports = train(learner, pool)
            if profiled:
                for path in trace_pieces(parts, learner.snapshot(), folder):
                    console.line(f"profile: {path}")
                reports = traced(reports, folder)
            for report in reports:
                console.write(report)
                board.write(report, learner.state)
                journal.step(report)
                if observe:
                    observe(report)
                keeper.set_aside(report.quarantined)
                if _due(config, report):
                    name = keeper.save(to_save(learner, pool))
                    checkpoint.prune(folder, config.log.keep)
                    keeper.put(name)
                if stop.asked:
                    break
        state = to_save(learner, pool)
    except KeyboardInterrupt:  # the second signal, or one that came before the loop
        state = to_save(learner, pool)
    except Diverged as error:
        keeper.set_aside(error.quarantined)
        journal.write("failed", step=learner.state.step, error=str(error))
        raise
    except Exception as error:
        if refused := disk_refusal(error, folder, resume):  # TensorBoard's: checkpoints and the log tell their own
            raise refused from None
        # Actors that are gone, or a bug in a part of one's own, spoil no step that was taken.
        step, said = learner.state.step, str(error) if isinstance(error, UserError) else repr(error)
        with suppress(UserError):  # of a disk that refuses: the first error is the one to tell
            journal.write("failed", step=step, error=said)
            if keeper.saved < step:
                name = keeper.save(to_save(learner, pool))
                console.line(f"failed after step {step} of {config.steps}: continue with '{resume}'")
                keeper.put(name)
        raise
    finally:
        pool.close()
    # What is said comes before what is stored: a store may be silent, and Ctrl-C then ends the wait for it.
    step = learner.state.step
    if step < config.steps:
        written = keeper.save(state) if keeper.saved < step else None
        console.line(f"stopped after step {step} of {config.steps}: continue with '{resume}'")
        journal.write("stopped", step=step)
        if written:
            keeper.put(written, last=True)
        raise KeyboardInterrupt
    name = keeper.save(state, checkpoint.FINAL)
    journal.write("ended", step=step)
    if board.picture.exists():
        console.line(f"picture: {board.picture}")
    console.line(f"checkpoint: {folder / 'checkpoints' / name}")
    keeper.put(name, last=True)


def _due(config: RunConfig, report: StepReport) -> bool:
    return report.step % config.log.checkpoint_every == 0 and report.step < config.steps


def _enough(config: RunConfig, images: ImageSet) -> None:
    """Report classes that cannot give an episode; raise ``UserError`` if none can."""
    need = config.episode.shots + config.episode.queries
    few = images.too_few("train", need)
    for note in images.notes:
        print(f"note: {note}", file=sys.stderr)
    if few:
        print(
            f"note: training classes with fewer than {need} images are not used ({len(few)}): {some(few)}",
            file=sys.stderr,
        )
    images.check_any("train")
    if not len(images.members("train", need)):
        raise UserError(
            f"{images.name}: no training class has {need} images (episode.shots + episode.queries): "
            "lower them with --set episode.queries=N, or add images"
        )
    least = config.episode.shots + MIN_QUERIES
    if none := [split for split in ("valid", "test") if not len(images.members(split, least))]:
        print(
            f"note: no class in split {' nor in '.join(none)} has {least} images, and 'metagen evaluate' needs one in "
            f"each ({images.split_origin})",
            file=sys.stderr,
        )
