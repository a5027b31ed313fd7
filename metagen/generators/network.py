"""The builder: an ``ArchitectureConfig`` becomes one set-conditioned encoder-decoder.

Shapes: ``B`` images in ``T`` groups (tasks) of ``B // T``; ``N`` support images; ``C, H, W`` an image;
``E`` the embedding. A network reads ``(x [B, C, H, W], time [B], context)`` and gives ``[B, C, H, W]``.

Set-conditioning is split in two so that every support image is encoded once: ``encode`` gives features an
image, ``pool`` averages them over the members of each group (Neural Statistician, Edwards & Storkey 2017;
spatial feature maps as in FSDM, Giannone et al. 2022).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metagen.generators.architecture import ArchitectureConfig
from metagen.generators.family import Condition

Features = list[Tensor]
"""Set features: one map a level ``[N, width, h, w]``, then one vector ``[N, E]``."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
}


def norm(kind: str, channels: int) -> nn.Module:
    """The normalisation that an architecture asks for; each looks at one image at a time."""
    if kind == "group":
        # Groups of 16 channels or more: smaller ones are much slower in channels_last on CPU.
        groups = next(g for g in (8, 4, 2, 1) if channels % g == 0 and (channels // g >= 16 or g == 1))
        return nn.GroupNorm(groups, channels)
    return nn.GroupNorm(1, channels) if kind == "layer" else nn.Identity()


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, zero: bool = False) -> nn.Conv2d:
    """A padded convolution with zero bias; ``zero`` starts its weights at zero too."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    if zero:
        nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """Two convolutions with FiLM between them: ``conv(act(film(norm(conv(act(norm(x)))))))``.

    ``connectivity`` decides how input and output meet: replaced (plain), added (residual) or
    concatenated and mixed by a 1x1 convolution (dense).
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, arch: ArchitectureConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[arch.activation]
        self.connectivity = arch.connectivity
        self.norm1 = norm(arch.normalisation, inputs)
        self.conv1 = conv(inputs, outputs, arch.kernel)
        self.norm2 = norm(arch.normalisation, outputs)
        self.film = nn.Linear(embedding, 2 * outputs) if embedding else None
        self.conv2 = conv(outputs, outputs, arch.kernel, zero=arch.connectivity == "residual")
        if arch.connectivity == "dense":
            self.mix: nn.Module = conv(inputs + outputs, outputs, 1)
        elif arch.connectivity == "residual" and inputs != outputs:
            self.mix = conv(inputs, outputs, 1)
        else:
            self.mix = nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.norm2(self.conv1(self.act(self.norm1(x))))
        if self.film is not None and embedding is not None:
            scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(h + shift, h, scale)
        h = self.conv2(self.act(h))
        if self.connectivity == "plain":
            return h
        if self.connectivity == "dense":
            return self.mix(torch.cat([x, h], dim=1))
        return self.mix(x) + h


class Attention(nn.Module):
    """Self-attention over the pixels of a feature map, added to it."""

    def __init__(self, channels: int, arch: ArchitectureConfig) -> None:
        super().__init__()
        # About 32 channels a head: as many heads as divide the channels.
        self.heads = next(heads for heads in range(max(1, channels // 32), 0, -1) if channels % heads == 0)
        self.norm = norm(arch.normalisation, channels)
        self.qkv = conv(channels, 3 * channels, 1)
        self.out = conv(channels, channels, 1, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(-1, -2).reshape(B, C, H, W))


class Stage(nn.Module):
    """The blocks of one level, then its attention if it has one."""

    def __init__(self, inputs: int, width: int, embedding: int, arch: ArchitectureConfig, attention: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(inputs if i == 0 else width, width, embedding, arch) for i in range(arch.blocks)
        )
        self.attention = Attention(width, arch) if attention else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        return x if self.attention is None else self.attention(x)


class Down(nn.Module):
    def __init__(self, inputs: int, outputs: int, arch: ArchitectureConfig) -> None:
        super().__init__()
        self.pool = arch.resampling == "pool"
        self.conv = conv(inputs, outputs, 1 if self.pool else 3, stride=1 if self.pool else 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.avg_pool2d(x, 2) if self.pool else x)


class Up(nn.Module):
    """Double the resolution: by sub-pixel convolution (``conv``) or nearest-neighbour (``pool``)."""

    def __init__(self, inputs: int, outputs: int, arch: ArchitectureConfig) -> None:
        super().__init__()
        self.pool = arch.resampling == "pool"
        self.conv = conv(inputs, outputs if self.pool else 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return F.interpolate(h, scale_factor=2.0) if self.pool else F.pixel_shuffle(h, 2)


class SetEncoder(nn.Module):
    """Support images to features: a map a level and one vector."""

    def __init__(self, channels: int, arch: ArchitectureConfig) -> None:
        super().__init__()
        widths = [max(16, int(width * arch.set_width) // 16 * 16) for width in arch.widths]
        self.spatial = arch.set_conditioning == "spatial"
        self.patch = arch.patch
        self.stem = conv(channels * arch.patch**2, widths[0], 3)
        self.stages = nn.ModuleList(Stage(w, w, 0, arch, attention=False) for w in widths)
        self.downs = nn.ModuleList(Down(a, b, arch) for a, b in itertools.pairwise(widths))
        self.vector = nn.Linear(2 * widths[-1], arch.embedding)
        self.widths = widths

    def forward(self, images: Tensor) -> Features:
        h = self.stem(F.pixel_unshuffle(images, self.patch) if self.patch > 1 else images)
        maps: Features = []
        for level, stage in enumerate(self.stages):
            h = stage(h if level == 0 else self.downs[level - 1](h))
            maps.append(h)
        vector = self.vector(torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1))
        return [*maps, vector] if self.spatial else [vector]


def compute_dtype(network: nn.Module) -> torch.dtype:
    """The dtype that a network computes in."""
    return next(network.parameters()).dtype


def prepared(network: nn.Module, images: Tensor) -> Tensor:
    """``images [B, C, H, W]`` as a network reads them: in its dtype, channels last."""
    return channels_last(images.to(compute_dtype(network)))


def channels_last(maps: Tensor) -> Tensor:
    """``maps [B, C, H, W]`` with the channels of a pixel side by side in memory, as fast kernels read them."""
    # As a permutation: within torch.vmap there is no memory format to ask for.
    return maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def wide(values: Tensor) -> Tensor:
    """What a network gave, with the digits that a loss needs: float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def time_features(time: Tensor, size: int) -> Tensor:
    """Sinusoidal features of a time in [0, 1]: ``[B] -> [B, size]``."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(200.0), size // 2, device=time.device))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class SetConditioned(nn.Module):
    """A network that a support set can be shown to, through the set encoder ``set`` if it has one."""

    set: nn.Module | None

    def encode(self, images: Tensor) -> Features:
        """Features of each support image ``[N, C, H, W]``: a map a level, then a vector."""
        features: Features = [] if self.set is None else self.set(images)
        return features


class SetConditionedUNet(SetConditioned):
    """The network of every image-to-image family: noise-level and set-conditioned encoder-decoder."""

    def __init__(self, arch: ArchitectureConfig, channels: int, image_size: int) -> None:
        super().__init__()
        arch.check_image_size(image_size)
        self.arch = arch
        widths, E = arch.widths, arch.embedding
        self.act = ACTIVATIONS[arch.activation]
        self.time1, self.time2 = nn.Linear(64, E), nn.Linear(E, E)
        self.set = SetEncoder(channels, arch) if arch.set_conditioning != "none" else None
        spatial = arch.set_conditioning == "spatial"
        self.stem = conv(channels * arch.patch**2, widths[0], 3)
        levels = range(len(widths))
        self.down_stages = nn.ModuleList(Stage(widths[i], widths[i], E, arch, arch.attends(i)) for i in levels)
        self.downs = nn.ModuleList(Down(widths[i], widths[i + 1], arch) for i in levels[:-1])
        self.ups = nn.ModuleList(Up(widths[i + 1], widths[i], arch) for i in levels[:-1])
        self.up_stages = nn.ModuleList(
            Stage(widths[i] * (2 if arch.skips else 1), widths[i], E, arch, arch.attends(i)) for i in levels[:-1]
        )
        if self.set is not None and spatial:
            self.hints_down = nn.ModuleList(conv(2 * self.set.widths[i], widths[i], 1) for i in levels)
            self.hints_up = nn.ModuleList(conv(2 * self.set.widths[i], widths[i], 1) for i in levels[:-1])
        self.norm = norm(arch.normalisation, widths[0])
        self.out = conv(widths[0], channels * arch.patch**2, 3, zero=True)

    def forward(self, x: Tensor, time: Tensor, context: Features) -> Tensor:
        """``x [B, C, H, W]``, ``time [B]`` in [0, 1], ``context`` of ``T`` groups -> ``[B, C, H, W]``."""
        B = x.shape[0]
        e = self.time2(self.act(self.time1(time_features(time, 64).to(x.dtype))))
        if self.set is not None:
            vector = context[-1]
            e = e + vector.repeat_interleave(B // vector.shape[0], dim=0)
        e = self.act(e)
        maps = context[:-1]

        h = self.stem(F.pixel_unshuffle(x, self.arch.patch) if self.arch.patch > 1 else x)
        kept: list[Tensor] = []
        for level, stage in enumerate(self.down_stages):
            if level:
                h = self.downs[level - 1](h)
            if maps:
                h = hinted(h, self.hints_down[level](maps[level]))
            h = stage(h, e)
            kept.append(h)
        for level in reversed(range(len(self.ups))):
            h = self.ups[level](h)
            if maps:
                h = hinted(h, self.hints_up[level](maps[level]))
            h = self.up_stages[level](torch.cat([h, kept[level]], dim=1) if self.arch.skips else h, e)
        h = self.out(self.act(self.norm(h)))
        return F.pixel_shuffle(h, self.arch.patch) if self.arch.patch > 1 else h


def hinted(h: Tensor, maps: Tensor) -> Tensor:
    """``h [B, width, h, w]`` with its group's map of ``maps [T, width, h, w]`` added to every image."""
    T = maps.shape[0]
    return (h.unflatten(0, (T, h.shape[0] // T)) + maps[:, None]).flatten(0, 1)


def pool(features: Features, members: Tensor) -> Features:
    """Pool ``features [N, ...]`` over each group's members, ``members [T, N]`` of 0 and 1: ``[T, ...]``.

    Vectors are averaged; of maps the mean and the standard deviation over the set are kept, side by side:
    where the shown images agree and where they differ. A group without members gets zeros, as deviations the floor: no
    condition.
    """
    weights = members / members.sum(1, keepdim=True).clamp_min(1)
    pooled: Features = []
    for feature in features:
        w = weights.to(feature.dtype)
        if feature.ndim == 2:
            pooled.append(w @ feature)
            continue
        pixels = feature.movedim(1, -1)  # as they lie in memory: [N, h, w, C]
        rows = pixels.flatten(1)
        mean = w @ rows
        # In bf16 off by one or two percent, which costs nothing; a second pass costs time (docs/log.md).
        variance = w @ rows.square() - mean.square()
        # The floor keeps the root's slope finite where a set of one image has no spread.
        both = [part.unflatten(1, pixels.shape[1:]) for part in (mean, variance.clamp_min(1e-4).sqrt())]
        pooled.append(torch.cat(both, dim=-1).movedim(-1, 1))
    return pooled


def shown(network: nn.Module, condition: Condition) -> Features:
    """What a set-conditioned network makes of each support image ``[N, ...]``; nothing where it has no set encoder."""
    assert isinstance(network, SetConditioned)
    return network.encode(prepared(network, condition.support))


def context_of(network: nn.Module, condition: Condition) -> Features:
    """What each group of ``condition`` tells a set-conditioned network: pooled features ``[T, ...]``."""
    return pool(shown(network, condition), condition.members)
