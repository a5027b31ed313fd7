from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from launch.benchmarks import contenders, few_shot, few_shot_summary, models
from launch.benchmarks.contenders import Contender
from launch.benchmarks.few_shot import Job
from launch.benchmarks.registry import SCRIPTED
from launch.preset import load_config
from metagen.config import RunConfig
from metagen.errors import UserError

FEW = ("--classes", 2, "--curve-classes", 1, "--sample-classes", 2, "--samples", 3, "--tuning-classes", 1)
STEPS = ("--steps", "0,1,10", "--shots", "3,1")


@pytest.fixture
def trained_models(tiny_yaml: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark of two contenders in this process, whose models are there already."""
    two = {"meta": contenders.CONTENDERS["meta"], "joint": Contender("joint", "joint", (1e-4, 1e-3), all_shots=True)}
    for module in (few_shot, few_shot_summary):
        monkeypatch.setattr(module, "CONTENDERS", two)
        monkeypatch.setattr(module, "MODELS", {name: models.MODELS[name] for name in ("meta", "joint")})
        monkeypatch.setattr(module, "RIVALS_IN_TIME", ("joint",))
        monkeypatch.setattr(module, "STEPS", (0, 1, 4))
        monkeypatch.setattr(module, "HORIZON", 4)
    monkeypatch.setattr(few_shot_summary, "BASELINES", ("joint",))
    out = tmp_path / "out"
    for seed in (0, 1):
        for name in ("meta", "joint"):
            shutil.copytree(trained, out / f"seed{seed}" / "models" / name)
    return out


def test_a_whole_benchmark_writes_figures_a_report_and_a_picture_and_goes_on_where_it_stopped(
    trained_models: Path, tiny_yaml: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = trained_models
    command = ("benchmark", "few-shot", "--preset", tiny_yaml, "--seeds", 2, "--out", out, "--domains", "own", *STEPS)
    done = metagen(*command, *FEW, "--workers", 1)
    assert done.code == 0, done.err
    values = json.loads((out / "few-shot.json").read_text())
    own = values["domains"]["own"]
    for shots in ("3", "1"):
        methods = own["losses"][shots]["methods"]
        assert list(methods) == ["meta", "joint"]
        for entry in methods.values():
            assert list(entry["query_loss"]) == ["0", "1", "10"]
        apart = methods["joint"]["meta_minus_this"]["1"]["mean"]
        assert apart == pytest.approx(
            methods["meta"]["query_loss"]["1"]["mean"] - methods["joint"]["query_loss"]["1"]["mean"]
        )
    assert list(own["samples"]["methods"]) == ["meta", "joint", "copycat", "real"]
    assert [entry["classes"] for entry in own["speed_up"]["joint"]] == [1, 1]
    assert values["environment"]["torch"]
    report = (out / "few-shot.md").read_text()
    assert report in done.out
    assert f"{methods['meta']['query_loss']['10']['mean']:.4f}" in report
    with Image.open(out / "few-shot.png") as picture:
        assert picture.width > 500

    pieces = {path: path.stat().st_mtime_ns for path in out.glob("seed*/*/*.json")}
    missing = next(path for path in pieces if path.parent.name == "losses")
    lost = missing.read_text()
    missing.unlink()
    again = metagen(*command, *FEW, "--workers", 1)
    assert again.code == 0, again.err
    assert missing.read_text() == lost
    assert all(path.stat().st_mtime_ns == time for path, time in pieces.items() if path != missing)
    assert json.loads((out / "few-shot.json").read_text())["domains"] == values["domains"]

    other = metagen(*command, *FEW, "--workers", 1, "--tuning-classes", 2)
    assert other.code == 2
    assert "another tuning_classes (1, now 2): choose another --out" in other.err


def test_a_candidate_that_diverges_is_not_taken_and_stops_nothing(
    trained_models: Path, tiny_yaml: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, [joint, meta] = trained_models, [models.MODELS[name] for name in ("joint", "meta")]

    def candidates(config: RunConfig) -> tuple[RunConfig, ...]:
        [config] = joint.candidates(config)
        outer = config.phases[0].outer.model_copy(update={"optimizer": "sgd", "learning_rate": 1e30})
        wild = config.phases[0].model_copy(update={"outer": outer})
        return config.model_copy(update={"phases": (wild,)}), config

    monkeypatch.setattr(few_shot, "MODELS", {"meta": meta, "joint": replace(joint, candidates=candidates)})
    monkeypatch.setattr(few_shot, "SHORT", 1.0)  # a tenth of a tiny run is a single step, after which all is well
    shutil.rmtree(out / "seed0" / "models" / "joint")
    command = ("benchmark", "few-shot", "--preset", tiny_yaml, "--seeds", 1, "--out", out, "--domains", "own", *STEPS)
    done = metagen(*command, *FEW, "--workers", 1)
    assert done.code == 0, done.err
    assert "joint, candidate 0 diverged" in done.out
    taken = yaml.safe_load((out / "seed0" / "models" / "joint" / "config.yaml").read_text())
    assert taken["phases"][0]["outer"]["learning_rate"] < 1
    again = metagen(*command, *FEW, "--workers", 1)
    assert again.code == 0, again.err
    assert "diverged" not in again.out


@pytest.mark.parametrize("workers", [1, 2])
def test_what_follows_on_a_job_is_done_after_it(workers: int, tmp_path: Path) -> None:
    plan, a, b, c, d = SimpleNamespace(workers=workers), *(tmp_path / name for name in "abcd")
    a.write_text("text")
    after = Job(partial(shutil.copy, b, c))
    few_shot._all(plan, [Job(partial(shutil.copy, a, b), (after,)), Job(partial(shutil.copy, a, d))])
    assert [path.read_text() for path in (c, d)] == ["text", "text"]
    with pytest.raises(FileNotFoundError):
        few_shot._all(plan, [Job(partial(shutil.copy, tmp_path / "none", b))])


def test_a_killed_process_ends_the_benchmark_in_one_line_and_its_training_goes_on_later(
    tiny_yaml: Path, tmp_path: Path
) -> None:
    folder, plan = tmp_path / "models" / "long", SimpleNamespace(workers=2)
    config = load_config(str(tiny_yaml), ["phases.0.steps=100000"], None, None)
    begun = f"until [ -s {folder / 'log.jsonl'} ]; do sleep 0.1; done; sleep 1; kill -9 $PPID"
    jobs = [Job(partial(few_shot._trained, config, folder)), Job(partial(subprocess.run, ["sh", "-c", begun]))]
    with pytest.raises(UserError, match="one of 2 processes was killed"):
        few_shot._all(plan, jobs)
    assert list((folder / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "1,5"), "0 and 10 have to be among them"),
        (("--shots", "a"), "whole numbers"),
        (("--shots", "0"), "at least one image"),
        (("--samples", "1"), "a whole number of at least 2"),
        (("--shots", "100"), "no class in split 'test'"),
        (("--domains", "own,omnigot"), "did you mean 'omniglot'"),
        (("--preset", "quickstrt"), "did you mean 'quickstart'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_trained(
    tiny_yaml: Path, tmp_path: Path, metagen: Any, options: tuple[str, ...], message: str
) -> None:
    preset = () if "--preset" in options else ("--preset", tiny_yaml)
    done = metagen("benchmark", "few-shot", *preset, "--domains", "own", "--out", tmp_path / "out", *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_scripts_are_there_in_a_checkout_and_missed_in_one_line_without(
    metagen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for script in SCRIPTED.values():
        assert script.path().is_file()
    monkeypatch.setattr("launch.benchmarks.registry.SCRIPTS", tmp_path)
    done = metagen("benchmark", "scaling")
    assert done.code == 2
    assert "benchmarks/scaling.py is not here" in done.err
    assert "Clone the repository" in done.err


def test_a_script_gets_seeds_out_and_its_own_options(
    metagen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "policy.py"
    script.write_text(
        "import pathlib, sys\n"
        "pathlib.Path(__file__).with_suffix('.txt').write_text(' '.join(sys.argv[1:]))\n"
        "sys.exit(3)\n"
    )
    monkeypatch.setattr("launch.benchmarks.registry.SCRIPTS", tmp_path)
    done = metagen("benchmark", "policy", "--seeds", 2, "--out", tmp_path / "x", "--", "--tasks", 4)
    assert done.code == 3
    assert script.with_suffix(".txt").read_text() == f"--seeds 0,1 --run-dir {tmp_path / 'x'} --tasks 4"
