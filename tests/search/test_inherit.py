from __future__ import annotations

from typing import Any

import torch

from metagen.search.inherit import inherited
from metagen.work import build_problem


def _network(tiny_config: Any, *changes: str) -> tuple[torch.Tensor, Any]:
    network = build_problem(tiny_config(*changes)).network
    return network.initial, network.layout


def test_the_same_structure_inherits_everything(tiny_config: Any) -> None:
    fresh, layout = _network(tiny_config, "seed=1")
    donor, theirs = _network(tiny_config, "seed=2")
    out, share = inherited(fresh, layout, donor, theirs.names, theirs.shapes)
    assert share == 1.0
    assert torch.equal(out, donor)


def test_slices_that_both_have_are_the_donors_and_the_rest_is_as_it_was(tiny_config: Any) -> None:
    fresh, layout = _network(tiny_config, "generator.architecture.widths=[24, 16]", "seed=1")
    donor, theirs = _network(tiny_config, "generator.architecture.widths=[16]", "seed=2")
    out, share = inherited(fresh, layout, donor, theirs.names, theirs.shapes)
    new, old, before = layout.unflatten(out), theirs.unflatten(donor), layout.unflatten(fresh)
    copied = 0
    for name, value in new.items():
        source = old.get(name)
        inside = torch.zeros(value.shape, dtype=torch.bool)
        if source is not None and source.dim() == value.dim():
            part = tuple(slice(0, min(a, b)) for a, b in zip(source.shape, value.shape, strict=True))
            inside[part] = True
            assert torch.equal(value[part], source[part]), name
        assert torch.equal(value[~inside], before[name][~inside]), name
        copied += int(inside.sum())
    assert 0 < share == copied / len(fresh) < 1
