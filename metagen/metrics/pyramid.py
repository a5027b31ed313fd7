"""The fixed feature space that images are compared in without a network: a pyramid of means."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 3


def pyramid(images: Tensor) -> Tensor:
    """Features ``[N, D]`` of ``images [N, C, H, W]``: the pixels, and their means over 2x2 and 4x4 blocks.

    Scaled so that the squared distance between two images' features is the mean over the three levels of the
    mean squared difference there: 2 between all black (-1) and all white (1). The level of single pixels keeps
    different images apart; the coarser ones make near misses cheaper than far ones, which pixels alone do not
    (Laplacian and Gaussian pyramids as perceptual losses: Bojanowski et al. 2018, arXiv:1707.05776).
    """
    levels = [images]
    while len(levels) < LEVELS and min(levels[-1].shape[-2:]) > 1:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return torch.cat([level.flatten(1) / (len(levels) * level[0].numel()) ** 0.5 for level in levels], dim=1)


class PyramidFeatures:
    """``pyramid`` as an extractor: what pixels say, whatever the images show."""

    def __call__(self, images: Tensor) -> Tensor:
        return pyramid(images.float().cpu())
