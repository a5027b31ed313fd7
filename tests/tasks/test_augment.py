from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metagen import work
from metagen.errors import UserError
from metagen.seeding import torch_generator
from metagen.tasks.augment import AugmentConfig, augmented, resampled
from metagen.tasks.episodes import Episode

ALL = {"translate": 0.1, "scale": 0.2, "shear": 0.3, "elastic": 0.05, "stroke": 0.5}


def _square(size: int = 24, count: int = 200) -> Episode:
    images = torch.full((count, 1, size, size), -1.0)
    images[:, :, 8:16, 8:16] = 1.0
    return Episode(images[: count // 2], images[count // 2 :], "square", 0)


def _altered(seed: int = 0, **options: float) -> Tensor:
    episode = augmented(_square(), AugmentConfig(**options), torch_generator(seed))
    return torch.cat([episode.support, episode.query])


def _ink(images: Tensor) -> Tensor:
    return (images + 1).sum(dim=(1, 2, 3)) / 2


def _centre(images: Tensor) -> Tensor:
    """``[N, 2]``: row and column of the centre of the ink."""
    ink, places = (images[:, 0] + 1) / 2, torch.arange(images.shape[-1]).float()
    rows, columns = (ink.sum(d) @ places for d in (2, 1))
    return torch.stack([rows, columns], dim=1) / _ink(images)[:, None]


def test_with_all_at_0_nothing_is_altered() -> None:
    assert not AugmentConfig().on
    assert torch.allclose(_altered(), torch.cat([_square().support, _square().query]), atol=1e-5)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_image_is_altered_by_itself_and_by_its_seed(name: str) -> None:
    assert AugmentConfig(**{name: ALL[name]}).on
    one, same, other = (_altered(seed, **{name: ALL[name]}) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert len({image.numpy().tobytes() for image in one}) == len(one)
    assert -1.001 <= float(one.min()) <= float(one.max()) <= 1.001


def test_translation_moves_the_centre_and_no_further_than_it_may() -> None:
    moved = _centre(_altered(translate=0.1)) - 11.5
    assert 1.8 < float(moved.abs().max()) <= 2.4 + 1e-3
    assert float(moved.mean(0).abs().max()) < 0.4
    assert torch.allclose(_ink(_altered(translate=0.1)), torch.tensor(64.0), rtol=1e-3)


def test_scale_changes_the_area_about_the_centre() -> None:
    images = _altered(scale=0.2)
    ratio = (_ink(images) / 64).log() / 2
    assert 0.15 < float(ratio.abs().max()) < 0.22
    assert float(ratio.min()) < -0.1 < 0.1 < float(ratio.max())
    assert torch.allclose(_centre(images), torch.tensor(11.5), atol=0.05)


def test_shear_keeps_area_and_rows() -> None:
    images = _altered(shear=0.3)
    assert torch.allclose(_ink(images), torch.tensor(64.0), rtol=0.02)
    rows = ((images[:, 0] + 1) / 2).sum(2)
    assert torch.allclose(rows[:, 9:15], torch.tensor(8.0), atol=0.05)
    columns = ((images[:, 0] + 1) / 2).sum(1)
    assert 0.5 < float(columns[:, 7].max()) < 4  # beside the square, where it leans
    assert torch.allclose(columns[:, 7], columns[:, 16], atol=0.05)


def test_strokes_get_thicker_and_thinner() -> None:
    area = _ink(_altered(stroke=0.5))
    thickest, thinnest = 64 + 0.5 * (100 - 64), 64 - 0.5 * (64 - 36)
    assert thinnest - 0.01 <= float(area.min()) < 60 < 70 < float(area.max()) <= thickest + 0.01


def test_an_elastic_deformation_is_smooth() -> None:
    """Where pictures are ramps, what is sampled is the field itself: neighbours differ little."""
    ramp = torch.linspace(-1, 1, 24).expand(24, 24).repeat(6, 1, 1, 1)
    bent = augmented(Episode(ramp, ramp, "ramp", 0), AugmentConfig(elastic=0.05), torch_generator(0)).support
    field = (bent - ramp)[:, 0, 4:-4, 4:-4]
    assert float(field.abs().max()) > 0.03
    assert float(field.diff(dim=1).abs().max()) < 0.05


def test_outside_is_background() -> None:
    images = torch.ones(1, 1, 8, 8)
    grid = F.affine_grid(torch.tensor([[[1.0, 0, 1.0], [0, 1, 0]]]), [1, 1, 8, 8], align_corners=False)
    moved = resampled(images, grid)
    assert torch.allclose(moved[..., :4], torch.tensor(1.0))
    assert torch.allclose(moved[..., 4:], torch.tensor(-1.0))


def test_augmentation_is_switched_on_by_the_phase_and_changes_no_other_draw(tiny_config: Any, new_learner: Any) -> None:
    results = {}
    for name, changes in {
        "off": [],
        "zero": ["phases.0.augment={scale: 0}"],
        "on": ["phases.0.augment.scale=0.2"],
    }.items():
        learner, parts = new_learner(tiny_config(*changes))
        results[name] = work.run(parts, work.plan(learner.config, 0, 0)[0], learner.snapshot()).metrics["loss"]
    assert results["off"] == results["zero"] != results["on"]


def test_an_amount_out_of_range_is_named(tiny_config: Any) -> None:
    with pytest.raises(UserError, match=r"phases.0.augment.translate: a number of at most 0.5 is needed"):
        tiny_config("phases.0.augment.translate=2")
