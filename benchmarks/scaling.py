"""How much faster n actors are than one process, and what the learner and Ray take of a step.

    python benchmarks/scaling.py [--preset quickstart] [--actors 2] [--steps 60]

Trains the same config on the serial pool (one thread) and on Ray in turn, several times each, and writes
results/scaling.json: tasks a second, their ratio, and each part's share of a step. The first steps of a run
warm caches up and are not counted.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from environment import write

from cluster.pool import RayPool, start_ray, stop_ray
from launch.preset import load_config
from metagen import tasks, work
from metagen.learner import Learner, initial_state
from metagen.pool import Pool, SerialPool, one_thread
from metagen.precision import resolve
from metagen.records import StepReport
from metagen.train import train

WARM = 5


@contextmanager
def pool_of(kind: str, parts: work.Parts, actors: int) -> Iterator[Pool]:
    """The serial pool, or Ray's for as long as the block runs."""
    if kind == "serial":
        yield SerialPool(parts)
        return
    start_ray(None, actors)
    pool = RayPool(parts.config, parts.images, actors)
    try:
        yield pool
    finally:
        pool.close()
        stop_ray()


def measure(parts: work.Parts, pool: Pool, steps: int) -> dict[str, float]:
    """Tasks a second and shares of a step, over ``steps`` steps after the warm ones."""
    network = parts.problem.network
    learner = Learner(parts.config, network.layout, initial_state(network.initial, parts.policy, network.layout))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--name", default="scaling")
    options = parser.parse_args()
    one_thread()
    config = resolve(load_config(options.preset, options.set, None, None))
    images = tasks.load(config.data)
    parts = work.build(config, images)
    runs: dict[str, list[dict[str, float]]] = {"serial": [], "ray": []}
    for _ in range(options.repeats):
        for kind, found in runs.items():
            with pool_of(kind, parts, options.actors) as pool:
                found.append(measure(parts, pool, options.steps))
            print(kind, {name: round(value, 4) for name, value in found[-1].items()}, flush=True)
    rates = {kind: [run["tasks_per_second"] for run in found] for kind, found in runs.items()}
    ratios = [ray / serial for serial, ray in zip(rates["serial"], rates["ray"], strict=True)]
    # All of a step that workers do not spend adapting: the learner, Ray, and waiting for the slowest.
    shares = [1 - run["share_adapt"] for run in runs["ray"]]
    path = write(
        options.name,
        {
            "preset": options.preset,
            "precision": config.precision,
            "actors": options.actors,
            "steps": options.steps,
            "runs": runs,
            "speedup": {"median": statistics.median(ratios), "each": ratios},
            "overhead_share": {"median": statistics.median(shares), "each": shares},
        },
    )
    print(
        f"{options.actors} actors: {statistics.median(ratios):.2f} times the serial tasks/s; learner, Ray and waiting "
        f"take {statistics.median(shares):.1%} of a step; wrote {path}"
    )


if __name__ == "__main__":
    main()
