"""``metagen policy show``, and what TensorBoard has of a policy that learns by reinforcement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PPO = (
    "policy={name: stochastic, options: {counts: [2, 1], hidden: 4}}",
    "phases=[{estimator: ppo, options: {query_at: {2: 1}, rollouts: 2}, steps: 2, items: 2, tasks: 2}]",
    "categories.most=3",
)


@pytest.fixture(scope="module")
def chosen(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of a policy that chooses, with categories."""
    from launch.preset import load_config
    from launch.training.session import start
    from launch.training.workers import Workers

    folder = tmp_path_factory.mktemp("runs") / "ppo"
    config = load_config(str(tiny_yaml), list(PPO), None, None)
    start(config, folder, Workers.choose(config, "serial", None, None))
    return folder


def test_it_prints_and_draws_what_is_picked_by_category_and_by_layer(
    chosen: Path, tmp_path: Path, metagen: Any
) -> None:
    out, values = tmp_path / "policy.png", tmp_path / "policy.json"
    done = metagen("policy", "show", chosen, "--tasks", 3, "--steps", 2, "--out", out, "--json", values)
    assert done.code == 0, done.err
    assert "adam 100%" in done.out
    report = json.loads(values.read_text())
    assert {"all"} < set(report["groups"])
    apart = sorted(name for key, group in report["groups"].items() if key != "all" for name in group["tasks"])
    assert apart == sorted(report["groups"]["all"]["tasks"])
    assert len(apart) == 3
    for group in report["groups"].values():
        assert group["rules"] == {"adam": 1.0}
        assert set(group["steps"]) <= {1, 2}  # the policy chooses: a category may take one step each
        assert np.array(group["log10_step_size"]).shape == (max(group["steps"]), len(report["layers"]))
    for layer in report["layers"]:
        assert layer in done.out
    with Image.open(out) as picture:
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 20


def test_without_categories_all_tasks_are_one_and_a_note_says_so(run_copy: Path, metagen: Any) -> None:
    done = metagen("policy", "show", run_copy, "--tasks", 2, "--steps", 2)
    assert done.code == 0, done.err
    assert (run_copy / "policy.png").is_file()
    assert "trained without categories" in done.err


def test_a_place_that_cannot_be_written_is_one_line(run_copy: Path, metagen: Any) -> None:
    done = metagen("policy", "show", run_copy, "--tasks", 1, "--steps", 1, "--out", run_copy / "config.yaml" / "p.png")
    assert done.code == 2
    assert len(done.errors) == 1
    assert "--out" in done.errors[0]


def test_tensorboard_has_what_tells_whether_reinforcement_is_sound(chosen: Path) -> None:
    """Rule frequencies, step sizes, reward, entropy, clip fraction, KL, explained variance."""
    events = EventAccumulator(str(chosen / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    names = {"reward", "entropy", "clip_fraction", "kl", "explained_variance", "log10_step_size", "steps"}
    rules = {f"rule/{rule}" for rule in ("adam", "momentum", "muon", "sgd", "sign")}
    assert {f"policy/{name}" for name in names | rules} <= set(events.Tags()["scalars"])
    for step in (0, 1):
        assert sum(events.Scalars(f"policy/{rule}")[step].value for rule in rules) == pytest.approx(1)
    histograms = events.Histograms("policy/chosen_log10_step_size")
    assert [event.step for event in histograms] == [1, 2]
    assert histograms[0].histogram_value.num == 2 * 2 * 2
    assert -8 < histograms[0].histogram_value.min < histograms[0].histogram_value.max < 0


def test_a_layer_that_stands_still_has_no_step_size(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    """Ridge solves for the last layer and leaves all others where they are."""
    ridge = ("policy={name: ridge}", "phases=[{estimator: closed-form, steps: 1, items: 1, tasks: 1}]")
    run, values = tmp_path / "run", tmp_path / "policy.json"
    done = metagen("train", tiny_yaml, *(word for one in ridge for word in ("--set", one)), "--run-dir", run)
    assert done.code == 0, done.err
    done = metagen("policy", "show", run, "--tasks", 1, "--steps", 2, "--json", values)
    assert done.code == 0, done.err
    layers = [line.split() for line in done.out.partition("step size by layer")[2].splitlines()]
    sizes = {words[0]: words[2:] for words in layers if len(words) == 5}
    (moving,) = (name for name, said in sizes.items() if said != ["-"] * 3 and name != "layer")
    assert moving == "out"
    whole = next(line.split() for line in done.out.splitlines() if line.strip().startswith("all"))
    assert {sizes["out"][0], sizes["out"][-1]} <= set(whole), "the median is of layers that moved"
    assert {row[0] for row in json.loads(values.read_text())["groups"]["all"]["log10_step_size"]} == {None}
