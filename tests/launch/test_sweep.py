from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

import cluster.sweep
from launch.preset import load_config
from launch.sweeps import session, status
from launch.sweeps.charts import Charts
from launch.sweeps.folder import load_sweep, presets
from launch.sweeps.names import short_names
from metagen.lock import held
from metagen.search import heartbeat
from metagen.search.ledger import Ledger, Progress, Tried
from metagen.search.limits import Refused, admitted
from metagen.seeding import numpy_generator


@pytest.fixture(scope="session")
def sweep_yaml(tiny_sweep: Any, tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sweep as a file, beside the tiny run that it names as its base."""
    path = tmp_path_factory.mktemp("sweep") / "tinysweep.yaml"
    values = tiny_sweep(trials=3, search={"name": "random"}, schedule={"name": "none"}).model_dump(
        mode="json", exclude_none=True, exclude={"name"}
    )
    shutil.copy(tiny_yaml, path.parent / "tiny.yaml")
    path.write_text(yaml.safe_dump({**values, "base": "tiny.yaml"}, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def swept(ray_session: None, sweep_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny sweep. Tests read it; one that writes takes a copy."""
    folder = tmp_path_factory.mktemp("sweeps") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_ray", lambda sweep, address: nullcontext())  # the tests' Ray is there already
        session.begin(load_sweep(str(sweep_yaml), ["concurrent=1"]), folder, None)
    return folder


@pytest.mark.parametrize("name", sorted(presets()))
def test_a_packaged_sweep_can_be_and_so_can_a_tenth_of_its_networks(name: str) -> None:
    sweep = load_sweep(name, ())
    space, fine = sweep.make_space(), 0
    for index in range(20):
        try:
            admitted(sweep, space, space.draw(numpy_generator("preset", index)))
            fine += 1
        except Refused:
            continue
    assert fine >= 2


def test_the_laptop_tries_the_quickstarts_network_first() -> None:
    sweep = load_sweep("sweep-laptop", ())
    config, _ = admitted(sweep, sweep.make_space(), sweep.first[0])
    mine, theirs = (one.generator for one in (config, load_config("quickstart", (), None, None)))
    levels = range(len(theirs.architecture.widths))
    assert not any(one.architecture.attends(level) for one in (mine, theirs) for level in levels)
    architecture = mine.architecture.model_copy(update={"attention": theirs.architecture.attention})
    assert mine.model_copy(update={"architecture": architecture}) == theirs


def test_a_dry_run_shows_what_is_tried_first_even_if_it_is_refused(metagen: Any) -> None:
    done = metagen("sweep", "sweep-laptop", "--dry-run")
    assert re.search(r"tried first\n +845,476 parameters.*width 64", done.out), done.err
    done = metagen("sweep", "sweep-laptop", "--dry-run", "--set", "limits.parameters=8e5")
    assert re.search(r"tried first\n +parameters .* is above limits.parameters", done.out), done.err


def test_a_dry_run_says_what_would_be_tried_and_writes_nothing(
    metagen: Any, sweep_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = metagen("sweep", sweep_yaml, "--trials", 7, "--budget", "90m", "--dry-run")
    assert done.code == 0, done.err
    assert re.search(r"trials +7, each 6 outer steps; judged 3 times", done.out)
    assert "1.5 h" in done.out
    assert re.search(r"refused +\d+ of 40, before they cost anything", done.out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothere"], "unknown preset of a sweep 'nothere'; known: sweep-campaign, sweep-laptop"),
        (["nope"], "unknown preset of a sweep 'nope'; known: sweep-campaign, sweep-laptop"),
        (["sttus"], "did you mean the command 'metagen sweep status'?"),
        (["SWEEP", "--set", "name=../evil"], "name: '../evil' cannot be used: give at most 100 letters"),
        (["SWEEP", "--set", "spacee.levels.range=[1, 2]"], "did you mean 'space'"),
        (["SWEEP", "--set", "schedule.name=ahsa"], "asha"),
        (["SWEEP", "--set", "base.seeed=1"], "did you mean 'seed'"),
        (["SWEEP", "--set", "limits.parameters=10", "--dry-run"], "all of 40 proposals were refused"),
        (["SWEEP", "--set", "judge.shots=500", "--dry-run"], "no class in split 'valid'"),
        (["SWEEP", "--set", "search.options={seed: 1}", "--dry-run"], "search random takes no options, got seed"),
        (["SWEEP", "--set", "search.options={seed: 1}", "--out", "NEW"], "search random takes no options, got seed"),
        (["SWEEP", "--set", "search.name=grid", "--out", "NEW"], "a grid needs choice or range"),
        (
            ["SWEEP", "--set", "schedule={name: asha, options: {factor: 1}}", "--out", "NEW"],
            "schedule asha options: factor: a number above 1 is needed (got 1)",
        ),
        (["status", "EMPTY"], "not a sweep's folder"),
        (["resume", "EMPTY"], "not a sweep's folder"),
        (["report", "EMPTY"], "not a sweep's folder"),
        (["best", "SWEPT", "--trial", "99"], "no such trial"),
        (["SWEEP", "--out", "SWEPT"], "already holds a sweep"),
    ],
)
def test_bad_input_is_one_line(
    metagen: Any, sweep_yaml: Path, swept: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    words = {"SWEEP": sweep_yaml, "EMPTY": tmp_path, "SWEPT": swept, "NEW": tmp_path / "new"}
    done = metagen("sweep", *[words.get(word, word) for word in arguments])
    assert done.code == 2
    assert len(done.errors) == 1, done.err
    assert message in done.errors[0]
    assert not list(tmp_path.iterdir())


def test_more_actors_than_cores_are_refused_with_the_sweeps_own_option(
    metagen: Any, sweep_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = metagen("sweep", sweep_yaml, "--set", "trial.actors=9999", "--out", tmp_path / "new")
    assert done.code == 2
    assert len(done.errors) == 1, done.err
    assert "use --set trial." in done.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("time", ["10", "0m", "1w", "-3h"])
def test_a_time_needs_its_unit(metagen: Any, sweep_yaml: Path, time: str) -> None:
    done = metagen("sweep", sweep_yaml, f"--budget={time}")
    assert done.code == 2
    assert "90s, 30m or 8h" in done.err


def test_status_and_best_say_the_same_and_the_export_is_a_run(metagen: Any, swept: Path, tmp_path: Path) -> None:
    status = metagen("sweep", "status", swept, "--once")
    assert status.code == 0, status.err
    assert "3 of 3: 3 complete" in status.out
    best = re.search(r"best +trial (\d+), loss ([\d.]+)", status.out)
    assert best
    exported = tmp_path / "best.yaml"
    done = metagen("sweep", "best", swept, "--export", exported)
    assert f"trial {best[1]}: complete" in done.out
    config = load_config(str(exported), (), None, None)
    assert config.steps == 6
    trained = metagen("train", exported, "--run-dir", tmp_path / "run", "--pool", "serial")
    assert trained.code == 0, trained.err
    state = (tmp_path / "run" / "checkpoints" / "final" / "state.safetensors").read_bytes()
    trial = swept / "trials" / f"{int(best[1]):04d}" / "checkpoints" / "final" / "state.safetensors"
    assert trial.read_bytes() == state


def test_a_trial_is_a_run_folder(metagen: Any, swept: Path, tmp_path: Path) -> None:
    done = metagen("sample", swept / "trials" / "0000", "--classes", 2, "--samples", 2, "--out", tmp_path / "a.png")
    assert done.code == 0, done.err


def test_the_report_is_one_page_that_needs_nothing_else(metagen: Any, swept: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(swept, tmp_path / "copy"))
    done = metagen("sweep", "report", folder)
    assert done.code == 0, done.err
    page = (folder / "report.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert page.count("<svg") >= 5
    assert page.count("data:image/png;base64,") == 3
    assert "width=device-width" in page
    for title in ("Best trials", "Learning curves", "Choices", "Which choice matters", "Cost", "Failed and refused"):
        assert f"<h2>{title}</h2>" in page
    assert {path.suffix for path in (folder / "report").iterdir()} == {".png"}


@pytest.mark.parametrize(("losses", "ends"), [([0.5, 0.7], ["0.5", "0.7"]), ([0.5, *[0.6] * 20, 9.0], ["0.5", "0.6+"])])
def test_the_ends_of_the_axis_of_losses_are_those_of_the_trials(
    losses: list[float], ends: list[str], tiny_sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the best nine in ten, where one that went astray would hide the others."""
    charts, trials = Charts(tiny_sweep()), []
    for number, loss in enumerate(losses):
        trials.append(Tried(number, {}, {}, "complete", [{"step": 2, "rung": 1, "loss": loss}]))
    figures: list[Any] = []
    monkeypatch.setattr(charts, "saved", figures.append)
    charts.parallel(trials, {})
    assert [text.get_text() for text in figures[0].axes[0].texts] == ends
    charts.plt.close(figures[0])


@pytest.mark.parametrize(("astray", "below"), [([], 0.71), ([1e4], 0.71), ([0.72], 0.73)])
def test_learning_curves_show_all_trials_but_one_that_went_astray(
    astray: list[float], below: float, tiny_sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    charts, trials = Charts(tiny_sweep()), []
    for number, loss in enumerate([*[0.5 + 0.005 * i for i in range(40)], *astray]):
        trials.append(Tried(number, {}, {}, "complete", [{"step": 2, "rung": 1, "loss": loss}]))
    figures: list[Any] = []
    monkeypatch.setattr(charts, "saved", figures.append)
    charts.curves(trials)
    low, high = figures[0].axes[0].get_ylim()
    assert 0.48 < low < 0.5
    assert 0.69 < high < below + 0.02
    charts.plt.close(figures[0])


def test_tensorboard_has_a_run_with_its_hyperparameters_for_every_trial(swept: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for number in range(3):
        events = EventAccumulator(str(swept / "tensorboard" / f"{number:04d}"))
        events.Reload()
        assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]
        assert "hparams" in events.PluginTagToContent("hparams").__str__()


def test_a_trial_is_not_trained_beside_its_sweep_nor_looked_for_in_a_log_that_it_has_not(
    metagen: Any, swept: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(swept, tmp_path / "copy"))
    trial = folder / "trials" / "0000"
    with held(folder, "run", "stop it first"):
        done = metagen("resume", trial)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "is a trial of a sweep that runs" in done.errors[0]
    assert "is complete: 6 steps" in metagen("resume", trial).out
    done = metagen("top", trial)
    assert (done.code, len(done.errors)) == (2, 1)
    assert f"metagen sweep status {folder}" in done.errors[0]


def test_resuming_a_finished_sweep_says_so_and_a_running_one_is_left_alone(
    metagen: Any, swept: Path, tmp_path: Path
) -> None:
    assert "complete: 3 trials" in metagen("sweep", "resume", swept).out
    assert "does not run; it is complete: 3 trials" in metagen("sweep", "stop", swept).out
    folder = Path(shutil.copytree(swept, tmp_path / "copy"))
    with held(folder, "run", "stop it first"):
        done = metagen("sweep", "resume", folder)  # another one has begun to resume, and has no session yet
        assert done.code == 2
        assert f"is being run by process {os.getpid()}" in done.errors[0]
        assert "leaves as soon as" in metagen("sweep", "stop", folder, "--wait", 1).out
        Ledger(folder).write("session", pid=2**22 - 1, host=socket.gethostname())  # of one that was killed before
        done = metagen("sweep", "resume", folder)
        assert done.code == 2
        assert f"is being run by process {os.getpid()}" in done.errors[0]
        assert "running" in metagen("sweep", "status", folder).out
    Ledger(folder).write("session", pid=os.getpid(), host=socket.gethostname())
    # Killed; this process has its number now, as after the restart of a container.
    assert "killed: continue with" in metagen("sweep", "status", folder).out
    assert "complete: 3 trials" in metagen("sweep", "resume", folder).out


def test_a_sweep_made_longer_is_longer_for_all_and_never_shorter_than_what_was_begun(
    metagen: Any, swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(swept, tmp_path / "copy"))
    with monkeypatch.context() as patch:
        patch.setattr(session, "_ray", lambda sweep, address: nullcontext())
        patch.setattr(session, "_run", lambda sweep, folder, images: None)
        assert metagen("sweep", "resume", folder, "--trials", 5, "--budget", "2h").code == 0
    out = metagen("sweep", "status", folder).out
    assert "3 of 5" in out
    assert "of 2 h" in out
    Ledger(folder).write("proposed", trial=3, attempt=3, assignment={}, facts={})
    done = metagen("sweep", "resume", folder, "--trials", 2)
    assert (done.code, done.errors) == (2, [f"error: {folder}: 4 trials were begun: give at least as many --trials"])


def test_a_sweep_of_which_nothing_was_judged_recommends_no_report(
    metagen: Any, swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(swept, tmp_path / "copy"))
    spent = Progress(state="left", reason=cluster.sweep.SPENT)
    monkeypatch.setattr(session, "_ray", lambda sweep, address: nullcontext())
    monkeypatch.setattr(cluster.sweep, "run_sweep", lambda *arguments, **named: spent)
    out = metagen("sweep", "resume", folder, "--trials", 5).out
    assert "best: no trial was judged" in out
    assert "next:" not in out


def test_a_sweep_that_is_moved_while_it_is_watched_is_one_line(
    metagen: Any, swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(swept, tmp_path / "copy"))
    Ledger(folder).write("session", pid=os.getpid(), host=socket.gethostname())
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setattr(status.time, "sleep", lambda seconds: folder.rename(tmp_path / "elsewhere"))
    with held(folder, "run", "stop it first"):
        done = metagen("sweep", "status", folder)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "was the sweep moved" in done.errors[0]


def test_a_sweep_whose_machine_died_is_resumed_from_another_one_and_one_that_lives_is_left_alone(
    metagen: Any, swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 1.0)
    folder = Path(shutil.copytree(swept, tmp_path / "copy"))
    Ledger(folder).write("session", pid=os.getpid(), host="another-machine")
    with heartbeat.beating(folder):
        done = metagen("sweep", "resume", folder)
        assert done.code == 2
        assert done.errors[0].endswith(
            f"by process {os.getpid()} on another-machine: 'metagen sweep stop {folder}' first"
        )
        assert "leaves as soon as" in metagen("sweep", "stop", folder, "--wait", 0).out
        assert "running on another-machine" in metagen("sweep", "status", folder).out
    assert "does not run" in metagen("sweep", "stop", folder).out
    done = metagen("sweep", "resume", folder)
    assert (done.code, done.errors) == (0, [])
    assert "watching for up to 1 s" in done.out
    assert "complete: 3 trials" in done.out


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_sweep_as_stop_does(
    number: signal.Signals, sweep_yaml: Path, tmp_path: Path, start_metagen: Any
) -> None:
    """Ray has a handler of SIGTERM that aborts."""
    folder = tmp_path / "sweep"
    process = start_metagen("sweep", sweep_yaml, "--set", "steps=6000", "--set", "concurrent=1", "--out", folder)
    deadline = time.monotonic() + 240
    while not Ledger(folder).read()[0].trials:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no trial came"
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert f"left: continue with 'metagen sweep resume {folder}'" in out
    assert err == "\nstopped\n"
    assert Ledger(folder).read()[0].state == "left"


def test_names_are_as_short_as_they_can_be() -> None:
    names = short_names(["phases.0.outer.learning_rate", "phases.1.outer.learning_rate", "levels"])
    assert names == {
        "phases.0.outer.learning_rate": "0.outer.learning_rate",
        "phases.1.outer.learning_rate": "1.outer.learning_rate",
        "levels": "levels",
    }
