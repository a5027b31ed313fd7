"""The inner loop as other libraries have it, on metagen's own networks and losses: what inner_loop.py compares with.

Every peer is written as its documentation shows, and is given what makes it faster without changing what it computes:
images in channels_last, fused Adam where PyTorch has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import higher
import torch
import torchopt
from torch import Tensor, nn
from torch.func import functional_call

from metagen.generators.family import Condition, Draw, Family
from metagen.problem import Problem
from metagen.tasks.episodes import Episode

Look = tuple[Condition, Tensor, Draw]
"""What one loss is taken of: the condition, the images, the noise."""


@dataclass(frozen=True)
class Task:
    """One task with all its noise drawn."""

    steps: list[Look]
    query: Look

    @staticmethod
    def of(problem: Problem, episode: Episode, steps: int, query_draws: int, rng: torch.Generator) -> Task:
        """The very numbers that ``metagen.adapt`` and ``Query`` draw from ``rng``."""
        bank = torch.Generator()
        bank.set_state(rng.get_state())
        device, draw = problem.network.device, problem.family.draw

        def look(condition: Condition, images: Tensor, copies: int, noise: torch.Generator) -> Look:
            images = images.repeat_interleave(copies, dim=0).to(device)
            numbers = {name: value.to(device) for name, value in draw(len(images), noise).items()}
            return Condition(condition.support.to(device), condition.members.to(device)), images, numbers

        query = look(Condition.of_tasks(episode.support[None]), episode.query, query_draws, bank)
        shown = Condition.leave_one_out(episode.support)
        return Task([look(shown, episode.support, problem.draws, rng) for _ in range(steps)], query)


class Loss(nn.Module):
    """A family's mean loss as the output of a module, for libraries that patch a module's forward."""

    def __init__(self, family: Family, network: nn.Module) -> None:
        super().__init__()
        self.family, self.network = family, network

    def forward(self, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        return self.family.losses(self.network, condition, images, draw).mean()


Result = tuple[list[float], list[Tensor]]
"""Support losses before each step and the query loss after the last; gradient of the query loss, a tensor each."""

Peer = Callable[[Loss, Task, str, float, bool], Result]
"""``(loss, task, rule, step size, second order) -> result``; the module's parameters are left as they were."""


def plain(loss: Loss, task: Task, rule: str, size: float, second_order: bool) -> Result:
    """PyTorch alone: torch.optim on the module for first order, functional_call and create_graph for second."""
    parameters = dict(loss.named_parameters())
    if second_order:
        return _functional(loss, parameters, task, rule, size)
    return _in_place(loss, task, _optimiser(list(parameters.values()), rule, size))


def _in_place(loss: Loss, task: Task, optimiser: Any) -> Result:
    """First order: steps of an optimiser on the module itself, whose parameters are put back at the end."""
    parameters = list(loss.parameters())
    kept = [p.detach().clone() for p in parameters]
    curve = []
    for look in task.steps:
        optimiser.zero_grad()
        value = loss(*look)
        value.backward()
        optimiser.step()
        curve.append(value.detach())
    value = loss(*task.query)
    slopes = torch.autograd.grad(value, parameters)
    with torch.no_grad():
        torch._foreach_copy_(parameters, kept)
    return [float(x.detach()) for x in [*curve, value]], list(slopes)


def _functional(loss: Loss, parameters: dict[str, nn.Parameter], task: Task, rule: str, size: float) -> Result:
    phi: dict[str, Tensor] = dict(parameters)
    means = {name: torch.zeros_like(p) for name, p in phi.items()}
    squares = {name: torch.zeros_like(p) for name, p in phi.items()}
    curve = []
    for k, look in enumerate(task.steps):
        value = functional_call(loss, phi, look)
        slopes = dict(zip(phi, torch.autograd.grad(value, list(phi.values()), create_graph=True), strict=True))
        curve.append(value.detach())
        if rule == "sgd":
            phi = {name: p - size * slopes[name] for name, p in phi.items()}
            continue
        means = {name: 0.9 * m + 0.1 * slopes[name] for name, m in means.items()}
        squares = {name: 0.999 * v + 0.001 * slopes[name] ** 2 for name, v in squares.items()}
        first, second = 1 - 0.9 ** (k + 1), 1 - 0.999 ** (k + 1)
        phi = {
            name: p - size * (means[name] / first) / ((squares[name] / second).clamp_min(1e-38).sqrt() + 1e-8)
            for name, p in phi.items()
        }
    value = functional_call(loss, phi, task.query)
    slopes = torch.autograd.grad(value, list(parameters.values()))
    return [float(x.detach()) for x in [*curve, value]], list(slopes)


def higher_loop(loss: Loss, task: Task, rule: str, size: float, second_order: bool) -> Result:
    """higher (Grefenstette et al. 2019, arXiv:1910.01727): ``innerloop_ctx``."""
    optimiser = _optimiser(list(loss.parameters()), rule, size, fused=False)
    curve = []
    with higher.innerloop_ctx(loss, optimiser, copy_initial_weights=False, track_higher_grads=second_order) as (
        patched,
        steps,
    ):
        for look in task.steps:
            value = patched(*look)
            steps.step(value)
            curve.append(value.detach())
        value = patched(*task.query)
        at = list(loss.parameters()) if second_order else list(patched.parameters())
        slopes = torch.autograd.grad(value, at)
    return [float(x.detach()) for x in [*curve, value]], list(slopes)


def torchopt_loop(loss: Loss, task: Task, rule: str, size: float, second_order: bool) -> Result:
    """TorchOpt (Ren et al. 2022, arXiv:2211.06934): ``MetaSGD``/``MetaAdam``, or for first order ``SGD``/``Adam``."""
    if not second_order:
        plainly = torchopt.SGD if rule == "sgd" else torchopt.Adam
        return _in_place(loss, task, plainly(loss.parameters(), lr=size))
    curve = []
    leaves = list(loss.parameters())
    kept_state = torchopt.extract_state_dict(loss, by="reference")
    meta: Any = torchopt.MetaSGD(loss, lr=size) if rule == "sgd" else torchopt.MetaAdam(loss, lr=size, eps_root=1e-38)
    for look in task.steps:
        value = loss(*look)
        meta.step(value)
        curve.append(value.detach())
    value = loss(*task.query)
    slopes = torch.autograd.grad(value, leaves)
    torchopt.recover_state_dict(loss, kept_state)
    return [float(x.detach()) for x in [*curve, value]], list(slopes)


def _optimiser(parameters: Sequence[nn.Parameter], rule: str, size: float, fused: bool = True) -> torch.optim.Optimizer:
    kind = torch.optim.SGD if rule == "sgd" else torch.optim.Adam
    return kind(parameters, lr=size, fused=fused or None)


PEERS: dict[str, Peer] = {"PyTorch": plain, "higher": higher_loop, "TorchOpt": torchopt_loop}
