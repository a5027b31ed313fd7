"""Machines of one's own, over ssh: Ray's provider ``local``."""

from __future__ import annotations

from pathlib import Path

from launch.clusters.providers.request import Request
from launch.clusters.providers.template import launcher_file, python_version
from metagen.errors import UserError


def render(request: Request) -> dict[str, str]:
    """The cluster file."""
    request.required("head", "key", "storage")
    if request.head in request.hosts or len(set(request.hosts)) < len(request.hosts):
        raise UserError("--host: every worker once, and not the head, which works too")
    external = f"  # How this machine reaches the head.\n  external_head_ip: {request.external_head}\n"
    return {
        request.file: launcher_file(
            "onprem.yaml",
            request,
            price_example=str(request.head),
            head_address=request.head,
            storage_help="a folder, the same on all machines (NFS). Runs outlive the cluster.",
            python_version=python_version(),
            head=request.head,
            workers=", ".join(request.hosts),
            worker_count=len(request.hosts),
            external_head_ip=external if request.external_head else "",
            user=request.user or "root",
            key=Path(str(request.key)).expanduser().absolute(),
        )
    }
