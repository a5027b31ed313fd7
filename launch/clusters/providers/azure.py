"""Azure virtual machines."""

from __future__ import annotations

import re

from launch.clusters.providers.aws import APT, gpu_type
from launch.clusters.providers.request import Request
from launch.clusters.providers.template import launcher_file

GPUS = {"t4": "Standard_NC4as_T4_v3", "a100": "Standard_NC24ads_A100_v4", "h100": "Standard_NC40ads_H100_v5"}
SPOT = """\
        # Spot: cheaper, and taken away at thirty seconds' notice. A lost worker costs a run time and nothing else.
        priority: Spot
        billingProfile: {maxPrice: -1}
"""
DRIVER = (
    "nvidia-smi >/dev/null 2>&1 || (sudo apt-get -q -o DPkg::Lock::Timeout=300 install -y "
    "nvidia-driver-570-server && sudo modprobe nvidia)"
)


def cores(machine: str) -> int:
    """How many cores a size's name says it has: the first number of Standard_D4s_v5."""
    found = re.match(r"[A-Za-z]+_[A-Z]+(\d+)", machine)
    return int(found.group(1)) if found else 2


def render(request: Request) -> dict[str, str]:
    """The cluster file."""
    request.required("ssh_cidr", "storage")
    worker = request.worker_type or gpu_type(request.gpu, GPUS, "Standard_D4s_v5")
    head = request.head_type or "Standard_D4s_v5"
    return {
        request.file: launcher_file(
            "azure.yaml",
            request,
            price_example=worker,
            # The head has no GPU and needs no driver: it asks for one only where the machine shows one.
            prepare=(*APT, f"lspci | grep -qi nvidia && {DRIVER} || true") if request.gpu else APT,
            # The autoscaler on the head starts the workers through Azure's libraries; versions as Ray tests them.
            head_setup=(
                f"{request.venv}/bin/pip install --quiet --disable-pip-version-check "
                "azure-core==1.35.0 azure-identity==1.23.1 azure-mgmt-compute==35.0.0 azure-mgmt-network==29.0.0 "
                "azure-mgmt-resource==24.0.0 azure-common==1.1.28 msrest==0.7.1 msrestazure==0.6.4.post1",
            ),
            region=request.region or "eastus",
            subscription=f"  subscription_id: {request.project}\n" if request.project else "",
            head_type=head,
            head_cpus=cores(head),
            worker_type=worker,
            worker_cpus=cores(worker),
            gpu_resource=", GPU: 1" if request.gpu else "",
            spot=SPOT if request.spot else "",
            min_workers=request.workers if request.min_workers is None else request.min_workers,
            max_workers=request.workers,
        )
    }
