"""``g``: optimisation policies, one a file, by the name a config uses."""

from __future__ import annotations

from typing import Any

from metagen.policies.fixed import Fixed
from metagen.policies.policy import Gradient, Policy, Run, Solver
from metagen.policies.ridge import Ridge
from metagen.policies.steps import LearnedSteps

REGISTRY: dict[str, Any] = {"fixed": Fixed, "learned-steps": LearnedSteps, "ridge": Ridge}

__all__ = ["REGISTRY", "Gradient", "Policy", "Run", "Solver"]
