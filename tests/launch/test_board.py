"""What a run writes for TensorBoard, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metagen.checkpoint import load_checkpoint


def _events(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def events(trained: Path) -> EventAccumulator:
    return _events(trained)


def _steps(events: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in events.Scalars(tag)]


def test_every_step_reports_the_outer_loop_the_verdicts_and_where_the_time_went(events: EventAccumulator) -> None:
    tags = {
        *(f"outer/{name}" for name in ("loss", "learning_rate", "gradient_norm")),
        *(f"results/{verdict}" for verdict in ("accepted", "stale", "nonfinite", "duplicate")),
        *(f"seconds/{part}" for part in ("adapt", "transfer", "learner", "idle", "total")),
        "rate/tasks_per_second",
        "inner/query_loss/0",
    }
    assert tags <= set(events.Tags()["scalars"])
    for tag in tags:
        assert _steps(events, tag) == [1, 2, 3, 4, 5], tag
    assert [event.value for event in events.Scalars("results/accepted")] == [3, 6, 9, 12, 15]
    assert all(event.value > 0 for event in events.Scalars("rate/tasks_per_second"))


def test_the_query_loss_is_there_by_inner_step(events: EventAccumulator) -> None:
    assert _steps(events, "inner/query_loss/2") == [4, 5]
    assert _steps(events, "inner/support_loss") == [4, 5]


def test_the_policys_step_sizes_are_histograms(events: EventAccumulator) -> None:
    histograms = events.Histograms("policy/log10_step_size")
    assert [event.step for event in histograms] == [1, 2, 3, 4, 5]
    assert -10 < histograms[-1].histogram_value.min <= histograms[-1].histogram_value.max < 0


def test_unseen_classes_are_drawn_as_training_goes(events: EventAccumulator) -> None:
    drawn = events.Images("unseen_classes")
    assert [event.step for event in drawn] == [2, 4, 5]
    with Image.open(io.BytesIO(drawn[-1].encoded_image_string)) as picture:
        assert picture.height > 3 * 64
    assert drawn[0].encoded_image_string != drawn[-1].encoded_image_string


def test_the_newest_picture_of_unseen_classes_lies_in_the_run_folder(trained: Path, events: EventAccumulator) -> None:
    with (
        Image.open(io.BytesIO(events.Images("unseen_classes")[-1].encoded_image_string)) as drawn,
        Image.open(trained / "unseen_classes.png") as picture,
    ):
        assert np.array_equal(np.asarray(drawn), np.asarray(picture))


@pytest.mark.parametrize(("conditioning", "adapts"), [("none", True), ("vector", False)])
def test_a_network_that_is_shown_no_support_set_draws_after_adapting_to_it(
    conditioning: str, adapts: bool, tiny_yaml: Path, tmp_path: Path, metagen: Any
) -> None:
    """Two policies that no training step used: only a picture that was drawn after inner steps tells them apart."""
    drawn = []
    for size in (1e-9, 0.01):
        run = tmp_path / str(size)
        changes = [f"generator.architecture.set_conditioning={conditioning}", "phases=[{estimator: joint, steps: 1}]"]
        changes.append(f"policy={{name: fixed, options: {{rule: adam, step_size: {size}}}}}")
        options = [part for change in changes for part in ("--set", change)]
        assert metagen("train", tiny_yaml, "--run-dir", run, *options).code == 0
        drawn.append((run / "unseen_classes.png").read_bytes())
    assert (drawn[0] != drawn[1]) is adapts


def test_images_are_drawn_as_often_as_asked_and_at_the_end(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    folder = tmp_path / "run"
    assert metagen("train", tiny_yaml, "--run-dir", folder, "--set", "log.images_every=3").code == 0
    assert [event.step for event in _events(folder).Images("unseen_classes")] == [3, 5]


def test_a_network_that_draws_nothing_any_more_does_not_cost_the_run_its_end(
    tiny_yaml: Path, tmp_path: Path, metagen: Any
) -> None:
    """After the last step nothing tells that the run has diverged, and its picture is of NaNs."""
    outer = "{optimizer: sgd, learning_rate: 1.0e+30, warmup: 0}"
    phases = f"phases=[{{estimator: joint, steps: 1, items: 1, tasks: 1, outer: {outer}}}]"
    done = metagen("train", tiny_yaml, "--run-dir", tmp_path / "run", "--set", phases)
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "checkpoints" / "final").is_dir()
    assert (tmp_path / "run" / "unseen_classes.png").exists()


def test_a_resumed_run_continues_its_curves_without_repeats(trained: Path, tmp_path: Path, metagen: Any) -> None:
    """Steps written after the checkpoint that a run resumes from are written anew, and hide the old ones."""
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    shutil.rmtree(copy / "checkpoints" / "final")
    assert load_checkpoint(copy).state.step == 4
    assert metagen("resume", copy).code == 0
    assert _steps(_events(copy), "outer/loss") == [1, 2, 3, 4, 5]
    losses = [[event.value for event in _events(run).Scalars("outer/loss")] for run in (trained, copy)]
    assert losses[0] == losses[1]


def test_a_set_without_unseen_classes_draws_none(
    tiny_images: Any, tmp_path: Path, tiny_yaml: Path, metagen: Any
) -> None:

    path = tmp_path / "train_only.npz"
    labels = np.repeat(np.arange(8), 16)
    np.savez(
        path, images=tiny_images.images[: 8 * 16, 0], labels=labels, names=np.array(list("abcdefgh")), split=[0] * 8
    )
    folder = tmp_path / "run"
    assert metagen("train", tiny_yaml, "--run-dir", folder, "--set", f"data.path={path}").code == 0
    assert _events(folder).Tags()["images"] == []
