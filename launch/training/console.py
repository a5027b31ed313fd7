"""What a run prints: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from launch.training.workers import Workers
from metagen.config import RunConfig
from metagen.records import StepReport, Verdict
from metagen.wording import counted
from metagen.work import Parts

LINES = 20
"""Lines that a run prints where there is no terminal."""


class Console:
    """Shows a run's progress; use as a context manager."""

    def __init__(self, config: RunConfig, folder: Path, workers: Workers, parts: Parts) -> None:
        self.config = config
        self.rich = RichConsole(stderr=False, highlight=False, markup=False, emoji=False)
        self.live = self.rich.is_terminal
        self.loss: float | None = None
        self.rate: float | None = None
        self.started = time.monotonic()
        self._phase, self._begun, self._before = -1, 0.0, 0
        network = parts.problem.network.layout
        self.rich.print(config.name, style="bold", end=" ")
        self.line(f"-> {folder}")
        classes = counted(len(parts.images.members("train", 1)), "training class", "training classes")
        self.line(
            f"  data       {parts.images.name}: {classes}, "
            f"{parts.images.size}x{parts.images.size}; {parts.images.split_origin}"
        )
        self.line(
            f"  generator  {config.generator.family}, {network.size:,} parameters in {len(network.layers)} layers, "
            f"{config.precision} on {config.device}"
            + (f", {config.together} tasks at once" if parts.problem.together > 1 else "")
        )
        if config.start_from is not None:
            self.line(f"  begins     with the generator of {config.start_from}")
        phases = ", then ".join(f"{phase.estimator} x {phase.steps}" for phase in config.phases)
        self.line(f"  learner    {phases}; policy {config.policy.name}; {workers}")
        self.progress = Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]} tasks/s"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.rich,
        )
        self._bar = self.progress.add_task("", total=config.steps, loss="-", rate="-", left="")

    def __enter__(self) -> Console:
        if self.live:
            self.progress.start()
        self.started = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self.live:
            self.progress.stop()

    def line(self, text: str) -> None:
        """Print one line above the bar."""
        self.rich.print(text, soft_wrap=True)
        sys.stdout.flush()

    def write(self, report: StepReport) -> None:
        """Show one step."""
        rate = report.tasks / report.seconds["total"]
        if report.phase != self._phase:  # another estimator: other losses, another rate
            self.loss = self.rate = None
            self._phase = report.phase
            # From its first step on: what comes before it, such as traces, says nothing of the others.
            self._begun, self._before = time.monotonic() - report.seconds["total"], report.step - 1
        self.loss = report.loss if self.loss is None else 0.95 * self.loss + 0.05 * report.loss
        self.rate = rate if self.rate is None else 0.9 * self.rate + 0.1 * rate
        phase = self.config.phases[report.phase].estimator
        for verdict, count in report.verdicts.items():
            if verdict is not Verdict.ACCEPTED and count:
                self.line(f"step {report.step}: {counted(count, f'{verdict} result')} not applied")
        if report.rolled_back:
            self.line(f"step {report.step}: diverged (loss {report.loss:.4g}), back to the last good state; goes on")
        left, goal = self._left(report)
        if self.live:
            self.progress.update(
                self._bar,
                completed=report.step,
                description=phase,
                loss=f"{self.loss:.4f}",
                rate=f"{self.rate:.0f}",
                left=f"{timedelta(seconds=round(left))} {goal}",
            )
        elif report.step == report.steps or report.step % max(1, report.steps // LINES) == 0:
            elapsed = time.monotonic() - self.started
            self.line(
                f"{phase} step {report.step}/{report.steps}  loss {self.loss:.4f}  {self.rate:.1f} tasks/s  "
                f"{elapsed:.0f} s, {left:.0f} s {goal}"
            )

    def _left(self, report: StepReport) -> tuple[float, str]:
        """Seconds left of the phase at its own pace, and what comes then: steps of the next may take longer by far."""
        phases = self.config.phases
        number, step = self.config.phase_at(report.step - 1)
        pace = (time.monotonic() - self._begun) / (report.step - self._before)
        goal = "left" if number + 1 == len(phases) else f"to {phases[number + 1].estimator.rpartition(':')[2]}"
        return pace * (phases[number].steps - step - 1), goal
