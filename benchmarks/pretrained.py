"""Put a run's weights into the package as the checkpoint ``pretrained``, measure it, and fill its model card.

    python benchmarks/pretrained.py [runs/standard] [--omniglot omniglot28.npz] [--tasks 100]

Exports the run's newest checkpoint (bf16) to launch/weights/pretrained, evaluates it on unseen classes of the packaged
set and, with --omniglot, of Omniglot, as a user would, and writes results/pretrained.json with how the run was trained,
which is read from its log. Without a run the packaged checkpoint is evaluated anew, and what is there of its training
stays. ``python benchmarks/report.py`` then fills the MODEL_CARD.md there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from environment import RESULTS, write
from quickstart import without_classes

from launch.benchmarks.environment import environment
from launch.pretrained import FOLDER, NAME
from launch.training.log import LOG, events
from metagen import tasks
from metagen.checkpoint import MANIFEST, WEIGHTS, export_checkpoint, load_checkpoint
from metagen.work import build_problem

CARD = "MODEL_CARD.md"
EVALUATIONS = ("pictograms", "omniglot")


def training(run: Path) -> dict[str, Any]:
    """How the run was trained: what was asked for, and the wall-clock of all its steps."""
    found = [event for _, event in events(run / LOG)]
    started = next(event for event in found if event["event"] == "started")
    steps = {event["step"]: event["seconds"]["total"] for event in found if event["event"] == "step"}
    asked = [word for word in started["command"] if "/" not in word and word not in ("--run-dir", "train")]
    return {
        "preset_and_settings": asked,
        "seed": started["seed"],
        "workers": started["workers"],
        "precision": started["precision"],
        "steps_planned": started["steps"],
        "training_hours": sum(steps.values()) / 3600,
    }


def evaluated(classes: int, omniglot: Path | None) -> dict[str, Any]:
    """Evaluations of the packaged checkpoint, both started at once."""
    data: dict[str, list[str]] = {"pictograms": []}
    if omniglot:
        data["omniglot"] = ["--data", str(omniglot)]
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for name, extra in data.items():
            out = Path(folder, f"{name}.json")
            files = ["--json", str(out), "--picture", str(out.with_suffix(".png"))]
            command = ["metagen", "evaluate", NAME, "--tasks", str(classes), *files, *extra]
            running.append((name, out, subprocess.Popen(command)))
        codes = [process.wait() for *_, process in running]
        if any(codes):
            raise SystemExit("an evaluation failed")
        return {name: without_classes(json.loads(out.read_text())) for name, out, _ in running}


def packed(run: Path) -> dict[str, Any]:
    """Put the run's weights into the package; gives what there is to say of them."""
    saved = load_checkpoint(run)
    layout = build_problem(saved.config).network.layout
    shape = saved.config.episode
    card = (FOLDER / CARD).read_bytes()
    export_checkpoint(FOLDER, saved.config, layout, saved.state)
    (FOLDER / CARD).write_bytes(card)
    return {
        **training(run),
        "trained_on": environment(),
        "steps": saved.state.step,
        "tasks_seen": saved.state.tasks,
        "classes_seen": len(tasks.load(saved.config.data).members("train", shape.shots + shape.queries)),
        "parameters": layout.size,
        "policy_parameters": len(saved.state.policy),
        "megabytes": sum((FOLDER / name).stat().st_size for name in (WEIGHTS, MANIFEST)) / 1e6,
    }


def kept() -> dict[str, Any]:
    """What an earlier call wrote of the training of the packaged checkpoint."""
    values = json.loads((RESULTS / f"{NAME}.json").read_text())
    return {name: value for name, value in values.items() if name not in ("environment", *EVALUATIONS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--omniglot", type=Path, help="omniglot28.npz or the folder of its zips")
    options = parser.parse_args()
    facts = kept() if options.run is None else packed(options.run)
    figures = {**facts, **evaluated(options.tasks, options.omniglot)}
    print(f"wrote {FOLDER} and {write('pretrained', figures)}; now run python benchmarks/report.py")


if __name__ == "__main__":
    main()
