from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from metagen.metrics.two_sample import two_sample_accuracy
from metagen.seeding import torch_generator


def _features(*names: str | int, count: int = 12) -> Tensor:
    return torch.randn(count, 4, generator=torch_generator(*names))


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_it_is_the_leave_one_out_accuracy_of_scikit_learns_classifier(shift: float) -> None:
    made, real = _features("made") + shift, _features("real")
    labels = np.repeat([0, 1], len(made))
    each = cross_val_score(KNeighborsClassifier(1), torch.cat([made, real]).numpy(), labels, cv=LeaveOneOut())
    assert two_sample_accuracy(made, real) == pytest.approx(each.mean())


def test_of_one_distribution_it_is_near_a_half_as_the_docstring_says() -> None:
    found = [two_sample_accuracy(_features("made", n), _features("real", n)) for n in range(1000)]
    assert np.mean(found) == pytest.approx(11 / 23, abs=4 * float(np.std(found)) / len(found) ** 0.5)


def test_what_can_be_told_apart_is_and_copies_cannot() -> None:
    real = _features("real")
    assert two_sample_accuracy(real + 100, real) == 1
    assert two_sample_accuracy(real + 1e-3, real) == 0
    assert two_sample_accuracy(torch.zeros(5, 4), torch.zeros(5, 4)) == 0.5  # ties


@pytest.mark.parametrize(("made", "real"), [(1, 1), (3, 4)])
def test_unequal_or_single_sets_are_refused(made: int, real: int) -> None:
    with pytest.raises(ValueError, match="equally many"):
        two_sample_accuracy(_features("made", count=made), _features("real", count=real))
