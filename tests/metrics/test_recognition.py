from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from metagen.metrics.recognition import recognisability
from metagen.seeding import torch_generator


def _classes(name: str, count: int = 15, each: int = 10, spread: float = 2.0) -> list[Tensor]:
    centres = torch.randn(count, 6, generator=torch_generator("centres"))
    return list(centres[:, None] + spread * torch.randn(count, each, 6, generator=torch_generator(name)))


def test_it_is_the_accuracy_of_scikit_learns_nearest_centroid() -> None:
    made, real = _classes("made"), _classes("real")
    labels = np.repeat(np.arange(len(real)), 10)
    guessed = NearestCentroid().fit(torch.cat(real).numpy(), labels).predict(torch.cat(made).numpy())
    expected = (guessed == labels).reshape(-1, 10).mean(1)
    assert recognisability(made, real) == pytest.approx(expected.tolist())
    assert 0.1 < expected.mean() < 0.9


def test_means_are_recognised_and_another_classs_images_are_not() -> None:
    real = _classes("real", spread=0.01)
    assert recognisability(real, real) == [1.0] * len(real)
    assert recognisability([*real[1:], real[0]], real) == [0.0] * len(real)


def test_missing_classes_are_refused() -> None:
    real = _classes("real")
    with pytest.raises(ValueError, match="the same are needed"):
        recognisability(real[1:], real)
    with pytest.raises(ValueError, match="none empty"):
        recognisability([real[0][:0], *real[1:]], real)
