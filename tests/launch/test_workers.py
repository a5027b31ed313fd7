from __future__ import annotations

from typing import Any

import pytest

from launch.training import workers
from launch.training.workers import Workers
from metagen.errors import UserError
from metagen.pool import Crew


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cores", lambda: 8)


def test_by_default_ray_has_an_actor_a_core(tiny_config: Any) -> None:
    assert Workers.choose(tiny_config("pool={}"), None, None, None) == Workers("ray", (Crew(8, 8),), None)


def test_actors_of_more_than_a_core_are_fewer(tiny_config: Any) -> None:
    assert Workers.choose(tiny_config("pool={cpus: 3}"), None, None, None).count == 2
    assert Workers.choose(tiny_config("pool={cpus: 0.5}"), None, None, None).count == 8
    assert Workers.choose(tiny_config("pool={cpus: 20}"), None, None, None).count == 1


def test_the_command_line_comes_before_the_config(tiny_config: Any) -> None:
    config = tiny_config("pool={kind: ray, actors: 3, address: 'a:1', gpus: 0.5}")
    assert Workers.choose(config, None, None, None) == Workers("ray", (Crew(3, 3, 1.0, 0.5),), "a:1")
    assert Workers.choose(config, None, "5", "b:2") == Workers("ray", (Crew(5, 5, 1.0, 0.5),), "b:2")
    assert Workers.choose(config, "serial", None, None).kind == "serial"
    assert Workers.choose(config, "serial", None, None).count == 1


def test_a_run_that_is_stopped_is_told_to_go_on_with_the_workers_it_was_begun_with(tiny_config: Any) -> None:
    config = tiny_config("pool={kind: ray}")
    assert Workers.choose(config, None, None, None).options == ""
    assert Workers.choose(config, "serial", None, None).options == " --pool serial"
    assert Workers.choose(config, None, "2-4", "b:2").options == " --actors 2-4 --address b:2"


def test_an_address_asks_for_ray(tiny_config: Any) -> None:
    assert Workers.choose(tiny_config("pool={kind: serial}"), None, None, "auto").kind == "ray"


@pytest.mark.parametrize(("count", "address"), [("2", None), ("auto", None), (None, "auto")])
def test_a_serial_pool_has_neither_actors_nor_an_address(tiny_config: Any, count: Any, address: Any) -> None:
    with pytest.raises(UserError, match="--pool serial is one worker in this process: drop --actors and --address"):
        Workers.choose(tiny_config(), "serial", count, address)


def test_actors_may_be_a_range_and_of_several_kinds(tiny_config: Any) -> None:
    others = "[{actors: 2, gpus: 0.5, device: cuda}, {actors: auto, cpus: 2}]"
    config = tiny_config(f"pool={{kind: ray, actors: 2-6, others: {others}}}")
    crews = (Crew(2, 6), Crew(2, 2, 1.0, 0.5, "cuda"), Crew(1, None, 2.0))
    assert Workers.choose(config, None, None, None) == Workers("ray", crews, None)
    assert Workers.choose(config, None, "auto", None).crews[0] == Crew(1, None)
    assert Workers.choose(config, None, None, None).count == 5


@pytest.mark.parametrize("actors", ["0", "-1", "3-2", "2-", "many", "1-2-3", "²"])
def test_what_is_no_number_of_actors_is_refused_with_what_is_one(tiny_config: Any, actors: str) -> None:
    with pytest.raises(UserError, match="give one such as 4, a range such as 2-8, or auto"):
        tiny_config(f"pool={{actors: '{actors}'}}")


@pytest.mark.parametrize(
    ("actors", "others", "said"),
    [
        ("1", "[]", "1 Ray actor"),
        ("4", "[]", "4 Ray actors"),
        ("2-8", "[]", "2 to 8 Ray actors"),
        ("auto", "[]", "1 Ray actor or more"),
        ("2", "[{actors: 1-3}]", "3 to 5 Ray actors"),
        ("2", "[{actors: auto}]", "3 Ray actors or more"),
    ],
)
def test_a_run_says_how_many_actors_it_may_have(tiny_config: Any, actors: str, others: str, said: str) -> None:
    assert str(Workers.choose(tiny_config(f"pool={{actors: '{actors}', others: {others}}}"), None, None, None)) == said
    assert str(Workers.choose(tiny_config(), "serial", None, None)) == "in this process"
