"""What travels of a sum of meta-gradients from a node to the learner: fp32, bf16, or int8 with error feedback.

A sender adds what it could not say the last time to what it says next (Seide et al. 2014; Karimireddy et al. 2019,
arXiv:1901.09847): after any number of steps, what was received and what the senders still hold make up what was sent.
So the only thing to be kept of all senders is the sum of their residuals, and any one of them can go on with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metagen.probes import reported
from metagen.records import Vector, WorkResult, borrowed, packed, unpacked

Wire = Literal["auto", "fp32", "bf16", "int8"]
BLOCK = 1024
"""Numbers that share a scale."""
CACHED = 1 << 16
"""Numbers of a sum that a core's own cache holds."""


@dataclass(frozen=True)
class Quantised:
    """``x ~ values * scale``, with a scale for every ``BLOCK`` numbers."""

    values: NDArray[np.int8]
    """``[P]``, from -127 to 127."""
    scales: NDArray[np.float32]


Sent = Vector | Quantised


def quantised(vector: Tensor) -> Quantised:
    """``vector [P]``, rounded to the nearest of 255 values a block: off by half a scale at most."""
    blocks = torch.nn.functional.pad(vector, (0, -len(vector) % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1) / 127
    values = (blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round_().clamp_(-127, 127)
    return Quantised(values.to(torch.int8).flatten()[: len(vector)].numpy(), scales.numpy())


def received(sent: Sent) -> Tensor:
    """What a sender said, as a float32 tensor ``[P]`` of its own."""
    if not isinstance(sent, Quantised):
        return unpacked(sent)
    values = torch.tensor(sent.values).float()
    return values.mul_(torch.tensor(sent.scales).repeat_interleave(BLOCK)[: len(values)])


class Sender:
    """One end of a link; holds its residual ``[P]``."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.residual = torch.zeros(0)

    def send(self, total: Tensor) -> Sent:
        """``total [P]`` as it travels."""
        if self.wire != "int8":
            return packed(total, torch.bfloat16 if self.wire == "bf16" else torch.float32)
        if not bool(torch.isfinite(total).all()):  # for the learner to judge; a residual of it would never go away
            return packed(total, torch.float32)
        meant = total + self.residual if len(self.residual) else total
        sent = quantised(meant)
        self.residual = meant - received(sent)
        return sent


def summed(vectors: Sequence[Vector], weights: Sequence[float], size: int) -> Tensor:
    """The weighted sum of ``vectors [P]``, in the order given, as a new float32 tensor."""
    sums = torch.zeros(size)
    # A part of the sum stays in the cache while all vectors are added to it: each is read once, and that is all.
    parts = sums.split(CACHED)
    for i, pieces in enumerate(zip(*(borrowed(vector).split(CACHED) for vector in vectors), strict=True)):
        for piece, weight in zip(pieces, weights, strict=True):
            parts[i].add_(piece, alpha=weight)
    return sums


def total(
    results: Sequence[WorkResult], weights: Sequence[float], parameters: int, policy: int
) -> tuple[Tensor, Tensor]:
    """The weighted sums of meta-gradients ``[P]`` and policy updates ``[G]``, in the order given."""
    if not any(result.probes for result in results):
        gradients, updates = [result.gradient for result in results], [result.policy_update for result in results]
        return summed(gradients, weights, parameters), summed(updates, weights, policy)
    gradient, policy_gradient = torch.zeros(parameters), torch.zeros(policy)
    for result, weight in zip(results, weights, strict=True):
        slope, policy_slope = reported(result, parameters, policy)
        gradient.add_(slope, alpha=weight)
        policy_gradient.add_(policy_slope, alpha=weight)
    return gradient, policy_gradient
