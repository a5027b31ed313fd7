"""What a provider needs around ``ray up`` and ``ray down``: mostly a firewall that Ray leaves open."""

from __future__ import annotations

from launch.cluster_file import ClusterFile


def before(file: ClusterFile) -> None:
    """Before the head is made."""
    if file.kind == "aws":
        from launch.providers.aws_firewall import ensure

        ensure(file)


def after(file: ClusterFile) -> None:
    """After the head is up."""


def released(file: ClusterFile) -> list[str]:
    """After every node is gone: remove what ``before`` made; gives what could not be."""
    if file.kind == "aws":
        from launch.providers.aws_firewall import remove

        return remove(file)
    return []
