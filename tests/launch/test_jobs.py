"""Jobs: what is packed, what runs on the cluster, and how the client meets a server that refuses or breaks off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import ray
import yaml

from cluster.jobs import Dashboard, Job
from cluster.launcher import Unreachable
from launch.jobs.remote import remote
from launch.jobs.storage import Bucket, pushing
from launch.jobs.submission import entrypoint, pack, submit
from launch.jobs.watching import follow
from launch.training.train import train
from metagen.checkpoint import load_checkpoint
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.files import Files
from metagen.values import read_yaml


def _remote(*words: object) -> None:
    remote.main([str(word) for word in words], standalone_mode=False)


# What is packed


def test_the_whole_config_and_the_modules_that_it_names_are_sent(
    tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("from metagen.algorithms.fomaml import Fomaml as Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "job"
    folder.mkdir()
    words = ["train", str(tiny_yaml), "--seed", "7", "--set", "phases.0.estimator=mine:Mine", "--actors", "3"]
    words += ["--store", "s3://bucket/copies/"]
    config, options = pack([*words, "--set", "phases.0.options={query_at: {0: 1}}"], [], folder)
    assert (config.seed, config.log.store) == (7, "s3://bucket/copies")
    assert RunConfig.parse(read_yaml(folder / "run.yaml")).identity == config.identity
    assert (folder / "mine.py").exists()
    assert options == ["--actors=3"]


@pytest.mark.parametrize(
    ("words", "needle"),
    [
        ([], "give a training after --"),
        (["evaluate", "x"], "'evaluate' cannot be submitted"),
        (["train", "quikstart"], "did you mean 'quickstart'?"),
        (["train", "quickstart", "--set", "seeed=1"], "did you mean 'seed'?"),
        (["train", "quickstart", "--run-dir", "x"], "--run-dir is decided by submit"),
        (["train", "quickstart", "--profile"], "--profile does not go along with a job: drop it"),
        (["train", "quickstart", "--set", "data.source=folder", "--set", "data.path=mine"], "add --include mine"),
        (
            ["train", "quickstart", "--set", "data.source=folder", "--set", "data.path=../mine"],
            "data.path: ../mine is not sent along: add --include ../mine and set data.path=mine",
        ),
        (
            ["train", "quickstart", "--set", "data={source: mixture, parts: [{source: npz, path: a/b.npz}]}"],
            "data.parts.0.path: a/b.npz is not sent along: add --include a",
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(words: list[str], needle: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        pack(words, [], tmp_path)
    assert needle in str(caught.value)


def test_all_of_an_included_folder_is_sent_whatever_git_ignores(tmp_path: Path) -> None:
    classes, job = tmp_path / "classes", tmp_path / "job"
    classes.mkdir()
    job.mkdir()
    (classes / ".gitignore").write_text("*.png\n")
    (classes / "a.png").touch()
    pack(["train", "quickstart"], [classes], job)
    assert [path.name for path in (job / "classes").iterdir()] == ["a.png"]


def test_images_in_a_home_there_need_not_be_sent(tmp_path: Path) -> None:
    config, _ = pack(["train", "quickstart", "--set", "data={source: npz, path: ~/a.npz}"], [], tmp_path)
    assert config.data.path == "~/a.npz"


def test_an_option_that_submit_knows_nothing_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "params", [*train.params, click.Option(["--some-new", "some_new"])])
    with pytest.raises(UserError, match="--some-new does not go along with a job"):
        pack(["train", "quickstart", "--some-new", "x"], [], tmp_path)


def test_an_entrypoint_cannot_be_broken_out_of() -> None:
    line = entrypoint("python", "run; rm -rf /", "/srv/$(id)", [])
    assert line == "python -m launch.jobs.remote --run 'run; rm -rf /' --storage '/srv/$(id)' run.yaml"


# What runs on the cluster


def test_a_run_begins_goes_on_and_ends_as_train_does(tiny_yaml: Path, trained: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.yaml"
    half.write_text(tiny_yaml.read_text())
    _remote("--run", "a", "--storage", tmp_path / "runs", half)
    _remote("--run", "a", "--storage", tmp_path / "runs", half)  # complete: nothing is done
    one, other = (path / "checkpoints/final/state.safetensors" for path in (tmp_path / "runs" / "a", trained))
    assert one.read_bytes() == other.read_bytes()


def test_what_a_run_settled_when_it_began_holds_when_it_goes_on(tiny_yaml: Path, tmp_path: Path) -> None:
    """Its precision, its categories, and the steps that fitted into its time."""
    config = tmp_path / "open.yaml"
    text = {**yaml.safe_load(tiny_yaml.read_text()), "precision": "auto", "categories": {"most": 3}, "budget": 1e-3}
    config.write_text(yaml.safe_dump(text))
    for _ in range(2):
        _remote("--run", "a", "--storage", tmp_path / "runs", config)
    began = RunConfig.parse(read_yaml(tmp_path / "runs" / "a" / "config.yaml"))
    assert (began.steps, began.budget) == (2, None)
    assert began.precision != "auto"
    assert began.categories.found is not None
    config.write_text(yaml.safe_dump({**text, "seed": 99}))
    with pytest.raises(UserError, match="holds a run with another config"):
        _remote("--run", "a", "--storage", tmp_path / "runs", config)


def test_a_run_of_that_name_with_another_config_is_refused(trained: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**yaml.safe_load(tiny_yaml.read_text()), "seed": 99}))
    with pytest.raises(UserError, match="holds a run with another config: name another with --run"):
        _remote("--run", trained.name, "--storage", trained.parent, other)


def test_a_run_in_a_bucket_goes_on_on_another_machine(
    tiny_yaml: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket is a folder here, through the same library and the same calls."""
    monkeypatch.setattr("launch.jobs.remote.is_bucket", lambda storage: True)
    bucket = f"file://{tmp_path}/bucket"
    (tmp_path / "bucket").mkdir()
    for home in ("first", "second"):
        monkeypatch.setenv("HOME", str(tmp_path / home))
        _remote("--run", "a", "--storage", bucket, tiny_yaml)
    assert Bucket(bucket).pull("a", tmp_path / "fetched")
    one, other = (path / "checkpoints/final/state.safetensors" for path in (tmp_path / "fetched", trained))
    assert one.read_bytes() == other.read_bytes()


def test_a_bucket_holds_what_the_folder_holds_and_manifests_come_last(
    trained: Path, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = run_copy.parent / "bucket"
    top.mkdir()
    bucket = Bucket(f"file://{top}")
    written: list[str] = []

    def watched(name: str, data: bytes) -> None:
        written.append(name)
        Files.write(bucket.files, name, data)

    monkeypatch.setattr(bucket.files, "write", watched)
    with pushing(bucket, run_copy, "a"):
        pass
    manifests = [name.endswith("checkpoint.json") for name in written]
    assert manifests == sorted(manifests)
    assert load_checkpoint(top / "a").state.step == load_checkpoint(trained).state.step
    bucket.push(run_copy, "a")
    assert len(written) == len(manifests)  # what has not changed is not sent again
    (run_copy / "config.yaml").unlink()
    bucket.push(run_copy, "a")
    assert not (top / "a" / "config.yaml").exists()


def test_a_bucket_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").touch()
    bucket = Bucket(f"file://{tmp_path}/file")
    with pytest.raises(UserError, match=r"cannot be written .*check the address and your credentials"):
        bucket.push(tmp_path / "run", "a")
    with pytest.raises(UserError, match="unknown kind of store"):
        Bucket("nothing://x")


# The server


class Server(BaseHTTPRequestHandler):
    """Answers as a dashboard does; its class attributes say how."""

    code = 200
    answers: dict[str, Any] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        body = json.dumps(self.answers.get(self.path.partition("?")[0], {})).encode()
        self.send_response(self.code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serving: Any) -> Iterator[str]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setattr(Server, "code", 200)
    with serving(Server) as url:
        yield url


def test_a_refused_token_is_one_line(server: str, monkeypatch: pytest.MonkeyPatch, metagen: Any) -> None:
    for code in (401, 403):
        monkeypatch.setattr(Server, "code", code)
        done = metagen("jobs", "list", server)
        assert done.code == 2
        assert done.errors == [
            "error: the cluster refuses the token: use the machine that started it, or copy its token file here"
        ]


def test_another_ray_on_the_cluster_is_refused(server: str, monkeypatch: pytest.MonkeyPatch, metagen: Any) -> None:
    monkeypatch.setattr(Server, "answers", {"/api/version": {"ray_version": "2.0.0"}})
    done = metagen("submit", "--address", server, "--storage", "/srv", "--", "train", "quickstart")
    assert done.code == 2
    assert "Ray 2.0.0 on the cluster" in done.errors[0]


def test_an_address_where_nobody_listens_is_one_line(metagen: Any) -> None:
    done = metagen("jobs", "list", "http://127.0.0.1:9")
    assert done.code == 2
    assert "the cluster does not answer" in done.errors[0]


def test_a_broken_connection_is_made_again_and_no_line_comes_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server sends a log from its start every time."""
    log, tails = "one\ntwo\nthree\n", iter([4, 9, None])

    class Tail(Dashboard):
        def job(self, job_id: str) -> Job:
            return Job(job_id, "FAILED" if ended else "RUNNING", "", "run", "it broke", 7, None, None)

        def _client(self) -> Any:
            return self

        async def tail_job_logs(self, job_id: str) -> Any:
            end = next(tails)
            for character in log[:end]:
                yield character
            if end is not None:
                raise RuntimeError("WebSocket connection closed unexpectedly")
            ended.append(True)

    ended: list[bool] = []

    class Target:
        word = "cluster.yaml"

        @contextmanager
        def dashboard(self) -> Iterator[Dashboard]:
            yield Tail("http://x", None)

    monkeypatch.setattr("launch.jobs.watching.RETRY_SECONDS", 0.0)
    assert follow(Target(), "job") == 7
    shown = capsys.readouterr()
    assert shown.out == log
    assert shown.err.count("connection lost") == 2
    assert shown.err.endswith("job job: failed with exit code 7\n")


class Line:
    """A cluster at which one call after the other ends as it is told."""

    word, storage, python = "cluster.yaml", "/srv/runs", "python"

    def __init__(self, *ends: BaseException) -> None:
        self.ends = list(ends)

    @contextmanager
    def dashboard(self) -> Iterator[Any]:
        raised = self.ends.pop(0)
        if isinstance(raised, ConnectionError | KeyboardInterrupt):
            yield SimpleNamespace(
                job=lambda job: Job(job, "RUNNING", "", "run", "", None, None, None),
                jobs=list,
                version=lambda: ray.__version__,
                follow=self._raise(raised),
                submit=self._raise(raised),
            )
        raise raised

    def _raise(self, error: BaseException) -> Any:
        def fail(*_: Any) -> Any:
            raise error

        return fail


def test_who_follows_a_job_tries_again_while_machines_are_silent_and_ends_when_the_cluster_is_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launch.jobs.watching.RETRY_SECONDS", 0.0)
    target = Line(ConnectionError(3), Unreachable("no route"), UserError("no token here"))
    with pytest.raises(UserError, match="no token here"):
        follow(target, "job")
    assert not target.ends
    assert capsys.readouterr().err.count("connection lost") == 1


def test_who_breaks_off_while_a_job_is_handed_over_is_told_that_it_may_run(
    tiny_yaml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        submit(Line(KeyboardInterrupt()), ["train", str(tiny_yaml)], "mine", [])
    err = capsys.readouterr().err
    assert "job mine-" in err
    assert "may have begun: see 'metagen jobs list cluster.yaml'" in err
