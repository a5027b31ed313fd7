"""What is adapted: a generator family and a network on a device, their losses and gradients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metagen.flat import FlatNetwork, Inputs
from metagen.generators.family import Condition, Draw, Family, checked
from metagen.tasks.categories import Sorter
from metagen.tasks.episodes import Episode

Noise = torch.Generator | Draw
"""The random numbers of losses, or the generator to draw them from."""


class Look(NamedTuple):
    """What one gradient is asked of: where, and of which images in which noise."""

    parameters: Tensor
    """``[P]``."""
    condition: Condition
    images: Tensor
    """``[B, C, H, W]``."""
    noise: Draw


class Group(NamedTuple):
    """Episodes that are adapted to in step with each other."""

    episodes: Sequence[Episode]
    rngs: Sequence[torch.Generator]


Slope = tuple[float, Tensor]
"""A mean loss, and its gradient ``[P]``."""


@dataclass(frozen=True)
class Problem:
    """What is adapted and how its loss is taken: a family and a network on a device."""

    family: Family
    network: FlatNetwork
    draws: int
    """Noise draws for each support image in an inner step."""
    adapted: Tensor | None = None
    """Which parameters the inner loop moves, bool ``[P]``; None for all."""
    proximal: float = 0.0
    """Weight ``lambda`` of ``lambda / 2 |phi - theta|^2`` in the inner loss, which ties adaptation to its start."""
    sorter: Sorter | None = None
    """Sorts tasks into categories, for policies to choose by; None for none."""
    withheld: int = 1
    """Support images that an inner step withholds from each target: itself, and beyond 1 others at random."""
    relocate: bool = False
    """Whether an inner step moves each target to a place as likely as its own (``tasks/positions.py``)."""
    shots: int = 1
    """Support images that a learned policy was trained at; 1 where their number makes no difference to it."""
    exact: bool = True
    """Second derivatives in float32, whatever dtype the network computes in."""
    together: int = 1
    """Tasks that the network computes at once: 1 is a loop over tasks, more a batch of networks (``paths.py``)."""

    def __reduce__(self) -> tuple[Callable[..., Problem], tuple[Any, ...]]:
        """By what its network is built from: parameters are views of one vector, which a pickle would tear apart."""
        rest = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        return _rebuilt, (self.network.initial, self.network.device, self.network.dtype, rest)

    def share_of_step(self, shots: int, policy: Tensor) -> float:
        """What of a learned policy's step is taken with ``shots`` images: fewer than it was trained at say less.

        In proportion to the others that each image is seen beside, so with one image none: that one would be seen
        beside itself, and steps along its loss teach a network to copy. A rule without parameters ``policy [G]`` has
        learned nothing, and does as it is told.
        """
        return 1.0 if shots >= self.shots or not len(policy) else (shots - 1) / (self.shots - 1)

    def groups(self, episodes: Sequence[Episode], rngs: Sequence[torch.Generator]) -> Iterator[Group]:
        """Episodes with their generators of noise, as many as are computed at once."""
        for first in range(0, len(episodes), self.together):
            part = slice(first, first + self.together)
            yield Group(episodes[part], rngs[part])

    def gradients(self, looks: Sequence[Look]) -> list[Slope]:
        """The ``gradient`` of each of ``looks``, in order; those alike in shape together, ``together`` at a time."""
        alike: dict[object, list[int]] = defaultdict(list)
        for index, look in enumerate(looks):
            alike[look.images.shape, look.condition.support.shape, look.condition.members.shape].append(index)
        found: dict[int, Slope] = {}
        for indices in alike.values():
            for first in range(0, len(indices), self.together):
                some = indices[first : first + self.together]
                asked = [looks[index] for index in some]
                slopes = [self.gradient(*asked[0])] if len(some) == 1 else self._at_once(asked)
                found.update(zip(some, slopes, strict=True))
        return [found[index] for index in range(len(looks))]

    def _at_once(self, looks: Sequence[Look]) -> list[Slope]:
        """As ``gradients``, of looks alike in shape."""

        def loss(module: nn.Module, inputs: Inputs) -> Tensor:
            condition = Condition(inputs["support"], inputs["members"])
            images = inputs["images"]
            found = self.family.losses(module, condition, images, inputs["draw"])
            return checked(self.family, "losses", found, (len(images),)).mean()

        device = self.network.device
        inputs: Inputs = {
            "support": torch.stack([look.condition.support for look in looks]).to(device),
            "members": torch.stack([look.condition.members for look in looks]).to(device),
            "images": torch.stack([look.images for look in looks]).to(device),
            "draw": {name: torch.stack([look.noise[name] for look in looks]).to(device) for name in looks[0].noise},
        }
        try:
            losses, slopes = self.network.gradients(loss, torch.stack([look.parameters for look in looks]), inputs)
        except RuntimeError as error:
            error.add_note(
                f"Several tasks were computed at once, under torch.vmap. If that is why, set 'batched = False' in "
                f"{type(self.family).__name__}, or 'together: 1' in the config."
            )
            raise
        return list(zip(losses.tolist(), slopes.unbind(), strict=True))

    def gradient(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Slope:
        """Mean loss of ``images [B, C, H, W]`` and its gradient ``[P]`` at ``parameters [P]``."""
        self.network.load(parameters)
        loss = self.losses(self.network.module, condition, images, noise).mean()
        return float(loss.detach()), self.network.gradient(loss, parameters.dtype)

    @torch.no_grad()
    def loss(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """The losses of ``images``, one each ``[B]``, without a gradient."""
        self.network.load(parameters)
        return self.losses(self.network.module, condition, images, noise)

    def differentiable_loss(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """Mean loss of ``images``, differentiable in ``parameters`` twice (see ``FlatNetwork.call``)."""
        return self.network.call(
            lambda module: self.losses(module, condition, images, noise).mean(), parameters, self.exact
        )

    def differentiable_gradient(
        self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """As ``gradient``, with both differentiable in ``parameters``, which must require grad."""
        loss = self.differentiable_loss(parameters, condition, images, noise)
        (slope,) = torch.autograd.grad(loss, parameters, create_graph=True)
        return loss, slope

    def losses(self, module: nn.Module, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """The losses ``[B]`` of ``images`` with a module as it is."""
        return self._measured("losses", module, condition, images, noise)

    @torch.no_grad()
    def scores(self, parameters: Tensor, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        """What evaluation measures of ``images``, one each ``[B]``; lower is better (``family.metric``)."""
        self.network.load(parameters)
        return self._measured("scores", self.network.module, condition, images, noise)

    def _measured(self, member: str, module: nn.Module, condition: Condition, images: Tensor, noise: Noise) -> Tensor:
        device = self.network.device
        numbers = self.family.draw(len(images), noise) if isinstance(noise, torch.Generator) else noise
        draw = {name: value.to(device) for name, value in numbers.items()}
        condition = Condition(condition.support.to(device), condition.members.to(device))
        found = getattr(self.family, member)(module, condition, images.to(device), draw)
        return checked(self.family, member, found, (len(images),))


def _rebuilt(initial: Tensor, device: torch.device, dtype: torch.dtype, rest: dict[str, Any]) -> Problem:
    """The inverse of ``Problem.__reduce__``."""
    with torch.random.fork_rng(devices=[]):
        network = FlatNetwork(rest["family"].build(), device, dtype)
    network.initial.copy_(initial)
    network.load(initial.to(device))
    return Problem(network=network, **rest)
