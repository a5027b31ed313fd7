from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metagen import work
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.seeding import torch_generator
from metagen.tasks import ImageSet
from metagen.tasks.categories import PLACE, Place, Sorter, as_features, find_categories, with_found
from metagen.tasks.config import MOST_CATEGORIES, Categories, CategoriesConfig
from metagen.tasks.drawing import class_weights
from metagen.tasks.embedding import SIZE
from metagen.tasks.episodes import sample_classes, sample_episode
from metagen.tasks.imageset import offsets_of

PLANTED = {"left": 12, "right": 4, "all": 8}
"""Kinds of image that look unlike each other, with the number of classes of each."""


@pytest.fixture(scope="module")
def planted() -> ImageSet:
    """Classes whose ink lies on the left, on the right, or everywhere; every third for validation."""
    rng, each = np.random.default_rng(0), 8
    kinds = [kind for kind, count in PLANTED.items() for _ in range(count)]
    images = rng.integers(0, 40, (len(kinds), each, 1, 16, 16))
    for mine, kind in zip(images, kinds, strict=True):
        mine[:, :, :, {"left": slice(0, 8), "right": slice(8, 16), "all": slice(0, 16)}[kind]] += 180
    names = tuple(f"{kind}{i}" for i, kind in enumerate(kinds))
    split = np.array([i % 3 == 2 for i in range(len(kinds))], dtype=np.uint8)
    pixels = images.reshape(-1, 1, 16, 16).astype(np.uint8)
    return ImageSet("planted", pixels, offsets_of([each] * len(kinds)), names, ("",) * len(kinds), split, "made here")


@pytest.fixture(scope="module")
def found(planted: ImageSet) -> Categories:
    return find_categories(planted, shots=3, most=6, seed=0)


def test_the_silhouette_finds_as_many_categories_as_were_planted(planted: ImageSet, found: Categories) -> None:
    """And every task, of a class never seen as well, gets that of its kind."""
    sorter, of_kind = Sorter(found), {}
    assert sorter.count == len(PLANTED)
    for index, name in enumerate(planted.classes):
        episode = sample_episode(planted, index, 3, 2, torch_generator(index))
        of_kind.setdefault(name.rstrip("0123456789"), set()).add(sorter.category(episode.support))
    assert sorted(of_kind.values(), key=min) == [{0}, {1}, {2}]
    assert of_kind["left"] == {0}, "the largest comes first"
    whole = sorter.of_classes(planted, range(len(planted.classes)))
    assert all(of_kind[name.rstrip("0123456789")] == {c} for name, c in zip(planted.classes, whole, strict=True))


def test_sets_that_are_not_scored_leave_no_category_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One odd class among many: whether its few sets are among those that the silhouette is taken over is chance."""
    monkeypatch.setattr("metagen.tasks.categories.MOST_SCORED", 20)
    rng, classes = np.random.default_rng(0), 40
    images = rng.integers(0, 30, (classes * 4, 1, 8, 8)).astype(np.uint8)
    images[:4] += 200
    names, split = tuple(f"c{i}" for i in range(classes)), np.zeros(classes, dtype=np.uint8)
    odd = ImageSet("odd", images, offsets_of([4] * classes), names, ("",) * classes, split, "made here")
    for seed in range(4):
        assert len(find_categories(odd, shots=2, most=2, seed=seed).centroids) == 2


def test_categories_depend_on_images_and_seed_alone(planted: ImageSet, found: Categories) -> None:
    assert find_categories(planted, 3, 6, 0) == found
    assert find_categories(planted, 3, 6, 1) != found
    unseen = np.flatnonzero(planted.split == 1)
    pixels = planted.images.copy()
    for index in unseen:
        pixels[planted.offsets[index] : planted.offsets[index + 1]] = 7
    assert find_categories(dataclasses.replace(planted, images=pixels), 3, 6, 0) == found, "only training classes count"


def test_they_travel_as_values_in_the_config(planted: ImageSet, tiny_config: Any) -> None:
    """What is read from YAML sorts as what was found, and what holds them is not searched again."""
    config: RunConfig = with_found(tiny_config("categories.most=6"), planted)
    import yaml

    again = RunConfig.parse(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert again.categories.found == find_categories(planted, config.episode.shots, 6, config.seed)
    assert with_found(again, planted) is again
    assert work.build_problem(again).sorter is not None
    assert work.build_problem(tiny_config()).sorter is None
    with pytest.raises(ValueError, match=r"categories\.found: empty: call metagen\.tasks\.categories\.with_found"):
        work.build(tiny_config("categories.most=6"), planted)


def test_balance_draws_categories_alike_and_classes_alike_within_them(planted: ImageSet, found: Categories) -> None:
    sorter, at_least, draws = Sorter(found), 5, 4000
    members = planted.members("train", at_least)
    of = dict(zip(members.tolist(), sorter.of_classes(planted, members).tolist(), strict=True))
    sizes = np.bincount(list(of.values()))
    for balance in (1.0, 0.5):
        weights = class_weights(planted, sorter, balance, at_least)
        drawn = sample_classes(planted, "train", draws, at_least, torch_generator("draws"), weights)
        assert set(drawn) <= set(of)
        expected = sizes ** (1 - balance) / (sizes ** (1 - balance)).sum()
        assert np.bincount([of[i] for i in drawn]) / draws == pytest.approx(expected, abs=0.03)
        smallest = [i for i in drawn if of[i] == len(sizes) - 1]
        shares = np.unique(smallest, return_counts=True)[1] / len(smallest)
        assert shares == pytest.approx(1 / sizes[-1], abs=0.06)
    assert class_weights(planted, sorter, 0.0, at_least) is None
    assert class_weights(planted, None, 1.0, at_least) is None


def test_a_phase_with_balance_draws_by_it(planted: ImageSet, tiny_config: Any) -> None:
    config: RunConfig = tiny_config("categories.most=6", "phases.0.balance=1.0", "phases.0.tasks=200")
    parts = work.build(with_found(config, planted), planted)
    balanced, plain = parts.drawings
    expected = class_weights(planted, parts.problem.sorter, 1.0, config.episode.shots + config.episode.queries)
    assert balanced.weights is not None
    assert np.array_equal(balanced.weights, expected)
    assert plain.weights is None
    drawn = [episode.index for episode in balanced.episodes(work.plan(config, 0, 0)[0])]
    one_of_three = planted.index_of("right12")
    assert np.mean([index == one_of_three for index in drawn]) == pytest.approx(1 / 3 / 3, abs=0.05)


@given(st.integers(0, MOST_CATEGORIES - 1), st.floats(-9, 9))
def test_as_a_feature_a_place_is_its_novelty_above_the_usual_and_one_at_its_category(
    category: int, novelty: float
) -> None:
    seen = as_features(Place(category, novelty))
    assert float(seen[0]) == pytest.approx(0 if novelty < 1 else 2 if novelty > 3 else novelty - 1, abs=1e-6)
    assert seen[1:].tolist() == [float(i == category) for i in range(MOST_CATEGORIES)]
    assert not as_features(None).any()


def test_what_looks_unlike_training_is_new_and_what_looks_like_it_is_not(planted: ImageSet, found: Categories) -> None:
    sorter = Sorter(found)
    own = [sample_episode(planted, i, 3, 2, torch_generator(i)).support for i in planted.members("valid")]
    assert all(abs(sorter.place(support).novelty) < 3 for support in own)
    noise = torch.randn(3, 1, 16, 16, generator=torch_generator("noise")).sign()
    assert sorter.place(noise).novelty > 3


def test_too_little_to_sort_is_one_line(tiny_set: Any, planted: ImageSet) -> None:
    same = tiny_set(counts=(3, 3), split=(0, 0))
    same = dataclasses.replace(same, images=np.zeros_like(same.images))
    with pytest.raises(UserError, match=r"1 different support sets cannot be sorted: set categories\.most=0"):
        find_categories(same, 2, 4, 0)
    with pytest.raises(UserError, match="no training class has 99 images"):
        find_categories(planted, 99, 4, 0)
    unsplit = tiny_set(counts=(3, 3), split=(1, 2))
    with pytest.raises(UserError, match=r"no class is in split 'train' \(.*\): add classes"):
        find_categories(unsplit, 2, 4, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"most": 1}, "one category sorts nothing"),
        ({"most": MOST_CATEGORIES + 1}, "most: a number of at most 8 is needed"),
        ({"found": {"mean": [0.0], "scale": [0.0], "centroids": [[1.0]]}}, "as many numbers as an embedding"),
        ({"found": {"mean": [0.0], "scale": [1.0], "centroids": [[1.0, 2.0]]}}, "as many numbers as an embedding"),
        ({"found": {"mean": [], "scale": [], "centroids": []}}, "centroids"),
    ],
)
def test_bad_categories_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CategoriesConfig.parse(values)


def test_centroids_of_another_embedding_and_balance_without_categories_are_refused(tiny_config: Any) -> None:
    odd = Categories(mean=(0.0,) * (SIZE - 1), scale=(1.0,) * (SIZE - 1), centroids=((0.0,) * (SIZE - 1),))
    with pytest.raises(UserError, match=f"made for embeddings of {SIZE - 1} numbers"):
        Sorter(odd)
    with pytest.raises(UserError, match=r"balance needs categories: set categories\.most"):
        tiny_config("phases.0.balance=0.5")


def test_a_policy_sees_the_category_of_its_task(planted: ImageSet, found: Categories, toy_problem: Any) -> None:
    from metagen.adapt import Inner
    from metagen.policies import Run
    from metagen.policies.stochastic import Stochastic, StochasticOptions

    policy, sorter = Stochastic(StochasticOptions()), Sorter(found)
    support = torch.rand(3, 1, 4, 4) * 2 - 1
    seen = []
    for problem in (toy_problem(), dataclasses.replace(toy_problem(), sorter=sorter)):
        theta = problem.network.initial.double()
        run = Run(policy.initial(problem.network.layout), problem.network.layers)
        Inner.of(problem, policy, theta, support).step(run, theta, 0, torch_generator("noise"))
        assert run.choice is not None
        seen.append(torch.tensor(run.choice.features[-PLACE:]))
    assert torch.equal(seen[0], as_features(None))
    assert torch.allclose(seen[1], as_features(sorter.place(support)))
