"""Does every generator family show recognisable images of unseen classes after ten minutes of training?

    python benchmarks/families.py [--families edm,vae] [--tasks 24] [--run-dir runs/families]

Trains the preset of each family as a user does, then evaluates it on unseen classes of the packaged set. Writes the
time that training took, and how recognisable samples and real images are, to results/families.json, and the picture of
each to docs/images/family-NAME.png. What an earlier call finished in the run folder is not done again. Families that
are not asked for keep what results/families.json has of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from environment import RESULTS, write
from quickstart import evaluate, figures_of
from training import seconds, trained

from launch.benchmarks.environment import environment
from metagen.checkpoint import load_checkpoint

FAMILIES = {
    "flow": "quickstart",
    "diffusion": "diffusion",
    "edm": "edm",
    "vae": "vae",
    "gan": "gan",
    "dense-conv": "dense-conv",
}
"""The preset of each."""
IMAGES = Path(__file__).parent.parent / "docs" / "images"


def measure(preset: str, run: Path, tasks: int) -> dict[str, Any]:
    """Training and evaluation of one preset; the picture lies in the run folder."""
    saved = load_checkpoint(trained(preset, run))
    process = evaluate(run, "evaluation", "--tasks", str(tasks))
    if process is not None and process.wait():
        raise SystemExit("an evaluation failed")
    found = figures_of(run, "evaluation")
    return {
        "preset": preset,
        "environment": environment(),
        "training_seconds": seconds(run),
        "steps": saved.state.step,
        "parameters": saved.state.mean.numel(),
        "classes": len(found["classes"]),
        "metric": found["metric"],
        "query_loss": found["methods"]["meta"]["query_loss"],
        "samples": found["samples"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/families"))
    options = parser.parse_args()
    names = options.families.split(",")
    if unknown := set(names) - set(FAMILIES):
        parser.error(f"unknown families {sorted(unknown)}; known: {', '.join(FAMILIES)}")
    path = RESULTS / "families.json"
    found = json.loads(path.read_text())["families"] if path.exists() else {}
    for name in names:
        run = options.run_dir / name
        found[name] = measure(FAMILIES[name], run, options.tasks)
        shutil.copy(run / "evaluation.png", IMAGES / f"family-{name}.png")
        print(f"{name}: trained in {found[name]['training_seconds']:.0f} s", flush=True)
    ordered = {name: found[name] for name in FAMILIES if name in found}
    print(f"wrote {write('families', {'families': ordered})}")


if __name__ == "__main__":
    main()
