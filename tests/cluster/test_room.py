"""Who asks for more than there is hears it in one line before anything runs, with what would have room."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import AuthenticationError

from cluster import connect
from cluster.connect import FRAME_HEAD, HTTP2_PREFACE, start_ray
from cluster.sweep_room import room
from metagen.errors import UserError
from metagen.pool import Crew


@pytest.fixture
def port() -> Iterator[int]:
    """Where a server answers as gRPC's do: with its settings."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            server = listening.accept()[0]
            with server:
                server.recv(len(HTTP2_PREFACE))
                server.sendall(HTTP2_PREFACE[-FRAME_HEAD:])

        thread = threading.Thread(target=greet)
        thread.start()
        yield int(listening.getsockname()[1])
        thread.join()


def _refusal(address: str | None, *crews: Crew) -> str:
    with pytest.raises(UserError) as caught:
        start_ray(address, crews)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "crews", "message"),
    [
        (0, [Crew(1, 1, gpus=1.0)], "1 actors of 1 GPUs on 0: lower pool.gpus to 0"),
        (1, [Crew(12, 12, cpus=0.0, gpus=0.1)], "12 actors of 0.1 GPUs on 1: use --actors 10"),
        (1, [Crew(1, 1, cpus=0.0), Crew(2, 2, cpus=0.0, gpus=1.0)], "2 actors of 1 GPUs on 1: ask for fewer (--actors"),
    ],
)
def test_gpus_that_this_machine_does_not_have_are_refused_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, gpus: int, crews: list[Crew], message: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connect, "_gpus", lambda: gpus)
    monkeypatch.setattr(connect, "_start_local", lambda *arguments, **values: pytest.fail("Ray was started"))
    assert message in _refusal(None, *crews)


def test_local_is_a_ray_of_this_machines_own_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    begun: list[int] = []
    monkeypatch.setattr(connect, "ensure_private", lambda: None)
    monkeypatch.setattr(connect, "_start_local", lambda cores, preload: begun.append(cores))
    start_ray("local", [Crew(1, 1)])
    assert begun


def test_gpus_are_counted_as_ray_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert connect._gpus() == 0


@pytest.mark.parametrize(
    ("crew", "fix"),
    [
        (Crew(8, 8), "8 actors of 1 cores on the cluster's 4: use --actors 4, or a range such as 1-8"),
        (Crew(1, 1, gpus=1.0), "1 actors of 1 GPUs on the cluster's 0: lower pool.gpus to 0"),
    ],
)
def test_a_cluster_that_is_too_small_is_left_with_what_has_room_in_it(
    monkeypatch: pytest.MonkeyPatch, port: int, crew: Crew, fix: str
) -> None:
    left: list[bool] = []
    monkeypatch.setattr(connect, "_log_in", lambda address: address)
    monkeypatch.setattr(ray, "init", lambda **values: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(connect, "stop_ray", lambda: left.append(True))
    assert fix in _refusal(f"127.0.0.1:{port}", crew)
    assert left


def test_a_cluster_whose_token_is_not_here_is_one_line_with_the_way_in(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    def refuse(address: str) -> None:
        raise AuthenticationError("Token authentication is enabled but no authentication token was found")

    monkeypatch.setattr(connect, "_log_in", refuse)
    message = _refusal(f"127.0.0.1:{port}", Crew(1, 1))
    assert f"cannot log in to the Ray cluster at 127.0.0.1:{port} (Token authentication is enabled but no" in message
    assert "copy its token file here" in message


@pytest.mark.parametrize(
    ("trial", "have", "message"),
    [
        ({"actors": 64, "cpus": 1}, {"CPU": 2.0}, "needs 64.1 CPU, there are 2 CPU: use --set trial.actors=1 "),
        ({"actors": 3, "cpus": 9}, {"CPU": 2.1}, "needs 27.1 CPU, there are 2.1 CPU: use --set trial.cpus=0.66 "),
        ({"actors": 0, "cpus": 4}, {"CPU": 2.0}, "needs 4 CPU, there are 2 CPU: use --set trial.cpus=2 "),
        ({"actors": 1, "gpus": 1}, {"CPU": 2.0}, "1 CPU and 1 GPU, there are 2 CPU and 0 GPU: use --set trial.gpus=0 "),
        ({"actors": 4, "gpus": 1}, {"CPU": 9.0, "GPU": 2.0}, "there are 9 CPU and 2 GPU: use --set trial.actors=2 "),
        ({"actors": 1, "driver": 4}, {"CPU": 2.0}, "there are 2 CPU: use --set trial.actors=0 "),
        ({"actors": 200}, {"CPU": 0.5}, "there are 0.5 CPU: use --set trial.actors=0 --set trial.cpus=0.5 "),
    ],
)
def test_a_trial_without_room_names_what_is_missing_and_what_to_set(
    tiny_sweep: Any, trial: dict[str, Any], have: dict[str, float], message: str
) -> None:
    values = {"cpus": 0.9, "driver": 0.1, **trial}
    with pytest.raises(UserError) as caught:
        room(tiny_sweep(trial=values), have)
    assert message in str(caught.value)
    assert "--actors" not in str(caught.value)
    told = dict(word.partition("=")[::2] for word in re.findall(r"trial\.(\w+=[0-9.]+)", message))
    advised = {key: float(value) for key, value in told.items()}
    assert room(tiny_sweep(trial={**values, **advised}), have) >= 1, "what it says to set has no room either"
