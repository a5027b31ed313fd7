from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from metagen.metrics.memorisation import memorised_share
from metagen.seeding import torch_generator


def _features(*names: str | int, count: int = 20) -> Tensor:
    return torch.randn(count, 8, generator=torch_generator(*names))


def test_copies_are_found_and_others_are_not() -> None:
    support, real = _features("support", count=5), _features("real")
    made = torch.cat([support + 1e-3, 50 + _features("made", count=15)])
    assert memorised_share(made, support, real) == 0.25


def test_the_threshold_is_the_fifth_percentile_of_distances_between_two_real_images() -> None:
    real = torch.arange(0, 21).double()[:, None] ** 2  # pairs at many distances
    apart = sorted(float(abs(a - b)) for i, a in enumerate(real) for b in real[:i])
    threshold = float(np.percentile(apart, 5))
    support = torch.tensor([[1000.0]])
    assert memorised_share(support + 0.999 * threshold, support, real) == 1
    assert memorised_share(support + 1.001 * threshold, support, real) == 0


def test_of_images_that_were_not_shown_it_is_a_chance_of_each_shown_one() -> None:
    """With one image shown, the distance to it is one between two real images: below the 5th percentile in 5%."""
    found = []
    for n in range(1000):
        made, support, real = _features("made", n), _features("support", n, count=1), _features("real", n, count=40)
        found.append(memorised_share(made, support, real))
    assert np.mean(found) == pytest.approx(0.05, abs=4 * float(np.std(found)) / len(found) ** 0.5)


def test_it_takes_more_real_images_than_torch_has_a_quantile_for() -> None:
    real = torch.arange(5_800.0)[:, None]
    assert memorised_share(real[:100] + 0.5, real[:100], real) == 1


@pytest.mark.parametrize(("made", "support", "real"), [(0, 1, 2), (1, 0, 2), (1, 1, 1)])
def test_what_has_no_answer_is_refused(made: int, support: int, real: int) -> None:
    with pytest.raises(ValueError, match="two real ones"):
        memorised_share(_features("a")[:made], _features("b")[:support], _features("c")[:real])
