"""The values that travel between the learner and the workers. Names and seeds go out, vectors come back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class WorkItem:
    """One piece of work: ``tasks`` episodes to estimate a meta-gradient from, at one version."""

    run: str
    """Identity of the run (its config and seed), so that a work_id is unique across runs."""
    seed: int
    phase: int
    step: int
    index: int
    version: int
    tasks: int

    @property
    def work_id(self) -> str:
        """``hash(run, step, index)``: names the work whoever does it and however often."""
        text = f"{self.run}/{self.step}/{self.index}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Snapshot:
    """What a worker needs to know of the learner's state: one vector, ``[theta [P], policy [G]]``."""

    version: int
    vector: Vector
    parameters: int
    """P, where theta ends and the policy begins."""

    @property
    def theta(self) -> Vector:
        return self.vector[: self.parameters]

    @property
    def policy(self) -> Vector:
        return self.vector[self.parameters :]


@dataclass(frozen=True)
class WorkResult:
    """What an actor reports: a meta-gradient and a policy update, in one vector ``[P + G]``."""

    work_id: str
    step: int
    index: int
    version: int
    tasks: int
    update: Vector
    metrics: dict[str, float]
    """Means over the item's tasks: ``loss``, ``query_loss/K`` at K steps, ``support_loss``..."""
    seconds: float
    """Wall-clock that the work took on the worker."""
    worker: str = ""


class Verdict(StrEnum):
    """What the learner made of a result. Everything but ACCEPTED leaves the state as it was."""

    ACCEPTED = "accepted"
    STALE = "stale"
    NONFINITE = "nonfinite"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class StepReport:
    """One outer step as its callers see it."""

    step: int
    """Outer steps taken, this one included."""
    steps: int
    """Outer steps that the run will take."""
    phase: int
    version: int
    tasks: int
    metrics: dict[str, float]
    verdicts: dict[Verdict, int]
    learning_rate: float
    gradient_norm: float
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock of the step by part: ``adapt``, ``transfer``, ``learner``, ``idle``, ``total``."""

    @property
    def loss(self) -> float:
        return self.metrics["loss"]
