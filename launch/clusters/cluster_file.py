"""A cluster file: what Ray's launcher reads, with a block for metagen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from launch.clusters.providers.request import WORD, cluster_home
from metagen.errors import UserError
from metagen.names import NAME
from metagen.strict import Strict

LAUNCHED = ("local", "aws", "gcp", "azure")
SHAPE: dict[str, tuple[type, str]] = {
    "cluster_name": (str, "a name"),
    "auth": (dict, "a mapping"),
    "metadata": (dict, "a mapping"),
    "available_node_types": (dict, "a mapping"),
    "min_workers": (int, "a whole number"),
    "max_workers": (int, "a whole number"),
}
"""What every command needs to rely on; the rest of a file is judged by ``validate`` and ``up`` alone."""


class Metadata(Strict):
    """The block ``metadata.metagen``."""

    versions: dict[str, str]
    storage: str
    venv: str
    token: str
    ssh_cidr: str | None = None
    hourly_prices: dict[str, float] = {}  # noqa: RUF012  (pydantic copies defaults)


@dataclass(frozen=True)
class ClusterFile:
    """A file for Ray's cluster launcher, as it was read."""

    path: Path
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.config.get("cluster_name", "default"))

    @property
    def provider(self) -> dict[str, Any]:
        return self.config["provider"]

    @property
    def kind(self) -> str:
        """Ray's name of the provider: local, aws, gcp, azure."""
        return str(self.provider.get("type"))

    @cached_property
    def metagen(self) -> Metadata:
        """Raises ``UserError`` if the block is missing or wrong."""
        block = (self.config.get("metadata") or {}).get("metagen")
        if not isinstance(block, Mapping):
            raise UserError(f"{self.path}: no block metadata.metagen: write the file with 'metagen cluster init'")
        try:
            found = Metadata.parse(block)
        except UserError as error:
            raise UserError(f"{self.path}: metadata.metagen.{error}") from None
        for key in ("venv", "token", "storage"):
            if not WORD.fullmatch(getattr(found, key)):
                raise UserError(f"{self.path}: metadata.metagen.{key}: only letters, digits and _./:@+~=- here")
        return found

    @property
    def home(self) -> Path:
        """Where this machine keeps the cluster's host keys and logs."""
        return cluster_home(self.name)

    @property
    def hosts(self) -> list[str]:
        """The workers of one's own machines."""
        return [str(host) for host in self.provider.get("worker_ips") or []]

    @property
    def workers(self) -> tuple[int, int]:
        """How many workers there are at least and at most."""
        if self.kind == "local":
            most = min(int(self.config.get("max_workers", len(self.hosts))), len(self.hosts))
            return min(int(self.config.get("min_workers", most)), most), most
        head = self.config.get("head_node_type")
        types = [kind for name, kind in (self.config.get("available_node_types") or {}).items() if name != head]
        return sum(int(kind.get("min_workers", 0)) for kind in types), int(self.config.get("max_workers", 0))

    @property
    def venv(self) -> str:
        """The nodes' virtual environment, as their shells expand it."""
        return self.metagen.venv.replace("~", "$HOME", 1)


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file; raises ``UserError`` if it is missing, no YAML or no mapping."""
    try:
        found = [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): write one with 'metagen cluster init'") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML ({first})") from None
    if not found or not all(isinstance(document, dict) for document in found):
        raise UserError(f"{path}: no cluster file: write one with 'metagen cluster init'")
    return found


def is_kubernetes(found: list[dict[str, Any]]) -> bool:
    """Whether the documents are Kubernetes manifests."""
    return all("apiVersion" in document and "kind" in document for document in found)


def read(path: Path) -> ClusterFile:
    """The cluster file at ``path``; raises ``UserError`` unless it is one for Ray's launcher."""
    found = documents(path)
    if is_kubernetes(found):
        raise UserError(f"{path}: Kubernetes manifests: use 'metagen submit --kubernetes' or kubectl here")
    provider = found[0].get("provider")
    if len(found) > 1 or not isinstance(provider, dict) or provider.get("type") not in LAUNCHED:
        raise UserError(f"{path}: provider.type: one of {', '.join(LAUNCHED)} is needed")
    for key, (kind, what) in SHAPE.items():
        if not isinstance(found[0].get(key, kind()), kind):
            raise UserError(f"{path}: {key}: {what} is needed (got {found[0][key]!r})")
    file = ClusterFile(path, found[0])
    if not NAME.fullmatch(file.name):  # what is remembered of the cluster lies in a folder of this name
        raise UserError(
            f"{path}: cluster_name: '{file.name}' cannot be used: use lower-case letters, digits and dashes"
        )
    return file
