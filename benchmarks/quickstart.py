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


def evaluation(run: Path, name: str, *extra: str) -> dict[str, Any]:
    """Evaluate the run; the JSON without its per-class tables, which would be most of the file."""
    path = run / f"{name}.json"
    picture = run / f"{name}.png"
    command = ["metagen", "evaluate", str(run), "--json", str(path), "--picture", str(picture), *extra]
    subprocess.run(command, check=True)
    values: dict[str, Any] = json.loads(path.read_text())
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
    pictograms = evaluation(run, "pictograms", "--tasks", options.tasks)
    omniglot = evaluation(run, "omniglot", "--tasks", options.tasks, "--data", str(options.omniglot))
    name = options.preset if options.seed == 0 else f"{options.preset}-seed{options.seed}"
    figures = {
        "preset": options.preset,
        "seed": options.seed,
        "command_seconds": seconds,
        "pictograms": pictograms,
        "omniglot": omniglot,
    }
    path = write(name, figures)
    picture = ROOT / "docs" / "images" / f"{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "pictograms.png", picture)
    print(f"trained in {seconds:.0f} s, start of Ray included; wrote {path} and {picture}")


if __name__ == "__main__":
    main()
