"""What a job runs on the cluster: ``python -m launch.jobs.remote --run NAME --storage PLACE CONFIG``.

A run that is there goes on from its newest checkpoint; else it begins.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from launch.jobs.places import LOCAL, folder_of, is_bucket
from launch.jobs.storage import Bucket, pushing
from launch.preset import load_config
from launch.training import run_folder
from launch.training.session import proceed, start
from launch.training.workers import Workers
from metagen.config import RunConfig
from metagen.errors import UserError


@click.command()
@click.option("--run", required=True)
@click.option("--storage", required=True)
@click.option("--pool", type=click.Choice(["ray", "serial"]))
@click.option("--actors")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE")
@click.argument("source", metavar="PRESET|FILE.yaml")
def remote(
    run: str, storage: str, pool: str | None, actors: str | None, assignments: tuple[str, ...], source: str
) -> None:
    """Begin or continue a run."""
    config = load_config(source, assignments, None, None)
    if (pool or config.pool.kind) == "ray" and actors is None and config.pool.actors is None:
        actors = "auto"  # as many as the cluster has room for, also when it grows
    workers = Workers.choose(config, pool, actors, None)
    bucket = Bucket(storage) if is_bucket(storage) else None
    folder = (Path(LOCAL).expanduser() if bucket else folder_of(storage)) / run
    if bucket is not None:
        bucket.pull(run, folder)
    there = (folder / run_folder.CONFIG).exists()
    if there:  # before anything of this job is pushed
        _same(config, folder)
    with pushing(bucket, folder, run) if bucket is not None else nullcontext():
        if there:
            click.echo(f"run '{run}' is there: it goes on from its newest checkpoint")
            proceed(folder, workers)
        else:
            start(config, folder, workers)


def _same(config: RunConfig, folder: Path) -> None:
    """Raise ``UserError`` unless the run in ``folder`` is one of ``config``."""
    there = run_folder.read_config(folder)
    if _settled(config, there).identity != there.identity:
        raise UserError(f"{folder} holds a run with another config: name another with --run, or submit that config")


def _settled(config: RunConfig, began: RunConfig) -> RunConfig:
    """``config`` with what is left to the machine and the images as it was settled when the run ``began``."""
    for measured in ("precision", "together"):
        if getattr(config, measured) == "auto":
            config = config.model_copy(update={measured: getattr(began, measured)})
    if config.categories.most == began.categories.most and config.categories.found is None:
        config = config.model_copy(update={"categories": began.categories})
    if config.budget is not None and began.budget is None and len(config.phases) <= began.steps <= config.steps:
        config = config.with_steps(began.steps)
    return config


if __name__ == "__main__":
    from launch.cli import run_command

    run_command(remote)
