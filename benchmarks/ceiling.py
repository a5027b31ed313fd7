"""What the central learner can take: the real learner and pool, fake actors, and a model that says where it ends.

    python benchmarks/ceiling.py [--megabytes 0.4 4 40] [--actors 1 2 4 8 16 32 64 128 256] [--seconds 8] [--repeats 3]

Fake actors are coroutines in two processes: each waits as long as the work would take, then sends a vector of the size
asked for through Ray's object store. As in a run, each holds a second piece while it works on one. The pool, the
buffer and the learner are those of a run (mode async, muon, fp32), and the learner is held to one core. At its limits
the model says

    X(N) ~ min(N / (t + o), 1 / s, 1 / c)

with N actors, ``t`` seconds of work, ``o`` seconds more from handing out to taking, ``s`` seconds a result that senders
and Ray need on their core, and ``c`` seconds of its core that a result costs the learner. Between them results wait for
one another, and what they cost depends on how many there are. So all that is not work is measured by itself, without
looking at the runs that are to be predicted: with work that takes no time, for each number of pieces under way. It then
stands for one server whose rate depends on how many are there, beside actors that work for ``t`` (flow equivalence:
Chandy, Herzog & Woo 1975, "Parametric analysis of queuing networks", IBM J. Res. Dev. 19). Both kinds of runs take
turns, and of each the middle one of the repeats counts.

With few cores the senders are the limit. What the learner's core could take is therefore told by what a result costs
it, in time of the processor, with all threads of the learner's process. Writes results/ceiling.json and
docs/images/ceiling.png.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import ray
from environment import write
from matplotlib import pyplot

from cluster.actor import Order, Written
from cluster.connect import stop_ray
from cluster.pool import RayPool
from cluster.roster import Roster
from launch.preset import load_config
from metagen import work
from metagen.config import RunConfig
from metagen.learner import Learner
from metagen.pool import Crew, one_thread
from metagen.records import WorkResult
from metagen.state import initial_state
from metagen.train import train

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "ceiling.png"
STALENESS, IN_FLIGHT = 1, 2
HOSTS = 2
WIDTHS = {0.4: [24, 48], 4.0: [72, 136], 40.0: [224, 448]}
"""Networks whose parameters in float32 take about so many megabytes."""
ITEMS = {0.4: 128, 4.0: 128, 40.0: 32}
"""Results a step: twice as many pieces may be under way, one for each of 256 actors; at 40 MB as many as fit into
memory. No more than 32 for one or two actors, who would need a minute for a step."""
FEW = 2
WORK = {0.4: 0.1, 4.0: 0.1, 40.0: 0.2}
"""Seconds of work: a piece of the quickstart takes a few tenths."""


@ray.remote(num_cpus=0, max_concurrency=1000)
class Host:
    """Many fake actors in one process, each a coroutine: threads would spend the core on waiting for one another."""

    def __init__(self, size: int, seconds: float) -> None:
        self.seconds = seconds
        self.gradient = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
        self.at_work: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def prepare(self, images: list[Any]) -> str:
        return ""

    async def run(self, theta: Any, order: Written, seat: int) -> WorkResult:
        async with self.at_work[seat]:  # an actor does one piece at a time
            await asyncio.sleep(self.seconds)
        item, version, policy = Order.read(order)
        update, metrics = np.zeros(len(policy), np.float32), {"loss": 1.0}
        return WorkResult(
            item.work_id, item.step, item.index, version, item.tasks, self.gradient, update, metrics, self.seconds
        )


def seat(host: Any, number: int) -> Any:
    """The handle of fake actor ``number``, with what a pool calls of it."""
    run = SimpleNamespace(remote=lambda theta, order: host.run.remote(theta, order, number))
    return SimpleNamespace(prepare=host.prepare, run=run)


def pool_on(hosts: list[Any], config: RunConfig, actors: int) -> RayPool:
    """The pool of a run, whose actors are coroutines on ``hosts``."""

    class Fake(Roster):
        def _begin(self, name: str, values: dict[str, Any], options: dict[str, Any]) -> Any:
            number = int(name.rpartition("-")[2])
            return seat(hosts[number % len(hosts)], number)

        def _end(self, actor: Any) -> None:
            return

    class Pool(RayPool):
        roster = Fake

    return Pool(config, None, [Crew(actors, actors)])  # type: ignore[arg-type]  # nobody looks at the images


def configured(megabytes: float, actors: int, in_flight: int = IN_FLIGHT) -> RunConfig:
    """A long asynchronous run of so many actors whose results take so much."""
    items = min(ITEMS[megabytes], 32) if actors <= FEW else ITEMS[megabytes]
    phase = f"{{estimator: joint, steps: 1000000, items: {items}, tasks: 1}}"
    changes = ["mode=async", f"max_staleness={STALENESS}", f"phases=[{phase}]", "precision=fp32", "budget=null"]
    changes += ["policy={name: fixed}", f"generator.architecture.widths={WIDTHS[megabytes]}"]
    return load_config("quickstart", [*changes, "pool.backup=0", f"pool.in_flight={in_flight}"], None, None)


def under_way(config: RunConfig, actors: int) -> int:
    """Pieces that are under way at once."""
    return min(actors * (config.pool.in_flight or 1), config.phases[0].items * (config.max_staleness + 1))


def new_learner(config: RunConfig) -> Learner:
    problem, policy = work.build_problem(config), work.build_policy(config)
    layout = problem.network.layout
    return Learner(config, layout, initial_state(problem.network.initial, policy, layout))


def measured(learner: Learner, pool: RayPool, seconds: float) -> dict[str, float]:
    """Results a second, the core's time a result, and memory, once all actors are at work."""
    steps, resident, stored = 0, [], []
    begun = cpu = 0.0
    first = time.perf_counter()
    for _ in train(learner, pool):
        now = time.perf_counter()
        if not begun and now - first > seconds / 4:
            begun, cpu, steps = now, time.process_time(), 0
            continue
        steps += 1
        if begun and steps % 10 == 0:
            resident.append(_resident())
            stored.append(_stored())
        if begun and now - begun > seconds and steps >= 4:
            break
    elapsed, results = time.perf_counter() - begun, steps * learner.config.phases[0].items
    busy = time.process_time() - cpu
    return {
        "results_per_second": results / elapsed,
        "learner_busy_share": busy / elapsed,
        "learner_ms_per_result": 1e3 * busy / results,
        "driver_mb": max(resident, default=_resident()),
        "object_store_mb": max(stored, default=_stored()),
    }


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) - int(Path("/proc/self/statm").read_text().split()[2])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _stored() -> float:
    """Megabytes that the object store holds."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.object_store_bytes_used / 2**20


@contextmanager
def hosting(megabytes: float, seconds: float) -> Iterator[list[Any]]:
    """Processes of fake actors whose work takes ``seconds``, while the block runs."""
    size = new_learner(configured(megabytes, 1)).layout.size
    hosts = [Host.remote(size, seconds) for _ in range(HOSTS)]  # type: ignore[attr-defined]
    try:
        yield hosts
    finally:
        for host in hosts:
            ray.kill(host)


def without_work(megabytes: float, counts: list[int]) -> list[dict[str, float]]:
    """What there is beside work: a run for each number of pieces under way, whose work takes no time."""
    with hosting(megabytes, 0.0) as hosts:
        # As many actors with a piece each: what one of them would do of two is only to send one after the other.
        return [{"pieces": n, **run_of(configured(megabytes, n, in_flight=1), hosts, n, 3.0)} for n in counts]


def at_work(megabytes: float, counts: list[int], seconds: float) -> list[dict[str, float]]:
    """A run for each number of actors, whose work takes its time."""
    with hosting(megabytes, WORK[megabytes]) as hosts:
        return [{"actors": n, **run_of(configured(megabytes, n), hosts, n, seconds)} for n in counts]


def run_of(config: RunConfig, hosts: list[Any], actors: int, seconds: float) -> dict[str, float]:
    """What is measured of a run of so many actors on ``hosts``."""
    pool = pool_on(hosts, config, actors)
    try:
        return measured(new_learner(config), pool, seconds)
    finally:
        pool.close()


def pin(cores: set[int]) -> None:
    """Hold all threads of this process to ``cores``."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended meanwhile
            os.sched_setaffinity(int(task.name), cores)


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """The run whose results a second are the median's."""
    return sorted(runs, key=lambda row: row["results_per_second"])[len(runs) // 2]


def sized(megabytes: float, actors: list[int], seconds: float, repeats: int) -> dict[str, Any]:
    """All numbers of actors at one size of results."""
    size, t = new_learner(configured(megabytes, 1)).layout.size, WORK[megabytes]
    every_idle, every_run = [], []
    for _ in range(repeats):
        every_idle.append(without_work(megabytes, actors))
        every_run.append(at_work(megabytes, actors, seconds))
        for found in (every_idle[-1], every_run[-1]):
            print(megabytes, [round(row["results_per_second"]) for row in found], flush=True)
    idle = [middle(list(runs)) for runs in zip(*every_idle, strict=True)]
    rows = [middle(list(runs)) for runs in zip(*every_run, strict=True)]
    rates = [row["results_per_second"] for row in idle]
    for count, row in zip(actors, rows, strict=True):
        row["predicted"] = throughput(count, under_way(configured(megabytes, count), count), t, actors, rates)
        row["error"] = row["results_per_second"] / row["predicted"] - 1
        print(megabytes, {key: round(value, 3) for key, value in row.items()}, flush=True)
    return {
        "megabytes": size * 4 / 1e6,
        "parameters": size,
        "items": ITEMS[megabytes],
        "work_seconds": t,
        "learner_seconds": idle[-1]["learner_ms_per_result"] / 1e3,
        "without_work": idle,
        "rows": rows,
    }


def throughput(actors: int, pieces: int, work: float, counts: list[int], rates: list[float]) -> float:
    """Results a second of ``actors`` that work on one of ``pieces`` for ``work`` seconds; it then queues at a server.

    The server's rate with as many waiting as ``counts`` says is that of ``rates``, and between them on a line. The
    chance of k waiting is that of a birth and death process: births at min(actors, pieces - k) / work, deaths at the
    rate for k.
    """
    served = np.interp(np.arange(1, pieces + 1), counts, rates)
    births = np.minimum(actors, pieces - np.arange(pieces)) / work
    logs = np.concatenate([[0.0], np.cumsum(np.log(births) - np.log(served))])
    chances = np.exp(logs - logs.max())
    return float((chances[1:] * served).sum() / chances.sum())


def plot(found: dict[str, Any]) -> None:
    """Measured points and the model's lines."""
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for colour, one in zip(("C0", "C1", "C2"), found.values(), strict=False):
        actors = [row["actors"] for row in one["rows"]]
        axes.plot(actors, [row["predicted"] for row in one["rows"]], colour, label=f"{one['megabytes']:.1f} MB: model")
        axes.plot(actors, [row["results_per_second"] for row in one["rows"]], colour + "o", label="measured")
    axes.set(xscale="log", yscale="log", xlabel="actors", ylabel="results a second")
    axes.set_xticks(actors, [str(count) for count in actors])
    axes.set_title("What a learner on one core takes, by size of result")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(IMAGE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", nargs="+", type=float, default=list(WIDTHS), choices=list(WIDTHS))
    parser.add_argument("--actors", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    one_thread()
    matplotlib.use("Agg")
    cores = sorted(os.sched_getaffinity(0))
    actors = sorted({1, *options.actors})
    others = set(cores[1:]) or set(cores)
    os.sched_setaffinity(0, others)  # Ray's own processes and the fake actors inherit it
    ray.init(
        address="local",
        num_cpus=HOSTS,
        object_store_memory=6 * 2**30,
        include_dashboard=False,
        log_to_driver=False,
    )
    pin({cores[0]})
    try:
        found = {f"{size:g}": sized(size, actors, options.seconds, options.repeats) for size in options.megabytes}
    finally:
        stop_ray()
    settings = {"hosts": HOSTS, "learner_cores": 1, "in_flight": IN_FLIGHT, "repeats": options.repeats}
    path = write("ceiling", {**settings, "sizes": found})
    plot(found)
    print(f"wrote {path} and {IMAGE}")


if __name__ == "__main__":
    main()
