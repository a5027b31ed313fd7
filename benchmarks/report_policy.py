"""What report.py writes of the benchmarks of policies: against fixed choices, by its parts, on other generators."""

from __future__ import annotations

from typing import Any

from report_evidence import result

NAMES = {"single": "best single fixed choice", "oracle": "best fixed for each"}


def _cell(entry: dict[str, float]) -> str:
    """A mean and its interval, in units of 0.0001."""
    return f"{1e4 * entry['mean']:+.1f} ({1e4 * entry['low']:+.1f}, {1e4 * entry['high']:+.1f})"


def _titled(values: dict[str, Any], name: str) -> str:
    """What a table of losses is of."""
    counts = ", ".join(f"{count} of {name}" for name, count in values["classes"].items())
    seeds = "1 seed" if len(values["seeds"]) == 1 else f"{len(values['seeds'])} seeds"
    return (
        f"Change of the query loss by adaptation, in units of 0.0001 (lower is better; {seeds}; "
        f"unseen classes: {counts}; differences with 95% intervals over classes; `benchmarks/results/{name}.json`):\n\n"
    )


def policies() -> str:
    """Gains over the frozen generator, and differences to the fixed choices, on all three data sets together."""
    values = result("policy")
    domains = list(values["classes"])
    lines = [
        "| policy | steps | " + " | ".join(domains) + " | all, minus the best single | all, minus the best for each |",
        "|---|---|" + "---|" * (len(domains) + 2),
    ]
    for name, row in values["methods"].items():
        for budget, gain in row["gain"].items():
            cells = [f"{1e4 * gain[domain]['mean']:+.1f}" for domain in domains]
            cells += [_cell(row[key][budget]["all"]) for key in ("minus_single", "minus_oracle")]
            lines.append(f"| {NAMES.get(name, name)} | {budget} | " + " | ".join(cells) + " |")
    for budget, against in values["methods"]["recipe"]["minus_oracle"].items():
        cells = [_cell(against[domain]) for domain in domains]
        lines.append(f"| *recipe* minus *best fixed for each* | {budget} | " + " | ".join(cells) + " | | |")
    return _titled(values, "policy") + "\n".join(lines) + "\n"


def ablation() -> str:
    """What each part of the recipe is worth: every arm's gain, and its difference to the recipe."""
    values = result("policy_ablation")
    budgets = list(values["methods"]["recipe"]["gain"])
    lines = [
        "| policy | " + " | ".join(f"{k} steps" for k in budgets) + " | "
        + " | ".join(f"minus *recipe*, {k} steps" for k in budgets) + " |",
        "|---|" + "---|" * (2 * len(budgets)),
    ]  # fmt: skip
    for name, row in values["methods"].items():
        cells = [f"{1e4 * row['gain'][k]['all']['mean']:+.1f}" for k in budgets]
        cells += ["" if name == "recipe" else _cell(row["minus_first"][k]["all"]) for k in budgets]
        lines.append(f"| {NAMES.get(name, name)} | " + " | ".join(cells) + " |")
    return _titled(values, "policy_ablation") + "\n".join(lines) + "\n"


def transfer() -> str:
    """The learned optimiser on generators that it was not trained for, beside Adam."""
    values = result("policy_transfer")
    lines = ["| generator | data | method | 5 steps | 10 steps | 20 steps |", "|---|---|---|---|---|---|"]
    for generator, sets in values["generators"].items():
        for data, methods in sets.items():
            for method, row in methods.items():
                cells = []
                for k in ("5", "10", "20"):
                    mean, apart = row[k]["log_ratio"]["mean"], row[k]["learned_minus_this"]
                    cells.append(f"{mean:+.2%}")
                    if method != "learned optimiser":
                        cells[-1] += f" ({apart['low']:+.2%}, {apart['high']:+.2%})"
                lines.append(f"| {generator} | {data} | {method} | {' | '.join(cells)} |")
    return (
        f"Mean change of the log query loss by adaptation, {values['classes']} unseen classes (lower is better); in "
        "brackets the 95% interval of the learned optimiser's minus this one's "
        "(`benchmarks/results/policy_transfer.json`):\n\n" + "\n".join(lines) + "\n"
    )
