"""What ``metagen cluster init`` and ``metagen cluster validate`` do."""

from __future__ import annotations

import os
import urllib.request
from dataclasses import replace
from pathlib import Path

from launch.clusters import cluster_file
from launch.clusters.providers import REGISTRY, Request, check_used, manifests, rules
from metagen.errors import UserError

WHO_AM_I = "https://checkip.amazonaws.com"


def write(provider: str, request: Request, overwrite: bool) -> list[Path]:
    """Write a provider's files, all or none; raises ``UserError`` if one is there already."""
    if request.ssh_cidr == "caller":
        request = replace(request, ssh_cidr=callers_network())
    request.check()
    check_used(provider, request)
    files = {Path(name): text for name, text in REGISTRY[provider](request).items()}
    for path in files:
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists: choose another name or folder with -o, or --overwrite it")
    partial: list[Path] = []
    try:
        for path, text in files.items():
            beside = path.with_name(f".{path.name}.partial")
            beside.write_text(text)
            partial.append(beside)
        for path, beside in zip(files, partial, strict=True):
            os.replace(beside, path)
    except OSError as error:
        raise UserError(f"{request.file}: cannot be written ({error.strerror}): choose another place") from None
    finally:
        for beside in partial:
            beside.unlink(missing_ok=True)
    return list(files)


def callers_network() -> str:
    """This machine's public address as a network of one, as AWS's server sees it."""
    try:
        with urllib.request.urlopen(WHO_AM_I, timeout=10) as answer:
            return f"{answer.read(64).decode().strip()}/32"
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--ssh-cidr caller: {WHO_AM_I} does not answer ({error}): give your network itself") from None


def problems(path: Path) -> list[str]:
    """Everything that is wrong with a cluster file, one line each; offline."""
    documents = cluster_file.documents(path)
    if cluster_file.is_kubernetes(documents):
        return manifests.problems(documents)
    file = cluster_file.read(path)
    from cluster.launcher import complaint

    said = complaint(file.config)
    return [f"Ray: {said}"] if said else rules.problems(file)


def validated(path: Path) -> cluster_file.ClusterFile:
    """The file at ``path`` for Ray's launcher; raises ``UserError`` with the first of its problems."""
    file = cluster_file.read(path)
    if wrong := problems(path):
        more = f" (and {len(wrong) - 1} more: 'metagen cluster validate {path}')" if len(wrong) > 1 else ""
        raise UserError(f"{path}: {wrong[0]}{more}")
    return file
