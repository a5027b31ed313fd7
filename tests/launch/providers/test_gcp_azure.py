"""Compute Engine and Azure, without them: the requests that metagen and Ray would make."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from google.auth import exceptions as google_errors

from launch.clusters import cluster_file
from launch.clusters.providers import azure_firewall, gcp_firewall
from metagen.errors import UserError

CIDR = "203.0.113.7/32"


def _written(metagen: Any, path: Path, *words: str) -> cluster_file.ClusterFile:
    done = metagen("cluster", "init", *words, "--name", "mine", "--ssh-cidr", CIDR, "-o", path)
    assert done.code == 0, done.err
    return cluster_file.read(path)


@pytest.fixture
def gcp(metagen: Any, tmp_path: Path) -> cluster_file.ClusterFile:
    return _written(
        metagen, tmp_path / "c.yaml", "gcp", "--project", "my-project", "--storage", "gs://bucket/runs", "--spot"
    )


@pytest.fixture
def azure(metagen: Any, tmp_path: Path) -> cluster_file.ClusterFile:
    return _written(metagen, tmp_path / "c.yaml", "azure", "--storage", "abfs://runs@a.dfs.core.windows.net")


class Session:
    """Google's API: holds firewall rules, and answers every change with an operation that takes a moment."""

    def __init__(self) -> None:
        self.rules: dict[str, Any] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuse: Any = None

    def get(self, url: str) -> Any:
        return (
            self._answer(200, self.rules[url]) if url in self.rules else self._answer(404, {"error": {"message": "no"}})
        )

    def post(self, url: str, json: Any = None) -> Any:
        self.calls.append(("POST", url))
        if url.endswith("/wait"):
            return self._answer(200, {"status": "DONE"})
        if self.refuse:
            return self._answer(*self.refuse)
        self.rules[f"{url}/{json['name']}"] = json
        return self._answer(200, {"status": "RUNNING", "name": "op", "selfLink": "https://x/op"})

    def put(self, url: str, json: Any) -> Any:
        self.rules[url] = json
        return self._answer(200, {"status": "DONE"})

    def delete(self, url: str) -> Any:
        return self._answer(200, {"status": "DONE"}) if self.rules.pop(url, None) else self._answer(404, {})

    def _answer(self, code: int, values: Any) -> Any:
        return SimpleNamespace(status_code=code, json=lambda: values)


def _admits(rules: list[Any], source: str, port: int) -> bool:
    """Whether a machine with the tag is reached from an address: the lowest number that matches decides."""
    for rule in sorted(rules, key=lambda rule: (rule["priority"], "allowed" in rule)):
        ranges = rule.get("sourceRanges") or []
        if any(ipaddress.ip_address(source) in ipaddress.ip_network(r) for r in ranges):
            what = (rule.get("allowed") or rule.get("denied"))[0]
            if what["IPProtocol"] == "all" or str(port) in what["ports"]:
                return "allowed" in rule
    return True  # the default network's own rule for port 22


def test_only_one_network_reaches_ssh_on_compute_engine(
    gcp: cluster_file.ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session()
    monkeypatch.setattr(gcp_firewall, "_session", lambda: session)
    gcp_firewall.ensure(gcp)
    gcp_firewall.ensure(gcp)  # a second start changes nothing
    rules = list(session.rules.values())
    assert len(rules) == 3
    assert [(_admits(rules, "203.0.113.7", p), _admits(rules, "198.51.100.1", p)) for p in (22, 6379, 8265)] == [
        (True, False),
        (False, False),
        (False, False),
    ]
    for kind in gcp.config["available_node_types"].values():
        assert kind["node_config"]["tags"]["items"] == rules[0]["targetTags"] == ["metagen-mine"]
        assert kind["node_config"]["networkInterfaces"][0]["subnetwork"].endswith("subnetworks/default")
    assert ("POST", "https://x/op/wait") in session.calls  # a rule holds when its operation is done
    assert gcp_firewall.remove(gcp) == []
    assert session.rules == {}


def test_what_google_refuses_is_told_in_its_words(
    gcp: cluster_file.ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session()
    quota = "Quota 'FIREWALLS' exceeded.  Limit: 100.0 globally."
    session.refuse = (403, {"error": {"errors": [{"message": quota}]}})
    monkeypatch.setattr(gcp_firewall, "_session", lambda: session)
    with pytest.raises(UserError) as caught:
        gcp_firewall.ensure(gcp)
    assert str(caught.value) == f"Google Cloud: {quota}"
    assert session.rules == {}


def test_without_googles_credentials_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(UserError, match="run 'gcloud auth application-default login'"):
        gcp_firewall._session()


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (google_errors.RefreshError("Reauthentication is needed."), "run 'gcloud auth application-default login'"),
        (google_errors.TransportError("no route"), "is the network there?"),
        (requests.exceptions.ConnectionError("no route"), "is the network there?"),
    ],
)
def test_what_googles_library_raises_is_one_line_and_a_release_gives_it_back(
    error: Exception, fix: str, gcp: cluster_file.ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(gcp_firewall, "_session", lambda: SimpleNamespace(get=fails, delete=fails))
    with pytest.raises(UserError) as caught:
        gcp_firewall.ensure(gcp)
    [left] = gcp_firewall.remove(gcp)
    for line in (str(caught.value), left):
        assert line.startswith("Google Cloud")
        assert line.endswith(fix)


@pytest.fixture
def az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``az`` that writes down how it is called and answers as Azure does for the group that Ray deploys."""
    answers = {
        "account": {"id": "s"},
        "list": [
            {
                "name": "ray-nsg",
                "securityRules": [
                    {"name": "SSH", "direction": "Inbound", "access": "Allow", "sourceAddressPrefix": "*"}
                ],
            }
        ],
        "update": {"name": "SSH", "sourceAddressPrefix": CIDR},
    }
    for name, answer in answers.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(answer))
    script = tmp_path / "bin" / "az"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n'
        f'case "$*" in *account*) n=account;; *update*) n=update;; *) n=list;; esac\n'
        f"test -f {tmp_path}/refuse && {{ cat {tmp_path}/refuse >&2; exit 1; }}\ncat {tmp_path}/$n.json\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return tmp_path


def test_azures_ssh_rule_is_narrowed(azure: cluster_file.ClusterFile, az: Path) -> None:
    azure_firewall.check(azure)
    azure_firewall.narrow(azure)
    last = (az / "calls").read_text().splitlines()[-1]
    assert last.startswith("network nsg rule update --resource-group metagen-mine --nsg-name ray-nsg --name SSH")
    assert f"--source-address-prefixes {CIDR}" in last


def test_a_rule_that_stays_open_is_an_error(azure: cluster_file.ClusterFile, az: Path) -> None:
    (az / "update.json").write_text('{"sourceAddressPrefix": "*"}')
    with pytest.raises(UserError, match="was not narrowed"):
        azure_firewall.narrow(azure)
    (az / "list.json").write_text("[]")
    with pytest.raises(UserError, match="ssh may be open to everybody"):
        azure_firewall.narrow(azure)


def test_azures_own_words_reach_the_user(azure: cluster_file.ClusterFile, az: Path) -> None:
    (az / "refuse").write_text("ERROR: Please run 'az login' to setup account.\n")
    with pytest.raises(UserError) as caught:
        azure_firewall.check(azure)
    assert str(caught.value) == "Azure: Please run 'az login' to setup account."


def test_rays_template_still_has_the_rule_that_is_narrowed() -> None:
    """If Ray changes its deployment, this file must be looked at again."""
    import ray.autoscaler._private

    folder = Path(ray.autoscaler._private.__file__).parent / "_azure"
    template = json.loads((folder / "azure-config-template.json").read_text())
    groups = [r for r in template["resources"] if r["type"] == "Microsoft.Network/networkSecurityGroups"]
    [rule] = [rule["properties"] for group in groups for rule in group["properties"]["securityRules"]]
    assert (rule["direction"], rule["access"], rule["destinationPortRange"]) == ("Inbound", "Allow", "22")


def _unknown(schemas: Any, name: str, value: Any, path: str = "") -> list[str]:
    """Fields of ``value`` that Google's description of the API does not know, or knows as another type."""
    found: list[str] = []
    for key, inner in value.items():
        known = schemas[name].get("properties", {}).get(key)
        if known is None:
            found.append(f"{path}{key}")
            continue
        many = known.get("type") == "array"
        if many != isinstance(inner, list):
            found.append(f"{path}{key}: {'a list' if many else 'no list'} is needed")
            continue
        ref = known.get("$ref") or (known.get("items") or {}).get("$ref")
        for one in inner if many else [inner]:
            if ref:
                found += _unknown(schemas, ref, one, f"{path}{key}.")
    return found


@pytest.mark.parametrize("extra", [["--spot"], ["--gpu", "t4", "--spot"], ["--gpu", "l4"]], ids=" ".join)
def test_the_machines_that_ray_asks_google_for_are_of_the_apis_form(
    extra: list[str], metagen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own node provider makes the requests; Google's library holds the description of the API."""
    from googleapiclient import discovery_cache
    from ray.autoscaler._private.gcp.node import GCPCompute

    words = ["gcp", "--project", "my-project", "--storage", "gs://bucket/runs"]
    file = _written(metagen, tmp_path / "c.yaml", *words, *extra)
    bodies: list[Any] = []

    class Instances:
        def insert(self, body: Any, **where: Any) -> Any:
            assert (where["project"], where["zone"]) == ("my-project", "us-central1-a")
            bodies.append(body)
            return SimpleNamespace(execute=lambda **transport: {"name": "op"})

    compute = GCPCompute(SimpleNamespace(instances=Instances, _http=None), "my-project", "us-central1-a", "mine")
    monkeypatch.setattr(compute, "get_new_authorized_http", lambda http: None)
    for kind in file.config["available_node_types"].values():
        compute.create_instance(kind["node_config"], {"ray-node-name": "x", "ray-node-type": "x"}, False)
    static = Path(discovery_cache.__file__).parent / "documents" / "compute.v1.json"
    schemas = json.loads(static.read_text())["schemas"]
    head, worker = bodies
    for body in bodies:
        assert _unknown(schemas, "Instance", body) == []
        assert body["tags"]["items"] == ["metagen-mine"]
    assert "scheduling" not in head
    assert (worker["scheduling"].get("provisioningModel") == "SPOT") == ("--spot" in extra)
    assert ("--gpu" not in extra) or worker["scheduling"]["onHostMaintenance"] == "TERMINATE"
    rule = gcp_firewall.rules(file)
    assert [_unknown(schemas, "Firewall", one) for one in rule] == [[], [], []]
