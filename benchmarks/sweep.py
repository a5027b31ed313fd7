"""What a sweep finds, and what it costs: three parts, each resumable.

    python benchmarks/sweep.py synthetic [--trials 1000]
    python benchmarks/sweep.py search [--seeds 3] [--budget 360] [--tasks 100]
    python benchmarks/sweep.py inherit [--seeds 3] [--trials 8]

``synthetic`` runs trials with an instant objective, kills the driver with SIGKILL half-way and goes on; it reports
time, memory, and whether anything was repeated. ``search`` gives the preset's searcher and schedule, and random search
without one, the same time; trains the best network of each, and the quickstart's, three times each as a whole trial is
trained, all for as many FLOPs, and the quickstart's also for as many seconds as the searcher's best; and takes their
losses on test classes, which nothing else reads. ``inherit`` runs the
same proposals with weights inherited and without. Each writes results/sweep_PART.json; what an earlier call finished
under ``--work`` is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from environment import write
from training import seconds, trained

from launch.sweeps.folder import load_sweep
from metagen import tasks
from metagen.bootstrap import interval
from metagen.checkpoint import load_checkpoint
from metagen.config import RunConfig
from metagen.evaluate import Bench, choose_classes, method_of
from metagen.pool import Crew, available_cores, one_thread
from metagen.processes import executor
from metagen.search.config import SweepConfig
from metagen.search.ledger import Ledger, Progress
from metagen.search.limits import whole

STEPS = 5
"""Adaptation steps that a loss is taken after, as in the preset."""
REPEATS = 3
"""Trainings of a network that was found, each with a seed of its own."""


def metagen(*arguments: object) -> None:
    """The command, as a user calls it."""
    subprocess.run(["metagen", *map(str, arguments)], check=True)


def shares(progress: Progress) -> dict[str, Any]:
    """What of a sweep's room for trials was not training and judging."""
    busy = sum(trial.seconds for trial in progress.trials.values())
    room = progress.slots * progress.seconds
    return {
        "seconds": progress.seconds,
        "slots": progress.slots,
        "trials": dict(Counter(trial.status for trial in progress.trials.values())),
        "refused_proposals": len(progress.refusals),
        "share_not_training": 1 - busy / room,
    }


# Part 1: an instant objective.


def instant(config: dict[str, Any], sweep: dict[str, Any], folder: str, images: list[Any]) -> None:
    """A trial that costs nothing, and writes down that it ran."""
    from ray import tune

    with (Path(folder) / "ran").open("a") as file:
        file.write(f"{tune.get_context().get_trial_name()}\n")
    rate = config["phases.0.outer.learning_rate"]
    tune.report(
        {
            **config["_facts"],
            "loss": abs(math.log10(rate) + 1.5) + 0.1 * config["levels"],
            "latency": 0.0,
            "step": sweep["steps"],
            "rung": 1,
            "busy": 0.0,
            "checkpoint": "none",
            "assignment": json.dumps({k: v for k, v in config.items() if not k.startswith("_")}),
            "done": True,
        }
    )


def costless(trials: int) -> SweepConfig:
    """The laptop's sweep, of as many trials of one judgement."""
    changes = [f"trials={trials}", "steps=20", "every=20", "budget=null", "search.options={startup: 20}"]
    return load_sweep("sweep-laptop", changes)


def drive(folder: Path, trials: int) -> None:
    """What the process does that is to be killed: run or go on with the synthetic sweep."""
    from cluster.connect import start_ray, stop_ray
    from cluster.sweep import run_sweep

    sweep = costless(trials)
    start_ray(None, [Crew(1, 1)])
    run_sweep(sweep, folder, [], instant)
    stop_ray()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (folder / "peak.json").write_text(json.dumps(peak))


def synthetic(work: Path, trials: int) -> None:
    folder = work / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "sweep.jsonl").exists():
        raise SystemExit(f"{folder} is there: remove it to measure again")
    command = [sys.executable, __file__, "drive", "--work", str(folder), "--trials", str(trials)]
    begun = time.monotonic()
    process, ledger = subprocess.Popen(command), Ledger(folder)
    while sum(t.status == "complete" for t in ledger.read()[0].trials.values()) < trials // 2:
        if process.poll() is not None:
            raise SystemExit("the driver ended early")
        time.sleep(1.0)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = time.monotonic() - begun
    before, _ = ledger.read()
    complete = {number for number, trial in before.trials.items() if trial.status == "complete"}
    begun = time.monotonic()
    subprocess.run(command, check=True)
    second = time.monotonic() - begun
    progress, _ = ledger.read()
    ran = Counter(int(line) for line in (folder / "ran").read_text().split())
    sweep = costless(trials)
    figures = {
        "search": sweep.search.name,
        "schedule": sweep.schedule.name,
        "trials": trials,
        "complete": sum(trial.status == "complete" for trial in progress.trials.values()),
        "killed_at": len(complete),
        "ended_trials_repeated": sum(ran[number] > 1 for number in complete),
        "unfinished_trials_repeated": sum(count > 1 for number, count in ran.items() if number not in complete),
        "seconds_before": first,
        "seconds_after": second,
        "seconds_a_trial": (first + second) / trials,
        "driver_peak_mib": json.loads((folder / "peak.json").read_text()),
        "ledger_mib": (folder / "sweep.jsonl").stat().st_size / 2**20,
    }
    print(json.dumps(figures, indent=1))
    print("wrote", write("sweep_synthetic", figures))


# Part 2: what the search is worth.

SEARCHES = {"default": [], "random": ["search={name: random}", "schedule={name: none}"]}


def swept(folder: Path, changes: list[str], budget: float, seed: int) -> Progress:
    """A sweep of the laptop's preset for ``budget`` seconds; the one in ``folder`` if it is there."""
    settings = [*changes, f"seed={seed}", "trials=500", f"budget={budget}"]
    if not (folder / "sweep.yaml").exists():
        words = [word for setting in settings for word in ("--set", setting)]
        metagen("sweep", "sweep-laptop", "--out", folder, *words)
    elif Ledger(folder).read()[0].seconds < budget:
        metagen("sweep", "resume", folder)
    return Ledger(folder).read()[0]


def losses(run: Path, count: int) -> list[float]:
    """Losses of a run on test classes after adaptation, one a class."""
    kept = run / "test_losses.json"
    if not kept.exists():
        saved = load_checkpoint(run)
        images, shots = tasks.load(saved.config.data), saved.config.episode.shots
        classes, _ = choose_classes(images, "test", shots, count, seed=0)
        table = Bench(images, classes, shots, seed=0).losses(method_of(saved), [STEPS])
        kept.write_text(json.dumps(table[:, 0].tolist()))
    values: list[float] = json.loads(kept.read_text())
    return values


def trainings(source: str | RunConfig, run: Path) -> list[Path]:
    """The runs of a config, with a seed each."""
    runs = [run.with_name(f"{run.name}-run-{seed}") for seed in range(REPEATS)]
    for seed, one in enumerate(runs):
        trained(source, one, "--seed", str(seed))
    return runs


def mean_seconds(runs: list[Path]) -> float:
    return fmean(seconds(run) for run in runs)


def search(work: Path, seeds: int, budget: float, count: int) -> None:
    sweep = load_sweep("sweep-laptop", ())
    handmade = whole(sweep, sweep.make_space(), sweep.first[0])
    runs = {"handmade": trainings(handmade, work / "handmade")}
    sweeps: list[dict[str, Any]] = []
    for seed, (name, changes) in product(range(seeds), SEARCHES.items()):
        folder, exported = work / f"{name}-{seed}", work / f"{name}-{seed}-best.yaml"
        progress = swept(folder, changes, budget, seed)
        best = progress.ranked()[0]
        found = {"best": best.assignment, "validation_loss": best.objective("loss")}
        sweeps.append({"search": name, "seed": seed, **shares(progress), **found})
        metagen("sweep", "best", folder, "--export", exported)
        runs.setdefault(name, []).extend(trainings(str(exported), work / f"{name}-{seed}"))
    # As many FLOPs are not as many seconds: small networks are slower than theirs say.
    ratio = mean_seconds(runs["default"]) / mean_seconds(runs["handmade"])
    longer = handmade.with_steps(round(handmade.steps * ratio))
    runs["handmade_longer"] = trainings(longer, work / "handmade-longer")
    with executor(available_cores(), one_thread) as pool:
        tables = {name: list(pool.map(losses, folders, [count] * len(folders))) for name, folders in runs.items()}
    took = {name: [seconds(run) for run in found] for name, found in runs.items()}
    means = {name: np.mean(rows, axis=0) for name, rows in tables.items()}
    figures = {
        "preset": "sweep-laptop",
        "search": sweep.search.name,
        "schedule": sweep.schedule.name,
        "seeds": seeds,
        "budget_seconds": budget,
        "equal": sweep.equal,
        "adaptation_steps": STEPS,
        "handmade": sweep.first[0],
        "test_classes": len(means["handmade"]),
        "seconds": took,
        "trainings": {name: [float(np.mean(row)) for row in rows] for name, rows in tables.items()},
        "loss": {name: interval(mean) for name, mean in means.items()},
        "default_minus": {name: interval(means["default"] - means[name]) for name in means if name != "default"},
        "sweeps": sweeps,
    }
    print(json.dumps({k: v for k, v in figures.items() if k != "sweeps"}, indent=1))
    print("wrote", write("sweep_search", figures))


# Part 3: inherited weights.


def inherit(work: Path, seeds: int, trials: int) -> None:
    differences, rows = [], []
    for seed in range(seeds):
        pair = {}
        for inheriting in (False, True):
            folder = work / f"inherit-{seed}-{inheriting}"
            changes = [*SEARCHES["random"], f"seed={seed}", f"trials={trials}", "steps=60", "budget=null"]
            changes.append(f"inherit={str(inheriting).lower()}")
            if not (folder / "sweep.yaml").exists():
                metagen("sweep", "sweep-laptop", "--out", folder, *[w for c in changes for w in ("--set", c)])
            elif Ledger(folder).read()[0].state != "finished":
                metagen("sweep", "resume", folder)
            pair[inheriting] = Ledger(folder).read()[0]
        for number, trial in pair[True].trials.items():
            if trial.donor is None:  # the first ones have nobody to inherit from
                continue
            values = [pair[key].trials[number].objective("loss") for key in (True, False)]
            differences.append(values[0] - values[1])
            rows.append({"seed": seed, "trial": number, "inherited": values[0], "fresh": values[1]})
    figures = {
        "preset": "sweep-laptop",
        "steps": 60,
        "seeds": seeds,
        "pairs": len(differences),
        "inherited_minus_fresh": interval(np.array(differences)),
        "trials": rows,
    }
    print(json.dumps({k: v for k, v in figures.items() if k != "trials"}, indent=1))
    print("wrote", write("sweep_inherit", figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["synthetic", "search", "inherit", "drive"])
    parser.add_argument("--work", type=Path, default=Path("runs") / "benchmark-sweep")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=360.0, help="seconds of each sweep")
    parser.add_argument("--tasks", type=int, default=100, help="test classes")
    options = parser.parse_args()
    if options.part == "synthetic":
        synthetic(options.work, options.trials or 1000)
    elif options.part == "drive":
        drive(options.work, options.trials)
    elif options.part == "search":
        search(options.work, options.seeds, options.budget, options.tasks)
    else:
        inherit(options.work, options.seeds, options.trials or 8)


if __name__ == "__main__":
    main()
