"""What the quickstart takes and gives: training time, losses on unseen classes, and on a data set never seen.

    python benchmarks/quickstart.py --omniglot omniglot28.npz [--tasks 100] [--preset quickstart] [--seed 0]

Runs ``metagen train`` and ``metagen evaluate`` as a user does, on the packaged test classes and on Omniglot's
evaluation alphabets, and writes results/PRESET.json and docs/images/PRESET.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from environment import write

ROOT = Path(__file__).parent.parent


def evaluate(run: Path, name: str, *extra: str) -> subprocess.Popen[bytes]:
    """Start evaluating the run; the result will lie beside it."""
    command = ["metagen", "evaluate", str(run), "--json", str(run / f"{name}.json")]
    return subprocess.Popen([*command, "--picture", str(run / f"{name}.png"), *extra])


def figures_of(run: Path, name: str) -> dict[str, Any]:
    """An evaluation's JSON without its per-class tables, which would be most of the file."""
    values: dict[str, Any] = json.loads((run / f"{name}.json").read_text())
    values.pop("checkpoint")
    for method in values["methods"].values():
        for entry in method["query_loss"].values():
            entry.pop("per_class")
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
    started = time.monotonic()
    subprocess.run(["metagen", "train", options.preset, "--run-dir", str(run), "--seed", str(options.seed)], check=True)
    seconds = time.monotonic() - started
    tasks = ("--tasks", options.tasks)
    evaluations = [  # one core each
        evaluate(run, "pictograms", *tasks),
        evaluate(run, "omniglot", *tasks, "--data", str(options.omniglot)),
    ]
    codes = [process.wait() for process in evaluations]
    if any(codes):
        raise SystemExit("an evaluation failed")
    name = options.preset if options.seed == 0 else f"{options.preset}-seed{options.seed}"
    figures = {
        "preset": options.preset,
        "seed": options.seed,
        "command_seconds": seconds,
        "pictograms": figures_of(run, "pictograms"),
        "omniglot": figures_of(run, "omniglot"),
    }
    path = write(name, figures)
    picture = ROOT / "docs" / "images" / f"{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "pictograms.png", picture)
    print(f"trained in {seconds:.0f} s, start of Ray included; wrote {path} and {picture}")


if __name__ == "__main__":
    main()
