"""``metagen benchmark few-shot``, its figures put into results/ and its picture into docs/images/.

    python benchmarks/few_shot.py [--out runs/few-shot] [--preset policy] [--seeds 3] [--omniglot omniglot28.npz] ...

Takes the options of the command, and goes on where an earlier call was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from environment import write

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/few-shot"))
    options, others = parser.parse_known_args()
    command = [sys.executable, "-m", "launch.cli", "benchmark", "few-shot", "--out", str(options.out), *others]
    subprocess.run(command, check=True)
    path = write("few_shot", json.loads((options.out / "few-shot.json").read_text()))
    picture = ROOT / "docs" / "images" / "few_shot.png"
    shutil.copy(options.out / "few-shot.png", picture)
    print(f"wrote {path} and {picture}; now run python benchmarks/report.py")


if __name__ == "__main__":
    main()
