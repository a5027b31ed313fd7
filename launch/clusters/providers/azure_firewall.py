"""The ssh rule of a cluster on Azure: Ray's deployment opens it to everybody, this narrows it to one network.

Through the ``az`` command, whose login Ray uses as well.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from launch.clusters.cluster_file import ClusterFile
from launch.clusters.process import captured
from metagen.errors import UserError

SECONDS = 120


def check(file: ClusterFile) -> None:
    """Raise ``UserError`` unless ``az`` is there and logged in: without it the rule would stay open."""
    _az(file, "account", "show")


def narrow(file: ClusterFile) -> None:
    """Let one network reach port 22 in every security group of the cluster, and prove it."""
    group = ["--resource-group", str(file.provider["resource_group"])]
    found = _az(file, "network", "nsg", "list", *group)
    if not found:
        raise UserError(f"Azure: no security group in {group[1]}: ssh may be open to everybody, stop the cluster")
    for nsg in found:
        for rule in nsg.get("securityRules", []):
            if rule["direction"] == "Inbound" and rule["access"] == "Allow":
                words = ["--nsg-name", nsg["name"], "--name", rule["name"]]
                cidr = str(file.metagen.ssh_cidr)
                done = _az(file, "network", "nsg", "rule", "update", *group, *words, "--source-address-prefixes", cidr)
                if done.get("sourceAddressPrefix") != cidr:
                    raise UserError(f"Azure: the rule {rule['name']} of {nsg['name']} was not narrowed to {cidr}")


def _az(file: ClusterFile, *words: str) -> Any:
    subscription = file.provider.get("subscription_id")
    chosen = ["--subscription", str(subscription)] if subscription else []
    command = ["az", *words, *chosen, "--output", "json", "--only-show-errors"]
    try:
        done = captured(command, "Azure needs its command line: install azure-cli, then 'az login'", SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"Azure: no answer within {SECONDS} s to 'az {words[0]}': try again") from None
    if done.returncode:
        said = " ".join(done.stderr.split()).removeprefix("ERROR: ")
        raise UserError(f"Azure: {said or 'az failed'}")
    return json.loads(done.stdout or "null")
