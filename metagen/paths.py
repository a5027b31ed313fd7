"""How many tasks the network computes at once: measured for the architecture and the device at hand.

One at a time is a loop over tasks, which suits convolutions on a CPU: they fill it. Several at once are a batch of
networks, each with parameters of its own (``FlatNetwork.gradients``): for small layers, and for GPUs, whose time goes
into launching operations. The path changes how sums are rounded, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from metagen import algorithms
from metagen.adapt import Inner
from metagen.config import RunConfig
from metagen.problem import Problem
from metagen.registry import find
from metagen.seeding import torch_generator
from metagen.work import build_policy, build_problem

CANDIDATES = (1, 4, 16, 64)
GAIN = 0.9
"""A path must take less than this share of the loop's time to be chosen: it costs memory."""


def choose(config: RunConfig) -> int:
    """The fastest number of tasks at once, for a config whose precision is resolved.

    It is measured once for a network on a kind of device, and remembered in ``$XDG_CACHE_HOME/metagen/paths.json``
    (by default ``~/.cache``), so that runs of one config on one machine take one path.
    """
    if not getattr(config.family(), "batched", True):
        return 1
    most = max((phase.tasks for phase in config.phases if _together(phase.estimator)), default=1)
    counts = sorted({min(count, most) for count in CANDIDATES})
    if counts == [1]:
        return 1
    known, key = _remembered(), _key(config, counts)
    if known.get(key) not in counts:
        problem = build_problem(config)
        seconds = {count: _seconds(problem, config, count) for count in counts}
        best = min(counts, key=seconds.__getitem__)
        known[key] = best if seconds[best] < GAIN * seconds[1] else 1
        _remember(known)
    return known[key]


def timed(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds that ``work`` takes; the best of a few. On a CPU those of the processor: others may be using it too."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    best = float("inf")
    for _ in range(1 + repeats):  # the first one is also there to warm up
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, clock() - start)
    return best


def _seconds(problem: Problem, config: RunConfig, count: int) -> float:
    """Seconds a task of one inner step's gradients, with ``count`` tasks at once."""
    family, device = problem.family, problem.network.device
    problem = replace(problem, together=count)
    support = torch.zeros(config.episode.shots, family.channels, family.image_size, family.image_size)
    theta = problem.network.initial.to(device)
    inner = Inner.of(problem, build_policy(config), theta, support)
    looks = [look for t in range(count) for look in inner.looks(theta, 0, torch_generator("path", t))]
    return timed(lambda: problem.gradients(looks), device) / count


def _together(estimator: str) -> bool:
    """Whether an estimator adapts the tasks of an item in step with each other."""
    return bool(getattr(find("estimator", estimator, algorithms.REGISTRY), "together", False))


def _key(config: RunConfig, counts: list[int]) -> str:
    """Names all that the measurement depends on."""
    device = torch.device(config.device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    said = config.model_dump(mode="json", include={"data", "episode", "generator", "policy", "precision", "device"})
    text = json.dumps([said, counts, kind, torch.__version__, torch.get_num_threads()], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metagen" / "paths.json"


def _remembered() -> dict[str, int]:
    try:
        known = json.loads(_file().read_text())
    except (OSError, ValueError):  # not there yet, or damaged: measured again
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, int]) -> None:
    """Atomically; a home that cannot be written to only means measuring again."""
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        partial = _file().with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known, indent=1))
        partial.replace(_file())
