"""The packaged features: a small network that was trained to tell the meta-training classes apart.

No class of the validation or test split, and nothing of any other data set, had a part in its training, so it favours
no generator that is evaluated on them. ``benchmarks/feature_classifier.py`` trains it and says how good it is.
"""

from __future__ import annotations

from importlib import resources

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

SIZE = 28
FEATURES = 64
WIDTHS = (48, 96)
BATCH = 512
WEIGHTS = "strokes.safetensors"


class StrokeNet(nn.Module):
    """Grey images ``[N, 1, 28, 28]`` to features ``[N, FEATURES]`` of length ``sqrt(FEATURES)``.

    A stem and two stages of two residual blocks at 14x14 and 7x7; the features are a linear map of the last maps' means
    and maxima. At that length the inner product over their number, which KID's kernel takes, is their cosine.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second = WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(1, first, 5, 2, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.stages = nn.Sequential(
            Block(first, first), Block(first, first), Block(first, second, 2), Block(second, second)
        )
        self.out = nn.Linear(2 * second, FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stages(self.stem(images))
        pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
        return F.normalize(self.out(pooled)) * FEATURES**0.5


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        same = stride == 1 and inside == outside
        self.shortcut = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class StrokeFeatures:
    """``StrokeNet`` with the packaged weights, as an extractor.

    Images of another size are resized to 28 pixels, colours become grey. Ink has to be bright on dark ground, as in the
    packaged set.
    """

    def __init__(self) -> None:
        self.network = StrokeNet().eval()
        data = resources.files("metagen.metrics").joinpath("data", WEIGHTS).read_bytes()
        self.network.load_state_dict({name: value.float() for name, value in load(data).items()})

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        grey = images.float().cpu().mean(1, keepdim=True)
        if grey.shape[-1] != SIZE:
            grey = F.interpolate(grey, (SIZE, SIZE), mode="bilinear", antialias=True)
        return torch.cat([self.network(part) for part in grey.split(BATCH)])
