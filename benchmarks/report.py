"""Fill the figures of README.md and docs/ from the JSON files in results/.

    python benchmarks/report.py [--check]

A page marks a place with ``<!-- figure: NAME -->`` and ``<!-- end figure -->``; what stands between them is
written here, from nothing but the JSON. ``--check`` writes nothing and fails if a page is not up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cluster_figures

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PLACE = re.compile(
    r"<!-- figure: (?P<name>[a-z-]+) -->\n(?:(?P<body>(?:(?!<!-- figure:).)*?)<!-- end figure -->\n)?", re.DOTALL
)
NAMES = {
    "meta": "metagen: learned policy",
    "finetune": "the same weights, tuned Adam",
    "finetune_oracle": "the same, Adam tuned on this data set",
    "joint": "joint, unconditioned, tuned Adam",
}


def result(name: str) -> dict[str, Any]:
    """One benchmark's figures."""
    values: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return values


def quickstart_time() -> str:
    values = result("quickstart")
    machine = values["environment"]
    return (
        f"Measured: {values['training_seconds']:.0f} s from the run's start to its final checkpoint, on "
        f"{machine['cores']} cores of an {machine['processor'].split(' (')[0]} "
        f"(`benchmarks/results/quickstart.json`).\n"
    )


def loss_table(values: dict[str, Any]) -> str:
    """Query losses of all methods, with intervals."""
    steps = values["steps"]
    lines = ["| method | " + " | ".join(f"{k} steps" for k in steps) + " |", "|---|" + "---|" * len(steps)]
    for method, entry in values["methods"].items():
        cells = [entry["query_loss"][str(k)] for k in steps]
        row = " | ".join(f"{c['mean']:.4f}" for c in cells)
        lines.append(f"| {NAMES[method]} | {row} |")
    for method, entry in values["methods"].items():
        if "meta_minus_this" in entry:
            cells = [entry["meta_minus_this"][str(k)] for k in steps]
            row = " | ".join(f"{c['mean']:+.4f} ({c['low']:+.4f}, {c['high']:+.4f})" for c in cells)
            lines.append(f"| metagen minus *{NAMES[method]}* | {row} |")
    return "\n".join(lines) + "\n"


def results_table() -> str:
    values = result("quickstart")
    parts = []
    for name, title in (
        ("pictograms", "unseen classes of pictograms"),
        ("omniglot", "classes of Omniglot, a data set never trained on"),
    ):
        found = values[name]
        parts.append(
            f"Query loss after the quickstart, {len(found['classes'])} {title} "
            f"(K = {found['shots']}; mean; differences paired by class, with 95% intervals):\n\n{loss_table(found)}"
        )
    return "\n".join(parts) + "\nFrom `benchmarks/results/quickstart.json`.\n"


def scaling() -> str:
    values = result("scaling")
    lines = ["| preset | workers | times the serial tasks/s | of a step not spent adapting |", "|---|---|---|---|"]
    for name, found in values["presets"].items():
        for kind, title in (("ray", "synchronous"), ("ray_ahead", "one step ahead")):
            one = found[kind]
            speedup, share = one["speedup"]["median"], one["overhead_share"]["median"]
            lines.append(f"| `{name}` | {title} | {speedup:.2f} | {share:.1%} |")
    cores = values["environment"]["cores"]
    return (
        f"{values['actors']} actors on {cores} cores against the serial pool on one thread "
        "(`benchmarks/results/scaling.json`):\n\n" + "\n".join(lines) + "\n"
    )


def second_order() -> str:
    values = result("second_order")
    names = list(dict.fromkeys(row["method"] for row in values["rows"]))
    steps = list(dict.fromkeys(row["steps"] for row in values["rows"]))
    found = {(row["steps"], row["method"]): row for row in values["rows"]}
    lines = ["| inner steps | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for k in steps:
        cells = (f"{found[k, name]['seconds']:.1f} s, {found[k, name]['peak_mb']:.0f} MB" for name in names)
        lines.append(f"| {k} | {' | '.join(cells)} |")
    return (
        "Processor time and peak memory of the meta-gradient of one episode of the quickstart, in float32, one thread "
        "(`benchmarks/results/second_order.json`):\n\n" + "\n".join(lines) + "\n"
    )


def features() -> str:
    values = result("feature_classifier")
    lines = ["| classes never seen | classes | `strokes` | `pyramid` |", "|---|---|---|---|"]
    for name, found in values["unseen_classes"].items():
        shares = (f"{found[kind]['share']:.1%}" for kind in ("strokes", "pyramid"))
        lines.append(f"| {name} | {found['strokes']['classes']} | {' | '.join(shares)} |")
    return (
        f"It has {values['parameters']:,} parameters in {values['bytes'] / 1000:.0f} kB, was trained in "
        f"{values['processor_seconds']:.0f} s of one core on {values['classes']} classes, and names the class of "
        f"{values['held_out_accuracy']:.1%} of their images that it did not see. How often the mean of half of a "
        "class's images is the nearest of all classes to an image of the other half "
        "(`benchmarks/results/feature_classifier.json`):\n\n" + "\n".join(lines) + "\n"
    )


def launch_times() -> str:
    values = result("launch")
    machine = values["environment"]
    return (
        f"On one machine of {machine['cores']} cores that played {values['hosts']} hosts, `init` took "
        f"{values['init_seconds']:.1f} s, `validate` {values['validate_seconds']:.1f} s, `up` "
        f"{values['up_seconds']:.0f} s until all had joined, "
        f"`submit` {values['submit_to_first_line_seconds']:.0f} s to the job's first line, and "
        f"`down` {values['down_seconds']:.0f} s (`benchmarks/results/launch.json`).\n"
    )


FIGURES: dict[str, Callable[[], str]] = {
    "quickstart-time": quickstart_time,
    "results-table": results_table,
    "quickstart-table": results_table,
    "scaling": scaling,
    "second-order": second_order,
    "features": features,
    "launch-times": launch_times,
    "chaos": cluster_figures.chaos,
    "soak": cluster_figures.soak,
    "overhead": cluster_figures.overhead,
    "ceiling": cluster_figures.ceiling,
    "outlook": cluster_figures.outlook,
}


def filled(text: str) -> str:
    """``text`` with every marked place written anew; raises ``KeyError`` for a name nobody writes."""

    def write(match: re.Match[str]) -> str:
        return f"<!-- figure: {match['name']} -->\n{FIGURES[match['name']]()}<!-- end figure -->\n"

    return PLACE.sub(write, text)


def pages() -> list[Path]:
    """README and every page of the documentation that has a figure."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in found if PLACE.search(path.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = [path for path in pages() if filled(path.read_text()) != path.read_text()]
    for path in stale:
        print(f"{'stale' if options.check else 'filled'}: {path.relative_to(ROOT)}")
        if not options.check:
            path.write_text(filled(path.read_text()))
    if stale and options.check:
        sys.exit("run python benchmarks/report.py")


if __name__ == "__main__":
    main()
