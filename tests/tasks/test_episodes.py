from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from metagen.errors import UserError
from metagen.seeding import torch_generator
from metagen.tasks.episodes import sample_classes, sample_episode, to_float, to_uint8


def _identities(images: torch.Tensor) -> list[int]:
    return to_uint8(images)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_support_and_query_are_disjoint_and_of_one_class(tiny_set: Any, seed: int) -> None:
    images = tiny_set(counts=(6, 9, 3))
    episode = sample_episode(images, 1, 4, 5, torch_generator(seed))
    assert episode.support.shape == (4, 1, 8, 8)
    assert episode.query.shape == (5, 1, 8, 8)
    assert sorted(_identities(episode.support) + _identities(episode.query)) == list(range(6, 15))
    assert (episode.class_name, episode.index) == ("class1", 1)
    assert episode.support.dtype == torch.float32


def test_one_seed_gives_one_episode_and_seeds_differ(tiny_set: Any) -> None:
    images = tiny_set(counts=(20, 6, 3))
    first, again, other = (sample_episode(images, 0, 5, 5, torch_generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.support, again.support)
    assert torch.equal(first.query, again.query)
    assert not torch.equal(first.support, other.support)


def test_sampling_leaves_the_global_generator_and_the_images_alone(tiny_set: Any) -> None:
    images = tiny_set()
    pixels, state = images.images.copy(), torch.get_rng_state()
    episode = sample_episode(images, 0, 1, 1, torch_generator(0))
    sample_classes(images, "all", 2, 1, torch_generator(0))
    episode.support.zero_()
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(images.images, pixels)


def test_a_class_that_is_too_small_is_a_user_error(tiny_set: Any) -> None:
    with pytest.raises(UserError, match="'class2' has 3 images, fewer than 2 shots \\+ 2 queries"):
        sample_episode(tiny_set(), 2, 2, 2, torch_generator(0))
    with pytest.raises(UserError, match="at least 1 shot"):
        sample_episode(tiny_set(), 2, 0, 2, torch_generator(0))


def test_classes_repeat_only_if_there_are_too_few(tiny_set: Any) -> None:
    images = tiny_set(counts=(4, 4, 4, 4, 4, 1), split=(0, 0, 0, 0, 1, 0))
    for seed in range(20):
        assert sorted(sample_classes(images, "train", 4, 2, torch_generator(seed))) == [0, 1, 2, 3]
        assert set(sample_classes(images, "train", 9, 2, torch_generator(seed))) <= {0, 1, 2, 3}
    draws = [sample_classes(images, "train", 3, 2, torch_generator(seed)) for seed in (5, 5)]
    assert draws[0] == draws[1]
    assert len(sample_classes(images, "train", 9, 2, torch_generator(0))) == 9


def test_a_split_without_a_large_enough_class_says_the_fix(tiny_set: Any) -> None:
    with pytest.raises(UserError, match=r"no class in split 'test' has 5 images.*largest has 3: lower shots"):
        sample_classes(tiny_set(), "test", 1, 5, torch_generator(0))
    with pytest.raises(UserError, match=r"no classes in split 'valid' \(made here\): add classes"):
        sample_classes(tiny_set(split=(0, 0, 2)), "valid", 1, 1, torch_generator(0))


def test_floats_and_bytes_are_inverse() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    levels.flags.writeable = False
    floats = to_float(levels)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert np.array_equal(to_uint8(floats), levels)
    assert np.array_equal(to_uint8(floats.double().requires_grad_()), levels)


def test_bytes_are_rounded_and_clamped_and_nan_is_refused() -> None:
    assert to_uint8(torch.tensor([-5.0, 5.0, 0.001, float("inf")])).tolist() == [0, 255, 128, 255]
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([float("nan")]))
