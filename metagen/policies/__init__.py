"""``g``: optimisation policies, one a file, by the name a config uses."""

from __future__ import annotations

from typing import Any

from metagen.policies.fixed import Fixed
from metagen.policies.policy import Gradient, Policy, Run
from metagen.policies.steps import LearnedSteps

REGISTRY: dict[str, Any] = {"fixed": Fixed, "learned-steps": LearnedSteps}

__all__ = ["REGISTRY", "Gradient", "Policy", "Run"]
