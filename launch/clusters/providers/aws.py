"""Amazon EC2."""

from __future__ import annotations

from launch.clusters.providers.request import Request
from launch.clusters.providers.template import launcher_file
from metagen.errors import UserError, nearest

GPUS = {
    "t4": "g4dn.xlarge",
    "a10g": "g5.xlarge",
    "l4": "g6.xlarge",
    "l40s": "g6e.xlarge",
    "a100": "p4d.24xlarge",
    "h100": "p5.48xlarge",
}
IMAGE = "resolve:ssm:/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
GPU_IMAGE = "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
APT = (
    "cloud-init status --wait >/dev/null || true",
    "sudo apt-get -q -o DPkg::Lock::Timeout=300 update && "
    "sudo apt-get -q -o DPkg::Lock::Timeout=300 install -y python3-venv rsync",
)
SPOT = """\
      # Spot: cheaper, and taken away at two minutes' notice. A lost worker costs a run time and nothing else.
      InstanceMarketOptions:
        MarketType: spot
"""


def gpu_type(gpu: str | None, table: dict[str, str], default: str) -> str:
    """The machine with the asked-for GPU; raises ``UserError`` naming the known ones."""
    if gpu is None:
        return default
    if gpu.lower() not in table:
        raise UserError(f"--gpu '{gpu}'{nearest(gpu.lower(), table)}; or name a machine with --worker-type")
    return table[gpu.lower()]


def render(request: Request) -> dict[str, str]:
    """The cluster file."""
    request.required("ssh_cidr", "storage")
    region = request.region or "us-east-1"
    worker = request.worker_type or gpu_type(request.gpu, GPUS, "m7i.xlarge")
    return {
        request.file: launcher_file(
            "aws.yaml",
            request,
            price_example=worker,
            prepare=APT,
            # The autoscaler on the head starts the workers through AWS's library.
            head_setup=(f"{request.venv}/bin/pip install --quiet --disable-pip-version-check 'boto3>=1.35,<2'",),
            region=region,
            zone=request.zone or ",".join(f"{region}{letter}" for letter in "abc"),
            head_type=request.head_type or "m7i.xlarge",
            head_image=IMAGE,
            worker_type=worker,
            worker_image=GPU_IMAGE if request.gpu else IMAGE,
            min_workers=request.workers if request.min_workers is None else request.min_workers,
            max_workers=request.workers,
            spot=SPOT if request.spot else "",
        )
    }
