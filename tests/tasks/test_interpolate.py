from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from metagen import work
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode, sample_episode
from metagen.tasks.interpolate import interpolated


def test_an_interpolated_task_lies_between_two_at_one_share(tiny_set: Any) -> None:
    images = tiny_set(counts=(6, 6), split=(0, 0))
    one, other = (sample_episode(images, i, 3, 2, torch_generator(i)) for i in (0, 1))
    between = interpolated(one, other, torch_generator("share"))
    moved = torch.cat([between.support - one.support, between.query - one.query])
    apart = torch.cat([other.support - one.support, other.query - one.query])
    shares = moved[apart.abs() > 0.1] / apart[apart.abs() > 0.1]
    assert torch.allclose(shares, shares[0], atol=1e-4)
    assert 0 < float(shares[0]) < 0.5
    assert (between.class_name, between.index) == (one.class_name, one.index)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_share_of_episodes_is_interpolated_and_the_rest_stay_as_they_were(
    share: float, tiny_config: Any, tiny_images: Any
) -> None:
    drawn: list[list[Episode]] = []
    for interpolate in (0.0, share):
        config = tiny_config(f"phases.0.interpolate={interpolate}", "phases.0.tasks=8")
        drawing = work.build(config, tiny_images).drawings[0]
        items = [dataclasses.replace(work.plan(config, 0, 0)[0], index=i) for i in range(20)]
        drawn.append([episode for item in items for episode in drawing.episodes(item)])
    assert [e.index for e in drawn[0]] == [e.index for e in drawn[1]]
    changed = [not torch.equal(a.support, b.support) for a, b in zip(*drawn, strict=True)]
    assert sum(changed) / len(changed) == pytest.approx(share, abs=0.12)
