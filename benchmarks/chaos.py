"""Faults on purpose: what a run on three nodes makes of actors, nodes and drivers that die, freeze and lie.

    python benchmarks/chaos.py [--faults 300] [--steps 150] [--seed 0] [--short]

Runs ``metagen train`` and ``metagen resume`` as processes on a cluster of three Ray nodes on this machine, and does to
them, one after the other:

    kill      SIGKILL to an actor              nan       a result that is NaN
    freeze    SIGSTOP to an actor              delay     a result that is late, so that a backup comes twice
    node      SIGKILL to a raylet, and a new   disk      no file of the driver can be written
    driver    SIGKILL to the driver            torn      that, and its newest checkpoint is cut short
    store     the object store refuses all requests for two seconds (an S3 server on loopback)

In mode sync the final checkpoint must be that of the run without faults, bit for bit: the hash of its tensors. In mode
async every piece of work must be in it exactly once, and what the log says was applied before the last checkpoint that
the run went on from must not come again. Writes results/chaos.json and docs/images/chaos.png. ``--short`` is one run
with one fault of each kind but the store's, in some two minutes, and writes nothing; CI runs it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos_run import SECONDS, Cluster, Run, Store, path

KINDS = ("kill", "freeze", "node", "driver", "nan", "delay", "disk", "torn", "store")
IMAGE = Path(__file__).parent.parent / "docs" / "images" / "chaos.png"


def exactly_once(run: Run, steps: int) -> dict[str, Any]:
    """The laws of mode async, from the final checkpoint and the log."""
    final, applied = run.final(), {}
    twice: list[str] = []
    for event in run.events():
        if event["event"] in ("started", "resumed"):  # what came after the checkpoint was done anew
            applied = {work_id: step for work_id, step in applied.items() if step <= event["step"]}
        elif event["event"] == "step":
            for result in event["results"]:
                if result["verdict"] == "accepted":
                    twice += [result["work_id"]] * (result["work_id"] in applied)
                    applied[result["work_id"]] = event["step"]
    ages = [r["age"] for e in run.events() if e["event"] == "step" for r in e["results"] if r["verdict"] == "accepted"]
    held = {
        "ended": final["step"] == steps,
        "none_twice": not twice,
        "none_lost": len(applied) == steps * 3 == final["counts"]["accepted"] and not final["owed"],
        "none_too_old": max(ages) <= 2,
    }
    return {"held": all(held.values()), **held}


@contextmanager
def running(mode: str, steps: int, cluster: Cluster, store: Store | None, number: int) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / f"chaos-{mode}-{number}"
        run = Run(mode, steps, work, cluster, store)
        try:
            yield run
        finally:
            run.close()


def without_faults(steps: int, cluster: Cluster) -> dict[str, Any]:
    with running("sync", steps, cluster, None, 0) as run:
        run.start()
        if run.to_end():
            raise AssertionError("".join(run.said))
        return run.final()


def chaotic(
    mode: str, steps: int, cluster: Cluster, store: Store | None, number: int, plan: list[str]
) -> dict[str, Any]:
    """A run that the faults of ``plan`` befall; what it came to, without judging it."""
    rng = random.Random(number)
    with running(mode, steps, cluster, store, number) as run:
        run.start()
        begun, place = time.monotonic(), 0
        while run.driver is not None and run.driver.poll() is None and time.monotonic() - begun < SECONDS:
            # Spread over the run's steps, and not before it has begun.
            if place < len(plan) and run.step() > 2 + place * (steps - 10) / len(plan):
                run.inflict(plan[place], rng)
                place += 1
            time.sleep(0.05)
        if code := run.to_end():
            raise AssertionError(f"ended with {code}:\n" + "".join(run.said[-40:]))
        last: dict[str, int] = {}
        events: Counter[str] = Counter()
        for event in run.events():
            if event["event"] in ("started", "resumed"):
                last = {}
            elif event["event"] == "step":
                events.update({name: count - last.get(name, 0) for name, count in event["events"].items()})
                last = event["events"]
        skipped = sum("skipped: " in line for line in run.said)
        law = exactly_once(run, steps) if mode == "async" else {}
        return {
            "mode": mode,
            "faults": dict(run.faults),
            "seconds": time.monotonic() - begun,
            "pool": dict(events),
            "checkpoints_skipped": skipped,
            "refused_by_store": store.refused if store else 0,
            "sha256": run.final()["sha256"],
            **law,
        }


def judge(outcome: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    if outcome["mode"] == "sync":
        outcome["held"] = outcome["sha256"] == reference["sha256"]
    print({key: value for key, value in outcome.items() if key != "sha256"}, flush=True)
    return outcome


def plans(faults: int, each: int, rng: random.Random) -> list[list[str]]:
    """As many lists of ``each`` kinds as hold that many faults; kinds come in turn, in an order of their own."""
    kinds: list[str] = []
    while len(kinds) < faults:
        kinds += rng.sample(KINDS, len(KINDS))
    return [kinds[start : start + each] for start in range(0, faults, each)]


def plot(outcomes: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for place, mode in enumerate(("sync", "async")):
        chosen = [one for one in outcomes if one["mode"] == mode]
        counts = [sum(one["faults"].get(kind, 0) for one in chosen) for kind in KINDS]
        held = f"{sum(one['held'] for one in chosen)} of {len(chosen)} runs as they must be"
        axes.bar([i + 0.4 * place for i in range(len(KINDS))], counts, 0.4, label=f"{mode}: {held}")
    axes.set_xticks([i + 0.2 for i in range(len(KINDS))], KINDS)
    axes.set(ylabel="faults", title="Faults inflicted, by kind")
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize="small", loc="upper left")
    figure.savefig(IMAGE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=306)
    parser.add_argument("--each", type=int, default=18, help="faults a run")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    # A node that is gone is to be noticed in seconds: see docs/clusters.md.
    settings = {"period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 3}
    os.environ.update({f"RAY_health_check_{name}": str(value) for name, value in settings.items()})
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": path(), "RAY_worker_niceness": "0"})
    cluster = Cluster()
    store = None if options.short else Store()
    try:
        if options.short:
            plan, steps = ["kill", "nan", "freeze", "delay", "node", "torn"], 40
            outcome = judge(chaotic("sync", steps, cluster, None, 1, plan), without_faults(steps, cluster))
            sys.exit(0 if outcome["held"] and sum(outcome["faults"].values()) == len(plan) else 1)
        reference = without_faults(options.steps, cluster)
        outcomes: list[dict[str, Any]] = []
        for number, plan in enumerate(plans(options.faults, options.each, random.Random(options.seed)), start=1):
            mode = "sync" if number % 2 else "async"
            outcomes.append(judge(chaotic(mode, options.steps, cluster, store, number, plan), reference))
            keep(outcomes, options.steps)  # after each run: the next may take a while
    finally:
        cluster.close()
        if store:
            store.close()
    plot(outcomes)
    faults = sum(sum(one["faults"].values()) for one in outcomes)
    print(f"{faults} faults in {len(outcomes)} runs, {sum(one['held'] for one in outcomes)} as they must be")


def keep(outcomes: list[dict[str, Any]], steps: int) -> None:
    from environment import write

    faults = sum(sum(one["faults"].values()) for one in outcomes)
    write("chaos", {"nodes": 3, "steps": steps, "faults": faults, "runs": outcomes})


if __name__ == "__main__":
    main()
