"""Google Compute Engine."""

from __future__ import annotations

import re

from launch.clusters.providers.aws import APT, gpu_type
from launch.clusters.providers.request import Request
from launch.clusters.providers.template import launcher_file

GPUS = {"t4": "n1-standard-4", "l4": "g2-standard-4", "a100": "a2-highgpu-1g", "h100": "a3-highgpu-1g"}
ATTACHED = {"t4": "nvidia-tesla-t4"}
"""GPUs that are attached to a machine; the others come with theirs."""
IMAGE = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
GPU_IMAGE = "projects/ubuntu-os-accelerator-images/global/images/family/ubuntu-accelerator-2404-amd64-with-nvidia-570"
SPOT = """\
      # Spot: cheaper, and taken away at thirty seconds' notice. A lost worker costs a run time and nothing else.
      scheduling:
        provisioningModel: SPOT
        instanceTerminationAction: DELETE
"""
MAINTENANCE = """\
      # A machine with a GPU cannot be moved while it runs.
      scheduling:
        onHostMaintenance: TERMINATE
"""
ACCELERATORS = """\
      guestAccelerators:
        - acceleratorType: {name}
          acceleratorCount: 1
"""


def cores(machine: str) -> int:
    """How many cores a machine type's name says it has: the trailing number of n2-standard-4; a2-highgpu-1g has 12."""
    known = {"a2-highgpu-1g": 12, "a3-highgpu-1g": 26}
    found = re.search(r"-(\d+)$", machine)
    return known.get(machine) or (int(found.group(1)) if found else 2)


def render(request: Request) -> dict[str, str]:
    """The cluster file."""
    request.required("ssh_cidr", "storage", "project")
    region = request.region or "us-central1"
    worker = request.worker_type or gpu_type(request.gpu, GPUS, "n2-standard-4")
    head = request.head_type or "n2-standard-4"
    attached = ATTACHED.get(request.gpu.lower()) if request.gpu else None
    scheduling = SPOT if request.spot else ""
    if request.gpu:
        scheduling = scheduling + "        onHostMaintenance: TERMINATE\n" if scheduling else MAINTENANCE
    return {
        request.file: launcher_file(
            "gcp.yaml",
            request,
            price_example=worker,
            prepare=APT,
            # The autoscaler on the head starts the workers through Google's library.
            head_setup=(
                f"{request.venv}/bin/pip install --quiet --disable-pip-version-check "
                "'google-api-python-client>=2.100,<3' 'google-auth>=2.23,<3' 'cryptography>=42'",
            ),
            region=region,
            zone=request.zone or f"{region}-a",
            project=request.project,
            head_type=head,
            head_cpus=cores(head),
            head_image=IMAGE,
            worker_type=worker,
            worker_cpus=cores(worker),
            worker_image=GPU_IMAGE if request.gpu else IMAGE,
            gpu_resource=", GPU: 1" if request.gpu else "",
            accelerators=ACCELERATORS.format(name=attached) if attached else "",
            scheduling=scheduling,
            min_workers=request.workers if request.min_workers is None else request.min_workers,
            max_workers=request.workers,
        )
    }
