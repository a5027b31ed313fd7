"""Fill the figures of README.md and docs/ from the JSON files in results/.

    python benchmarks/report.py [--check]

A page marks a place with ``<!-- figure: NAME -->`` and ``<!-- end figure -->``; what stands between them is
written here, from nothing but the JSON. ``--check`` writes nothing and fails if a page is not up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import report_cluster
import report_evidence as evidence
import report_families
import report_performance as performance
import report_policy
import report_sweep
from report_evidence import loss_table, machine, result

ROOT = Path(__file__).parent.parent
PLACE = re.compile(
    r"<!-- figure: (?P<name>[a-z-]+) -->\n(?:(?P<body>(?:(?!<!-- figure:).)*?)<!-- end figure -->\n)?", re.DOTALL
)


def quickstart_time() -> str:
    values = result("quickstart")
    return (
        f"Measured: {values['training_seconds']:.0f} s from the run's start to its final checkpoint, on "
        f"{machine(values)} "
        f"(`benchmarks/results/quickstart.json`).\n"
    )


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


def launch_times() -> str:
    values = result("launch")
    return (
        f"On one machine of {values['environment']['cores']} cores that played {values['hosts']} hosts, `init` took "
        f"{values['init_seconds']:.1f} s, `validate` {values['validate_seconds']:.1f} s, `up` "
        f"{values['up_seconds']:.0f} s until all had joined, "
        f"`submit` {values['submit_to_first_line_seconds']:.0f} s to the job's first line, and "
        f"`down` {values['down_seconds']:.0f} s (`benchmarks/results/launch.json`).\n"
    )


COMMANDS = {
    "help_seconds": "`metagen --help`",
    "packaged_set_seconds": "loading the packaged image set",
    "first_step_serial_seconds": "`metagen train quickstart --pool serial` to its first step",
    "first_step_ray_seconds": "`metagen train quickstart` to its first step, Ray's start included",
    "adapt_one_core_seconds": "`metagen adapt` on one core: 10 inner steps, 16 new images",
}


def command_times() -> str:
    values = result("commands")
    rows = "".join(f"| {title} | {values[name]['median']:.2f} s |\n" for name, title in COMMANDS.items())
    return (
        f"Medians of {len(values['help_seconds']['each'])}, on {machine(values)} "
        f"(`benchmarks/results/commands.json`):\n\n"
        f"| what | takes |\n|---|---|\n{rows}"
    )


def bandwidth() -> str:
    values = result("bandwidth")
    lines = ["| vectors | actors | link | results/s | the model's |", "|---|---|---|---|---|"]
    for row in values["rows"]:
        link = values["rate"].replace("mbit", " Mbit/s") if row["link"] == "bounded" else "unbounded"
        size = f"{row['precision']}, {row['bytes'] / 1e6:.1f} MB"
        lines.append(
            f"| {size} | {row['actors']} | {link} | {row['results_per_second']:.2f} | {row['predicted']:.2f} |"
        )
    first = values["rows"][0]
    return (
        f"Actors that take {first['actor_seconds']:.2f} s a result, on {values['hosts'] - 1} hosts beside that of "
        f"the learner (`benchmarks/results/bandwidth.json`):\n\n" + "\n".join(lines) + "\n"
    )


FIGURES: dict[str, Callable[[], str]] = {
    "quickstart-time": quickstart_time,
    "results-table": results_table,
    "quickstart-table": results_table,
    "scaling": scaling,
    "second-order": second_order,
    "features": evidence.features,
    "pretrained-recipe": evidence.pretrained_recipe,
    "pretrained-metrics": evidence.pretrained_metrics,
    "warm-start": evidence.warm_start,
    "few-shot-verdicts": evidence.few_shot_verdicts,
    "few-shot-training": evidence.few_shot_training,
    "few-shot-tables": evidence.few_shot_tables,
    "launch-times": launch_times,
    "chaos": report_cluster.chaos,
    "soak": report_cluster.soak,
    "overhead": report_cluster.overhead,
    "ceiling": report_cluster.ceiling,
    "outlook": report_cluster.outlook,
    "sweep-search": report_sweep.search,
    "sweep-inherit": report_sweep.inherit,
    "sweep-synthetic": report_sweep.synthetic,
    "families": report_families.families,
    "gan-stability": report_families.gan_stability,
    "command-times": command_times,
    "bandwidth": bandwidth,
    "policy-table": report_policy.policies,
    "policy-ablation": report_policy.ablation,
    "policy-transfer": report_policy.transfer,
    "inner-loop": performance.cases,
    "inner-loop-memory": performance.memory,
    "inner-loop-passes": performance.passes,
    "inner-loop-estimators": performance.estimators,
}


def filled(text: str) -> str:
    """``text`` with every marked place written anew; raises ``KeyError`` for a name nobody writes."""

    def write(match: re.Match[str]) -> str:
        figure = FIGURES[match["name"]]
        try:
            body = figure()
        except FileNotFoundError as error:
            body = f"Not measured yet: no `benchmarks/results/{Path(error.filename).name}`.\n"
        return f"<!-- figure: {match['name']} -->\n{body}<!-- end figure -->\n"

    return PLACE.sub(write, text)


def pages() -> list[Path]:
    """README and every page of the documentation that has a figure."""
    card = ROOT / "launch" / "weights" / "pretrained" / "MODEL_CARD.md"
    found = [ROOT / "README.md", card, *sorted((ROOT / "docs").rglob("*.md"))]
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
