"""Train the joint baseline that ``metagen evaluate`` compares with, and put it into the package.

    python benchmarks/joint_baseline.py [--run-dir DIR]

Trains the preset quickstart-joint (unless DIR holds that run already), exports its weights to
launch/baselines/joint, and writes results/joint_baseline.json with the time that training took.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from environment import write

from launch.training import run_folder
from metagen.checkpoint import export_checkpoint, load_checkpoint
from metagen.work import build_problem

TARGET = Path(__file__).parent.parent / "launch" / "baselines" / "joint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/quickstart-joint"))
    options = parser.parse_args()
    if not (options.run_dir / run_folder.CONFIG).exists():
        subprocess.run(["metagen", "train", "quickstart-joint", "--run-dir", str(options.run_dir)], check=True)
    final = options.run_dir / "checkpoints" / "final"
    seconds = final.stat().st_mtime - (options.run_dir / run_folder.CONFIG).stat().st_mtime
    saved = load_checkpoint(final)
    layout = build_problem(saved.config).network.layout
    export_checkpoint(TARGET, saved.config, layout, saved.state)
    size = sum(path.stat().st_size for path in TARGET.iterdir())
    figures = {"training_seconds": seconds, "steps": saved.state.step, "parameters": layout.size, "bytes": size}
    print(f"{figures}; wrote {TARGET} and {write('joint_baseline', figures)}")


if __name__ == "__main__":
    main()
