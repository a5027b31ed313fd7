"""Cluster files: what ``init`` writes ``validate`` passes, and every unsafe change of it is refused with the fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.clusters.providers import REGISTRY, manifests
from launch.clusters.providers.request import versions
from launch.jobs.remote import remote
from launch.preset import presets

AWS = ["aws", "--ssh-cidr", "203.0.113.7/32", "--storage", "s3://bucket/runs"]
GCP = ["gcp", "--ssh-cidr", "203.0.113.7/32", "--storage", "gs://bucket/runs", "--project", "my-project"]
AZURE = ["azure", "--ssh-cidr", "203.0.113.7/32", "--storage", "abfs://runs@account.dfs.core.windows.net"]
KUBERNETES = ["kubernetes", "--image", "registry.example.com/metagen:0.1.0", "--storage", "pvc"]
SKYPILOT = ["skypilot", "--storage", "s3://bucket"]


@pytest.fixture
def onprem(tmp_path: Path) -> list[str]:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    hosts = ["--head", "10.0.0.1", "--host", "10.0.0.2", "--host", "10.0.0.3"]
    return ["onprem", *hosts, "--key", str(key), "--storage", "/shared/runs"]


@pytest.fixture
def written(metagen: Any, tmp_path: Path) -> Callable[..., Path]:
    """A file that ``init`` wrote, changed by a function of its YAML where one is given."""

    def make(arguments: list[str], change: Callable[[Any], None] | None = None, name: str = "cluster.yaml") -> Path:
        path = tmp_path / name
        done = metagen("cluster", "init", *arguments, "-o", path, "--overwrite")
        assert done.code == 0, done.err
        if change is not None:
            documents = list(yaml.safe_load_all(path.read_text()))
            change(documents[-1])
            path.write_text(yaml.safe_dump_all(documents))
        return path

    return make


@pytest.mark.parametrize("extra", [[], ["--gpu", "t4", "--spot", "--workers", "7"]], ids=["plain", "gpu-spot"])
@pytest.mark.parametrize("arguments", [AWS, GCP, AZURE, KUBERNETES], ids=lambda a: a[0])
def test_what_init_writes_validate_passes(
    arguments: list[str], extra: list[str], written: Any, metagen: Any, tmp_path: Path
) -> None:
    path = written([*arguments, *extra])
    for file in tmp_path.glob("*.yaml"):
        done = metagen("cluster", "validate", file)
        assert (done.code, done.err) == (0, "")
    assert path.read_text().count("#") > 10


def test_what_init_writes_for_ones_own_machines_validate_passes(onprem: list[str], written: Any, metagen: Any) -> None:
    done = metagen("cluster", "validate", written(onprem))
    assert (done.code, done.err) == (0, "")


def test_every_file_pins_the_versions_of_this_machine(onprem: list[str], written: Any, tmp_path: Path) -> None:
    for arguments in (AWS, GCP, AZURE, onprem, SKYPILOT):
        text = written(arguments).read_text()
        assert all(f"{name}=={version}" in text for name, version in versions().items())
    written(KUBERNETES)
    text = (tmp_path / "Containerfile").read_text().replace("[default,tune]", "")
    assert all(f"{name}=={version}" in text for name, version in versions().items())


def test_the_head_is_on_demand_where_workers_are_spot(written: Any) -> None:
    head, worker = (
        yaml.safe_load(written([*AWS, "--spot"]).read_text())["available_node_types"][name]["node_config"]
        for name in ("head", "worker")
    )
    assert "InstanceMarketOptions" not in head
    assert worker["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_the_skypilot_task_keeps_off_skypilots_own_ray(written: Any) -> None:
    """Its Ray listens on 6380, and 'ray stop' would end it."""
    task = yaml.safe_load(written(SKYPILOT).read_text())
    assert task["num_nodes"] == 3
    assert "6380" not in task["run"]
    assert "ray stop" not in task["run"] + task["setup"]
    assert subprocess.run(["bash", "-n"], input=task["setup"] + task["run"], text=True, check=False).returncode == 0
    [line] = [line for line in task["run"].splitlines() if "launch.jobs.remote" in line]
    words = line.partition("launch.jobs.remote ")[2].replace("$METAGEN_ARGS", task["envs"]["METAGEN_ARGS"]).split()
    assert remote.make_context("remote", words).params["source"] in presets()


@pytest.mark.parametrize("name", ["aws", "gcp", "azure", "onprem"])
def test_every_command_in_a_file_is_valid_shell(name: str, onprem: list[str], written: Any) -> None:
    config = yaml.safe_load(written({"aws": AWS, "gcp": GCP, "azure": AZURE, "onprem": onprem}[name]).read_text())
    for key, commands in config.items():
        for command in commands if key.endswith("_commands") else []:
            assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0, command


def test_every_provider_can_be_chosen() -> None:
    from launch.clusters.commands import PROVIDERS

    assert tuple(REGISTRY) == PROVIDERS


def test_a_key_is_found_from_every_folder_and_one_that_is_missing_is_told(
    onprem: list[str], written: Any, metagen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = tmp_path / "mine"
    key.touch(mode=0o600)
    path = written([*onprem, "--key", "mine"])
    assert yaml.safe_load(path.read_text())["auth"]["ssh_private_key"] == str(key)
    key.unlink()
    [error] = metagen("cluster", "validate", path).errors
    assert f"auth.ssh_private_key: {key} is no file on this machine" in error


# What init refuses


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["aws", "--storage", "s3://b/r"], "--ssh-cidr is needed"),
        (["aws", "--ssh-cidr", "0.0.0.0/0", "--storage", "s3://b/r"], "opens ssh to nearly everybody"),
        (["aws", "--ssh-cidr", "10.0.0.1/24", "--storage", "s3://b/r"], "give a network such as"),
        (["aws", "--ssh-cidr", "203.0.113.7/32"], "--storage is needed"),
        ([*AWS, "--gpu", "t5"], "--gpu 't5'; did you mean 't4'?"),
        ([*AWS, "--price", "x=nan"], "--price x=nan: give a number of at least 0, such as x=0.20"),
        ([*AWS, "--price", "x=inf"], "--price x=inf: give a number of at least 0"),
        ([*AWS, "--price", "x=-0.1"], "--price x=-0.1: give a number of at least 0"),
        ([*AWS, "--price", "a: {b=1"], "--price 'a: {b=1': give TYPE=USD an hour"),
        ([*AWS, "--price", "0.2"], "--price '=0.2': give TYPE=USD an hour"),
        ([*AWS, "--name", "My Cluster"], "--name 'My Cluster': use lower-case"),
        ([*AWS, "--region", "x; rm -rf /"], "--region 'x; rm -rf /': only letters"),
        ([*AWS, "--workers", "2", "--min-workers", "3"], "--min-workers 3 is more than --workers 2"),
        (["gcp", "--ssh-cidr", "203.0.113.7/32", "--storage", "gs://b/r"], "--project is needed"),
        (["kubernetes", "--image", "metagen", "--storage", "pvc"], "pin a tag or a digest"),
        (["onprem", "--head", "10.0.0.1", "--storage", "/s"], "--key is needed"),
        ([*AWS, "--head", "10.0.0.1"], "--head has no effect for aws: drop it"),
        (["onprem", "--head", "a", "--key", "k", "--storage", "/s", "--workers", "7"], "(--host names every worker)"),
        ([*KUBERNETES, "--region", "us-east-1"], "--region has no effect for kubernetes"),
        ([*SKYPILOT, "--price", "a=1"], "--price has no effect for skypilot"),
        (["onprem", "--head", "a", "--host", "a", "--key", "k", "--storage", "/s"], "not the head"),
    ],
)
def test_init_refuses_with_one_line_and_writes_nothing(
    arguments: list[str], needle: str, metagen: Any, tmp_path: Path
) -> None:
    done = metagen("cluster", "init", *arguments, "-o", tmp_path / "cluster.yaml")
    assert done.code == 2
    assert len(done.errors) == 1
    assert needle in done.errors[0]
    assert not list(tmp_path.iterdir())


def test_init_replaces_nothing_unasked(written: Any, metagen: Any) -> None:
    path = written(AWS)
    path.write_text("mine")
    done = metagen("cluster", "init", *AWS, "-o", path)
    assert done.code == 2
    assert "--overwrite" in done.errors[0]
    assert path.read_text() == "mine"


# What validate refuses


def _set(path: str, value: Any) -> Callable[[Any], None]:
    """A change that sets one key, or with None removes it."""

    def change(config: Any) -> None:
        *keys, last = path.split(".")
        for key in keys:
            config = config[int(key) if isinstance(config, list) else key]
        if value is None:
            del config[last]
        else:
            config[last] = value

    return change


def _swap(key: str, old: str, new: str) -> Callable[[Any], None]:
    def change(config: Any) -> None:
        assert any(old in command for command in config[key])
        config[key] = [command.replace(old, new) for command in config[key]]

    return change


START = "head_start_ray_commands"


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (_set("metadata.metagen.ssh_cidr", "0.0.0.0/0"), "opens ssh to nearly everybody"),
        (_set("metadata.metagen.ssh_cidr", None), "ssh would be open to the world"),
        (
            _set("provider.security_group.IpPermissions", [{"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]),
            "0.0.0.0/0 is the whole internet: remove the rule",
        ),
        (_set("provider.security_group", None), "set metagen-metagen"),
        (_swap(START, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "is public: use --dashboard-host"),
        (_swap(START, "--dashboard-host=127.0.0.1", ""), "add --dashboard-host=127.0.0.1"),
        (_set(START, []), "no 'ray start' in them"),
        (_swap(START, "RAY_AUTH_MODE=token", ""), "anybody who reaches a port runs code"),
        (_swap("worker_start_ray_commands", "RAY_AUTH_MODE=token", ""), "anybody who reaches a port runs code"),
        (_set("file_mounts", {}), "the token is not copied to the nodes"),
        (_set("setup_commands", ["pip install -U ray metagen"]), "'ray' is not pinned: write ray==VERSION"),
        (_set("setup_commands", ["pip install 'ray[default]>=2'"]), "'ray[default]>=2' is not pinned"),
        (_set("setup_commands", ["pip install https://x/ray-wheels/latest/ray-3.0.0.dev0.whl"]), "nightly build"),
        (_set("setup_commands", []), "nothing makes sure of ray=="),
        (_set("metadata.metagen.versions.ray", "2.0.0"), "ray 2.0.0 in the file"),
        (_set("metadata.metagen.storage", "runs"), "is relative"),
        (_set("metadata.metagen.storage", "/tmp/runs"), "is a disk that goes with the cluster"),
        (_set("metadata.metagen.storage", "ftp://x"), "is no place for runs"),
        (_set("metadata.metagen.storage", None), "metadata.metagen.storage: a value is needed"),
        (_set("metadata", None), "no block metadata.metagen"),
        (_set("max_workers", None), "max_workers: missing"),
        (_set("idle_timeout_minutes", 0), "idle_timeout_minutes: say after how many minutes"),
        (_set("provider.cache_stopped_nodes", True), "keep costing for their disks"),
        (
            _set("available_node_types.head.node_config.InstanceMarketOptions", {"MarketType": "spot"}),
            "the head is on spot",
        ),
        (_set("docker", {"image": "rayproject/ray:latest", "container_name": "r"}), "docker.image"),
        (_set("max_workerz", 3), "Ray: Additional properties are not allowed ('max_workerz' was unexpected)"),
        (_set("provider.type", "awz"), "provider.type: one of local, aws, gcp, azure"),
    ],
)
def test_validate_refuses_with_the_fix(change: Any, needle: str, written: Any, metagen: Any) -> None:
    done = metagen("cluster", "validate", written(AWS, change))
    assert done.code == 2
    assert "Traceback" not in done.err
    assert any(needle in line for line in done.errors), done.err


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (_set("provider.worker_ips", ["10.0.0.1", "10.0.0.2"]), "10.0.0.1 stands there twice or is the head"),
        (_set("auth.ssh_private_key", None), "auth.ssh_private_key: missing"),
        (_swap(START, "--node-ip-address=10.0.0.1", ""), "add --node-ip-address=10.0.0.1"),
        (_swap(START, "RAY_enable_autoscaler_v2=0", ""), "version 2 starts no workers"),
        (_set("auth.ssh_private_key", "/tmp"), "auth.ssh_private_key: /tmp is no file"),
        (_set("file_mounts.~/data", "/nowhere/at/all"), "/nowhere/at/all does not exist"),
        (_set("setup_commands", "pip install x"), "Ray: setup_commands: 'pip install x' is not of type 'array'"),
        (_set("provider.worker_ips", None), "Ray: Please supply a `head_ip` and list of `worker_ips`"),
    ],
)
def test_validate_refuses_for_ones_own_machines(
    change: Any, needle: str, onprem: list[str], written: Any, metagen: Any
) -> None:
    done = metagen("cluster", "validate", written(onprem, change))
    assert done.code == 2
    assert any(needle in line for line in done.errors), done.err


RAY = "spec.rayClusterSpec"


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (_set("spec.backofLimit", 3), "RayJob.spec.backofLimit: unknown field; did you mean 'backoffLimit'?"),
        (_set(f"{RAY}.headGroupSpec.template.spec.contaners", []), "contaners: unknown field"),
        (_set("spec.backoffLimit", "three"), "RayJob.spec.backoffLimit: integer is needed, not 'three'"),
        (_set(f"{RAY}.headGroupSpec", None), "'headGroupSpec' is missing"),
        (_set(f"{RAY}.authOptions.mode", "disabled"), "authOptions.mode: whoever reaches a port runs code: set token"),
        (_set(f"{RAY}.authOptions.mode", "nothing"), "one of disabled, token is needed"),
        (_set(f"{RAY}.rayVersion", "2.0.0"), "rayVersion: 2.0.0 there"),
        (_set(f"{RAY}.headGroupSpec.serviceType", "LoadBalancer"), "LoadBalancer is public"),
        (_set(f"{RAY}.gcsFaultToleranceOptions", None), "with the head's pod the whole cluster would go"),
        (_set(f"{RAY}.workerGroupSpecs.0.minReplicas", 9), "minReplicas 9 is more than maxReplicas 2"),
        (_set(f"{RAY}.headGroupSpec.template.spec.containers.0.image", "ray:latest"), "'ray:latest' is not pinned"),
        (_set(f"{RAY}.headGroupSpec.template.spec.restartPolicy", None), "SidecarMode needs restartPolicy: Never"),
        (_set("spec.submissionMode", "HTTPMode"), "use SidecarMode"),
        (_set("spec.ttlSecondsAfterFinished", None), "ttlSecondsAfterFinished: missing"),
        (_set("spec.activeDeadlineSeconds", None), "activeDeadlineSeconds: missing"),
        (_set("spec.shutdownAfterJobFinishes", False), "keeps running"),
        (_set("metadata.annotations", None), "'metagen/storage' is missing"),
    ],
)
def test_validate_refuses_manifests(change: Any, needle: str, written: Any, metagen: Any, tmp_path: Path) -> None:
    written(KUBERNETES)
    path = tmp_path / "cluster.job.yaml"
    documents = list(yaml.safe_load_all(path.read_text()))
    change(documents[-1])
    path.write_text(yaml.safe_dump_all(documents))
    done = metagen("cluster", "validate", path)
    assert done.code == 2
    assert any(needle in line for line in done.errors), done.err


def test_a_job_without_its_volume_or_its_network_policy_is_refused(written: Any, tmp_path: Path) -> None:
    written(KUBERNETES)
    job = [d for d in yaml.safe_load_all((tmp_path / "cluster.job.yaml").read_text()) if d["kind"] == "RayJob"]
    found = manifests.problems(job)
    assert any("no NetworkPolicy" in line for line in found)
    assert any("claim metagen-metagen is used and not in the file" in line for line in found)


def test_support_manifests_have_no_field_that_kubernetes_does_not_know(written: Any, tmp_path: Path) -> None:
    """Against the models of the official client."""
    client = pytest.importorskip("kubernetes.client")
    path = written(KUBERNETES)
    models = {
        "PriorityClass": "V1PriorityClass",
        "PersistentVolumeClaim": "V1PersistentVolumeClaim",
        "NetworkPolicy": "V1NetworkPolicy",
    }
    seen = []
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] in models:
            _known(client, models[document["kind"]], document)
            seen.append(document["kind"])
    assert sorted(seen) == sorted(models)


def _known(client: Any, model: str, value: Any) -> None:
    if model.startswith("list["):
        for item in value:
            _known(client, model[5:-1], item)
    elif (kind := getattr(client, model, None)) is not None and isinstance(value, dict):
        attributes = {json_name: name for name, json_name in kind.attribute_map.items()}
        for key, inner in value.items():
            assert key in attributes, f"{model}.{key}"
            _known(client, kind.openapi_types[attributes[key]], inner)


@pytest.mark.parametrize(
    ("change", "needle"),
    [
        (_set("auth", "x"), "auth: a mapping is needed (got 'x')"),
        (_set("auth", None), "auth.ssh_user and auth.ssh_private_key are needed"),
        (_set("provider.head_ip", None), "provider.head_ip, auth.ssh_user"),
        (_set("metadata", ["x"]), "metadata: a mapping is needed"),
        (_set("max_workers", "many"), "max_workers: a whole number is needed (got 'many')"),
        (_set("cluster_name", "../../elsewhere"), "cluster_name: '../../elsewhere' cannot be used"),
        (_set("cluster_name", ""), "cluster_name: '' cannot be used"),
    ],
)
def test_a_file_that_was_spoilt_is_one_line_to_every_command(
    change: Any, needle: str, onprem: list[str], written: Any, metagen: Any, tmp_path: Path
) -> None:
    path = written(onprem, change)
    for words in (["cluster", "ssh", path], ["fetch", path, "run"]):
        done = metagen(*words)
        assert (done.code, len(done.errors)) == (2, 1), done.err
        assert needle in done.errors[0]
    for words in (["cluster", "down", path, "--yes"], ["cluster", "status", path], ["cluster", "cost", path]):
        done = metagen(*words)
        assert (done.code, len(done.errors)) == (2, 1), done.err
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("text", ["", "- 1", "a: [", "just words"])
def test_what_is_no_cluster_file_is_refused(text: str, metagen: Any, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    done = metagen("cluster", "validate", path)
    assert done.code == 2
    assert len(done.errors) == 1
    assert metagen("cluster", "validate", tmp_path / "none.yaml").code == 2


def test_validate_loads_neither_torch_nor_the_network(tmp_path: Path) -> None:
    code = """
import json, socket, sys
def refuse(*a, **k): raise AssertionError("the network was used")
socket.socket.connect = refuse
sys.argv = ["metagen", *sys.argv[1:]]
from launch.cli import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
print(json.dumps("torch" in sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for command in (["init", *AWS, "-o", str(tmp_path / "c.yaml")], ["validate", str(tmp_path / "c.yaml")]):
        done = subprocess.run(
            [sys.executable, "-c", code, "cluster", *command],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) is False
