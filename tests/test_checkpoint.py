from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metagen import checkpoint
from metagen.checkpoint import MANIFEST, WEIGHTS, checkpoints, load_checkpoint, prune, publishing, save_checkpoint
from metagen.errors import UserError
from metagen.guard import Watch
from metagen.learner import Learner
from metagen.train import train


@pytest.fixture
def learner(new_learner: Any, tiny_config: Any) -> Iterator[Learner]:
    """A learner two steps into a run, with every field of its state set."""
    from metagen.pool import SerialPool

    learner, parts = new_learner(tiny_config())
    steps = train(learner, SerialPool(parts))
    next(steps), next(steps)
    return learner


def _save(learner: Learner, folder: Path) -> Path:
    save_checkpoint(folder, learner.config, learner.layout, learner.state)
    return folder


def _one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_round_trip_is_bit_exact(learner: Learner, tmp_path: Path, assert_same_state: Any) -> None:
    loaded = load_checkpoint(_save(learner, tmp_path / "c"))
    assert_same_state(loaded.state, learner.state)
    assert loaded.config == learner.config
    loaded.fits(learner.layout)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["c", WEIGHTS, MANIFEST])


def test_what_is_loaded_lies_in_memory_as_what_was_saved(learner: Learner, tmp_path: Path) -> None:
    """How BLAS rounds a product depends on the address of its operands, and a resumed run must round alike."""
    state = load_checkpoint(_save(learner, tmp_path / "c")).state
    vectors = [state.theta, state.policy, state.mean, *state.moments.values(), *state.policy_moments.values()]
    assert all(vector.data_ptr() % 64 == 0 for vector in vectors)


def test_odd_values_survive_bit_for_bit(learner: Learner, tmp_path: Path) -> None:
    theta = learner.state.theta.clone()
    theta[:6] = torch.tensor([0.0, -0.0, 1e-45, float("inf"), float("nan"), 16777217.0])
    learner.state = replace(learner.state, theta=theta)
    loaded = load_checkpoint(_save(learner, tmp_path / "c")).state.theta
    assert torch.equal(loaded.view(torch.int32), theta.view(torch.int32))


def test_a_checkpoint_holds_no_link_to_the_state_it_was_made_from(learner: Learner, tmp_path: Path) -> None:
    folder, theta = _save(learner, tmp_path / "c"), learner.state.theta.clone()
    load_checkpoint(folder).state.theta.zero_()
    assert torch.equal(load_checkpoint(folder).state.theta, theta)
    assert torch.equal(learner.state.theta, theta)


@pytest.mark.parametrize("file", [WEIGHTS, MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_refused(learner: Learner, tmp_path: Path, file: str, share: float) -> None:
    folder = _save(learner, tmp_path / "c")
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="damaged checkpoint") as caught:
        load_checkpoint(folder)
    assert str(folder) in _one_line(caught)


@pytest.mark.parametrize("place", [0, 9, 200, -1])
def test_a_flipped_bit_in_the_weights_is_refused(learner: Learner, tmp_path: Path, place: int) -> None:
    folder = _save(learner, tmp_path / "c")
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[place] ^= 1
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(UserError, match="damaged checkpoint"):
        load_checkpoint(folder)


def test_a_flipped_digit_in_the_manifest_is_refused(learner: Learner, tmp_path: Path) -> None:
    folder = _save(learner, tmp_path / "c")
    text = (folder / MANIFEST).read_text()
    for was, now in (('"step": 2', '"step": 3'), ('"seed": 3', '"seed": 7'), ('"tasks": 12', '"tasks": 13')):
        assert was in text
        (folder / MANIFEST).write_text(text.replace(was, now))
        with pytest.raises(UserError, match="damaged checkpoint"):
            load_checkpoint(folder)


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}", '{"format": 1}', '{"sha256": 4}', "\xff"])
def test_a_manifest_that_is_none_is_refused(learner: Learner, tmp_path: Path, text: str) -> None:
    folder = _save(learner, tmp_path / "c")
    (folder / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder)
    assert str(folder) in _one_line(caught)


@pytest.mark.parametrize("key", ["config", "step", "version", "tasks", "applied", "counts", "names", "shapes"])
def test_a_manifest_without_one_of_its_keys_is_refused(learner: Learner, tmp_path: Path, key: str) -> None:
    folder = _save(learner, tmp_path / "c")
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[key]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="damaged") as caught:
        load_checkpoint(folder)
    _one_line(caught)


def test_another_format_says_what_to_do(learner: Learner, tmp_path: Path) -> None:
    folder = _save(learner, tmp_path / "c")
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 2}))
    with pytest.raises(UserError, match="checkpoint format 2, this metagen reads 1: upgrade"):
        load_checkpoint(folder)


def test_weights_or_manifest_missing_is_refused(learner: Learner, tmp_path: Path) -> None:
    folder = _save(learner, tmp_path / "c")
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"cannot be read .*{WEIGHTS}"):
        load_checkpoint(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match="no checkpoint in it; give a run folder or a checkpoint folder"):
        load_checkpoint(folder)
    with pytest.raises(UserError, match="no such folder"):
        load_checkpoint(tmp_path / "missing")


def test_a_checkpoint_of_another_architecture_says_which_parameter_differs(
    learner: Learner, tmp_path: Path, tiny_config: Any, new_learner: Any
) -> None:
    loaded = load_checkpoint(_save(learner, tmp_path / "c"))
    for change in ("widths=[24]", "blocks=2", "set_conditioning=none"):
        other, _ = new_learner(tiny_config(f"generator.architecture.{change}"))
        with pytest.raises(UserError, match="a checkpoint of another architecture") as caught:
            loaded.fits(other.layout)
        _one_line(caught)


def test_saving_again_replaces_the_whole(learner: Learner, tmp_path: Path, assert_same_state: Any) -> None:
    folder = _save(learner, tmp_path / "c")
    learner.state = replace(learner.state, step=4, theta=learner.state.theta + 1)
    _save(learner, folder)
    assert_same_state(load_checkpoint(folder).state, learner.state)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("calls", range(1, 7))
@pytest.mark.parametrize("replacing", [False, True])
def test_a_save_that_fails_leaves_the_old_one_whole_and_nothing_else(
    learner: Learner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_state: Any,
    calls: int,
    replacing: bool,
) -> None:
    """The disk fills up at each of the calls that reach it in turn."""
    before = learner.state
    if replacing:
        _save(learner, tmp_path / "c")
    learner.state = replace(learner.state, theta=learner.state.theta + 1)
    reached = 0

    def failing(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal reached
            reached += 1
            if reached == calls:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing(os.fsync))
        patched.setattr(Path, "mkdir", failing(Path.mkdir))
        with pytest.raises(UserError, match=r"No space left on device\): free some space") as caught:
            _save(learner, tmp_path / "c")
    _one_line(caught)
    assert reached == calls
    in_place = calls == 6  # only the flush after the rename is left then
    assert [path.name for path in tmp_path.iterdir()] == (["c"] if replacing or in_place else [])
    if replacing or in_place:
        assert_same_state(load_checkpoint(tmp_path / "c").state, learner.state if in_place else before)


def test_what_a_killed_save_left_is_not_taken_for_a_checkpoint(learner: Learner, tmp_path: Path) -> None:
    run = tmp_path / "run"
    whole = _save(learner, run / "checkpoints" / "step-000002")
    shutil.copytree(whole, run / "checkpoints" / ".partial-step-000004-99")
    assert checkpoints(run) == [whole]
    assert load_checkpoint(run).path == whole
    prune(run, keep=1)
    assert list((run / "checkpoints").iterdir()) == [whole]


def test_a_folder_that_is_interrupted_while_it_is_written_vanishes(tmp_path: Path) -> None:
    def interrupted() -> None:
        with publishing(tmp_path / "folder") as partial:
            (partial / "file").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_pruning_keeps_the_newest_and_the_final_one(learner: Learner, tmp_path: Path) -> None:
    for name in ("step-000002", "step-000010", "final", "step-999999", "step-1000000"):
        _save(learner, tmp_path / "checkpoints" / name)
    assert [path.name for path in checkpoints(tmp_path)] == [
        "step-000002",
        "step-000010",
        "step-999999",
        "step-1000000",
        "final",
    ]
    prune(tmp_path, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-999999", "step-1000000", "final"]
    assert load_checkpoint(tmp_path).path.name == "final"
    prune(tmp_path, keep=5)
    assert len(checkpoints(tmp_path)) == 3


def test_a_run_folder_stands_for_its_newest_checkpoint(learner: Learner, tmp_path: Path) -> None:
    for name in ("step-000002", "step-000001"):
        _save(learner, tmp_path / "checkpoints" / name)
    assert load_checkpoint(tmp_path).path.name == "step-000002"


def test_weights_are_plain_safetensors_that_other_tools_read(learner: Learner, tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = _save(learner, tmp_path / "c")
    with safe_open(folder / checkpoint.WEIGHTS, framework="numpy") as file:
        assert {"theta", "policy", "mean", "moments.first"} <= set(file.keys())
        assert (file.get_tensor("theta") == learner.state.theta.numpy()).all()


def test_the_best_is_of_the_newest_phase_the_one_of_least_running_loss_and_is_kept(
    learner: Learner, tmp_path: Path
) -> None:
    for step, losses in ((1, (0.1,)), (4, (0.7, 0.5, 0.6)), (5, (0.9,)), (2, (0.2,))):
        learner.state = replace(learner.state, step=step, watch=Watch(losses=losses))
        _save(learner, tmp_path / "checkpoints" / f"step-{step:06d}")
    best = tmp_path / "checkpoints" / "step-000004"
    assert checkpoint.best_checkpoint(tmp_path) == best
    assert load_checkpoint(tmp_path / "checkpoints" / "best").path == best
    prune(tmp_path, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000004", "step-000005"]
    (best / MANIFEST).write_text("{")
    assert checkpoint.best_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-000005"


def test_a_run_without_a_score_has_no_best(learner: Learner, tmp_path: Path) -> None:
    learner.state = replace(learner.state, watch=Watch())
    _save(learner, tmp_path / "checkpoints" / "final")
    assert checkpoint.best_checkpoint(tmp_path) is None
    with pytest.raises(UserError, match="best: no such folder"):
        load_checkpoint(tmp_path / "checkpoints" / "best")
