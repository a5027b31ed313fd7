"""Everything an actor does: an item and a snapshot in, a result out. The serial pool calls the same function."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from metagen import algorithms, policies
from metagen.adapt import Problem
from metagen.algorithms import Estimator
from metagen.config import ALL, RunConfig
from metagen.errors import UserError
from metagen.flat import FlatNetwork
from metagen.generators import Family
from metagen.policies import Policy
from metagen.records import Snapshot, WorkItem, WorkResult, packed, unpacked
from metagen.registry import find, options_of
from metagen.seeding import seed_for, torch_generator
from metagen.tasks.augment import augmented
from metagen.tasks.episodes import sample_classes, sample_episode
from metagen.tasks.imageset import ImageSet
from metagen.tasks.shift import shifted


@dataclass(frozen=True)
class Parts:
    """The objects that a config names, built once in each process."""

    config: RunConfig
    images: ImageSet
    problem: Problem
    policy: Policy
    estimators: tuple[Estimator, ...]
    """One a phase."""


def build(config: RunConfig, images: ImageSet) -> Parts:
    """Build what ``config`` names. The precision must have been resolved (see ``precision.py``)."""
    estimators = []
    for phase in config.phases:
        entry = find("estimator", phase.estimator, algorithms.REGISTRY)
        estimators.append(entry(options_of("estimator", entry, phase.options)))
    return Parts(config, images, build_problem(config), build_policy(config), tuple(estimators))


def build_policy(config: RunConfig) -> Policy:
    """The optimisation policy that ``config`` names."""
    entry = find("policy", config.policy.name, policies.REGISTRY)
    policy: Policy = entry(options_of("policy", entry, config.policy.options))
    return policy


def build_problem(config: RunConfig) -> Problem:
    """The network, initialised from the run's seed, with its loss."""
    family = config.family()
    network = FlatNetwork(initialised(family, config.seed), device_of(config), config.dtype)
    patterns = config.policy.adapt
    adapted = None if patterns == ALL else network.layout.subset(patterns).to(network.device)
    return Problem(family, network, config.episode.draws, adapted, config.policy.proximal)


def device_of(config: RunConfig) -> torch.device:
    """The device that ``config`` names; raises ``UserError`` if this machine has none of the kind."""
    device = torch.device(config.device)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 1)
    if (device.index or 0) >= count:
        raise UserError(f"device: '{config.device}' is not there ({count} {device.type} devices): use --set device=cpu")
    return device


def initialised(family: Family, seed: int) -> nn.Module:
    """A family's network with weights that depend on ``seed`` alone."""
    # torch's layers initialise from the global generator: lend it a state and put the old one back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "initial weights"))
        return family.build()


def plan(config: RunConfig, step: int, version: int) -> list[WorkItem]:
    """The work of outer ``step``: names and seeds, no tensors."""
    phase = config.phases[config.phase_at(step)[0]]
    return [item(config, step, index, version) for index in range(phase.items)]


def item(config: RunConfig, step: int, index: int, version: int) -> WorkItem:
    """Piece ``index`` of outer ``step``, to be estimated at ``version``."""
    number, _ = config.phase_at(step)
    return WorkItem(config.identity, config.seed, number, step, index, version, config.phases[number].tasks)


def run(parts: Parts, item: WorkItem, snapshot: Snapshot, worker: str = "") -> WorkResult:
    """Sample the item's episodes, estimate, report. Depends on the item and the snapshot alone."""
    start = time.perf_counter()
    phase, shape, device = parts.config.phases[item.phase], parts.config.episode, parts.problem.network.device
    rng = torch_generator(item.seed, "classes", item.step, item.index)
    classes = sample_classes(parts.images, "train", item.tasks, shape.shots + shape.queries, rng)
    episodes, noises = [], []
    for slot, index in enumerate(classes):
        episode_rng = torch_generator(item.seed, "episode", item.step, item.index, slot)
        episode = sample_episode(parts.images, index, shape.shots, shape.queries, episode_rng)
        if phase.shift and float(torch.rand((), generator=episode_rng)) < phase.shift:
            episode = shifted(episode, episode_rng)
        if phase.augment.on:
            episode = augmented(
                episode, phase.augment, torch_generator(item.seed, "augment", item.step, item.index, slot)
            )
        episodes.append(episode)
        noises.append(torch_generator(item.seed, "noise", item.step, item.index, slot))
    theta, vector = unpacked(snapshot.theta).to(device), unpacked(snapshot.policy).to(device)
    estimate = parts.estimators[item.phase].estimate(parts.problem, theta, parts.policy, vector, episodes, noises)
    return WorkResult(
        item.work_id,
        item.step,
        item.index,
        snapshot.version,
        item.tasks,
        packed(estimate.gradient, parts.problem.network.dtype),
        packed(estimate.policy_gradient, torch.float32),
        estimate.metrics,
        time.perf_counter() - start,
        worker,
        estimate.probes,
        estimate.experiences,
    )
