"""Figures of the generator families and of GANs under adaptation, for ``report.py``."""

from __future__ import annotations

from statistics import mean
from typing import Any

from report_evidence import machine, result

from launch.benchmarks.markdown import spread, table

STARTS = {"meta": "meta-trained", "scratch": "from scratch"}
MEASURES = {"diversity": "diversity (1)", "coverage": "coverage", "energy": "energy score (lower is better)"}


def families() -> str:
    """Training time and recognisability of every family's preset."""
    values = result("families")
    rows = []
    for name, found in values["families"].items():
        samples = found["samples"]["methods"]
        shares = (spread(samples[who]["recognisability"], 2) for who in ("meta", "real"))
        diversity = spread(samples["meta"]["diversity"], 2)
        took = f"{found['training_seconds']:.0f} s"
        on = f"{machine(found)}, {found['environment']['date']}"
        rows.append([f"`{name}`", f"`{found['preset']}`", took, f"{found['steps']:,}", *shares, diversity, on])
    first = next(iter(values["families"].values()))
    steps, classes = first["samples"]["steps"], first["classes"]
    head = ["family", "preset", "training", "outer steps", "recognisability", "of other real images", "diversity (1)"]
    head.append("measured on")
    return (
        f"New images of {classes} unseen classes after {steps} inner steps, with 95% intervals "
        f"over classes (`benchmarks/results/families.json`):\n\n{table(head, rows)}"
    )


def gan_stability() -> str:
    """Diversity, coverage and energy score along adaptation, from meta-trained and from initial weights; and what each
    step size leads to in the end."""
    values = result("gan_stability")
    shown = [k for k in values["inner_steps"] if k in (0, 20, 50, 100, 200, 500)]
    rows = [
        [title, STARTS[name], *(spread(values["figures"][name][measure][str(k)], 2) for k in shown)]
        for measure, title in MEASURES.items()
        for name in STARTS
    ]
    steps, took = (", ".join(f"{v:.0f}" for v in values[key]) for key in ("outer_steps", "training_seconds"))
    count = sum(len(classes) for classes in values["classes"])
    return (
        f"{len(values['classes'])} seeds of the preset `{values['preset']}`, trained for {steps} outer steps in {took} "
        f"s on {machine(values)}; {count} unseen classes in all, {values['samples']} images drawn of each, with 95% "
        f"intervals over classes. A perfect generator's coverage would be {values['perfect_coverage']:.2f} "
        f"(`benchmarks/results/gan_stability.json`):\n\n{table(['', '', *(f'{k} steps' for k in shown)], rows)}\n"
        f"On validation classes after {values['inner_steps'][-1]} steps, at each of Adam's step sizes (means; each row "
        f"above takes the size with the lowest energy score):\n\n{_sizes(values['tuning'])}"
    )


def _sizes(tuning: Any) -> str:
    """What each step size leads to, meta-trained and from scratch, means over seeds."""
    columns = [(measure, name) for measure in MEASURES for name in STARTS]
    head = [f"{MEASURES[measure].partition(' (')[0]}, {STARTS[name]}" for measure, name in columns]
    rows = [
        [size, *(f"{mean(seed[size][measure] for seed in tuning[name]):.2f}" for measure, name in columns)]
        for size in tuning["meta"][0]
    ]
    return table(["step size", *head], rows)
