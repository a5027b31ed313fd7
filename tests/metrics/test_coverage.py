from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from metagen.metrics.coverage import coverage, density, perfect_coverage
from metagen.seeding import torch_generator


def _images(*names: str | int, count: int = 30) -> Tensor:
    return torch.randn(count, 16, generator=torch_generator(*names))


def test_the_real_images_cover_themselves() -> None:
    assert coverage(_images("real"), _images("real"), 1) == 1


def test_far_images_cover_nothing() -> None:
    assert coverage(_images("real") + 100, _images("real")) == 0


def test_of_two_clusters_the_one_that_is_made_is_covered() -> None:
    clusters = torch.cat([_images("a"), _images("b", count=10) + 100])
    made = _images("a")
    assert coverage(made, clusters) == 0.75
    assert coverage(made[:1].expand(50, -1), clusters) < 0.5  # one mode of the cluster


def test_the_reach_is_the_distance_to_the_kth_nearest_other_real_image() -> None:
    real, made = torch.tensor([[0.0], [1], [3], [7]]), torch.tensor([[2.1]])
    # Reaches with one neighbour: 1, 1, 2, 4; distances to what was made: 2.1, 1.1, 0.9, 4.9.
    assert coverage(made, real, 1) == 0.25
    # With two: 3, 2, 3, 6.
    assert coverage(made, real, 2) == 1


@pytest.mark.parametrize(("generated", "real", "neighbours"), [(30, 30, 5), (10, 30, 3), (40, 15, 1)])
def test_of_the_same_distribution_it_has_the_expectation_of_the_paper(
    generated: int, real: int, neighbours: int
) -> None:
    found = [
        coverage(_images("made", n, count=generated), _images("real", n, count=real), neighbours) for n in range(200)
    ]
    error = float(np.std(found)) / len(found) ** 0.5
    assert np.mean(found) == pytest.approx(perfect_coverage(generated, real, neighbours), abs=4 * error)


@pytest.mark.parametrize(("generated", "real", "neighbours"), [(0, 5, 1), (5, 5, 5), (5, 5, 0)])
def test_what_has_no_answer_is_refused(generated: int, real: int, neighbours: int) -> None:
    with pytest.raises(ValueError, match="neighbours"):
        coverage(_images("made", count=generated), _images("real", count=real), neighbours)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_density_and_coverage_are_those_of_scikit_learns_neighbours(neighbours: int) -> None:
    made, real = _images("made", count=20).numpy() * 0.8, _images("real").numpy()
    # The first neighbour of a real image is itself.
    reach = NearestNeighbors(n_neighbors=neighbours + 1).fit(real).kneighbors(real)[0][:, -1]
    inside = np.linalg.norm(real[:, None] - made[None], axis=-1) <= reach[:, None]
    made, real = torch.from_numpy(made), torch.from_numpy(real)
    assert coverage(made, real, neighbours) == pytest.approx(inside.any(1).mean())
    assert density(made, real, neighbours) == pytest.approx(inside.sum(0).mean() / neighbours)


def test_density_of_the_same_distribution_is_one_and_of_one_crowded_in_the_middle_more() -> None:
    found = [density(_images("made", n), _images("real", n)) for n in range(200)]
    assert np.mean(found) == pytest.approx(1, abs=4 * float(np.std(found)) / len(found) ** 0.5)
    assert density(0.1 * _images("made"), _images("real")) > 2
