"""Kubernetes, through the KubeRay operator."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

from launch.clusters.providers.request import Request, versions
from launch.clusters.providers.template import CPU_WHEELS, fill, python_version
from metagen.errors import UserError

POD = """\
securityContext:
  runAsNonRoot: true
  runAsUser: 1000  # the user of Ray's images
  fsGroup: 100
  seccompProfile: {type: RuntimeDefault}
"""
CONTAINER = """\
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
env:
  - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
"""
ROCKSDB = """\
# Ray's built-in store on a small volume. With a Redis of your own: --redis HOST:PORT.
backend: rocksdb
storage: {size: 1Gi, accessModes: [ReadWriteOnce], deletionPolicy: DeleteWithCluster}
"""
SPOT = """\
# Spot nodes are tainted on most clouds.
tolerations:
  - {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}
  - {key: kubernetes.azure.com/scalesetpriority, operator: Equal, value: spot, effect: NoSchedule}
  - {key: metagen/spot, operator: Exists, effect: NoSchedule}
"""
NO_SPOT = """\
# Add your nodes' taints here.
tolerations: []
"""
GPU = """\
# Nodes with GPUs are tainted on most clouds.
tolerations:
  - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
"""


def render(request: Request) -> dict[str, str]:
    """A RayCluster, a RayJob, and the image that both run."""
    request.required("image", "storage")
    if ":" not in str(request.image).rpartition("/")[2] or str(request.image).endswith(":latest"):
        raise UserError(f"--image {request.image}: pin a tag or a digest, such as {request.image}:0.1.0")
    path = Path(request.file)
    job, container = f"{path.stem}.job{path.suffix}", str(path.with_name("Containerfile").name)
    pinned = {f"{name}_version": version for name, version in versions().items()}
    volume = str(request.storage) == "pvc"
    common: dict[str, object] = {
        **pinned,
        "file": path.name,
        "job_file": job,
        "name": request.name,
        "namespace": request.namespace,
        "storage": "/storage" if volume else request.storage,
        "deadline": request.hours * 3600,
    }
    common["support"] = fill(
        "kubernetes_support.yaml", **common, volume_claim=_claim(request, common) if volume else ""
    )
    return {
        request.file: fill("kubernetes_cluster.yaml", **common, spec=indent(_spec(request, pinned, False), "  ")),
        str(path.with_name(job)): fill(
            "kubernetes_job.yaml", **common, spec=indent(_spec(request, pinned, True), "    ")
        ),
        str(path.with_name(container)): _containerfile(request, pinned, container),
    }


def _claim(request: Request, common: dict[str, object]) -> str:
    chosen = f"  storageClassName: {request.storage_class}\n" if request.storage_class else ""
    return fill("kubernetes_volume.yaml", **common, storage_class=chosen)


def _spec(request: Request, pinned: dict[str, str], job: bool) -> str:
    """RayClusterSpec, the same for a cluster and for a job, but for the head's restarts."""
    volume = str(request.storage) == "pvc"
    tolerations = (GPU if request.gpu else "") + (
        SPOT.replace("tolerations:\n", "") if request.gpu and request.spot else SPOT if request.spot else ""
    )
    return fill(
        "kubernetes_ray.yaml",
        **pinned,
        name=request.name,
        image=request.image,
        idle_seconds=request.idle_minutes * 60,
        fault_tolerance=indent(f"redisAddress: {request.redis}\n" if request.redis else ROCKSDB, "  ").rstrip(),
        # The submitter is in this pod: started again inside it, the job would be submitted twice.
        head_restart="      restartPolicy: Never\n" if job else "",
        pod=indent(POD, " " * 6).rstrip(),
        worker_pod=indent(POD, " " * 8).rstrip(),
        container=indent(CONTAINER, " " * 10).rstrip(),
        worker_container=indent(CONTAINER, " " * 12).rstrip(),
        head_mount="            - {name: storage, mountPath: /storage}\n" if volume else "",
        head_volume=f"        - name: storage\n          persistentVolumeClaim: {{claimName: metagen-{request.name}}}\n"
        if volume
        else "",
        node_selector=f"        nodeSelector: {{metagen/gpu: {request.gpu}}}\n" if request.gpu else "",
        tolerations=indent(tolerations or NO_SPOT, " " * 8),
        gpu=', nvidia.com/gpu: "1"' if request.gpu else "",
        min_workers=request.workers if request.min_workers is None else request.min_workers,
        max_workers=request.workers,
    )


def _containerfile(request: Request, pinned: dict[str, str], name: str) -> str:
    package = request.package or f"metagen=={pinned['metagen_version']}"
    copied = package.endswith(".whl")
    wheel = Path(package).name
    return fill(
        "Containerfile",
        **pinned,
        containerfile=name,
        image=request.image,
        python=python_version().replace(".", ""),
        base="-gpu" if request.gpu else "-cpu",
        torch_index="" if request.gpu else f" --index-url {CPU_WHEELS}",
        copy=f"COPY {wheel} /tmp/{wheel}\n" if copied else "",
        package=f"/tmp/{wheel}" if copied else package,
    )
