from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from launch.benchmarks.registry import SCRIPTED
from launch.cli import COMMANDS
from launch.generators.generation import default_out
from launch.generators.tables import digits_of
from launch.preset import presets
from launch.tasks.categories import FONT, WIDTH, _ink, _legend
from metagen.checkpoint import load_checkpoint
from metagen.config import RunConfig
from metagen.evaluate import STEP_SIZES
from metagen.quality import READINGS
from metagen.tasks import ImageSet
from metagen.values import read_yaml

GROUPS = {
    "policy": ("show",),
    "tasks": ("categories", "list", "show"),
    "cluster": ("init", "validate", "up", "status", "ssh", "down", "cost"),
    "jobs": ("list", "logs", "stop"),
    "benchmark": ("few-shot", *SCRIPTED),
}
ANSI_OR_BAR = re.compile(r"\x1b|[━╸╺█▏▎▍▌▋▊▉]|\r")


def _plain(text: str) -> None:
    assert not ANSI_OR_BAR.search(text), repr(text)


@pytest.fixture
def own_images(tmp_path: Path) -> Path:
    """Five pictures of one class as a user has them: of several sizes, modes and formats."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (mode, size, suffix) in enumerate(
        [
            ("L", (16, 16), "png"),
            ("RGB", (40, 30), "png"),
            ("RGBA", (20, 20), "png"),
            ("L", (64, 64), "jpg"),
            ("1", (9, 9), "bmp"),
        ]
    ):
        picture = Image.new("L", size, 255)
        picture.paste(0, tuple(int(x) for x in (*rng.integers(1, 4, 2), *rng.integers(5, 8, 2))))
        picture.convert(mode).save(folder / f"{number}.{suffix}")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        *([name] for name in COMMANDS if name not in GROUPS),
        *([group, name] for group, names in GROUPS.items() for name in names),
    ],
    ids=" ".join,
)
def test_every_command_has_help_with_an_example(command: list[str], metagen: Any) -> None:
    done = metagen(*command, "--help")
    assert done.code == 0
    assert re.search(rf"Examples?:\n +metagen {' '.join(command)}", done.out)


def test_the_groups_help_lists_every_command_with_its_own_first_line(metagen: Any) -> None:
    text = " ".join(metagen("--help").out.split())
    for name, (_, line) in COMMANDS.items():
        assert f"{name} {line}" in text


@pytest.mark.parametrize("group", [*GROUPS, "sweep"])
def test_the_help_of_a_group_cuts_no_line_off_in_80_columns(
    group: str, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = metagen(group, "--help").out.partition("\nCommands:\n")[2]
    assert listed
    assert "..." not in listed


def test_training_writes_a_whole_run_and_says_where(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    folder = tmp_path / "new" / "run"
    done = metagen("train", tiny_yaml, "--run-dir", folder, "--set", "log.checkpoint_every=2", "--set", "log.keep=1")
    assert done.code == 0
    _plain(done.out + done.err)
    assert done.err == ""
    assert "joint step 1/5  loss " in done.out
    assert "fomaml step 5/5  loss " in done.out
    assert done.out.splitlines()[0] == f"tiny -> {folder}"
    assert done.out.splitlines()[-2] == f"picture: {folder / 'unseen_classes.png'}"
    assert done.out.splitlines()[-1] == f"checkpoint: {folder / 'checkpoints' / 'final'}"
    written = sorted(path.name for path in folder.iterdir())
    assert written == [".lock", "checkpoints", "config.yaml", "log.jsonl", "tensorboard", "unseen_classes.png"]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["final", "step-000004"]
    saved = load_checkpoint(folder)
    assert saved.state.step == 5
    assert saved.config == RunConfig.parse(read_yaml(folder / "config.yaml"))


def test_on_a_terminal_a_bar_shows_the_rate_the_loss_and_the_time_left(tiny_yaml: Path, tmp_path: Path) -> None:
    primary, secondary = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "train", str(tiny_yaml), "--run-dir", str(tmp_path / "run")],
        stdout=secondary,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(secondary)
    shown = b""
    with suppress(OSError):  # the terminal is gone when the process is
        while part := os.read(primary, 65536):
            shown += part
    os.close(primary)
    assert process.wait() == 0
    text = shown.decode()
    assert ANSI_OR_BAR.search(text)
    assert re.search(r"fomaml .*5/5.*loss \d\.\d{4}.*\d+ tasks/s.*\d:\d\d:\d\d.*left", text)


def test_the_command_line_trains_what_the_library_trains(trained: Path, tiny_config: Any, run_to_end: Any) -> None:
    library, _ = run_to_end(tiny_config())
    state = load_checkpoint(trained).state
    assert torch.equal(state.theta, library.theta)
    assert torch.equal(state.policy, library.policy)
    assert state.counts == library.counts


def test_options_change_the_config_and_a_dry_run_writes_nothing(
    tiny_yaml: Path, tmp_path: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = ["--steps", 10, "--seed", 7, "--set", "episode.shots=2", "--set", "phases.0.outer.clip=0.5"]
    done = metagen("train", tiny_yaml, *changes, "--dry-run")
    assert done.code == 0
    config = RunConfig.parse(yaml.safe_load(done.out))
    assert (config.steps, config.seed, config.episode.shots, config.phases[0].outer.clip) == (10, 7, 2, 0.5)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "again.yaml").write_text(done.out)
    again = metagen("train", "again.yaml", "--dry-run")
    assert again.out == done.out


@pytest.mark.parametrize("preset", sorted(presets()))
def test_presets_are_found_by_name(preset: str, metagen: Any) -> None:
    done = metagen("train", preset, "--dry-run")
    assert RunConfig.parse(yaml.safe_load(done.out)).name == preset


def test_a_second_run_of_one_name_gets_a_folder_of_its_own(
    tiny_yaml: Path, tmp_path: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert metagen("train", tiny_yaml, "--steps", 2).code == 0
    first, second = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert first == "tiny"
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", second)


def test_names_with_brackets_are_printed_as_they_are(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    folder = tmp_path / "[/bold] :smile: [red]x"
    done = metagen("train", tiny_yaml, "--steps", 2, "--run-dir", folder)
    assert done.code == 0
    assert f"tiny -> {folder}" in done.out
    assert f"checkpoint: {folder}" in done.out


def test_resuming_a_complete_run_says_so_and_changes_nothing(run_copy: Path, metagen: Any) -> None:
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    done = metagen("resume", run_copy)
    assert (done.code, done.out) == (0, f"{run_copy} is complete: 5 steps\n")
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


def test_resuming_goes_on_from_the_newest_whole_checkpoint(
    trained: Path, run_copy: Path, metagen: Any, assert_same_state: Any
) -> None:
    """Or, with none that is whole, from the start: to the same end."""
    final = run_copy / "checkpoints" / "final"
    shutil.rmtree(final)
    done = metagen("resume", run_copy)
    assert done.code == 0
    assert "step 4/5" not in done.out
    assert_same_state(load_checkpoint(run_copy).state, load_checkpoint(trained).state)

    weights = final / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = metagen("resume", run_copy)
    assert done.code == 0
    assert f"skipped: {final}: damaged checkpoint" in done.err
    assert_same_state(load_checkpoint(run_copy).state, load_checkpoint(trained).state)

    shutil.rmtree(run_copy / "checkpoints")
    done = metagen("resume", run_copy)
    assert "joint step 1/5" in done.out
    assert_same_state(load_checkpoint(run_copy).state, load_checkpoint(trained).state)


def test_evaluating_prints_a_table_and_writes_the_report_and_a_picture(run_copy: Path, metagen: Any) -> None:
    done = metagen("evaluate", run_copy, "--tasks", 2, "--steps", "2,0,2")
    assert done.code == 0
    _plain(done.out.replace("━", "") + done.err)  # the table's own line is no bar
    assert "0 steps" in done.out
    assert "finetune" in done.out
    report = json.loads((run_copy / "evaluation.json").read_text())
    assert (report["split"], report["shots"], report["steps"], report["step"]) == ("test", 3, [0, 2], 5)
    assert len(report["classes"]) == 2
    assert {"meta", "finetune"} <= set(report["methods"])
    for method in report["methods"].values():
        assert list(method["query_loss"]) == ["0", "2"]
        for step in method["query_loss"].values():
            assert step["low"] <= step["mean"] <= step["high"]
            assert sorted(step["per_class"]) == sorted(report["classes"])
            assert np.mean(list(step["per_class"].values())) == pytest.approx(step["mean"])
    meta, tuned = (report["methods"][name]["query_loss"]["0"] for name in ("meta", "finetune"))
    assert meta == tuned
    assert set(report["methods"]["finetune"]["step_size"].values()) <= set(STEP_SIZES)
    with Image.open(run_copy / "samples.png") as picture:
        assert picture.format == "PNG"
    samples = report["samples"]
    assert (samples["steps"], samples["extractor"], samples["images"]) == (2, "strokes", 12)  # 6 of each class
    assert list(samples["methods"]) == ["meta", "copycat", "real"]
    for method in samples["methods"].values():
        assert list(method) == list(READINGS)


def test_the_page_of_an_evaluation_is_one_file_with_all_figures_and_images(run_copy: Path, metagen: Any) -> None:
    assert metagen("evaluate", run_copy, "--tasks", 2, "--steps", "0,1", "--samples", 4, "--sample-rivals").code == 0
    page = (run_copy / "evaluation.html").read_text()
    HTMLParser().feed(page)
    sources = re.findall(r"(?:src|href)=['\"]([^'\"]*)", page)
    assert len(sources) == 2 * (3 + 4 + 4)  # of each class those shown, the new ones and the nearest
    for source in sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (16, 16)
    assert not re.search(r"https?://|url\(|@import|<script", page)
    report = json.loads((run_copy / "evaluation.json").read_text())
    assert list(report["samples"]["methods"]) == ["meta", "finetune", "copycat", "real"]
    for method in report["methods"].values():
        assert f"{method['query_loss']['1']['mean']:.4f}" in page
    for method in report["samples"]["methods"].values():
        assert f"{method['diversity']['mean']:.{digits_of([method['diversity']])}f}" in page
    assert all(name in page for name in report["classes"])


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--picture", "x.foo"),
        ("--json", "config.yaml/x.json"),
        ("--page", "checkpoints"),
        ("--json", "x.html"),
        ("--page", "samples.png"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work_and_nothing_is_written(
    option: str, name: str, run_copy: Path, metagen: Any
) -> None:
    before = sorted(run_copy.rglob("*"))
    done = metagen("evaluate", run_copy, "--tasks", 1, "--steps", "0", "--samples", 0, option, run_copy / name)
    assert (done.code, len(done.errors)) == (2, 1)
    assert option in done.errors[0]
    assert sorted(run_copy.rglob("*")) == before


def test_a_folder_for_a_file_is_one_line(run_copy: Path, metagen: Any) -> None:
    done = metagen("evaluate", run_copy, "--json", ".")
    assert (done.code, done.errors) == (2, ["error: .: is a folder: name a file with --json"])


@pytest.mark.parametrize(("split", "kind"), [("train", "on 1 train class of"), ("all", "on 1 class of")])
def test_classes_that_were_trained_on_are_not_called_unseen(
    split: str, kind: str, run_copy: Path, metagen: Any
) -> None:
    done = metagen("evaluate", run_copy, "--tasks", 1, "--steps", 0, "--samples", 0, "--split", split)
    assert done.code == 0
    assert kind in " ".join(done.out.split())
    assert "unseen" not in done.out + (run_copy / "evaluation.html").read_text()
    assert "" not in done.err.splitlines()  # none of a bar that nobody sees


def test_a_folder_is_evaluated_as_the_model_was_trained_on_it(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    """Dark ink on paper, as it is: the same images by --data give the same figures."""
    classes, rng = tmp_path / "classes", np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        for number in range(2):
            (classes / split / f"{split}{number}").mkdir(parents=True)
            for image in range(8):
                pixels = np.where(rng.random((16, 16)) < 0.2, 0, 255).astype(np.uint8)
                pixels[[0, -1]] = pixels[:, [0, -1]] = 255
                Image.fromarray(pixels).save(classes / split / f"{split}{number}" / f"{image}.png")
    run, found = tmp_path / "run", []
    data = f"data={{source: folder, path: {classes}, image_size: 16}}"
    assert metagen("train", tiny_yaml, "--set", data, "--steps", 2, "--run-dir", run).code == 0
    for number, more in enumerate(([], ["--data", classes])):
        target = tmp_path / f"{number}.json"
        done = metagen("evaluate", run, "--steps", "0", "--samples", 0, "--tasks", 2, "--json", target, *more)
        assert done.code == 0, done.err
        found.append(json.loads(target.read_text())["methods"]["meta"]["query_loss"]["0"]["per_class"])
    assert found[0] == found[1]


def test_without_validation_classes_training_says_so_and_the_message_which_split_wants_some(
    tiny_yaml: Path, tmp_path: Path, tiny_images: ImageSet, metagen: Any
) -> None:
    file, none = tmp_path / "none.npz", np.where(tiny_images.split == 1, 0, tiny_images.split)
    labels = np.repeat(np.arange(len(tiny_images.classes)), tiny_images.counts)
    names = np.array(tiny_images.classes)
    np.savez(file, images=tiny_images.images[:, 0], labels=labels, names=names, split=none)
    run = tmp_path / "run"
    data = f"data={{source: npz, path: {file}, image_size: 16}}"
    done = metagen("train", tiny_yaml, "--set", data, "--steps", 2, "--run-dir", run)
    assert done.code == 0
    assert "note: no class in split valid has 8 images, and 'metagen evaluate' needs one in each" in done.err
    done = metagen("evaluate", run, "--steps", "0", "--samples", 0, "--tasks", 1)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "no validation class" in done.errors[0]
    assert "put some classes into the split valid" in done.errors[0]


def test_a_conditioned_model_is_no_joint_baseline(run_copy: Path, metagen: Any) -> None:
    done = metagen("evaluate", run_copy, "--steps", "0", "--samples", 0, "--tasks", 1, "--joint", run_copy)
    assert (done.code, len(done.errors)) == (2, 1)
    assert "is no unconditioned baseline" in done.errors[0]


def test_an_evaluation_without_samples_measures_none_and_draws_the_picture(run_copy: Path, metagen: Any) -> None:
    assert metagen("evaluate", run_copy, "--tasks", 1, "--steps", 0, "--samples", 0).code == 0
    assert "samples" not in json.loads((run_copy / "evaluation.json").read_text())
    assert (run_copy / "samples.png").exists()
    assert "<img" not in (run_copy / "evaluation.html").read_text()


def test_an_evaluation_tells_categories_apart(
    trained: Path, tiny_images: ImageSet, tmp_path: Path, metagen: Any
) -> None:
    labels = np.repeat(np.arange(14), 16)
    arrays = {"labels": labels, "names": np.array(tiny_images.classes), "split": tiny_images.split}
    domain = np.array(["round", "square"] * 7)
    np.savez(tmp_path / "two.npz", images=tiny_images.images[:, 0], domain=domain, **arrays)
    options = ["--data", tmp_path / "two.npz", "--steps", 0, "--json", tmp_path / "e.json"]
    done = metagen("evaluate", trained, *options, "--picture", tmp_path / "e.png", "--tasks", 3, "--samples", 4)
    assert done.code == 0
    assert re.search(r"round .* 1 |square .* 2 ", done.out)
    report = json.loads((tmp_path / "e.json").read_text())
    for entry in (report["methods"]["meta"]["query_loss"]["0"], report["samples"]["methods"]["meta"]["kid"]):
        assert {name: cell["classes"] for name, cell in entry["by_category"].items()} == {"round": 1, "square": 2}
    assert "By category" in (tmp_path / "e.html").read_text()


def test_evaluating_twice_by_another_path_and_in_two_processes_gives_the_same_report(
    run_copy: Path, tmp_path: Path, metagen: Any
) -> None:
    reports = []
    for checkpoint, workers in ((run_copy, 1), (run_copy / "checkpoints" / "final", 2)):
        out = tmp_path / "out"
        options = ["--tasks", 2, "--steps", "0,1", "--json", out / "e.json", "--picture", out / "e.png"]
        assert metagen("evaluate", checkpoint, *options, "--workers", workers).code == 0
        reports.append({**json.loads((out / "e.json").read_text()), "checkpoint": ""})
        assert sorted(path.name for path in out.iterdir()) == ["e.html", "e.json", "e.png"]
    assert reports[0] == reports[1]
    assert not (run_copy / "evaluation.json").exists()


def test_evaluating_on_other_data_names_it(run_copy: Path, tiny_images: ImageSet, tmp_path: Path, metagen: Any) -> None:
    folder = tmp_path / "drawings"
    for index in range(3):
        (folder / "test" / f"kind{index}").mkdir(parents=True)
        for number, image in enumerate(tiny_images.class_images(index)[:9]):
            Image.fromarray(image[0]).save(folder / "test" / f"kind{index}" / f"{number}.png")
    done = metagen("evaluate", run_copy, "--data", folder, "--tasks", 9, "--steps", 0, "--json", tmp_path / "e.json")
    assert done.code == 0
    report = json.loads((tmp_path / "e.json").read_text())
    assert (report["data"], report["classes"]) == ("drawings", ["kind0", "kind1", "kind2"])
    assert report["split_origin"].startswith("split given by the folders")


def test_adapting_writes_new_images_and_a_grid(run_copy: Path, own_images: Path, tmp_path: Path, metagen: Any) -> None:
    out = tmp_path / "out"
    done = metagen("adapt", run_copy, own_images, "--samples", 3, "--steps", 2, "--out", out)
    assert done.code == 0
    _plain(done.out + done.err)
    assert f"3 new images and grid.png in {out}" in done.out
    assert sorted(path.name for path in out.iterdir()) == ["000.png", "001.png", "002.png", "grid.png"]
    for number in range(3):
        with Image.open(out / f"00{number}.png") as image:
            assert (image.size, image.mode) == ((16, 16), "L")


def test_adapting_is_repeatable_and_by_default_writes_where_one_works(
    run_copy: Path, own_images: Path, tmp_path: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never among class folders, whose data set it would join."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    beside = sorted(own_images.parent.iterdir())
    assert metagen("adapt", run_copy, own_images, "--samples", 2).code == 0
    assert metagen("adapt", run_copy, own_images, "--samples", 2, "--out", tmp_path / "again").code == 0
    assert metagen("adapt", run_copy, own_images, "--samples", 2, "--seed", 1, "--out", tmp_path / "other").code == 0
    first, again, other = (
        [(folder / f"00{n}.png").read_bytes() for n in range(2)]
        for folder in (Path("mine-generated"), tmp_path / "again", tmp_path / "other")
    )
    assert sorted(own_images.parent.iterdir()) == sorted([*beside, tmp_path / "again", tmp_path / "other"])
    assert first == again
    assert first != other


@pytest.mark.parametrize("words", ["", ".", "inside/..", "../mine/"])
def test_a_folder_named_by_dots_gives_new_images_its_own_name(
    words: str, own_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_images)
    assert default_out(Path(words)) == Path("mine-generated")
    assert default_out(Path("/")) == Path("-generated")  # whatever it is called, no crash


def test_of_one_image_new_ones_are_made_without_adapting_and_that_is_said(
    run_copy: Path, own_images: Path, tmp_path: Path, metagen: Any
) -> None:
    for path in list(own_images.iterdir())[1:]:
        path.unlink()
    done = metagen("adapt", run_copy, own_images, "--samples", 1, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "note: one image is too few to adapt to" in done.err
    assert "(0 steps, " in done.out
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("paper", [255, 0])
def test_a_users_pictures_come_back_on_the_paper_they_were_on(
    paper: int, tiny_yaml: Path, tmp_path: Path, metagen: Any
) -> None:
    """The packaged set has bright ink on dark ground: pictures the other way round are turned, and turned back."""
    run, mine = tmp_path / "run", tmp_path / "mine"
    packaged = ["--set", "data={source: pictograms, image_size: 16}", "--steps", 2, "--run-dir", run]
    assert metagen("train", tiny_yaml, *packaged).code == 0
    mine.mkdir()
    for number in range(3):
        picture = Image.new("L", (16, 16), paper)
        picture.paste(255 - paper, (4, 4 + number, 12, 6 + number))
        picture.save(mine / f"{number}.png")
    done = metagen("adapt", run, mine, "--samples", 4, "--out", tmp_path / "out")
    assert done.code == 0
    assert ("inverted" in done.err) == (paper == 255)
    levels = np.mean([np.asarray(Image.open(tmp_path / "out" / f"00{number}.png")) for number in range(4)])
    assert (levels > 127) == (paper == 255)


def test_sampling_draws_classes_of_the_checkpoints_own_data(run_copy: Path, tmp_path: Path, metagen: Any) -> None:
    out = tmp_path / "deep" / "s.png"
    done = metagen("sample", run_copy, "--classes", 2, "--samples", 2, "--steps", 1, "--out", out)
    assert (done.code, done.out) == (0, f"wrote {out}\n")
    with Image.open(out) as picture:
        assert picture.width > 5 * 64


def test_tasks_are_listed_with_their_splits_and_their_origin(tiny_npz: Path, metagen: Any) -> None:
    done = metagen("tasks", "list", "--data", tiny_npz, "--image-size", 16)
    assert done.code == 0
    assert "14 classes, 224 images" in done.out
    rows = {line.split()[0]: line for line in done.out.splitlines() if re.match("(train|valid|test)", line)}
    assert [[int(x) for x in rows[split].split()[1:5]] for split in ("train", "valid", "test")] == [
        [8, 128, 16, 16],
        [3, 48, 16, 16],
        [3, 48, 16, 16],
    ]
    assert "split given by the file tiny.npz" in done.out


def test_no_heading_of_a_list_of_tasks_is_cut_off_in_a_narrow_terminal(
    tiny_npz: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    done = metagen("tasks", "list", "--data", tiny_npz, "--image-size", 16)
    assert {"split", "classes", "images", "fewest", "most"} <= set(done.out.split())
    assert "…" not in done.out


def test_class_names_with_brackets_are_listed_as_they_are(tmp_path: Path, metagen: Any) -> None:
    images = np.zeros((2, 8, 8), np.uint8)
    path = tmp_path / "[odd].npz"
    np.savez(path, images=images, labels=[0, 1], names=np.array(["[/x]", "[b]y"]), split=[0, 2])
    done = metagen("tasks", "list", "--data", path, "--image-size", 8)
    assert done.code == 0
    assert "[odd]: 2 classes" in done.out
    assert "[/x]" in done.out
    assert "[b]y" in done.out


def test_tasks_are_shown_as_a_contact_sheet(tiny_npz: Path, tmp_path: Path, metagen: Any) -> None:
    out = tmp_path / "sheet.png"
    done = metagen(
        "tasks", "show", "--data", tiny_npz, "--image-size", 16, "--split", "test", "--images", 4, "--out", out
    )
    assert (done.code, done.out) == (0, f"wrote {out}\n")
    with Image.open(out) as picture:
        assert picture.height > 3 * 64
        assert picture.width > 4 * 64


def test_tasks_are_sorted_into_categories_with_a_table_and_a_map(tiny_npz: Path, tmp_path: Path, metagen: Any) -> None:
    out = tmp_path / "map.png"
    data = ("--data", tiny_npz, "--image-size", 16, "--shots", 3)
    done = metagen("tasks", "categories", *data, "--most", 4, "--out", out)
    assert done.code == 0, done.err
    rows = re.findall(r"(?m)^\s+(\d)\s+(\d+)\s+(\d+)\s+(\d+)\s+(?:\d+%|-)\s", done.out)
    assert 2 <= len(rows) <= 4
    assert [sum(int(row[i]) for row in rows) for i in (1, 2, 3)] == [8, 3, 3]
    assert "split given by the file tiny.npz" in done.out
    with Image.open(out) as picture:
        assert picture.size == (1200, 900)
    assert len(np.unique(np.asarray(Image.open(out)).reshape(-1, 3), axis=0)) > 100


def test_dark_ink_on_paper_counts_as_ink_and_the_paper_does_not() -> None:
    images = np.zeros((2, 3, 8, 8), np.uint8)
    images[..., 2:6, 2:6] = 255
    assert _ink(images) == pytest.approx(0.25)
    assert _ink(255 - images) == pytest.approx(0.25)


def test_the_legend_of_categories_stays_inside_the_picture() -> None:
    entries = _legend(np.full(8, 5000))
    assert len(entries) == 8
    assert all(x + 20 + FONT.getlength(text) <= WIDTH for x, _, text in entries)
    assert len({y for _, y, _ in entries}) == 2


def test_a_run_with_categories_is_evaluated_by_them(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    run, steps = tmp_path / "run", ("--steps", 2)
    sets = ("--set", "categories.most=3", "--set", "phases.0.balance=1")
    done = metagen("train", tiny_yaml, "--pool", "serial", "--run-dir", run, *steps, *sets)
    assert done.code == 0, done.err
    done = metagen("evaluate", run, "--tasks", 3, "--steps", "0,1")
    assert done.code == 0, done.err
    report = json.loads((run / "evaluation.json").read_text())
    of = report["categories"]
    assert set(of) == set(report["classes"])
    two = {name for name in of.values() if len(set(of.values())) > 1}
    assert ("By category" in done.out) == bool(two)
    for entry in report["methods"].values():
        for k in ("0", "1"):
            losses = entry["query_loss"][k]["per_class"]
            for category in two:
                mine = [loss for name, loss in losses.items() if of[name] == category]
                assert entry["query_loss"][k]["by_category"][category]["mean"] == pytest.approx(np.mean(mine))
    picture = tmp_path / "map.png"
    data = load_checkpoint(run).config.data.path
    done = metagen("tasks", "categories", "--checkpoint", run, "--data", data, "--out", picture)
    assert done.code == 0, done.err
    assert picture.is_file()


def test_categories_of_a_run_without_any_are_one_line(trained: Path, metagen: Any) -> None:
    done = metagen("tasks", "categories", "--checkpoint", trained)
    assert done.code == 2
    assert done.errors == [f"error: {trained}: trained without categories: leave --checkpoint out, or give another"]


def test_without_a_command_the_help_is_shown(metagen: Any) -> None:
    done = metagen()
    assert "Commands:" in done.out + done.err
