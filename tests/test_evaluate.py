from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from metagen.checkpoint import load_checkpoint, save_checkpoint
from metagen.errors import UserError
from metagen.evaluate import (
    STEP_SIZES,
    Bench,
    Method,
    choose_classes,
    fine_tuned,
    generate,
    method_of,
    report,
    tune,
)
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.seeding import torch_generator
from metagen.tasks import ImageSet
from metagen.tasks.imageset import SPLITS


@pytest.fixture
def method(new_learner: Any, tiny_config: Any) -> Method:
    """An untrained network away from its zeros, with learned step sizes large enough to matter."""
    learner, parts = new_learner(tiny_config("policy.options.step_size=1e-2"))
    noise = torch.randn(learner.layout.size, generator=torch_generator("theta"))
    return Method(parts.problem, learner.state.theta + 0.05 * noise, parts.policy, learner.state.policy)


@pytest.fixture
def bench(tiny_images: ImageSet) -> Bench:
    return Bench(tiny_images, choose_classes(tiny_images, "test", 3, 3, seed=0)[0], shots=3, seed=0)


def test_the_same_call_gives_identical_numbers(bench: Bench, method: Method) -> None:
    first = bench.losses(method, [0, 1, 3])
    assert first.shape == (3, 3)
    assert np.array_equal(bench.losses(method, [0, 1, 3]), first)
    assert np.unique(first).size == first.size


def test_a_loss_does_not_depend_on_what_else_is_measured(bench: Bench, method: Method) -> None:
    """Neither on the other step counts, nor on the other classes, nor on the methods measured before."""
    whole = bench.losses(method, [0, 1, 3])
    bench.losses(method.with_adam(1e-3), [2])
    assert np.array_equal(bench.losses(method, [3])[:, 0], whole[:, 2])
    single = dataclasses.replace(bench, classes=bench.classes[1:2])
    assert np.array_equal(single.losses(method, [0, 1, 3])[0], whole[1])


def test_other_seeds_are_other_episodes_and_noise(bench: Bench, method: Method) -> None:
    other = dataclasses.replace(bench, seed=1)
    assert not np.array_equal(other.losses(method, [0]), bench.losses(method, [0]))


def test_all_methods_see_the_same_episodes_and_start_alike(bench: Bench, method: Method) -> None:
    """At no steps two policies on one starting point are one model: equal to the last bit."""

    class Watched(Method):
        seen: ClassVar[list[Tensor]] = []

        def adapted(self, support: Tensor, steps: Sequence[int], rng: torch.Generator) -> Iterator[tuple[int, Tensor]]:
            self.seen.append(support.clone())
            return super().adapted(support, steps, rng)

    tuned = method.with_adam(1e-3)
    losses = []
    for one in (method, tuned):
        losses.append(bench.losses(Watched(one.problem, one.theta, one.policy, one.vector), [0, 2]))
    assert all(torch.equal(a, b) for a, b in zip(Watched.seen[:3], Watched.seen[3:], strict=True))
    assert np.array_equal(losses[0][:, 0], losses[1][:, 0])
    assert not np.array_equal(losses[0][:, 1], losses[1][:, 1])
    assert isinstance(tuned.policy, Fixed)


def test_the_noise_bank_is_the_same_after_every_number_of_steps(bench: Bench, method: Method) -> None:
    """Steps too small to move anything leave the loss where it was, to the last bit."""
    still = dataclasses.replace(method, policy=Fixed(FixedOptions(rule="sgd", step_size=1e-30)), vector=torch.zeros(0))
    losses = bench.losses(still, [0, 1, 5])
    assert (losses == losses[:, :1]).all()


def test_an_evaluation_changes_nothing_of_the_method(bench: Bench, method: Method) -> None:
    theta, vector = method.theta.clone(), method.vector.clone()
    bench.losses(method, [0, 4])
    assert torch.equal(method.theta, theta)
    assert torch.equal(method.vector, vector)


def test_an_episode_is_support_and_query_of_one_unseen_class(bench: Bench, tiny_images: ImageSet) -> None:
    for index in bench.classes:
        episode = bench.episode(index)
        assert tiny_images.split[index] == SPLITS["test"]
        assert (episode.index, episode.class_name) == (index, tiny_images.classes[index])
        assert len(episode.support) == 3
        assert len(episode.query) == 13
        together = {image.numpy().tobytes() for image in (*episode.support, *episode.query)}
        assert len(together) == 16


@pytest.mark.parametrize(("split", "count"), [("test", 3), ("valid", 3), ("train", 8), ("all", 14)])
def test_classes_are_of_the_split_and_the_seed_chooses(tiny_images: ImageSet, split: str, count: int) -> None:
    everything, few = choose_classes(tiny_images, split, 3, 100, seed=0)
    assert len(everything) == count
    assert list(everything) == tiny_images.members(split, 1).tolist()
    assert few == []
    some = {choose_classes(tiny_images, split, 3, 2, seed)[0] for seed in range(20)}
    assert len(some) > 1
    assert choose_classes(tiny_images, split, 3, 2, 0) == choose_classes(tiny_images, split, 3, 2, 0)


def test_classes_with_too_few_images_are_named_or_refused(tiny_images: ImageSet) -> None:
    offsets = tiny_images.offsets.copy()
    offsets[-2] = offsets[-1] - 5  # the last class has 5 images, the one before it the rest
    uneven = dataclasses.replace(tiny_images, offsets=offsets)
    chosen, few = choose_classes(uneven, "test", 3, 10, seed=0)
    assert len(chosen) == 2
    assert few == ["class13"]
    with pytest.raises(UserError, match=r"no class in split 'test' has 105 images .*fewer --shots"):
        choose_classes(tiny_images, "test", 100, 10, seed=0)


def test_the_report_has_the_agreed_schema(bench: Bench) -> None:
    steps = [0, 5]
    rng = np.random.default_rng(0)
    meta, other = rng.random((3, 2)), rng.random((3, 2))
    methods = report(bench, {"meta": meta, "finetune": other}, steps)
    names = [bench.images.classes[index] for index in bench.classes]
    assert set(methods) == {"meta", "finetune"}
    for name, table in (("meta", meta), ("finetune", other)):
        losses = methods[name]["query_loss"]
        assert list(losses) == ["0", "5"]
        for column, step in enumerate(losses.values()):
            assert step["per_class"] == dict(zip(names, table[:, column].tolist(), strict=True))
            assert step["mean"] == pytest.approx(table[:, column].mean())
            assert step["low"] <= step["mean"] <= step["high"]
    paired = methods["finetune"]["meta_minus_this"]
    assert paired["5"]["mean"] == pytest.approx((meta - other)[:, 1].mean())
    assert "meta_minus_this" not in methods["meta"]


def test_fine_tuning_uses_the_best_step_size_of_the_grid_for_each_number_of_steps(
    bench: Bench, method: Method, tiny_images: ImageSet
) -> None:
    steps = [1, 4]
    tuning = Bench(tiny_images, choose_classes(tiny_images, "valid", 3, 2, seed=0)[0], shots=3, seed=0)
    sizes = tune(tuning, method, steps)
    table = {size: tuning.losses(method.with_adam(size), steps).mean(0) for size in STEP_SIZES}
    for column, step in enumerate(steps):
        assert table[sizes[step]][column] == min(losses[column] for losses in table.values())
    losses = fine_tuned(bench, method, {1: 1e-5, 4: 1e-3}, steps)
    assert np.array_equal(losses[:, 0], bench.losses(method.with_adam(1e-5), [1])[:, 0])
    assert np.array_equal(losses[:, 1], bench.losses(method.with_adam(1e-3), [4])[:, 0])


def test_generated_images_depend_on_the_seed_the_support_and_the_steps(bench: Bench, method: Method) -> None:
    episode = bench.episode(bench.classes[0])

    def made(support: Tensor, steps: int, seed: int) -> Tensor:
        return generate(method, support, steps, 2, seed, "a class")

    first = made(episode.support, 0, 0)
    assert first.shape == (2, 1, 16, 16)
    assert first.abs().max() <= 1
    assert torch.equal(made(episode.support, 0, 0), first)
    assert not torch.equal(made(episode.support, 0, 1), first)
    assert not torch.equal(made(-episode.support, 0, 0), first)
    assert not torch.equal(made(episode.support, 3, 0), first)


def test_samples_of_another_shape_than_asked_for_are_an_error(
    bench: Bench, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, support = method.problem.family, bench.episode(bench.classes[0]).support
    sample = family.sample
    monkeypatch.setattr(family, "sample", lambda *given: sample(*given)[0])  # without the groups
    with pytest.raises(UserError, match=r"Flow.sample gave a tensor \[2, 1, 16, 16\], not \[1, 2, 1, 16, 16\]"):
        generate(method, support, 0, 2, 0, "a class")


def test_a_checkpoint_is_evaluated_at_its_running_mean(tiny_config: Any, new_learner: Any, tmp_path: Any) -> None:
    learner, _ = new_learner(tiny_config())
    mean = learner.state.mean + 1
    learner.state = dataclasses.replace(learner.state, mean=mean)
    save_checkpoint(tmp_path / "c", learner.config, learner.layout, learner.state)
    method = method_of(load_checkpoint(tmp_path / "c"))
    assert torch.equal(method.theta, mean)
    assert torch.equal(method.vector, learner.state.policy)
