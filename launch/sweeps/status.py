"""``metagen sweep status``: what a sweep is doing, from its ledger alone."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from launch.sweeps import folder as folders
from launch.sweeps.durations import short
from launch.sweeps.names import choices
from metagen.errors import UserError
from metagen.search.config import SweepConfig
from metagen.search.heartbeat import Pulse, elsewhere
from metagen.search.ledger import Ledger, Progress, Tried

ROWS = 15


def watch(folder: Path, once: bool) -> None:
    """Show the table; on a terminal until the sweep ends or Ctrl-C."""
    sweep, _ = folders.read(folder)
    folders.begun(folder)
    console, ledger = Console(highlight=False), Ledger(folder)
    pulse = Pulse(folder)
    progress, place = ledger.read()
    dead = _dead(pulse, progress)
    if once or not console.is_terminal:
        console.print(table(sweep, progress, folder, dead))
        return
    with Live(table(sweep, progress, folder, dead), console=console, auto_refresh=False) as live:
        while progress.state == "running" and not dead:
            time.sleep(1.0)
            if not ledger.path.exists():
                raise UserError(f"{ledger.path}: cannot be read: was the sweep moved, or its disk?")
            _, place = ledger.read(progress, place)
            dead = _dead(pulse, progress)
            live.update(table(sweep, progress, folder, dead), refresh=True)


def _dead(pulse: Pulse, progress: Progress) -> bool:
    """Whether the process that last drove the sweep is known to be dead; then no trial runs."""
    dead = pulse.lives(progress) is False
    if dead:
        progress.interrupt()
    return dead


def table(sweep: SweepConfig, progress: Progress, folder: Path, dead: bool) -> Group:
    """A sweep as tables of ``rich``: its state, then its trials, those that run and the best first.

    ``dead``: the process that last drove it is known to be.
    """
    head = Table(title=sweep.name, show_header=False, box=None, title_justify="left")
    for name, text in rows(sweep, progress, folder, dead):
        head.add_row(name, text)
    trials = Table(box=None)
    for name in ("trial", "state", "step", *sweep.objectives, "time"):
        trials.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    trials.add_column("choices", overflow="fold")
    for trial in _in_order(sweep, progress)[:ROWS]:
        values = [*(_number(trial, name) for name in sweep.objectives), short(trial.seconds)]
        trials.add_row(str(trial.number), trial.status, str(trial.step), *values, choices(trial.assignment))
    parts: list[Any] = [head, "", trials]
    if len(progress.trials) > ROWS:
        parts.append(f"and {len(progress.trials) - ROWS} more: 'metagen sweep report {folder}' shows them")
    return Group(*parts)


def rows(sweep: SweepConfig, progress: Progress, folder: Path, dead: bool) -> list[tuple[str, str]]:
    """What stands above the trials."""
    state = progress.state
    if state == "running" and dead:
        state = f"killed: continue with 'metagen sweep resume {folder}'"
    elif state == "running" and elsewhere(progress):
        state = f"running on {progress.host}"
    elif state == "left":
        state = f"left: continue with 'metagen sweep resume {folder}'"
    counts = Counter(trial.status for trial in progress.trials.values())
    found = [
        ("state", state),
        ("trials", f"{len(progress.trials)} of {sweep.trials}: " + ", ".join(f"{n} {s}" for s, n in counts.items())),
        ("time", short(progress.seconds) + (f" of {short(sweep.budget)}" if sweep.budget else "")),
        ("search", f"{sweep.search.name}, schedule {sweep.schedule.name}"),
    ]
    if progress.refusals:
        reason, count = progress.reasons().most_common(1)[0]
        found.append(("refused", f"{len(progress.refusals)} proposals, {count} of them: {reason}"))
    failed = [trial for trial in progress.trials.values() if trial.status in ("failed", "refused")]
    found += [(f"trial {trial.number}", f"{trial.status}: {trial.reason}") for trial in failed[-3:]]
    if ranked := progress.ranked(sweep.objectives[0]):
        found.append(
            ("best", f"trial {ranked[0].number}, {sweep.objectives[0]} {_number(ranked[0], sweep.objectives[0])}")
        )
    return found


def _in_order(sweep: SweepConfig, progress: Progress) -> list[Tried]:
    place = {trial.number: index for index, trial in enumerate(progress.ranked(sweep.objectives[0]))}
    return sorted(
        progress.trials.values(), key=lambda t: (t.status != "running", place.get(t.number, len(place)), t.number)
    )


def _number(trial: Tried, objective: str) -> str:
    value = trial.objective(objective)
    if value == float("inf"):
        return "-"
    return f"{value:,.0f}" if objective in ("parameters", "flops") else f"{value:.4f}"
