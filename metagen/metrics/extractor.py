"""What turns images into the features that metrics compare them by."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Extractor(Protocol):
    """A fixed map from images to features. Made without arguments."""

    def __call__(self, images: Tensor) -> Tensor:
        """``images [N, C, H, W]`` in [-1, 1] to features float32 ``[N, D]`` on the CPU, each row of its image alone."""
        ...
