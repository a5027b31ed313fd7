"""Everything an actor does: an item and a snapshot in, a result out. The serial pool calls the same function."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metagen import algorithms, policies
from metagen.algorithms import Estimate, Estimator
from metagen.config import ALL, PhaseConfig, RunConfig
from metagen.errors import UserError
from metagen.flat import FlatNetwork
from metagen.generators import Family
from metagen.policies import Policy
from metagen.problem import Problem
from metagen.records import Piece, Snapshot, WorkItem, WorkResult, finite, packed, unpacked
from metagen.registry import find, options_of
from metagen.seeding import seed_for, torch_generator
from metagen.tasks.categories import Sorter
from metagen.tasks.drawing import Drawing, class_weights
from metagen.tasks.imageset import ImageSet


@dataclass(frozen=True)
class Parts:
    """The objects that a config names, built once in each process."""

    config: RunConfig
    images: ImageSet
    problem: Problem
    policy: Policy
    estimators: tuple[Estimator, ...]
    """One a phase."""
    drawings: tuple[Drawing, ...]
    """One a phase: how it draws its episodes."""


def build(config: RunConfig, images: ImageSet) -> Parts:
    """Build what ``config`` names. What depends on the device and the data must have been written into it:
    the precision (``precision.py``) and the categories (``tasks/categories.py``)."""
    if config.categories.most and not config.categories.found:
        raise ValueError("categories.found: empty: call metagen.tasks.categories.with_found first")
    estimators = []
    for phase in config.phases:
        entry = find("estimator", phase.estimator, algorithms.REGISTRY)
        estimators.append(entry(options_of("estimator", entry, phase.options)))
    problem = build_problem(config)
    drawings = [_drawing(config, phase, images, problem.sorter) for phase in config.phases]
    return Parts(config, images, problem, build_policy(config), tuple(estimators), tuple(drawings))


def _drawing(config: RunConfig, phase: PhaseConfig, images: ImageSet, sorter: Sorter | None) -> Drawing:
    shots, queries = config.episode.shots, config.episode.queries
    weights = class_weights(images, sorter, phase.balance, shots + queries)
    return Drawing(images, shots, queries, phase.interpolate, phase.shift, phase.augment, weights)


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
    found = config.categories.found if config.categories.most else None
    sorter = Sorter(found) if found else None
    together = 1 if config.together == "auto" else config.together
    return Problem(
        family,
        network,
        draws=config.episode.draws,
        adapted=adapted,
        proximal=config.policy.proximal,
        sorter=sorter,
        withheld=config.episode.withheld,
        relocate=config.episode.relocate,
        shots=config.episode.shots if config.generator.architecture.set_conditioning != "none" else 1,
        together=together,
    )


def device_of(config: RunConfig) -> torch.device:
    """The device that ``config`` names; raises ``UserError`` if this machine has none of the kind."""
    device = torch.device(config.device)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 1)
    if (device.index or 0) >= count:
        raise UserError(f"device: '{config.device}' is not there ({count} {device.type} devices): use --set device=cpu")
    return device


def initialised(family: Family, seed: int) -> nn.Module:
    """A family's network with weights that depend on ``seed`` alone; raises ``UserError`` for layers whose outputs
    depend on more than weights and inputs."""
    # torch's layers initialise from the global generator: lend it a state and put the old one back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "initial weights"))
        network = family.build()
    if found := [f"{type(part).__name__} {name!r}" for name, part in network.named_modules() if _wayward(part)]:
        raise UserError(
            f"family {type(family).__name__}: its network has {', '.join(found[:3])}, and what such layers draw or "
            "remember does not travel with the parameters: use GroupNorm in place of BatchNorm, and no Dropout"
        )
    return network


def _wayward(part: nn.Module) -> bool:
    """Whether a layer draws from the global generator, or keeps statistics of the batches that it has seen."""
    dropout = isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0
    return dropout or isinstance(part, nn.modules.batchnorm._BatchNorm) or getattr(part, "track_running_stats", False)


def plan(config: RunConfig, step: int, version: int) -> list[WorkItem]:
    """The work of outer ``step``: names and seeds, no tensors."""
    phase = config.phases[config.phase_at(step)[0]]
    return items(config, [(step, index) for index in range(phase.items)], version)


def items(config: RunConfig, pieces: Iterable[Piece], version: int) -> list[WorkItem]:
    """Each of ``pieces``, to be estimated at ``version``."""
    run, phases = config.identity, config.phases
    numbers = ((step, index, config.phase_at(step)[0]) for step, index in pieces)
    return [WorkItem(run, config.seed, n, step, index, version, phases[n].tasks) for step, index, n in numbers]


def item(config: RunConfig, step: int, index: int, version: int) -> WorkItem:
    """Piece ``index`` of outer ``step``, to be estimated at ``version``."""
    return items(config, [(step, index)], version)[0]


def run(parts: Parts, item: WorkItem, snapshot: Snapshot, worker: str = "") -> WorkResult:
    """Sample the item's episodes, estimate, report. Depends on the item and the snapshot alone."""
    start = time.perf_counter()
    device = parts.problem.network.device
    episodes = parts.drawings[item.phase].episodes(item)
    noises = [torch_generator(item.seed, "noise", item.step, item.index, slot) for slot in range(len(episodes))]
    theta, vector = unpacked(snapshot.theta).to(device), unpacked(snapshot.policy).to(device)
    estimate = parts.estimators[item.phase].estimate(parts.problem, theta, parts.policy, vector, episodes, noises)
    _check(estimate, theta, vector)
    gradient = packed(estimate.gradient, parts.problem.network.dtype)
    update = packed(estimate.policy_gradient, torch.float32)
    return WorkResult(
        item.work_id,
        item.step,
        item.index,
        snapshot.version,
        item.tasks,
        gradient,
        update,
        estimate.metrics,
        time.perf_counter() - start,
        worker,
        estimate.probes,
        estimate.experiences,
        finite(gradient) and finite(update),
    )


def _check(estimate: Estimate, theta: Tensor, vector: Tensor) -> None:
    """Raise ``ValueError`` for an estimate that would be applied wrongly, or not at all: where it was made."""
    if "loss" not in estimate.metrics:
        raise ValueError(
            f"an estimator's metrics must hold 'loss'; these hold {', '.join(estimate.metrics) or 'nothing'}"
        )
    pairs = {"meta-gradient": (estimate.gradient, theta), "policy update": (estimate.policy_gradient, vector)}
    for what, (given, wanted) in pairs.items():
        if given.shape != wanted.shape and not estimate.probes:  # a single number would be added everywhere
            raise ValueError(f"an estimator gave a {what} {[*given.shape]} where {[*wanted.shape]} is needed")
