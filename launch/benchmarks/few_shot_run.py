"""``metagen benchmark few-shot`` from its plan to its report."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from launch.benchmarks.few_shot import Plan, check, run
from launch.benchmarks.few_shot_report import picture, report
from launch.benchmarks.few_shot_summary import summary
from launch.output import write_json, write_text
from metagen.errors import UserError

PLAN, FIGURES = "plan.json", "few-shot.json"
FREE = ("workers", "out", "omniglot", "seeds", "domains")
"""What may differ between a run and its continuation: no piece depends on it."""


def run_few_shot(plan: Plan) -> dict[str, Any]:
    """Do what is not done, write JSON, Markdown and picture to ``plan.out``, and give the figures back."""
    _claim(plan)
    run(plan)
    values = summary(plan)
    text = report(values)
    target = plan.out / FIGURES
    write_json(target, values)
    write_text(target.with_suffix(".md"), text, "--out")
    picture(values).save(target.with_suffix(".png"))
    print(text)
    print(f"wrote {target}, and .md and .png beside it")
    return values


def _claim(plan: Plan) -> None:
    """Note what is asked for. Raises ``UserError``, and leaves nothing, if the folder holds the pieces of something
    else or what is asked for could not be measured."""
    asked = {key: value for key, value in asdict(plan).items() if key not in FREE}
    asked = json.loads(json.dumps(asked))
    path = plan.out / PLAN
    if path.is_file():
        before = json.loads(path.read_text())
        if changed := [key for key in asked if before.get(key) != asked[key]]:
            key = changed[0]
            raise UserError(
                f"{plan.out} holds a benchmark with another {key} ({before.get(key)}, now {asked[key]}): choose "
                "another --out, or the same options"
            )
    check(plan)
    if path.is_file():
        return
    write_json(path, asked)
