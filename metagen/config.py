"""The config of a run: frozen, complete, strict. What is not in here does not change a result."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, field_validator, model_validator

from metagen import algorithms, generators, policies, tasks
from metagen.compatibility import refusal, unseen
from metagen.errors import UserError
from metagen.flat import named
from metagen.generators import ArchitectureConfig
from metagen.guard import GuardConfig
from metagen.outer import OuterConfig
from metagen.registry import check_whole, find, options_of
from metagen.strict import Strict
from metagen.tasks.augment import AugmentConfig
from metagen.tasks.config import CategoriesConfig, DataConfig
from metagen.values import to_yaml
from metagen.wire import Wire

ALL = ("*",)
"""The pattern that names every parameter."""


class GeneratorConfig(Strict):
    """``h``: which family, which structure."""

    family: str = "flow"
    architecture: ArchitectureConfig = ArchitectureConfig()
    options: dict[str, Any] = Field(default={})


class PolicyConfig(Strict):
    """``g``: which optimisation strategy the inner loop follows."""

    name: str = "learned-steps"
    options: dict[str, Any] = Field(default={})
    adapt: tuple[str, ...] = Field(ALL, min_length=1)
    """Names of the parameters that the inner loop moves, as patterns: ``out.*`` for the last layer (ANIL),
    ``*.film.*`` for scales and shifts (in the spirit of CAVIA). The outer loop learns all of them."""
    proximal: float = Field(0.0, ge=0)
    """Weight ``lambda`` of ``lambda / 2 |phi - theta|^2`` in the inner loss; 0 for none."""


class EpisodeConfig(Strict):
    """One task: how many images are shown, how many are asked for."""

    shots: int = Field(5, ge=1, le=1000)
    queries: int = Field(10, ge=1, le=1000)
    draws: int = Field(4, ge=1, le=1000)
    """Noise draws for each support image in an inner step."""
    withheld: int = Field(1, ge=1, le=1000)
    """Support images that an inner step does not show to the one that it draws: itself, and beyond 1 others at random,
    anew at every step. One at least is always shown."""
    relocate: bool = False
    """Whether an inner step draws each support image at a place on its canvas that is as likely as its own, by those of
    all of them (``tasks/positions.py``). Changes nothing where drawings all lie alike, or fill their canvas."""


class PhaseConfig(Strict):
    """A stretch of outer steps with one estimator and one outer optimiser."""

    estimator: str = "joint"
    options: dict[str, Any] = Field(default={})
    steps: int = Field(1000, ge=1)
    items: int = Field(2, ge=1)
    """Pieces of work an outer step; at least as many as actors keeps all of them busy."""
    tasks: int = Field(16, ge=1)
    """Episodes a piece of work."""
    shift: float = Field(0.0, ge=0, le=1)
    """Share of episodes whose images are altered as one (turned, drawn smaller, as outlines...) to act as another
    data set: what an optimisation policy must meet in training to be of use under a shift."""
    interpolate: float = Field(0.0, ge=0, le=1)
    """Share of episodes that lie between two classes."""
    balance: float = Field(0.0, ge=0, le=1)
    """How far the categories of tasks are drawn alike: 0 draws classes alike, 1 categories."""
    augment: AugmentConfig = AugmentConfig()
    """Alterations of every image by itself."""
    outer: OuterConfig = OuterConfig()


class CrewConfig(Strict):
    """Actors of one kind."""

    actors: int | str | None = None
    """How many: a number, a range such as ``2-8`` (begin with 2, grow to 8 as there is room), or ``auto`` (1 and more,
    as many as the cluster has room for); None for one a core."""
    cpus: float = Field(1.0, ge=0)
    gpus: float = Field(0.0, ge=0)
    """Share of a GPU that an actor takes, such as 0.25 for four actors on one."""

    @field_validator("actors")
    @classmethod
    def _actors(cls, actors: int | str | None) -> int | str | None:
        if actors is not None:
            actor_range(actors)
        return actors


class OtherCrewConfig(CrewConfig):
    """Actors beside the others, of another kind."""

    device: str | None = None
    """What they compute on, such as ``cuda``; None for the run's device."""


class PoolConfig(CrewConfig):
    """Who does the work, unless the command line says otherwise. Changes no result in mode sync."""

    kind: Literal["ray", "serial"] = "ray"
    others: tuple[OtherCrewConfig, ...] = ()
    """Further actors of another kind, such as some on GPUs beside many on CPUs. Devices round differently: a run of
    mixed ones is not the same bit for bit."""
    address: str | None = None
    in_flight: int | None = Field(None, ge=1, le=64)
    """Pieces of work that an actor holds at most; None for 1, or 2 where workers may be ahead of the learner."""
    aggregate: int | None = Field(None, ge=1)
    """Actors from which on meta-gradients are summed on their nodes, and one vector a node travels to the learner; None
    for never. Sums are then rounded in another order."""
    backup: float = Field(3.0, ge=0)
    """A piece that takes this many times as long as most is given to a free actor as well, and the first result counts;
    0 for never."""
    patience: float = Field(120.0, gt=0)
    """Seconds after which a run gives up: without any actor, at its start without another of the least that it asks
    for, or with nothing but failures of Ray."""


def actor_range(actors: int | str) -> tuple[int, int | None]:
    """Least and most actors of a number, a range such as ``2-8``, or ``auto``; raises ``ValueError`` for others."""
    if actors == "auto":
        return 1, None
    least, dash, most = str(actors).partition("-")
    if least.isascii() and least.isdigit() and int(least) > 0 and (not dash or (most.isascii() and most.isdigit())):
        if not dash:
            return int(least), int(least)
        if int(most) >= int(least):
            return int(least), int(most)
    raise ValueError(f"'{actors}' is no number of actors: give one such as 4, a range such as 2-8, or auto")


class LogConfig(Strict):
    """How often a run reports and saves. Changes no result."""

    images_every: int = Field(0, ge=0)
    """Outer steps between image grids in TensorBoard; 0 for four over the run."""
    checkpoint_every: int = Field(200, ge=1)
    keep: int = Field(2, ge=1)
    """Newest checkpoints kept beside the best and the final one."""
    store: str | None = None
    """URL of a folder, such as ``s3://bucket/runs/mine``, that every checkpoint is copied to."""


class RunConfig(Strict):
    """Everything that defines a run."""

    name: str = "run"
    seed: int = Field(0, ge=0)
    data: DataConfig = DataConfig()
    categories: CategoriesConfig = CategoriesConfig()
    episode: EpisodeConfig = EpisodeConfig()
    generator: GeneratorConfig = GeneratorConfig()
    policy: PolicyConfig = PolicyConfig()
    phases: tuple[PhaseConfig, ...] = (PhaseConfig(),)
    start_from: str | None = None
    """Checkpoint whose generator the run begins with: a run or checkpoint folder, its URL in a store, or
    ``pretrained``; None for random weights. The policy goes along where both have the same one."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the running mean of theta that evaluation uses; 0 evaluates theta itself."""
    budget: float | None = Field(None, gt=0)
    """Seconds that training is to take at most: phases are scaled down at the start to what this machine manages in
    that time (``budget.py``); None for all of their steps, whatever they take."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Dtype of the network's passes; auto measures both on the device and takes the faster."""
    together: PositiveInt | Literal["auto"] = "auto"
    """Tasks of a piece of work that the network computes at once, each with parameters of its own; auto measures
    what is fastest on the device. For estimators that adapt tasks in step with each other: fomaml and reptile."""
    device: str = "cpu"
    mode: Literal["sync", "async"] = "sync"
    """sync: a step is made of its own pieces of work, at a version that the config says: every run is the same bit for
    bit. async: of the first ``items`` pieces that come, each handed out at the newest version."""
    max_staleness: int = Field(0, ge=0, le=100)
    """Outer steps that workers may be ahead of the learner, and the oldest result, in versions, that is applied. In
    mode sync each step is estimated at the version so many steps before its own, within its phase; 0 makes workers
    wait while the learner applies a step."""
    age_power: float = Field(1.0, ge=0)
    """In mode async a gradient of age ``a`` is weighted by ``(1 + a) ** -age_power``; 0 for no difference."""
    wire: Wire = "auto"
    """What meta-gradients travel as: auto for each by itself, in the dtype that networks compute in; fp32, bf16 or int8
    (with error feedback) for their weighted sum of each node."""
    guard: GuardConfig = GuardConfig()
    pool: PoolConfig = PoolConfig()
    log: LogConfig = LogConfig()

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        kind, _, index = device.partition(":")
        if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
            raise ValueError(f"'{device}' is not a device: use cpu, cuda, cuda:0 or mps")
        return device

    @model_validator(mode="after")
    def _parts_exist(self) -> RunConfig:
        """Every name is known and every part takes its options, before any process starts."""
        if not self.phases:
            raise ValueError("phases: at least one is needed")
        if any(phase.balance for phase in self.phases) and not self.categories.most:
            raise ValueError("phases: balance needs categories: set categories.most, such as 6")
        try:
            for source in (self.data.source, *(part.source for part in self.data.parts)):
                if ":" not in source:  # one's own is needed where its images are, not where its run is read
                    find("source", source, tasks.REGISTRY)
            family = self.family()
            if self.together not in ("auto", 1) and not getattr(family, "batched", True):
                raise UserError(f"together: family {self.generator.family} computes one task at a time: use 1 or auto")
            policy = find("policy", self.policy.name, policies.REGISTRY)
            check_whole("policy", self.policy.name, policy)
            chosen = options_of(f"policy {self.policy.name}", policy, self.policy.options)
            for phase in self.phases:
                estimator = find("estimator", phase.estimator, algorithms.REGISTRY)
                check_whole("estimator", phase.estimator, estimator)
                options = options_of(f"estimator {phase.estimator}", estimator, phase.options)
                subset = self.policy.adapt != ALL
                reason = refusal(estimator, family, policy, self.policy.proximal, subset, self.episode.relocate)
                if reason := reason or unseen(estimator, options, chosen):
                    parts = f"policy {self.policy.name} and family {self.generator.family}"
                    raise UserError(f"estimator {phase.estimator} with {parts}: {reason}")
            self._subset_exists()
        except UserError as error:
            raise ValueError(str(error)) from None
        return self

    def _subset_exists(self) -> None:
        """Raise ``UserError`` for a pattern of ``policy.adapt`` that names no parameter, before there is a network."""
        if self.policy.adapt == ALL:
            return
        with torch.device("meta"):  # names alone: no memory, no random numbers
            network = self.family().build()
        named([name for name, _ in network.named_parameters()], self.policy.adapt)

    def family(self) -> generators.Family:
        """The generator family, for images of the data's form; raises ``ValueError`` for what it cannot be."""
        h, data = self.generator, self.data
        return generators.family_of(h.family, h.architecture, h.options, data.channels, data.image_size)

    @property
    def steps(self) -> int:
        """Outer steps of the whole run."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[int, int]:
        """The phase that outer ``step`` (from 0) belongs to, and the step within it."""
        for number, phase in enumerate(self.phases):
            if step < phase.steps:
                return number, step
            step -= phase.steps
        raise IndexError(f"step beyond the run's {self.steps}")

    def basis(self, step: int) -> int:
        """The outer step whose version workers estimate ``step`` at in mode sync."""
        return step - min(self.max_staleness, self.phase_at(step)[1])

    def with_steps(self, steps: int) -> RunConfig:
        """The same run in exactly ``steps`` outer steps: every phase is scaled and keeps at least one step.

        Raises ``UserError`` where there are fewer steps than phases.
        """
        if steps < len(self.phases):
            raise UserError(
                f"steps: {steps} is too few for {len(self.phases)} phases: give at least {len(self.phases)}"
            )
        counts = [max(1, int(phase.steps * steps / self.steps)) for phase in self.phases]
        while sum(counts) > steps:  # what short phases were rounded up by, the longest of them gives
            counts[counts.index(max(counts))] -= 1
        counts[counts.index(max(counts))] += steps - sum(counts)
        phases = []
        for phase, count in zip(self.phases, counts, strict=True):
            outer = phase.outer.model_copy(update={"warmup": min(phase.outer.warmup, count // 10)})
            phases.append(phase.model_copy(update={"steps": count, "outer": outer}))
        return self.model_copy(update={"phases": tuple(phases), "budget": None})

    @property
    def dtype(self) -> torch.dtype:
        """What networks compute in; the precision must have been resolved (see ``precision.py``)."""
        if self.precision == "auto":
            raise ValueError("precision: auto has not been measured yet: call metagen.precision.resolve first")
        return {"bf16": torch.bfloat16, "fp32": torch.float32}[self.precision]

    @property
    def identity(self) -> str:
        """A short hash of all that changes a result; part of every work_id."""
        values = self.model_dump(mode="json", exclude={"name", "log", "pool"})
        return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=6).hexdigest()

    def to_yaml(self) -> str:
        return to_yaml(self.model_dump(mode="json"))
