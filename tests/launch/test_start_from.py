"""``metagen train --from``: a run that begins with what another one has learned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launch.jobs.submission import pack
from launch.options import checkpoint_path
from launch.preset import load_config
from metagen.checkpoint import checkpoints, load_checkpoint
from metagen.errors import UserError
from metagen.tasks.imageset import ImageSet
from metagen.values import read_yaml
from metagen.warm_start import polarity_note

ANEW = ("--set", "policy={name: fixed}")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("more", [(), ANEW], ids=["the same policy", "another policy"])
def test_it_begins_with_the_weights_and_with_the_policy_if_it_is_the_same(
    trained: Path, tiny_yaml: Path, metagen: Any, more: tuple[str, ...]
) -> None:
    done = metagen("train", tiny_yaml, "--from", trained, "--run-dir", "second", *more)
    assert done.code == 0, done.err
    assert f"begins     with the generator of {trained}" in done.out.replace("\n", "")
    before, begun, after = (
        load_checkpoint(path).state for path in (trained, Path("second/checkpoints/step-000000"), Path("second"))
    )
    assert torch.equal(begun.theta, before.mean)
    assert torch.equal(begun.mean, before.mean)
    assert len(begun.policy) == 0 if more else torch.equal(begun.policy, before.policy)
    assert (begun.step, begun.tasks, begun.counts) == (0, 0, {})
    assert not torch.equal(after.theta, before.theta)


def test_once_begun_it_resumes_to_the_same_end_without_the_other(
    run_copy: Path, tiny_yaml: Path, metagen: Any, assert_same_state: Any
) -> None:
    assert metagen("train", tiny_yaml, "--from", run_copy, "--run-dir", "whole").code == 0
    shutil.copytree("whole", "cut")
    for path in checkpoints(Path("cut")):
        if path.name != "step-000000":
            shutil.rmtree(path)
    shutil.rmtree(run_copy)
    done = metagen("resume", "cut")
    assert done.code == 0, done.err
    assert_same_state(load_checkpoint(Path("cut")).state, load_checkpoint(Path("whole")).state)
    shutil.rmtree("cut/checkpoints")
    again = metagen("resume", "cut")
    assert (again.code, len(again.errors)) == (2, 1)
    assert "began with another's weights" in again.errors[0]


def test_data_that_is_none_is_one_line_whatever_it_begins_with(metagen: Any) -> None:
    done = metagen("train", "quickstart", "--from", "pretrained", "--set", "data=5", "--dry-run")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "data: a mapping" in done.errors[0]


@pytest.mark.parametrize("paper", [255, 0])
def test_dark_ink_is_turned_where_the_other_draws_bright_ink(paper: int) -> None:
    """By a preset; for a file, which says its own, there is a note."""
    for source, known in (("pictograms", "keep"), ("folder", "auto")):
        data = [f"data.source={source}", *([] if source == "pictograms" else ["data.path=mine"])]
        assert load_config("quickstart", data, start_from="pretrained").data.polarity == known
    own = load_config("quickstart", ["data={source: folder, path: mine, polarity: keep}"], start_from="pretrained")
    assert own.data.polarity == "keep"
    images = np.full((2, 1, 28, 28), paper, np.uint8)
    one = ImageSet("mine", images, np.array([0, 2]), ("a",), ("",), np.zeros(1, np.uint8), "")
    note = polarity_note(load_checkpoint(checkpoint_path("pretrained")), one)
    assert ("data.polarity=auto turns the images" in note) == (paper == 255)


def test_a_preset_takes_over_the_generator_and_a_file_says_its_own(trained: Path, tiny_yaml: Path) -> None:
    theirs = load_checkpoint(trained).config
    config = load_config("quickstart", start_from=str(trained))
    assert config.generator == theirs.generator
    assert (config.data.image_size, config.data.channels) == (theirs.data.image_size, theirs.data.channels)
    assert config.phases == load_config("quickstart").phases
    by_key = load_config("quickstart", [f"start_from={trained}", "generator.architecture.embedding=24"])
    assert by_key.generator.architecture.embedding == 24
    file = load_config(str(tiny_yaml), ["generator.architecture.embedding=24"], start_from="pretrained")
    assert file.generator != load_config("quickstart", start_from="pretrained").generator


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        (["--from", "nothere"], "nothere: no such folder"),
        (["--from", "pretrained"], "a checkpoint of another architecture"),
    ],
)
def test_what_cannot_be_begun_with_is_one_line_and_nothing_is_written(
    tiny_yaml: Path, metagen: Any, words: list[str], needle: str
) -> None:
    before = set(Path().iterdir())
    done = metagen("train", tiny_yaml, "--pool", "serial", "--run-dir", "mine", *words)
    assert (done.code, len(done.errors)) == (2, 1)
    assert needle in done.errors[0]
    assert set(Path().iterdir()) == before


def test_a_preset_for_another_family_is_refused() -> None:
    with pytest.raises(UserError, match="pretrained is of family flow, preset 'gan' is for gan: use another"):
        load_config("gan", start_from="pretrained")


def test_who_begins_with_nothing_for_a_reason_refuses_it(trained: Path, metagen: Any) -> None:
    for words in (
        ("sweep", "sweep-laptop", "--set", f"base.start_from={trained}"),
        ("benchmark", "few-shot", "--set", f"start_from={trained}"),
    ):
        done = metagen(*words)
        assert (done.code, len(done.errors)) == (2, 1), done.err
        assert "start_from: " in done.errors[0]
        assert "leave it out" in done.errors[0]


def test_a_store_has_what_it_begins_with_before_it_has_the_run(
    s3: str, trained: Path, tiny_yaml: Path, metagen: Any, assert_same_state: Any
) -> None:
    url = f"{s3}/runs/mine"
    done = metagen("train", tiny_yaml, "--from", trained, "--store", url, "--set", "log.keep=9", "--run-dir", "first")
    assert done.code == 0, done.err
    shutil.rmtree("first/checkpoints/final")
    done = metagen("resume", f"{url}")
    assert "is complete" in done.out, done.err
    taken = metagen("train", tiny_yaml, "--from", f"{url}/checkpoints/step-000000", "--run-dir", "again", "--seed", 9)
    assert taken.code == 0, taken.err
    first = (load_checkpoint(Path(place)).state for place in ("again/checkpoints/step-000000", "first"))
    assert_same_state(*first)


def test_a_job_takes_along_what_it_begins_with(trained: Path, tiny_yaml: Path) -> None:
    local, packaged = Path("local"), Path("packaged")
    for folder in (local, packaged):
        folder.mkdir()
    pack(["train", str(tiny_yaml), "--from", str(trained)], [], local)
    assert read_yaml(local / "run.yaml")["start_from"] == "start_from"
    assert torch.equal(load_checkpoint(local / "start_from").state.mean, load_checkpoint(trained).state.mean)
    pack(["train", "quickstart", "--from", "pretrained"], [], packaged)  # there is one where it runs
    assert read_yaml(packaged / "run.yaml")["start_from"] == "pretrained"
    assert [path.name for path in packaged.iterdir()] == ["run.yaml"]
    with pytest.raises(UserError, match="this name is taken"):
        pack(["train", str(tiny_yaml)], [local / "start_from"], packaged)
