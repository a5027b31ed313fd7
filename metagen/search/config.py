"""The config of a sweep: a base run, a space around it, how it is searched, judged and limited."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from metagen.errors import UserError
from metagen.search.space import Assignment, Domain, Space
from metagen.strict import Strict

Objective = Literal["loss", "parameters", "flops", "latency"]
OUTER = ("phases.", "ema")
"""What a population may change in a run that goes on: outer hyperparameters, which leave every vector its length."""
FIXED_OUTER = ("steps", "estimator", "items", "optimizer")


class SearchConfig(Strict):
    """Who proposes what to try."""

    name: Literal["random", "grid", "evolution", "tpe", "nsga2", "bohb"] = "evolution"
    """Where no name is given: ``evolution`` for one objective, ``tpe`` for several."""
    options: dict[str, Any] = Field(default={})


class ScheduleConfig(Strict):
    """Who decides which trials go on."""

    name: Literal["none", "asha", "hyperband", "median", "pbt", "pb2"] = "asha"
    options: dict[str, Any] = Field(default={})


class JudgeConfig(Strict):
    """What a trial is judged by: query loss on validation classes, after adaptation. Test classes are never read."""

    steps: int = Field(5, ge=0)
    """Adaptation steps."""
    classes: int = Field(16, ge=1)
    shots: int | None = Field(None, ge=1)
    """Images shown; None for the run's own."""
    seed: int = 0


class LimitsConfig(Strict):
    """What no network may exceed. All but ``latency`` and ``seconds`` are known before anything is trained."""

    parameters: float | None = Field(None, gt=0)
    flops: float | None = Field(None, gt=0)
    """Forward FLOPs of one task: the loss of its queries, its support set included."""
    memory: float | None = Field(None, gt=0)
    """Estimated bytes of one task's inner step."""
    latency: float | None = Field(None, gt=0)
    """Seconds to adapt to one class, measured on the trial's own worker before it trains."""
    seconds: float | None = Field(None, gt=0)
    """Of the whole trial, as projected from its first steps."""


class TrialConfig(Strict):
    """Who does the work of one trial."""

    actors: int = Field(1, ge=0)
    """Actors of its own; 0 for none: the trial's process does the work."""
    cpus: float = Field(0.9, gt=0)
    """Cores an actor, or of the process that does the work itself."""
    gpus: float = Field(0.0, ge=0)
    driver: float = Field(0.1, gt=0)
    """Cores of the process that learns and judges, beside its actors: the two take turns."""
    retries: int = Field(3, ge=0)
    """Times that a trial whose process, actors or node died goes on from its newest checkpoint."""
    warmup: int = Field(3, ge=1)
    """Steps of the short run that ``limits.seconds`` is projected from."""


class SweepConfig(Strict):
    """Everything that defines a sweep."""

    name: str = "sweep"
    seed: int = Field(0, ge=0)
    base: dict[str, Any]
    """The config of the run that trials vary."""
    space: dict[str, Domain]
    first: tuple[Assignment, ...] = ()
    """What to try before the searcher proposes: a value for every active parameter of the space. A sweep that begins
    with what is used today ends no worse, as it judges."""
    trials: int = Field(20, ge=1)
    steps: int = Field(100, ge=1)
    """Outer steps of a whole trial: the full fidelity."""
    equal: Literal["steps", "flops"] = "steps"
    """What whole trials have alike: outer steps, or forward FLOPs in training, as many as ``steps`` of the base take:
    a cheaper network has more steps. Judgements come at the same shares of every trial."""
    every: int = Field(20, ge=1)
    """Outer steps between judgements: a rung; of a trial of ``steps``."""
    objectives: tuple[Objective, ...] = ("loss",)
    """What is to be small, most important first."""
    search: SearchConfig = SearchConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    judge: JudgeConfig = JudgeConfig()
    limits: LimitsConfig = LimitsConfig()
    trial: TrialConfig = TrialConfig()
    concurrent: int | None = Field(None, ge=1)
    """Trials at a time; None for as many as the cluster has room for."""
    inherit: bool = False
    """Whether a trial's weights begin as those of the best trial so far, where their slices match."""
    budget: float | None = Field(None, gt=0)
    """Seconds that the sweep may take, all sessions together."""

    @model_validator(mode="before")
    @classmethod
    def _search_by_objectives(cls, values: Any) -> Any:
        search, objectives = values.get("search", {}), values.get("objectives")
        several = isinstance(objectives, list | tuple) and len(objectives) > 1
        if several and isinstance(search, dict) and "name" not in search:
            return {**values, "search": {**search, "name": "tpe"}}
        return values  # what is of a wrong type is for the fields to say

    @model_validator(mode="after")
    def _fits_together(self) -> SweepConfig:
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives: give at least one, each once")
        if self.base.get("start_from"):
            raise ValueError("base.start_from: trials begin with weights of their own, or inherit them: leave it out")
        if self.every > self.steps:
            raise ValueError(f"every: {self.every} is more than the trial's {self.steps} steps")
        search, schedule = self.search.name, self.schedule.name
        if search == "nsga2" and len(self.objectives) < 2:
            raise ValueError("search: nsga2 is for several objectives: name two, or use tpe")
        if len(self.objectives) > 1 and schedule != "none":
            raise ValueError(f"schedule: {schedule} ranks trials by one objective: use schedule.name none for several")
        if search == "bohb" and schedule != "hyperband":
            raise ValueError("search: bohb learns from HyperBand's rungs: set schedule.name to hyperband")
        if search in ("bohb", "evolution") and len(self.objectives) > 1:
            raise ValueError(f"search: {search} takes one objective: use nsga2 or tpe for several")
        try:
            space = self.make_space()
        except UserError as error:
            raise ValueError(str(error)) from None
        if self.equal == "flops" and schedule in ("pbt", "pb2"):
            raise ValueError(f"equal: the runs of {schedule} copy each other's weights at the same step: use steps")
        if self.first and search == "grid":
            raise ValueError("first: a grid tries all there is: leave first out, or use another search")
        for number, values in enumerate(self.first):
            try:
                space.check(values)
            except UserError as error:
                raise ValueError(f"first.{number}.{error}") from None
        if schedule in ("pbt", "pb2"):
            self._check_population(schedule, space)
        return self

    def _check_population(self, schedule: str, space: Space) -> None:
        for name, domain in space.parameters.items():
            if not name.startswith(OUTER) or name.rpartition(".")[2] in FIXED_OUTER or domain.when:
                raise ValueError(
                    f"space.{name}: {schedule} changes runs that go on: search outer hyperparameters alone, such as "
                    "phases.0.outer.learning_rate, without conditions"
                )
            if schedule == "pb2" and domain.finite is not None:
                raise ValueError(f"space.{name}: pb2 models continuous values: use uniform or loguniform, or pbt")

    def given(self, attempt: int) -> Assignment | None:
        """What the ``attempt``-th proposal is by ``first``; None for the searcher's own."""
        return self.first[attempt] if attempt < len(self.first) else None

    def make_space(self) -> Space:
        """The space, over the base run at full fidelity."""
        return Space(self.space, self.base, self.steps)

    @property
    def rungs(self) -> int:
        """Judgements of a whole trial."""
        return -(-self.steps // self.every)

    def judged_at(self, steps: int) -> tuple[int, ...]:
        """After which outer steps a trial of ``steps`` is judged, a rung each; the last is its end."""
        whole = (min(rung * self.every, self.steps) for rung in range(1, self.rungs + 1))
        return tuple(max(1, round(at * steps / self.steps)) for at in whole)
