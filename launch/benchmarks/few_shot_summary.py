"""What the pieces of the few-shot benchmark say together: means, differences, speed-up, verdicts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from launch.benchmarks.contenders import CONTENDERS
from launch.benchmarks.environment import environment
from launch.benchmarks.few_shot import ADAPTED, BENCH_SEED, FLOORS, RIVALS_IN_TIME, Plan, folder_of, piece, shots_of
from launch.benchmarks.models import MODELS, passes_of
from launch.benchmarks.speedup import HORIZON, STEPS, Curve, speed_up
from launch.training.log import LOG, events
from metagen import tasks
from metagen.bootstrap import LEVEL, Values, interval, paired
from metagen.checkpoint import load_checkpoint
from metagen.quality import READINGS

BASELINES = tuple(name for name, contender in CONTENDERS.items() if contender.model != "meta")
GOAL_STEPS = (1, 5, 10, 20)


def summary(plan: Plan) -> dict[str, Any]:
    """All figures, for ``few-shot.json``."""
    domains = {domain: _domain(plan, domain) for domain in plan.domains}
    return {
        "environment": environment(),
        "preset": plan.preset,
        "settings": list(plan.assignments),
        "seeds": list(range(plan.seeds)),
        "bench_seed": BENCH_SEED,
        "interval_percent": LEVEL,
        "shots": list(plan.shots),
        "steps": list(plan.steps),
        "sample_steps": ADAPTED,
        "horizon": HORIZON,
        "image_passes": passes_of(plan.config(0)),
        "models": {name: _model(plan, name) for name, model in MODELS.items() if model.trained},
        "contenders": {name: contender.title for name, contender in CONTENDERS.items()},
        "domains": domains,
        "verdicts": {domain: _verdict(plan, found) for domain, found in domains.items()},
    }


def _model(plan: Plan, name: str) -> dict[str, Any]:
    """How a model was trained: steps, and the wall-clock of each seed's run."""
    seconds, saved = [], load_checkpoint(folder_of(plan, 0, name))
    for seed in range(plan.seeds):
        found = {
            e["step"]: e["seconds"]["total"] for _, e in events(folder_of(plan, seed, name) / LOG) if "seconds" in e
        }
        seconds.append(sum(found.values()))
    return {"about": MODELS[name].about, "steps": saved.state.step, "seconds": seconds, "tasks": saved.state.tasks}


def _domain(plan: Plan, domain: str) -> dict[str, Any]:
    images = tasks.load(plan.data(domain))
    classes = {k: plan.bench(images, "test", k, plan.classes).classes for k in plan.shots}
    shots = plan.shots[0]
    of_samples = plan.bench(images, "test", shots, plan.sample_classes).classes
    return {
        "data": images.name,
        "split_origin": images.split_origin,
        "classes": [images.classes[i] for i in classes[shots]],
        "losses": {str(k): {"classes": len(classes[k]), "methods": _losses(plan, domain, k)} for k in plan.shots},
        "speed_up": {rival: _speed_up(plan, domain, rival) for rival in RIVALS_IN_TIME},
        "samples": {"classes": len(of_samples), "most_a_class": plan.samples, "methods": _samples(plan, domain)},
    }


def _losses(plan: Plan, domain: str, shots: int) -> dict[str, Any]:
    """In the form of an evaluation's ``methods``."""
    tables: dict[str, Values] = {}
    out: dict[str, Any] = {}
    for name, contender in CONTENDERS.items():
        if shots not in shots_of(plan, contender):
            continue
        pieces = [_read(plan, "losses", seed, name, domain, shots) for seed in range(plan.seeds)]
        tables[name] = np.array([p["losses"] for p in pieces])  # [runs, classes, steps]
        out[name] = {
            "query_loss": {str(k): interval(tables[name][:, :, i]) for i, k in enumerate(plan.steps)},
            "step_sizes": [p["sizes"] for p in pieces],
        }
    for name in out:
        if name != "meta":
            mine, other = tables["meta"], tables[name]
            apart = {str(k): paired(mine[:, :, i], other[:, :, i]) for i, k in enumerate(plan.steps)}
            out[name]["meta_minus_this"] = apart
    return out


def _speed_up(plan: Plan, domain: str, rival: str) -> list[dict[str, Any]]:
    """One entry a seed."""

    def of(name: str, seed: int) -> Curve:
        values = _read(plan, "curve", seed, name, domain, plan.shots[0])
        return Curve(np.array(values["losses"]), values["seconds"])

    return [speed_up(of("meta", seed), of(rival, seed), STEPS) for seed in range(plan.seeds)]


def _samples(plan: Plan, domain: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in (*CONTENDERS, *FLOORS):
        reports = [_read(plan, "samples", seed, name, domain, plan.shots[0]) for seed in range(plan.seeds)]
        out[name] = {}
        for metric in READINGS:
            if "per_class" in reports[0][metric]:
                out[name][metric] = interval(np.array([list(r[metric]["per_class"].values()) for r in reports]))
            else:  # of all classes pooled: the mean of the runs, and the widest of their intervals around it
                mean = float(np.mean([r[metric]["mean"] for r in reports]))
                half = max((r[metric]["high"] - r[metric]["low"]) / 2 for r in reports)
                out[name][metric] = {"mean": mean, "low": mean - half, "high": mean + half}
    return out


def _verdict(plan: Plan, found: dict[str, Any]) -> dict[str, Any]:
    """What was to be reached, and whether it was: true only where the intervals say so."""
    methods = found["losses"][str(plan.shots[0])]["methods"]
    below = {
        str(k): [name for name in BASELINES if not methods[name]["meta_minus_this"][str(k)]["high"] < 0]
        for k in GOAL_STEPS
        if k in plan.steps
    }
    strongest = min(
        RIVALS_IN_TIME,
        key=lambda r: np.mean([s["of_mean_curves"]["best_loss_of_baseline"] for s in found["speed_up"][r]]),
    )
    curves = [entry["of_mean_curves"] for entry in found["speed_up"][strongest]]
    samples = found["samples"]["methods"]
    mine, real = samples["meta"], samples["real"]
    away = {name: abs(entry["two_sample"]["mean"] - 0.5) for name, entry in samples.items()}
    return {
        "baselines_not_beaten_after_steps": below,
        "strongest_baseline": strongest,
        "a_quarter_of_its_steps": all(c["steps"] is not None and c["steps"] >= 4 for c in curves),
        "a_quarter_of_its_time": all(c["time"] is not None and c["time"] >= 4 for c in curves),
        "baselines_with_better_kid": [n for n in BASELINES if samples[n]["kid"]["mean"] < mine["kid"]["mean"]],
        "baselines_with_better_two_sample": [n for n in BASELINES if away[n] < away["meta"]],
        "memorised_over_real": mine["memorised"]["mean"] / max(real["memorised"]["mean"], 1e-9),
        "memorised_no_more_than_real": mine["memorised"]["low"] <= real["memorised"]["high"],
        "recognisability_over_real": mine["recognisability"]["mean"] / real["recognisability"]["mean"],
        "recognisability_at_least_0.9": mine["recognisability"]["mean"] >= 0.9 * real["recognisability"]["mean"],
    }


def _read(plan: Plan, kind: str, seed: int, name: str, domain: str, shots: int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(piece(plan, kind, seed, name, domain, shots).read_text())
    return values
