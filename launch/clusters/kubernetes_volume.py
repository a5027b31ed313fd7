"""A run on a Kubernetes volume, brought home: a pod that can only read the volume, and tar through the API server."""

from __future__ import annotations

import secrets
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from launch.clusters import cluster_file
from launch.clusters.kubernetes_api import Api
from launch.clusters.providers.manifests import Manifest
from launch.training import run_folder
from metagen.errors import UserError

READY_SECONDS = 180.0
POLL_SECONDS = 1.0
TAR_CHANGED = 1
"""tar's exit code where a file changed or went while it was read: a checkpoint was pruned."""


def storage_of(path: Path) -> str:
    """Where the runs of these manifests are kept: a bucket's URL, or the volume's mount path."""
    return str(_cluster(path)["metadata"]["annotations"]["metagen/storage"])


def pull(path: Path, run: str, into: Path) -> None:
    """Copy a run from the volume of the manifests at ``path`` into the folder ``into``.

    Raises ``UserError`` if there is no such run, or no pod that could look. The pod is gone afterwards.
    """
    cluster, api = _cluster(path), Api()
    pod = reader(cluster)
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    storage = cluster["metadata"]["annotations"]["metagen/storage"]
    api.apply([pod])
    try:
        _wait(api, pod)
        with tempfile.TemporaryFile() as archive:
            there = ["test", "-f", f"{storage}/{run}/{run_folder.CONFIG}"]
            if api.execute(namespace, name, there, archive)[0]:
                raise UserError(f"{path}: no run '{run}' on the volume: its name is the one of --run, or of the config")
            code, said = api.execute(namespace, name, ["tar", "-C", f"{storage}/{run}", "-cf", "-", "."], archive)
            if code not in (0, TAR_CHANGED):
                raise UserError(f"{path}: tar on the volume: {said or 'failed'}: try again")
            archive.seek(0)
            with tarfile.open(fileobj=archive) as opened:
                unpack(opened, into)
    except tarfile.TarError as error:
        raise UserError(f"{path}: what came from the volume is no whole archive ({error}): try again") from None
    finally:
        api.delete(pod)


def reader(cluster: Manifest) -> Manifest:
    """A pod with the head's image and user that sees the head's volume, and may not write to it."""
    spec = cluster["spec"].get("rayClusterSpec", cluster["spec"])["headGroupSpec"]["template"]["spec"]
    place = {"name": "storage", "mountPath": cluster["metadata"]["annotations"]["metagen/storage"], "readOnly": True}
    [volume] = [one for one in spec["volumes"] if one["name"] == "storage"]
    claim = {**volume["persistentVolumeClaim"], "readOnly": True}
    head = spec["containers"][0]
    small = {"cpu": "100m", "memory": "256Mi"}
    container = {
        "name": "reader",
        "image": head["image"],
        "command": ["sleep", "3600"],
        "securityContext": head["securityContext"],
        "resources": {"requests": small, "limits": small},
        "volumeMounts": [place],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"metagen-fetch-{secrets.token_hex(4)}",
            "namespace": cluster["metadata"].get("namespace", "default"),
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 3600,  # goes by itself where this process cannot delete it
            "automountServiceAccountToken": False,
            "securityContext": spec["securityContext"],
            "containers": [container],
            "volumes": [{"name": "storage", "persistentVolumeClaim": claim}],
        },
    }


def unpack(archive: tarfile.TarFile, into: Path) -> None:
    """Files of ``archive`` into a folder, but what is half written: its name begins with a dot.

    By hand, since filters of ``extractall`` came with Python 3.11.4. Links and devices are no part of a run. Raises
    ``tarfile.TarError`` for a path that leads out of the folder.
    """
    for member in archive:
        target = run_folder.place(into, member.name)
        if target is None:
            raise tarfile.ExtractError(f"'{member.name}' leads out of the run's folder")
        if run_folder.half_written(Path(member.name)) or not (member.isfile() or member.isdir()):
            continue
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        assert source is not None  # a file's
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)


def _cluster(path: Path) -> Manifest:
    """The RayJob or RayCluster of a file."""
    for document in cluster_file.documents(path):
        if document["kind"] in ("RayJob", "RayCluster"):
            return document
    raise UserError(f"{path}: no RayJob or RayCluster in it: write it with 'metagen cluster init kubernetes'")


def _wait(api: Api, pod: Manifest) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while (phase := _phase(api.get(pod))) != "Running":
        if phase in ("Failed", "Succeeded") or time.monotonic() > deadline:
            why = "; ".join(api.events(pod)) or f"it is {phase or 'gone'}"
            raise UserError(f"Pod {pod['metadata']['name']} cannot read the volume: {why}")
        time.sleep(POLL_SECONDS)


def _phase(found: dict[str, Any] | None) -> str:
    return str(((found or {}).get("status") or {}).get("phase") or "")
