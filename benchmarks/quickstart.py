"""What the quickstart takes and gives: training time, losses on unseen classes, and on a data set never seen.

    python benchmarks/quickstart.py --omniglot omniglot28.npz [--tasks 100] [--preset quickstart] [--seed 0]

Runs ``metagen train`` and ``metagen evaluate`` as a user does, on the packaged test classes and on Omniglot's
evaluation alphabets, and writes results/PRESET.json and docs/images/PRESET.png. What an earlier call finished in
the run folder is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from environment import write
from training import seconds, trained

ROOT = Path(__file__).parent.parent


def evaluate(run: Path, name: str, *extra: str, checkpoint: str | None = None) -> subprocess.Popen[bytes] | None:
    """Start evaluating the run, or another ``checkpoint``, unless that was done already; the result will lie in it."""
    if (run / f"{name}.json").exists():
        return None
    command = ["metagen", "evaluate", checkpoint or str(run), "--json", str(run / f"{name}.json")]
    return subprocess.Popen([*command, "--picture", str(run / f"{name}.png"), *extra])


def figures_of(run: Path, name: str) -> dict[str, Any]:
    """An evaluation's JSON without its per-class tables, which would be most of the file."""
    return without_classes(json.loads((run / f"{name}.json").read_text()))


def without_classes(values: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's figures without each class's and category's, and without where its checkpoint lay."""
    values.pop("checkpoint")
    entries = [entry for method in values["methods"].values() for entry in method["query_loss"].values()]
    entries += [
        entry for method in values.get("samples", {"methods": {}})["methods"].values() for entry in method.values()
    ]
    for entry in entries:
        entry.pop("per_class", None)
        entry.pop("by_category", None)
    values.pop("categories", None)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", default="100")
    parser.add_argument("--omniglot", type=Path, required=True, help="omniglot28.npz or the folder of its zips")
    parser.add_argument("--run-dir", type=Path)
    options = parser.parse_args()
    run = options.run_dir or Path("runs") / f"benchmark-{options.preset}-{options.seed}"
    trained(options.preset, run, "--seed", str(options.seed))
    tasks = ("--tasks", options.tasks, "--workers", "1")
    evaluations = [  # one core each
        evaluate(run, "pictograms", *tasks),
        evaluate(run, "omniglot", *tasks, "--data", str(options.omniglot)),
    ]
    codes = [process.wait() for process in evaluations if process is not None]
    if any(codes):
        raise SystemExit("an evaluation failed")
    name = options.preset if options.seed == 0 else f"{options.preset}-seed{options.seed}"
    figures = {
        "preset": options.preset,
        "seed": options.seed,
        "training_seconds": seconds(run),
        "pictograms": figures_of(run, "pictograms"),
        "omniglot": figures_of(run, "omniglot"),
    }
    path = write(name, figures)
    picture = ROOT / "docs" / "images" / f"{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "pictograms.png", picture)
    print(f"trained in {seconds(run):.0f} s; wrote {path} and {picture}")


if __name__ == "__main__":
    main()
