"""A fixed rule with one step size for everything: the baseline of every learned policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor

from metagen.flat import Layout
from metagen.policies.policy import Gradient, Run
from metagen.policies.rules import RULES, known_rule
from metagen.strict import Strict


class FixedOptions(Strict):
    rule: str = "adam"
    step_size: float = Field(3e-5, gt=0)

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        return known_rule(rule)


class Fixed:
    """``parameters -= step_size * rule(gradient)``."""

    Options = FixedOptions

    def __init__(self, options: FixedOptions) -> None:
        self.name, self.rule = options.rule, RULES[options.rule]()
        self.step_size = options.step_size

    def initial(self, layout: Layout) -> Tensor:
        return torch.zeros(0)

    def wants_halves(self, step: int) -> bool:
        return False

    def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
        run.took(self.name, gradient.mean.new_tensor(self.step_size).log().expand(run.layers.count))
        return torch.sub(parameters, self.rule(run.state, gradient.mean, step, run.layers), alpha=self.step_size)

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        return torch.zeros_like(run.vector)

    def describe(self, vector: Tensor, layout: Layout) -> dict[str, Tensor]:
        return {}
