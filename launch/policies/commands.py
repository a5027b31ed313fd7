"""``metagen policy``."""

from __future__ import annotations

from pathlib import Path

import click

from launch.options import checkpoint_argument


@click.group()
def policy() -> None:
    """Look at what an optimisation policy has learned."""


@policy.command("show")
@checkpoint_argument
@click.option("--data", type=click.Path(path_type=Path), help="Tasks of other data: a source's name, folder or .npz.")
@click.option("--split", type=click.Choice(["train", "valid", "test", "all"]), default="valid", show_default=True)
@click.option("--tasks", type=click.IntRange(min=1), default=32, show_default=True, help="Classes to pick for.")
@click.option("--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Inner steps, at most.")
@click.option("--shots", type=click.IntRange(min=1), help="Images of a task; default as in training.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="The picture; default policy.png in the run folder.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def show(
    checkpoint: Path,
    data: Path | None,
    split: str,
    tasks: int,
    steps: int,
    shots: int | None,
    seed: int,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Which rule and which step sizes a policy picks.

    By category of task and by layer. The policy adapts to tasks that it was not trained on. Printed are medians over
    them; the picture shows every layer and step.

    \b
    Example:
      metagen policy show runs/quickstart
    """
    from launch.policies.show import show_policy

    show_policy(checkpoint, data, split, tasks, steps, shots, seed, out, json_file)
