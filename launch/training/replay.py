"""``metagen replay``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("work_id", required=False)
def replay(run_dir: Path, work_id: str | None) -> None:
    """Do the work of a non-finite result again and say whether it is so again, and where.

    Without WORK_ID it lists what a run's quarantine holds. Says which metrics and which layers of the meta-gradient
    are not finite. If all of them are finite now, the fault was in a machine or on the way, not in the training.

    \b
    Example:
      metagen replay runs/quickstart 3f0c9a51d2e7b846
    """
    from launch.training import run_folder
    from metagen import quarantine, tasks, work
    from metagen.pool import one_thread

    config = run_folder.read_config(run_dir)
    if work_id is None:
        known = quarantine.kept(run_dir)
        click.echo("\n".join(known) if known else f"{run_dir}: its quarantine is empty")
        return
    before = quarantine.load(run_dir, work_id, config.dtype)
    one_thread()
    done = quarantine.replay(work.build(config, tasks.load(config.data)), before)
    item = before.item
    click.echo(f"work {work_id}: step {item.step + 1}, index {item.index}, version {item.version}, by {before.worker}")
    click.echo(f"  then  not finite: {', '.join(before.where)}")
    click.echo(f"  now   not finite: {', '.join(done.where) if done.again else 'nothing'}")
    for title, layers in (("theta it began with", done.theta), ("meta-gradient", done.layers)):
        for name, count in layers.items():
            click.echo(f"  {title}: {count} in layer {name}")
    for name, value in sorted(done.metrics.items()):
        click.echo(f"  {name} = {value:.6g}")
    if not done.again:
        click.echo("finite now: the training is sound here; suspect the machine that did the work, or the way from it")
