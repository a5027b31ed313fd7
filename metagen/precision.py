"""bf16 or fp32: measured on the device at hand, not assumed."""

from __future__ import annotations

import time

import torch

from metagen.config import RunConfig
from metagen.generators import Condition, Family
from metagen.work import build_problem


def resolve(config: RunConfig) -> RunConfig:
    """``config`` with ``precision: auto`` replaced by the faster of bf16 and fp32 here.

    The choice is written into the run's config, so that every actor and a resumed run compute alike. bf16 must
    be a tenth faster to be chosen: it costs digits.
    """
    if config.precision != "auto":
        return config
    seconds = {dtype: _seconds(config.model_copy(update={"precision": dtype})) for dtype in ("fp32", "bf16")}
    faster = "bf16" if seconds["bf16"] < 0.9 * seconds["fp32"] else "fp32"
    return config.model_copy(update={"precision": faster})


def _seconds(config: RunConfig, tasks: int = 2, repeats: int = 3) -> float:
    """Seconds of one forward and backward pass of a small joint batch; the best of a few."""
    problem = build_problem(config)
    family: Family = problem.family
    shape = (family.channels, family.image_size, family.image_size)
    condition = Condition.of_tasks(torch.zeros(tasks, config.episode.shots, *shape))
    images = torch.zeros(tasks * config.episode.queries, *shape)
    theta = problem.network.initial.to(problem.network.device)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        problem.gradient(theta, condition, images, torch.Generator().manual_seed(0))
        best = min(best, time.perf_counter() - start)
    return best
