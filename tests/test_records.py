from __future__ import annotations

import numpy as np
import pytest
import torch

from metagen.records import finite, packed, unpacked


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_arrives_rounded_to_the_dtype_it_travels_in(dtype: torch.dtype) -> None:
    vector = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 30, 1000)
    vector[:6] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-40])
    arrived = unpacked(packed(vector, dtype))
    assert arrived.dtype == torch.float32
    assert torch.equal(arrived.view(torch.int32), vector.to(dtype).float().view(torch.int32))
    assert packed(vector, dtype).nbytes == 1000 * dtype.itemsize


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpacking_reads_shared_memory_and_never_writes_to_it(dtype: torch.dtype) -> None:
    sent = packed(torch.arange(5.0), dtype).copy()
    sent.flags.writeable = False
    unpacked(sent).add_(1)
    assert np.array_equal(sent, packed(torch.arange(5.0), dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_vector_and_one_with_a_gradient_travel_too(dtype: torch.dtype) -> None:
    assert unpacked(packed(torch.zeros(0), dtype)).shape == (0,)
    assert unpacked(packed(torch.ones(2, requires_grad=True), dtype)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, -1e-40, 3e38, -3e38, float("inf"), float("-inf"), float("nan")])
def test_a_vector_is_finite_if_all_of_it_is(value: float, dtype: torch.dtype) -> None:
    vector = torch.linspace(-1, 1, 99)
    vector[57] = value
    assert finite(packed(vector, dtype)) is bool(vector.to(dtype).isfinite().all())
    assert finite(packed(vector[:0], dtype))


def test_of_all_bf16_numbers_those_with_all_bits_of_the_exponent_set_are_not_finite() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    plain = torch.isfinite(torch.from_numpy(every).view(torch.bfloat16))
    assert [finite(every[i : i + 1]) for i in range(1 << 16)] == plain.tolist()
    assert finite(every[plain.numpy()])
