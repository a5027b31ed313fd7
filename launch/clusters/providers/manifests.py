"""Kubernetes manifests, checked offline: against KubeRay's schemas, strictly, and against rules of our own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

from launch.clusters.providers.request import versions
from metagen.errors import nearest

Manifest = dict[str, Any]
SCHEMAS = {"RayCluster": "raycluster.json", "RayJob": "rayjob.json"}
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def problems(documents: list[Manifest]) -> list[str]:
    """One line a mistake, over all documents of a file."""
    found: list[str] = []
    rays = [document for document in documents if document.get("kind") in SCHEMAS]
    if not rays:
        found.append("no RayCluster and no RayJob in it: write the file with 'metagen cluster init kubernetes'")
    for document in rays:
        kind = document["kind"]
        wrong = [f"{kind}.{line}" for line in _mismatches(_schema(kind), document, "")]
        found += wrong or [f"{kind}: {line}" for line in _rules(document)]
    policies = [document for document in documents if document.get("kind") == "NetworkPolicy"]
    if rays and not policies:
        found.append("no NetworkPolicy: Ray's ports are open to every pod: add one that admits the cluster's own pods")
    claimed = {
        document["metadata"]["name"] for document in documents if document.get("kind") == "PersistentVolumeClaim"
    }
    for name in sorted(_claims(documents) - claimed):
        found.append(f"the volume claim {name} is used and not in the file: add it, or keep runs in a bucket")
    return found


def ray_spec(document: Manifest) -> Manifest:
    """The RayClusterSpec of a RayCluster or a RayJob."""
    spec: Manifest = document["spec"]
    return spec["rayClusterSpec"] if document["kind"] == "RayJob" else spec


def _schema(kind: str) -> Manifest:
    text = (resources.files("launch.clusters.providers") / "schemas" / SCHEMAS[kind]).read_text()
    return json.loads(text)


def _mismatches(schema: Manifest, value: Any, path: str) -> Iterator[str]:
    """Where ``value`` is not what ``schema`` says. Unlike Kubernetes, which drops them, unknown fields are mistakes."""
    here = path.lstrip(".") or "the manifest"
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield f"{here}: a number or a string is needed, not {value!r}"
        return
    wanted = schema.get("type")
    if wanted and (not isinstance(value, TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean")):
        yield f"{here}: {wanted} is needed, not {value!r}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{here}: one of {', '.join(map(str, schema['enum']))} is needed, not {value!r}"
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        yield f"{here}: {value!r} is not of the form {schema['pattern']}"
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{here}: {value!r} is below {schema.get('minimum')} or above {schema.get('maximum')}"
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _mismatches(schema["items"], item, f"{path}.{index}")
    if not isinstance(value, dict):
        return
    known, rest = schema.get("properties", {}), schema.get("additionalProperties")
    yield from (f"{here}: '{key}' is missing: add it" for key in schema.get("required", []) if key not in value)
    for key, inner in value.items():
        if key in known:
            yield from _mismatches(known[key], inner, f"{path}.{key}")
        elif isinstance(rest, dict):
            yield from _mismatches(rest, inner, f"{path}.{key}")
        elif known and not rest and not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path.lstrip('.')}.{key}".lstrip(".") + f": unknown field{nearest(key, known)}"


def _rules(document: Manifest) -> Iterator[str]:
    spec = ray_spec(document)
    if (spec.get("authOptions") or {}).get("mode") != "token":
        yield "authOptions.mode: whoever reaches a port runs code: set token"
    mine = versions()
    if spec.get("rayVersion") != mine["ray"]:
        yield f"rayVersion: {spec.get('rayVersion')} there, {mine['ray']} on this machine: make them the same"
    if spec["headGroupSpec"].get("serviceType", "ClusterIP") != "ClusterIP":
        yield f"headGroupSpec.serviceType: {spec['headGroupSpec']['serviceType']} is public: use ClusterIP"
    if not (document.get("metadata", {}).get("annotations") or {}).get("metagen/storage"):
        yield "metadata.annotations: 'metagen/storage' is missing: say where runs are kept, such as s3://BUCKET/runs"
    if not spec.get("gcsFaultToleranceOptions"):
        yield "gcsFaultToleranceOptions: missing: with the head's pod the whole cluster would go: add backend: rocksdb"
    for group in [spec["headGroupSpec"], *spec.get("workerGroupSpecs", [])]:
        name, pod = group.get("groupName", "head"), group["template"]["spec"]
        for container in pod.get("containers", []):
            image = str(container.get("image", ""))
            if ":" not in image.rpartition("/")[2] or image.endswith((":latest", ":nightly")):
                yield f"{name}: the image '{image}' is not pinned: name a tag or a digest"
            if not (container.get("resources") or {}).get("limits"):
                yield f"{name}: {container['name']} has no resources.limits: Ray would count the whole node"
    for group in spec.get("workerGroupSpecs", []):
        if group["minReplicas"] > group["maxReplicas"]:
            yield (
                f"{group['groupName']}: minReplicas {group['minReplicas']} is more than "
                f"maxReplicas {group['maxReplicas']}"
            )
        if group["maxReplicas"] > 10_000:
            yield (
                f"{group['groupName']}: maxReplicas {group['maxReplicas']} is no bound: give the most you would pay for"
            )
    if document["kind"] == "RayJob":
        yield from _job_rules(document["spec"])


def _job_rules(spec: Manifest) -> Iterator[str]:
    if spec.get("submissionMode") != "SidecarMode":
        yield "submissionMode: use SidecarMode: the submitter needs no pod and no image of its own"
    elif spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"].get("restartPolicy") != "Never":
        yield "headGroupSpec: SidecarMode needs restartPolicy: Never, or a job would be submitted twice"
    for key, why in (
        ("backoffLimit", "how often a failed job is tried again"),
        ("activeDeadlineSeconds", "when a job that hangs is ended"),
        ("ttlSecondsAfterFinished", "when a finished job is removed"),
    ):
        if key not in spec:
            yield f"{key}: missing: say {why}"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "shutdownAfterJobFinishes: set true, or the cluster of a finished job keeps running"


def _claims(documents: list[Manifest]) -> set[str]:
    """Names of the volume claims that pods use."""
    names = set()
    for document in documents:
        if document.get("kind") in SCHEMAS:
            spec = ray_spec(document)
            for group in [spec.get("headGroupSpec", {}), *(spec.get("workerGroupSpecs") or [])]:
                for volume in ((group.get("template") or {}).get("spec") or {}).get("volumes") or []:
                    if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
                        names.add(claim)
    return names
