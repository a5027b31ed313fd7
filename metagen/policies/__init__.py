"""``g``: optimisation policies, one a file, by the name a config uses."""

from __future__ import annotations

from typing import Any

from metagen.policies.alfa import Alfa
from metagen.policies.fixed import Fixed
from metagen.policies.learned import LearnedOptimiser
from metagen.policies.policy import Choice, Explorer, Gradient, Improvement, Policy, Run, Solver, hypergradient
from metagen.policies.ridge import Ridge
from metagen.policies.steps import LearnedSteps
from metagen.policies.stochastic import Stochastic

REGISTRY: dict[str, Any] = {
    "alfa": Alfa,
    "fixed": Fixed,
    "learned-optimiser": LearnedOptimiser,
    "learned-steps": LearnedSteps,
    "ridge": Ridge,
    "stochastic": Stochastic,
}

__all__ = ["REGISTRY", "Choice", "Explorer", "Gradient", "Improvement", "Policy", "Run", "Solver", "hypergradient"]
