"""The ways to adapt that inner_loop.py compares: metagen's own, and its peers', on one task or several."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from peers import PEERS, Loss, Task
from torch import Tensor

from launch.preset import load_config
from metagen import tasks, work
from metagen.adapt import adapt
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.algorithms.maml import Maml, MamlOptions
from metagen.policies import Run
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.problem import Problem
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode, sample_episode

GENERATORS: dict[str, list[str]] = {
    "conv": [],
    "conv, full resolution": ["patch=1", "widths=[32,64]", "set_conditioning=none"],
    "attention": ["attention=[false,true]"],
    "mlp": ["network=mlp", "patch=1", "skips=false", "widths=[64,64]", "embedding=64", "set_conditioning=vector"],
}
"""Architectures by what they differ in from the quickstart's."""
STEP_SIZES = {"sgd": 1e-2, "adam": 1e-3}


@dataclass(frozen=True)
class Contender:
    """One way to get the meta-gradient of tasks."""

    name: str
    dtype: str
    tasks: int
    """Tasks that one call adapts to."""
    run: Callable[[], Tensor]
    """The meta-gradient ``[P]``."""
    curve: Callable[[], list[float]]
    """Support losses before each step and the query loss after the last, of the first task."""


@dataclass(frozen=True)
class Setting:
    """What all contenders share: network, tasks, rule."""

    generator: str
    steps: int
    rule: str
    device: str

    def problem(self, dtype: str) -> Problem:
        """The generator in one precision, with two noise draws of each of five images: batches of 10."""
        changes = [f"generator.architecture.{change}" for change in GENERATORS[self.generator]]
        changes += [f"precision={dtype}", f"device={self.device}", "episode.draws=2"]
        return work.build_problem(load_config("quickstart", changes, None, None))

    def episodes(self, count: int) -> list[Episode]:
        """Five images to adapt to, ten to be judged by."""
        config = load_config("quickstart", [], None, None)
        images, rng = tasks.load(config.data), torch_generator("inner loop", "images")
        classes = images.members("train", 15)[:count]
        return [sample_episode(images, int(index), 5, 10, rng) for index in classes]

    def theta(self, problem: Problem) -> Tensor:
        """Away from the initialisation, where layers of zeros hide all that lies before them."""
        noise = torch.randn(problem.network.layout.size, generator=torch_generator("inner loop", "theta"))
        return (problem.network.initial + 0.02 * noise).to(problem.network.device)


def noise(task: int) -> torch.Generator:
    """The noise of a task, the same for every contender."""
    return torch_generator("inner loop", "noise", task)


def ours(setting: Setting, second_order: bool, together: tuple[int, ...]) -> list[Contender]:
    """metagen's estimators in both precisions, by every path."""
    found = []
    query = FomamlOptions(query_at={setting.steps: 1.0}, query_draws=1)
    policy = Fixed(FixedOptions(rule=setting.rule, step_size=STEP_SIZES[setting.rule]))
    for dtype in ("fp32", "bf16"):
        problem = setting.problem(dtype)
        kinds: dict[str, tuple[Any, int]] = {"loop": (Fomaml(query), 1)}
        kinds |= {f"{count} tasks at once": (Fomaml(query), count) for count in together}
        if second_order:
            kinds = {}
            for by in ("adjoint", "unroll"):
                # bf16 in second derivatives only where they stand it (MamlOptions.derivative).
                derivative = "network" if setting.rule == "sgd" else "fp32"
                options = {**query.model_dump(), "by": by, "derivative": derivative}
                kinds[by] = (Maml(MamlOptions(**options)), 1)
        for kind, (estimator, count) in kinds.items():
            found.append(_ours(setting, replace(problem, together=count), policy, estimator, kind, dtype, count))
    return found


def _ours(
    setting: Setting, problem: Problem, policy: Fixed, estimator: Any, kind: str, dtype: str, count: int
) -> Contender:
    theta, episodes, vector = setting.theta(problem), setting.episodes(count), torch.zeros(0)

    def run() -> Tensor:
        noises = [noise(task) for task in range(count)]
        gradient: Tensor = estimator.estimate(problem, theta, policy, vector, episodes, noises).gradient
        return gradient

    def curve() -> list[float]:
        walk = Run(vector, problem.network.layers)
        steps = list(adapt(problem, theta, episodes[0].support, policy, walk, setting.steps, noise(0)))
        task = Task.of(problem, episodes[0], 0, 1, noise(0))
        return [step.support_loss for step in steps[1:]] + [
            float(problem.loss(steps[-1].parameters, *task.query).mean())
        ]

    return Contender(f"metagen, {kind}", dtype, count, run, curve)


def theirs(setting: Setting, second_order: bool) -> list[Contender]:
    """Every peer in float32, and under autocast to bf16."""
    problem = setting.problem("fp32")
    layout, theta = problem.network.layout, setting.theta(problem)
    network = problem.family.build().to(problem.network.device)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(layout.unflatten(theta)[name])
    loss = Loss(problem.family, network)
    episode = setting.episodes(1)[0]
    found = []
    for name, peer in PEERS.items():
        for dtype in ("fp32", "bf16"):

            def call(peer: Any = peer, dtype: str = dtype) -> Any:
                task = Task.of(problem, episode, setting.steps, 1, noise(0))
                # Weights change in place: autocast's cache of their casts would keep the old ones.
                with torch.autocast(problem.network.device.type, torch.bfloat16, dtype == "bf16", cache_enabled=False):
                    return peer(loss, task, setting.rule, STEP_SIZES[setting.rule], second_order)

            def run(call: Any = call) -> Tensor:
                return layout.flatten(dict(zip(layout.names, call()[1], strict=True)))

            def curve(call: Any = call) -> list[float]:
                return list(call()[0])

            found.append(Contender(name, dtype, 1, run, curve))
    return found
