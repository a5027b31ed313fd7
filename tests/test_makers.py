from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from metagen.errors import UserError
from metagen.evaluate import Bench, Method, choose_classes
from metagen.makers import Adapted, Copycat, Maker, Real, galleries, made_by
from metagen.tasks import ImageSet


@pytest.fixture
def bench(tiny_images: ImageSet) -> Bench:
    return Bench(tiny_images, choose_classes(tiny_images, "test", 3, 3, seed=0)[0], shots=3, seed=0)


@pytest.fixture
def adapted(new_learner: Any, tiny_config: Any) -> Adapted:
    learner, parts = new_learner(tiny_config())
    return Adapted(Method(parts.problem, learner.state.theta, parts.policy, learner.state.policy), 1)


def test_a_gallery_is_the_benchs_support_and_two_equal_parts_of_other_real_images(bench: Bench) -> None:
    for gallery, index in zip(galleries(bench, 5), bench.classes, strict=True):
        assert torch.equal(gallery.support, bench.episode(index).support)
        assert len(gallery.reference) == len(gallery.spare) == 5
        everything = {x.numpy().tobytes() for x in torch.cat([gallery.support, gallery.rest])}
        assert len(everything) == 13


def test_a_class_with_few_images_is_halved(bench: Bench) -> None:
    assert [len(gallery.reference) for gallery in galleries(bench, 100)] == [6, 6, 6]  # 16 images, 3 of them shown


def test_a_class_of_one_image_many_times_is_refused_by_name(bench: Bench) -> None:
    pixels, index = bench.images.images.copy(), bench.classes[1]
    pixels[bench.images.offsets[index] : bench.images.offsets[index + 1]] = 7
    same = dataclasses.replace(bench, images=dataclasses.replace(bench.images, images=pixels))
    with pytest.raises(UserError, match=f"class '{bench.images.classes[index]}' that are not shown are all the same"):
        galleries(same, 4)


def test_categories_are_the_domains_or_those_given(bench: Bench) -> None:
    names = [bench.images.classes[index] for index in bench.classes]
    images = dataclasses.replace(bench.images, domains=tuple("xy"[i % 2] for i in range(len(bench.images.classes))))
    assert [g.category for g in galleries(bench, 2)] == ["", "", ""]
    domains = dataclasses.replace(bench, images=images)
    assert [g.category for g in galleries(domains, 2)] == [images.domains[index] for index in bench.classes]
    given = dataclasses.replace(bench, groups={names[0]: "thin", names[2]: "bold"})
    assert [g.category for g in galleries(given, 2)] == ["thin", "", "bold"]


@pytest.mark.parametrize("kind", ["adapted", "copycat", "real"])
def test_a_maker_makes_what_is_asked_for_from_the_seed_alone(bench: Bench, adapted: Adapted, kind: str) -> None:
    maker: Maker = {"adapted": adapted, "copycat": Copycat(), "real": Real()}[kind]
    among = galleries(bench, 4)
    made = made_by(maker, among, 0)
    assert len(made) == 3
    assert all(images.shape == (4, 1, 16, 16) and images.abs().max() <= 1 for images in made)
    again = made_by(maker, among[1:2], 0)
    assert torch.equal(again[0], made[1])
    if kind != "real":
        hidden = dataclasses.replace(among[0], reference=-among[0].reference, spare=-among[0].spare)
        assert torch.equal(maker.make(hidden, 4, 0), made[0])
        assert not torch.equal(maker.make(among[0], 4, 1), made[0])


def test_a_copycats_images_are_near_those_shown_and_not_the_same(bench: Bench) -> None:
    gallery = galleries(bench, 4)[0]
    made = Copycat().make(gallery, 6, 0)
    apart = [float((made[i] - gallery.support[i % 3]).square().mean()) for i in range(6)]
    assert all(0 < distance < 0.5 for distance in apart)


def test_real_images_are_none_of_those_shown_or_compared_with(bench: Bench) -> None:
    gallery = galleries(bench, 4)[0]
    made = {x.numpy().tobytes() for x in Real().make(gallery, 4, 0)}
    assert not made & {x.numpy().tobytes() for x in torch.cat([gallery.support, gallery.reference])}


def test_who_diverged_has_drawn_nothing_and_is_the_worst_by_loss(bench: Bench, adapted: Adapted) -> None:
    lost = dataclasses.replace(adapted.method, theta=torch.full_like(adapted.method.theta, torch.nan))
    for images in made_by(Adapted(lost, 1), galleries(bench, 4), 0):
        assert torch.equal(images, torch.zeros(4, 1, 16, 16))
    assert bench.losses(lost, [0, 1]).tolist() == [[torch.inf, torch.inf]] * 3
