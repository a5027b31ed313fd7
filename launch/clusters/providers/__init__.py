"""Where a cluster can run, by name. A provider is a module whose ``render`` writes the files for a request."""

from __future__ import annotations

from collections.abc import Callable

from launch.clusters.providers import aws, azure, gcp, kubernetes, onprem, skypilot
from launch.clusters.providers.request import Request as Request

REGISTRY: dict[str, Callable[[Request], dict[str, str]]] = {
    "aws": aws.render,
    "gcp": gcp.render,
    "azure": azure.render,
    "onprem": onprem.render,
    "kubernetes": kubernetes.render,
    "skypilot": skypilot.render,
}
"""Each gives the text of every file it writes, by path."""
