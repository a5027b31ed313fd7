"""The few-shot benchmark's figures to read: Markdown, and a picture of the losses."""

from __future__ import annotations

from typing import Any

from PIL import Image

from launch.benchmarks.chart import Line, charts
from launch.benchmarks.markdown import losses, samples, table
from metagen.wording import counted

FLOORS = {"copycat": "copycat", "real": "other real images"}
YES = {True: "met", False: "not met"}


def report(values: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    machine, count = values["environment"], len(values["seeds"])
    seeds = counted(count, "seed")
    parts = [
        "# Few-shot benchmark\n",
        f"Preset `{values['preset']}` {' '.join(f'`{s}`' for s in values['settings'])} and its rivals at "
        f"{values['image_passes']:,.0f} image passes of training each, {seeds}; {machine['cores']} cores of "
        f"{machine['processor']}, metagen {machine['metagen']}, torch {machine['torch']}, {machine['date']}.\n",
        training(values),
    ]
    for domain, found in values["domains"].items():
        parts += [f"## {found['data']}\n", verdict(values, domain), tables(values, domain)]
    return "\n".join(parts)


def training(values: dict[str, Any]) -> str:
    """What was trained, and how long that took."""
    rows = (
        [name, f"{m['about']}", f"{m['steps']:,}", " ".join(f"{s:.0f}" for s in m["seconds"])]
        for name, m in values["models"].items()
    )
    return table(["model", "what", "outer steps", "seconds of each seed, one core"], rows)


def tables(values: dict[str, Any], domain: str) -> str:
    """Losses for every number of images shown, the speed-up, and new images."""
    found, names, parts = values["domains"][domain], values["contenders"], []
    percent = values["interval_percent"]
    for shots, entry in found["losses"].items():
        count = entry["classes"]
        parts.append(f"Loss of images not shown, {shots} shown of each of {count} classes ({percent}% intervals):\n")
        parts.append(losses(entry["methods"], values["steps"], names))
    parts.append(speed_up(values, domain))
    count = found["samples"]["classes"]
    parts.append(f"New images of {count} classes ({percent}% intervals):\n")
    title = f"after {values['sample_steps']} steps"
    parts.append(samples(found["samples"]["methods"], title, {**names, **FLOORS}))
    return "\n".join(parts)


def speed_up(values: dict[str, Any], domain: str) -> str:
    """A row for each baseline and seed."""
    rows = []
    for rival, entries in values["domains"][domain]["speed_up"].items():
        for seed, entry in zip(values["seeds"], entries, strict=True):
            whole, steps = entry["of_mean_curves"], entry["median_steps"]
            rows.append(
                [
                    values["contenders"][rival],
                    str(seed),
                    f"{whole['best_loss_of_baseline']:.4f}",
                    str(whole["baseline_steps"]),
                    "never" if whole["meta_steps"] is None else str(whole["meta_steps"]),
                    "-" if whole["time"] is None else f"{whole['time']:.1f}",
                    f"{steps['median']:.1f} ({steps['low']:.1f}, {steps['high']:.1f})",
                    f"{entry['censored']} of {entry['classes']}",
                ]
            )
    head = ["baseline", "seed", f"its best loss in {values['horizon']} steps", "its steps", "metagen's steps"]
    head += ["times faster", "steps ratio, median of classes", "classes never reached"]
    return "Steps to the loss that a tuned baseline has at its best:\n\n" + table(head, rows)


def verdict(values: dict[str, Any], domain: str) -> str:
    """What was to be reached, and whether it was."""
    found, names = values["verdicts"][domain], values["contenders"]

    def those(keys: list[str]) -> str:
        return f"not met: {'; '.join(names[key] for key in keys)}" if keys else "met"

    rows = [
        [f"loss below every baseline after {counted(int(k), 'step')}", those(left)]
        for k, left in found["baselines_not_beaten_after_steps"].items()
    ]
    strongest = names[found["strongest_baseline"]]
    rows += [
        [f"the best of *{strongest}* in a quarter of its steps", YES[found["a_quarter_of_its_steps"]]],
        ["and in a quarter of its time", YES[found["a_quarter_of_its_time"]]],
        ["KID better than every baseline", those(found["baselines_with_better_kid"])],
        ["1-NN accuracy nearer to a half than every baseline's", those(found["baselines_with_better_two_sample"])],
        [
            "memorised no more than real images",
            f"{YES[found['memorised_no_more_than_real']]}: {found['memorised_over_real']:.2f} of theirs",
        ],
        [
            "recognised as often as real images, to nine tenths",
            f"{YES[found['recognisability_at_least_0.9']]}: {found['recognisability_over_real']:.2f} of them",
        ],
    ]
    return table(["to be reached", "outcome"], rows)


def picture(values: dict[str, Any]) -> Image.Image:
    """Loss against inner steps, a panel for each data set and number of images shown."""
    steps, names = values["steps"], values["contenders"]
    panels = {}
    for found in values["domains"].values():
        for shots, entry in found["losses"].items():
            panels[f"{found['data']}, {shots} shown"] = [
                Line(names[name], steps, [method["query_loss"][str(k)] for k in steps])
                for name, method in entry["methods"].items()
                if name != "scratch"  # far above all others
            ]
    return charts(panels, "inner steps", "loss of images not shown")
