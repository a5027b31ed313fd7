"""What a support set looks like in a few fixed numbers: for policies that choose by task, and to sort tasks by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 4
SIZE = GRID * GRID + 5


def embed(support: Tensor) -> Tensor:
    """Features ``[SIZE]`` of ``support [K, C, H, W]`` in [-1, 1], float32, whatever its form.

    Where the ink lies (the set's mean picture on a 4x4 grid), and how much there is, its contrast, how long its
    edges are across and down, and how far the images differ from their mean. All lie within a few units of 0, and
    the order of the images does not matter.
    """
    grey = (support.detach().float().mean(1, keepdim=True) + 1) / 2
    mean = grey.mean(0, keepdim=True)
    # interpolate pools and, for images smaller than the grid, repeats
    where = F.interpolate(mean, size=(GRID, GRID), mode="area").flatten()
    down, across = grey.diff(dim=2).abs().mean(), grey.diff(dim=3).abs().mean()
    spread = (grey - mean).square().mean().sqrt()
    contrast = (grey - grey.mean(dim=(1, 2, 3), keepdim=True)).square().mean().sqrt()
    return torch.cat([where, torch.stack([grey.mean(), contrast, 4 * down, 4 * across, 2 * spread])])
