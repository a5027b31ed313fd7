from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from launch.preset import presets
from metagen import work
from metagen.config import RunConfig
from metagen.flat import FlatNetwork
from metagen.generators import REGISTRY, Condition
from metagen.problem import Problem
from metagen.seeding import torch_generator
from metagen.values import override, read_yaml

TASKS, SHOTS, QUERIES = 2, 3, 2


def preset_of(family: str) -> dict[str, Any]:
    """The preset of a family: the one of its name, or the shortest name that uses it."""
    found = {name: values for name, path in presets().items() if (values := read_yaml(path))}
    using = [name for name, values in found.items() if values["generator"]["family"] == family]
    assert using, f"family {family} has no preset"
    return found[family if family in using else min(using, key=len)]


@dataclass(frozen=True)
class Case:
    """A small problem of one family, at weights away from their zeros, with images to take losses of."""

    config: RunConfig
    problem: Problem
    theta: Tensor
    condition: Condition
    images: Tensor

    def losses(self, seed: int = 0) -> Tensor:
        return self.problem.loss(self.theta, self.condition, self.images, torch_generator("draw", seed))

    def scores(self, seed: int = 0) -> Tensor:
        return self.problem.scores(self.theta, self.condition, self.images, torch_generator("draw", seed))

    def gradient(self, seed: int = 0) -> tuple[float, Tensor]:
        return self.problem.gradient(self.theta, self.condition, self.images, torch_generator("draw", seed))

    def samples(self, count: int = 2, seed: int = 0) -> Tensor:
        self.problem.network.load(self.theta)
        network = self.problem.network.module
        return self.problem.family.sample(network, self.condition, count, torch_generator("sample", seed))


@pytest.fixture(scope="session")
def family_config(tiny_config: Any) -> Callable[..., RunConfig]:
    """The tiny run with the generator of a family's preset, made small; changed as with ``--set``."""

    def make(family: str, *assignments: str) -> RunConfig:
        generator = preset_of(family)["generator"]
        generator["architecture"] |= {"widths": [32, 32], "embedding": 16, "attention": False}
        options = getattr(REGISTRY[family], "Options", None)
        if options and "sample_steps" in options.model_fields:
            generator["options"] = {**generator.get("options", {}), "sample_steps": 3}
        values = tiny_config().model_dump(mode="json")
        return RunConfig.parse(override({**values, "generator": generator}, assignments))

    return make


@pytest.fixture(scope="session")
def case(family_config: Callable[..., RunConfig]) -> Callable[..., Case]:
    """``case("flow", "data.channels=3")``: a problem of a family."""

    def make(family: str, *assignments: str, dtype: torch.dtype = torch.float32) -> Case:
        config = family_config(family, *assignments)
        kind = config.family()
        network = FlatNetwork(work.initialised(kind, 0).to(dtype), torch.device("cpu"), dtype)
        theta = network.initial + 0.05 * torch.randn(network.layout.size, generator=torch_generator("weights"))
        form = (kind.channels, kind.image_size, kind.image_size)
        rng = torch_generator("images")
        support = torch.rand(TASKS, SHOTS, *form, generator=rng) * 2 - 1
        images = torch.rand(TASKS * QUERIES, *form, generator=rng) * 2 - 1
        return Case(config, Problem(kind, network, 1), theta, Condition.of_tasks(support), images)

    return make
