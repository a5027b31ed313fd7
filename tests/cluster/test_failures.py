"""What Ray itself fails at costs time and no run; what the work fails at ends the run at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import roster as roster_module
from cluster.pool import RayPool
from cluster.roster import Roster
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.pool import Crew, SerialPool

pytestmark = pytest.mark.ray

NOWHERE = NodeAffinitySchedulingStrategy("ab" * 28, soft=False)
"""The place of a node that is gone."""


def _faulty(tiny_config: Any, name: str, *changes: str, **options: Any) -> RunConfig:
    values = ", ".join(f"{key}: {value}" for key, value in {"query_at": "{0: 1}", **options}.items())
    return tiny_config(f"phases.0.estimator=faults:{name}", f"phases.0.options={{{values}}}", *changes)


def _starting(begin: Callable[..., Any]) -> type[RayPool]:
    """A pool whose actors begin as ``begin(roster, options, attempt)`` says."""

    class Starting(Roster):
        attempts = 0

        def _begin(self, name: str, values: dict[str, Any], options: dict[str, Any]) -> Any:
            self.attempts += 1
            return super()._begin(name, values, begin(options, self.attempts))

    class Pool(RayPool):
        roster = Starting

    return Pool


def test_work_that_ray_failed_at_is_done_again_with_the_same_result(
    on_ray: Any, run_to_end: Any, tiny_config: Any, assert_same_state: Any, tmp_path: Path
) -> None:
    config = _faulty(tiny_config, "LosesArgument", marker=tmp_path, deaths=2)
    state, _ = run_to_end(config, on_ray(2))
    assert len(list(tmp_path.iterdir())) == 2, "nothing was lost"
    expected, _ = run_to_end(config, SerialPool)
    assert_same_state(state, expected)


def test_a_run_at_whose_work_ray_always_fails_ends_in_one_line(
    on_ray: Any, run_to_end: Any, tiny_config: Any, tmp_path: Path
) -> None:
    def impatient(parts: Any) -> Any:
        pool = on_ray(2)(parts)
        pool._roster.patience = 0.5
        return pool

    config = _faulty(tiny_config, "LosesArgument", marker=tmp_path, deaths=10_000)
    with pytest.raises(UserError, match=r"failed at all work for 0.5 s \(ObjectLostError: .*raise pool.pat") as caught:
        run_to_end(config, impatient)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["Unpicklable", "Unreadable"])
def test_a_bug_whose_exception_does_not_travel_ends_the_run_all_the_same(
    on_ray: Any, run_to_end: Any, tiny_config: Any, name: str
) -> None:
    with pytest.raises(ray.exceptions.RayError, match="a bug in the estimator"):
        run_to_end(_faulty(tiny_config, name), on_ray(1))


def test_an_actor_that_ray_could_not_place_is_replaced(ray_session: None, new_learner: Any, tiny_config: Any) -> None:
    _, parts = new_learner(tiny_config())
    pool = _starting(lambda options, n: {**options, "scheduling_strategy": NOWHERE} if n == 1 else options)(
        parts.config, parts.images, [Crew(1, 1, cpus=0.0)]
    )
    assert pool.workers == 1
    pool.close()


def test_an_actor_that_the_images_did_not_reach_is_replaced(
    ray_session: None, new_learner: Any, tiny_config: Any, tmp_path: Path
) -> None:
    marker = tmp_path / "markers"
    _, parts = new_learner(_faulty(tiny_config, "LosesImages", marker=marker))
    marker.mkdir()
    pool = RayPool(parts.config, parts.images, [Crew(1, 1, cpus=0.0)])
    assert pool.workers == 1
    assert len(list(marker.iterdir())) == 1
    pool.close()


def test_actors_that_can_never_start_end_the_run_in_one_line_that_says_why(
    ray_session: None, new_learner: Any, tiny_config: Any
) -> None:
    _, parts = new_learner(tiny_config("pool.patience=2"))
    never = _starting(lambda options, n: {**options, "scheduling_strategy": NOWHERE})
    with pytest.raises(UserError, match=r"no actor for 2 s \(ActorUnschedulableError: .*raise pool.pat") as caught:
        never(parts.config, parts.images, [Crew(1, 1, cpus=0.0)])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_run_that_waits_for_room_for_some_of_its_actors_says_so_and_gives_up(
    ray_session: None,
    new_learner: Any,
    tiny_config: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of two actors one has room, and nobody is lost. The other needs what the cluster has no more of."""
    _, parts = new_learner(tiny_config("pool.patience=60"))
    monkeypatch.setattr(roster_module, "SILENT_SECONDS", 0.2)

    class Impatient(Roster):
        def tend(self) -> None:
            super().tend()
            if self.able:
                self.patience = 2.0

    class Pool(RayPool):
        roster = Impatient

    cpus = 0.6 * ray.cluster_resources()["CPU"]
    with pytest.raises(UserError, match=r"1 of 2 actors are ready, and no other came for 2 s: use --actors 1-2 to beg"):
        Pool(parts.config, parts.images, [Crew(2, 2, cpus=cpus)])
    assert "1 of 2 actors are ready: waiting for room for the others" in caplog.text
