"""Where on their canvases the drawings of a support set lie, and drawing them where their like lie.

Adapted to five images, a network learns among other things where each of them lies, which says little of the class.
How far places differ within the set says how far those of further images will, so each can be shown at many that are
as likely: a smoothed bootstrap (Silverman & Young 1987) of the middles of the drawings' bounding boxes. Where all lie
alike, as icons that fill their canvas do, and where a picture has no ground to be moved on, nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMOOTHING = 0.5
"""Deviation of the noise on a place that is drawn again, as a share of the deviation of the set's places."""
FAINTEST = 0.25
"""How far a pixel of a drawing is from the ground at least, as a share of the farthest one's distance."""


@dataclass(frozen=True)
class Positions:
    """Images, and where on them the drawings lie."""

    images: Tensor
    """``[K, C, H, W]``."""
    ground: Tensor
    """The colour around each drawing, ``[K, C, 1, 1]``: the median of the image's rim, a channel each."""
    first: Tensor
    """The first row and column of each drawing's bounding box, int64 ``[K, 2]``; 0 where there is no drawing."""
    last: Tensor
    """The last row and column, int64 ``[K, 2]``; those of the image where there is no drawing."""

    @staticmethod
    def of(images: Tensor) -> Positions:
        """The positions on ``images [K, C, H, W]``."""
        rim = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], dim=-1)
        ground = rim.median(dim=-1).values[..., None, None]
        distance = (images - ground).abs().amax(1)
        farthest = distance.amax((1, 2), keepdim=True)
        drawn = distance > FAINTEST * farthest
        drawn |= farthest == 0
        ends = [_ends(drawn.any(dim)) for dim in (2, 1)]
        first, last = (torch.stack([end[i] for end in ends], dim=1) for i in (0, 1))
        return Positions(images, ground, first, last)

    def drawn_again(self, rng: torch.Generator) -> Tensor:
        """The images, each drawing at a place as likely as its own by those of all of them."""
        count = len(self.images)
        chosen, noise = torch.randint(count, (count,), generator=rng), torch.randn(count, 2, generator=rng)
        if count == 1:
            return self.images
        middles = (self.first + self.last) / 2
        return self.moved(middles[chosen] - middles + SMOOTHING * middles.std(dim=0) * noise.to(middles))

    def moved(self, by: Tensor) -> Tensor:
        """The images, each drawing moved down and to the right ``by [K, 2]`` pixels, rounded, as far as it stays
        inside; around it lies its ground."""
        size = torch.tensor(self.images.shape[-2:], device=self.images.device)
        by = torch.maximum(torch.minimum(by.round().long(), size - 1 - self.last), -self.first)
        if not by.any():
            return self.images
        (rows, row_inside), (columns, column_inside) = (
            _sources(length, by[:, i]) for i, length in enumerate(self.images.shape[-2:])
        )
        each = torch.arange(len(by), device=by.device)[:, None, None]
        found = self.images[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        inside = (row_inside[:, :, None] & column_inside[:, None, :])[:, None]
        return torch.where(inside, found, self.ground).contiguous()


def _ends(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last index of a line ``[K, length]`` that something is drawn on."""
    numbers = drawn.long()
    return numbers.argmax(1), drawn.shape[1] - 1 - numbers.flip(1).argmax(1)


def _sources(length: int, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of ``length`` lines comes from when they move, ``[K, length]``, and whether from inside the image."""
    found = torch.arange(length, device=moves.device) - moves[:, None]
    return found.clamp(0, length - 1), (found >= 0) & (found < length)
