"""What chaos.py does things to: nodes, a store of objects, and a run on them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from threading import Thread
from typing import Any

import yaml
from processes import descendants

from launch.training.log import LOG, events

HERE = Path(__file__).parent
SECONDS = 900.0
"""A run that takes longer has hung."""


class Cluster:
    """Three Ray nodes on this machine; the head stays."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self.ray = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200 * 2**20})
        self.nodes = [self._node() for _ in range(2)]

    def _node(self) -> Any:
        return self.ray.add_node(num_cpus=1, object_store_memory=200 * 2**20)

    def replace(self, which: int) -> None:
        """SIGKILL one of the nodes that are not the head, and add another."""
        self.ray.remove_node(self.nodes[which], allow_graceful=False)
        self.nodes[which] = self._node()

    def actors(self) -> list[int]:
        """Process ids of the actors on all nodes that are not frozen."""
        raylets = {
            info.process.pid
            for node in (self.ray.head_node, *self.nodes)
            for name, infos in node.all_processes.items()
            if name == "raylet"
            for info in infos
        }
        return [one.pid for one in descendants(raylets) if one.is_actor and one.state != "T"]

    def close(self) -> None:
        self.ray.shutdown()


class Store:
    """An S3 server on loopback that can be told to refuse everything."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *arguments: Any) -> None:
                return

        app = DomainDispatcherApplication(create_backend_app)
        self.refuses_until, self.refused = 0.0, 0

        def serve(environ: dict[str, Any], start: Any) -> Any:
            if time.monotonic() < self.refuses_until:
                self.refused += 1
                start("503 Slow Down", [("Content-Length", "0")])
                return [b""]
            return app(environ, start)

        self.server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Quiet)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true", **names}

    def bucket(self, name: str) -> str:
        """Make a bucket; gives its URL."""
        from pyarrow.fs import S3FileSystem

        S3FileSystem(
            endpoint_override=self.url, allow_bucket_creation=True, access_key="test", secret_key="test"
        ).create_dir(name)
        return f"s3://{name}/run"

    def close(self) -> None:
        self.server.shutdown()


class Run:
    """One run: its folder, its driver, its faults."""

    def __init__(self, mode: str, steps: int, work: Path, cluster: Cluster, store: Store | None) -> None:
        self.folder, self.orders = work / "run", work / "orders"
        self.orders.mkdir(parents=True)
        self.cluster, self.store, self.work = cluster, store, work
        self.config = work / "chaos.yaml"
        self.config.write_text(yaml.safe_dump(_config(mode, steps, self.orders, store, work.name)))
        self.driver: subprocess.Popen[bytes] | None = None
        self.faults: Counter[str] = Counter()
        self.said: list[str] = []
        self.begun = time.monotonic()

    def start(self) -> None:
        """Begin or go on, with a new driver."""
        resume = (self.folder / "config.yaml").exists()
        what = ["resume", self.folder] if resume else ["train", self.config, "--run-dir", self.folder]
        environment = {**os.environ, **(self.store.environment if self.store else {})}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": path()}
        workers = ["--actors", "1-3", "--address", self.cluster.ray.address]
        self.driver = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", *map(str, what), *workers],
            stdout=subprocess.PIPE,  # not a file: on a full disk that could not be written either
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=self.work,
        )
        Thread(target=self._listen, args=(self.driver,), daemon=True).start()

    def _listen(self, driver: subprocess.Popen[bytes]) -> None:
        assert driver.stdout is not None
        for line in driver.stdout:
            self.said.append(line.decode(errors="replace"))

    def events(self) -> list[dict[str, Any]]:
        """The run's log."""
        log = self.folder / LOG
        return [event for _, event in events(log)] if log.exists() else []

    def step(self) -> int:
        return max((event["step"] for event in self.events() if event["event"] == "step"), default=0)

    def inflict(self, kind: str, rng: random.Random) -> None:
        """Do one thing to it."""
        self.faults[kind] += 1
        if kind in ("kill", "freeze"):
            if not (actors := self.cluster.actors()):  # all are being started: none can be hit
                self.faults[kind] -= 1
                return
            os.kill(rng.choice(actors), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        elif kind == "node":
            self.cluster.replace(rng.randrange(2))
        elif kind in ("nan", "delay"):
            (self.orders / f"{kind}-{self.faults[kind]}").touch()
        elif kind == "store":
            assert self.store is not None
            self.store.refuses_until = time.monotonic() + 2.0
        else:
            self._end(kind)
            self.start()

    def _end(self, kind: str) -> None:
        assert self.driver is not None
        if kind == "disk":  # no file may grow: what a full disk says, as another errno
            subprocess.run(["prlimit", "--pid", str(self.driver.pid), "--fsize=0:0"], check=True)
            code = self.driver.wait(120)
            if code != 2:
                said = "".join(self.said[-40:])
                raise AssertionError(f"on a full disk the driver ended with {code}, not with 2:\n{said}")
            return
        self.driver.send_signal(signal.SIGKILL)
        self.driver.wait()
        kept = sorted((self.folder / "checkpoints").glob("step-*"))
        if kind == "torn" and kept:
            weights = kept[-1] / "state.safetensors"
            os.truncate(weights, weights.stat().st_size // 2)

    def to_end(self) -> int:
        """Wait for the driver; gives its exit code."""
        assert self.driver is not None
        return self.driver.wait(max(1.0, SECONDS - (time.monotonic() - self.begun)))

    def final(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / "checkpoints" / "final" / "checkpoint.json").read_text())
        return manifest

    def close(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()


def path() -> str:
    """``PYTHONPATH`` for processes that need this checkout and these scripts."""
    return os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def _config(mode: str, steps: int, orders: Path, store: Store | None, name: str) -> dict[str, Any]:
    options = {"query_at": {"2": 1.0}, "folder": str(orders)}
    phase = {"estimator": "misfortune:Unlucky", "options": options, "steps": steps, "items": 3, "tasks": 1}
    return {
        "name": name,
        "data": {"image_size": 16},
        "episode": {"shots": 3, "queries": 2, "draws": 1},
        "generator": {"architecture": {"patch": 4, "widths": [16], "embedding": 16}},
        "policy": {"name": "learned-steps", "options": {"horizon": 2}},
        "phases": [{**phase, "outer": {"warmup": 1, "learning_rate": 1e-3}}],
        "mode": mode,
        "max_staleness": 2 if mode == "async" else 0,
        "precision": "fp32",
        "pool": {"backup": 2.0, "patience": 300},
        "log": {"checkpoint_every": 10, "keep": 3, "store": store.bucket(name) if store else None},
    }
