from __future__ import annotations

from typing import Any

import pytest

from metagen.errors import UserError
from metagen.generators import ArchitectureConfig


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"widths": []}, "widths: at least one level is needed"),
        ({"widths": [12]}, "must be multiples of 8"),
        ({"widths": [0]}, "must be multiples of 8"),
        ({"widths": [-8]}, "must be multiples of 8"),
        ({"widths": [16, 4]}, "must be multiples of 8"),
        ({"widths": 16}, "widths: "),
        ({"blocks": 0}, "blocks: at least one block"),
        ({"kernel": 4}, "kernel: "),
        ({"patch": 3}, "patch: "),
        ({"embedding": 7}, "embedding: 7 must be even and at least 8"),
        ({"embedding": 0}, "embedding: 0 must be even and at least 8"),
        ({"set_width": 0}, "set_width: "),
        ({"set_width": 2.5}, "set_width: "),
        ({"attention": [True]}, "attention: 1 flags for 2 levels"),
        ({"attention": [True, False, True]}, "attention: 3 flags for 2 levels"),
        ({"activation": "swish"}, "activation: "),
        ({"normalisation": "batch"}, "normalisation: "),
        ({"resampling": "bilinear"}, "resampling: "),
        ({"connectivity": "denze"}, "connectivity: "),
        ({"set_conditioning": "attention"}, "set_conditioning: "),
        ({"activatoin": "relu"}, "activatoin: unknown key; did you mean 'activation'?"),
    ],
)
def test_an_impossible_structure_is_refused_with_the_reason(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError) as caught:
        ArchitectureConfig.parse(values)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("size", [16, 20, 28, 30, 32, 64])
def test_an_image_must_halve_as_often_as_there_are_levels(patch: Any, levels: int, size: int) -> None:
    arch = ArchitectureConfig(patch=patch, widths=(8,) * levels)
    factor = patch * 2 ** (levels - 1)
    if size % factor == 0:
        arch.check_image_size(size)
        return
    with pytest.raises(ValueError, match=f"image_size {size} is not a multiple of {factor} .*use fewer levels"):
        arch.check_image_size(size)


def test_one_attention_flag_stands_for_all_levels() -> None:
    everywhere = ArchitectureConfig(widths=(8, 16), attention=True)
    deepest = ArchitectureConfig.parse({"widths": [8, 16], "attention": [False, True]})
    assert [everywhere.attends(level) for level in (0, 1)] == [True, True]
    assert [deepest.attends(level) for level in (0, 1)] == [False, True]
