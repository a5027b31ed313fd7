"""What report.py writes of the cluster layer's benchmarks: faults, endurance, ceiling, waiting."""

from __future__ import annotations

import numpy as np
from report_evidence import result

LINK, ACTORS_A_NODE, WORK = 1.25e9, 32, 10.0
"""What the outlook assumes: 10 Gbit/s to the learner, actors a node, seconds a piece of work takes."""


def chaos() -> str:
    values = result("chaos")
    lines = ["| mode | runs | faults | as they must be |", "|---|---|---|---|"]
    for mode in ("sync", "async"):
        runs = [run for run in values["runs"] if run["mode"] == mode]
        faults = sum(sum(run["faults"].values()) for run in runs)
        lines.append(f"| {mode} | {len(runs)} | {faults} | {sum(run['held'] for run in runs)} |")
    return (
        f"{values['faults']} faults on {values['nodes']} nodes (`benchmarks/results/chaos.json`):\n\n"
        + "\n".join(lines)
        + "\n\n![Faults by kind and mode](images/chaos.png)\n"
    )


def soak() -> str:
    values = result("soak")
    return (
        f"In {values['minutes']:g} minutes {values['kills']} actors were killed while {values['steps']} steps were "
        f"taken. The driver's memory grew by {values['driver_mb_per_hour']:+.1f} MB an hour, what the object store "
        f"holds by {values['object_store_mb_per_hour']:+.1f}. Left after the end: {values['actors_left']} actors, "
        f"{values['processes_left']} processes, {values['files_left']} files, {values['shared_memory_left']} pieces of "
        "shared memory (`benchmarks/results/soak.json`).\n\n![Memory over time](images/soak.png)\n"
    )


def overhead() -> str:
    values = result("overhead")
    names = {
        "first_step": "from the command to the first step",
        "actor_killed": "from an actor's death to the end of the step that waited for it",
        "driver_killed": "from the driver's death, with `metagen resume` at once, to the next step",
        "node_added": "from starting a node of a running cluster to the first result of an actor on it",
    }
    lines = ["| what | seconds (median) | slowest | may take |", "|---|---|---|---|"]
    for name, title in names.items():
        one = values[name]
        lines.append(f"| {title} | {one['median']:.1f} | {max(one['each']):.1f} | {one['limit']:g} |")
    machine = values["environment"]
    return (
        f"Quickstart, two actors, {machine['cores']} cores (`benchmarks/results/overhead.json`):\n\n"
        + "\n".join(lines)
        + "\n"
    )


def ceiling() -> str:
    values = result("ceiling")
    lines = [
        "| MB a result | most results/s | learner's core busy | ms of it a result | so the core alone, results/s "
        "| model off by |",
        "|---|---|---|---|---|---|",
    ]
    for one in values["sizes"].values():
        best = max(one["rows"], key=lambda row: row["results_per_second"])
        off = max(abs(row["error"]) for row in one["rows"])
        lines.append(
            f"| {one['megabytes']:.1f} | {best['results_per_second']:.0f} | {best['learner_busy_share']:.0%} "
            f"| {1e3 * one['learner_seconds']:.2f} | {1 / one['learner_seconds']:.0f} | {off:.0%} at most |"
        )
    return (
        "Learner on one core, fake actors on the others (`benchmarks/results/ceiling.json`):\n\n"
        + "\n".join(lines)
        + "\n\n![Results a second by number of actors, measured and by the model](images/ceiling.png)\n"
    )


def outlook() -> str:
    """The model at sizes that were not measured."""
    values = result("ceiling")
    sizes = [one["megabytes"] * 1e6 for one in values["sizes"].values()]
    costs = np.array([one["learner_seconds"] for one in values["sizes"].values()])
    per_byte, head = np.polyfit(sizes, costs, 1, w=1 / costs)  # by relative errors: the largest is not all that counts
    head, size = max(float(head), 0.0), 4e6
    lines = [
        "| actors | work offered | link | link, sums on nodes | the same in int8 | core | core, sums on nodes |",
        "|---|---|---|---|---|---|---|",
    ]
    for actors in (100, 1000, 10000):
        together = min(ACTORS_A_NODE, actors)
        limits = (
            actors / WORK,
            LINK / size,
            together * LINK / size,
            4 * together * LINK / size,
            1 / (head + size * per_byte),
            1 / (head + size * per_byte / together),
        )
        lines.append(f"| {actors:,} | " + " | ".join(f"{limit:,.0f}" for limit in limits) + " |")
    return (
        f"Results a second that each part allows, for results of {size / 1e6:g} MB, {WORK:g} s of work a piece, "
        f"{ACTORS_A_NODE} actors a node and {LINK * 8 / 1e9:g} Gbit/s; a result costs the core {1e3 * head:.2f} ms and "
        f"{1e9 * per_byte:.2f} ms a MB (from `benchmarks/results/ceiling.json`):\n\n" + "\n".join(lines) + "\n"
    )
