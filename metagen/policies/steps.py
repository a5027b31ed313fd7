"""Step sizes learned for every layer and every inner step (Meta-SGD, Li et al. 2017, arXiv:1707.09835;
MAML++, Antoniou et al. 2019), conditioned on how steady the gradient is (in the spirit of ALFA, Baik et al.
2020, arXiv:2011.00209)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, field_validator
from torch import Tensor

from metagen.errors import nearest
from metagen.flat import Layout
from metagen.policies.policy import Run
from metagen.policies.rules import RULES
from metagen.strict import Strict

FEATURES = 2
SIGNAL_MEAN, SIGNAL_DEVIATION, SIGNAL_PRIOR = 0.35, 0.15, 2.0
"""Share of signal in the gradient of a task of the training distribution, to standardise with: measured on the
packaged set (docs/log.md); and the steps that the prior counts for."""


class LearnedStepsOptions(Strict):
    rule: str = "adam"
    step_size: float = Field(3e-5, gt=0)
    """Where every step size starts."""
    horizon: int = Field(20, ge=1)
    """Inner steps with a step size of their own; later steps use the last one's."""
    features: bool = True
    """Let step sizes depend on how much of the task's gradient is signal."""
    start_weight: float = 0.5
    """Where the weight of the signal over the whole network starts, in nats a standard deviation."""

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        if rule not in RULES:
            raise ValueError(f"unknown rule '{rule}'{nearest(rule, RULES)}")
        return rule


class LearnedSteps:
    """``parameters_l -= exp(log_size[l, j]) * rule(gradient)_l`` with::

        log_size[l, j] = layer[l] + step[j] + both[l, j] + weights[l] . features[l, j]

    The features of layer ``l`` at step ``j`` say how much of the gradient is signal: the share of its squared
    norm that successive gradients of the task, each with fresh noise, have in common; in the layer and over the
    whole network, standardised. A large share means that the task is unlike what the network knows (a shift),
    where larger steps pay; a gradient that is all noise means that there is little left to learn.
    """

    Options = LearnedStepsOptions

    def __init__(self, options: LearnedStepsOptions) -> None:
        self.options = options
        self.rule = RULES[options.rule]()

    def initial(self, layout: Layout) -> Tensor:
        layers, horizon = len(layout.layers), self.options.horizon
        start = torch.full((layers,), self.options.step_size).log()
        weights = torch.tensor([0.0, self.options.start_weight if self.options.features else 0.0])
        return torch.cat([start, torch.zeros(horizon + layers * horizon), weights.repeat(layers)])

    def step(self, run: Run, parameters: Tensor, gradient: Tensor, step: int) -> None:
        with torch.enable_grad():
            sizes = self._log_sizes(run, self._features(run, gradient, step), step)
        direction = self.rule(run.state, gradient, step)
        parameters.addcmul_(run.layers.spread(sizes.detach().exp()), direction, value=-1)
        if run.traced:
            run.log_sizes.append(sizes)
            run.directions.append(direction.clone())

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        """One pass, Jacobians of later steps dropped::

        d L / d log_size[l, j] ~ - size[l, j] * sum_{k > j} < w_k grad L_Q(phi_k), direction_j >_l
        """
        total = torch.zeros_like(run.directions[0]) if run.directions else None
        if total is None:
            return torch.zeros_like(run.vector)
        later = sorted(query, key=lambda pair: pair[0])
        slopes: list[Tensor] = []
        for j in reversed(range(len(run.directions))):
            while later and later[-1][0] > j:
                total += later.pop()[1]
            slopes.append(-run.log_sizes[j].detach().exp() * run.layers.dot(total, run.directions[j]))
        slopes.reverse()
        surrogate = (torch.stack(run.log_sizes) * torch.stack(slopes)).sum()
        (slope,) = torch.autograd.grad(surrogate, run.state["vector"])
        return slope

    def describe(self, vector: Tensor, layout: Layout) -> dict[str, Tensor]:
        layer, step, both, weights = self._parts(vector, len(layout.layers))
        log10 = (layer[:, None] + step[None] + both) / torch.log(torch.tensor(10.0))
        return {"log10_step_size": log10, "feature_weights": weights}

    def _parts(self, vector: Tensor, layers: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        horizon = self.options.horizon
        layer, step, both, weights = vector.split([layers, horizon, layers * horizon, FEATURES * layers])
        return layer, step, both.view(layers, horizon), weights.view(layers, FEATURES)

    def _log_sizes(self, run: Run, features: Tensor, step: int) -> Tensor:
        vector = run.state.get("vector")
        if vector is None:
            vector = run.state["vector"] = run.vector.detach().clone().requires_grad_(run.traced)
        layer, per_step, both, weights = self._parts(vector, run.layers.count)
        j = min(step, self.options.horizon - 1)
        return layer + per_step[j] + both[:, j] + (weights * features).sum(1)

    def _features(self, run: Run, gradient: Tensor, step: int) -> Tensor:
        """``[L, 2]``: the share of signal, a layer and overall, standardised; 0 at the first step.

        With gradients ``g_j = s + noise_j`` and ``m_j`` the mean of those before ``g_j``, ``<g_j, m_j>`` is
        ``|s|^2`` on average whatever ``j``; its running sum over that of ``<g_j, g_j>`` is the share.
        """
        if not self.options.features:
            return gradient.new_zeros(run.layers.count, FEATURES)
        past = run.state.setdefault("past", torch.zeros_like(gradient))
        common = run.state.setdefault("common", gradient.new_zeros(run.layers.count))
        squares = run.state.setdefault("squares", gradient.new_zeros(run.layers.count))
        if step:
            common += run.layers.dot(gradient, past)
            squares += run.layers.dot(gradient, gradient)
        past.lerp_(gradient, 1 / (step + 1))
        if not step:
            return gradient.new_zeros(run.layers.count, FEATURES)
        tiny = torch.finfo(squares.dtype).tiny
        local = common / squares.clamp_min(tiny)
        overall = (common.sum() / squares.sum().clamp_min(tiny)).expand_as(local)
        trust = step / (step + SIGNAL_PRIOR)  # a share seen over few steps is mostly chance: shrink it
        return trust * ((torch.stack([local, overall], dim=1) - SIGNAL_MEAN) / SIGNAL_DEVIATION).clamp(-3, 3)
