"""What every generator family is: a network, a loss with its noise drawn from a seed, and a sampler."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from metagen.errors import UserError

Draw = dict[str, Tensor]
"""The random numbers of ``B`` losses, each ``[B, ...]``: the same draw gives the same loss."""


@dataclass(frozen=True)
class Condition:
    """Which support images each group of images is conditioned on.

    ``support [N, C, H, W]`` holds every support image once; ``members [T, N]`` says with 0 and 1 which of
    them group ``t`` sees. A batch of ``B`` images is ``T`` equal groups in order.
    """

    support: Tensor
    members: Tensor

    @staticmethod
    def of_tasks(support: Tensor) -> Condition:
        """Each of ``T`` tasks sees its own ``K`` images: ``support [T, K, C, H, W]``."""
        T, K = support.shape[:2]
        members = torch.eye(T, device=support.device).repeat_interleave(K, dim=1)
        return Condition(support.flatten(0, 1), members)

    @staticmethod
    def leave_one_out(support: Tensor) -> Condition:
        """``K`` groups, group ``k`` seeing all of ``support [K, C, H, W]`` but image ``k``.

        So that the inner loop practises what the query asks: to draw an image of the class that is not among
        those shown. One image alone has nothing else to see but itself.
        """
        K = support.shape[0]
        members = 1.0 - torch.eye(K, device=support.device) if K > 1 else torch.ones(1, 1, device=support.device)
        return Condition(support, members)

    @staticmethod
    def withholding(support: Tensor, count: int, rng: torch.Generator) -> Condition:
        """As ``leave_one_out``, with ``count`` images withheld from each group: its own, and others drawn at random.

        Which image is missing names it. Where more are missing than the one that is to be drawn, what a group sees
        leaves open which that is. One image at least is always seen; a ``count`` of 1 draws nothing from ``rng``.
        """
        K = support.shape[0]
        count = min(count, K - 1)
        if count <= 1:
            return Condition.leave_one_out(support)
        order = torch.rand(K, K, generator=rng).fill_diagonal_(2.0)  # its own image is the first to go
        members = torch.ones(K, K).scatter_(1, order.topk(count, dim=1).indices, 0.0)
        return Condition(support, members.to(support.device))


class Family(Protocol):
    """One generator family. It holds no parameters: they are those of the network it builds.

    Made from ``(architecture, options, channels, image_size)``; raises ``ValueError`` for what does not fit, which
    the config reports before any process starts.
    """

    channels: int
    image_size: int
    least_squares: str | None
    """The name of the network's last layer, a convolution or linear layer with bias, if the losses are least squares
    in it (``regression.py`` says how); may be left out."""
    metric: str
    """What ``scores`` measures, with its unit; lower is better. Scores of two models compare where it is the same."""
    first_order_only: str = ""
    """Why estimators that differentiate the gradient itself must refuse this family; empty where they need not. A
    gradient that is not that of one loss, such as two players' field, has no meaningful derivative to go back by."""
    batched: bool = True
    """Whether a batch of networks can compute the losses (``torch.vmap``): not where what is computed depends on the
    numbers that were drawn."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A new network, initialised from torch's generator as it stands."""
        ...

    @abstractmethod
    def draw(self, count: int, rng: torch.Generator) -> Draw:
        """The random numbers of ``count`` losses, on the CPU."""
        ...

    @abstractmethod
    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """One loss an image: ``images [B, C, H, W]`` in [-1, 1] and a draw of ``B`` give float32 ``[B]``.

        A float64 network, which tests use, gives float64.
        """
        ...

    @torch.no_grad()
    def scores(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        """What evaluation measures, one an image: float32 ``[B]``, lower is better. Here: the training losses."""
        return self.losses(network, condition, images, draw)

    @abstractmethod
    def sample(self, network: nn.Module, condition: Condition, count: int, rng: torch.Generator) -> Tensor:
        """``count`` new images for each group: ``[T, count, C, H, W]`` in [-1, 1]."""
        ...


def checked(family: Family, member: str, found: object, shape: tuple[int, ...]) -> Tensor:
    """``found``, which ``member`` of ``family`` gave; raises ``UserError`` if it is no tensor of ``shape``.

    A mean in place of one loss an image would be taken for a loss that all images share, without an error.
    """
    if not isinstance(found, Tensor):
        raise UserError(f"{type(family).__name__}.{member} gave a {type(found).__name__}, not a tensor {[*shape]}")
    if found.shape != shape:
        raise UserError(f"{type(family).__name__}.{member} gave a tensor {[*found.shape]}, not {[*shape]}")
    return found
