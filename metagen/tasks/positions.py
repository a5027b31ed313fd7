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

from metagen.tasks.augment import translated

SMOOTHING = 0.5
"""Deviation of the noise on a place that is drawn again, as a share of the deviation of the set's places."""
FAINTEST = 0.25
"""How far a pixel of a drawing is from the ground at least, as a share of the farthest one's distance."""
UNEVEN = 0.04
"""How far what lies outside the bounding box may be from the ground on average, as the same share: photographs are
farther, drawings on paper less."""


@dataclass(frozen=True)
class Positions:
    """Images, and where on them the drawings lie."""

    images: Tensor
    """``[K, C, H, W]``."""
    ground: Tensor
    """The colour around each drawing, ``[K, C, 1, 1]``: the median of the image's rim, a channel each."""
    first: Tensor
    """The first row and column of each drawing's bounding box, int64 ``[K, 2]``: the canvas where nothing is drawn, or
    on no even ground."""
    last: Tensor
    """The last row and column, int64 ``[K, 2]``."""

    @staticmethod
    def of(images: Tensor) -> Positions:
        """The positions on ``images [K, C, H, W]``."""
        rim = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], dim=-1)
        ground = rim.median(dim=-1).values[..., None, None]
        distance = (images - ground).abs().amax(1)
        farthest = distance.amax((1, 2), keepdim=True)
        drawn = distance > FAINTEST * farthest
        rows, columns = _span(drawn.any(2)), _span(drawn.any(1))
        outside = ~(rows[:, :, None] & columns[:, None, :])
        around = (distance * outside).sum((1, 2), keepdim=True) / outside.sum((1, 2), keepdim=True).clamp_min(1)
        uneven = (around > UNEVEN * farthest)[..., 0]
        first, last = zip(_ends(rows | uneven), _ends(columns | uneven), strict=True)
        return Positions(images, ground, torch.stack(first, dim=1), torch.stack(last, dim=1))

    def drawn_again(self, rng: torch.Generator) -> Tensor:
        """The images, each drawing at a place as likely as its own by those of all of them."""
        count = len(self.images)
        if count == 1:
            return self.images
        chosen, noise = torch.randint(count, (count,), generator=rng), torch.randn(count, 2, generator=rng)
        middles = (self.first + self.last) / 2
        return self.moved(middles[chosen] - middles + SMOOTHING * middles.std(dim=0) * noise.to(middles))

    def moved(self, by: Tensor) -> Tensor:
        """The images, each drawing moved down and to the right ``by [K, 2]`` pixels, rounded, as far as it stays
        inside; around it lies its ground."""
        room = torch.tensor(self.images.shape[-2:], device=self.images.device) - 1 - self.last
        by = torch.maximum(torch.minimum(by.round().long(), room), -self.first)
        return translated(self.images, by, self.ground).contiguous()


def _ends(lines: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last of the lines ``[K, length]`` that are set, ``[K]`` each; those of all where none is."""
    numbers = lines.long()
    return numbers.argmax(1), lines.shape[1] - 1 - numbers.flip(1).argmax(1)


def _span(lines: Tensor) -> Tensor:
    """Which of ``lines [K, length]`` lie between the first and the last that are set; all where none is."""
    first, last = _ends(lines)
    numbers = torch.arange(lines.shape[1], device=lines.device)
    return (first[:, None] <= numbers) & (numbers <= last[:, None])
