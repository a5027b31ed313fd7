"""Faults on purpose: what a run on three nodes makes of actors, nodes and drivers that die, freeze and lie.

    python benchmarks/chaos.py [--faults 300] [--steps 150] [--seed 0] [--short]

Runs ``metagen train`` and ``metagen resume`` as processes on a cluster of three Ray nodes on this machine, and does to
them, one after the other:

    kill      SIGKILL to an actor              nan       a result that is NaN
    freeze    SIGSTOP to an actor              delay     a result that is late, so that a backup comes twice
    node      SIGKILL to a raylet, and a new   disk      no file of the driver can be written
    driver    SIGKILL to the driver            torn      that, and its newest checkpoint is cut short
    store     the object store refuses all requests for two seconds (an S3 server on loopback)

In mode sync the final checkpoint must be that of the run without faults, bit for bit: the hash of its tensors. In mode
async every piece of work must be in it exactly once, and what the log says was applied before the last checkpoint that
the run went on from must not come again. Writes results/chaos.json and docs/images/chaos.png. ``--short`` is one run
with one fault of each kind but the store's, in some two minutes, and writes nothing; CI runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import yaml

HERE = Path(__file__).parent
KINDS = ("kill", "freeze", "node", "driver", "nan", "delay", "disk", "torn", "store")
RESTARTS = ("driver", "disk", "torn")
"""After which the run is resumed by a new driver."""
IMAGE = HERE.parent / "docs" / "images" / "chaos.png"
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
        return [pid for pid in _processes() if _parent(pid) in raylets and _title(pid).startswith("ray::Actor")]

    def close(self) -> None:
        self.ray.shutdown()


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", "0"]


def _parent(pid: int) -> int:
    state, parent = _stat(pid)[:2]
    return 0 if state in "TZX" else int(parent)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


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
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": _path()}
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
        try:
            lines = (self.folder / "log.jsonl").read_bytes().split(b"\n")
        except OSError:
            return []
        return [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]

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


def _path() -> str:
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


def exactly_once(run: Run, steps: int) -> dict[str, Any]:
    """The laws of mode async, from the final checkpoint and the log."""
    final, applied = run.final(), {}
    twice: list[str] = []
    for event in run.events():
        if event["event"] in ("started", "resumed"):  # what came after the checkpoint was done anew
            applied = {work_id: step for work_id, step in applied.items() if step <= event["step"]}
        elif event["event"] == "step":
            for result in event["results"]:
                if result["verdict"] == "accepted":
                    twice += [result["work_id"]] * (result["work_id"] in applied)
                    applied[result["work_id"]] = event["step"]
    ages = [r["age"] for e in run.events() if e["event"] == "step" for r in e["results"] if r["verdict"] == "accepted"]
    held = {
        "ended": final["step"] == steps,
        "none_twice": not twice,
        "none_lost": len(applied) == steps * 3 == final["counts"]["accepted"] and not final["owed"],
        "none_too_old": max(ages) <= 2,
    }
    return {"held": all(held.values()), **held}


@contextmanager
def running(mode: str, steps: int, cluster: Cluster, store: Store | None, number: int) -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / f"chaos-{mode}-{number}"
        run = Run(mode, steps, work, cluster, store)
        try:
            yield run
        finally:
            run.close()


def without_faults(steps: int, cluster: Cluster) -> dict[str, Any]:
    with running("sync", steps, cluster, None, 0) as run:
        run.start()
        if run.to_end():
            raise AssertionError("".join(run.said))
        return run.final()


def chaotic(
    mode: str, steps: int, cluster: Cluster, store: Store | None, number: int, plan: list[str]
) -> dict[str, Any]:
    """A run that the faults of ``plan`` befall; what it came to, without judging it."""
    rng = random.Random(number)
    with running(mode, steps, cluster, store, number) as run:
        run.start()
        begun, place = time.monotonic(), 0
        while run.driver is not None and run.driver.poll() is None and time.monotonic() - begun < SECONDS:
            # Spread over the run's steps, and not before it has begun.
            if place < len(plan) and run.step() > 2 + place * (steps - 10) / len(plan):
                run.inflict(plan[place], rng)
                place += 1
            time.sleep(0.05)
        if code := run.to_end():
            raise AssertionError(f"ended with {code}:\n" + "".join(run.said[-40:]))
        last: dict[str, int] = {}
        events: Counter[str] = Counter()
        for event in run.events():
            if event["event"] in ("started", "resumed"):
                last = {}
            elif event["event"] == "step":
                events.update({name: count - last.get(name, 0) for name, count in event["events"].items()})
                last = event["events"]
        skipped = sum("skipped: " in line for line in run.said)
        law = exactly_once(run, steps) if mode == "async" else {}
        return {
            "mode": mode,
            "faults": dict(run.faults),
            "seconds": time.monotonic() - begun,
            "pool": dict(events),
            "checkpoints_skipped": skipped,
            "refused_by_store": store.refused if store else 0,
            "sha256": run.final()["sha256"],
            **law,
        }


def judge(outcome: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    if outcome["mode"] == "sync":
        outcome["held"] = outcome["sha256"] == reference["sha256"]
    print({key: value for key, value in outcome.items() if key != "sha256"}, flush=True)
    return outcome


def plans(faults: int, each: int, rng: random.Random) -> list[list[str]]:
    """As many lists of ``each`` kinds as hold that many faults; kinds come in turn, in an order of their own."""
    kinds: list[str] = []
    while len(kinds) < faults:
        kinds += rng.sample(KINDS, len(KINDS))
    return [kinds[start : start + each] for start in range(0, faults, each)]


def plot(outcomes: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    for place, mode in enumerate(("sync", "async")):
        chosen = [one for one in outcomes if one["mode"] == mode]
        counts = [sum(one["faults"].get(kind, 0) for one in chosen) for kind in KINDS]
        held = f"{sum(one['held'] for one in chosen)} of {len(chosen)} runs as they must be"
        axes.bar([i + 0.4 * place for i in range(len(KINDS))], counts, 0.4, label=f"{mode}: {held}")
    axes.set_xticks([i + 0.2 for i in range(len(KINDS))], KINDS)
    axes.set(ylabel="faults", title="Faults inflicted, by kind")
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(fontsize="small", loc="upper left")
    figure.savefig(IMAGE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=306)
    parser.add_argument("--each", type=int, default=18, help="faults a run")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    # A node that is gone is to be noticed in seconds: see docs/clusters.md.
    settings = {"period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 3}
    os.environ.update({f"RAY_health_check_{name}": str(value) for name, value in settings.items()})
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": _path(), "RAY_worker_niceness": "0"})
    cluster = Cluster()
    store = None if options.short else Store()
    try:
        if options.short:
            plan, steps = ["kill", "nan", "freeze", "delay", "node", "torn"], 40
            outcome = judge(chaotic("sync", steps, cluster, None, 1, plan), without_faults(steps, cluster))
            sys.exit(0 if outcome["held"] and sum(outcome["faults"].values()) == len(plan) else 1)
        reference = without_faults(options.steps, cluster)
        outcomes: list[dict[str, Any]] = []
        for number, plan in enumerate(plans(options.faults, options.each, random.Random(options.seed)), start=1):
            mode = "sync" if number % 2 else "async"
            outcomes.append(judge(chaotic(mode, options.steps, cluster, store, number, plan), reference))
            keep(outcomes, options.steps)  # after each run: the next may take a while
    finally:
        cluster.close()
        if store:
            store.close()
    plot(outcomes)
    faults = sum(sum(one["faults"].values()) for one in outcomes)
    print(f"{faults} faults in {len(outcomes)} runs, {sum(one['held'] for one in outcomes)} as they must be")


def keep(outcomes: list[dict[str, Any]], steps: int) -> None:
    from environment import write

    faults = sum(sum(one["faults"].values()) for one in outcomes)
    write("chaos", {"nodes": 3, "steps": steps, "faults": faults, "runs": outcomes})


if __name__ == "__main__":
    main()
