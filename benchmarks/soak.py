"""Half an hour of small steps while actors are killed: does anything grow, does anything stay behind?

    python benchmarks/soak.py [--minutes 30] [--every 5]

Trains a tiny network on two Ray actors (mode async) through metagen's own pool and loop, and kills one of the actors
every few seconds with SIGKILL. Once a second it writes down the resident memory and the open files of this process (the
driver and the learner) and what the object store holds, and fits lines to the second half. After the end it looks for
actors, processes, open files and shared memory that are left: every start of Ray in a process leaves a few files open.
Writes results/soak.json and docs/images/soak.png.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from environment import write
from processes import descendants

from cluster.connect import start_ray, stop_ray
from cluster.pool import RayPool
from launch.preset import load_config
from metagen import tasks, work
from metagen.config import RunConfig
from metagen.learner import Learner
from metagen.pool import Crew, one_thread
from metagen.train import train

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "soak.png"
ACTORS = 2


def configured() -> RunConfig:
    """Steps of some 50 ms that do not end, at a rate that never falls: so low that none of them diverges."""
    outer = "{learning_rate: 0.002}"
    phase = (
        f"{{estimator: fomaml, options: {{query_at: {{2: 1}}}}, steps: 100000000, items: 4, tasks: 1, outer: {outer}}}"
    )
    network = "{patch: 2, widths: [16, 32], embedding: 32}"
    changes = [f"phases=[{phase}]", f"generator.architecture={network}", "precision=fp32", "budget=null"]
    return load_config("quickstart", [*changes, "mode=async", "max_staleness=2", "ema=0"], None, None)


def actors() -> list[int]:
    return [one.pid for one in descendants([os.getpid()]) if one.is_actor]


def open_files() -> float:
    """Of this process."""
    return float(len(os.listdir("/proc/self/fd")))


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def resident() -> float:
    """Megabytes of this process that no other shares."""
    fields = [int(field) for field in Path("/proc/self/statm").read_text().split()]
    return (fields[1] - fields[2]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def stored() -> float:
    """Megabytes that the object store holds."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    reply = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address))
    return float(reply.store_stats.object_store_bytes_used / 2**20)


class Killer(threading.Thread):
    """Kills one of the actors, now and then."""

    def __init__(self, every: float) -> None:
        super().__init__(daemon=True)
        self.every, self.kills, self.ended = every, 0, threading.Event()

    def run(self) -> None:
        rng = np.random.default_rng(0)
        while not self.ended.wait(self.every):
            if found := actors():
                os.kill(int(rng.choice(found)), signal.SIGKILL)
                self.kills += 1


def slope(seconds: list[float], values: list[float]) -> float:
    """How much ``values`` grow in an hour, from the second half."""
    half = len(seconds) // 2
    return float(np.polyfit(seconds[half:], values[half:], 1)[0] * 3600)


def soak(minutes: float, every: float) -> dict[str, Any]:
    """Train, kill, watch."""
    config = configured()
    parts = work.build(config, tasks.load(config.data))
    learner = Learner.of(parts)
    start_ray(None, [Crew(ACTORS, ACTORS)])
    pool = RayPool(config, parts.images, ACTORS)
    looks = {"driver_mb": resident, "object_store_mb": stored, "files": open_files}
    killer, series = Killer(every), {"seconds": [0.0], **{name: [look()] for name, look in looks.items()}}
    killer.start()
    begun = time.monotonic()
    for _ in train(learner, pool):
        now = time.monotonic() - begun
        if now - series["seconds"][-1] >= 1.0:
            series["seconds"].append(now)
            for name, look in looks.items():
                series[name].append(look())
        if now > minutes * 60:
            break
    killer.ended.set()
    killer.join()
    pool.close()
    deadline = time.monotonic() + 30
    while (left := actors()) and time.monotonic() < deadline:
        time.sleep(0.2)
    stop_ray()
    thin = max(1, len(series["seconds"]) // 300)
    return {
        "minutes": minutes,
        "kills": killer.kills,
        "steps": learner.state.step,
        "events": dict(pool.events),
        "accepted": learner.state.counts["accepted"],
        **{f"{name}_per_hour": slope(series["seconds"], series[name]) for name in looks},
        "actors_left": len(left),
        "series": {name: [round(value, 2) for value in values[::thin]] for name, values in series.items()},
    }


def plot(found: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    minutes = np.array(found["series"]["seconds"]) / 60
    for name, label in (("driver_mb", "driver and learner"), ("object_store_mb", "object store")):
        axes.plot(minutes, found["series"][name], label=f"{label}: {found[name + '_per_hour']:+.1f} MB an hour")
    axes.set(xlabel="minutes", ylabel="MB", ylim=(0, None))
    axes.set_title(f"{found['steps']} steps while {found['kills']} actors were killed")
    axes.legend(fontsize="small")
    figure.savefig(IMAGE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between kills")
    options = parser.parse_args()
    one_thread()
    soak(0.2, every=3600)  # what is opened once in a process, by us and by Ray, is no leak
    files, shared = open_files(), shared_memory()
    found = soak(options.minutes, options.every)
    deadline = time.monotonic() + 30
    while descendants([os.getpid()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    found["processes_left"] = len(descendants([os.getpid()]))
    found["files_left"] = int(open_files() - files)
    found["shared_memory_left"] = len(shared_memory() - shared)
    path = write("soak", found)
    plot(found)
    print({name: value for name, value in found.items() if name != "series"})
    print(f"wrote {path} and {IMAGE}")


if __name__ == "__main__":
    main()
