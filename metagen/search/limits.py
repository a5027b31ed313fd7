"""What is cheap comes first: a network that cannot be, or is too large, is refused before anything is trained."""

from __future__ import annotations

from functools import lru_cache

from metagen.config import RunConfig
from metagen.describe import describe, loss_cost
from metagen.errors import UserError
from metagen.search.config import LimitsConfig, SweepConfig
from metagen.search.space import Assignment, Space
from metagen.strict import Strict


class Refused(UserError):
    """A trial that is not to be: what it would be breaks a limit."""


class Facts(Strict):
    """A network in the numbers that limits and objectives name."""

    parameters: int
    flops: int
    """Forward FLOPs of one task: its queries once, and its support set."""
    memory: int | None = None
    """Estimated bytes of an inner step; None where no limit asks for it: it takes a pass through the network."""
    steps: int
    """Outer steps of a whole trial."""

    @staticmethod
    def of(config: RunConfig, limits: LimitsConfig) -> Facts:
        parameters, image, support = loss_cost(config)
        memory = None if limits.memory is None else describe(config).memory
        flops = config.episode.queries * image + support
        return Facts(parameters=parameters, flops=flops, memory=memory, steps=config.steps)


def check(name: str, value: float, limits: LimitsConfig) -> None:
    """Raise ``Refused`` if ``value`` is above the limit called ``name``."""
    most = getattr(limits, name)
    if most is not None and value > most:
        raise Refused(f"{name} {value:,.4g} is above limits.{name} {most:,.4g}")


def whole(sweep: SweepConfig, space: Space, assignment: Assignment) -> RunConfig:
    """The run that a whole trial of an assignment is; raises ``UserError`` if there can be none."""
    config = space.config(assignment)
    return config if sweep.equal == "steps" else _equalled(sweep, space, config, Facts.of(config, LimitsConfig()))


def _equalled(sweep: SweepConfig, space: Space, config: RunConfig, facts: Facts) -> RunConfig:
    """``config`` with the steps that take as many FLOPs as those of the base."""
    steps = round(sweep.steps * _base_flops(space) / _outer_flops(config, facts))
    return config.with_steps(max(steps, len(config.phases)))


@lru_cache(maxsize=1)
def _base_flops(space: Space) -> float:
    return _outer_flops(space.base, Facts.of(space.base, LimitsConfig()))


def _outer_flops(config: RunConfig, facts: Facts) -> float:
    """Forward FLOPs of an outer step, every task of it counted once: the mean over the phases."""
    tasks = sum(phase.steps * phase.items * phase.tasks for phase in config.phases)
    return facts.flops * tasks / config.steps


def admitted(sweep: SweepConfig, space: Space, assignment: Assignment) -> tuple[RunConfig, Facts]:
    """The run as ``whole`` gives it and its facts; raises ``Refused`` if it is impossible or breaks a static limit."""
    try:
        config = space.config(assignment)
    except UserError as error:
        raise Refused(str(error)) from None
    facts = Facts.of(config, sweep.limits)
    if sweep.equal == "flops":
        config = _equalled(sweep, space, config, facts)
        facts = facts.model_copy(update={"steps": config.steps})
    check("parameters", facts.parameters, sweep.limits)
    check("flops", facts.flops, sweep.limits)
    if facts.memory is not None:
        check("memory", facts.memory, sweep.limits)
    return config, facts
