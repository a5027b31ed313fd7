"""What ``metagen cluster validate`` holds against a cluster file beyond Ray's schema. Each rule names the fix."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from launch.clusters.cluster_file import ClusterFile
from launch.clusters.providers.request import checked_cidr, versions
from metagen.errors import UserError
from metagen.files import SCHEMES

Rule = Callable[[ClusterFile], Iterator[str]]


def problems(file: ClusterFile) -> list[str]:
    """One line a mistake."""
    return [line for rule in RULES for line in rule(file)]


def _commands(file: ClusterFile, *keys: str) -> list[str]:
    return [str(command) for key in keys for command in file.config.get(key) or []]


def _starts(file: ClusterFile, key: str) -> list[str]:
    return [command for command in _commands(file, key) if re.search(r"\bray start\b", command)]


def ssh_is_closed(file: ClusterFile) -> Iterator[str]:
    """Port 22 is open to one network, which is not the world."""
    if file.kind == "local":
        return
    if file.metagen.ssh_cidr is None:
        yield "metadata.metagen.ssh_cidr: missing, so ssh would be open to the world: give a network"
        return
    try:
        checked_cidr(file.metagen.ssh_cidr, "metadata.metagen.ssh_cidr")
    except UserError as error:
        yield str(error)
    group = file.provider.get("security_group") or {}
    for permission in group.get("IpPermissions") or []:
        ranges = [
            r.get("CidrIp") or r.get("CidrIpv6")
            for r in (permission.get("IpRanges") or []) + (permission.get("Ipv6Ranges") or [])
        ]
        for cidr in ranges:
            if ipaddress.ip_network(str(cidr), strict=False).prefixlen == 0:
                yield f"provider.security_group: {cidr} is the whole internet: remove the rule, ssh_cidr is enough"
    if file.kind == "aws" and not group.get("GroupName"):
        yield f"provider.security_group.GroupName: missing, so Ray would open ssh to the world: set metagen-{file.name}"
    if file.kind == "gcp":
        for name, kind in (file.config.get("available_node_types") or {}).items():
            if f"metagen-{file.name}" not in ((kind.get("node_config") or {}).get("tags") or {}).get("items", []):
                yield (
                    f"available_node_types.{name}: without the tag metagen-{file.name} no firewall rule holds: "
                    f"add tags: {{items: [metagen-{file.name}]}}"
                )


def dashboard_is_private(file: ClusterFile) -> Iterator[str]:
    """The dashboard and the Jobs API run code for whoever reaches them."""
    starts = _starts(file, "head_start_ray_commands")
    if not starts:
        yield (
            "head_start_ray_commands: no 'ray start' in them: Ray's default opens the dashboard; "
            "write the file with 'metagen cluster init'"
        )
    for command in starts:
        host = re.search(r"--dashboard-host[= ]+(\S+)", command)
        if host is None:
            yield "head_start_ray_commands: add --dashboard-host=127.0.0.1"
        elif host.group(1).strip("'\"") not in ("127.0.0.1", "localhost", "::1"):
            yield f"head_start_ray_commands: --dashboard-host={host.group(1)} is public: use --dashboard-host=127.0.0.1"


def token_is_asked_for(file: ClusterFile) -> Iterator[str]:
    """Ray's ports listen on all interfaces: without a token whoever reaches one runs code."""
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        if not all("RAY_AUTH_MODE=token" in command for command in _starts(file, key)):
            yield f"{key}: add 'export RAY_AUTH_MODE=token': without it anybody who reaches a port runs code"
    mounted = (file.config.get("file_mounts") or {}).values()
    if file.metagen.token not in mounted:
        yield f"file_mounts: the token is not copied to the nodes: add '~/.metagen/token: {file.metagen.token}'"


def versions_are_pinned(file: ClusterFile) -> Iterator[str]:
    """What setup installs is named exactly, and is what this machine has."""
    commands = _commands(file, "setup_commands", "head_setup_commands", "worker_setup_commands")
    for command in commands:
        if "ray-wheels/latest" in command or ".dev0" in command:
            yield "setup_commands: a nightly build of Ray: install ray[default,tune]==VERSION"
        for found in re.finditer(r"(?:pip3?|uv pip) install([^;&|]*)", command):
            for word in re.findall(r"[^\s'\"()]+", found.group(1)):
                name = re.match(r"(ray|metagen|torch)(\[[\w,]*\])?(.*)", word)
                if name and (
                    not name.group(3).startswith("==") and "#sha256=" not in word and not word.endswith(".whl")
                ):
                    yield f"setup_commands: '{word}' is not pinned: write {name.group(1)}{name.group(2) or ''}==VERSION"
    for package, mine in versions().items():
        wanted = file.metagen.versions.get(package)
        if wanted is None:
            yield f"metadata.metagen.versions.{package}: missing: set {mine}, the version on this machine"
            continue
        if wanted != mine:
            yield f"{package} {wanted} in the file, {mine} here: make them the same"
        if not any(re.search(rf"\b{package}==+{re.escape(wanted)}(?![\w.])", command) for command in commands):
            yield f"setup_commands: nothing makes sure of {package}=={wanted}: write it with 'metagen cluster init'"
    for key in ("image", "head_image", "worker_image"):
        image = str((file.config.get("docker") or {}).get(key) or "")
        if image and (image.endswith((":latest", ":nightly")) or ":" not in image.rpartition("/")[2]):
            yield f"docker.{key}: '{image}' is not pinned: name a version or a digest"


def storage_is_named(file: ClusterFile) -> Iterator[str]:
    """A run must outlive the machine that it was on."""
    yield from storage_problem(file.metagen.storage, file.kind == "local")


def storage_problem(storage: str, own_machines: bool) -> Iterator[str]:
    """What is wrong with a place for runs."""
    scheme = urlsplit(storage).scheme
    if not storage or scheme not in ("", *SCHEMES):
        yield (
            f"metadata.metagen.storage: '{storage}' is no place for runs: "
            "give s3://BUCKET/PREFIX, gs://..., abfs://... or a shared folder"
        )
    elif not scheme and not storage.startswith(("/", "~/")):
        yield f"metadata.metagen.storage: '{storage}' is relative: give an absolute path or a bucket's URL"
    elif scheme in ("", "file") and not own_machines:
        yield f"metadata.metagen.storage: '{storage}' is a disk that goes with the cluster: give a bucket, such as s3://BUCKET/runs"


def scaling_is_bounded(file: ClusterFile) -> Iterator[str]:
    """A cluster has an end: to its size, and to how long it idles."""
    if "max_workers" not in file.config:
        yield "max_workers: missing: say how many workers there may be at most"
    if not 0 < float(file.config.get("idle_timeout_minutes", 0)) <= 24 * 60:
        yield "idle_timeout_minutes: say after how many minutes without work a worker goes, such as 10"
    least, most = file.workers
    if least > most:
        yield f"min_workers: {least} is more than max_workers {most}: lower it"
    if file.kind == "aws" and file.provider.get("cache_stopped_nodes", True):
        yield "provider.cache_stopped_nodes: stopped instances keep costing for their disks: set false"


def head_is_on_demand(file: ClusterFile) -> Iterator[str]:
    """The learner's machine is not taken away for a lower price."""
    types = file.config.get("available_node_types") or {}
    node = (types.get(file.config.get("head_node_type")) or {}).get("node_config") or {}
    scheduling: Any = node.get("scheduling") or []
    flat = {k: v for entry in (scheduling if isinstance(scheduling, list) else [scheduling]) for k, v in entry.items()}
    spot = (
        (node.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
        or flat.get("preemptible")
        or flat.get("provisioningModel") == "SPOT"
        or (node.get("azure_arm_parameters") or {}).get("priority") == "Spot"
    )
    if spot:
        yield "the head is on spot: losing it stops every job: make it on demand, spot is for workers"


def own_machines_are_told_apart(file: ClusterFile) -> Iterator[str]:
    """Addresses and the key of machines of one's own."""
    if file.kind != "local":
        return
    head, hosts = file.provider.get("head_ip"), file.hosts
    if not head:
        yield "provider.head_ip: missing: give the head's address"
    for host in sorted({host for host in hosts if hosts.count(host) > 1 or host == head}):
        yield f"provider.worker_ips: {host} stands there twice or is the head: name every machine once"
    auth = file.config.get("auth") or {}
    for key in ("ssh_user", "ssh_private_key"):
        if not auth.get(key):
            yield f"auth.{key}: missing: the machines are reached over ssh"
    if (private := auth.get("ssh_private_key")) and not Path(str(private)).expanduser().is_file():
        yield f"auth.ssh_private_key: {private} is no file on this machine: make one, or name another"
    for command in _starts(file, "head_start_ray_commands"):
        if f"--node-ip-address={head}" not in command:
            yield f"head_start_ray_commands: add --node-ip-address={head}: with several networks Ray may choose another"
        if "RAY_enable_autoscaler_v2=0" not in command:
            yield "head_start_ray_commands: export RAY_enable_autoscaler_v2=0: version 2 starts no workers here"


def mounts_exist(file: ClusterFile) -> Iterator[str]:
    """What is copied to the nodes is there; the token is made by ``up``."""
    for remote, local in (file.config.get("file_mounts") or {}).items():
        if local != file.metagen.token and not Path(str(local)).expanduser().exists():
            yield f"file_mounts.{remote}: {local} does not exist on this machine: build or name another file"


RULES: tuple[Rule, ...] = (
    ssh_is_closed,
    dashboard_is_private,
    token_is_asked_for,
    versions_are_pinned,
    storage_is_named,
    scaling_is_bounded,
    head_is_on_demand,
    own_machines_are_told_apart,
    mounts_exist,
)
