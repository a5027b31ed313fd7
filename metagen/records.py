"""The values that travel between the learner and the workers. Names and seeds go out, vectors come back."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vector = NDArray[np.float32] | NDArray[np.uint16]
"""A vector on its way: float32, or bf16 as its bits, which numpy has no type for."""


Piece = tuple[int, int]
"""(step, index) that a piece of work is planned as, and that its work_id is made from."""


def packed(tensor: Tensor, dtype: torch.dtype) -> Vector:
    """``tensor [P]`` on its way: rounded to bf16 if that is ``dtype``, else float32."""
    tensor = tensor.detach().to("cpu")
    if dtype == torch.bfloat16:
        return tensor.to(torch.bfloat16).view(torch.uint16).numpy()
    return tensor.float().numpy()


def unpacked(vector: Vector) -> Tensor:
    """What ``packed`` made, as a new float32 tensor ``[P]``: the vector may lie read-only in shared memory."""
    if vector.dtype == np.uint16:
        return torch.tensor(vector).view(torch.bfloat16).float()
    return torch.tensor(vector)


def borrowed(vector: Vector) -> Tensor:
    """What ``packed`` made, where it lies: a tensor ``[P]``, float32 or bf16, that may only be read."""
    with warnings.catch_warnings():  # torch warns of memory that cannot be written
        warnings.simplefilter("ignore")
        tensor = torch.from_numpy(vector)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def finite(vector: Vector) -> bool:
    """Whether a vector on its way holds neither NaN nor infinity."""
    if vector.dtype == np.uint16:  # of bf16: without its sign, what is not finite begins at the bits of infinity
        return bool(np.bitwise_and(vector, 0x7FFF).max(initial=0) < 0x7F80)
    # Neither goes away in a sum of squares, which reads the vector once and writes nothing; large numbers may overflow.
    values = borrowed(vector)
    return math.isfinite(torch.dot(values, values).item()) or bool(np.isfinite(vector).all())


@dataclass(frozen=True)
class WorkItem:
    """One piece of work: ``tasks`` episodes to estimate a meta-gradient from, at one version."""

    run: str
    """Identity of the run (its config and seed), so that a work_id is unique across runs."""
    seed: int
    phase: int
    step: int
    """Outer step that it is planned for, from 0."""
    index: int
    """Its place in the step, from 0."""
    version: int
    """Version of the snapshot that it is to be estimated at."""
    tasks: int

    @property
    def work_id(self) -> str:
        """``hash(run, step, index)``: names the work whoever does it and however often."""
        text = f"{self.run}/{self.step}/{self.index}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Snapshot:
    """What a worker needs to know of the learner's state.

    Theta travels in the dtype that networks compute in: it would be rounded to it there anyway.
    """

    version: int
    theta: Vector
    """The generator's meta-parameters ``[P]``."""
    policy: Vector
    """The policy's parameters ``[G]``, float32."""


@dataclass(frozen=True)
class Probe:
    """Two losses at meta-parameters moved to both sides along one direction, which its seed names (``probes.py``)."""

    seed: int
    sigma: float
    """How far theta was moved; 0 for not at all."""
    policy_sigma: float
    """How far the policy's parameters were moved."""
    above: float
    below: float


@dataclass(frozen=True)
class Experience:
    """What a policy chose for one task, and how well that went."""

    features: tuple[float, ...]
    """What the choice depended on."""
    action: tuple[float, ...]
    log_probability: float
    """Of the action, under the policy that it was drawn from: the behaviour policy."""
    reward: float


@dataclass(frozen=True)
class WorkResult:
    """What an actor reports: a meta-gradient and a policy update, or the probes that the learner makes both from."""

    work_id: str
    step: int
    index: int
    version: int
    tasks: int
    gradient: Vector
    """Meta-gradient ``[P]``, in the dtype that networks compute in; empty with probes."""
    policy_update: Vector
    """Gradient of the policy's parameters ``[G]``, float32; empty with probes."""
    metrics: dict[str, float]
    """Means over the item's tasks: ``loss``, ``query_loss/K`` at K steps, ``support_loss``..."""
    seconds: float
    """Wall-clock that the work took on the worker."""
    worker: str = ""
    probes: tuple[Probe, ...] = ()
    experiences: tuple[Experience, ...] = ()
    """What a policy that chooses learns from, beside the vectors."""
    sound: bool = True
    """Whether its vectors are finite, as the worker sees it: a pool may have the work of one that is not done again, by
    another worker. The learner looks for itself."""


@dataclass(frozen=True)
class Quarantined:
    """A result that was not finite: all that is needed to do its work again."""

    item: WorkItem
    snapshot: Snapshot
    where: tuple[str, ...]
    """What was not finite: ``gradient``, ``policy_update``, ``probes``, or a metric's name."""
    worker: str


class Verdict(StrEnum):
    """What the learner made of a result. Everything but ACCEPTED leaves the state as it was."""

    ACCEPTED = "accepted"
    STALE = "stale"
    NONFINITE = "nonfinite"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Outcome:
    """What became of one result, without its vectors."""

    work_id: str
    index: int
    version: int
    age: int
    """Versions between the one that it was estimated at and the one that it was judged at."""
    verdict: Verdict
    worker: str
    seconds: float


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
    """Of the meta-gradient, before clipping."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock since the step before: ``total``, and its parts: ``adapt`` (worker seconds a worker), ``transfer``
    (handing work out and waiting longer than any worker took), ``learner``, ``idle`` (workers waiting for the
    slowest and for the caller). With ``max_staleness`` the learner's part passes while workers adapt."""

    outcomes: tuple[Outcome, ...] = ()
    """All results that came for the step, in the order of their index."""
    quarantined: tuple[Quarantined, ...] = ()
    """Results that were not finite."""
    rolled_back: bool = False
    """Whether the step was undone: the run had diverged, and the state is that of an earlier step (``guard.py``)."""
    rollbacks: int = 0
    """Rollbacks so far."""
    workers: int = 1
    """Workers that there are."""
    events: Mapping[str, int] = field(default_factory=dict)
    """What befell them so far, counted by name (``cluster/pool.py``)."""
    samples: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of the policy's update, what is worth a histogram."""

    @property
    def loss(self) -> float:
        return self.metrics["loss"]
