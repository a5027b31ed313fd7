"""How many steps fit into a time on this machine: measured before the first, and then written into the config."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from metagen import work
from metagen.config import RunConfig
from metagen.paths import timed
from metagen.records import Snapshot, packed

OVERHEAD = 1.12
"""A step's time over that of its work: the learner, the transport, and waiting for the slowest."""
LOOKS, ENOUGH = 3, 2.0
"""Measurements of a phase, and seconds of them after which there are no more."""


def fit(parts: work.Parts, workers: int) -> RunConfig:
    """The config of ``parts`` with its phases scaled down to ``budget`` seconds of ``workers`` like this process.

    The config's own steps are the most that there can be: a faster machine is done earlier. Without a budget, or where
    the run fits, the config is given back as it is. The steps are then part of the run's config, so that a resumed run
    takes as many. Costs some seconds: half an item of each phase is worked on a few times, and thrown away.
    """
    config = parts.config
    if config.budget is None:
        return config
    seconds = sum(
        phase.steps * math.ceil(phase.items / workers) * _item_seconds(parts, number) * OVERHEAD
        for number, phase in enumerate(config.phases)
    )
    if seconds <= config.budget:
        return config
    return config.with_steps(max(len(config.phases), int(config.steps * config.budget / seconds)))


def _item_seconds(parts: work.Parts, phase: int) -> float:
    """What an item of a phase takes here, from half of one."""
    config, network = parts.config, parts.problem.network
    first = sum(earlier.steps for earlier in config.phases[:phase])
    policy = parts.policy.initial(network.layout)
    snapshot = Snapshot(0, packed(network.initial, config.dtype), packed(policy, torch.float32))
    item = work.plan(config, first, 0)[0]
    half = replace(item, tasks=max(1, item.tasks // 2))

    def look(repeats: int = 0) -> float:
        return timed(lambda: work.run(parts, half, snapshot), network.device, repeats)

    times = [look(repeats=0 if phase else 1)]
    while len(times) < LOOKS and sum(times) < ENOUGH:
        times.append(look())
    # The mean and not the best: on a machine that others use too, a run has bad moments as well as good ones.
    return sum(times) / len(times) * item.tasks / half.tasks
