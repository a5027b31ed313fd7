"""A learned optimiser: a small network that turns what each parameter has seen of its gradient into its step
(Metz et al. 2022, arXiv:2203.11860, the per-parameter network of its section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from metagen.flat import Layers, Layout
from metagen.policies.mlp import hidden_layer, parts_of
from metagen.policies.policy import Gradient, Run, later
from metagen.policies.rules import Adam, State, safe_root
from metagen.seeding import torch_generator
from metagen.strict import Strict

DECAYS = (0.5, 0.9, 0.99)
"""Of the averages of the gradient that the network sees."""
TIMES = (3.0, 10.0, 30.0)
"""Inner steps at which its clocks are half-way."""
FEATURES = 4 + len(DECAYS) + len(TIMES)
SMALLEST = 1e-10
"""Root mean squares below this count as 0: a layer that has no gradient is not to be blown up."""


class LearnedOptimiserOptions(Strict):
    step_size: float = Field(3e-5, gt=0)
    """Where the step size starts: before anything is learned the optimiser is Adam with it."""
    hidden: int = Field(8, ge=1)
    """Width of the hidden layer."""
    strength: float = Field(0.1, gt=0)
    """How far a change of size 1 in what the network says changes a step: in nats, and in steps of Adam."""


class LearnedOptimiser:
    """For every parameter, with ``u`` Adam's direction and ``(d, m)`` what the network says of its features::

        phi -= size * exp(strength * m) * (u + strength * d)

    The features are the gradient, averages of it over three spans, the inverse root of its second moment and the
    parameter itself, each over its root mean square in the layer, Adam's direction, and three clocks. So nothing
    depends on the scale of the loss, and the network, which all parameters share, has as many parameters for one
    generator as for another.
    """

    Options = LearnedOptimiserOptions

    def __init__(self, options: LearnedOptimiserOptions) -> None:
        self.options, self.adam, H = options, Adam(), options.hidden
        self.shapes = {"size": (1,), "hidden": (H, FEATURES), "hidden_bias": (H,), "out": (2, H), "out_bias": (2,)}

    def initial(self, layout: Layout) -> Tensor:
        """Log step size, a random hidden layer by a seed of its own, and an output of 0."""
        parts = {name: torch.zeros(shape) for name, shape in self.shapes.items()}
        parts["size"][:] = math.log(self.options.step_size)
        parts["hidden"] = torch.randn(self.shapes["hidden"], generator=torch_generator("learned optimiser"))
        return torch.cat([part.flatten() for part in parts.values()])

    def wants_halves(self, step: int) -> bool:
        return False

    def step(self, run: Run, parameters: Tensor, gradient: Gradient, step: int) -> Tensor:
        parts, strength = parts_of(run.vector.to(parameters), self.shapes), self.options.strength
        direction = self.adam(run.state, gradient.mean, step, run.layers)
        seen = self._features(run.state, run.layers, parameters, gradient.mean, direction, step)
        said = hidden_layer(seen, parts["hidden"], parts["hidden_bias"]) @ parts["out"].T + parts["out_bias"]
        change, magnitude = (strength * said).unbind(1)
        move = (parts["size"] + magnitude).exp() * (direction + change)
        run.took("learned", log_rms(move.detach(), run.layers))
        if run.traced:
            run.directions.append(move)
            move = move.detach()
        return parameters - move

    def hypergradient(self, run: Run, query: Sequence[tuple[int, Tensor]]) -> Tensor:
        """One pass, Jacobians of later steps dropped: ``- sum_j d <sum_{k > j} w_k grad L_Q(phi_k), move_j> / d g``."""
        total = torch.zeros_like(run.vector)
        for j, slope in later(query, len(run.directions)):
            (moved,) = torch.autograd.grad(run.directions[j], run.vector, slope)
            total = total - moved
        return total

    def describe(self, vector: Tensor, layout: Layout) -> dict[str, Tensor]:
        parts = parts_of(vector, self.shapes)
        return {"log10_step_size": parts["size"] / math.log(10), "learned_output": parts["out"]}

    def _features(
        self, state: State, layers: Layers, parameters: Tensor, gradient: Tensor, direction: Tensor, step: int
    ) -> Tensor:
        """``[P, F]``."""
        columns = [gradient, parameters]
        for decay in DECAYS:
            name = f"average {decay}"
            last = state[name] if name in state else torch.zeros_like(gradient)
            state[name] = torch.lerp(gradient, last, decay)
            columns.append(state[name])
        columns.append(1 / safe_root(state["second"] + SMALLEST**2))
        columns = [_over_rms(column, layers) for column in columns]
        clocks = [torch.full_like(gradient, math.tanh(step / time - 1)) for time in TIMES]
        return torch.stack([*columns, direction, *clocks], dim=1)


def log_rms(values: Tensor, layers: Layers) -> Tensor:
    """Log of the root mean square of ``values [P]`` in each layer: ``[L]``."""
    return safe_root(layers.mean_square(values)).log()


def _over_rms(values: Tensor, layers: Layers) -> Tensor:
    """``values [P]`` over their root mean square in each layer."""
    rms = log_rms(values, layers).exp()
    return values / layers.spread(rms.clamp_min(SMALLEST))
