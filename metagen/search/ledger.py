"""What a sweep has tried: ``sweep.jsonl`` in its folder, which alone says how to go on.

Written by the process that drives the sweep, one event a line; read by everyone else. Nothing is ever unpickled.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from metagen.lines import append, events
from metagen.search.space import Assignment

LEDGER, TRIALS = "sweep.jsonl", "trials"
STOP = "stop"
"""A file of this name in a sweep's folder asks the process that drives it to leave."""
Status = Literal["waiting", "running", "complete", "stopped", "failed", "refused"]
ENDED: tuple[Status, ...] = ("complete", "stopped", "failed", "refused")
"""``stopped``: by the scheduler, before its last step. ``refused``: by a limit that takes a worker to measure."""


@dataclass
class Tried:
    """One trial, as far as the ledger tells."""

    number: int
    assignment: Assignment
    """In force: a population changes it."""
    facts: dict[str, float]
    status: Status = "waiting"
    results: list[dict[str, Any]] = field(default_factory=list)
    """Judgements in order: ``step``, ``rung``, ``loss``, objectives, ``checkpoint``..."""
    reason: str = ""
    retries: int = 0
    donor: str | None = None
    """The checkpoint that its weights began as."""

    @property
    def last(self) -> dict[str, Any]:
        """The newest judgement; empty before the first."""
        return self.results[-1] if self.results else {}

    @property
    def step(self) -> int:
        return int(self.last.get("step", 0))

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint of the newest judgement."""
        return self.last.get("checkpoint")

    @property
    def seconds(self) -> float:
        """Worker seconds of training and judging."""
        return float(sum(result.get("busy", 0.0) for result in self.results))

    def objective(self, name: str) -> float:
        """The newest value of an objective; infinity where there is none."""
        value = self.last.get(name, self.facts.get(name))
        return math.inf if value is None or self.status in ("failed", "refused") else float(value)


@dataclass
class Progress:
    """A sweep as far as its ledger tells."""

    trials: dict[int, Tried] = field(default_factory=dict)
    refusals: list[tuple[int, Assignment, str]] = field(default_factory=list)
    """Proposals that no trial was made of: attempt, assignment, reason."""
    attempts: int = 0
    """Proposals so far, refused ones included."""
    seconds: float = 0.0
    """Wall-clock of all sessions."""
    state: str = "not started"
    reason: str = ""
    """Why the newest session was left."""
    pid: int | None = None
    host: str = ""
    slots: int = 1
    """Trials that had room at a time in the newest session."""
    time: datetime | None = None
    _began: datetime | None = None

    def add(self, event: dict[str, Any]) -> None:
        """Take one event in."""
        kind, now = event["event"], datetime.fromisoformat(event["time"])
        if kind == "session":
            self.state, self._began, self.pid, self.host = "running", now, event["pid"], event["host"]
            self.interrupt()
        elif self._began is not None and self.time is not None:
            self.seconds += (now - self.time).total_seconds()
        self.time = now
        if kind == "slots":
            self.slots = event["slots"]
        elif kind == "refused":
            self.attempts = max(self.attempts, event["attempt"] + 1)
            self.refusals.append((event["attempt"], event["assignment"], event["reason"]))
        elif kind == "proposed":
            self.attempts = max(self.attempts, event["attempt"] + 1)
            self.trials[event["trial"]] = Tried(
                event["trial"], event["assignment"], event["facts"], donor=event.get("donor")
            )
        elif kind in ("left", "finished"):
            self.state, self.reason, self._began = kind, event.get("reason", ""), None
            self.interrupt()
        if event.get("trial") in self.trials:
            _follow(self.trials[event["trial"]], kind, event)

    def interrupt(self) -> None:
        """Nobody works on trials any more: those that ran wait for a session to come."""
        for trial in self.trials.values():
            if trial.status == "running":
                trial.status = "waiting"

    @property
    def unfinished(self) -> list[Tried]:
        """Trials that a resumed sweep goes on with."""
        return [trial for trial in self.trials.values() if trial.status not in ENDED]

    def ranked(self, objective: str = "loss") -> list[Tried]:
        """Trials with a judgement, the best by its newest value first; a diverged one is none."""
        found = [trial for trial in self.trials.values() if math.isfinite(trial.objective(objective))]
        return sorted((t for t in found if t.results), key=lambda t: (t.objective(objective), t.number))

    def reasons(self) -> Counter[str]:
        """Why proposals were refused and how often; those above one limit count together."""
        return Counter(
            f"{reason.partition(' ')[0]} above {reason.partition(' is above ')[2]}"
            if " is above " in reason
            else reason
            for _, _, reason in self.refusals
        )


def _follow(trial: Tried, kind: str, event: dict[str, Any]) -> None:
    if kind == "started":
        trial.status = "running"
    elif kind == "result":
        # A trial that went on from an older checkpoint takes steps again: the last line of a step counts.
        trial.results = [one for one in trial.results if one["step"] < event["step"]]
        trial.results.append({k: v for k, v in event.items() if k not in ("event", "trial", "assignment")})
        trial.assignment = event.get("assignment", trial.assignment)
    elif kind == "retried":
        trial.retries += 1
    elif kind in ("complete", "stopped", "failed", "refused_trial"):
        trial.status = "refused" if kind == "refused_trial" else kind  # type: ignore[assignment]
        trial.reason = event.get("reason", "")


class Ledger:
    """Writes and reads the ledger in a sweep's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER

    def write(self, event: str, **values: Any) -> None:
        """Append one event."""
        append(self.path, event, values)

    def read(self, progress: Progress | None = None, place: int = 0) -> tuple[Progress, int]:
        """All that the ledger tells from byte ``place`` on, and where to go on; nothing if there is none yet."""
        progress = progress or Progress()
        if self.path.exists():
            for end, event in events(self.path, place):
                progress.add(event)
                place = end
        return progress, place
