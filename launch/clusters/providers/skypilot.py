"""An export for SkyPilot: a task file that ``sky jobs launch`` takes. metagen itself does not call SkyPilot."""

from __future__ import annotations

from launch.clusters.providers.request import Request, versions
from launch.clusters.providers.template import fill, install_commands


def render(request: Request) -> dict[str, str]:
    """The task file."""
    request.required("storage")
    resources = [f"accelerators: {request.gpu.upper()}:1" if request.gpu else "cpus: 4+"]
    resources.append(f"use_spot: {'true' if request.spot else 'false'}")
    if request.region:
        resources.append(f"region: {request.region}")
    package = request.package or f"metagen=={versions()['metagen']}"
    return {
        request.file: fill(
            "skypilot.yaml",
            file=request.file,
            name=request.name,
            nodes=request.workers + 1,
            resources="\n".join(f"  {line}" for line in resources),
            storage=request.storage,
            venv=request.venv,
            setup="\n".join(f"  {line}" for line in install_commands(request, package)),
        )
    }
