"""A run's log: ``log.jsonl`` in its folder, one JSON object a line, for programs and for ``metagen top``.

Every line has ``time`` (UTC), ``run`` (the config's identity) and ``event``. A resumed run appends; steps that it takes
again stand there again, and the last line of a step counts. A line that a kill cut short is closed and skipped.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import metagen
from launch.training.log import LOG
from metagen.config import RunConfig
from metagen.lines import append
from metagen.pool import available_cores
from metagen.records import Outcome, StepReport


class Journal:
    """Appends events to a run's log. Opens it for each line: a step is long, and nothing is left open."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.path, self.config = folder / LOG, config

    def start(self, step: int, pool: str, workers: int) -> None:
        """The session's first line: all that it takes to say what made the results."""
        self.write(
            "resumed" if step else "started", step=step, steps=self.config.steps, **facts(self.config, pool, workers)
        )

    def step(self, report: StepReport) -> None:
        """One outer step, with what became of each result."""
        self.write(
            "step",
            step=report.step,
            steps=report.steps,
            phase=report.phase,
            estimator=self.config.phases[report.phase].estimator,
            version=report.version,
            tasks=report.tasks,
            metrics=report.metrics,
            gradient_norm=report.gradient_norm,
            learning_rate=report.learning_rate,
            verdicts=report.verdicts,
            rolled_back=report.rolled_back,
            rollbacks=report.rollbacks,
            workers=report.workers,
            events=report.events,
            seconds=report.seconds,
            results=[_result(one) for one in report.outcomes],
        )

    def write(self, event: str, **values: Any) -> None:
        """Append one line; raises ``UserError`` if the disk refuses."""
        append(self.path, event, {"run": self.config.identity, **values})


def _result(one: Outcome) -> dict[str, Any]:
    values = asdict(one)
    return {"actor": values.pop("worker"), **values}


def facts(config: RunConfig, pool: str, workers: int) -> dict[str, Any]:
    """Versions, seed, git state, hardware and workers of a session."""
    return {
        "name": config.name,
        "seed": config.seed,
        "start_from": config.start_from,
        "precision": config.precision,
        "together": config.together,
        "pool": pool,
        "workers": workers,
        "command": sys.argv[1:],
        "versions": {"python": platform.python_version(), **_versions("metagen", "torch", "ray", "numpy", "pyarrow")},
        "git": _git(Path(metagen.__file__).parent),
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "system": f"{platform.system()} {platform.machine()}",
            "cores": available_cores(),
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = metagen.__version__ if name == "metagen" else "not installed"
    return found


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit of the source tree that runs, and whether it was changed since; None if it is no git repository."""
    try:
        commit, status = (
            subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, check=True, timeout=10)
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "."))
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no repository: installed from a package
        return None
    return {"commit": commit.stdout.strip(), "changed": bool(status.stdout.strip())}
