from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metagen import policies, work
from metagen.errors import UserError
from metagen.evaluate import Bench, Method, choose_classes
from metagen.makers import Adapted, galleries, made_by
from metagen.problem import Problem
from metagen.processes import Each, Shared, executor, side_by_side
from metagen.tasks import ImageSet

# Other processes cannot import a test: what they are asked for are built-in functions.
PROCESS = "__import__('os').getpid()"


@pytest.fixture(scope="module")
def each() -> Iterator[Each]:
    with side_by_side(2) as each:
        yield each


@pytest.fixture(scope="module")
def bench(tiny_images: ImageSet) -> Bench:
    return Bench(tiny_images, choose_classes(tiny_images, "all", 3, 6, 0)[0], 3, 0)


def _method(config: Any, problem: Problem | None = None) -> Method:
    problem = problem or work.build_problem(config)
    policy = work.build_policy(config)
    return Method(problem, problem.network.initial + 0.01, policy, policy.initial(problem.network.layout))


def test_results_come_in_the_order_of_the_items_from_other_processes(each: Each) -> None:
    found = list(each(eval, [f"{number}, {PROCESS}" for number in range(40)]))
    assert [number for number, _ in found] == list(range(40))
    assert os.getpid() not in {process for _, process in found}


def test_no_more_is_under_way_than_the_processes_can_take_up(each: Each) -> None:
    numbers = count()
    next(each(float, numbers))
    assert next(numbers) <= 5


@pytest.mark.parametrize("name", sorted(policies.REGISTRY))
def test_losses_are_those_of_one_process_bit_for_bit(each: Each, bench: Bench, tiny_config: Any, name: str) -> None:
    one = "phases=[{estimator: joint, steps: 1, items: 1, tasks: 1}]"  # suits every policy
    method = _method(tiny_config(f"policy={{name: {name}}}", one))
    for mine in (method, method.with_adam(1e-3)):
        assert np.array_equal(bench.losses(mine, [2, 0], each), bench.losses(mine, [2, 0]))


@pytest.mark.parametrize(
    "changes",
    [
        ["generator.family=gan"],
        ["generator.family=vae"],
        ["precision=bf16", "policy.proximal=0.1", "policy.adapt=['hints_down.*']", "episode.withheld=2"],
    ],
)
def test_images_are_those_of_one_process_bit_for_bit(
    each: Each, bench: Bench, tiny_config: Any, changes: list[str]
) -> None:
    maker = Adapted(_method(tiny_config(*changes)), 2)
    among = galleries(bench, 4)
    for here, there in zip(made_by(maker, among, 0), made_by(maker, among, 0, each), strict=True):
        assert torch.equal(here, there)


def test_what_a_call_raises_is_raised_here(each: Each) -> None:
    with pytest.raises(ValueError, match="could not convert string to float: 'x'"):
        list(each(float, ["x"]))


def test_a_shared_value_is_unpickled_once_in_each_process(each: Each) -> None:
    look = partial(eval, f"{PROCESS}, id(shared.value)")
    found = list(each(look, [{"shared": Shared(torch.arange(1000))}] * 20))
    assert len(set(found)) == len({process for process, _ in found})


def test_a_process_that_is_killed_is_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"^one of 2 processes was killed, .* --workers 1$"),
        side_by_side(2) as each,
    ):
        list(each(eval, [f"__import__('os').kill({PROCESS}, 9)"]))


def test_the_death_of_any_process_is_noticed_while_the_others_work() -> None:
    def lose_the_newest() -> None:
        with executor(3) as pool:
            for _ in range(2):
                pool.submit(time.sleep, 1000)
            pool.submit(eval, f"__import__('os').kill({PROCESS}, 9)").result(60)

    with pytest.raises(UserError, match="one of 3 processes was killed"):
        lose_the_newest()


def test_an_interrupt_stops_what_runs_and_nothing_more_is_begun(tmp_path: Path) -> None:
    """As a training does, each call turns the signal into an exception of its own."""
    setting = "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.default_int_handler)"

    def interrupt_the_first() -> None:
        with executor(1) as pool:
            for number in range(4):
                pool.submit(exec, f"{setting}; pathlib.Path('{tmp_path}/{number}').touch(); time.sleep(1000)")
            while not (tmp_path / "0").exists():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt_the_first()
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from metagen.processes import side_by_side\n"
        "with side_by_side(2) as each:\n"
        "    print(*{pid for pid in each(os.getpgid, [0] * 4)}, flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        group = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("a process outlived the one that started it")
