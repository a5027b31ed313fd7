"""Clusters and jobs on Kubernetes: the official client applies manifests, the KubeRay operator does the rest."""

from __future__ import annotations

import base64
import copy
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from launch.clusters import cluster_file
from launch.clusters.kubernetes_api import Api
from launch.clusters.providers import manifests
from launch.clusters.providers.manifests import Manifest
from launch.jobs.submission import CONFIG, pack
from launch.jobs.watching import GIVE_UP_SECONDS
from metagen.errors import UserError
from metagen.names import checked

POLL_SECONDS = 2.0
JOB_FOLDER = "/metagen/job"
CONFIG_MAP_BYTES = 900_000
"""Kubernetes takes a mebibyte in all."""
OVER = ("Complete", "Failed", "ValidationFailed")
"""What the operator says of a job that it has done with. A job that hit its time limit is Failed, and what Ray said of
it last stays as it was: that it runs."""
SUBMITTER = "ray-job-submitter"
"""KubeRay's name of the container beside the head that submits the job and shows its log."""


def submit(path: Path, words: Sequence[str], run: str | None, include: Sequence[Path], detach: bool) -> int:
    """Apply a RayJob that trains ``words``, and follow it; gives its exit code."""
    documents = _checked(path)
    job = copy.deepcopy(_one(documents, "RayJob", path))
    with tempfile.TemporaryDirectory() as scratch:
        config, options = pack(words, include, Path(scratch))
        name = checked(run or config.name)
        sent = _config_map(name, job, Path(scratch))
    job = job_manifest(job, name, options, sent)
    api = Api()
    there = api.get(job)
    if there is not None:
        if (there.get("status") or {}).get("jobDeploymentStatus") not in OVER:
            raise UserError(f"run '{name}' is being trained by RayJob {_name(name)}: name another with --run")
        api.delete(there, wait=True)  # ended: the new one continues its run
    api.apply([*(d for d in documents if d["kind"] != "RayJob"), sent, job])
    print(f"RayJob {job['metadata']['name']} submitted", flush=True)
    return 0 if detach else _follow(api, job)


def job_manifest(job: Manifest, run: str, options: Sequence[str], sent: Manifest) -> Manifest:
    """The RayJob for a run: its name, its entrypoint, and the config and modules where every pod finds them."""
    job = copy.deepcopy(job)
    job["metadata"]["name"] = _name(run)
    spec = job["spec"]
    if not any(option.startswith(("--actors", "--pool=serial")) for option in options):
        options = [*options, f"--actors={_cores(spec['rayClusterSpec'])}"]  # workers may join after the job has begun
    storage = job["metadata"]["annotations"]["metagen/storage"]
    command = shlex.join(["python", "-m", "launch.jobs.remote", "--run", run, "--storage", storage, *options, CONFIG])
    spec["entrypoint"] = f"cd {JOB_FOLDER} && {command}"
    places = {"name": sent["metadata"]["name"], "items": sent.pop("items")}
    for group in (spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"].get("workerGroupSpecs", [])):
        pod = group["template"]["spec"]
        pod.setdefault("volumes", []).append({"name": "job", "configMap": places})
        pod["containers"][0].setdefault("volumeMounts", []).append({"name": "job", "mountPath": JOB_FOLDER})
    return job


def up(path: Path, timeout: float, keep: bool) -> None:
    """Apply a RayCluster and wait until its workers are ready."""
    documents = _checked(path)
    cluster = _one(documents, "RayCluster", path)
    wanted = sum(int(group["minReplicas"]) for group in cluster["spec"].get("workerGroupSpecs", []))
    api = Api()
    made = api.apply(documents)
    try:
        ready = _wait_for_workers(api, cluster, wanted, timeout)
    except BaseException as error:
        after = f"it was left as it is, 'metagen cluster down {path}' stops it"
        if not keep:
            after = "what this start made is deleted again"
            try:
                api.undo(made)
            except UserError as failed:
                after = f"not all could be deleted ({failed}): run 'metagen cluster down {path}'"
        if isinstance(error, UserError):
            raise UserError(f"{error}; {after}") from None
        print(f"{cluster['metadata']['name']}: {after}", flush=True)
        raise
    print(f"{cluster['metadata']['name']}: up with {ready} workers")


def _wait_for_workers(api: Api, cluster: Manifest, wanted: int, timeout: float) -> int:
    """Wait until ``wanted`` workers are ready; raises ``UserError`` with the cluster's events if they do not come."""
    deadline, shown = time.monotonic() + timeout, -1
    while time.monotonic() < deadline:
        status = (api.get(cluster) or {}).get("status") or {}
        ready = int(status.get("readyWorkerReplicas") or 0)
        if ready != shown:
            print(f"  workers ready: {ready} of {wanted}", flush=True)
            shown = ready
        if status.get("state") == "ready" and ready >= wanted:
            return ready
        time.sleep(POLL_SECONDS)
    why = "; ".join(api.events(cluster)) or "no events: is the KubeRay operator installed?"
    raise UserError(f"only {max(shown, 0)} of {wanted} workers were ready within {timeout:.0f} s: {why}")


def status(path: Path) -> None:
    """Print what the operator says of the cluster."""
    documents = _checked(path)
    cluster = _one(documents, "RayCluster", path)
    there = Api().get(cluster)
    if there is None:
        raise UserError(f"{path}: {cluster['metadata']['name']} is not there: 'metagen cluster up {path}'")
    found = there.get("status") or {}
    ready, wanted = (int(found.get(f"{word}WorkerReplicas") or 0) for word in ("ready", "desired"))
    print(f"{cluster['metadata']['name']}: {found.get('state') or 'starting'}, {ready} of {wanted} workers ready")


def down(path: Path) -> None:
    """Delete the cluster and what belongs to it, but not the volume that runs are kept on."""
    api, documents = Api(), cluster_file.documents(path)  # not checked: what runs must be stoppable
    for document in reversed(documents):
        if document["kind"] != "PersistentVolumeClaim":
            api.delete(document, wait=document["kind"] in manifests.SCHEMAS)
    print("down; runs are still on the volume or in the bucket")


def _checked(path: Path) -> list[Manifest]:
    documents = cluster_file.documents(path)
    if not cluster_file.is_kubernetes(documents):
        raise UserError(f"{path}: no Kubernetes manifests: write them with 'metagen cluster init kubernetes'")
    if wrong := manifests.problems(documents):
        raise UserError(f"{path}: {wrong[0]}")
    return documents


def _one(documents: list[Manifest], kind: str, path: Path) -> Manifest:
    found = [document for document in documents if document["kind"] == kind]
    if len(found) != 1:
        other = "cluster.job.yaml" if kind == "RayJob" else "cluster.yaml"
        raise UserError(f"{path}: {len(found)} {kind}s in it, one is needed: init writes it to {other}")
    return found[0]


def _name(run: str) -> str:
    """A name that Kubernetes takes; KubeRay appends to it."""
    name = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")
    if not name or not name[0].isalpha() or len(name) > 40:
        raise UserError(f"--run '{run}': Kubernetes needs a letter first and at most 40 letters, digits and dashes")
    return name


def _config_map(run: str, job: Manifest, folder: Path) -> Manifest:
    """The files of ``folder`` as a ConfigMap, with the paths to put them at under ``items``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = {f"file{number}": path.read_bytes() for number, path in enumerate(files)}
    if (size := sum(map(len, content.values()))) > CONFIG_MAP_BYTES:
        raise UserError(
            f"config and modules are {size:,} bytes, Kubernetes takes {CONFIG_MAP_BYTES:,}: put them into the image"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{_name(run)}-job", "namespace": job["metadata"].get("namespace", "default")},
        "binaryData": {key: base64.b64encode(data).decode() for key, data in content.items()},
        "items": [{"key": f"file{n}", "path": str(path.relative_to(folder))} for n, path in enumerate(files)],
    }


def _cores(spec: Manifest) -> int:
    """Cores of the head and the least number of workers."""
    total = _cpu(spec["headGroupSpec"])
    return max(1, total + sum(int(g["minReplicas"]) * _cpu(g) for g in spec.get("workerGroupSpecs", [])))


def _cpu(group: Manifest) -> int:
    text = str(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("cpu", "1"))
    return int(float(text[:-1]) / 1000) if text.endswith("m") else int(float(text))


def _follow(api: Api, job: Manifest) -> int:
    """Show the job's log until it is over, past an API server that fails; Ctrl-C leaves it alone."""
    name, namespace = job["metadata"]["name"], job["metadata"].get("namespace", "default")
    back = f"kubectl -n {namespace} get rayjob {name} -w"
    shown: dict[str, int] = {}
    state, lost = "", None
    try:
        while True:
            try:
                found = _look(api, job, shown)
            except UserError as error:
                now = time.monotonic()
                if lost is None:
                    lost = now
                    print(f"{error}; trying again, the job goes on", file=sys.stderr, flush=True)
                if now - lost > GIVE_UP_SECONDS:
                    raise UserError(f"{error}; the job may go on: '{back}'") from None
                time.sleep(POLL_SECONDS)
                continue
            lost = None
            if found is None:
                raise UserError(f"RayJob {name} is gone: somebody deleted it")
            now_is = " ".join(filter(None, (found.get("jobDeploymentStatus"), found.get("jobStatus"))))
            if now_is != state:
                print(f"RayJob {name}: {now_is or 'waiting for the operator'}", file=sys.stderr, flush=True)
                state = now_is
            if found.get("jobDeploymentStatus") in OVER:
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print(
            f"\ndetached, the job goes on\n  follow: {back}\n  stop:   kubectl -n {namespace} delete rayjob {name}",
            file=sys.stderr,
        )
        return 130
    if found.get("jobStatus") == "SUCCEEDED":
        return 0
    said = " ".join(str(found.get("message") or found.get("reason") or "no reason is given").split())
    print(f"RayJob {name} failed: {said[:300]}", file=sys.stderr)
    return 1


def _look(api: Api, job: Manifest, shown: dict[str, int]) -> Manifest | None:
    """Show what is new in the job's log; gives what the operator says of the job, None if it is gone."""
    there = api.get(job)
    if there is None:
        return None
    found: Manifest = there.get("status") or {}
    if ray := found.get("rayClusterName"):
        namespace = job["metadata"].get("namespace", "default")
        for pod, text in api.logs(namespace, f"ray.io/cluster={ray},ray.io/node-type=head", SUBMITTER):
            sys.stdout.write(text[shown.get(pod, 0) :])
            sys.stdout.flush()
            shown[pod] = max(shown.get(pod, 0), len(text))
    return found
