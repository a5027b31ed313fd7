from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from metagen.metrics.kid import kid
from metagen.seeding import torch_generator


def _features(*names: str | int, count: int = 40, width: int = 8) -> Tensor:
    return torch.randn(count, width, generator=torch_generator(*names))


@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_it_is_that_of_torchmetrics(shift: float) -> None:
    made, real = shift + _features("made"), _features("real")
    assert kid(made, real) == pytest.approx(float(poly_mmd(made.double(), real.double())), rel=1e-9)


@pytest.mark.parametrize(("made", "real"), [(4, 9), (2, 2)])
def test_of_one_distribution_it_is_zero_in_expectation_at_any_sizes(made: int, real: int) -> None:
    found = [
        kid(_features("made", n, count=made, width=3), _features("real", n, count=real, width=3)) for n in range(2000)
    ]
    assert np.mean(found) == pytest.approx(0, abs=3 * float(np.std(found)) / len(found) ** 0.5)


def test_of_one_feature_it_is_the_difference_of_moments() -> None:
    """``(xy + 1)^3 = 1 + 3xy + 3x^2y^2 + x^3y^3``: squared differences of the first three moments, weighted."""
    x, y = _features("x", count=3000, width=1), 0.3 + 0.8 * _features("y", count=3000, width=1)
    moments = [float((x**p).mean() - (y**p).mean()) for p in (1, 2, 3)]
    assert kid(y, x) == pytest.approx(3 * moments[0] ** 2 + 3 * moments[1] ** 2 + moments[2] ** 2, rel=0.02)


@pytest.mark.parametrize(("made", "real"), [(1, 5), (5, 1)])
def test_fewer_than_two_images_are_refused(made: int, real: int) -> None:
    with pytest.raises(ValueError, match="two of each"):
        kid(_features("made")[:made], _features("real")[:real])
