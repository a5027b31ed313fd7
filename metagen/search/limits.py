"""What is cheap comes first: a network that cannot be, or is too large, is refused before anything is trained."""

from __future__ import annotations

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

    @staticmethod
    def of(config: RunConfig, limits: LimitsConfig) -> Facts:
        parameters, image, support = loss_cost(config)
        memory = None if limits.memory is None else describe(config).memory
        return Facts(parameters=parameters, flops=config.episode.queries * image + support, memory=memory)


def check(name: str, value: float, limits: LimitsConfig) -> None:
    """Raise ``Refused`` if ``value`` is above the limit called ``name``."""
    most = getattr(limits, name)
    if most is not None and value > most:
        raise Refused(f"{name} {value:,.4g} is above limits.{name} {most:,.4g}")


def admitted(sweep: SweepConfig, space: Space, assignment: Assignment) -> tuple[RunConfig, Facts]:
    """The run of an assignment and its facts; raises ``Refused`` if it is impossible or breaks a static limit."""
    try:
        config = space.config(assignment)
    except UserError as error:
        raise Refused(str(error)) from None
    facts = Facts.of(config, sweep.limits)
    check("parameters", facts.parameters, sweep.limits)
    check("flops", facts.flops, sweep.limits)
    if facts.memory is not None:
        check("memory", facts.memory, sweep.limits)
    return config, facts
