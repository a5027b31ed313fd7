"""Bad input: exit code 2, one line that says what to do, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from launch.cli import main, run_command
from launch.generators import generation
from launch.training.run_folder import check_free
from metagen.checkpoint import load_checkpoint


def _refused(outcome: Any, *needles: str) -> None:
    """One error line on stderr that names every needle, and nothing that looks like a crash."""
    assert outcome.code == 2, outcome
    assert len(outcome.errors) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for needle in needles:
        assert needle in outcome.errors[0], outcome.errors[0]


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """Where a run would go; nothing may be left there."""
    folder = tmp_path / "runs" / "new"
    yield folder
    assert not folder.exists()
    assert not folder.parent.exists()


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes of six images each."""
    root = tmp_path / "images"
    for name in ("cat", "owl"):
        (root / "train" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (16, 16), 10 * number).save(root / "train" / name / f"{number}.png")
    return root


# What is asked for


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["quikstart"], ["unknown preset 'quikstart'", "did you mean 'quickstart'?"]),
        (["nothing_like_it"], ["unknown preset 'nothing_like_it'", "known: ", "quickstart", "or give a .yaml file"]),
        (["missing.yaml"], ["missing.yaml: cannot be read (No such file or directory)"]),
        (["quickstart", "--set", "epsiode.shots=3"], ["epsiode: unknown key; did you mean 'episode'?"]),
        (
            ["quickstart", "--set", "phases.0.outer.learning_rat=1"],
            ["phases.0.outer.learning_rat: unknown key; did you"],
        ),
        (["quickstart", "--set", "seed=many"], ["seed: a whole number is needed (got 'many')"]),
        (["quickstart", "--set", "phases.7.steps=1"], ["'7' is not an index below"]),
        (["quickstart", "--set", "seed"], ["write key=value"]),
        (["quickstart", "--set", "data.source=pictogram"], ["'pictogram'; did you mean 'pictograms'?"]),
        (["quickstart", "--set", "data.image_size=30"], ["image_size 30 is not a multiple of 4", "use fewer levels"]),
        (["quickstart", "--set", "name=../evil"], ["name: '../evil' cannot be used: give at most 100 letters"]),
        (["quickstart", "--set", "name=a/b"], ["name: 'a/b' cannot be used"]),
        (["quickstart", "--set", "name=.hidden"], ["name: '.hidden' cannot be used", "first a letter or a digit"]),
        (["quickstart", "--set", "device=tpu"], ["device: 'tpu' is not a device: use cpu, cuda"]),
        (["quickstart", "--steps", "1"], ["steps: 1 is too few", "give at least 2"]),
        (["quickstart", "--steps", "many"], ["'--steps': 'many' is not a whole number of at least 1 (see"]),
        (["quickstart", "--seed", "-1"], ["'--seed': -1 is not a whole number of at least 0 (see"]),
        (["quickstart", "--pool", "threads"], ["'--pool'", "ray", "serial", "(see 'metagen train --help')"]),
        (["quickstart", "--stepz", "3"], ["no such option '--stepz'", "--steps", "(see 'metagen train --help')"]),
        (["quickstart", "another"], ["unexpected extra argument (another) (see 'metagen train --help')"]),
        (["quickstart", "--pool", "serial", "--actors", "2"], ["--pool serial is one worker", "drop --actors"]),
        (["quickstart", "--actors", "9999"], ["9999 actors", "use --actors "]),
    ],
)
def test_a_wrong_request(arguments: list[str], needles: list[str], run_dir: Path, metagen: Any) -> None:
    _refused(metagen("train", *arguments, "--run-dir", run_dir), *needles)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no such command 'trian'; did you mean 'train'? (see 'metagen --help')"),
        (["cluster", "xyz"], "no such command 'xyz' (see 'metagen cluster --help')"),
        (["adapt"], "missing argument 'CHECKPOINT' (see 'metagen adapt --help')"),
        (["cluster", "init"], "kubernetes, skypilot (see 'metagen cluster init --help')"),
        (["tasks", "list", "--image-size", "x"], "'x' is not a whole number from 8 to 512 (see 'metagen tasks list"),
        (["cluster", "up", "a.yaml", "--timeout", "x"], "'x' is not a number of at least 1 (see 'metagen cluster up"),
        (["train", "--steps"], "option '--steps' requires an argument (see 'metagen COMMAND --help')"),
        (["submit"], "give a cluster file, or --address (see 'metagen submit --help')"),
    ],
)
def test_a_request_that_is_none_is_one_line_that_names_the_help(words: list[str], message: str, metagen: Any) -> None:
    done = metagen(*words)
    _refused(done, message)
    assert done.err == f"{done.errors[0]}\n"
    assert done.err.startswith("error: ")


def test_the_help_of_a_command_within_another_is_found_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of what 'submit' is given to send: a command that is told by its own name alone."""

    @click.command()
    def sending() -> None:
        click.Command("train").make_context("train", ["--qqq"])

    monkeypatch.setattr(sys, "argv", ["metagen"])
    with pytest.raises(SystemExit, match="2"):
        run_command(sending, "metagen")
    assert capsys.readouterr().err == "error: no such option '--qqq' (see 'metagen train --help')\n"


def test_a_config_file_that_is_none(tmp_path: Path, run_dir: Path, metagen: Any) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("seed: [1, 2")
    _refused(metagen("train", path, "--run-dir", run_dir), str(path), "not valid YAML", "line 1")


def test_a_device_that_is_not_there(tiny_yaml: Path, run_dir: Path, metagen: Any) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    _refused(metagen("train", tiny_yaml, "--set", "device=cuda", "--run-dir", run_dir), "device", "cuda", "cpu")


# The images


def test_a_folder_that_is_missing_or_without_images(
    tiny_yaml: Path, tmp_path: Path, run_dir: Path, metagen: Any
) -> None:
    data = ["--set", "data.source=folder", "--run-dir", run_dir, "--set"]
    _refused(metagen("train", tiny_yaml, *data, f"data.path={tmp_path / 'missing'}"), "missing: no such folder")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    _refused(metagen("train", tiny_yaml, *data, f"data.path={tmp_path / 'empty'}"), "no images", "PATH/CLASS/IMAGE")


def test_a_folder_with_too_few_images(tiny_yaml: Path, class_folders: Path, run_dir: Path, metagen: Any) -> None:
    done = metagen(
        "train",
        tiny_yaml,
        *("--set", "data.source=folder", "--set", f"data.path={class_folders}"),
        *("--set", "episode.shots=4", "--set", "episode.queries=3", "--run-dir", run_dir),
    )
    _refused(done, "images: no training class has 7 images", "--set episode.queries=N, or add images")
    assert "training classes with fewer than 7 images are not used (2): 'cat', 'owl'" in done.err


def test_classes_with_too_few_images_are_reported_not_silently_dropped(
    tiny_yaml: Path, class_folders: Path, tmp_path: Path, metagen: Any
) -> None:
    (class_folders / "train" / "owl" / "0.png").unlink()
    done = metagen(
        "train",
        tiny_yaml,
        *("--set", "data.source=folder", "--set", f"data.path={class_folders}"),
        *("--set", "episode.shots=4", "--run-dir", tmp_path / "run"),
    )
    assert done.code == 0
    assert "note: training classes with fewer than 6 images are not used (1): 'owl'" in done.err


def test_a_corrupt_image_is_named_or_counted(
    tiny_yaml: Path, class_folders: Path, tmp_path: Path, metagen: Any
) -> None:
    bad = class_folders / "train" / "owl" / "3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    data = ["--set", "data.source=folder", "--set", f"data.path={class_folders}"]
    advice = ("owl/3.png", "remove it, or, to leave such images out in training, --set data.on_corrupt=skip")
    _refused(metagen("train", tiny_yaml, *data, "--run-dir", tmp_path / "a"), *advice)
    _refused(metagen("tasks", "list", "--data", class_folders), *advice)
    assert not (tmp_path / "a").exists()
    done = metagen("train", tiny_yaml, *data, "--set", "data.on_corrupt=skip", "--run-dir", tmp_path / "b")
    assert done.code == 0
    assert "note: corrupt images, skipped (1): 'train/owl/3.png'" in done.err


def test_images_to_adapt_to(
    run_copy: Path, class_folders: Path, tmp_path: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, owls = tmp_path / "out", class_folders / "train" / "owl"
    with monkeypatch.context() as patched:
        patched.setattr(generation, "generate", lambda *_: torch.full((16, 1, 16, 16), torch.nan))
        _refused(metagen("adapt", run_copy, owls, "--out", out), "after 10 inner steps", "fewer --steps")
    _refused(metagen("adapt", run_copy, tmp_path / "missing", "--out", out), "missing: no such folder")
    _refused(metagen("adapt", run_copy, class_folders / "train", "--out", out), "no images", "'cat', 'owl'", "name one")
    (owls / "1.png").write_bytes(b"GIF89a")
    _refused(metagen("adapt", run_copy, owls, "--out", out), "1.png")
    assert not out.exists()


def test_data_to_evaluate_on(run_copy: Path, class_folders: Path, tmp_path: Path, metagen: Any) -> None:
    before = sorted(run_copy.rglob("*"))
    _refused(metagen("evaluate", run_copy, "--data", tmp_path / "nothing"), "no such file or folder")
    _refused(
        metagen("evaluate", run_copy, "--data", class_folders),
        "split 'test' has no classes (split given by",
        "another --split",
    )
    _refused(metagen("evaluate", run_copy, "--shots", 100), "no class in split 'test' has 105 images", "fewer --shots")
    _refused(metagen("evaluate", run_copy, "--steps", "0,x"), "'0,x'", "whole numbers separated by commas")
    _refused(metagen("evaluate", run_copy, "--steps=-1"), "steps cannot be negative")
    _refused(metagen("evaluate", run_copy, "--samples", 1), "2 or more, or 0 for none")
    assert sorted(run_copy.rglob("*")) == before


def test_a_shell_that_completes_a_wrong_word_hears_no_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("_METAGEN_COMPLETE", "bash_complete"),
        ("COMP_WORDS", "metagen tarin --st"),
        ("COMP_CWORD", "2"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, 1)
    assert capsys.readouterr().err == ""


def test_tasks_that_are_not_there(tmp_path: Path, tiny_npz: Path, metagen: Any) -> None:
    _refused(metagen("tasks", "list", "--data", "pictogram"), "pictogram: no such file or folder")
    _refused(metagen("tasks", "list", "--data", "folder"), "source 'folder' needs one", "give it as --data PATH")
    _refused(metagen("tasks", "list", "--data", "mixture"), "source 'mixture' needs them", "as --data PATH")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    _refused(metagen("tasks", "list", "--data", tmp_path / "bad.npz"), "bad.npz: not an .npz file")
    out = tmp_path / "sheet.jgp"
    arguments = ["--data", tiny_npz, "--image-size", 16, "--out", out]
    _refused(metagen("tasks", "show", *arguments), "sheet.jgp: no picture has a name that ends so", "--out")
    assert not out.exists()


# Checkpoints


@pytest.mark.parametrize("command", ["evaluate", "sample", "adapt"])
def test_a_checkpoint_that_is_missing_or_truncated(
    command: str, run_copy: Path, class_folders: Path, tmp_path: Path, metagen: Any
) -> None:
    rest = [class_folders / "train" / "owl"] if command == "adapt" else []
    rest += [] if command == "evaluate" else ["--out", tmp_path / "out.png"]
    _refused(metagen(command, tmp_path / "none", *rest), "none: no such folder; give a run folder")
    _refused(metagen(command, class_folders, *rest), "no checkpoint in it; give a run folder")
    final = run_copy / "checkpoints" / "final"
    weights = final / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    before = sorted(run_copy.rglob("*"))
    _refused(metagen(command, final, *rest), str(final), "damaged checkpoint", "use another")
    assert sorted(run_copy.rglob("*")) == before
    assert not (tmp_path / "out.png").exists()


def test_a_run_whose_config_describes_another_architecture(run_copy: Path, metagen: Any) -> None:
    path = run_copy / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["generator"]["architecture"]["widths"] = [24]
    path.write_text(yaml.safe_dump(values))
    before = sorted(run_copy.rglob("*"))
    _refused(metagen("resume", run_copy), "a checkpoint of another architecture", "use the config it was trained with")
    assert sorted(run_copy.rglob("*")) == before


def test_a_run_whose_config_was_changed(run_copy: Path, metagen: Any) -> None:
    path = run_copy / "config.yaml"
    path.write_text(path.read_text().replace("seed: 3", "seed: 4"))
    _refused(metagen("resume", run_copy), "belongs to another config than", "restore that file")


def test_a_baseline_for_images_of_another_size(run_copy: Path, tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    other = tmp_path / "other"
    done = metagen("train", tiny_yaml, "--steps", 2, "--set", "data.image_size=32", "--run-dir", other)
    assert done.code == 0
    _refused(metagen("evaluate", run_copy, "--joint", other, "--tasks", 1, "--steps", 0), str(other), "32", "16")


# Folders


def test_a_run_folder_that_already_holds_a_run(tiny_yaml: Path, run_copy: Path, metagen: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")}
    done = metagen("train", tiny_yaml, "--run-dir", run_copy)
    _refused(done, "already holds a run", f"'metagen resume {run_copy}' or choose another")
    assert {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")} == before


def test_a_run_is_not_put_among_other_things(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    """Where a picture of the run would come to lie among those that the next command reads."""
    mine = tmp_path / "my_images"
    mine.mkdir()
    for name in ("a.png", "train.log"):
        (mine / name).write_bytes(b"kept")
    done = metagen("train", tiny_yaml, "--run-dir", mine)
    _refused(done, f"{mine} holds no run but other things, 'a.png': choose a new or an empty folder")
    assert sorted(path.name for path in mine.iterdir()) == ["a.png", "train.log"]


@pytest.mark.parametrize(
    "name", ["checkpoints", ".config.yaml.partial", "log.jsonl", "logs", "train.log", "log.txt", "slurm-12.out"]
)
def test_what_a_failed_start_left_and_logs_of_it_keep_no_run_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    check_free(tmp_path)


def test_a_run_folder_that_cannot_be_written(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    """Below a file, on a file system that takes no files; permissions would not stop root."""
    file = tmp_path / "file"
    file.write_text("kept")
    for folder in (file, file / "run", file / "deep" / "run", Path("/proc/metagen-run"), Path("/dev/null/run")):
        _refused(metagen("train", tiny_yaml, "--run-dir", folder), str(folder), "--run-dir")
        assert not folder.is_dir()
    assert file.read_text() == "kept"


def test_a_folder_to_resume_that_is_none(tmp_path: Path, metagen: Any) -> None:
    _refused(metagen("resume", tmp_path), "not a run folder (no config.yaml)", "the folder that 'metagen train' wrote")
    _refused(metagen("resume", tmp_path / "missing"), "not a run folder")
    assert list(tmp_path.iterdir()) == []


def test_results_are_not_written_over_others(run_copy: Path, class_folders: Path, tmp_path: Path, metagen: Any) -> None:
    owls, out = class_folders / "train" / "owl", tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    _refused(metagen("adapt", run_copy, owls, "--out", out), "exists and is not empty: choose another --out")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    _refused(metagen("adapt", run_copy, owls, "--out", out / "mine.txt"), "choose another --out")
    assert (out / "mine.txt").read_text() == "kept"


def test_places_where_results_cannot_be_written(
    run_copy: Path, class_folders: Path, tmp_path: Path, metagen: Any
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    owls, below = class_folders / "train" / "owl", file / "below"
    _refused(metagen("adapt", run_copy, owls, "--out", below), str(below), "cannot be written")
    _refused(metagen("sample", run_copy, "--out", below / "s.png"), str(below), "--out")
    few = ["--tasks", 1, "--steps", 0]
    _refused(metagen("evaluate", run_copy, *few, "--json", below / "e.json"), str(below), "--json")
    _refused(metagen("evaluate", run_copy, *few, "--picture", below / "e.png"), str(below), "--picture")
    _refused(metagen("evaluate", run_copy, *few, "--page", below / "e.html"), str(below), "--page")
    _refused(metagen("evaluate", run_copy, *few, "--extractor", "stroks"), "did you mean 'strokes'")
    assert file.read_text() == "kept"
    assert not (run_copy / "evaluation.json").exists()


# Space


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1200 kB: room for a run's first checkpoint and not for many."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems can be mounted by root alone")
    yield place
    subprocess.run(["umount", place], check=True)


def test_no_space_left_keeps_the_checkpoints_that_are_whole_and_the_run_goes_on_when_there_is(
    small_disk: Path, tiny_yaml: Path, trained: Path, metagen: Any, assert_same_state: Any
) -> None:
    folder = small_disk / "run"
    arguments = ["--set", "log.checkpoint_every=1", "--set", "log.keep=9", "--set", "log.images_every=99"]
    done = metagen("train", tiny_yaml, "--run-dir", folder, *arguments)
    _refused(done, str(folder), "No space left on device", "free some space")
    kept = sorted((folder / "checkpoints").iterdir())
    assert kept
    assert [path.name for path in kept] == [f"step-{number:06d}" for number in range(1, len(kept) + 1)]
    assert all(load_checkpoint(path).state.step == number for number, path in enumerate(kept, start=1))
    subprocess.run(["mount", "-o", "remount,size=9m", small_disk], check=True)
    assert metagen("resume", folder).code == 0
    assert_same_state(load_checkpoint(folder).state, load_checkpoint(trained).state)


def test_no_space_for_the_first_file_leaves_nothing(small_disk: Path, tiny_yaml: Path, metagen: Any) -> None:
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    done = metagen("train", tiny_yaml, "--run-dir", small_disk / "runs" / "new")
    _refused(done, "No space left on device", "--run-dir")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_disk_that_takes_no_large_files_is_one_line_too(
    tiny_yaml: Path, tmp_path: Path, metagen: Any, trained: Path
) -> None:
    """As a quota would: no file may be larger than the first hundred kilobytes of the weights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        done = metagen("train", tiny_yaml, "--run-dir", tmp_path / "run", "--set", "log.images_every=99")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    _refused(done, "cannot be written (File too large)")
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    assert json.loads((trained / "checkpoints" / "final" / "checkpoint.json").read_text())["step"] == 5


def test_a_run_folder_that_is_gone_is_one_line_too(tiny_yaml: Path, tmp_path: Path, start_metagen: Any) -> None:
    folder = tmp_path / "run"
    process = start_metagen("train", tiny_yaml, "--set", "phases.0.steps=10000", "--run-dir", folder)
    while not (folder / "log.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    folder.rename(folder.with_name("elsewhere"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.startswith(f"error: {folder}")
    assert "cannot be written (No such file or directory)" in err
    assert err.count("\n") == 1


# Ray


@pytest.mark.parametrize("host", ["127.0.0.1", "nohost.invalid"])
def test_an_unreachable_ray_address_is_refused_in_seconds(
    host: str, tiny_yaml: Path, run_dir: Path, metagen: Any
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    done = metagen("train", tiny_yaml, "--address", f"{host}:{port}", "--run-dir", run_dir)
    assert time.monotonic() - started < 30
    _refused(done, f"no Ray cluster answers at {host}:{port}", "check 'ray status' there")


def test_ray_with_more_actors_than_cores(tiny_yaml: Path, run_dir: Path, metagen: Any) -> None:
    done = metagen("train", tiny_yaml, "--pool", "ray", "--actors", 1000, "--run-dir", run_dir)
    _refused(done, "1000 actors of 1 cores on ", "use --actors ")


@pytest.mark.ray
def test_a_ray_that_does_not_start_is_one_line(
    tiny_yaml: Path, tmp_path: Path, run_dir: Path, start_metagen: Any
) -> None:
    """Here for a folder of its own that cannot be; a full disk and a machine that is too busy come the same way."""
    (tmp_path / "file").touch()
    process = start_metagen("train", tiny_yaml, "--pool", "ray", "--run-dir", run_dir, RAY_TMPDIR=f"{tmp_path}/file")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.startswith("error: Ray does not start on this machine (")
    assert f"{tmp_path}/file" in err
    assert err.count("\n") == 1
    assert not run_dir.exists()


def test_images_that_are_all_in_the_test_split(tiny_yaml: Path, tmp_path: Path, run_dir: Path, metagen: Any) -> None:
    path = tmp_path / "test_only.npz"
    images = np.zeros((20, 16, 16), np.uint8)
    np.savez(path, images=images, labels=np.zeros(20, int), names=np.array(["a"]), split=[2])
    done = metagen("train", tiny_yaml, "--set", f"data.path={path}", "--run-dir", run_dir)
    _refused(done, "no class is in split 'train'", "split given by the file test_only.npz", "add classes")


@pytest.mark.parametrize(
    "command",
    [
        ("tasks", "list", "--data", "PATH"),
        ("adapt", "PATH", "images"),
        ("resume", "PATH"),
        ("top", "PATH"),
        ("replay", "PATH"),
        ("train", "quickstart", "--run-dir", "PATH"),
    ],
)
def test_a_path_that_no_folder_can_hold_is_one_line_everywhere(command: tuple[str, ...], metagen: Any) -> None:
    path = "a" * 300
    _refused(metagen(*(path if word == "PATH" else word for word in command)), path, "too long", "give another path")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_path_that_may_not_be_read_is_one_line_and_other_failures_are_not_hidden(
    number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def asking() -> None:
        raise OSError(number, os.strerror(number), "shut/in")

    monkeypatch.setattr(sys, "argv", ["metagen"])
    with pytest.raises(SystemExit if number == errno.EACCES else OSError) as raised:
        run_command(asking, "metagen")
    if number == errno.EACCES:
        assert (raised.value.code, capsys.readouterr().err) == (  # type: ignore[union-attr]
            2,
            "error: 'shut/in': Permission denied: give another path\n",
        )
