"""What the central learner can take: the real learner and pool, fake actors, and a model that says where it ends.

    python benchmarks/ceiling.py [--megabytes 0.4 4 40] [--actors 1 2 4 8 16 32 64 128 256] [--seconds 8]

Fake actors are coroutines in two processes: each waits as long as the work would take, then sends a vector of the size
asked for through Ray's object store. The pool, the buffer and the learner are those of a run (mode async, muon, fp32),
and the learner is held to one core. Everything of the model is measured by itself, without looking at the results of
the runs that it is compared with:

    X(N) ~ min(N / (t + o), 1 / s, 1 / c)

with N actors (of which no more work than there are pieces under way), ``t`` seconds of work, ``o`` seconds more from
handing out to taking (one actor alone), ``s`` seconds a result that the senders need, and ``c`` seconds of its core
that a result costs the learner. That is the limit for few and for many actors; between them mean value analysis of a
closed network says how results wait for one another (Reiser & Lavenberg 1980, "Mean-value analysis of closed
multichain queuing networks", J. ACM 27). With few cores the senders are the limit. So it is also measured what the
learner's core alone takes: a step is timed once all results that are under way lie in the object store. Writes
results/ceiling.json and docs/images/ceiling.png.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
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
STALENESS = 1
HOSTS = 2
WIDTHS = {0.4: [24, 48], 4.0: [72, 136], 40.0: [224, 448]}
"""Networks whose parameters in float32 take about so many megabytes."""
ITEMS = {0.4: 128, 4.0: 128, 40.0: 32}
"""Results a step: twice as many pieces may be under way, one for each of 256 actors; at 40 MB as many as fit into
memory."""


@ray.remote(num_cpus=0, max_concurrency=1000)
class Host:
    """Many fake actors in one process, each a coroutine: threads would spend the core on waiting for one another."""

    def __init__(self, size: int, seconds: float) -> None:
        self.seconds = seconds
        self.gradient = np.random.default_rng(0).standard_normal(size, dtype=np.float32)

    async def prepare(self, images: list[Any]) -> str:
        return ""

    async def run(self, theta: Any, order: Written) -> WorkResult:
        await asyncio.sleep(self.seconds)
        item, version, policy = Order.read(order)
        update, metrics = np.zeros(len(policy), np.float32), {"loss": 1.0}
        return WorkResult(
            item.work_id, item.step, item.index, version, item.tasks, self.gradient, update, metrics, self.seconds
        )


class WaitingPool(RayPool):
    """The pool of a run, which can also wait without taking anything."""

    def settle(self) -> None:
        """Wait until every result that was asked for lies in the object store."""
        ray.wait(list(self._running), num_returns=len(self._running), fetch_local=False)


def pool_on(hosts: list[Any], config: RunConfig, actors: int) -> WaitingPool:
    """The pool of a run, whose actors are coroutines on ``hosts``."""

    class Fake(Roster):
        def _begin(self, name: str, values: dict[str, Any], options: dict[str, Any]) -> Any:
            return hosts[len(self.members) % len(hosts)]

        def _end(self, actor: Any) -> None:
            return

    class Pool(WaitingPool):
        roster = Fake

    return Pool(config, None, [Crew(actors, actors)])  # type: ignore[arg-type]  # nobody looks at the images


def configured(megabytes: float) -> RunConfig:
    """A long asynchronous run whose results take so much."""
    phase = f"{{estimator: joint, steps: 1000000, items: {ITEMS[megabytes]}, tasks: 1}}"
    changes = ["mode=async", f"max_staleness={STALENESS}", f"phases=[{phase}]", "precision=fp32", "budget=null"]
    changes += ["policy={name: fixed}", f"generator.architecture.widths={WIDTHS[megabytes]}"]
    return load_config("quickstart", [*changes, "pool.backup=0", "pool.in_flight=1"], None, None)


def cap(config: RunConfig) -> int:
    """Pieces that may be under way."""
    return config.phases[0].items * (config.max_staleness + 1)


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
            begun, cpu, steps = now, time.thread_time(), 0
            continue
        steps += 1
        if begun and steps % 10 == 0:
            resident.append(_resident())
            stored.append(_stored())
        if begun and now - begun > seconds and steps >= 4:
            break
    elapsed, results = time.perf_counter() - begun, steps * learner.config.phases[0].items
    busy = time.thread_time() - cpu
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


def drained(learner: Learner, pool: WaitingPool, steps: int = 8) -> float:
    """Results a second that the learner's core takes where all of a step's lie in the object store before it begins."""
    loop, taken = train(learner, pool), 0.0
    next(loop)
    for _ in range(steps):
        pool.settle()
        begun = time.perf_counter()
        next(loop)
        taken += time.perf_counter() - begun
    loop.close()
    return steps * learner.config.phases[0].items / taken


def bounds(config: RunConfig) -> tuple[float, float, float]:
    """Seconds a result that the senders need, and seconds of its core that one costs the learner: work that takes no
    time, once without a learner and once with it; and results a second that the learner's core takes by itself."""
    learner = new_learner(config)
    hosts = [Host.remote(learner.layout.size, 0.0) for _ in range(HOSTS)]  # type: ignore[attr-defined]
    ray.get([host.prepare.remote([]) for host in hosts])
    try:
        sending = sending_seconds(hosts, learner)
        cost = measured(learner, pool_on(hosts, config, cap(config)), 4.0)["learner_ms_per_result"] / 1e3
        return sending, cost, drained(new_learner(config), pool_on(hosts, config, cap(config)))
    finally:
        for host in hosts:
            ray.kill(host)


def sending_seconds(hosts: list[Any], learner: Learner, seconds: float = 3.0) -> float:
    """Seconds a result that all hosts together need: as many pieces under way as in a run, nobody takes the results."""
    snapshot = learner.snapshot()
    order = Order(work.item(learner.config, 0, 0, 0), 0, snapshot.policy).written()
    theta, count, begun = ray.put(snapshot.theta), 0, time.perf_counter()
    under_way = [hosts[i % HOSTS].run.remote(theta, order) for i in range(cap(learner.config))]
    while (elapsed := time.perf_counter() - begun) < seconds:
        # Many at once: the senders are to be the limit, not who waits for them.
        done, under_way = ray.wait(under_way, num_returns=HOSTS * 8, fetch_local=False)
        count += len(done)
        under_way += [hosts[i % HOSTS].run.remote(theta, order) for i in range(len(done))]
    return elapsed / count


def pin(cores: set[int]) -> None:
    """Hold all threads of this process to ``cores``."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended meanwhile
            os.sched_setaffinity(int(task.name), cores)


def sized(megabytes: float, actors: list[int], seconds: float) -> dict[str, Any]:
    """All numbers of actors at one size of results."""
    config = configured(megabytes)
    size = new_learner(config).layout.size
    t = 0.02 if megabytes < 10 else 0.2
    sending, cost, alone = bounds(config)
    print(megabytes, f"senders {1 / sending:.0f}, the learner's core {1 / cost:.0f}, by itself {alone:.0f}", flush=True)
    hosts = [Host.remote(size, t) for _ in range(HOSTS)]  # type: ignore[attr-defined]
    rows, overhead = [], None
    for count in [1, *(n for n in actors if n > 1)]:
        pool = pool_on(hosts, config, count)
        row: dict[str, Any] = {"actors": count, **measured(new_learner(config), pool, seconds)}
        pool.close()
        if overhead is None:  # what one actor alone shows; all others are then predicted
            overhead = 1 / row["results_per_second"] - t - sending - cost
        # A step's results wait until it is full, so that half of one is not under way on average.
        row["predicted"] = throughput(min(count, cap(config) - ITEMS[megabytes] // 2), t + overhead, (sending, cost))
        row["error"] = row["results_per_second"] / row["predicted"] - 1
        rows.append(row)
        print(megabytes, {key: round(value, 3) for key, value in row.items()}, flush=True)
    for host in hosts:
        ray.kill(host)
    return {
        "megabytes": size * 4 / 1e6,
        "parameters": size,
        "items": ITEMS[megabytes],
        "work_seconds": t,
        "overhead_seconds": overhead,
        "sending_seconds": sending,
        "learner_seconds": cost,
        "drained_per_second": alone,
        "rows": rows,
    }


def throughput(customers: int, think: float, services: tuple[float, ...]) -> float:
    """Results a second of a closed network: ``customers`` that wait ``think`` seconds, then queue at each service."""
    queues, rate = [0.0] * len(services), 0.0
    for count in range(1, customers + 1):
        times = [service * (1 + queue) for service, queue in zip(services, queues, strict=True)]
        rate = count / (think + sum(times))
        queues = [rate * each for each in times]
    return rate


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
    options = parser.parse_args()
    one_thread()
    matplotlib.use("Agg")
    cores = sorted(os.sched_getaffinity(0))
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
        found = {f"{size:g}": sized(size, options.actors, options.seconds) for size in options.megabytes}
    finally:
        stop_ray()
    settings = {"hosts": HOSTS, "learner_cores": 1}
    path = write("ceiling", {**settings, "sizes": found})
    plot(found)
    print(f"wrote {path} and {IMAGE}")


if __name__ == "__main__":
    main()
