"""The laws of what travels: rounding is bounded, error feedback loses nothing, a resumed run goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metagen.checkpoint import load_checkpoint, save_checkpoint
from metagen.pool import SerialPool
from metagen.records import packed, unpacked
from metagen.train import to_save, train
from metagen.wire import BLOCK, CACHED, Sender, quantised, received, summed


@given(st.integers(1, 3 * BLOCK), st.floats(1e-12, 1e12), st.integers(0, 99))
def test_int8_is_off_by_half_a_scale_at_most(size: int, scale: float, seed: int) -> None:
    vector = scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    sent = quantised(vector)
    assert sent.values.shape == (size,)
    largest = torch.nn.functional.pad(vector, (0, -size % BLOCK)).view(-1, BLOCK).abs().amax(1)
    bound = (largest / 127 / 2).repeat_interleave(BLOCK)[:size]
    assert bool(((received(sent) - vector).abs() <= 1.001 * bound).all())


@pytest.mark.parametrize("vector", [torch.zeros(5), torch.zeros(0), torch.full((3,), 1e-44)])
def test_nothing_and_next_to_nothing_travel(vector: torch.Tensor) -> None:
    assert torch.allclose(received(quantised(vector)), vector, atol=1e-40)


def test_what_was_received_and_what_is_held_back_make_up_what_was_sent() -> None:
    rng, sender = torch.Generator().manual_seed(0), Sender("int8")
    sent = heard = torch.zeros(2000, dtype=torch.float64)
    for _ in range(50):
        total = torch.randn(2000, generator=rng)
        sent = sent + total
        heard = heard + received(sender.send(total))
    assert torch.allclose(heard + sender.residual, sent, atol=1e-4)
    assert float((heard - sent).abs().max()) < 0.03  # one rounding, not fifty
    plain = sum(received(quantised(torch.randn(2000, generator=rng))) for _ in range(2))
    assert plain.shape == (2000,)


def test_what_is_not_finite_travels_as_it_is_and_leaves_no_residual() -> None:
    sender = Sender("int8")
    sender.send(torch.randn(10, generator=torch.Generator().manual_seed(0)))
    before = sender.residual.clone()
    assert torch.isinf(received(sender.send(torch.full((10,), float("inf"))))).all()
    assert torch.equal(sender.residual, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 3, 2 * CACHED + 5])
def test_sums_are_those_of_adding_one_vector_after_the_other(dtype: torch.dtype, size: int) -> None:
    rng = torch.Generator().manual_seed(0)
    vectors, weights = [packed(torch.randn(size, generator=rng), dtype) for _ in range(3)], [0.5, 0.3, 0.2]
    plain = torch.zeros(size)
    for vector, weight in zip(vectors, weights, strict=True):
        plain.add_(unpacked(vector), alpha=weight)
    assert torch.equal(summed(vectors, weights, size), plain)
    with pytest.raises((ValueError, RuntimeError)):
        summed([vectors[0], packed(torch.zeros(size + CACHED), dtype)], weights[:2], size)


@pytest.mark.parametrize("wire", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_resumed_run_equals_the_uninterrupted_one_on_every_wire(
    wire: str, stop: int, tmp_path: Path, tiny_config: Any, new_learner: Any, run_to_end: Any, assert_same_state: Any
) -> None:
    config = tiny_config(f"wire={wire}")
    whole, _ = run_to_end(config)
    first, parts = new_learner(config)
    pool = SerialPool(parts)
    steps = train(first, pool)
    for _ in range(stop):
        next(steps)
    save_checkpoint(tmp_path / "c", config, first.layout, to_save(first, pool))
    second, parts = new_learner(config)
    second.state = load_checkpoint(tmp_path / "c").state
    assert bool(len(second.state.residual)) == (wire == "int8" and stop != 3)  # nothing is held back between phases
    list(train(second, SerialPool(parts)))
    assert_same_state(second.state, whole)


@pytest.mark.ray
@pytest.mark.parametrize("changes", [("wire=fp32",), ("wire=int8",), ("pool.aggregate=1",)])
def test_sums_made_on_one_node_are_those_of_the_serial_pool_bit_for_bit(
    changes: tuple[str, ...], tiny_config: Any, run_to_end: Any, on_ray: Any, assert_same_state: Any
) -> None:
    config = tiny_config(*changes)
    serial, _ = run_to_end(config)
    parallel, _ = run_to_end(config, on_ray(2))
    assert_same_state(parallel, serial)
    if changes != ("wire=int8",):
        plain, _ = run_to_end(tiny_config())
        assert torch.equal(plain.theta, serial.theta)
