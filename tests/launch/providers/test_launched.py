"""A cluster on EC2 as commands find it: Ray's launcher in processes of its own, against a simulated cloud."""

from __future__ import annotations

import os
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cluster import launcher
from launch.clusters import access, cluster_file, lifecycle
from metagen.errors import UserError

boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

CIDR = "203.0.113.7/32"
REGION = "us-east-1"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A simulated AWS that processes can reach."""
    from moto.core.config import default_user_config

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(default_user_config["iam"], "load_aws_managed_policies", True)
        cloud = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        cloud.start()
        host, port = cloud.get_host_and_port()
        yield f"http://{host}:{port}"
        cloud.stop()


@pytest.fixture
def cloud(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Its EC2, empty; an ssh that reaches nothing, and a home for the keys that Ray makes."""
    from ray.autoscaler._private import providers
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache

    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("METAGEN_HOME", str(tmp_path / "home"))
    (tmp_path / "user" / ".ssh").mkdir(parents=True)
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\necho 'Connection refused' >&2; exit 255\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=os.pathsep)
    forget = (client_cache.cache_clear, resource_cache.cache_clear, providers._clear_provider_cache)
    for one in forget:  # Ray keeps its clients, also those of another test's cloud
        one()
    yield boto3.client("ec2", region_name=REGION)
    for one in forget:
        one()


@pytest.fixture
def file(cloud: Any, metagen: Any, tmp_path: Path) -> cluster_file.ClusterFile:
    path = tmp_path / "cluster.yaml"
    words = ["aws", "--name", "mine", "--region", REGION, "--ssh-cidr", CIDR, "--storage", "s3://bucket/runs"]
    done = metagen("cluster", "init", *words, "-o", path)
    assert done.code == 0, done.err
    config = yaml.safe_load(path.read_text())
    for kind in config["available_node_types"].values():  # the simulation resolves no parameters of SSM
        kind["node_config"]["ImageId"] = cloud.describe_images()["Images"][0]["ImageId"]
    path.write_text(yaml.safe_dump(config))
    return cluster_file.read(path)


@pytest.fixture
def started(file: cluster_file.ClusterFile, monkeypatch: pytest.MonkeyPatch) -> cluster_file.ClusterFile:
    """The cluster, as ``up`` leaves it in the cloud and here; its head's name is in the tags."""
    from ray.autoscaler._private import commands
    from ray.autoscaler._private.aws import config as aws

    from launch.clusters.providers import aws_firewall

    monkeypatch.setattr(aws, "time", SimpleNamespace(sleep=lambda seconds: None))  # Ray waits for real clouds
    aws_firewall.ensure(file)
    access.make_token(file)
    monkeypatch.setattr(tempfile, "tempdir", launcher.environment("aws", access.home(file))["TMPDIR"])
    config = commands._bootstrap_config(file.config)
    monkeypatch.setattr(tempfile, "tempdir", None)
    provider = commands._get_node_provider(config["provider"], config["cluster_name"])
    for name in ("head", "worker"):
        tags = {"ray-node-type": name, "ray-user-node-type": name, "ray-node-name": name}
        node = config["available_node_types"][name]["node_config"]
        provider.create_node(node, {**tags, "ray-node-status": "up-to-date"}, 1)
    return file


def _made(cloud: Any) -> tuple[list[str], list[str], list[str]]:
    """What there is beside machines: groups with their open ranges, keys, roles."""
    groups = [
        f"{group['GroupName']} {[r['CidrIp'] for p in group['IpPermissions'] for r in p['IpRanges']]}"
        for group in cloud.describe_security_groups()["SecurityGroups"]
    ]
    roles = boto3.client("iam", region_name=REGION).list_roles()["Roles"]
    return groups, [key["KeyName"] for key in cloud.describe_key_pairs()["KeyPairs"]], [r["RoleName"] for r in roles]


def _machines(cloud: Any) -> list[str]:
    found = [machine for r in cloud.describe_instances()["Reservations"] for machine in r["Instances"]]
    return [machine["State"]["Name"] for machine in found]


QUESTIONS = (
    ("cluster", "status", "FILE"),
    ("cluster", "ssh", "FILE", "true"),
    ("jobs", "list", "FILE"),
    ("fetch", "FILE", "run"),
)


def test_who_asks_for_a_cluster_that_was_never_started_makes_nothing(
    cloud: Any, file: cluster_file.ClusterFile, metagen: Any
) -> None:
    access.make_token(file)
    before = _made(cloud)
    for words in QUESTIONS:
        done = metagen(*(file.path if word == "FILE" else word for word in words))
        assert done.code == 2, words
        assert len(done.errors) == 1
    assert metagen("cluster", "down", file.path, "--yes").code == 0
    assert _made(cloud) == before


def test_the_head_is_found_by_what_was_started_whatever_the_file_says_now(
    cloud: Any, started: cluster_file.ClusterFile, metagen: Any
) -> None:
    before = _made(cloud)
    assert f"metagen-mine ['{CIDR}']" in before[0]
    one = access.head(started)
    assert (one.user, Path(str(one.key)).is_file()) == ("ubuntu", True)
    config = yaml.safe_load(started.path.read_text())
    config["max_workers"] = 7
    started.path.write_text(yaml.safe_dump(config))
    assert access.head(cluster_file.read(started.path)).address == one.address
    assert metagen("cluster", "ssh", started.path, "true").code == 255  # the ssh of this test
    assert _made(cloud) == before


def test_a_cluster_that_runs_is_neither_started_over_nor_stopped_by_a_second_start(
    cloud: Any, started: cluster_file.ClusterFile, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "validated", cluster_file.read)
    kept = launcher.started(access.home(started))
    assert kept is not None
    for lost in (False, True):  # another machine's cluster is seen as well
        if lost:
            kept.unlink()
        done = metagen("cluster", "up", started.path)
        assert done.code == 2
        assert f"a head is running already: 'metagen cluster down {started.path}' first" in done.errors[0]
        assert _machines(cloud) == ["running", "running"]


@pytest.mark.parametrize("how", ["as it was", "changed", "lost"])
def test_down_releases_what_was_started_and_opens_nothing_on_the_way(
    how: str, cloud: Any, started: cluster_file.ClusterFile, metagen: Any
) -> None:
    if how == "changed":
        config = yaml.safe_load(started.path.read_text())
        config["provider"]["region"] = "eu-west-1"
        started.path.write_text(yaml.safe_dump(config))
    elif how == "lost":
        for kept in (access.home(started) / "tmp").glob("*"):
            kept.unlink()
    done = metagen("cluster", "down", started.path, "--yes")
    assert set(_machines(cloud)) == {"terminated"}, done.err
    if how != "changed":  # metagen looks for the firewall where the file says
        assert done.code == 0, done.err
        assert not any(group.startswith("metagen-mine") for group in _made(cloud)[0])
    assert not [group for group in _made(cloud)[0] if "0.0.0.0/0" in group]
    assert launcher.started(access.home(started)) is None


def test_a_cloud_that_refuses_is_told_in_its_words(
    started: cluster_file.ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no missing head."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError) as caught:
        access.head(started)
    assert "Unable to locate credentials" in str(caught.value)
    assert "'aws configure'" in str(caught.value)
    assert "no head" not in str(caught.value)


def test_a_head_that_is_gone_is_told(cloud: Any, started: cluster_file.ClusterFile) -> None:
    found = [machine for r in cloud.describe_instances()["Reservations"] for machine in r["Instances"]]
    cloud.terminate_instances(InstanceIds=[machine["InstanceId"] for machine in found])
    with pytest.raises(UserError, match="no head is running: start it with 'metagen cluster up"):
        access.head(started)


def test_a_start_that_is_broken_off_says_what_is_left(
    file: cluster_file.ClusterFile, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "validated", cluster_file.read)
    monkeypatch.setattr(launcher, "up", broken)
    monkeypatch.setattr(launcher, "down", lambda *_: (1, ["An error occurred (RequestLimitExceeded): later"]))
    done = metagen("cluster", "up", file.path)
    assert done.code == 130
    assert "not all could be stopped: ray down: An error occurred (RequestLimitExceeded)" in done.out


def test_a_stop_that_is_broken_off_says_that_some_may_run(
    started: cluster_file.ClusterFile, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "down", broken)
    done = metagen("cluster", "down", started.path, "--yes")
    assert done.code == 130
    assert f"some of it may still run: 'metagen cluster down {started.path}' again" in done.out


def test_a_failed_start_whose_stop_is_broken_off_says_that_some_may_run(
    file: cluster_file.ClusterFile, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "validated", cluster_file.read)
    monkeypatch.setattr(launcher, "up", lambda *_: (1, ["denied"]))
    monkeypatch.setattr(launcher, "down", broken)
    done = metagen("cluster", "up", file.path)
    assert done.code == 130
    assert f"some of it may still run: 'metagen cluster down {file.path}' again" in done.out


def test_what_is_being_started_is_neither_started_nor_stopped_by_another(
    file: cluster_file.ClusterFile, metagen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "validated", cluster_file.read)
    with lifecycle._alone(file):
        for words in (["up", file.path], ["down", file.path, "--yes"]):
            done = metagen("cluster", *words)
            assert (done.code, len(done.errors)) == (2, 1), done.err
            assert "is being started or stopped by process" in done.errors[0]


def test_a_name_that_other_machines_were_started_under_is_not_taken(
    metagen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = tmp_path / "other.yaml", tmp_path / "key"
    key.touch(mode=0o600)
    words = ["--name", "twice", "--head", "10.0.0.1", "--key", key, "--storage", "/srv/runs"]
    assert metagen("cluster", "init", "onprem", *words, "-o", path).code == 0
    home = access.home(cluster_file.read(path))
    (home / "tmp").mkdir()
    (home / "tmp" / "ray-config-1").write_text('{"config": {"provider": {"type": "local", "head_ip": "10.0.0.9"}}}')
    for command in (["up", path], ["down", path, "--yes"]):
        done = metagen("cluster", *command)
        assert (done.code, len(done.errors)) == (2, 1), done.err
        assert "was started from here has the head 10.0.0.9: give this one another cluster_name" in done.errors[0]


def test_what_ray_was_ended_in_the_middle_of_writing_is_dropped(tmp_path: Path) -> None:
    states = tmp_path / "tmp" / "ray"
    states.mkdir(parents=True)
    (states / "cluster-torn.state").touch()
    (states / "cluster-whole.state").write_text("{}")
    launcher._run(["true"], "local", tmp_path, tmp_path / "log")
    assert [path.name for path in states.iterdir()] == ["cluster-whole.state"]
    (tmp_path / "tmp" / "ray-config-1").write_text('{"config": {}}')
    (tmp_path / "tmp" / "ray-config-2").write_text('{"conf')
    assert launcher.started(tmp_path) == tmp_path / "tmp" / "ray-config-1"


def test_a_token_that_cannot_be_written_is_one_line(file: cluster_file.ClusterFile) -> None:
    spoilt = cluster_file.ClusterFile(file.path, file.config)
    spoilt.config["metadata"]["metagen"]["token"] = "/proc/nowhere/token"
    with pytest.raises(UserError, match="/proc/nowhere/token: cannot be written"):
        access.make_token(spoilt)


def test_a_setup_that_fails_is_told_in_the_words_of_its_command() -> None:
    lines = [
        "2026-11-30 17:35:23,536\tINFO updater.py:490 -- (2/3) pip install metagen==0.1.0",
        "ERROR: No matching distribution found for metagen==0.1.0",
        "Shared connection to 10.0.0.1 closed.",
        "2026-11-30 17:35:33,214\tERR updater.py:177 -- New status: update-failed",
        "click.exceptions.ClickException: SSH command failed.",
        "Error: Failed to setup head node.",
    ]
    assert launcher.reason(lines) == "ERROR: No matching distribution found for metagen==0.1.0"
    assert launcher.reason(lines[3:]) == "Error: Failed to setup head node."
    broken = [
        *lines[3:5],
        "2026-11-30 17:35:33,214\tERR updater.py:193 -- Error message: SSH command failed.",
        lines[5],
    ]
    assert launcher.reason(broken) == "SSH command failed"


def test_a_start_keeps_what_it_makes_of_the_file_and_nothing_older(
    file: cluster_file.ClusterFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = access.home(file)
    (home / "tmp").mkdir()
    (home / "tmp" / "ray-config-old").write_text("{}")
    seen: list[Any] = []
    monkeypatch.setattr(launcher, "_run", lambda command, *_: seen.append((command, launcher.started(home))) or (0, []))
    launcher.up(file.path, "aws", home, tmp_path / "log", print)
    [(command, kept)] = seen
    assert "--no-config-cache" not in command
    assert kept is None
