"""The security group of a cluster on EC2: ssh from one network, everything between the cluster's own machines.

Made before Ray looks for it, because Ray adds a rule for the whole internet to a group that it finds empty, and leaves
one with rules alone (``_upsert_security_group_rules``).
"""

from __future__ import annotations

import ipaddress
import time
from typing import Any

from cluster.launcher import aws_networks
from launch.clusters.cluster_file import ClusterFile
from metagen.errors import UserError

TAG = {"Key": "metagen-cluster"}
DELETE_SECONDS = 300.0


def ensure(file: ClusterFile) -> None:
    """Leave the cluster's group with exactly its two rules. Raises ``UserError`` in the cloud's words if it refuses."""
    try:
        client = _client(file)
        for network in sorted(aws_networks(file.config)):
            there = _group(client, file, network)
            group = there or _create(client, file, network)
            try:
                _rules(client, file, group)
            except _errors():
                if there is None:
                    client.delete_security_group(GroupId=group)
                raise
    except UserError:
        raise
    except _errors() as error:
        raise UserError(f"AWS: {_words(error)}") from None


def remove(file: ClusterFile) -> list[str]:
    """Delete the cluster's groups, once its machines are gone; gives what could not be deleted."""
    deadline = time.monotonic() + DELETE_SECONDS
    try:
        client = _client(file)
        for group in _found(client, file):
            while True:
                try:
                    client.delete_security_group(GroupId=group["GroupId"])
                    break
                except _errors() as error:  # machines that are still shutting down hold on to it
                    if "DependencyViolation" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(5)
    except UserError as error:
        return [str(error)]
    except _errors() as error:
        return [f"the security group {_name(file)}: {_words(error)}"]
    return []


def wanted(group: str, cidr: str) -> list[dict[str, Any]]:
    """The rules, as EC2 takes them."""
    ssh: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    if ipaddress.ip_network(cidr).version == 4:
        ssh["IpRanges"] = [{"CidrIp": cidr, "Description": "metagen: ssh"}]
    else:
        ssh["Ipv6Ranges"] = [{"CidrIpv6": cidr, "Description": "metagen: ssh"}]
    return [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}, ssh]


def _client(file: ClusterFile) -> Any:
    try:
        import boto3
    except ModuleNotFoundError:
        raise UserError("AWS needs its library: pip install 'metagen[aws]'") from None
    session = boto3.Session(region_name=file.provider["region"])
    if session.get_credentials() is None:
        raise UserError("AWS: no credentials: run 'aws configure', or set AWS_PROFILE")
    return session.client("ec2")


def _errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


def _words(error: Exception) -> str:
    return " ".join(str(error).split())


def _name(file: ClusterFile) -> str:
    return str(file.provider["security_group"]["GroupName"])


def _found(client: Any, file: ClusterFile, *filters: dict[str, Any]) -> list[dict[str, Any]]:
    named = {"Name": "group-name", "Values": [_name(file)]}
    groups: list[dict[str, Any]] = client.describe_security_groups(Filters=[named, *filters])["SecurityGroups"]
    for group in groups:
        if {**TAG, "Value": file.name} not in group.get("Tags", []):
            raise UserError(
                f"AWS: the security group {_name(file)} is not of metagen: rename the cluster, or delete it"
            )
    return groups


def _group(client: Any, file: ClusterFile, network: str) -> str | None:
    groups = _found(client, file, {"Name": "vpc-id", "Values": [network]})
    return str(groups[0]["GroupId"]) if groups else None


def _create(client: Any, file: ClusterFile, network: str) -> str:
    made = client.create_security_group(
        GroupName=_name(file),
        Description="metagen: ssh from one network, all between its own machines",
        VpcId=network,
        TagSpecifications=[{"ResourceType": "security-group", "Tags": [{**TAG, "Value": file.name}]}],
    )
    return str(made["GroupId"])


def _rules(client: Any, file: ClusterFile, group: str) -> None:
    [there] = client.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    if there["IpPermissions"]:
        client.revoke_security_group_ingress(GroupId=group, IpPermissions=there["IpPermissions"])
    client.authorize_security_group_ingress(GroupId=group, IpPermissions=wanted(group, str(file.metagen.ssh_cidr)))
