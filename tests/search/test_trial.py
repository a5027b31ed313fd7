from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metagen.checkpoint import load_checkpoint
from metagen.errors import UserError
from metagen.pool import SerialPool
from metagen.search.judge import Judge
from metagen.search.limits import Refused, admitted, whole
from metagen.search.trial import Rung, run_trial
from metagen.tasks import ImageSet

RATE = {"phases.0.outer.learning_rate": 0.02}


def _run(sweep: Any, folder: Path, images: ImageSet, assignment: dict[str, Any] = RATE, **more: Any) -> list[Rung]:
    return list(run_trial(sweep, assignment, folder, images, SerialPool, **more))


def test_a_trial_is_the_training_run_that_its_assignment_names(
    tiny_sweep: Any, tiny_images: ImageSet, run_to_end: Any, assert_same_state: Any, tmp_path: Path
) -> None:
    sweep = tiny_sweep()
    rungs = _run(sweep, tmp_path, tiny_images)
    assert [rung.step for rung in rungs] == [2, 4, 6]
    state, _ = run_to_end(sweep.make_space().config(RATE))
    assert_same_state(load_checkpoint(tmp_path).state, state)


def test_a_cheaper_network_trains_longer_at_equal_flops_and_is_judged_as_often(
    tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path
) -> None:
    values = {"generator.architecture.widths": {"choice": [[8], [16]]}}
    sweep = tiny_sweep(space=values, equal="flops")
    config = whole(sweep, sweep.make_space(), {"generator.architecture.widths": [8]})
    admitted_config, facts = admitted(sweep, sweep.make_space(), {"generator.architecture.widths": [8]})
    assert config == admitted_config
    assert facts.steps == config.steps > sweep.steps
    rungs = _run(sweep, tmp_path, tiny_images, {"generator.architecture.widths": [8]})
    assert [rung.step for rung in rungs] == list(sweep.judged_at(config.steps))
    assert [rung.number for rung in rungs] == [1, 2, 3]
    assert load_checkpoint(tmp_path).config.steps == config.steps


def test_a_trial_that_was_paused_ends_bit_for_bit_as_if_it_had_not_been(
    tiny_sweep: Any, tiny_images: ImageSet, assert_same_state: Any, tmp_path: Path
) -> None:
    sweep = tiny_sweep()
    whole = _run(sweep, tmp_path / "whole", tiny_images)
    trial = run_trial(sweep, RATE, tmp_path / "paused", tiny_images, SerialPool)
    first = next(trial)
    trial.close()
    rest = _run(sweep, tmp_path / "paused", tiny_images, begin=first.checkpoint)
    assert [rung.values["loss"] for rung in (first, *rest)] == [rung.values["loss"] for rung in whole]
    assert_same_state(load_checkpoint(tmp_path / "paused").state, load_checkpoint(tmp_path / "whole").state)


def test_a_trial_killed_after_its_last_checkpoint_is_judged_and_not_repeated(
    tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path
) -> None:
    whole = _run(tiny_sweep(), tmp_path, tiny_images)
    [again] = _run(tiny_sweep(), tmp_path, tiny_images, begin=whole[-1].checkpoint)
    assert (again.step, again.values["loss"]) == (6, whole[-1].values["loss"])


def test_test_classes_are_never_read(tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path) -> None:
    spoilt = tiny_images.images.copy()
    spoilt[np.repeat(tiny_images.split == 2, tiny_images.counts)] = 77
    other = replace(tiny_images, images=spoilt)
    plain, changed = (_run(tiny_sweep(), tmp_path / str(i), s) for i, s in enumerate((tiny_images, other)))
    assert [r.values["loss"] for r in plain] == [r.values["loss"] for r in changed]
    judge = Judge.of(tiny_sweep().judge, tiny_images, 3)
    assert {int(tiny_images.split[index]) for index in judge.bench.classes} == {1}


def test_a_population_takes_weights_over_and_goes_on_with_its_own_hyperparameters(
    tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path
) -> None:
    donor = _run(tiny_sweep(), tmp_path / "donor", tiny_images)[0]
    rungs = _run(
        tiny_sweep(), tmp_path / "copy", tiny_images, {"phases.0.outer.learning_rate": 0.001}, begin=donor.checkpoint
    )
    assert [rung.step for rung in rungs] == [4, 6]
    assert load_checkpoint(tmp_path / "copy").config.phases[0].outer.learning_rate == 0.001
    assert load_checkpoint(tmp_path / "copy").state.tasks > load_checkpoint(donor.checkpoint).state.tasks


def test_an_inheriting_trial_begins_with_what_the_donor_learned(
    tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path
) -> None:
    donor = _run(tiny_sweep(), tmp_path / "donor", tiny_images)[-1]
    wider = {**RATE, "width": 24, "levels": 1}
    begun = next(run_trial(tiny_sweep(), wider, tmp_path / "a", tiny_images, SerialPool, donor=donor.checkpoint))
    fresh = next(run_trial(tiny_sweep(), wider, tmp_path / "b", tiny_images, SerialPool))
    assert begun.values["loss_before"] < fresh.values["loss_before"]


@pytest.mark.parametrize(("limit", "most"), [("latency", 1e-9), ("seconds", 1e-9)])
def test_a_limit_that_takes_a_worker_to_measure_refuses_by_name(
    tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path, limit: str, most: float
) -> None:
    with pytest.raises(Refused, match=f"limits.{limit}"):
        _run(tiny_sweep(limits={limit: most}), tmp_path, tiny_images)


def test_a_trial_that_diverges_says_so(tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        _run(tiny_sweep(), tmp_path, tiny_images, {"phases.0.outer.learning_rate": 1e30})


def test_a_judgement_holds_what_objectives_need(tiny_sweep: Any, tiny_images: ImageSet, tmp_path: Path) -> None:
    for rung in _run(tiny_sweep(), tmp_path, tiny_images):
        assert {"loss", "loss_before", "latency", "busy", "train_loss"} <= set(rung.values)
        assert all(math.isfinite(v) and v > 0 for v in rung.values.values())
        assert rung.checkpoint.parent.parent == tmp_path
