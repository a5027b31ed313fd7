from __future__ import annotations

import pytest
import torch

from metagen.metrics.diversity import diversity
from metagen.seeding import torch_generator


def _images(name: str, count: int = 400) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch_generator(name))


def test_one_image_over_and_over_has_none() -> None:
    assert diversity(_images("one", 1).expand(20, -1), _images("real")) == 0


def test_images_of_the_same_distribution_have_as_much() -> None:
    assert diversity(_images("made"), _images("real")) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_it_is_the_ratio_of_the_spreads(factor: float) -> None:
    assert diversity(5 + factor * _images("made"), _images("made")) == pytest.approx(factor, rel=1e-4)


@pytest.mark.parametrize(("generated", "real"), [(1, 5), (5, 1), (5, 0)])
def test_fewer_than_two_images_are_refused(generated: int, real: int) -> None:
    with pytest.raises(ValueError, match="two of each"):
        diversity(_images("made")[:generated], _images("real")[:real])


def test_real_images_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="all the same"):
        diversity(_images("made", 3), torch.ones(3, 64))
