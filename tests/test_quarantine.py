"""Quarantine: a result that was not finite can be made again from what is kept of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metagen import quarantine, work
from metagen.errors import UserError
from metagen.records import Quarantined


@pytest.fixture
def broken(tiny_config: Any, new_learner: Any) -> tuple[work.Parts, Quarantined]:
    """Work that began at a theta with a NaN in it."""
    learner, parts = new_learner(tiny_config("precision=bf16"))
    item = work.plan(learner.config, 0, 0)[1]
    theta = learner.state.theta.clone()
    theta[-1] = float("nan")
    learner.state = replace(learner.state, theta=theta)
    return parts, Quarantined(item, learner.snapshot(), ("gradient", "loss"), "actor-7")


def test_what_is_kept_is_read_back_as_it_was(broken: tuple[work.Parts, Quarantined], tmp_path: Path) -> None:
    parts, was = broken
    assert quarantine.keep(tmp_path, was)
    assert quarantine.kept(tmp_path) == [was.item.work_id]
    now = quarantine.load(tmp_path, was.item.work_id, parts.config.dtype)
    assert (now.item, now.where, now.worker) == (was.item, was.where, was.worker)
    assert now.snapshot.theta.dtype == np.uint16
    assert now.snapshot.theta.tobytes() == was.snapshot.theta.tobytes()
    assert now.snapshot.policy.tobytes() == was.snapshot.policy.tobytes()


def test_a_replay_finds_again_what_was_not_finite_and_where(broken: tuple[work.Parts, Quarantined]) -> None:
    parts, was = broken
    done = quarantine.replay(parts, was)
    assert done.again
    assert {"gradient", "loss"} <= set(done.where)
    layout = parts.problem.network.layout
    assert done.theta == {layout.layers[-1]: 1}
    assert layout.layers[-1] in done.layers


def test_a_replay_of_sound_work_says_so(tiny_config: Any, new_learner: Any) -> None:
    learner, parts = new_learner(tiny_config())
    was = Quarantined(work.plan(learner.config, 0, 0)[0], learner.snapshot(), ("gradient",), "actor-0")
    done = quarantine.replay(parts, was)
    assert not done.again
    assert done.layers == done.theta == {}
    assert np.isfinite(done.metrics["loss"])


def test_a_run_keeps_a_bounded_number(
    broken: tuple[work.Parts, Quarantined], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "KEPT", 2)
    items = [replace(broken[1], item=replace(broken[1].item, index=index)) for index in range(3)]
    assert [quarantine.keep(tmp_path, one) for one in items] == [True, True, False]
    assert quarantine.keep(tmp_path, items[0])
    assert len(quarantine.kept(tmp_path)) == 2


def test_unknown_and_damaged_work_is_one_line(broken: tuple[work.Parts, Quarantined], tmp_path: Path) -> None:
    parts, was = broken
    with pytest.raises(UserError, match="no work 'abc' in quarantine: its quarantine is empty"):
        quarantine.load(tmp_path, "abc", parts.config.dtype)
    quarantine.keep(tmp_path, was)
    with pytest.raises(UserError, match="no work 'abc' in quarantine; known: "):
        quarantine.load(tmp_path, "abc", parts.config.dtype)
    file = tmp_path / "quarantine" / was.item.work_id / "snapshot.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match=r"damaged .*nothing can be replayed"):
        quarantine.load(tmp_path, was.item.work_id, parts.config.dtype)
