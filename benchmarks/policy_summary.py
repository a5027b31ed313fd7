"""What the losses of policy.py say: fixed choices from validation classes, differences on test classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metagen.bootstrap import RESAMPLES
from metagen.seeding import numpy_generator

BUDGETS = (5, 10, 20)
STEPS = (0, 1, 2, 5, 10, 20)
"""Numbers of inner steps that a fixed choice may stop at, within its budget."""

RELOCATED = ":relocated"
"""How the names of fixed choices end whose inner steps relocate drawings, as the recipe's do."""
AGAINST = {
    "minus_single": "single",
    "minus_oracle": "oracle",
    "minus_single_relocated": "single relocated",
    "minus_oracle_relocated": "oracle relocated",
}
"""Differences to fixed choices: their names, and the rows that they are to."""

Values = NDArray[np.float64]
Found = Mapping[tuple[int, str, str], Mapping[str, Any]]
"""``steps`` and ``losses [classes, len(steps)]`` by seed, method and data set."""


def choose(tuning: Found, seed: int, domains: Sequence[str], budget: int, relocated: bool) -> dict[str, Any]:
    """The method and number of steps with the least mean loss over ``domains`` on validation classes, of those that
    relocate drawings or of those that don't."""
    ranked = []
    for method in dict.fromkeys(m for s, m, _ in tuning if s == seed and m.endswith(RELOCATED) == relocated):
        tables = [tuning[seed, method, domain] for domain in domains]
        for i, steps in enumerate(tables[0]["steps"]):
            if steps <= budget:
                ranked.append((float(np.mean([np.mean(t["losses"], axis=0)[i] for t in tables])), method, steps))
    loss, method, steps = min(ranked)
    return {"method": method, "steps": steps, "loss": loss}


def clustered(values: Mapping[str, Values]) -> dict[str, float]:
    """Mean and 95% bootstrap interval over classes of ``values [seeds, classes]`` a data set.

    A class is one cluster with all its seeds; each data set counts alike, whatever its number of classes.
    """
    rng = numpy_generator("policy bootstrap")
    classes = {name: table.mean(0) for name, table in values.items()}
    draws = [v[rng.integers(len(v), size=(RESAMPLES, len(v)))].mean(1) for v in classes.values()]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    return {"mean": float(np.mean([v.mean() for v in classes.values()])), "low": float(low), "high": float(high)}


def summary(
    tuning: Found, arms: Sequence[str], seeds: Sequence[int], domains: Sequence[str], test: Found | None
) -> dict[str, Any]:
    """The choices of every seed; with ``test`` the arms' losses, gains and differences to the choices."""
    groups = {"all": list(domains), **{domain: [domain] for domain in domains}}
    choices = {
        str(seed): [
            {"for": name, "budget": budget, "relocated": relocated, **choose(tuning, seed, group, budget, relocated)}
            for relocated in (False, True)
            for name, group in groups.items()
            for budget in BUDGETS
        ]
        for seed in seeds
    }
    if test is None:
        return {"choices": choices}

    def at(seed: int, method: str, domain: str, steps: int) -> Values:
        table = test[seed, method, domain]
        return np.array(table["losses"])[:, list(table["steps"]).index(steps)]

    def chosen(seed: int, name: str, domain: str, budget: int, relocated: bool = False) -> Values:
        wanted = name, budget, relocated
        [choice] = [c for c in choices[str(seed)] if (c["for"], c["budget"], c["relocated"]) == wanted]
        return at(seed, choice["method"], domain, choice["steps"])

    def table(of: Any, budget: int) -> dict[str, Values]:
        return {domain: np.stack([of(seed, domain, budget) for seed in seeds]) for domain in domains}

    def before(seed: int, domain: str, budget: int) -> Values:
        return at(seed, arms[0], domain, 0)

    rows: dict[str, Any] = {
        "single": lambda seed, domain, budget: chosen(seed, "all", domain, budget),
        "oracle": lambda seed, domain, budget: chosen(seed, domain, domain, budget),
        "single relocated": lambda seed, domain, budget: chosen(seed, "all", domain, budget, True),
        "oracle relocated": lambda seed, domain, budget: chosen(seed, domain, domain, budget, True),
    }
    for arm in arms:
        rows[arm] = lambda seed, domain, budget, arm=arm: at(seed, arm, domain, budget)
    out: dict[str, Any] = {}
    for name, of in rows.items():
        out[name] = {key: {} for key in ("loss", "gain", *AGAINST, "minus_first")}
        for budget in BUDGETS:
            # Against no adaptation, one fixed choice for everything, the best for each data set, the first arm.
            mine, start = table(of, budget), table(before, budget)
            for key, others in (
                ("gain", start),
                *((key, table(rows[other], budget)) for key, other in AGAINST.items()),
                ("minus_first", table(rows[arms[0]], budget)),
            ):
                apart = {domain: mine[domain] - others[domain] for domain in domains}
                out[name][key][str(budget)] = {
                    "all": clustered(apart),
                    **{domain: clustered({domain: apart[domain]}) for domain in domains},
                }
            out[name]["loss"][str(budget)] = {domain: float(mine[domain].mean()) for domain in domains}
    return {"choices": choices, "methods": out, "verdicts": {arm: verdict(out[arm], domains) for arm in arms}}


def verdict(row: Mapping[str, Any], domains: Sequence[str]) -> dict[str, Any]:
    """(a) better than the single fixed choice over all, the interval below 0, at every budget; (b) on no data set
    worse than its oracle, the interval not above 0, and on one of them better, at every budget. Against fixed choices
    as they are, and against those that relocate drawings."""
    return {
        **_against(row["minus_single"], row["minus_oracle"], domains),
        "relocated": _against(row["minus_single_relocated"], row["minus_oracle_relocated"], domains),
    }


def _against(singles: Mapping[str, Any], oracles: Mapping[str, Any], domains: Sequence[str]) -> dict[str, Any]:
    """Both verdicts at each budget, and over all of them."""
    single = {k: entry["all"]["high"] < 0 for k, entry in singles.items()}
    oracle = {
        k: {
            "no_worse": all(entry[domain]["low"] <= 0 for domain in domains),
            "better_on": [domain for domain in domains if entry[domain]["high"] < 0],
        }
        for k, entry in oracles.items()
    }
    return {
        "beats_single": single,
        "against_oracle": oracle,
        "a": all(single.values()),
        "b": all(entry["no_worse"] and entry["better_on"] for entry in oracle.values()),
    }
