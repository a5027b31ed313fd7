"""The learner's state: all that a checkpoint must hold to continue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from metagen.config import RunConfig
from metagen.flat import Layout
from metagen.guard import Watch
from metagen.outer import Moments, no_moments
from metagen.policies import Policy
from metagen.records import Piece, Snapshot


@dataclass(frozen=True)
class MetaState:
    """All that the learner knows: what a checkpoint must hold to continue bit for bit."""

    theta: Tensor
    """Meta-parameters of the generator ``[P]``."""
    policy: Tensor
    """Parameters of the optimisation policy ``[G]``."""
    mean: Tensor
    """Running mean of theta ``[P]``; theta itself where the config keeps none."""
    moments: Moments
    policy_moments: Moments
    step: int = 0
    """Outer steps applied."""
    version: int = 0
    applied: tuple[tuple[int, str], ...] = ()
    """(version they were applied at, work_id) of results that could still come again."""
    owed: tuple[Piece, ...] = ()
    """Pieces of the running phase that come before the last one taken and have not been: an asynchronous run takes
    pieces as they come, and one that resumes begins with these. Synchronous steps leave none behind."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Verdicts so far."""
    tasks: int = 0
    """Tasks applied so far."""
    recent: tuple[Snapshot, ...] = ()
    """Versions before this one, oldest first, that steps to come are estimated at (``max_staleness``)."""
    residual: Tensor = field(default_factory=lambda: torch.zeros(0))
    """What compression has held back of the sums so far ``[P]``; set when a checkpoint is made (``train.to_save``)."""
    watch: Watch = field(default_factory=Watch)
    anchor: Mapping[str, Tensor] = field(default_factory=dict)
    """The last good state's vectors by name, to go back to; empty without a guard and before the first step."""


def initial_state(theta: Tensor, policy: Policy, layout: Layout) -> MetaState:
    """The state before the first step."""
    vector = policy.initial(layout)
    return MetaState(theta, vector, theta.clone(), no_moments(len(theta)), no_moments(len(vector)))


def owed_after(config: RunConfig, state: MetaState, taken: Iterable[Piece]) -> tuple[Piece, ...]:
    """The pieces still owed once the step after ``state`` has taken these: every piece is taken exactly once.

    A step takes ``items`` pieces, so those before ``frontier = items * steps + len(owed)`` in the phase's order are
    taken or owed, and those from it on are neither.
    """
    number, local = config.phase_at(state.step)
    items, first = config.phases[number].items, state.step - local
    places = {(step - first) * items + index for step, index in taken}
    frontier = items * local + len(state.owed)
    owed = {(step - first) * items + index for step, index in state.owed}
    owed |= set(range(frontier, max(places, default=-1) + 1))
    return tuple((first + place // items, place % items) for place in sorted(owed - places))


class Vectors(NamedTuple):
    """What an outer step moves, and a rollback brings back: the fields of ``MetaState`` of the same names."""

    theta: Tensor
    policy: Tensor
    mean: Tensor
    moments: Moments
    policy_moments: Moments


def to_anchor(vectors: Vectors) -> dict[str, Tensor]:
    """A good state's vectors by name, to go back to."""
    return {
        "theta": vectors.theta,
        "policy": vectors.policy,
        "mean": vectors.mean,
        **{f"moments.{name}": value for name, value in vectors.moments.items()},
        **{f"policy_moments.{name}": value for name, value in vectors.policy_moments.items()},
    }


def from_anchor(anchor: Mapping[str, Tensor]) -> Vectors:
    """The inverse of ``to_anchor``."""

    def group(prefix: str) -> Moments:
        return {name.removeprefix(prefix): value for name, value in anchor.items() if name.startswith(prefix)}

    return Vectors(anchor["theta"], anchor["policy"], anchor["mean"], group("moments."), group("policy_moments."))
