"""Results a second over a link of bounded bandwidth, against the model ``X(N) = min(N / (t + o), B / S, 1 / c)``.

    python benchmarks/bandwidth.py [--rate 200mbit] [--actors 1 2 4 8] [--steps 6]

Three hosts of network namespaces on this machine, as the tests make them: needs root, openssh-server, rsync and
iproute2. ``metagen cluster up`` starts the cluster; the learner is on the head, whose link ``tc tbf`` bounds in both
directions, and the actors on the two others. An actor's piece of work is to wait: ``t`` is the same however many share
this machine's cores. All else is what a run does: ``metagen.train`` with ``RayPool``, vectors of the size that the
preset's network has, in float32 and in bf16.

What the model takes is measured apart from what it predicts: ``t`` by the actors, ``c`` by the learner with no network
(the serial pool), ``o`` with one actor and no bound, ``S`` and ``B`` are given. Writes results/bandwidth.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from environment import write

from metagen.algorithms import Estimate, Needs
from metagen.config import RunConfig
from metagen.strict import Strict

ROOT = Path(__file__).parent.parent
HOSTS = 3
MARK = "figures: "
WARM = 2
"""Steps that are not counted: the queues fill in them."""


class WaitingOptions(Strict):
    seconds: float = 0.5


class Waiting:
    """An estimator that waits instead of adapting, and reports a vector of the network's size."""

    Options = WaitingOptions
    needs = Needs()

    def __init__(self, options: WaitingOptions) -> None:
        self.seconds = options.seconds

    def estimate(self, problem: Any, theta: Any, policy: Any, policy_vector: Any, *_: Any) -> Estimate:
        time.sleep(self.seconds)
        # Far below what training sees, so that theta stays where it is, and not constant.
        return Estimate(1e-6 * theta, 0 * policy_vector, {"loss": 1.0, "query_loss/0": 1.0})


def config_of(preset: str, precision: str, seconds: float, items: int, steps: int) -> RunConfig:
    """The preset's network and images, all else as small as it can be."""
    from launch.preset import load_config

    phase = {
        "estimator": "bandwidth:Waiting",
        "options": {"seconds": seconds},
        "steps": steps + WARM,
        "items": items,
        "tasks": 1,
    }
    base = load_config(preset, [], None, None).model_dump(mode="json")
    pool = {**base["pool"], "backup": 0}  # what waits for the link is not done twice
    changes = {"precision": precision, "max_staleness": 1, "budget": None, "phases": [phase], "pool": pool}
    return RunConfig.parse({**base, **changes})


def measure(pool: Any, parts: Any) -> dict[str, float]:
    """Results a second after the warm steps, with what the actors and the learner took for each."""
    from metagen.learner import Learner
    from metagen.train import train

    learner = Learner.of(parts)
    try:
        counted = list(train(learner, pool))[WARM:]
    finally:
        pool.close()
    items = parts.config.phases[0].items * len(counted)
    total = sum(report.seconds["total"] for report in counted)
    outcomes = [outcome for report in counted for outcome in report.outcomes]
    return {
        "results_per_second": items / total,
        "actor_seconds": sum(outcome.seconds for outcome in outcomes) / len(outcomes),
        "learner_seconds": sum(report.seconds["learner"] for report in counted) / items,
        "bytes": parts.problem.network.layout.size * (2 if parts.config.precision == "bf16" else 4),
    }


def inside(options: argparse.Namespace) -> None:
    """On the head: measure every number of actors, in every precision; one line of JSON at the end."""
    import ray

    from cluster.connect import start_ray
    from cluster.pool import RayPool
    from cluster.roster import Roster
    from metagen import tasks, work
    from metagen.pool import Crew, SerialPool, one_thread

    one_thread()
    start_ray(options.address, [])
    others = [node["NodeManagerAddress"] for node in ray.nodes() if node["NodeManagerAddress"] != options.head]

    class Elsewhere(Roster):
        """Its actors are on the hosts beside the learner's, in turn."""

        def _begin(self, name: str, values: dict[str, Any], ray_options: dict[str, Any]) -> Any:
            host = others[int(name.rpartition("-")[2]) % len(others)]
            variables = ray_options["runtime_env"]["env_vars"]
            variables["PYTHONPATH"] = f"{ROOT}:{ROOT / 'benchmarks'}"
            return super()._begin(name, values, {**ray_options, "resources": {f"node:{host}": 0.001}})

    class Pool(RayPool):
        roster = Elsewhere

    rows = []
    for precision in options.precisions:
        for actors in options.actors:
            items = 2 * max(options.actors)
            config = config_of(options.preset, precision, options.seconds, items, options.steps)
            parts = work.build(config, tasks.load(config.data))
            found = measure(Pool(config, parts.images, [Crew(actors, actors, cpus=0.0)]), parts)
            if options.serial:
                still = work.build(config_of(options.preset, precision, 0.0, items, options.steps), parts.images)
                found["learner_seconds"] = measure(SerialPool(still), still)["learner_seconds"]
            rows.append({"precision": precision, "actors": actors, **found})
            print(rows[-1], file=sys.stderr, flush=True)
    print(MARK + json.dumps(rows), flush=True)


def predicted(row: dict[str, float], overhead: float, learner_seconds: float, bytes_per_second: float) -> float:
    """The model, for one row."""
    return min(row["actors"] / (row["actor_seconds"] + overhead), bytes_per_second / row["bytes"], 1 / learner_seconds)


def compare(free: list[dict[str, Any]], bound: list[dict[str, Any]], bytes_per_second: float) -> list[dict[str, Any]]:
    """Measured beside predicted, with and without the bound; ``o`` and ``c`` come from the first row without it."""
    rows = []
    for precision in dict.fromkeys(row["precision"] for row in free):
        one = next(row for row in free if row["precision"] == precision)
        if one["actors"] != 1:
            raise SystemExit("the first number of actors must be 1: the overhead is measured with it")
        overhead, learner = 1 / one["results_per_second"] - one["actor_seconds"], one["learner_seconds"]
        for kind, found, rate in (("unbounded", free, float("inf")), ("bounded", bound, bytes_per_second)):
            for row in (row for row in found if row["precision"] == precision):
                rows.append(
                    {
                        **row,
                        "link": kind,
                        "overhead_seconds": overhead,
                        "learner_seconds": learner,
                        "predicted": predicted(row, overhead, learner, rate),
                    }
                )
    return rows


def outside(options: argparse.Namespace) -> None:
    """Make the hosts and a cluster on them, measure on its head without and with the bound, and take all away again."""
    from cluster_start import Life, hosts

    with tempfile.TemporaryDirectory() as scratch, Life(Path(scratch), HOSTS) as life:
        life.metagen("cluster", "up", life.file)

        def rows(serial: bool) -> list[dict[str, Any]]:
            words: list[object] = [
                *("env", "RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=/root/.metagen/token", "OMP_NUM_THREADS=1"),
                *(f"PYTHONPATH={ROOT}:{ROOT / 'benchmarks'}", sys.executable, __file__, "--head", hosts.address(1)),
                *("--address", f"{hosts.address(1)}:6379", "--preset", options.preset, "--steps", options.steps),
                *("--seconds", options.seconds, "--actors", *options.actors, "--precisions", *options.precisions),
                *(("--serial",) if serial else ()),
            ]
            said = life.metagen("cluster", "ssh", life.file, "--", *words)
            found: list[dict[str, Any]] = json.loads(said.rpartition(MARK)[2].splitlines()[0])
            return found

        free = rows(serial=True)
        hosts.limit(1, options.rate)
        bound = rows(serial=False)
        life.metagen("cluster", "down", life.file, "--yes")
    bytes_per_second = bits(options.rate) / 8
    figures = {
        "hosts": HOSTS,
        "rate": options.rate,
        "bytes_per_second": bytes_per_second,
        "preset": options.preset,
        "rows": compare(free, bound, bytes_per_second),
    }
    for row in figures["rows"]:
        print(
            f"{row['precision']} {row['link']:9} N={row['actors']}: "
            f"{row['results_per_second']:.2f} results/s, predicted {row['predicted']:.2f}"
        )
    print(f"wrote {write('bandwidth', figures)}")


def bits(rate: str) -> float:
    """Bits a second of a rate as tc writes it."""
    for unit, factor in (("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)):
        if rate.endswith(unit):
            return float(rate.removesuffix(unit)) * factor
    raise SystemExit(f"--rate {rate}: write it as tc does, such as 200mbit")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", default="200mbit")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--head", help=argparse.SUPPRESS)
    parser.add_argument("--serial", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    (inside if options.address else outside)(options)


if __name__ == "__main__":
    main()
