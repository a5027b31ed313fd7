"""What the few-shot benchmark trains: a preset, and its rivals at as many image passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor, nn

from metagen import tasks, work
from metagen.config import RunConfig
from metagen.generators import Condition, Draw, Family
from metagen.learner import Learner
from metagen.state import initial_state
from metagen.tasks.categories import with_found
from metagen.values import override

UNCONDITIONED = ("generator.architecture.set_conditioning=none", "policy={name: fixed}", "categories={most: 0}")
FIGR = (
    "episode={shots: 2, queries: 2, draws: 1}",  # batches of 4
    "policy={name: fixed, options: {rule: sgd, step_size: 0.001}}",
)
FIGR_OUTER = "{optimizer: adam, learning_rate: 0.0001, warmup: 0, schedule: constant}"


@dataclass(frozen=True)
class Model:
    """One thing to train."""

    about: str
    candidates: Callable[[RunConfig], tuple[RunConfig, ...]]
    """Its configs for a preset's, of any number of steps. Of several, the best on validation classes is taken, each
    after a tenth of the training."""
    trained: bool = True


def _changed(config: RunConfig, *assignments: str) -> RunConfig:
    return RunConfig.parse(override(config.model_dump(mode="json"), assignments))


def _meta(config: RunConfig) -> tuple[RunConfig, ...]:
    return (config,)


def _conditioned(config: RunConfig) -> tuple[RunConfig, ...]:
    first = config.model_copy(update={"phases": config.phases[:1]})
    return (_changed(first, "policy={name: fixed}", "categories={most: 0}"),)


def _unconditioned(config: RunConfig) -> tuple[RunConfig, ...]:
    [config] = _conditioned(config)
    drop = ("phases.0.options={drop_condition: 0.0}",) if config.phases[0].estimator == "joint" else ()
    return (_changed(config, *UNCONDITIONED, *drop),)


def _reptile(config: RunConfig, outer: str, *assignments: str) -> RunConfig:
    phase = f"phases=[{{estimator: reptile, options: {{inner_steps: 10}}, items: 1, tasks: 1, outer: {outer}}}]"
    return _changed(config, phase, *UNCONDITIONED, *assignments)


def _reptile_figr(config: RunConfig) -> tuple[RunConfig, ...]:
    return (_reptile(config, FIGR_OUTER, *FIGR),)


def _reptile_tuned(config: RunConfig) -> tuple[RunConfig, ...]:
    outer = "{{optimizer: adam, learning_rate: {}, warmup: 10, clip: 10.0}}"
    return tuple(
        _reptile(config, outer.format(rate), f"policy={{name: fixed, options: {{rule: {rule}, step_size: {size}}}}}")
        for rule, size, rate in (
            ("sgd", 1e-2, 1e-3),
            ("sgd", 1e-1, 1e-3),
            ("adam", 1e-4, 1e-3),
            ("adam", 3e-4, 1e-3),
            ("adam", 3e-4, 3e-3),
        )
    )


MODELS: dict[str, Model] = {
    "meta": Model("the preset as it is", _meta),
    "conditioned": Model("its network, set-conditioned, by its first phase alone", _conditioned),
    "joint": Model("its network without a support set, by its first phase alone", _unconditioned),
    "reptile-figr": Model("the same network by Reptile at FIGR's settings", _reptile_figr),
    "reptile": Model("the same network by Reptile, tuned", _reptile_tuned),
    "scratch": Model("the same network at its initial weights", _unconditioned, trained=False),
}


class _Counter:
    """A family that counts the images whose losses are taken."""

    def __init__(self, family: Family) -> None:
        self.family, self.passed = family, 0

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        self.passed += len(images)
        return self.family.losses(network, condition, images, draw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.family, name)


def passes_of(config: RunConfig) -> float:
    """Images that go through the network and back in the whole training.

    Counted in one piece of work of each phase, so that it holds for any estimator.
    """
    images = tasks.load(config.data)
    config = with_found(config, images).model_copy(update={"precision": "fp32"})
    parts = work.build(config, images)
    counter = _Counter(parts.problem.family)
    parts = replace(parts, problem=replace(parts.problem, family=cast(Family, counter)))
    theta, layout = parts.problem.network.initial, parts.problem.network.layout
    snapshot = Learner(config, layout, initial_state(theta, parts.policy, layout)).snapshot()
    total, step = 0.0, 0
    for phase in config.phases:
        counter.passed = 0
        work.run(parts, work.plan(config, step, snapshot.version)[0], snapshot)
        total += float(counter.passed * phase.items * phase.steps)
        step += phase.steps
    return total


def at_equal_compute(config: RunConfig, passes: float) -> RunConfig:
    """``config`` in as many outer steps as take ``passes`` images; all of its phases are scaled alike."""
    once = config.with_steps(len(config.phases))
    return config.with_steps(max(len(config.phases), round(len(config.phases) * passes / passes_of(once))))
