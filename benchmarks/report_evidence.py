"""Figures of evaluations, the pretrained checkpoint and the few-shot benchmark, for ``report.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.benchmarks import few_shot_report, markdown

RESULTS = Path(__file__).parent / "results"
NAMES = {
    "meta": "metagen: learned policy",
    "finetune": "the same weights, tuned Adam",
    "finetune_oracle": "the same, Adam tuned on this data set",
    "joint": "joint, unconditioned, tuned Adam",
    "copycat": "copycat",
    "real": "other real images",
}


def result(name: str) -> dict[str, Any]:
    """One benchmark's figures."""
    values: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return values


def machine(values: dict[str, Any]) -> str:
    """What the figures were measured on."""
    environment = values["environment"]
    return f"{environment['cores']} cores of an {environment['processor'].split(' (')[0]}"


def loss_table(values: dict[str, Any]) -> str:
    """Query losses of all methods of an evaluation, with intervals of the differences."""
    return markdown.losses(values["methods"], values["steps"], NAMES)


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


def pretrained_recipe() -> str:
    values = result("pretrained")
    processor = values["trained_on"]["processor"].split(" (")[0]
    rows = {
        # It ran all of its steps: the preset has had a budget since.
        "recipe": f"`metagen train {' '.join([*values['preset_and_settings'], '--set budget=null'])}`",
        "seed": values["seed"],
        "training": f"{values['steps']:,} of {values['steps_planned']:,} outer steps, {values['tasks_seen']:,} tasks "
        f"of {values['classes_seen']} classes",
        "time": f"{values['training_hours']:.1f} hours on {values['workers']} cores of an "
        f"{processor}, shared with other work; computed in {values['precision']}",
        "size": f"{values['parameters']:,} parameters and {values['policy_parameters']:,} of the policy, "
        f"{values['megabytes']:.1f} MB",
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {text} |\n" for name, text in rows.items())


def pretrained_metrics() -> str:
    values = result("pretrained")
    parts = []
    for name, title in (("pictograms", "pictograms, test split"), ("omniglot", "Omniglot, evaluation alphabets")):
        if found := values.get(name):
            count, shots = len(found["classes"]), found["shots"]
            parts.append(f"{title}: {count} classes, {shots} images shown.\n\n{loss_table(found)}\n{_sampled(found)}")
    return "\n".join(parts) + "\nFrom `benchmarks/results/pretrained.json`.\n"


def warm_start() -> str:
    """Runs on classes of one's own, from random weights and from the packaged generator."""
    values = result("warm_start")
    packaged, rows = values["pretrained"], values["rows"]
    shown = [k for k in ("0", "10", "20") if k in packaged["query_loss"]]

    def line(title: str, trained: str, found: dict[str, Any]) -> list[str]:
        losses = (f"{found['query_loss'][k]['mean']:.4f}" for k in shown)
        return [title, trained, *losses, markdown.spread(found["recognisability"]["meta"], 2)]

    lines = [line("`pretrained`", "not", packaged)]
    for row in rows:
        title = "random weights" if row["start"] == "scratch" else "`--from pretrained`"
        lines.append(line(title, f"{row['seconds']:.0f} s, {row['steps']:,} steps", row))
    head = ["begins with", "trained", *(f"loss, {k} steps" for k in shown), "recognisability"]
    apart = "; ".join(
        f"{row['seconds_asked']} s {markdown.spread(row['minus_scratch'][shown[-1]], 4, '+')}"
        for row in rows
        if "minus_scratch" in row
    )
    return (
        f"The quickstart on Omniglot's background alphabets, as if they were one's own, with one seed; tested on "
        f"{packaged['classes']} characters of the evaluation alphabets, on {machine(values)} "
        f"(`benchmarks/results/warm_start.json`):\n\n{markdown.table(head, lines)}\n"
        f"Recognisability of other real images: {markdown.spread(packaged['recognisability']['real'], 2)}. Loss after "
        f"{shown[-1]} steps minus that of the run from random weights, paired by class: {apart}.\n"
    )


def _sampled(values: dict[str, Any]) -> str:
    found = values["samples"]
    title = f"{found['images']} new images after {found['steps']} steps"
    return markdown.samples(found["methods"], title, NAMES)


def few_shot_verdicts() -> str:
    values = result("few_shot")
    parts = [f"**{found['data']}**\n\n{few_shot_report.verdict(values, d)}" for d, found in values["domains"].items()]
    return "\n".join(parts) + "\nFrom `benchmarks/results/few_shot.json`.\n"


def few_shot_training() -> str:
    values = result("few_shot")
    count, changes = len(values["seeds"]), "".join(f", `{change}`" for change in values["settings"])
    return (
        f"Preset `{values['preset']}`{changes}; {count} seed{'s' * (count > 1)}, {values['image_passes']:,.0f} image "
        f"passes of training each; {machine(values)}, one a model "
        f"(`benchmarks/results/few_shot.json`):\n\n{few_shot_report.training(values)}"
    )


def few_shot_tables() -> str:
    values = result("few_shot")
    parts = [f"### On {found['data']}\n\n{few_shot_report.tables(values, d)}" for d, found in values["domains"].items()]
    return "\n".join(parts) + "\nFrom `benchmarks/results/few_shot.json`.\n"
