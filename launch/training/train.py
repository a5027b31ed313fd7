"""``metagen train`` and ``metagen resume``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class ActorRange(click.ParamType[str]):
    """A number of actors, a range, or auto."""

    name = "N|N-M|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from metagen.config import actor_range

        try:
            actor_range(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


def pool_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say who does the work; they change no result."""
    for option in reversed(
        [
            click.option("--pool", type=click.Choice(["ray", "serial"]), help="Ray actors, or this process alone."),
            click.option("--actors", type=ActorRange(), help="Ray actors: 4, 2-8 or auto; one a core by default."),
            click.option("--address", help="A running Ray cluster (HOST:PORT or auto); starts one here by default."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@click.argument("source", default="quickstart", metavar="[PRESET|FILE.yaml]")
@click.option("--steps", type=click.IntRange(min=1), help="Outer steps; phases are scaled to fit.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random in the run.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a config key; repeatable.")
@click.option(
    "--from",
    "start_from",
    metavar="CHECKPOINT",
    help="Begin with the generator of a run, a checkpoint or 'pretrained'.",
)
@click.option("--run-dir", type=click.Path(path_type=Path), help="Where the run is kept.  [default: runs/NAME]")
@click.option("--store", metavar="URL", help="Copy checkpoints to s3://BUCKET/FOLDER or gs://BUCKET/FOLDER too.")
@pool_options
@click.option("--profile", is_flag=True, help="Write traces of where the time goes to RUN_DIR/profile.")
@click.option("--dry-run", is_flag=True, help="Check and print the config, then stop.")
def train(
    source: str,
    steps: int | None,
    seed: int | None,
    assignments: tuple[str, ...],
    start_from: str | None,
    run_dir: Path | None,
    store: str | None,
    pool: str | None,
    actors: str | None,
    address: str | None,
    profile: bool,
    dry_run: bool,
) -> None:
    """Meta-train a generator from a preset or a config file.

    The final checkpoint lies in RUN_DIR/checkpoints/final. Ctrl-C stops cleanly with a checkpoint.

    \b
    Examples:
      metagen train quickstart
      metagen train standard --actors 4 --seed 1
      metagen train quickstart --from pretrained --set data.source=folder --set data.path=my_classes
      metagen train quickstart --set episode.shots=3 --set phases.0.outer.learning_rate=0.01
    """
    if profile:  # before torch is loaded: its profiler would write lines of its own between those of the run
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from launch.preset import load_config
    from launch.training import run_folder
    from launch.training.session import start
    from launch.training.workers import Workers

    if store:
        assignments = (*assignments, f"log.store={store.rstrip('/')}")
    config = load_config(source, assignments, steps, seed, start_from)
    if dry_run:
        click.echo(config.to_yaml(), nl=False)
        return
    folder = run_dir or run_folder.default_folder(config)
    start(config, folder, Workers.choose(config, pool, actors, address), profile)


@click.command()
@click.argument("run_dir")
@pool_options
def resume(run_dir: str, pool: str | None, actors: str | None, address: str | None) -> None:
    """Continue an interrupted run from its newest whole checkpoint.

    The result is the same, bit for bit, as if the run had never been interrupted. RUN_DIR may be the URL that a run
    is stored at: it goes on in runs/NAME here.

    \b
    Examples:
      metagen resume runs/quickstart
      metagen resume s3://bucket/runs/mine
    """
    from launch.training import run_folder
    from launch.training.session import proceed
    from launch.training.workers import Workers
    from metagen.files import is_url

    folder = run_folder.create_copy(run_dir) if is_url(run_dir) else Path(run_dir)
    config = run_folder.read_config(folder)
    proceed(folder, Workers.choose(config, pool, actors, address))
