"""Trials that cost nothing: what a sweep's driver, searchers and schedulers make of them is what is tested.

Imports nothing of metagen: a process that imports PyTorch costs seconds.
"""

from __future__ import annotations

import json
import math
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from ray import tune


def loss_of(assignment: dict[str, Any], step: int) -> float:
    """A bowl in the logarithm of the learning rate, reached as steps go on."""
    rate = assignment["phases.0.outer.learning_rate"]
    return abs(math.log10(rate) + 2) + assignment.get("ema", 0.0) + 1.0 / step


def instant(config: dict[str, Any], sweep: dict[str, Any], folder: str, images: list[Any]) -> None:
    """Reports a loss at every rung. Every step taken is written down: a line in ``DIR/steps``.

    With a file ``dies`` in the folder, trial 1's process is killed once, at its second rung. With a file ``breaks``,
    trial 2 fails whenever it is tried.
    """
    number = int(tune.get_context().get_trial_name())
    every, last = sweep["every"], sweep["steps"]
    saved, first = tune.get_checkpoint(), 0
    if saved is not None:
        with saved.as_directory() as place:
            first = json.loads((Path(place) / "place.json").read_text())
    elif config["_begin"]:
        first = int(config["_begin"])
    assignment = {name: value for name, value in config.items() if not name.startswith("_")}
    steps = range(first + every, last + 1, every)
    with tempfile.TemporaryDirectory() as scratch:
        for step in steps:
            with (Path(folder) / "steps").open("a") as file:
                file.write(f"{number} {step}\n")
            fatal = Path(folder) / "dies"
            if number == 1 and step == 2 * every and fatal.exists():
                fatal.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            if number == 2 and (Path(folder) / "breaks").exists():
                raise ZeroDivisionError("a bug in the trial")
            (Path(scratch) / "place.json").write_text(json.dumps(step))
            loss = loss_of(assignment, step)
            tune.report(
                {
                    **config["_facts"],
                    "loss": loss,
                    "latency": loss,
                    "step": step,
                    "rung": step // every,
                    "busy": 0.0,
                    "checkpoint": str(step),
                    "assignment": json.dumps(assignment),
                    "done": step >= last,
                },
                checkpoint=tune.Checkpoint.from_directory(scratch),
            )


__all__ = ["instant", "loss_of"]
