"""Laws of relocation: what moves, how far, and what never does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metagen import work
from metagen.adapt import Inner
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.seeding import torch_generator
from metagen.tasks.positions import Positions


def _strokes(corners: list[tuple[int, int]], size: int = 16, channels: int = 1, ground: float = -1.0) -> Tensor:
    """Images of ground with a filled 4 x 3 box each, whose first row and column are given."""
    images = torch.full((len(corners), channels, size, size), ground)
    for image, (row, column) in zip(images, corners, strict=True):
        image[:, row : row + 4, column : column + 3] = -ground
    return images


def _boxes(images: Tensor) -> list[tuple[int, int]]:
    return [tuple(first) for first in Positions.of(images).first.tolist()]


@pytest.mark.parametrize("ground", [-1.0, 1.0, 0.2])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_box_of_a_drawing_is_found_on_any_ground(channels: int, ground: float) -> None:
    found = Positions.of(_strokes([(2, 5), (0, 13)], channels=channels, ground=ground))
    assert found.first.tolist() == [[2, 5], [0, 13]]
    assert found.last.tolist() == [[5, 7], [3, 15]]
    assert found.ground.unique().tolist() == pytest.approx([ground])


def test_drawings_keep_their_form_and_nothing_is_cut_off() -> None:
    images, rng = _strokes([(0, 0), (12, 13), (6, 6), (1, 10)]), torch_generator("positions")
    positions = Positions.of(images)
    for _ in range(100):
        moved = positions.drawn_again(rng)
        assert moved.shape == images.shape
        assert torch.equal(moved, _strokes(_boxes(moved)))  # the same box, whole, on the same ground


def test_places_are_drawn_as_the_set_has_them() -> None:
    corners = [(1, 6), (3, 6), (5, 6), (7, 6)]
    positions, rng = Positions.of(_strokes(corners)), torch_generator("positions")
    found = torch.tensor([_boxes(positions.drawn_again(rng)) for _ in range(300)]).float().flatten(0, 1)
    own = torch.tensor(corners).float()
    assert found[:, 1].unique().tolist() == [6.0]  # where all are alike, so are those that are drawn
    assert torch.allclose(found.mean(0), own.mean(0), atol=0.15)
    assert float(found[:, 0].std()) == pytest.approx(float(own[:, 0].std()), rel=0.15)
    assert len(found[:, 0].unique()) > len(corners)  # between and beside them too


@pytest.mark.parametrize(
    "images",
    [
        _strokes([(4, 4), (4, 4), (4, 4)]),
        torch.rand(3, 3, 16, 16, generator=torch_generator("pictures")) * 2 - 1,
        torch.zeros(3, 1, 16, 16),
        _strokes([(4, 4)]),
    ],
    ids=["all alike", "pictures without a ground", "empty", "one alone"],
)
def test_what_has_nowhere_else_to_be_is_left_as_it_is(images: Tensor) -> None:
    positions, rng = Positions.of(images), torch_generator("positions")
    assert all(torch.equal(positions.drawn_again(rng), images) for _ in range(20))


@pytest.mark.parametrize("number", [0, 1])
def test_photographs_are_left_as_they_are(number: int) -> None:
    from sklearn.datasets import load_sample_images

    photograph = torch.tensor(load_sample_images().images[number]).permute(2, 0, 1)[None].float()
    whole = F.interpolate(photograph, size=(32, 32), mode="area")
    parts = F.interpolate(photograph, size=(64, 64), mode="area").unfold(2, 32, 32).unfold(3, 32, 32)
    tiles = torch.cat([whole, parts.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)]) / 127.5 - 1
    positions, rng = Positions.of(tiles), torch_generator("photographs")
    assert all(torch.equal(positions.drawn_again(rng), tiles) for _ in range(20))


def test_drawings_on_grainy_paper_are_moved() -> None:
    images = _strokes([(2, 2), (9, 9), (5, 3)], ground=1.0)
    grain = 0.03 * torch.randn(images.shape, generator=torch_generator("grain"))
    positions = Positions.of(images + grain)
    assert positions.first.tolist() == [[2, 2], [9, 9], [5, 3]]
    assert not torch.equal(positions.drawn_again(torch_generator("paper")), images + grain)


def test_inner_steps_move_their_targets_alone_and_only_if_asked(tiny_config: Any) -> None:
    support = _strokes([(0, 0), (12, 13), (6, 6), (1, 10), (9, 2)])
    looks = []
    for asked in ("true", "false"):
        problem = work.build_problem(tiny_config(f"episode.relocate={asked}"))
        inner = Inner.of(problem, Fixed(FixedOptions()), problem.network.initial, support)
        [look] = inner.looks(problem.network.initial, 0, torch_generator("looks"))
        looks.append(look)
    moved, kept = looks
    assert torch.equal(kept.images, support.repeat_interleave(problem.draws, dim=0))
    assert not torch.equal(moved.images, kept.images)
    assert torch.equal(moved.condition.support, support)
    for name in kept.noise:
        assert torch.equal(moved.noise[name], kept.noise[name])


def test_halves_of_a_set_are_moved_as_one_draw(tiny_config: Any) -> None:
    class Halves(Fixed):
        def wants_halves(self, step: int) -> bool:
            return True

    support = _strokes([(0, 0), (12, 13), (6, 6), (1, 10)])
    problem = work.build_problem(tiny_config("episode.relocate=true"))
    found = []
    for policy in (Fixed(FixedOptions()), Halves(FixedOptions())):
        inner = Inner.of(problem, policy, problem.network.initial, support)
        looks = inner.looks(problem.network.initial, 0, torch_generator("looks"))
        found.append(sorted(tuple(image.flatten().tolist()) for look in looks for image in look.images))
    assert found[0] == found[1]
