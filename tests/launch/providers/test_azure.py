"""Azure, without it: Ray's own provider makes its requests, against a client that writes them down."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config

from cluster import launcher
from launch.clusters import cluster_file

SDK = {
    "azure": (),
    "azure.common": (),
    "azure.common.credentials": ("get_cli_profile",),
    "azure.core": (),
    "azure.core.exceptions": ("HttpResponseError", "ResourceNotFoundError"),
    "azure.identity": ("AzureCliCredential", "DefaultAzureCredential"),
    "azure.mgmt": (),
    "azure.mgmt.compute": ("ComputeManagementClient",),
    "azure.mgmt.network": ("NetworkManagementClient",),
    "azure.mgmt.resource": ("ResourceManagementClient",),
    "azure.mgmt.resource.resources": (),
    "azure.mgmt.resource.resources.models": ("DeploymentMode",),
}
"""What Ray's provider imports of Azure's libraries, which are hundreds of megabytes. It only calls them: what it asks
for is in the requests."""
RAYS = ("ray.autoscaler._private._azure.config", "ray.autoscaler._private._azure.node_provider")
TYPES = {"string": str, "securestring": str, "int": int, "bool": bool, "object": dict, "array": list}


class Resources:
    """Azure's resource manager: holds nothing, and writes down what is to be deployed."""

    def __init__(self, absent: type[Exception]) -> None:
        self.deployed: list[Any] = []
        self.groups: dict[str, Any] = {}
        self.resource_groups = SimpleNamespace(create_or_update=self._group)
        self.resources = SimpleNamespace(
            list_by_resource_group=lambda *_: [], get_by_id=self._absent, delete_by_id=self._absent
        )
        self.deployments = SimpleNamespace(begin_create_or_update=self._deploy)
        self.absent = absent

    def _absent(self, *_: Any, **__: Any) -> Any:
        raise self.absent

    def _group(self, resource_group_name: str, parameters: Any) -> None:
        self.groups[resource_group_name] = parameters

    def _deploy(self, resource_group_name: str, deployment_name: str, parameters: Any) -> Any:
        assert resource_group_name in self.groups
        self.deployed.append(parameters["properties"])
        outputs = {name: {"value": f"/subscriptions/s/{name}"} for name in ("msi", "nsg", "subnet")}
        result = SimpleNamespace(properties=SimpleNamespace(outputs=outputs))
        return SimpleNamespace(result=lambda: result, wait=lambda timeout: None)


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Ray's two modules for Azure, and the resource manager that they talk to."""
    for name, members in SDK.items():
        module = ModuleType(name)
        for member in members:
            base = Exception if member.endswith("Error") else object
            setattr(module, member, type(member, (base,), {"__init__": lambda self, *_: None, "incremental": "x"}))
        monkeypatch.setitem(sys.modules, name, module)
    for name in RAYS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    config, provider = map(importlib.import_module, RAYS)
    client = Resources(config.ResourceNotFoundError)
    monkeypatch.setattr(config, "ResourceManagementClient", lambda *_: client)
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray makes a key pair in ~/.ssh
    (tmp_path / ".ssh").mkdir()
    yield SimpleNamespace(bootstrap=config.bootstrap_azure, provider=provider.AzureNodeProvider, client=client)
    for name in RAYS:
        sys.modules.pop(name)


def _complaints(deployment: Any) -> list[str]:
    """What Azure says against a deployment's parameters: unknown, missing, of another type than the template says."""
    declared, given = deployment["template"]["parameters"], deployment["parameters"]
    found = [f"unknown: {name}" for name in given if name not in declared]
    found += [f"missing: {name}" for name, one in declared.items() if "defaultValue" not in one and name not in given]
    return found + [
        f"{name} is no {declared[name]['type']}"
        for name, one in given.items()
        if name in declared and type(one["value"]) is not TYPES[declared[name]["type"]]
    ]


@pytest.mark.parametrize("extra", [[], ["--spot"], ["--gpu", "t4", "--spot"]], ids=" ".join)
def test_what_ray_asks_azure_for_is_of_the_templates_form(
    extra: list[str], rays: Any, metagen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.yaml"
    words = ["azure", "--name", "mine", "--project", "s", "--ssh-cidr", "203.0.113.7/32", "--storage", "abfs://r@a.x"]
    done = metagen("cluster", "init", *words, *extra, "-o", path)
    assert done.code == 0, done.err
    config = rays.bootstrap(prepare_config(cluster_file.read(path).config))

    provider = object.__new__(rays.provider)  # without its clients for machines and networks
    vars(provider).update(provider_config=config["provider"], cluster_name="mine", resource_client=rays.client)
    monkeypatch.setattr(rays.provider, "_get_zones_for_vm_size", lambda *_: ["1", "2"])
    for role in ("head", "worker"):
        tags = {"ray-node-name": f"mine-{role}", "ray-node-type": role}
        provider._create_node(config["available_node_types"][role]["node_config"], tags, 1)

    network, *machines = rays.client.deployed
    assert rays.client.groups == {"metagen-mine": {"location": "eastus"}}
    assert [_complaints(one) for one in rays.client.deployed] == [[], [], []]
    assert network["parameters"]["createMsi"] == {"value": True}
    head, worker = ({name: one["value"] for name, one in each["parameters"].items()} for each in machines)
    for machine in (head, worker):
        assert machine["nsg"] == "/subscriptions/s/nsg"  # the one whose ssh rule is narrowed
        assert machine["publicKey"].startswith("ssh-rsa ")
        assert machine["imageSku"] == "server"
    assert "priority" not in head
    assert (worker.get("priority") == "Spot") == ("--spot" in extra)
    assert worker.get("billingProfile") == ({"maxPrice": -1} if "--spot" in extra else None)
    assert ("_NC4as_T4_v3" in worker["vmSize"]) == ("--gpu" in extra)


def test_who_asks_for_the_head_deploys_nothing_so_that_a_narrowed_rule_stays(
    rays: Any, metagen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.autoscaler._private import commands

    path, home = tmp_path / "c.yaml", tmp_path / "home"
    words = ["azure", "--name", "mine", "--project", "s", "--ssh-cidr", "203.0.113.7/32", "--storage", "abfs://r@a.x"]
    assert metagen("cluster", "init", *words, "-o", path).code == 0
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", launcher.environment("azure", home)["TMPDIR"])
    commands._bootstrap_config(cluster_file.read(path).config)  # as ``ray up`` does
    assert len(rays.client.deployed) == 1
    kept = launcher.started(home)
    provider = SimpleNamespace(
        non_terminated_nodes=lambda tags: ["head"], node_tags=lambda node: {}, external_ip=lambda node: "203.0.113.9"
    )
    monkeypatch.setattr(commands, "_get_node_provider", lambda *_: provider)
    for one in (kept, ""):
        monkeypatch.setattr(sys, "argv", ["-c", str(path), str(one)])
        exec(launcher.HEAD, {})
    first, second = (json.loads(line)[0] for line in capsys.readouterr().out.splitlines()[-2:])
    assert (first["address"], second["address"]) == ("203.0.113.9", "203.0.113.9")
    assert Path(first["key"]).expanduser().is_file()
    assert len(rays.client.deployed) == 1


def test_a_wrong_parameter_would_be_noticed(rays: Any) -> None:
    template = {"parameters": {"count": {"type": "int"}, "size": {"type": "string"}}}
    assert _complaints({"template": template, "parameters": {"count": {"value": "1"}, "sice": {"value": "x"}}}) == [
        "unknown: sice",
        "missing: size",
        "count is no int",
    ]
