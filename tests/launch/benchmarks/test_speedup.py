from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from launch.benchmarks.contenders import CONTENDERS, Contender, losses_at, tuned_sizes
from launch.benchmarks.speedup import Curve, curve, speed_up
from metagen.evaluate import Bench, Method, choose_classes
from metagen.seeding import torch_generator
from metagen.tasks import ImageSet

STEPS = (0, 1, 2, 10, 20)


@pytest.fixture
def bench(tiny_images: ImageSet) -> Bench:
    return Bench(tiny_images, choose_classes(tiny_images, "test", 3, 2, seed=0)[0], shots=3, seed=0)


@pytest.fixture
def start(new_learner: Any, tiny_config: Any) -> Method:
    learner, parts = new_learner(tiny_config())
    noise = torch.randn(learner.layout.size, generator=torch_generator("theta"))
    return Method(parts.problem, learner.state.theta + 0.05 * noise, parts.policy, learner.state.policy)


def _curve(*rows: list[float], seconds: float = 1.0) -> Curve:
    return Curve(np.array(rows), seconds)


def test_the_speed_up_is_the_ratio_of_steps_to_the_baselines_best_loss() -> None:
    base = _curve([5, 4, 3, 2.0, 1.0], [5, 4, 3, 2.0, 2.5])  # at its best after 20, and after 10
    meta = _curve([4, 3, 0.9, 0.8, 0.7], [4, 2, 1.5, 1, 1], seconds=2.0)  # as good after 2, and after 1
    found = speed_up(meta, base, STEPS)
    assert found["median_steps"]["median"] == 10  # of 20 / 2 and 10 / 1
    assert found["median_time"]["median"] == 5  # a step takes twice as long
    assert (found["censored"], found["already_at_start"], found["share_at_most_a_quarter"]) == (0, 0, 1.0)
    whole = found["of_mean_curves"]
    assert (whole["best_loss_of_baseline"], whole["baseline_steps"], whole["meta_steps"]) == (1.75, 20, 2)
    assert (whole["steps"], whole["time"]) == (10, 5)


def test_who_never_gets_there_is_censored_and_counts_as_the_whole_horizon() -> None:
    found = speed_up(_curve([5, 5, 5, 5, 5.0]), _curve([6, 5, 4, 6, 6.0]), STEPS)
    assert found["censored"] == 1
    assert found["median_steps"]["median"] == 2 / 20
    assert found["of_mean_curves"]["meta_steps"] is None
    assert found["of_mean_curves"]["steps"] is None


def test_who_is_there_at_the_start_counts_as_one_step() -> None:
    found = speed_up(_curve([1, 1, 1, 1, 1.0]), _curve([6, 5, 4, 6, 6.0]), STEPS)
    assert (found["already_at_start"], found["median_steps"]["median"]) == (1, 2)
    both = speed_up(_curve([1, 2, 3, 4, 5.0]), _curve([1, 2, 3, 4, 5.0]), STEPS)
    assert both["median_steps"]["median"] == 1


def test_a_curve_has_the_losses_of_the_bench_and_the_time_of_adaptation_alone(bench: Bench, start: Method) -> None:
    method = start.with_adam(1e-3)
    found = curve(bench, method, (0, 1, 3))
    assert np.array_equal(found.losses, bench.losses(method, (0, 1, 3)))
    assert found.seconds > 0


def test_the_size_that_is_tuned_is_the_best_of_the_grid(bench: Bench, start: Method) -> None:
    contender = Contender("", "meta", (1e-9, 1e-3, 3e-3))
    sizes = tuned_sizes(contender, start, bench, (2, 4))
    tables = {s: bench.losses(start.with_adam(s), (2, 4)).mean(0) for s in contender.sizes}
    for column, k in enumerate((2, 4)):
        assert tables[sizes[k]][column] == min(table[column] for table in tables.values())  # type: ignore[index]
    losses = losses_at(contender, start, bench, {2: 1e-9, 4: 1e-3}, (2, 4))
    assert np.array_equal(losses[:, 1], bench.losses(start.with_adam(1e-3), [4])[:, 0])
    own = tuned_sizes(CONTENDERS["meta"], start, bench, (2, 4))
    assert own == {2: None, 4: None}


def test_the_best_within_a_horizon_is_not_the_best_at_its_end(bench: Bench, start: Method) -> None:
    """A size that is far ahead early and diverges later wins, where its best loss counts."""
    contender = Contender("", "meta", (3e-2, 1e-6))
    horizon = (1, 2, 4, 30)
    losses = {s: bench.losses(contender.method(start, s), horizon).mean(0) for s in contender.sizes}
    best = min(losses, key=lambda size: losses[size].min())
    assert tuned_sizes(contender, start, bench, horizon, best_within=True)[30] == best


def test_film_and_head_alone_are_moved_where_only_they_are_adapted(bench: Bench, start: Method) -> None:
    method = CONTENDERS["joint-film"].method(start, 1e-2)
    layout = start.problem.network.layout
    [(_, after)] = method.adapted(bench.episode(bench.classes[0]).support, [2], torch_generator("x"))
    moved = {name: bool((part != 0).any()) for name, part in layout.unflatten(after - start.theta).items()}
    assert any(moved.values())
    assert all(".film." in name or name.startswith("out.") for name, part in moved.items() if part)
