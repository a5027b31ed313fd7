"""The front: what nothing else beats in every respect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points ``[N, D]`` that no other is at most as large as in all and smaller in one coordinate."""
    values = np.array(points, dtype=float)
    return [
        index for index, point in enumerate(values) if not ((values <= point).all(1) & (values < point).any(1)).any()
    ]
