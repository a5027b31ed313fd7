"""Step sizes a layer and inner step, made by a small network from statistics of the layer: the form of ALFA (Baik et
al. 2020, arXiv:2011.00209, section 3.2), as a factor on learned sizes of MAML++ and without its weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from metagen.flat import Layers, Layout
from metagen.policies.agreement import agreement
from metagen.policies.mlp import hidden_layer, parts_of
from metagen.policies.policy import Gradient, Run, one_pass, sized_step
from metagen.policies.rules import RULES, State, safe_root
from metagen.policies.steps import LearnedStepsOptions
from metagen.seeding import torch_generator
from metagen.tasks.categories import PLACE, as_features

FEATURES = 10 + PLACE
OVERALL, NOVELTY = 1, 10
"""Which features are the agreement over the whole network, and how new the task looks."""
SHRUNK = 0.2
"""How far a size of one layer at one step follows what is learned of it alone: a step of Adam moves all parameters as
far, and these have the least to learn from."""
CLOCK = 10.0
"""Inner steps at which the clock is half-way."""


class AlfaOptions(LearnedStepsOptions):
    start_novelty: float = 0.3
    """Where the weight of the task's novelty starts, in nats a standard deviation above what is usual; of use with
    categories."""
    hidden: int = Field(16, ge=1)
    """Width of the hidden layer."""


class Alfa:
    """``parameters_l -= exp(log_size[l, j]) * rule(gradient)_l`` with, for features ``f`` of layer and step::

        log_size[l, j] = layer[l] + step[j] + 0.2 both[l, j] + weights . f + out . hidden(f)

    ``weights`` and the hidden layer are shared by all layers, so what is learned in one serves the others. The
    features: agreement of two halves of the support set, in the layer and overall; log RMS of the layer's parameters
    at theta and of its gradient, each standardised over the layers; how far the gradient has fallen since the first
    step; the cosine of the gradient with the sum of those before it; loss and log norm of the gradient at theta;
    log shots; a clock; how new the task looks, and its category, where tasks are sorted.
    """

    Options = AlfaOptions

    def __init__(self, options: AlfaOptions) -> None:
        self.options, self.rule = options, RULES[options.rule]()

    def initial(self, layout: Layout) -> Tensor:
        """The sizes of ``learned-steps``; a random hidden layer by a seed of its own, and an output of 0."""
        options, shapes = self.options, self._shapes(len(layout.layers))
        parts = {name: torch.zeros(shape) for name, shape in shapes.items()}
        parts["layer"][:] = math.log(options.step_size)
        parts["step"][:] = -options.decay * torch.linspace(0, 1, options.horizon)
        if options.features:
            parts["weights"][OVERALL], parts["weights"][NOVELTY] = options.start_weight, options.start_novelty
        parts["hidden"] = torch.randn(shapes["hidden"], generator=torch_generator("alfa policy"))
        return torch.cat([part.flatten() for part in parts.values()])

    def wants_halves(self, step: int) -> bool:
        return self.options.features

    def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
        parts, j = self._parts(run.vector.to(parameters), run.layers.count), min(step, self.options.horizon - 1)
        sizes = parts["layer"] + parts["step"][j] + SHRUNK * parts["both"][:, j]
        if self.options.features:
            seen = features(run.state, run.layers, parameters, gradient, step)
            hidden = hidden_layer(seen, parts["hidden"], parts["hidden_bias"])
            sizes = sizes + seen @ parts["weights"] + hidden @ parts["out"]
        direction = self.rule(run.state, gradient.mean, step, run.layers)
        return sized_step(run, self.options.rule, parameters, direction, sizes)

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        return one_pass(run, query)

    def describe(self, vector: Tensor, layout: Layout) -> dict[str, Tensor]:
        """Step sizes for features that are all 0, and how the features move them where the network is linear."""
        parts = self._parts(vector, len(layout.layers))
        log10 = (parts["layer"][:, None] + parts["step"][None] + SHRUNK * parts["both"]) / math.log(10)
        return {"log10_step_size": log10, "feature_weights": parts["weights"], "out": parts["out"]}

    def _shapes(self, layers: int) -> dict[str, tuple[int, ...]]:
        horizon, H = self.options.horizon, self.options.hidden
        return {
            "layer": (layers,),
            "step": (horizon,),
            "both": (layers, horizon),
            "weights": (FEATURES,),
            "hidden": (H, FEATURES),
            "hidden_bias": (H,),
            "out": (H,),
        }

    def _parts(self, vector: Tensor, layers: int) -> dict[str, Tensor]:
        return parts_of(vector, self._shapes(layers))


def features(state: State, layers: Layers, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
    """What sizes depend on: ``[L, FEATURES]``, each within a few units of 0. Gathers what it must in ``state``."""
    slope = gradient.mean
    level = _log_rms(slope, layers)
    if "level" not in state:  # the first step: what is known at theta
        state["level"] = level
        state["scale"] = _standardised(_log_rms(parameters, layers))
        state["loss"] = gradient.loss.to(slope).sign() * gradient.loss.to(slope).abs().log1p()
        state["norm"] = safe_root(slope @ slope).clamp_min(1e-12).log10() / 2
        state["sum"] = torch.zeros_like(slope)
    before = state["sum"]
    lengths = safe_root(layers.dot(before, before)) * safe_root(layers.dot(slope, slope))
    persistence = layers.dot(before, slope) / lengths.clamp_min(1e-30)
    state["sum"] = before + slope
    shots, clock = math.log(len(gradient.support)) / 2, math.tanh(step / CLOCK - 1)
    of_layer = [state["scale"], _standardised(level), state["level"] - level, persistence]
    of_task = [state["loss"], state["norm"], slope.new_tensor(shots), slope.new_tensor(clock)]
    shared = torch.cat([torch.stack(of_task), as_features(gradient.place).to(slope)]).expand(layers.count, -1)
    return torch.cat([agreement(state, layers, gradient), torch.stack(of_layer, dim=1), shared], dim=1)


def _log_rms(values: Tensor, layers: Layers) -> Tensor:
    """log10 of the root mean square of ``values [P]`` in each layer ``[L]``; -12 where all are 0."""
    return safe_root(layers.mean_square(values)).clamp_min(1e-12).log10()


def _standardised(values: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the layers, as far as they differ at all."""
    centred = values - values.mean()
    return centred / safe_root(centred.square().mean() + 1e-4)
