"""How long one waits: for the first step, after an actor's death, after the driver's.

    python benchmarks/overhead.py [--repeats 5]

Runs ``metagen train quickstart`` as a process with two actors and reads its log. Measures the seconds from the command
to the first applied step; from SIGKILL to an actor in the middle of its work to the end of the step that waits for it;
from SIGKILL to the driver, with ``metagen resume`` typed at once, to the next applied step; and from the start of a
node of a running cluster, which includes Ray's own start, to the first result of an actor on it. What Ray and the
learner take of a step is in results/scaling.json. Writes results/overhead.json and docs/images/overhead.png.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from environment import write
from soak import actors

IMAGE = Path(__file__).parent.parent / "docs" / "images" / "overhead.png"
LIMITS = {"first_step": 12.0, "actor_killed": 2.0, "driver_killed": 20.0, "node_added": 30.0}


def steps(folder: Path) -> list[float]:
    """When steps were applied, by the log, in seconds since 1970."""
    try:
        lines = (folder / "log.jsonl").read_text().splitlines()
    except OSError:
        return []
    events = [json.loads(line) for line in lines if line.endswith("}")]
    return [datetime.fromisoformat(event["time"]).timestamp() for event in events if event["event"] == "step"]


def first_after(folder: Path, moment: float, seconds: float = 300.0) -> float:
    """When the first step after ``moment`` was applied."""
    deadline = time.time() + seconds
    while time.time() < deadline:
        if found := [when for when in steps(folder) if when > moment]:
            return found[0]
        time.sleep(0.02)
    raise TimeoutError(f"no step within {seconds:g} s")


def start(*arguments: str, actors: str = "2") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "launch.cli", *arguments, "--actors", actors]
    environment = {**os.environ, "RAY_ADDRESS": ""}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)


def once(folder: Path) -> dict[str, float]:
    """All three, on one run."""
    begun = time.time()
    changes = ["--set", "budget=null", "--set", "log.checkpoint_every=5"]
    driver = start("train", "quickstart", "--run-dir", str(folder), *changes)
    try:
        found = {"first_step": first_after(folder, begun) - begun}
        while len(steps(folder)) < 8:
            time.sleep(0.05)
        first_after(folder, time.time())
        time.sleep(0.15)  # in the middle of its work
        killed = time.time()
        os.kill(actors()[0], signal.SIGKILL)
        found["actor_killed"] = first_after(folder, killed) - killed
        time.sleep(1.0)
        driver.kill()
        killed = time.time()
        driver.wait()
        driver = start("resume", str(folder))
        found["driver_killed"] = first_after(folder, killed) - killed
    finally:
        driver.send_signal(signal.SIGINT)
        driver.wait(60)
    return found


def node_added(folder: Path) -> float:
    """Seconds from starting a node of a running cluster to the first result of an actor on it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    changes = ["--set", "budget=null", "--address", cluster.address]
    driver = start("train", "quickstart", "--run-dir", str(folder), *changes, actors="auto")
    try:
        first_after(folder, 0.0)
        begun = time.time()
        cluster.add_node(num_cpus=1)
        while '"actor-1"' not in (folder / "log.jsonl").read_text():
            if time.time() - begun > 300:
                raise TimeoutError("the new node was not used within 300 s")
            time.sleep(0.05)
        return time.time() - begun
    finally:
        driver.send_signal(signal.SIGINT)
        driver.wait(60)
        cluster.shutdown()


def plot(found: dict[str, dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {
        "first_step": "command to first step",
        "actor_killed": "actor's death to the next step",
        "driver_killed": "driver's death to the next step",
        "node_added": "start of a node to its first result",
    }
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for place, (name, label) in enumerate(names.items()):
        axes.plot(found[name]["each"], [place] * len(found[name]["each"]), "C0o", alpha=0.6)
        axes.plot([LIMITS[name]], [place], "C3|", markersize=14)
        axes.text(0.2, place + 0.32, label, fontsize="small")
    axes.set(yticks=[], xlabel="seconds (red: what it may take)", xlim=(0, None), ylim=(-0.5, 3.8))
    figure.savefig(IMAGE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    runs = []
    for number in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs.append({**once(Path(folder) / f"run{number}"), "node_added": node_added(Path(folder) / "grows")})
        print({name: round(value, 2) for name, value in runs[-1].items()}, flush=True)
    found = {
        name: {"median": statistics.median(each), "each": each, "limit": limit}
        for name, limit in LIMITS.items()
        for each in [[run[name] for run in runs]]
    }
    path = write("overhead", {"actors": 2, **found})
    plot(found)
    print(f"wrote {path} and {IMAGE}")


if __name__ == "__main__":
    main()
