from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from metagen.errors import UserError
from metagen.makers import Copycat, Gallery, Real, made_by
from metagen.metrics import extractor_of
from metagen.metrics.fid import Moments, fid
from metagen.metrics.kid import kid
from metagen.metrics.pyramid import PyramidFeatures
from metagen.quality import READINGS, Features, measured, nearest_real
from metagen.seeding import torch_generator

CLASSES = 6


class Plain:
    """The pixels as they are."""

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.fixture(scope="module")
def among() -> list[Gallery]:
    """Smooth patterns with noise, and two categories."""
    found = []
    for number in range(CLASSES):
        rng = torch_generator("gallery", number)
        pattern = (
            (torch.rand(1, 1, 4, 4, generator=rng).round() * 1.6 - 0.8).repeat_interleave(4, 2).repeat_interleave(4, 3)
        )
        images = (pattern + 0.2 * torch.randn(25, 1, 16, 16, generator=rng)).clamp(-1, 1)
        found.append(Gallery(f"class{number}", "ab"[number % 2], *images.split([5, 10, 10])))
    return found


@pytest.fixture(scope="module")
def features(among: list[Gallery]) -> Features:
    return Features.of(PyramidFeatures(), among)


def _made(maker: Copycat | Real, among: list[Gallery]) -> list[Tensor]:
    return made_by(maker, among, 0)


def test_every_metric_has_a_reading_an_interval_and_categories_that_json_can_hold(
    features: Features, among: list[Gallery]
) -> None:
    report = measured(features, _made(Copycat(), among)).report(among)
    assert list(report) == list(READINGS)
    for name, entry in report.items():
        assert entry["low"] <= entry["mean"] <= entry["high"], name  # type: ignore[operator]
        assert set(entry["by_category"]) == {"a", "b"}  # type: ignore[call-overload]
        assert ("per_class" in entry) == (name != "fid")
    assert json.loads(json.dumps(report)) == report


def test_real_images_are_as_good_as_it_gets_and_noise_is_not(features: Features, among: list[Gallery]) -> None:
    real = measured(features, _made(Real(), among))
    noise = measured(
        features, [torch.rand(10, 1, 16, 16, generator=torch_generator(i)) * 2 - 1 for i in range(CLASSES)]
    )
    rows = np.arange(CLASSES)
    assert noise.fid(rows) > 3 * real.fid(rows)
    for metric, sign in {"kid": 1, "two_sample": 1, "recognisability": -1, "coverage": -1}.items():
        assert sign * noise.per_class[metric].mean() > sign * real.per_class[metric].mean(), metric
    assert abs(real.per_class["kid"].mean()) < 0.01 * noise.per_class["kid"].mean() + 1e-6


def test_who_gives_back_what_was_shown_has_memorised_it(features: Features, among: list[Gallery]) -> None:
    copied = measured(features, [g.support.repeat(2, 1, 1, 1) for g in among])
    assert (copied.per_class["memorised"] == 1).all()
    assert measured(features, _made(Real(), among)).per_class["memorised"].mean() < 0.5


def test_the_metrics_are_of_the_extractors_features(among: list[Gallery]) -> None:
    made = _made(Copycat(), among)
    found = measured(Features.of(Plain(), among), made)
    pairs = [(x.flatten(1), g.reference.flatten(1)) for x, g in zip(made, among, strict=True)]
    assert found.per_class["kid"] == pytest.approx([kid(x, y) for x, y in pairs])
    # In the span of few images FID is what it is in all of the features.
    pooled = [Moments.of(torch.cat(part)) for part in zip(*pairs, strict=True)]
    assert found.fid(range(CLASSES)) == pytest.approx(fid(*pooled), rel=1e-3)


def test_the_nearest_real_image_is_found_and_told_from_those_shown(features: Features, among: list[Gallery]) -> None:
    gallery = among[2]
    made = torch.cat([gallery.spare[3:4], gallery.support[1:2]]) + 0.01
    nearest, shown = nearest_real(features, 2, made)
    assert torch.equal(nearest, torch.cat([gallery.spare[3:4], gallery.support[1:2]]))
    assert shown == [False, True]


def test_a_class_that_differs_only_in_what_the_extractor_cannot_see_is_refused_by_name() -> None:
    """The packaged features make colours grey."""
    images = torch.full((6, 3, 28, 28), -1.0)
    for number, image in enumerate(images):
        image[number % 3, 8:20, 8:20] = 1.0
    among = [Gallery("squares", "", images[:2], images[2:4], images[4:])]
    with pytest.raises(UserError, match=r"'squares'.*--extractor pyramid"):
        Features.of(extractor_of("strokes"), among)
    assert measured(Features.of(extractor_of("pyramid"), among), [images[:2]]).per_class["diversity"] > 0
