"""Weights passed on between networks of different structure: slices that both have.

In the spirit of Net2Net (Chen et al. 2016) and of supernets' shared weights: a layer of the same name keeps, of every
dimension, the part that both share; what is new starts as it would have.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from metagen.flat import Layout


def inherited(
    fresh: Tensor, layout: Layout, donor: Tensor, names: Sequence[str], shapes: Sequence[tuple[int, ...]]
) -> tuple[Tensor, float]:
    """``fresh [P]`` with the slices that a donor's ``[Q]`` parameters of the same names and ranks share.

    ``names`` and ``shapes`` say how the donor lies. Gives the new vector and the share of it that was copied.
    """
    theirs = Layout.of(names, shapes)
    out, copied = fresh.clone(), 0
    old = {name: theirs.view(donor, index) for index, name in enumerate(theirs.names)}
    for index, name in enumerate(layout.names):
        source, target = old.get(name), layout.view(out, index)
        if source is None or source.dim() != target.dim():
            continue
        part = tuple(slice(0, min(a, b)) for a, b in zip(source.shape, target.shape, strict=True))
        target[part] = source[part]
        copied += target[part].numel()
    return out, copied / max(1, len(fresh))
