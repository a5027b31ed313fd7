"""What a provider needs around ``ray up`` and ``ray down``: a firewall, where Ray leaves one open."""

from __future__ import annotations

from launch.clusters.cluster_file import ClusterFile


def before(file: ClusterFile) -> None:
    """Before the head is made."""
    if file.kind == "aws":
        from launch.clusters.providers import aws_firewall

        aws_firewall.ensure(file)
    elif file.kind == "gcp":
        from launch.clusters.providers import gcp_firewall

        gcp_firewall.ensure(file)
    elif file.kind == "azure":
        from launch.clusters.providers import azure_firewall

        azure_firewall.check(file)


def after(file: ClusterFile) -> None:
    """Right after the head is up."""
    if file.kind == "azure":
        from launch.clusters.providers import azure_firewall

        azure_firewall.narrow(file)


def released(file: ClusterFile) -> list[str]:
    """After every node is gone: remove what ``before`` made; gives what could not be. Ray removes Azure's itself."""
    if file.kind == "aws":
        from launch.clusters.providers import aws_firewall

        return aws_firewall.remove(file)
    if file.kind == "gcp":
        from launch.clusters.providers import gcp_firewall

        return gcp_firewall.remove(file)
    return []
