from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from cluster import pool as pool_module
from cluster.actor import Order
from cluster.connect import start_ray
from cluster.pool import RayPool
from metagen import work
from metagen.errors import UserError
from metagen.learner import Learner
from metagen.pool import Crew, Pool, SerialPool
from metagen.records import Snapshot, WorkItem, WorkResult

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def learner_and_parts(new_learner: Any, tiny_config: Any) -> tuple[Learner, work.Parts]:
    return new_learner(tiny_config("phases.0.items=7"))


@pytest.fixture(scope="module")
def pool(ray_session: None, learner_and_parts: tuple[Learner, work.Parts]) -> Iterator[RayPool]:
    """Two actors of a tiny run."""
    _, parts = learner_and_parts
    pool = RayPool(parts.config, parts.images, workers=2)
    yield pool
    pool.close()


def test_an_order_is_read_as_it_was_written(tiny_config: Any) -> None:
    item, policy = work.plan(tiny_config(), 2, 2)[1], np.array([0.5, -1e-30], np.float32)
    read = Order.read(Order(item, 7, policy).written())
    assert (read.item, read.version) == (item, 7)
    assert np.array_equal(read.policy, policy)


def _work_through(pool: Pool, items: list[WorkItem], snapshot: Snapshot, expected: int = 0) -> dict[int, WorkResult]:
    """The results of ``items`` by their index, the last of each where more than these are ``expected``."""
    pool.submit(items, snapshot)
    results = [pool.take() for _ in range(expected or len(items))]
    return {result.index: result for result in sorted(results, key=lambda result: result.version)}


def _broken_pool(name: str, new_learner: Any, tiny_config: Any) -> RayPool:
    config = tiny_config(f"phases.0.estimator=faults:{name}", "phases.0.options={query_at: {0: 1}}")
    learner, parts = new_learner(config)
    pool = RayPool(config, parts.images, workers=1)
    pool.submit(work.plan(config, 0, 0), learner.snapshot())
    return pool


def test_every_item_comes_back_once_with_the_serial_pools_result(
    pool: RayPool, learner_and_parts: tuple[Learner, work.Parts]
) -> None:
    learner, parts = learner_and_parts
    items = work.plan(learner.config, 0, 0)
    results = _work_through(pool, items, learner.snapshot())
    assert len(results) == len(items) == 7
    assert {result.worker for result in results.values()} == {"actor-0", "actor-1"}
    for expected in _work_through(SerialPool(parts), items, learner.snapshot()).values():
        assert np.array_equal(results[expected.index].gradient, expected.gradient)
        assert np.array_equal(results[expected.index].policy_update, expected.policy_update)
        assert results[expected.index].metrics == expected.metrics


def test_how_long_a_piece_may_take_is_told_by_those_of_its_phase(
    pool: RayPool, learner_and_parts: tuple[Learner, work.Parts]
) -> None:
    learner, _ = learner_and_parts
    items = work.plan(learner.config, 0, 0)
    _work_through(pool, items, learner.snapshot())
    usual = pool._usual()
    assert usual[0] < pool_module.LONE_SECONDS == usual[1]


def test_a_result_that_nobody_works_on_is_a_bug(pool: RayPool) -> None:
    pool.submit([], Snapshot(0, np.zeros(0, np.float32), np.zeros(0, np.float32)))
    with pytest.raises(LookupError, match="no work is under way"):
        pool.take()


def test_actors_work_on_the_snapshot_of_the_item(pool: RayPool, learner_and_parts: tuple[Learner, work.Parts]) -> None:
    learner, _ = learner_and_parts
    items = work.plan(learner.config, 0, 0)
    before = _work_through(pool, items, learner.snapshot())
    moved = Learner(learner.config, learner.layout, learner.state)
    moved.step(list(before.values()))
    pool.submit(items, learner.snapshot())
    after = _work_through(pool, items, moved.snapshot(), expected=2 * len(items))
    assert {result.version for result in after.values()} == {1}
    assert not np.array_equal(after[0].gradient, before[0].gradient)


def test_an_actor_killed_between_two_steps_is_replaced(
    pool: RayPool, learner_and_parts: tuple[Learner, work.Parts]
) -> None:
    learner, _ = learner_and_parts
    items = work.plan(learner.config, 1, 0)
    before = _work_through(pool, items, learner.snapshot())
    ray.kill(pool._roster.members[0].handle)
    after = _work_through(pool, items, learner.snapshot())
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[index].gradient, before[index].gradient) for index in before)


def test_what_a_frozen_actor_holds_is_done_by_another_and_the_actor_is_replaced(
    pool: RayPool, learner_and_parts: tuple[Learner, work.Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, _ = learner_and_parts
    items = work.plan(learner.config, 1, 0)
    before = _work_through(pool, items, learner.snapshot())
    deadline = time.monotonic() + 60
    while len(pool._roster.able) < 2:  # one of the tests before has killed one
        pool._roster.tend()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    events = dict(pool.events)
    monkeypatch.setattr(pool_module, "FROZEN_SECONDS", 0.0)
    os.kill(ray.get(pool._roster.members[0].handle.__ray_call__.remote(lambda actor: os.getpid())), signal.SIGSTOP)
    after = _work_through(pool, items, learner.snapshot())
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[index].gradient, before[index].gradient) for index in before)
    assert pool.events["backups"] == events.get("backups", 0) + 1
    while pool.events.get("frozen", 0) == 0:
        pool._tend()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {result.worker for result in after.values()} == {"actor-1"}


def test_a_run_begins_with_the_least_actors_and_others_join(
    ray_session: None, learner_and_parts: tuple[Learner, work.Parts]
) -> None:
    """There is room for more than one actor here; how many more come is the cluster's size."""
    _, parts = learner_and_parts
    pool = RayPool(parts.config, parts.images, [Crew(1, None)])
    try:
        deadline = time.monotonic() + 60
        while pool.workers == 1:
            pool._roster.tend()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(pool._roster.members) == 4  # as many as the session's Ray has cores; some wait for room
    finally:
        pool.close()


def test_a_run_without_actors_gives_up_in_one_line(ray_session: None, new_learner: Any, tiny_config: Any) -> None:
    _, parts = new_learner(tiny_config("pool.patience=0.5"))
    with pytest.raises(UserError, match=r"no actor for 0.5 s: .*raise pool.patience") as caught:
        RayPool(parts.config, parts.images, [Crew(1, 1, gpus=64.0)])
    assert "\n" not in str(caught.value)


def test_a_bug_in_the_work_is_raised_as_if_it_had_happened_here(
    ray_session: None, new_learner: Any, tiny_config: Any
) -> None:
    pool = _broken_pool("Broken", new_learner, tiny_config)
    try:
        with pytest.raises(ZeroDivisionError, match="a bug in the estimator"):
            pool.take()
    finally:
        pool.close()


def test_a_users_mistake_found_at_work_is_one_line(ray_session: None, new_learner: Any, tiny_config: Any) -> None:
    pool = _broken_pool("Refusing", new_learner, tiny_config)
    try:
        with pytest.raises(UserError) as caught:
            pool.take()
        assert str(caught.value) == "the images are all of one colour: use others"
    finally:
        pool.close()


def test_a_users_mistake_found_when_an_actor_starts_is_one_line(
    ray_session: None, new_learner: Any, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTS_DRIVER", str(os.getpid()))
    with pytest.raises(UserError) as caught:
        _broken_pool("OnlyInTheDriver", new_learner, tiny_config)
    assert str(caught.value) == "no such file on this machine: copy it to every node"


def test_actors_have_one_thread_and_no_telemetry(pool: RayPool) -> None:
    """As their environment says before numpy and torch are loaded in them."""
    inside = pool._roster.members[0].handle.__ray_call__.remote(
        lambda actor: {
            "threads": __import__("torch").get_num_threads(),
            **{name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "RAY_USAGE_STATS_ENABLED")},
        }
    )
    assert ray.get(inside) == {"threads": 1, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def test_closing_ends_the_actors(ray_session: None, new_learner: Any, tiny_config: Any) -> None:
    _, parts = new_learner(tiny_config())
    before = ray.available_resources().get("CPU", 0)
    pool = RayPool(parts.config, parts.images, workers=1)
    actor = pool._roster.members[0].handle
    pool.close()
    deadline, gone = time.monotonic() + 30, False
    while not gone or ray.available_resources().get("CPU", 0) < before:
        assert time.monotonic() < deadline
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=1)
        except ray.exceptions.RayActorError:
            gone = True
        time.sleep(0.05)
    pool.close()


@pytest.mark.parametrize(
    ("workers", "cpus", "fix"),
    [(10_000, 1.0, "use --actors "), (1, 10_000.0, "lower pool.cpus to "), (10_000, 0.5, "use --actors ")],
)
def test_more_actors_than_cores_are_refused_before_anything_starts(
    workers: int, cpus: float, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=f"{workers} actors of .* cores on .*: {fix}[1-9]"):
        start_ray(None, [Crew(workers, workers, cpus)])


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "[::1]:{}", "nohost.invalid:{}"])
def test_an_address_where_nothing_listens_is_refused_in_seconds(address: str, closed_port: int) -> None:
    started, address = time.monotonic(), address.format(closed_port)
    with pytest.raises(UserError) as caught:
        start_ray(address, [Crew(1, 1)])
    assert time.monotonic() - started < 30
    assert f"no Ray cluster answers at {address}" in str(caught.value)
    assert "check 'ray status' there" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        (b"", "nothing was said"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "another program listens"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "another program listens"),
    ],
)
def test_a_program_at_the_address_that_is_no_ray_is_told_in_seconds(greeting: bytes, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                accepted.append(server.accept()[0])
                accepted[0].sendall(greeting)

        accepted: list[socket.socket] = []
        thread = threading.Thread(target=answer)
        thread.start()
        started, address = time.monotonic(), f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address} .{why} there"):
            start_ray(address, [Crew(1, 1)])
        assert time.monotonic() - started < 15
        thread.join()
        accepted[0].close()


def test_the_jobs_address_counts_where_none_is_given(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray sets RAY_ADDRESS for the jobs of a cluster."""
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    with pytest.raises(UserError, match=f"no Ray cluster answers at 127.0.0.1:{closed_port}"):
        start_ray(None, [Crew(1, 1)])


@pytest.mark.parametrize(("wire", "copies"), [("fp32", False), ("auto", False), ("auto", True)])
def test_sums_whose_node_is_gone_are_made_again(
    pool: RayPool,
    learner_and_parts: tuple[Learner, work.Parts],
    monkeypatch: pytest.MonkeyPatch,
    wire: str,
    copies: bool,
) -> None:
    """Also where fewer actors are left than sums on nodes are for, and copies are under way whose vectors come here."""
    learner, _ = learner_and_parts
    items = work.plan(learner.config, 2, 0)
    plain = _work_through(pool, items, learner.snapshot())
    monkeypatch.setattr(pool, "wire", wire)
    monkeypatch.setattr(pool, "_aggregate", 1)
    apart = _work_through(pool, items, learner.snapshot())
    assert all(len(result.gradient) == 0 for result in apart.values())
    reduction, totals, lost = pool._reduction, pool._reduction.totals, []
    monkeypatch.setattr(pool, "_aggregate", 3)

    def lose_once(groups: Any) -> Any:
        if lost:
            return totals(groups)
        lost.extend(groups)
        for piece in pool._apart.values() if copies else ():
            piece.node, node = "", piece.node
            pool._give(piece, pool._roster.able[0])
            piece.node = node
        return dict.fromkeys(groups)

    monkeypatch.setattr(reduction, "totals", lose_once)
    weights = [0.1 * (1 + index) for index in range(len(items))]
    size, policy = learner.layout.size, len(learner.state.policy)
    sums = pool.total([apart[index] for index in sorted(apart)], weights, size, policy)
    expected = SerialPool.total(
        SerialPool(learner_and_parts[1]), [plain[index] for index in sorted(plain)], weights, size, policy
    )
    assert len(lost) == 1
    assert all(torch.equal(one, other) for one, other in zip(sums, expected, strict=True))
    assert not pool._apart
    with pytest.raises(LookupError):  # what was made again does not come as a result again
        pool.take()


def test_a_machines_nan_is_gone_when_another_actor_does_the_work(
    ray_session: None, new_learner: Any, tiny_config: Any, tmp_path: Path
) -> None:
    options = f"{{marker: {tmp_path}, deaths: 1}}"
    config = tiny_config("phases.0.estimator=faults:NanOnce", f"phases.0.options={options}")
    learner, parts = new_learner(config)
    pool = RayPool(config, parts.images, workers=1)
    try:
        results = _work_through(pool, work.plan(config, 0, 0), learner.snapshot())
    finally:
        pool.close()
    assert all(np.isfinite(result.gradient).all() for result in results.values())
    assert pool.events["again"] == 1
