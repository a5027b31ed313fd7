"""How much faster n actors are than one process, and what the learner and Ray take of a step.

    python benchmarks/scaling.py [--presets quickstart standard] [--actors 2] [--steps 40]

Trains the same config on the serial pool (one thread), on Ray, and on Ray with workers one step ahead of the learner
(``max_staleness: 1``), in turn, several times each, and writes results/scaling.json: tasks a second, their ratio to
the serial pool's, and the share of a step that workers do not spend adapting. The first steps of a run warm caches up
and are not counted.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from environment import write

from cluster.connect import start_ray, stop_ray
from cluster.pool import RayPool
from launch.preset import load_config
from metagen import tasks, work
from metagen.learner import Learner
from metagen.pool import Crew, Pool, SerialPool, one_thread
from metagen.precision import resolve
from metagen.records import StepReport
from metagen.train import train

WARM = 5
KINDS = {"serial": [], "ray": [], "ray_ahead": ["max_staleness=1"]}
"""Who works, with what the config is changed by."""


@contextmanager
def pool_of(kind: str, parts: work.Parts, actors: int) -> Iterator[Pool]:
    """The serial pool, or Ray's for as long as the block runs."""
    if kind == "serial":
        yield SerialPool(parts)
        return
    start_ray(None, [Crew(actors, actors)])
    pool = RayPool(parts.config, parts.images, actors)
    try:
        yield pool
    finally:
        pool.close()
        stop_ray()


def measure(parts: work.Parts, pool: Pool, steps: int) -> dict[str, float]:
    """Tasks a second and shares of a step, over ``steps`` steps after the warm ones."""
    learner = Learner.of(parts)
    reports: list[StepReport] = []
    for report in train(learner, pool):
        reports.append(report)
        if len(reports) == WARM + steps:
            break
    counted = reports[WARM:]
    total = sum(report.seconds["total"] for report in counted)
    shares = {
        f"share_{part}": sum(report.seconds[part] for report in counted) / total
        for part in ("adapt", "transfer", "idle", "learner")
    }
    return {
        "tasks_per_second": sum(report.tasks for report in counted) / total,
        "step_ms": 1e3 * total / steps,
        **shares,
    }


def compare(preset: str, actors: int, steps: int, repeats: int) -> dict[str, Any]:
    """Every kind of pool on one preset, in turn."""
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind, assignments in KINDS.items():
            config = resolve(load_config(preset, assignments, None, None))
            parts = work.build(config, tasks.load(config.data))
            with pool_of(kind, parts, actors) as pool:
                runs[kind].append(measure(parts, pool, steps))
            print(preset, kind, {name: round(value, 4) for name, value in runs[kind][-1].items()}, flush=True)
    rates = {kind: [run["tasks_per_second"] for run in found] for kind, found in runs.items()}
    found: dict[str, Any] = {"precision": config.precision, "runs": runs}
    for kind in list(KINDS)[1:]:
        ratios = [rate / serial for rate, serial in zip(rates[kind], rates["serial"], strict=True)]
        # All of a step that workers do not spend adapting: the learner, Ray, and waiting for the slowest.
        shares = [1 - run["share_adapt"] for run in runs[kind]]
        found[kind] = {
            "speedup": {"median": statistics.median(ratios), "each": ratios},
            "overhead_share": {"median": statistics.median(shares), "each": shares},
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["quickstart", "standard"])
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    one_thread()
    found = {name: compare(name, options.actors, options.steps, options.repeats) for name in options.presets}
    path = write("scaling", {"actors": options.actors, "steps": options.steps, "presets": found})
    for name, values in found.items():
        for kind in list(KINDS)[1:]:
            speedup, share = values[kind]["speedup"]["median"], values[kind]["overhead_share"]["median"]
            print(f"{name}, {kind}: {speedup:.2f} times the serial tasks/s; {share:.1%} of a step is not adapting")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
