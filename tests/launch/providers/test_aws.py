"""EC2, without it: what ``init`` writes goes through Ray's own node provider against a simulated cloud."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cluster.launcher import reason
from launch.clusters import cluster_file
from launch.clusters.init import problems
from metagen.errors import UserError

moto = pytest.importorskip("moto")
boto3 = pytest.importorskip("boto3")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CIDR = "203.0.113.7/32"
REGION = "us-east-1"


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A simulated EC2, and a home for the keys that Ray makes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield boto3.client("ec2", region_name=REGION)


@pytest.fixture
def file(metagen: Any, tmp_path: Path) -> cluster_file.ClusterFile:
    path = tmp_path / "cluster.yaml"
    done = metagen(
        *("cluster", "init", "aws", "--name", "mine", "--workers", "2", "--spot", "--region", REGION),
        *("--ssh-cidr", CIDR, "--storage", "s3://bucket/runs", "-o", path),
    )
    assert done.code == 0, done.err
    assert problems(path) == []
    return cluster_file.read(path)


def test_the_firewall_is_as_promised_from_the_first_machine_to_the_last(
    cloud: Any, file: cluster_file.ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler._private import commands
    from ray.autoscaler._private.aws import config as aws
    from ray.autoscaler._private.aws import node_provider
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.tags import NODE_KIND_HEAD, NODE_KIND_WORKER, TAG_RAY_NODE_KIND

    from launch.clusters.providers import aws_firewall

    monkeypatch.setattr(aws, "time", SimpleNamespace(sleep=lambda seconds: None))  # Ray waits for real clouds
    aws_firewall.ensure(file)
    aws_firewall.ensure(file)  # a second start changes nothing
    config = copy.deepcopy(file.config)
    for kind in config["available_node_types"].values():  # the simulation resolves no parameters of SSM
        kind["node_config"]["ImageId"] = cloud.describe_images()["Images"][0]["ImageId"]
    config = node_provider.AWSNodeProvider.bootstrap_config(prepare_config(config))
    provider = commands._get_node_provider(config["provider"], config["cluster_name"])
    for name, kind in (("head", NODE_KIND_HEAD), *[("worker", NODE_KIND_WORKER)] * 2):
        provider.create_node(
            config["available_node_types"][name]["node_config"],
            {TAG_RAY_NODE_KIND: kind, "ray-user-node-type": name, "ray-node-name": name},
            1,
        )
    nodes = provider.non_terminated_nodes({})
    assert len(nodes) == 3

    machines = [m for r in cloud.describe_instances()["Reservations"] for m in r["Instances"]]
    groups = {group["GroupId"] for machine in machines for group in machine["SecurityGroups"]}
    [group] = cloud.describe_security_groups(GroupIds=sorted(groups))["SecurityGroups"]
    assert group["GroupName"] == "metagen-mine"
    opened = [
        (p.get("FromPort"), [r["CidrIp"] for r in p["IpRanges"]]) for p in group["IpPermissions"] if p["IpRanges"]
    ]
    assert opened == [(22, [CIDR])]
    among = [pair["GroupId"] for p in group["IpPermissions"] for pair in p["UserIdGroupPairs"]]
    assert among == [group["GroupId"]]
    spot = {machine.get("InstanceLifecycle") for machine in machines if machine["InstanceType"] == "m7i.xlarge"}
    assert "spot" in spot
    assert all(machine["MetadataOptions"]["HttpTokens"] == "required" for machine in machines)

    provider.terminate_nodes(nodes)
    assert provider.non_terminated_nodes({}) == []
    assert aws_firewall.remove(file) == []
    names = [group["GroupName"] for group in cloud.describe_security_groups()["SecurityGroups"]]
    assert "metagen-mine" not in names


def test_a_group_of_somebody_else_is_not_touched(cloud: Any, file: cluster_file.ClusterFile) -> None:
    from launch.clusters.providers import aws_firewall

    network = cloud.describe_vpcs()["Vpcs"][0]["VpcId"]
    made = cloud.create_security_group(GroupName="metagen-mine", Description="theirs", VpcId=network)
    with pytest.raises(UserError, match="is not of metagen"):
        aws_firewall.ensure(file)
    [left] = aws_firewall.remove(file)  # beside what else could not be released
    assert "is not of metagen" in left
    cloud.describe_security_groups(GroupIds=[made["GroupId"]])


def test_without_amazons_library_it_is_one_line(
    file: cluster_file.ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import launcher
    from launch.clusters.providers import aws_firewall

    wanted = r"pip install 'metagen\[aws\]'"
    missing = ["ModuleNotFoundError: No module named 'boto3'"]
    monkeypatch.setattr(launcher, "_run", lambda *_: (1, missing))
    with pytest.raises(UserError, match=wanted):
        launcher.ask(file.path, "aws", file.home, None)
    for name in ("boto3", "botocore.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=wanted):
        aws_firewall.ensure(file)
    [left] = aws_firewall.remove(file)
    assert "pip install 'metagen[aws]'" in left


def test_without_credentials_up_is_one_line_and_nothing_is_started(
    file: cluster_file.ClusterFile, metagen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("METAGEN_HOME", str(tmp_path / "home"))
    done = metagen("cluster", "up", file.path)
    assert done.code == 2
    assert len(done.errors) == 1
    assert "credentials" in done.errors[0]
    assert "aws configure" in done.errors[0]
    assert not Path(file.metagen.token).exists()


def test_a_quota_is_told_in_the_clouds_own_words() -> None:
    lines = [
        "2026-11-24 INFO node_provider.py -- Launching",
        "botocore.exceptions.ClientError: An error occurred (VcpuLimitExceeded) when calling the RunInstances "
        "operation: You have requested more vCPU capacity than your current vCPU limit of 0 allows.",
        "Failed to launch 1 node(s).",
    ]
    assert reason(lines).startswith("An error occurred (VcpuLimitExceeded)")
    assert reason(["Quota 'CPUS' exceeded.  Limit: 8.0 in region us-central1.", "bye"]).startswith("Quota 'CPUS'")


def test_cost_follows_from_the_prices_in_the_file_alone(file: cluster_file.ClusterFile, metagen: Any) -> None:
    done = metagen("cluster", "cost", file.path)
    assert done.code == 2
    assert "no price of m7i.xlarge: add it to metadata.metagen.hourly_prices" in done.errors[0]
    config = yaml.safe_load(file.path.read_text())
    config["metadata"]["metagen"]["hourly_prices"] = {"m7i.xlarge": 0.5}
    config["available_node_types"]["worker"]["min_workers"] = 1
    file.path.write_text(yaml.safe_dump(config))
    done = metagen("cluster", "cost", file.path, "--hours", "10")
    assert done.code == 0
    assert "1.00 USD an hour  10.00 USD in 10 h" in done.out
    assert "1.50 USD an hour  15.00 USD in 10 h" in done.out
