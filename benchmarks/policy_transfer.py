"""How well does a learned optimiser do on a network, and on a family, that it was not trained for?

    python benchmarks/policy_transfer.py --omniglot omniglot28.npz --run-dir runs/policy [--tasks 32] [--base-steps 300]

Takes the ``learned optimiser`` that ``benchmarks/policy.py`` trained on the first seed's generator, and uses it as it
is on that generator, on one with other widths, and on one of the family ``edm``. Against it stands Adam with the step
size that the learned optimiser started from, and Adam tuned on validation classes for each number of steps. Writes
results/policy_transfer.json: mean log ratio of the query loss after and before adaptation, paired differences with
95% intervals over classes. What an earlier call finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from environment import write
from policy_arms import base_config
from policy_domains import bench
from training import trained

from metagen import tasks
from metagen.bootstrap import interval
from metagen.checkpoint import load_checkpoint
from metagen.config import RunConfig
from metagen.evaluate import Bench, Method, fine_tuned, method_of, tune
from metagen.pool import one_thread
from metagen.tasks.config import DataConfig
from metagen.values import override

STEPS = (0, 5, 10, 20)
STARTED_FROM = 5e-5
GENERATORS: dict[str, tuple[str, ...]] = {
    "the generator it was trained on": (),
    "other widths": ("generator.architecture.widths=[32,96]", "generator.architecture.kernel=5"),
    "another family": ("generator.family=edm",),
}


def generator(name: str, root: Path, steps: int | None) -> Path:
    """The checkpoint of a generator, trained jointly if it is not there."""
    if not GENERATORS[name]:
        return root / "seed0" / "base" / "checkpoints" / "final"
    folder = root / "transfer" / name.replace(" ", "_")
    config = RunConfig.parse(override(base_config(0, steps).model_dump(mode="json"), GENERATORS[name]))
    return trained(config, folder)


def measure(learned: Method, base: Method, valid: Bench, test: Bench) -> dict[str, Any]:
    """Losses ``[classes, steps]`` of the three on one data set."""
    sizes = tune(valid, base, STEPS[1:])
    sizes[0] = sizes[STEPS[1]]
    return {
        "learned optimiser": test.losses(learned, STEPS).tolist(),
        "Adam, not tuned": test.losses(base.with_adam(STARTED_FROM), STEPS).tolist(),
        "Adam, tuned": fine_tuned(test, base, sizes, STEPS).tolist(),
    }


def compared(losses: dict[str, Any]) -> dict[str, Any]:
    """Mean log ratios to the loss before adaptation, and differences of them to the learned optimiser's."""
    ratios = {name: np.log(np.array(table) / np.array(table)[:, :1]) for name, table in losses.items()}
    mine = ratios["learned optimiser"]
    return {
        name: {
            str(k): {"log_ratio": interval(table[:, i]), "learned_minus_this": interval((mine - table)[:, i])}
            for i, k in enumerate(STEPS)
            if k
        }
        for name, table in ratios.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--omniglot", type=Path, default=os.environ.get("METAGEN_OMNIGLOT"), help="omniglot28.npz")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/policy"))
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--tuning", type=int, default=8)
    parser.add_argument("--base-steps", type=int, help="outer steps of the other generators; the preset's by default")
    options = parser.parse_args()
    if options.omniglot is None:
        parser.error("give --omniglot, or set METAGEN_OMNIGLOT")
    one_thread()
    arm = options.run_dir / "seed0" / "arms" / "learned_optimiser"
    if not arm.exists():
        parser.error(f"{arm} is not there: run benchmarks/policy.py with this --run-dir first")
    optimiser = method_of(load_checkpoint(arm))
    images = {
        "pictograms": tasks.load(DataConfig()),
        "omniglot": tasks.load(DataConfig(source="omniglot", path=str(options.omniglot))),
    }
    found: dict[str, Any] = {}
    for name in GENERATORS:
        base = method_of(load_checkpoint(generator(name, options.run_dir, options.base_steps)))
        learned = replace(base, policy=optimiser.policy, vector=optimiser.vector)
        found[name] = {}
        for data, of in images.items():
            path = options.run_dir / "transfer" / f"{name}-{data}-{options.tasks}.json".replace(" ", "_")
            if not path.exists():
                valid, test = (bench(of, s, n) for s, n in (("valid", options.tuning), ("test", options.tasks)))
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps(measure(learned, base, valid, test)))
                partial.replace(path)
            found[name][data] = compared(json.loads(path.read_text()))
            print(f"{name}, {data}: done", flush=True)
    print(f"wrote {write('policy_transfer', {'classes': options.tasks, 'generators': found})}")


if __name__ == "__main__":
    main()
