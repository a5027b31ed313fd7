"""``metagen top``: what a run is doing, from its log alone; also after its end, and of a run on a shared disk."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from launch.training.log import LOG, events
from metagen.errors import UserError
from metagen.wording import counted

SILENT_SECONDS = 60.0
RECENT = 20
"""Steps that rates and means are taken over."""


@dataclass
class Actor:
    """What one worker has done."""

    pieces: int = 0
    seconds: float = 0.0
    last_step: int = 0
    refused: int = 0
    """Its results that were not accepted."""


@dataclass
class View:
    """A run as far as its log tells."""

    name: str = "?"
    state: str = "not started"
    step: int = 0
    steps: int = 0
    estimator: str = ""
    time: datetime | None = None
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT))
    actors: dict[str, Actor] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    ages: Counter[int] = field(default_factory=Counter)
    rollbacks: int = 0
    workers: int = 0
    events: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    checkpoint: str = "none"
    error: str = ""

    def add(self, event: dict[str, Any]) -> None:
        """Take one line of the log in."""
        kind = event["event"]
        self.time = datetime.fromisoformat(event["time"])
        if kind in ("started", "resumed"):
            self.name, self.steps, self.state, self.error = event["name"], event["steps"], "running", ""
        elif kind == "step":
            self._step(event)
        elif kind == "checkpoint":
            self.checkpoint = event["checkpoint"]
        elif kind == "quarantined":
            self.quarantined += 1
        elif kind in ("stopped", "ended", "failed"):
            self.state = kind
        if "error" in event:
            self.error = event["error"]

    def follow(self, path: Path, place: int = 0) -> int:
        """Take in what the log at ``path`` holds from byte ``place`` on; gives where to go on.

        Raises ``UserError`` if it cannot be read.
        """
        try:
            for end, event in events(path, place):
                self.add(event)
                place = end
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}): was the run moved, or its disk?") from None
        return place

    def _step(self, event: dict[str, Any]) -> None:
        self.step, self.steps, self.estimator = event["step"], event["steps"], event["estimator"]
        self.rollbacks = event["rollbacks"]
        self.workers, self.events = event.get("workers", 0), event.get("events", {})
        if self.recent and self.recent[-1]["phase"] != event["phase"]:  # another estimator: other losses, another rate
            self.recent.clear()
        self.recent.append(event)
        for result in event["results"]:
            actor = self.actors.setdefault(result["actor"], Actor())
            actor.pieces += 1
            actor.seconds += result["seconds"]
            actor.last_step = event["step"]
            actor.refused += result["verdict"] != "accepted"
            self.verdicts[result["verdict"]] += 1
            self.ages[result["age"]] += 1

    @property
    def silence(self) -> float:
        """Seconds since the last line."""
        return (datetime.now(UTC) - self.time).total_seconds() if self.time else 0.0

    def rows(self) -> list[tuple[str, str]]:
        """What the table says above the actors, as names and values."""
        state = self.state
        if state == "running" and self.silence > SILENT_SECONDS:
            state = f"silent for {self.silence:.0f} s: slow, or gone"
        rows = [("state", state), ("step", f"{self.step} of {self.steps}  {self.estimator}".rstrip())]
        if self.recent:
            total = sum(event["seconds"]["total"] for event in self.recent)
            share = {
                part: sum(e["seconds"][part] for e in self.recent) / total
                for part in ("adapt", "transfer", "idle", "learner")
            }
            rows += [
                ("loss", _mean([e["metrics"]["loss"] for e in self.recent], ".4f")),
                ("gradient norm", _mean([e["gradient_norm"] for e in self.recent], ".4g")),
                ("tasks/s", f"{sum(e['tasks'] for e in self.recent) / total:.1f}"),
                ("time", ", ".join(f"{part} {value:.0%}" for part, value in share.items())),
                ("results", ", ".join(f"{n} {verdict}" for verdict, n in sorted(self.verdicts.items()))),
                ("staleness", ", ".join(f"{age}: {n}" for age, n in sorted(self.ages.items()))),
            ]
        if self.workers:
            rows.append(
                ("workers", "; ".join([str(self.workers), *(f"{n} {what}" for what, n in sorted(self.events.items()))]))
            )
        rows += [
            ("rollbacks", f"{self.rollbacks}; {counted(self.quarantined, 'result')} quarantined"),
            ("checkpoint", self.checkpoint),
        ]
        return [*rows, ("error", self.error)] if self.error else rows


def _mean(values: list[float | None], form: str) -> str:
    """The mean of those that were finite: the log has null for the others."""
    known = [value for value in values if value is not None]
    return f"{fmean(known):{form}}" if known else "not finite"


def table(view: View) -> Any:
    """The view as a table of ``rich``."""
    from rich.console import Group
    from rich.table import Table

    head = Table(title=view.name, show_header=False, box=None, title_justify="left")
    for name, value in view.rows():
        head.add_row(name, value)
    actors = Table("actor", "results", "s/result", "last step", "refused", box=None)
    for name, actor in sorted(view.actors.items(), key=lambda pair: (len(pair[0]), pair[0])):
        mean = f"{actor.seconds / actor.pieces:.3f}"
        actors.add_row(name, str(actor.pieces), mean, str(actor.last_step), str(actor.refused))
    return Group(head, "", actors)


@click.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Show it as it is now, and stop.")
def top(run_dir: Path, once: bool) -> None:
    """Watch a run: steps, losses, actors, faults.

    Reads the run's log alone, so it works while the run goes on, after its end, and beside it. On a terminal it stays
    until the run ends or Ctrl-C; elsewhere it shows the run once.

    \b
    Example:
      metagen top runs/quickstart
    """
    import time

    from rich.console import Console
    from rich.live import Live

    path = run_dir / LOG
    if not path.is_file():
        from launch.sweeps.folder import CONFIG, of_trial

        if (run_dir / CONFIG).is_file():
            raise UserError(f"{run_dir} is a sweep: watch it with 'metagen sweep status {run_dir}'")
        if sweep := of_trial(run_dir):  # its sweep keeps the log of it
            raise UserError(f"{run_dir} is a trial of a sweep: watch it with 'metagen sweep status {sweep}'")
        raise UserError(f"{run_dir}: no {LOG} in it: give the folder of a run that has begun")
    console, view = Console(highlight=False), View()
    place = view.follow(path)
    if once or not console.is_terminal:
        console.print(table(view))
        return
    with Live(table(view), console=console, auto_refresh=False) as live:
        while view.state in ("running", "not started"):
            time.sleep(1.0)
            place = view.follow(path, place)
            live.update(table(view), refresh=True)
