"""Kubernetes, without it: the official client against an API server in this process."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from launch.clusters import kubernetes_volume
from launch.clusters.providers import manifests
from metagen.checkpoint import load_checkpoint
from metagen.errors import UserError

GROUPS = {
    "v1": [
        ("configmaps", "ConfigMap", True),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True),
        ("pods", "Pod", True),
    ],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy", True)],
    "scheduling.k8s.io/v1": [("priorityclasses", "PriorityClass", False)],
    "ray.io/v1": [("rayjobs", "RayJob", True), ("rayclusters", "RayCluster", True)],
}


class Cluster:
    """What an API server holds; ``progress`` plays the operator at every look at a Ray object."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.groups = dict(GROUPS)
        self.refuse: dict[str, tuple[int, str]] = {}
        self.progress: Callable[[Any], None] = lambda document: None
        self.log = ""
        self.volume = Path("/nonexistent")
        """What pods see at /storage."""
        self.seen: list[Any] = []
        """Pods that commands were run in."""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(path)
        if parts.path in ("/version", "/version/"):
            return 200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
        if parts.path in ("/api", "/api/"):
            return 200, {"kind": "APIVersions", "versions": ["v1"]}
        if parts.path in ("/apis", "/apis/"):
            return 200, {"kind": "APIGroupList", "groups": [_group(name) for name in self.groups if "/" in name]}
        if found := re.fullmatch(r"/(?:api/(v1)|apis/([^/]+/[^/]+))/?", parts.path):
            return self._resources(found.group(1) or found.group(2))
        if parts.path.endswith("/log"):
            return 200, self.log
        if parts.path.endswith("/pods"):
            return 200, {"kind": "PodList", "items": [{"metadata": {"name": "head"}}]}
        if parts.path.endswith("/events"):
            return 200, {"kind": "EventList", "items": []}
        return self._object(method, parts.path, parse_qs(parts.query), body)

    def kinds(self) -> list[str]:
        return sorted(document["kind"] for document in self.objects.values())

    def one(self, kind: str) -> Any:
        [found] = [document for document in self.objects.values() if document["kind"] == kind]
        return found

    def _resources(self, name: str) -> tuple[int, Any]:
        if name not in self.groups:
            return 404, _failure(404, "the server could not find the requested resource")
        verbs = ["get", "list", "patch", "delete", "create"]
        found = [
            {"name": plural, "kind": kind, "namespaced": spaced, "verbs": verbs, "singularName": kind.lower()}
            for plural, kind, spaced in self.groups[name]
        ]
        return 200, {"kind": "APIResourceList", "groupVersion": name, "resources": found}

    def _object(self, method: str, path: str, query: Any, body: bytes) -> tuple[int, Any]:
        if method == "PATCH":
            assert query["fieldManager"] == ["metagen"]
            document = yaml.safe_load(body)
            if document["kind"] in self.refuse:
                return self.refuse[document["kind"]][0], _failure(*self.refuse[document["kind"]])
            self.objects[path] = document
            return 200, document
        if path not in self.objects:
            return 404, _failure(404, "not found")
        if method == "DELETE":
            return 200, self.objects.pop(path)
        if self.objects[path]["kind"] in (*manifests.SCHEMAS, "Pod"):
            self.progress(self.objects[path])
        return 200, self.objects[path]

    def execute(self, path: str) -> Iterator[bytes]:
        """The messages of a command in a pod: a byte for the channel, then what came on it."""
        parts = urlsplit(path)
        self.seen.append(self.objects[parts.path.removesuffix("/exec")])
        command = [word.replace("/storage", str(self.volume)) for word in parse_qs(parts.query)["command"]]
        done = subprocess.run(command, capture_output=True, check=False)
        for start in range(0, len(done.stdout), 60_000):
            yield b"\x01" + done.stdout[start : start + 60_000]
        yield b"\x02" + done.stderr
        causes = [{"reason": "ExitCode", "message": str(done.returncode)}]
        status = {"status": "Failure", "details": {"causes": causes}} if done.returncode else {"status": "Success"}
        yield b"\x03" + json.dumps(status).encode()


def _frame(kind: int, data: bytes) -> bytes:
    """A message from a server over a web socket (RFC 6455, section 5.2)."""
    length = struct.pack(">B", len(data)) if len(data) < 126 else struct.pack(">BH", 126, len(data))
    return bytes([0x80 | kind]) + length + data


def _group(name: str) -> Any:
    group, version = name.split("/")
    one = {"groupVersion": name, "version": version}
    return {"name": group, "versions": [one], "preferredVersion": one}


def _failure(code: int, message: str) -> Any:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serving: Any) -> Iterator[Cluster]:
    held = Cluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            if self.headers.get("Upgrade", "").lower() == "websocket":
                self._talk()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, found = held.answer(self.command, self.path, body)
            text = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(found, str) else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _talk(self) -> None:
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            for message in held.execute(self.path):
                self.wfile.write(_frame(2, message))
            self.wfile.write(_frame(8, struct.pack(">H", 1000)))
            self.close_connection = True

        do_GET = do_PATCH = do_DELETE = do_POST = _answer

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    with serving(Handler) as url:
        kubeconfig = tmp_path / "kubeconfig"
        server = {"name": "c", "cluster": {"server": url}}
        kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [server],
                    "users": [{"name": "u", "user": {}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.setattr("launch.clusters.kubernetes.POLL_SECONDS", 0.01)
        monkeypatch.setenv("HOME", str(tmp_path))  # the client keeps what it learns of a server in a temporary file
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        yield held


@pytest.fixture
def files(metagen: Any, tmp_path: Path) -> Path:
    image = "registry.example.com/metagen:0.1.0"
    done = metagen(
        "cluster", "init", "kubernetes", "--image", image, "--storage", "pvc", "-o", tmp_path / "cluster.yaml"
    )
    assert done.code == 0, done.err
    return tmp_path


def _ends(status: str, deployment: str, message: str = "") -> Callable[[Any], None]:
    """An operator that needs a few looks for a job."""
    looks = iter(["Initializing", "Running", "Running"])

    def progress(document: Any) -> None:
        now = next(looks, deployment)
        document["status"] = {"jobDeploymentStatus": now, "rayClusterName": "ray", "message": message}
        document["status"]["jobStatus"] = status if now == deployment else "RUNNING"

    return progress


def test_a_job_is_applied_with_its_config_and_followed_to_its_end(
    cluster: Cluster, files: Path, tiny_yaml: Path, metagen: Any
) -> None:
    cluster.progress, cluster.log = _ends("SUCCEEDED", "Complete"), "joint step 5/5\n"
    done = metagen("submit", "--kubernetes", files / "cluster.job.yaml", "--run", "mine", "--", "train", tiny_yaml)
    assert done.code == 0, done.err
    assert done.out.count("joint step 5/5") == 1
    assert cluster.kinds() == ["ConfigMap", "NetworkPolicy", "PersistentVolumeClaim", "PriorityClass", "RayJob"]
    job = cluster.one("RayJob")
    assert job["metadata"]["name"] == "mine"
    assert "--run mine --storage /storage" in job["spec"]["entrypoint"]
    assert "--actors=10" in job["spec"]["entrypoint"]  # 2 of the head, 4 of each of two workers
    job.pop("status")
    assert manifests.problems([d for d in cluster.objects.values() if d["kind"] != "ConfigMap"]) == []
    sent = cluster.one("ConfigMap")
    [item] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["volumes"][-1]["configMap"][
        "items"
    ]
    config = yaml.safe_load(base64.b64decode(sent["binaryData"][item["key"]]))
    assert (item["path"], config["name"]) == ("run.yaml", "tiny")


def test_a_failed_job_ends_with_its_reason(cluster: Cluster, files: Path, tiny_yaml: Path, metagen: Any) -> None:
    cluster.progress = _ends("FAILED", "Failed", "Job failed due to an application error")
    done = metagen("submit", "--kubernetes", files / "cluster.job.yaml", "--", "train", tiny_yaml)
    assert done.code == 1
    assert "failed: Job failed due to an application error" in done.err


def test_a_run_that_has_ended_is_submitted_again_and_one_that_trains_is_not(
    cluster: Cluster, files: Path, tiny_yaml: Path, metagen: Any
) -> None:
    words = ["submit", "--kubernetes", files / "cluster.job.yaml", "--", "train", tiny_yaml]
    cluster.progress = _ends("SUCCEEDED", "Complete")
    assert metagen(*words).code == 0
    cluster.progress = _ends("SUCCEEDED", "Complete")
    cluster.one("RayJob")["status"]["jobStatus"] = "SUCCEEDED"
    for _ in range(3):  # past the looks that say that it runs
        cluster.progress({})
    assert metagen(*words, "--seed", "1").code == 0
    cluster.progress = lambda document: document.update(status={"jobStatus": "RUNNING"})
    done = metagen(*words)
    assert done.code == 2
    assert "is being trained by RayJob tiny" in done.errors[0]


@pytest.mark.parametrize("how", ["Failed", "ValidationFailed"])
def test_a_run_that_hit_its_time_limit_is_submitted_again(
    how: str, cluster: Cluster, files: Path, tiny_yaml: Path, metagen: Any
) -> None:
    """The operator then takes the cluster away, and what Ray said last stays."""
    words = ["submit", "--kubernetes", files / "cluster.job.yaml", "--", "train", tiny_yaml]
    ended = {"jobDeploymentStatus": how, "jobStatus": "RUNNING", "reason": "DeadlineExceeded"}
    cluster.progress = lambda document: document.update(status=ended)
    done = metagen(*words)
    assert done.code == 1
    assert "DeadlineExceeded" in done.err
    cluster.progress = lambda document: None
    assert metagen("submit", "--detach", *words[1:]).code == 0
    assert "status" not in cluster.one("RayJob")


def test_a_name_that_leads_out_of_the_storage_is_refused(
    cluster: Cluster, files: Path, tiny_yaml: Path, metagen: Any
) -> None:
    done = metagen("submit", "--kubernetes", files / "cluster.job.yaml", "--run", "../x", "--", "train", tiny_yaml)
    assert done.code == 2
    assert "'../x' cannot be used" in done.errors[0]
    assert cluster.kinds() == []


def test_a_server_that_fails_for_a_moment_ends_no_watch(
    cluster: Cluster, files: Path, tiny_yaml: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["submit", "--kubernetes", files / "cluster.job.yaml", "--", "train", tiny_yaml]
    answer, looks = cluster.answer, iter([False, False, True, True])

    def overloaded(method: str, path: str, body: bytes) -> tuple[int, Any]:
        if method == "GET" and path.endswith("/rayjobs/tiny") and "RayJob" in cluster.kinds() and next(looks, False):
            return 500, _failure(500, "etcdserver: leader changed")
        return answer(method, path, body)

    monkeypatch.setattr(cluster, "answer", overloaded)
    cluster.progress, cluster.log = _ends("SUCCEEDED", "Complete"), "joint step 5/5\n"
    done = metagen(*words)
    assert done.code == 0, done.err
    assert done.err.count("leader changed; trying again, the job goes on") == 1
    assert done.out.count("joint step 5/5") == 1

    monkeypatch.setattr("launch.clusters.kubernetes.GIVE_UP_SECONDS", 0.1)
    looks = iter([False, *[True] * 100_000])
    done = metagen(*words, "--seed", "1")
    assert done.code == 2
    assert "the job may go on: 'kubectl -n default get rayjob tiny -w'" in done.errors[0]


def test_what_the_server_refuses_is_told_in_its_words_and_nothing_is_left(
    cluster: Cluster, files: Path, tiny_yaml: Path, metagen: Any
) -> None:
    quota = 'rayjobs "tiny" is forbidden: exceeded quota: gpus, requested: 8, used: 0, limited: 4'
    for code, message in ((403, quota), (401, "Unauthorized")):
        cluster.refuse = {"RayJob": (code, message)}
        done = metagen("submit", "--kubernetes", files / "cluster.job.yaml", "--", "train", tiny_yaml)
        assert done.code == 2
        assert len(done.errors) == 1
        assert message in done.errors[0]
        assert cluster.kinds() == []


def test_without_the_operator_nothing_is_left(cluster: Cluster, files: Path, tiny_yaml: Path, metagen: Any) -> None:
    del cluster.groups["ray.io/v1"]
    done = metagen("submit", "--kubernetes", files / "cluster.job.yaml", "--", "train", tiny_yaml)
    assert done.code == 2
    assert "install KubeRay's operator" in done.errors[0]
    assert cluster.kinds() == []


def test_without_a_cluster_it_is_one_line(
    files: Path, tiny_yaml: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(files / "none"))
    done = metagen("submit", "--kubernetes", files / "cluster.job.yaml", "--", "train", tiny_yaml)
    assert done.code == 2
    assert "no Kubernetes cluster" in done.errors[0]


def test_a_cluster_comes_up_and_goes_and_its_volume_stays(cluster: Cluster, files: Path, metagen: Any) -> None:
    ready = iter([0, 1])

    def progress(document: Any) -> None:
        count = next(ready, 2)
        document["status"] = {"state": "ready", "readyWorkerReplicas": count, "desiredWorkerReplicas": 2}

    cluster.progress = progress
    done = metagen("cluster", "up", files / "cluster.yaml")
    assert done.code == 0, done.err
    assert "workers ready: 2 of 2" in done.out
    assert "2 of 2 workers ready" in metagen("cluster", "status", files / "cluster.yaml").out
    assert metagen("cluster", "down", files / "cluster.yaml", "--yes").code == 0
    assert cluster.kinds() == ["PersistentVolumeClaim"]


def test_a_cluster_that_does_not_come_up_is_taken_back(cluster: Cluster, files: Path, metagen: Any) -> None:
    done = metagen("cluster", "up", files / "cluster.yaml", "--timeout", "1")
    assert done.code == 2
    assert "only 0 of 2 workers were ready within 1 s" in done.errors[0]
    assert cluster.kinds() == []


@pytest.mark.parametrize("keep", [[], ["--keep"]], ids=str)
@pytest.mark.parametrize("how", [KeyboardInterrupt(), UserError("Kubernetes: Unauthorized")], ids=repr)
def test_a_start_that_is_broken_off_is_taken_back_unless_it_is_kept(
    how: BaseException, keep: list[str], cluster: Cluster, files: Path, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seconds: float) -> None:
        raise how

    monkeypatch.setattr("launch.clusters.kubernetes.time", SimpleNamespace(sleep=broken, monotonic=time.monotonic))
    done = metagen("cluster", "up", files / "cluster.yaml", *keep)
    assert done.code == (2 if isinstance(how, UserError) else 130)
    assert ("RayCluster" in cluster.kinds()) == bool(keep)
    assert ("it was left as it is" if keep else "what this start made is deleted again") in done.out + done.err


def test_a_start_that_fails_leaves_the_cluster_that_was_there(cluster: Cluster, files: Path, metagen: Any) -> None:
    assert metagen("cluster", "up", files / "cluster.yaml", "--timeout", "1", "--keep").code == 2
    before = cluster.kinds()
    assert metagen("cluster", "up", files / "cluster.yaml", "--timeout", "1").code == 2
    assert cluster.kinds() == before


def _runs(document: Any) -> None:
    document["status"] = {"phase": "Running"}


def test_a_run_comes_home_from_the_volume_through_a_pod_that_only_reads(
    cluster: Cluster, files: Path, trained: Path, metagen: Any, tmp_path: Path
) -> None:
    cluster.volume, cluster.progress = tmp_path / "volume", _runs
    shutil.copytree(trained, cluster.volume / "mine")
    (cluster.volume / "mine" / "checkpoints" / ".partial-step").mkdir()
    for _ in range(2):  # the second replaces the first
        done = metagen("fetch", files / "cluster.job.yaml", "mine", "--out", tmp_path / "home")
        assert done.code == 0, done.err
    names = [sorted(str(path.relative_to(top)) for path in top.rglob("*")) for top in (tmp_path / "home", trained)]
    assert names[0] == [name for name in names[1] if name != ".lock"]
    assert load_checkpoint(tmp_path / "home").state.step == load_checkpoint(trained).state.step
    assert cluster.kinds() == []
    for pod in cluster.seen:
        [container], [volume] = pod["spec"]["containers"], pod["spec"]["volumes"]
        assert container["volumeMounts"][0]["readOnly"]
        assert volume["persistentVolumeClaim"] == {"claimName": "metagen-metagen", "readOnly": True}
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "checkpoints/../../evil"])
def test_an_archive_cannot_write_outside_the_run(tmp_path: Path, name: str) -> None:
    packed, home = tmp_path / "packed.tar", tmp_path / "home"
    with tarfile.open(packed, "w") as archive:
        for one in ("config.yaml", name):
            archive.addfile(tarfile.TarInfo(one))
    with tarfile.open(packed) as archive, pytest.raises(tarfile.TarError, match="leads out"):
        kubernetes_volume.unpack(archive, home)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "packed.tar"]
    assert [path.name for path in home.iterdir()] == ["config.yaml"]


def test_links_of_an_archive_are_left_out(tmp_path: Path) -> None:
    packed, home = tmp_path / "packed.tar", tmp_path / "home"
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(packed, "w") as archive:
        archive.addfile(tarfile.TarInfo("config.yaml"))
        archive.addfile(link)
    with tarfile.open(packed) as archive:
        kubernetes_volume.unpack(archive, home)
    assert [path.name for path in home.iterdir()] == ["config.yaml"]


def test_a_fetch_that_fails_leaves_nothing_here_and_nothing_there(
    cluster: Cluster, files: Path, metagen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.volume, cluster.progress = tmp_path / "volume", _runs
    job = files / "cluster.job.yaml"

    def refused(needle: str) -> None:
        done = metagen("fetch", job, "mine", "--out", tmp_path / "home")
        assert done.code == 2
        assert len(done.errors) == 1
        assert needle in done.errors[0]
        assert cluster.kinds() == []
        assert list(tmp_path.glob("*home*")) == []

    refused("no run 'mine' on the volume")
    monkeypatch.setattr(cluster, "execute", lambda path: iter([b"\x01half"]))
    refused("the connection broke: try again")
    cluster.progress = lambda document: document.update(status={"phase": "Failed"})
    refused("cannot read the volume: it is Failed")
    cluster.refuse = {"Pod": (403, 'pods "x" is forbidden: exceeded quota')}
    refused("exceeded quota")
