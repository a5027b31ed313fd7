"""Kubernetes, without it: the official client against an API server in this process."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from launch.clusters.providers import manifests

pytest.importorskip("kubernetes")

GROUPS = {
    "v1": [("configmaps", "ConfigMap", True), ("persistentvolumeclaims", "PersistentVolumeClaim", True)],
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
        if self.objects[path]["kind"] in manifests.SCHEMAS:
            self.progress(self.objects[path])
        return 200, self.objects[path]


def _group(name: str) -> Any:
    group, version = name.split("/")
    one = {"groupVersion": name, "version": version}
    return {"name": group, "versions": [one], "preferredVersion": one}


def _failure(code: int, message: str) -> Any:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    held = Cluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            code, found = held.answer(self.command, self.path, body)
            text = (found if isinstance(found, str) else json.dumps(found)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(found, str) else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PATCH = do_DELETE = do_POST = _answer

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        kubeconfig = tmp_path / "kubeconfig"
        server = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{http.server_port}"}}
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
        http.shutdown()
        thread.join()


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
