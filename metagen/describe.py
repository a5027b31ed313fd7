"""What a config's network is and costs, known before anything is trained: parameters, FLOPs, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from metagen.config import RunConfig
from metagen.generators import Condition, Family
from metagen.seeding import torch_generator
from metagen.work import build_policy, build_problem


@dataclass(frozen=True)
class Layer:
    """One row: a module with parameters or FLOPs of its own."""

    name: str
    kind: str
    shape: tuple[int, ...] | None
    """Output of one image or one support image, without the batch; None if it was not called."""
    parameters: int
    flops_image: int
    """Forward FLOPs of one more image in a training loss (two a multiply-add)."""
    flops_set: int
    """Forward FLOPs that a task's support set costs once, however many images there are."""


@dataclass(frozen=True)
class Description:
    """A config's network, in numbers."""

    name: str
    family: str
    image: tuple[int, int, int]
    shots: int
    layers: tuple[Layer, ...]
    parameters: int
    flops_image: int
    flops_set: int
    flops_sample: int
    """FLOPs of generating one image for one support set, all steps of the sampler included."""
    policy: str
    policy_parameters: int
    precision: str
    memory_parameters: int
    """Bytes: parameters and gradient in the compute dtype and in float32, and two moments."""
    memory_activations: int
    """Bytes that autograd keeps for the backward pass of one inner step of ``shots * draws`` images."""
    phases: tuple[str, ...]

    @property
    def memory(self) -> int:
        """Estimated bytes of one task's inner step; what the allocator, kernels and images take comes on top."""
        return self.memory_parameters + self.memory_activations


def describe(config: RunConfig) -> Description:
    """Build the network that ``config`` names on the CPU and count; trains nothing and loads no images.

    FLOPs are those of the layers' forward passes as PyTorch's counter has them: convolutions, matrix products and
    attention, not elementwise operations. An image's share and the support set's are told apart by counting twice,
    with one query image and with two. ``precision: auto`` counts as fp32.
    """
    precision = "fp32" if config.precision == "auto" else config.precision
    config = config.model_copy(update={"precision": precision, "device": "cpu"})
    problem = build_problem(config)
    family, network, shots = problem.family, problem.network.module, config.episode.shots
    layout = problem.network.layout
    support = torch.zeros(shots, family.channels, family.image_size, family.image_size)

    one, two = (_losses_counted(family, network, support, count) for count in (1, 2))
    sizes = dict(zip(layout.layers, layout.layer_sizes, strict=True))
    modules = dict(network.named_modules())
    names = [name for name in modules if name in sizes or two.flops.get(name, 0)]
    names += [name for name in sizes if name not in modules]  # a parameter of the network itself
    layers = tuple(
        Layer(
            name=name or "(network)",
            kind=type(modules[name]).__name__ if name in modules else "Parameter",
            shape=two.shapes.get(name),
            parameters=sizes.get(name, 0),
            flops_image=two.flops.get(name, 0) - one.flops.get(name, 0),
            flops_set=2 * one.flops.get(name, 0) - two.flops.get(name, 0),
        )
        for name in names
    )
    kept = [_kept_bytes(family, network, support, draws) for draws in (1, 2)]
    policy = build_policy(config)
    return Description(
        name=config.name,
        family=config.generator.family,
        image=(family.channels, family.image_size, family.image_size),
        shots=shots,
        layers=layers,
        parameters=layout.size,
        flops_image=sum(layer.flops_image for layer in layers),
        flops_set=sum(layer.flops_set for layer in layers),
        flops_sample=_sample_flops(family, network, support),
        policy=config.policy.name,
        policy_parameters=len(policy.initial(layout)),
        precision=precision,
        memory_parameters=layout.size * (2 * config.dtype.itemsize + 4 * 4),
        memory_activations=kept[0] + (kept[1] - kept[0]) * (config.episode.draws - 1),
        phases=tuple(
            f"{phase.estimator} x {phase.steps}, {phase.items} items of {phase.tasks} tasks" for phase in config.phases
        ),
    )


def loss_cost(config: RunConfig) -> tuple[int, int, int]:
    """Parameters, and forward FLOPs of one more image in a training loss and of a task's support set, as ``describe``
    counts them, without memory or arithmetic: the network is built of shapes alone."""
    family = config.family()
    with torch.device("meta"):
        network = family.build()
        support = torch.zeros(config.episode.shots, family.channels, family.image_size, family.image_size)
        one, two = (_losses_counted(family, network, support, count) for count in (1, 2))
    totals = [sum(counted.flops.values()) for counted in (one, two)]
    return sum(p.numel() for p in network.parameters()), totals[1] - totals[0], 2 * totals[0] - totals[1]


@dataclass
class _Count:
    """FLOPs by module, its children's left out, and the shape that each put out last."""

    flops: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


@contextmanager
def _counting(network: nn.Module) -> Iterator[_Count]:
    """Count FLOPs within the modules' forward calls alone: a family may take gradients within its loss."""
    count, children = _Count(), [0]
    with ExitStack() as stack:
        counter = stack.enter_context(_flops())
        starts: list[int] = []

        def enter(module: nn.Module, arguments: Any) -> None:
            starts.append(counter.total)
            children.append(0)

        def leave(name: str) -> Any:
            def hook(module: nn.Module, arguments: Any, output: Any) -> None:
                whole = counter.total - starts.pop()
                count.flops[name] = count.flops.get(name, 0) + whole - children.pop()
                children[-1] += whole
                if isinstance(output, Tensor):
                    count.shapes[name] = tuple(output.shape[1:])

            return hook

        for name, module in network.named_modules():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave(name)).remove)
        yield count


def _losses_counted(family: Family, network: nn.Module, support: Tensor, count: int) -> _Count:
    images = support[:1].expand(count, -1, -1, -1).contiguous()
    with torch.device("cpu"):
        drawn = family.draw(count, torch_generator("describe"))
    if support.is_meta:  # whole numbers are places and shifts, whose values a family may look at
        drawn = {n: v.to("meta") if v.is_floating_point() else torch.zeros_like(v) for n, v in drawn.items()}
    with _counting(network) as counted:
        family.losses(network, Condition.of_tasks(support[None]), images, drawn)
    return counted


def _sample_flops(family: Family, network: nn.Module, support: Tensor) -> int:
    with _flops() as counter:
        family.sample(network, Condition.of_tasks(support[None]), 1, torch_generator("describe"))
    return counter.total


class _Counter(TorchDispatchMode):
    """PyTorch's formulas without its tracker of modules, which a family that takes gradients cannot run under."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def _flops() -> Iterator[_Counter]:
    # There is no formula for the CPU's fused attention; as two matrix products there is.
    with sdpa_kernel(SDPBackend.MATH), _Counter() as counter:
        yield counter


def _kept_bytes(family: Family, network: nn.Module, support: Tensor, draws: int) -> int:
    """Bytes of all that autograd keeps of one inner step, each storage once and the parameters left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}
    holding: list[Tensor] = []  # so that no storage is freed and its address given to another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            holding.append(tensor.detach())
        return tensor

    images = support.repeat_interleave(draws, dim=0)
    draw = family.draw(len(images), torch_generator("describe"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        family.losses(network, Condition.leave_one_out(support), images, draw)
    return sum(kept.values())
