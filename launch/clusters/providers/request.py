"""What a user asks ``metagen cluster init`` for, and the versions that a cluster file pins."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path

from metagen.errors import UserError

NAME = re.compile(r"[a-z][a-z0-9-]{0,29}[a-z0-9]")
"""Names that every provider takes for its resources."""
WORD = re.compile(r"[A-Za-z0-9_./:@+~=-]+")
"""Values that are put into shell commands and YAML as they are."""


@dataclass(frozen=True)
class Request:
    """Options of ``metagen cluster init``; a provider refuses those that it has no use for."""

    name: str = "metagen"
    file: str = "cluster.yaml"
    workers: int = 2
    min_workers: int | None = None
    gpu: str | None = None
    spot: bool = False
    region: str | None = None
    zone: str | None = None
    project: str | None = None
    head_type: str | None = None
    worker_type: str | None = None
    ssh_cidr: str | None = None
    storage: str | None = None
    head: str | None = None
    hosts: tuple[str, ...] = ()
    external_head: str | None = None
    user: str | None = None
    key: str | None = None
    venv: str = "~/.metagen/venv"
    package: str | None = None
    image: str | None = None
    namespace: str = "default"
    storage_class: str | None = None
    redis: str | None = None
    idle_minutes: int = 10
    hours: int = 24
    prices: tuple[tuple[str, float], ...] = ()

    @property
    def given(self) -> set[str]:
        """The options that are not at their defaults."""
        return {field.name for field in fields(self) if getattr(self, field.name) != field.default}

    def check(self) -> None:
        """Raise ``UserError`` for values that could not stand in any cluster file."""
        if not NAME.fullmatch(self.name):
            raise UserError(f"--name '{self.name}': use lower-case letters, digits and dashes, at most 31")
        for option, value in vars(self).items():
            for word in value if isinstance(value, tuple) else (value,):
                if isinstance(word, str) and not WORD.fullmatch(word):
                    raise UserError(f"--{option.replace('_', '-')} '{word}': only letters, digits and _./:@+~=- here")
        for kind, price in self.prices:
            if not WORD.fullmatch(kind):
                raise UserError(f"--price '{kind}={price:g}': give TYPE=USD an hour, such as m7i.xlarge=0.20")
            if not (math.isfinite(price) and price >= 0):
                raise UserError(f"--price {kind}={price:g}: give a number of at least 0, such as {kind}=0.20")
        if self.min_workers is not None and self.min_workers > self.workers:
            raise UserError(f"--min-workers {self.min_workers} is more than --workers {self.workers}: lower it")

    def required(self, *options: str) -> None:
        """Raise ``UserError`` naming the first option of ``options`` that was not given."""
        for option in options:
            if not getattr(self, option):
                raise UserError(f"--{option.replace('_', '-')} is needed for this provider: {NEEDED[option]}")

    @property
    def cidr(self) -> str:
        """Who may reach ssh, as a network; raises ``UserError`` unless given and narrower than the world."""
        self.required("ssh_cidr")
        return checked_cidr(str(self.ssh_cidr), "--ssh-cidr")

    @property
    def token(self) -> str:
        """Where this machine keeps the cluster's token."""
        return str(cluster_home(self.name) / "token")


NEEDED = {
    "ssh_cidr": "who may reach ssh, such as 203.0.113.7/32; 'caller' asks a server of AWS for your address",
    "storage": "where runs are kept, such as s3://bucket/runs, or a folder that all machines share",
    "head": "the address of the machine that the learner runs on",
    "project": "the Google Cloud project's id",
    "key": "the ssh private key for the machines",
    "image": "the container image to pull, such as registry.example.com/metagen:0.1.0; build it from the Containerfile",
}


def checked_cidr(value: str, where: str) -> str:
    """``value`` as a network; raises ``UserError`` if it is none, or so wide that it is nearly everybody."""
    try:
        network = ipaddress.ip_network(value, strict=True)
    except ValueError as error:
        raise UserError(f"{where}: {error}: give a network such as 203.0.113.7/32") from None
    if network.prefixlen < (8 if network.version == 4 else 32):
        raise UserError(
            f"{where}: {value} opens ssh to nearly everybody: give your own network, such as 203.0.113.7/32"
        )
    return str(network)


def cluster_home(name: str) -> Path:
    """Where this machine keeps a cluster's token, host keys and logs."""
    import os

    return Path(os.environ.get("METAGEN_HOME", "~/.metagen")).expanduser() / "clusters" / name


def versions() -> dict[str, str]:
    """The versions installed here, which a cluster must have too; without a build's suffix such as +cpu."""
    return {name: metadata.version(name).partition("+")[0] for name in ("metagen", "ray", "torch")}
