"""What many tests stand on: a tiny image set, a tiny run, one Ray for the whole session, the command line."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings
from torch import Tensor, nn

import cluster  # noqa: F401  # it sets what Ray reads when it is imported, which files of tests may do first
from metagen import work
from metagen.config import RunConfig
from metagen.flat import FlatNetwork
from metagen.generators import Condition, Draw
from metagen.learner import Learner
from metagen.pool import Crew, Pool, SerialPool
from metagen.problem import Problem
from metagen.records import StepReport
from metagen.search.config import SweepConfig
from metagen.state import MetaState
from metagen.tasks import ImageSet
from metagen.tasks.imageset import offsets_of
from metagen.train import train
from metagen.values import override

settings.register_profile("metagen", deadline=None, derandomize=True, database=None)
settings.load_profile("metagen")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so starts what a script puts into the background, tests too
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"image_size": 16},
    "episode": {"shots": 3, "queries": 2, "draws": 1},
    "generator": {"architecture": {"patch": 4, "widths": [16], "embedding": 16}},
    "policy": {"name": "learned-steps", "options": {"horizon": 2}},
    "phases": [
        {"estimator": "joint", "steps": 3, "items": 3, "tasks": 2, "outer": {"warmup": 1}},
        {
            "estimator": "fomaml",
            "options": {"query_at": {"0": 1.0, "2": 1.0}},
            "steps": 2,
            "items": 3,
            "tasks": 1,
            "shift": 0.5,
            "outer": {"optimizer": "adam", "learning_rate": 1.0e-3, "warmup": 0},
        },
    ],
    "ema": 0.5,
    "precision": "fp32",
    "together": 1,
    "pool": {"kind": "serial"},
}
"""Joint, then fomaml with learned step sizes, in milliseconds a step."""

SLOW = ("site", "ray_session")
"""Fixtures that take long to set up, and whose tests take longest."""

FAULTS = Path(__file__).parent / "cluster" / "faults"
"""Holds a module with estimators that fail on purpose, which configs name."""
sys.path.insert(0, str(FAULTS))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several workers, which take a file each, the longest begin first: none is left to one worker at the end."""

    def rank(item: pytest.Item) -> int:
        names = getattr(item, "fixturenames", ())
        return next((place for place, name in enumerate(SLOW) if name in names), len(SLOW))

    if hasattr(config, "workerinput"):
        items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As in every metagen process: a sum split over another number of threads rounds differently."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _away_from_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What metagen remembers of clusters is not put where the user has their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAGEN_HOME", str(tmp_path_factory.mktemp("metagen")))
        yield


@pytest.fixture(scope="session")
def tiny_images() -> ImageSet:
    """14 classes of 16 grey 16x16 images, each a smooth pattern of its class with noise; 8 train, 3 valid, 3 test."""
    rng, classes, each = np.random.default_rng(0), 14, 16
    patterns = rng.integers(0, 2, (classes, 1, 1, 4, 4)).repeat(4, axis=3).repeat(4, axis=4) * 180
    images = (patterns + rng.integers(0, 60, (classes, each, 1, 16, 16))).astype(np.uint8)
    names = tuple(f"class{index:02d}" for index in range(classes))
    split = np.array([0] * 8 + [1] * 3 + [2] * 3, dtype=np.uint8)
    return ImageSet(
        "tiny", images.reshape(-1, 1, 16, 16), offsets_of([each] * classes), names, ("",) * classes, split, "made here"
    )


@pytest.fixture(scope="session")
def tiny_npz(tiny_images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny image set as a file."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    labels = np.repeat(np.arange(len(tiny_images.classes)), tiny_images.counts)
    np.savez(
        path,
        images=tiny_images.images[:, 0],
        labels=labels,
        names=np.array(tiny_images.classes),
        split=tiny_images.split,
    )
    return path


MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def tiny_config() -> MakeConfig:
    """A tiny run, changed as with ``--set``: ``tiny_config("seed=1", "phases.0.steps=2")``."""

    def make(*assignments: str) -> RunConfig:
        return RunConfig.parse(override(TINY, assignments))

    return make


SWEPT: dict[str, Any] = {
    "generator.architecture.patch": {"choice": [1, 2, 4]},
    "levels": {"range": [1, 3]},
    "width": {"range": [8, 40], "step": 8},
    "growth": {"choice": [1.0, 2.0]},
    "attention_resolution": {"choice": [0, 4, 8], "when": {"resolution": {"max": 8}}},
    "generator.architecture.blocks": {"range": [1, 2], "when": {"levels": [1, 2]}},
    "phases.0.outer.learning_rate": {"loguniform": [0.001, 0.1]},
    "ema": {"uniform": [0.0, 0.9], "when": {"generator.architecture.blocks": 1}},
}
"""A space around the tiny run, with all kinds of domains and conditions on conditions."""

MakeSweep = Callable[..., SweepConfig]


@pytest.fixture(scope="session")
def tiny_sweep(tiny_config: MakeConfig) -> MakeSweep:
    """A sweep around the tiny run: ``tiny_sweep(trials=3, space={...})``."""
    base = tiny_config().model_dump(mode="json")

    def make(**changes: Any) -> SweepConfig:
        values = {
            "base": base,
            "space": SWEPT,
            "steps": 6,
            "every": 2,
            "judge": {"steps": 2, "classes": 3},
            "trial": {"actors": 0, "cpus": 1.0, "warmup": 1},
        }
        return SweepConfig.parse(json.loads(json.dumps({**values, **changes})))

    return make


@pytest.fixture(scope="session")
def tiny_yaml(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run as a config file that reads the tiny image set from disk."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    data = {"source": "npz", "path": str(tiny_npz), "image_size": 16}
    path.write_text(yaml.safe_dump({**TINY, "data": data}))
    return path


@pytest.fixture(scope="session")
def new_learner(tiny_images: ImageSet) -> Callable[[RunConfig], tuple[Learner, work.Parts]]:
    """A learner at the start of a run, and the parts that its workers need."""

    def make(config: RunConfig) -> tuple[Learner, work.Parts]:
        parts = work.build(config, tiny_images)
        return Learner.of(parts), parts

    return make


@pytest.fixture(scope="session")
def run_to_end(
    new_learner: Callable[[RunConfig], tuple[Learner, work.Parts]],
) -> Callable[..., tuple[MetaState, list[StepReport]]]:
    """Train ``config`` to its end, serially or with the pool that ``make_pool(parts)`` gives."""

    def run(
        config: RunConfig, make_pool: Callable[[work.Parts], Pool] = SerialPool
    ) -> tuple[MetaState, list[StepReport]]:
        learner, parts = new_learner(config)
        pool = make_pool(parts)
        try:
            reports = list(train(learner, pool))
        finally:
            pool.close()
        return learner.state, reports

    return run


@pytest.fixture(scope="session")
def assert_same_state() -> Callable[[MetaState, MetaState], None]:
    """Two learners' states are equal bit for bit, in every field."""

    def equal(a: Any, b: Any, name: str) -> None:
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype, name
            assert torch.equal(a, b), f"{name}: {int((a != b).sum())} of {a.numel()} differ"
        elif isinstance(a, dict) and any(isinstance(value, torch.Tensor) for value in a.values()):
            assert a.keys() == b.keys(), name
            for key in a:
                equal(a[key], b[key], f"{name}.{key}")
        else:
            assert a == b, name

    def check(a: MetaState, b: MetaState) -> None:
        for field in fields(MetaState):
            equal(getattr(a, field.name), getattr(b, field.name), field.name)

    return check


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests marked ``ray``."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_worker_niceness", "0")  # at 15 a busy machine starves them
        patch.setenv("PYTHONPATH", str(FAULTS), prepend=os.pathsep)
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def on_ray(ray_session: None) -> Callable[..., Callable[[work.Parts], Pool]]:
    """``run_to_end(config, on_ray(2))``: a pool of Ray actors. They outlive it and take up the next test's run: one
    starts in seconds, most of which it spends importing torch, and begins anew in milliseconds."""
    from cluster.pool import RayPool
    from cluster.roster import Roster

    idle: list[Any] = []

    class Kept(Roster):
        def _begin(self, name: str, values: dict[str, Any], options: dict[str, Any]) -> Any:
            if not idle:
                return super()._begin(name, values, options)
            actor = idle.pop()
            actor.__ray_call__.remote(lambda self, *arguments: self.__init__(*arguments), name, values)
            return actor

        def _end(self, actor: Any) -> None:
            idle.append(actor)

    class KeepingPool(RayPool):
        roster = Kept

    def make(workers: int, in_flight: int | None = None) -> Callable[[work.Parts], Pool]:
        crews = [Crew(workers, workers, cpus=0.0)]
        return lambda parts: KeepingPool(parts.config, parts.images, crews, in_flight=in_flight)

    return make


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that report an error."""
        return [line for line in self.err.splitlines() if line.lower().startswith("error:")]


@pytest.fixture
def metagen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """The command line, in this process: ``metagen("train", "tiny.yaml")``."""
    from launch.cli import main

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["metagen", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exited:
            code = int(exited.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def start_metagen() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command line as a process in a group of its own; what still runs at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RAY_ADDRESS": "", "RAY_worker_niceness": "0", **environment},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def trained(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run. Tests read it; one that writes takes a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    from launch.preset import load_config
    from launch.training.session import start
    from launch.training.workers import Workers

    config = load_config(str(tiny_yaml), ["log.checkpoint_every=2"], None, None)
    start(config, folder, Workers.choose(config, "serial", None, None))
    return folder


class ToyFamily:
    """Grey 4x4 images, conditioned on the mean of the set; smooth in the parameters, or linear in them."""

    channels, image_size = 1, 4

    def __init__(self, linear: bool, noise: float) -> None:
        self.linear, self.noise = linear, noise
        self.least_squares = None if linear else "2"

    def build(self) -> nn.Module:
        return nn.Linear(16, 16) if self.linear else nn.Sequential(nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 16))

    def draw(self, count: int, rng: torch.Generator) -> Draw:
        return {"noise": self.noise * torch.randn(count, 16, generator=rng)}

    def losses(self, network: nn.Module, condition: Condition, images: Tensor, draw: Draw) -> Tensor:
        members, x = condition.members.double(), images.flatten(1).double()
        means = members @ condition.support.flatten(1).double() / members.sum(1, keepdim=True).clamp_min(1)
        out = network(x + draw["noise"].double() - means.repeat_interleave(len(x) // len(means), dim=0))
        return (out * x.flip(1)).sum(1) if self.linear else (out - x).square().sum(1)

    def sample(self, network: nn.Module, condition: Condition, count: int, rng: torch.Generator) -> Tensor:
        raise NotImplementedError


@pytest.fixture(scope="session")
def toy_problem() -> Callable[..., Problem]:
    """A problem in float64, small enough for finite differences; ``linear`` in its parameters if asked for."""

    def make(linear: bool = False, noise: float = 0.5, draws: int = 1) -> Problem:
        family = ToyFamily(linear, noise)
        network = FlatNetwork(work.initialised(family, 0).double(), torch.device("cpu"), torch.float64)
        return Problem(family, network, draws)

    return make


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run that a test may write into."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="session")
def serving() -> Callable[[Any], AbstractContextManager[str]]:
    """``with serving(Handler) as url``: an HTTP server on loopback."""

    @contextmanager
    def serve(handler: Any) -> Iterator[str]:
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
            http.block_on_close = False
            thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{http.server_port}"
            http.shutdown()
            thread.join()

    return serve


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket of the test's own, with the environment that makes every S3 client find it."""
    from pyarrow.fs import S3FileSystem

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{abs(hash(request.node.nodeid))}"
    S3FileSystem(endpoint_override=s3_server, allow_bucket_creation=True).create_dir(bucket)
    return f"s3://{bucket}"
