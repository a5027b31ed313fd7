"""``metagen doctor``."""

from __future__ import annotations

import click


@click.command()
@click.option("--address", metavar="FILE|URL", help="Also the way to this cluster.")
def doctor(address: str | None) -> None:
    """Look for what would keep a run from working.

    Every line that is not good names its fix.

    \b
    Examples:
      metagen doctor
      metagen doctor --address cluster.yaml
    """
    from launch.clusters.diagnosis import BAD, GOOD, LOCAL, cluster

    worst = False
    for check in (*LOCAL, *((lambda: cluster(address),) if address else ())):
        for finding in check():
            worst |= finding.state == BAD
            fix = f"  -> {finding.fix}" if finding.fix else ""
            mark = "ok  " if finding.state == GOOD else f"{finding.state:<4}"
            click.echo(f"{mark}  {finding.what}: {finding.seen}{fix}")
    if worst:
        raise click.exceptions.Exit(2)
