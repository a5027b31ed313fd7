"""``metagen sweep``."""

from __future__ import annotations

from pathlib import Path

import click

from launch.sweeps.durations import SECONDS


class SweepGroup(click.Group):
    """``metagen sweep FILE`` is ``metagen sweep run FILE``: what is no subcommand is what to run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
address_option = click.option(
    "--address", help="A running Ray cluster (HOST:PORT or auto); starts one here by default."
)
trials_option = click.option("--trials", type=click.IntRange(min=1), help="Trials in all.")
budget_option = click.option("--budget", type=SECONDS, metavar="TIME", help="Time in all, such as 90s, 30m or 8h.")


@click.group(cls=SweepGroup, subcommand_metavar="[PRESET|FILE.yaml | COMMAND] ...")
def sweep() -> None:
    """Search for the best network, and how it is trained.

    \b
    Examples:
      metagen sweep sweep-laptop                     under twenty minutes on two cores
      metagen sweep mine.yaml --trials 40 --budget 2h
      metagen sweep status sweeps/sweep-laptop       live, also from another terminal
      metagen sweep best sweeps/sweep-laptop --export best.yaml
      metagen train best.yaml
    """


@sweep.command()
@click.argument("source", metavar="PRESET|FILE.yaml")
@trials_option
@budget_option
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a key of the sweep; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the sweep is kept.  [default: sweeps/NAME]")
@address_option
@click.option("--dry-run", is_flag=True, help="Check the sweep, show what it would try, then stop.")
def run(
    source: str,
    trials: int | None,
    budget: float | None,
    assignments: tuple[str, ...],
    out: Path | None,
    address: str | None,
    dry_run: bool,
) -> None:
    """Begin a sweep: PRESET is sweep-laptop or sweep-campaign.

    Ctrl-C leaves it so that 'metagen sweep resume' goes on.
    """
    from launch.sweeps.folder import load_sweep
    from launch.sweeps.session import begin, preview

    if trials is not None:
        assignments = (*assignments, f"trials={trials}")
    if budget is not None:
        assignments = (*assignments, f"budget={budget}")
    config = load_sweep(source, assignments, list(sweep.commands))
    if dry_run:
        preview(config)
        return
    begin(config, out or Path("sweeps") / config.name, address)


@sweep.command()
@folder_argument
@trials_option
@budget_option
@address_option
def resume(folder: Path, trials: int | None, budget: float | None, address: str | None) -> None:
    """Go on with a sweep that was left or killed.

    What has ended is not repeated; unfinished trials go on from their checkpoints. A larger --trials or --budget
    makes the sweep longer.
    """
    from launch.sweeps.session import proceed

    proceed(folder, trials, budget, address)


@sweep.command()
@folder_argument
@click.option("--once", is_flag=True, help="Show it as it is now, and stop.")
def status(folder: Path, once: bool) -> None:
    """Watch a sweep: trials, losses, what was refused and what failed."""
    from launch.sweeps.status import watch

    watch(folder, once)


@sweep.command()
@folder_argument
@click.option("--samples/--no-samples", default=True, show_default=True, help="Draw what the best three make.")
def report(folder: Path, samples: bool) -> None:
    """Write DIR/report.html, a page that opens offline.

    Its pictures lie in DIR/report too, as PNG.
    """
    from launch.sweeps.report import write_report

    write_report(folder, samples)


@sweep.command()
@folder_argument
@click.option("--trial", type=click.IntRange(min=0), help="A trial's number.  [default: the best]")
@click.option("--export", type=click.Path(path_type=Path), help="Write its config, for 'metagen train'.")
def best(folder: Path, trial: int | None, export: Path | None) -> None:
    """Show the best trial, and write its config for 'metagen train'."""
    from launch.sweeps.best import show_best

    show_best(folder, trial, export)


@sweep.command()
@folder_argument
@click.option("--wait", type=click.IntRange(min=0), default=60, show_default=True, help="Seconds to wait for it.")
def stop(folder: Path, wait: int) -> None:
    """Ask a running sweep to leave.

    'metagen sweep resume' goes on with it.
    """
    from launch.sweeps.session import ask_to_stop

    ask_to_stop(folder, wait)
