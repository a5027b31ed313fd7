"""Step sizes learned for every layer and every inner step (Meta-SGD, Li et al. 2017, arXiv:1707.09835;
MAML++, Antoniou et al. 2019, arXiv:1810.09502), conditioned on how far the images of the task agree (in the spirit of
ALFA, Baik et al. 2020, arXiv:2011.00209)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor

from metagen.flat import Layout
from metagen.policies.agreement import agreement
from metagen.policies.policy import Gradient, Run, one_pass, sized_step
from metagen.policies.rules import RULES, known_rule
from metagen.strict import Strict

FEATURES = 2
"""Agreement in the layer, and over the whole network."""


class LearnedStepsOptions(Strict):
    rule: str = "adam"
    step_size: float = Field(3e-5, gt=0)
    """Where step sizes start."""
    decay: float = Field(0.0, ge=0)
    """Nats by which they start to fall from the first step to the last of the horizon: steps that shrink end nearer
    to where they would settle, as the outer learning rate's schedule does."""
    horizon: int = Field(20, ge=1)
    """Inner steps with a step size of their own; later steps use the last one's."""
    features: bool = True
    """Let step sizes depend on how far the images of the task agree."""
    start_weight: float = 0.5
    """Where the weight of the agreement over the whole network starts, in nats a standard deviation."""

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        return known_rule(rule)


class LearnedSteps:
    """``parameters_l -= exp(log_size[l, j]) * rule(gradient)_l`` with::

        log_size[l, j] = layer[l] + step[j] + both[l, j] + weights[l] . features[l, j]

    The features are how far the gradients of two halves of the support set agree (their cosine), in layer ``l``
    and over the whole network, standardised, with the last few steps counting most. Where images agree on a
    direction, it is the class that asks for it and not the single image: the task is unlike what the network
    knows (a shift), and larger steps pay on images not shown. Where they do not, small steps are as much as is
    safe.
    """

    Options = LearnedStepsOptions

    def __init__(self, options: LearnedStepsOptions) -> None:
        self.options = options
        self.rule = RULES[options.rule]()

    def initial(self, layout: Layout) -> Tensor:
        layers, horizon = len(layout.layers), self.options.horizon
        start = torch.full((layers,), self.options.step_size).log()
        weights = torch.tensor([0.0, self.options.start_weight if self.options.features else 0.0])
        fall = -self.options.decay * torch.linspace(0, 1, horizon)
        return torch.cat([start, fall, torch.zeros(layers * horizon), weights.repeat(layers)])

    def wants_halves(self, step: int) -> bool:
        return self.options.features

    def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
        sizes = self._log_sizes(run, agreement(run.state, run.layers, gradient), step)
        direction = self.rule(run.state, gradient.mean, step, run.layers)
        return sized_step(run, self.options.rule, parameters, direction, sizes)

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        return one_pass(run, query)

    def describe(self, vector: Tensor, layout: Layout) -> dict[str, Tensor]:
        layer, step, both, weights = self._parts(vector, len(layout.layers))
        log10 = (layer[:, None] + step[None] + both) / torch.log(torch.tensor(10.0))
        return {"log10_step_size": log10, "feature_weights": weights}

    def _parts(self, vector: Tensor, layers: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        horizon = self.options.horizon
        layer, step, both, weights = vector.split([layers, horizon, layers * horizon, FEATURES * layers])
        return layer, step, both.view(layers, horizon), weights.view(layers, FEATURES)

    def _log_sizes(self, run: Run, features: Tensor, step: int) -> Tensor:
        layer, per_step, both, weights = self._parts(run.vector, run.layers.count)
        j = min(step, self.options.horizon - 1)
        return layer + per_step[j] + both[:, j] + (weights * features).sum(1)
