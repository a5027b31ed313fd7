"""The runs that benchmarks stand on: trained as a user trains them, continued if an earlier call was cut off."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path

from launch.training import run_folder
from launch.training.log import LOG, events
from metagen.config import RunConfig


def trained(source: str | RunConfig, run: Path, *options: str, workers: tuple[str, ...] = ()) -> Path:
    """The final checkpoint of ``source`` (a preset, or a config) in the folder ``run``.

    What was finished is not done again. A config is written beside the folder. ``options`` are of ``metagen train``;
    ``workers`` say who does the work, which a resumed run has to be told as well.
    """
    final = run / "checkpoints" / "final"
    if not final.exists():
        if isinstance(source, RunConfig):
            path = run.with_suffix(".yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source.to_yaml())
            source = str(path)
        begun = (run / run_folder.CONFIG).exists()
        words = ["resume", str(run)] if begun else ["train", source, "--run-dir", str(run), *options]
        subprocess.run(["metagen", *words, *workers], check=True)
    return final


def seconds(run: Path) -> float:
    """Wall-clock from the run's start to its final checkpoint, without the time between a stop and its resumption."""
    legs: list[list[datetime]] = []
    for _, event in events(run / LOG):
        if event["event"] in ("started", "resumed"):
            legs.append([])
        legs[-1].append(datetime.fromisoformat(event["time"]))
    return sum((leg[-1] - leg[0]).total_seconds() for leg in legs)
