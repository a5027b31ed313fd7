"""What training on classes of one's own gains by starting from the packaged generator.

    python benchmarks/warm_start.py --omniglot omniglot28.npz [--seconds 60,280] [--tasks 100] [--run-dir DIR]

Omniglot's background alphabets stand for a user's classes. The preset ``quickstart`` is trained on them from random
weights and with ``--from pretrained``, for each number of seconds; these and the packaged generator as it is are
evaluated on the evaluation alphabets, which none of them saw. Writes results/warm_start.json: losses, and differences
paired by class; and docs/images/warm_start.png, what the last run of the second kind makes of unseen classes. What an
earlier call finished in the run folder is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from environment import write
from quickstart import evaluate, figures_of
from training import seconds, trained

from launch.pretrained import NAME
from metagen.bootstrap import interval
from metagen.checkpoint import load_checkpoint

STARTS = {"scratch": (), "warm": ("--from", NAME)}
EVALUATION = "evaluation"
IMAGES = Path(__file__).parent.parent / "docs" / "images"


def measured(run: Path, data: Path, tasks: int, checkpoint: str | None = None) -> dict[str, Any]:
    """The evaluation of a run, or of ``checkpoint`` with its result in the folder ``run``."""
    process = evaluate(run, EVALUATION, "--data", str(data), "--tasks", str(tasks), checkpoint=checkpoint)
    if process is not None and process.wait():
        raise SystemExit("an evaluation failed")
    found = figures_of(run, EVALUATION)
    samples = found["samples"]["methods"]
    return {
        "query_loss": found["methods"]["meta"]["query_loss"],
        "classes": len(found["classes"]),
        "recognisability": {who: samples[who]["recognisability"] for who in ("meta", "real")},
    }


def apart(run: Path, other: Path) -> dict[str, Any]:
    """Loss of ``run`` minus that of ``other`` after each number of steps, paired by class."""
    losses = [
        json.loads((one / f"{EVALUATION}.json").read_text())["methods"]["meta"]["query_loss"] for one in (run, other)
    ]
    mine, theirs = ({k: np.array(list(entry["per_class"].values())) for k, entry in table.items()} for table in losses)
    return {k: interval(mine[k] - theirs[k]) for k in mine}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--omniglot", type=Path, required=True, help="omniglot28.npz or the folder of its zips")
    parser.add_argument("--seconds", default="60,280")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/warm-start"))
    options = parser.parse_args()
    asked, home = [int(part) for part in options.seconds.split(",")], options.run_dir
    data = ("--set", "data.source=omniglot", "--set", f"data.path={options.omniglot}")
    rows = []
    for budget in asked:
        for start, words in STARTS.items():
            run = home / f"{start}-{budget}"
            saved = load_checkpoint(trained("quickstart", run, *words, *data, "--set", f"budget={budget}"))
            rows.append(
                {
                    "start": start,
                    "seconds_asked": budget,
                    "seconds": seconds(run),
                    "steps": saved.state.step,
                    "tasks_seen": saved.state.tasks,
                    **measured(run, options.omniglot, options.tasks),
                }
            )
        rows[-1]["minus_scratch"] = apart(home / f"warm-{budget}", home / f"scratch-{budget}")
    shutil.copy(home / f"warm-{asked[-1]}" / f"{EVALUATION}.png", IMAGES / "warm_start.png")
    untrained = home / NAME
    untrained.mkdir(parents=True, exist_ok=True)
    figures = {NAME: measured(untrained, options.omniglot, options.tasks, NAME), "rows": rows}
    print(f"wrote {write('warm_start', figures)}; now run python benchmarks/report.py")


if __name__ == "__main__":
    main()
