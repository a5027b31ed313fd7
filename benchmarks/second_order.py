"""Time and peak memory of the exact meta-gradient: the adjoint against create_graph through the whole unroll.

    python benchmarks/second_order.py [--preset quickstart] [--steps 1 2 3 5 7 10 15 20]

One episode on the preset's network and policy, in float32 on one thread, each measurement in a process of its own:
its peak is the resident memory beyond what the process had when everything was built, its time that of the processor:
what else runs on the machine is not counted. First-order MAML is there to
compare with. Writes results/second_order.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from environment import write

from launch.preset import load_config
from metagen import tasks, work
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.algorithms.maml import Maml, MamlOptions
from metagen.pool import one_thread
from metagen.seeding import torch_generator
from metagen.tasks.episodes import sample_episode

METHODS: dict[str, dict[str, str] | None] = {
    "adjoint": {},
    "adjoint, square-root checkpoints": {"checkpoints": "sqrt"},
    "create_graph through the unroll": {"by": "unroll"},
    "first order": None,
}


def measure(preset: str, method: str, steps: int, repeats: int, vector: Path) -> dict[str, Any]:
    """Processor seconds and peak MB of one episode's meta-gradient, which is written to ``vector``."""
    one_thread()
    config = load_config(preset, ["precision=fp32"], None, None)
    parts = work.build(config, tasks.load(config.data))
    network, options = parts.problem.network, METHODS[method]
    query = {"query_at": {steps: 1.0}}
    estimator = Fomaml(FomamlOptions(**query)) if options is None else Maml(MamlOptions(**query, **options))
    rng = torch_generator("second order")
    # Away from the initialisation, where layers of zeros hide all that lies before them.
    theta = network.initial + 0.02 * torch.randn(network.layout.size, generator=rng)
    policy = parts.policy.initial(network.layout)
    index = int(parts.images.members("train", config.episode.shots + config.episode.queries)[0])
    episode = sample_episode(parts.images, index, config.episode.shots, config.episode.queries, rng)
    before, seconds = resident(), []
    for _ in range(1 + repeats):
        start = time.process_time()
        found = estimator.estimate(
            parts.problem, theta, parts.policy, policy, [episode], [torch_generator("second order", "noise")]
        )
        seconds.append(time.process_time() - start)
    torch.save(torch.cat([found.gradient, found.policy_gradient]), vector)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {"seconds": statistics.median(seconds[1:]), "each": seconds[1:], "peak_mb": peak}


def resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3, 5, 7, 10, 15, 20])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("METHOD", "STEPS", "VECTOR"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        method, steps, vector = options.one
        print(json.dumps(measure(options.preset, method, int(steps), options.repeats, Path(vector))))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in options.steps:
            vectors = {}
            for number, method in enumerate(METHODS):
                path = Path(folder, f"{number}.pt")
                command = [sys.executable, __file__, "--preset", options.preset, "--repeats", str(options.repeats)]
                command += ["--one", method, str(steps), str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row = {"steps": steps, "method": method, **json.loads(done.stdout)}
                rows.append(row)
                vectors[method] = torch.load(path, weights_only=True)
                print(f"K={steps:2d} {method:34s} {row['seconds']:7.2f} s {row['peak_mb']:7.0f} MB", flush=True)
            unrolled = vectors["create_graph through the unroll"]
            for row in rows[-len(METHODS) :]:  # of the first order: how wrong it is
                away = (vectors[row["method"]] - unrolled).norm() / unrolled.norm()
                row["relative_distance_to_unroll"] = float(away)
    config = load_config(options.preset, [], None, None)
    print(f"wrote {write('second_order', {'preset': options.preset, 'policy': config.policy.options, 'rows': rows})}")


if __name__ == "__main__":
    main()
