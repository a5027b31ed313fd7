"""Where a job goes: a cluster file, or the URL of a dashboard that is reachable as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.jobs import Dashboard
from launch.clusters import access, cluster_file
from launch.clusters.cluster_file import ClusterFile
from metagen.errors import UserError


@dataclass(frozen=True)
class Target:
    """A running cluster."""

    word: str
    """How the user named it."""
    file: ClusterFile | None
    storage: str | None
    python: str
    """The nodes' Python, as a shell there expands it."""

    @contextmanager
    def dashboard(self) -> Iterator[Dashboard]:
        """The Jobs API; ``ConnectionError`` or ``UserError`` if it cannot be reached."""
        if self.file is not None:
            with access.dashboard(self.file) as dashboard:
                yield dashboard
        else:
            yield Dashboard(self.word, _environment_token())

    def ssh_file(self, what: str) -> ClusterFile:
        """The cluster file, for what needs ssh."""
        if self.file is None:
            raise UserError(f"{what} needs ssh: give the cluster's file instead of {self.word}")
        return self.file


def find(word: str, storage: str | None = None) -> Target:
    """What the user named: a URL, or a file."""
    if word.startswith(("http://", "https://")):
        return Target(word, None, storage, "python")
    file = cluster_file.read(Path(word))
    return Target(word, file, storage or file.metagen.storage, f'"{file.venv}/bin/python"')


def manifests(word: str) -> Path | None:
    """The file, if the user named Kubernetes manifests."""
    if word.startswith(("http://", "https://")):
        return None
    return Path(word) if cluster_file.is_kubernetes(cluster_file.documents(Path(word))) else None


def _environment_token() -> str | None:
    """The token that Ray itself would take."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    try:
        return path.read_text().strip()
    except OSError:
        return None
