"""Where a cluster can run, by name. A provider is a module whose ``render`` writes the files for a request."""

from __future__ import annotations

from collections.abc import Callable

from launch.clusters.providers import aws, azure, gcp, kubernetes, onprem, skypilot
from launch.clusters.providers.request import Request as Request
from metagen.errors import UserError

REGISTRY: dict[str, Callable[[Request], dict[str, str]]] = {
    "aws": aws.render,
    "gcp": gcp.render,
    "azure": azure.render,
    "onprem": onprem.render,
    "kubernetes": kubernetes.render,
    "skypilot": skypilot.render,
}
"""Each gives the text of every file it writes, by path."""

SIZE = {"workers", "min_workers", "idle_minutes"}
MACHINES = {"region", "head_type", "worker_type", "gpu", "spot"}
LAUNCHED = {"ssh_cidr", "venv", "package", "prices"}
USED = {
    "aws": {*SIZE, *MACHINES, *LAUNCHED, "zone"},
    "gcp": {*SIZE, *MACHINES, *LAUNCHED, "zone", "project"},
    "azure": {*SIZE, *MACHINES, *LAUNCHED, "project"},
    "onprem": {*LAUNCHED, "head", "hosts", "external_head", "user", "key"} - {"ssh_cidr"},
    "kubernetes": {*SIZE, "gpu", "spot", "package", "image", "namespace", "storage_class", "redis", "hours"},
    "skypilot": {"workers", "gpu", "spot", "region", "venv", "package"},
}
"""The options that make a difference to a provider, beside --name, --out and --storage."""


def check_used(provider: str, request: Request) -> None:
    """Raise ``UserError`` for an option that would be silently without effect."""
    for option in sorted(request.given - USED[provider] - {"name", "file", "storage"}):
        word = {"hosts": "host", "prices": "price"}.get(option, option).replace("_", "-")
        fix = " (--host names every worker)" if (provider, option) == ("onprem", "workers") else ""
        raise UserError(f"--{word} has no effect for {provider}: drop it{fix}")
