from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from metagen.errors import UserError
from metagen.flat import FlatNetwork, Layers, layout_of


class Net(nn.Module):
    """Every kind of parameter: a convolution, a norm, a linear layer, a bare one, and one that the loss ignores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.inner = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1, bias=False))
        self.scale = nn.Parameter(torch.rand(3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.inner(h) * self.scale.sum()


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def _flat(net: Net, dtype: torch.dtype = torch.float32) -> FlatNetwork:
    return FlatNetwork(copy.deepcopy(net), torch.device("cpu"), dtype)


def test_flatten_and_unflatten_are_inverse(net: Net) -> None:
    layout = layout_of(net)
    tensors = dict(net.named_parameters())
    flat = layout.flatten(tensors)
    assert flat.shape == (layout.size,) == (sum(p.numel() for p in net.parameters()),)
    back = layout.unflatten(flat)
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)
    vector = torch.randn(layout.size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(layout.flatten(layout.unflatten(vector)), vector)


def test_unflattened_tensors_share_memory_and_kernels_lie_channels_last(net: Net) -> None:
    layout = layout_of(net)
    flat = torch.zeros(layout.size)
    views = layout.unflatten(flat)
    assert views["conv.weight"].is_contiguous(memory_format=torch.channels_last)
    for number, view in enumerate(views.values(), start=1):
        view.fill_(number)
    counts = [int((flat == number).sum()) for number in range(1, len(views) + 1)]
    assert counts == [p.numel() for p in net.parameters()]


def test_a_layer_is_a_module_with_its_weight_and_bias(net: Net) -> None:
    layout = layout_of(net)
    sizes = dict(zip(layout.layers, layout.layer_sizes, strict=True))
    assert sizes == {"scale": 3, "conv": 6 * 2 * 9 + 6, "norm": 12, "inner.0": 28, "inner.2": 4, "unused": 6}


def test_kernels_are_the_convolutions_as_matrices_with_outputs_as_rows() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 3, 1))
    layout = layout_of(module)
    flat = layout.flatten(dict(module.named_parameters()))
    found = [flat[start : start + rows * columns].view(rows, columns) for start, rows, columns in layout.kernels()]
    expected = [p.permute(0, 2, 3, 1).flatten(1) for p in module.parameters() if p.ndim == 4]
    assert len(found) == len(expected) == 2
    for matrix, kernel in zip(found, expected, strict=True):
        assert torch.equal(matrix, kernel)


def test_sums_over_layers_and_values_spread_over_layers(net: Net) -> None:
    layout = layout_of(net)
    layers = Layers(layout, torch.device("cpu"))
    a, b = torch.randn(2, layout.size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    spread = layers.spread(torch.arange(layers.count, dtype=torch.float64))
    for index, dot in enumerate(layers.dot(a, b)):
        assert torch.isclose(dot, (a * b)[spread == index].sum())
    assert [int((spread == index).sum()) for index in range(layers.count)] == list(layout.layer_sizes)


def test_the_gradient_is_autograds(net: Net) -> None:
    network = _flat(net)
    x = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(3))
    loss = network.module(x).square().mean()
    expected = torch.autograd.grad(net(x).square().mean(), list(net.parameters()), allow_unused=True)
    gradient = network.layout.unflatten(network.gradient(loss))
    for (name, parameter), slope in zip(net.named_parameters(), expected, strict=True):
        reference = torch.zeros_like(parameter) if slope is None else slope
        assert torch.allclose(gradient[name], reference, rtol=1e-5, atol=1e-8), name
    assert not gradient["unused.weight"].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_do_not_add_up_nor_change_after_they_were_given(net: Net, dtype: torch.dtype) -> None:
    network = _flat(net, dtype)
    x = torch.ones(2, 2, 4, 4, dtype=dtype)
    first = network.gradient(network.module(x).float().sum())
    kept = first.clone()
    second = network.gradient(network.module(x).float().sum())
    assert first.dtype == torch.float32
    assert torch.equal(first, kept)
    assert torch.equal(first, second)


def test_loading_copies_and_rounds_to_the_compute_dtype(net: Net) -> None:
    network = _flat(net, torch.bfloat16)
    vector = torch.randn(network.layout.size, generator=torch.Generator().manual_seed(4))
    before = vector.clone()
    network.load(vector)
    held = network.layout.flatten(dict(network.module.named_parameters()))
    assert torch.equal(held, vector.bfloat16().float())
    network.gradient(network.module(torch.ones(1, 2, 4, 4, dtype=torch.bfloat16)).float().sum())
    assert torch.equal(vector, before)


def test_the_initial_parameters_are_the_modules_in_full_precision(net: Net) -> None:
    network = _flat(net, torch.bfloat16)
    assert torch.equal(network.initial, layout_of(net).flatten(dict(net.named_parameters())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_call_computes_with_other_parameters_in_float32_and_leaves_the_modules_own_alone(
    net: Net, dtype: torch.dtype
) -> None:
    flat = _flat(net, dtype)
    rng = torch.Generator().manual_seed(1)
    x, others = torch.randn(2, 2, 4, 4, generator=rng), torch.randn(flat.layout.size, generator=rng)
    before = [parameter.clone() for parameter in flat.module.parameters()]
    point = others.clone().requires_grad_()
    value = flat.call(lambda module: module(x).square().sum(), point)
    plain = _flat(net)
    plain.load(others)
    loss = plain.module(x).square().sum()
    assert value.dtype == torch.float32
    assert torch.allclose(value, loss)
    (slope,) = torch.autograd.grad(value, point, create_graph=True)
    assert torch.allclose(slope, plain.gradient(loss), rtol=1e-4, atol=1e-5)
    (second,) = torch.autograd.grad(slope.square().sum(), point)
    assert second.any()
    assert all(torch.equal(a, b) for a, b in zip(flat.module.parameters(), before, strict=True))


def test_a_subset_is_what_the_patterns_name(net: Net) -> None:
    layout = layout_of(net)
    subset = layout.subset(["conv.*", "inner.0.b*"])
    named = {name for name, view in layout.unflatten(subset.float()).items() if view.any()}
    assert named == {"conv.weight", "conv.bias", "inner.0.bias"}
    assert int(subset.sum()) == sum(dict(net.named_parameters())[name].numel() for name in named)
    assert layout.subset(["*"]).all()


def test_a_parameter_that_needs_no_gradient_is_refused(net: Net) -> None:
    """One path of the meta-gradient would leave it as it is, and another would learn it."""
    net.inner[0].requires_grad_(False)
    with pytest.raises(UserError, match=r"'inner\.0\.weight' needs no gradient.*buffer"):
        _flat(net)
