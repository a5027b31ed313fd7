"""``metagen train --profile``: where the time goes, as traces for TensorBoard and Perfetto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from metagen import work
from metagen.records import Snapshot, StepReport

FOLDER = "profile"
WAIT, STEPS = 2, 3
"""Outer steps before those that are traced, and how many are."""


def trace_pieces(parts: work.Parts, snapshot: Snapshot, folder: Path) -> Iterator[Path]:
    """One piece of work of every phase, done here as a worker does it: a piece depends on its item and snapshot alone.

    The first time warms caches up and is not traced. The results are thrown away.
    """
    first = 0
    for number, phase in enumerate(parts.config.phases):
        item = work.item(parts.config, first, 0, snapshot.version)
        work.run(parts, item, snapshot)
        with profile(activities=_activities()) as trace:
            work.run(parts, item, snapshot)
        path = _path(folder, f"piece-{number}-{phase.estimator.rpartition(':')[2]}")
        trace.export_chrome_trace(str(path))
        yield path
        first += phase.steps


def traced(reports: Iterator[StepReport], folder: Path) -> Iterator[StepReport]:
    """``reports``, with a trace of what this process does in a few outer steps: all of it on the serial pool, on Ray
    the learner and the waiting."""

    def write(trace: profile) -> None:
        trace.export_chrome_trace(str(_path(folder, "steps")))

    plan = schedule(wait=WAIT, warmup=1, active=STEPS, repeat=1)
    with profile(activities=_activities(), schedule=plan, on_trace_ready=write) as trace:
        for report in reports:
            yield report
            trace.step()


def _activities() -> list[ProfilerActivity]:
    gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *gpu]


def _path(folder: Path, name: str) -> Path:
    """Where a trace goes: the ending is the one that TensorBoard's profiler plugin looks for."""
    (folder / FOLDER).mkdir(exist_ok=True)
    return folder / FOLDER / f"{name}.pt.trace.json.gz"
