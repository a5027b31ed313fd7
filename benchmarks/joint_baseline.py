"""Train the joint baseline that ``metagen evaluate`` compares with, and put it into the package.

    python benchmarks/joint_baseline.py [--run-dir DIR]

Trains the preset quickstart-joint (unless DIR holds that run already), exports its weights to
launch/baselines/joint, and writes results/joint_baseline.json with the time that training took.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from environment import write
from training import seconds, trained

from metagen.checkpoint import export_checkpoint, load_checkpoint
from metagen.work import build_problem

TARGET = Path(__file__).parent.parent / "launch" / "baselines" / "joint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/quickstart-joint"))
    options = parser.parse_args()
    saved = load_checkpoint(trained("quickstart-joint", options.run_dir))
    layout = build_problem(saved.config).network.layout
    export_checkpoint(TARGET, saved.config, layout, saved.state)
    size = sum(path.stat().st_size for path in TARGET.iterdir())
    figures = {
        "training_seconds": seconds(options.run_dir),
        "steps": saved.state.step,
        "parameters": layout.size,
        "bytes": size,
    }
    print(f"{figures}; wrote {TARGET} and {write('joint_baseline', figures)}")


if __name__ == "__main__":
    main()
