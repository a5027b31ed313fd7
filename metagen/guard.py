"""The divergence guard: when a run has left its running level, and how it goes back to the last good state.

It reads the learner's state and the config alone, so that every pool and a resumed run roll back at the same step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median

from pydantic import Field
from torch import Tensor

from metagen.errors import UserError
from metagen.records import Quarantined
from metagen.strict import Strict

RELAPSE = 10
"""Times ``guard.every`` steps within which a divergence is the one before, come again."""
SPREAD_FLOOR = 0.05
"""Least spread that a level is given, as a share of its size: a level that hardly moves must not trip on its noise."""


class GuardConfig(Strict):
    """When the learner goes back, and when it gives up."""

    factor: float = Field(10.0, ge=0)
    """Spreads above the running level from which a loss is too high; 0 for no guard."""
    window: int = Field(32, ge=4, le=1000)
    """Steps that the running level is taken from; a phase begins with an empty window."""
    patience: int = Field(3, ge=1)
    """Steps in a row that must be too high: one hard batch is no divergence."""
    every: int = Field(50, ge=1)
    """Steps between the states that are kept to go back to."""
    rollbacks: int = Field(3, ge=0)
    """How often in a row a run may go back, with fewer than ``RELAPSE * every`` steps between; the next divergence
    ends it."""
    nonfinite_steps: int = Field(5, ge=1)
    """Steps in a row with a non-finite result that end the run."""


@dataclass(frozen=True)
class Watch:
    """What the guard remembers from step to step; part of the learner's state."""

    losses: tuple[float, ...] = ()
    """Losses of the window's good steps, oldest first."""
    high: int = 0
    """Steps in a row, up to now, that were too high."""
    nonfinite: int = 0
    """Steps in a row, up to now, with a non-finite result."""
    rollbacks: int = 0
    relapses: int = 0
    """Rollbacks that came soon after one another, up to the last one."""
    since: int = 0
    """Version (and step) that the last rollback led to; results of versions before it are void."""

    @property
    def score(self) -> float | None:
        """The running level of the loss, which checkpoints are compared by; None before the phase's first step."""
        return median(self.losses) if self.losses else None


class Diverged(UserError):
    """The run cannot go on. ``quarantined`` holds the results of its last step that were not finite."""

    def __init__(self, message: str, quarantined: tuple[Quarantined, ...] = ()) -> None:
        super().__init__(message)
        self.quarantined = quarantined


def observe(config: GuardConfig, watch: Watch, loss: float, nonfinite: bool) -> Watch:
    """The watch after a step of this loss.

    A loss ``x`` is too high if ``x > m + factor * max(1.4826 * MAD, 0.05 |m|)``, with ``m`` the window's median and MAD
    its median absolute deviation (Rousseeuw & Croux 1993: the factor makes it the standard deviation of a normal
    distribution). Losses that are too high stay out of the window.

    The norm of the meta-gradient says nothing here: it may rise many times above its level where the loss falls, and
    what it does to theta is bounded by clipping.
    """
    full = len(watch.losses) >= config.window
    high = config.factor > 0 and full and _above(config, watch.losses, loss)
    watch = replace(watch, nonfinite=watch.nonfinite + 1 if nonfinite else 0)
    if high:
        return replace(watch, high=watch.high + 1)
    return replace(watch, losses=(*watch.losses, loss)[-config.window :], high=0)


def new_phase(watch: Watch) -> Watch:
    """The watch at the start of a phase, whose losses are of another kind."""
    return replace(watch, losses=(), high=0)


def relapses(config: GuardConfig, watch: Watch, version: int) -> int:
    """Rollbacks soon after one another that one to ``version`` would follow: long after the last, it is the first."""
    return watch.relapses if version - watch.since <= RELAPSE * config.every else 0


def rolled_back(config: GuardConfig, watch: Watch, version: int) -> Watch:
    """The watch after a rollback that led to ``version``."""
    again = relapses(config, watch, version) + 1
    return replace(watch, high=0, rollbacks=watch.rollbacks + 1, relapses=again, since=version)


def anchor_due(config: GuardConfig, watch: Watch, step: int, anchor: Mapping[str, Tensor]) -> bool:
    """Whether the state after ``step`` steps of a phase is one to keep."""
    return config.factor > 0 and not watch.high and (not anchor or step % config.every == 0)


def _above(config: GuardConfig, window: tuple[float, ...], value: float) -> bool:
    level = median(window)
    spread = max(1.4826 * median(abs(x - level) for x in window), SPREAD_FLOOR * abs(level))
    return value > level + config.factor * spread
