"""How this machine reaches a cluster: its head over ssh, and the head's dashboard through a tunnel with the token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import launcher
from cluster.jobs import Dashboard
from launch.clusters.cluster_file import ClusterFile
from launch.clusters.ssh import Machine
from metagen.errors import UserError

DASHBOARD_PORT = 8265


def home(file: ClusterFile) -> Path:
    """The cluster's folder on this machine, readable for this user alone."""
    try:
        file.home.mkdir(parents=True, exist_ok=True)
        file.home.chmod(0o700)
    except OSError as error:
        raise UserError(f"{file.home}: cannot be written ({error.strerror}): set METAGEN_HOME") from None
    return file.home


def make_token(file: ClusterFile) -> None:
    """Write the token's file, mode 0600, unless it is there."""
    path = Path(file.metagen.token).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        path.chmod(0o600)
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}): name another metadata.metagen.token") from None
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_hex(32))


def read_token(file: ClusterFile) -> str:
    """The token; raises ``UserError`` if there is none here."""
    path = Path(file.metagen.token).expanduser()
    try:
        return path.read_text().strip()
    except OSError:
        raise UserError(
            f"{path}: no token here: start the cluster with 'metagen cluster up {file.path}', "
            "or use the machine that did"
        ) from None


def head(file: ClusterFile) -> Machine:
    """The head over ssh; raises ``UserError`` if none is running."""
    known_hosts = home(file) / "known_hosts"
    if file.kind != "local":
        found = launcher.access(file.path, file.kind, home(file))
        return Machine(found["address"], found["user"], found["key"], known_hosts)
    auth, provider = file.config.get("auth") or {}, file.provider
    address = provider.get("external_head_ip") or provider.get("head_ip")
    user, key = auth.get("ssh_user"), auth.get("ssh_private_key")
    if not (address and user and key):
        raise UserError(
            f"{file.path}: provider.head_ip, auth.ssh_user and auth.ssh_private_key are needed: "
            f"see 'metagen cluster validate {file.path}'"
        )
    return Machine(str(address), str(user), str(key), known_hosts)


def machines(file: ClusterFile) -> list[Machine]:
    """Head and workers of one's own machines; workers are reached through a head that has another address outside."""
    first = head(file)
    way = first.address if file.provider.get("external_head_ip") else None
    workers = [Machine(host, first.user, first.key, first.known_hosts, way) for host in file.hosts]
    return [first, *workers]


@contextmanager
def dashboard(file: ClusterFile) -> Iterator[Dashboard]:
    """The head's dashboard and Jobs API through a tunnel."""
    token = read_token(file)
    with head(file).tunnel(DASHBOARD_PORT) as port:
        yield Dashboard(f"http://127.0.0.1:{port}", token)
