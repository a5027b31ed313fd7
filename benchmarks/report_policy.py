"""What report.py writes of the benchmarks of policies: against fixed choices, by its parts, on other generators."""

from __future__ import annotations

from typing import Any

from policy_summary import AGAINST
from report_evidence import result

from launch.benchmarks.markdown import spread, table

NAMES = {
    "single": "best single fixed choice",
    "oracle": "best fixed for each",
    "single relocated": "best single fixed choice, relocated",
    "oracle relocated": "best fixed for each, relocated",
}


def _cell(entry: dict[str, float]) -> str:
    """A mean and its interval, in units of 0.0001."""
    return spread({part: 1e4 * value for part, value in entry.items()}, 1, "+")


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
    head = ["policy", "steps", *domains, "all, minus the best single", "all, minus the best for each"]
    rows = []
    for name, row in values["methods"].items():
        for budget, gain in row["gain"].items():
            cells = [f"{1e4 * gain[domain]['mean']:+.1f}" for domain in domains]
            cells += [_cell(row[key][budget]["all"]) for key in ("minus_single", "minus_oracle")]
            rows.append([NAMES.get(name, name), budget, *cells])
    for key in ("minus_oracle", "minus_oracle_relocated"):
        for budget, against in values["methods"]["recipe"][key].items():
            cells = [_cell(against[domain]) for domain in domains]
            rows.append([f"*recipe* minus *{NAMES[AGAINST[key]]}*", budget, *cells, "", ""])
    return _titled(values, "policy") + table(head, rows)


def ablation() -> str:
    """What each part of the recipe is worth: every arm's gain, and its difference to the first, which is the recipe."""
    values = result("policy_ablation")
    first = next(name for name in values["methods"] if name not in NAMES)
    budgets = list(values["methods"][first]["gain"])
    head = ["policy", *(f"{k} steps" for k in budgets), *(f"minus *{first}*, {k} steps" for k in budgets)]
    rows = []
    for name, row in values["methods"].items():
        gains = [f"{1e4 * row['gain'][k]['all']['mean']:+.1f}" for k in budgets]
        apart = ["" if name == first else _cell(row["minus_first"][k]["all"]) for k in budgets]
        rows.append([NAMES.get(name, name), *gains, *apart])
    return _titled(values, "policy_ablation") + table(head, rows)


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
