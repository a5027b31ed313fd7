"""Firewall rules of a cluster on Compute Engine, for its network tag: ssh from one network, all among its machines.

They stand above the default network's own rules, of which one lets the whole internet reach port 22: a lower number
counts first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from launch.clusters.cluster_file import ClusterFile
from metagen.errors import UserError

API = "https://compute.googleapis.com/compute/v1"
SCOPE = "https://www.googleapis.com/auth/compute"
OPERATION_SECONDS = 120.0
ALLOW, DENY = 900, 1000
"""Priorities. The default network's own rules have 65534."""


def rules(file: ClusterFile) -> list[dict[str, Any]]:
    """The rules, as the API takes them."""
    tag = f"metagen-{file.name}"
    common = {"network": "global/networks/default", "direction": "INGRESS", "targetTags": [tag]}
    everything = [{"IPProtocol": "all"}]
    return [
        {
            **common,
            "name": f"{tag}-ssh",
            "priority": ALLOW,
            "sourceRanges": [file.metagen.ssh_cidr],
            "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}],
        },
        {**common, "name": f"{tag}-inside", "priority": ALLOW, "sourceTags": [tag], "allowed": everything},
        {**common, "name": f"{tag}-closed", "priority": DENY, "sourceRanges": ["0.0.0.0/0"], "denied": everything},
    ]


def ensure(file: ClusterFile) -> None:
    """Leave the project with exactly the cluster's rules. Raises ``UserError`` in the cloud's words if it refuses."""
    made: list[str] = []
    with _told():
        session = _session()
        try:
            for rule in rules(file):
                place = f"{_firewalls(file)}/{rule['name']}"
                there = session.get(place)
                if there.status_code == 404:
                    answer = session.post(_firewalls(file), json=rule)
                    made.append(place)
                else:
                    _checked(there)
                    answer = session.put(place, json=rule)
                _wait(session, _checked(answer))
        except BaseException:
            for place in made:
                session.delete(place)
            raise


def remove(file: ClusterFile) -> list[str]:
    """Delete the rules; gives what could not be deleted."""
    try:
        with _told():
            session = _session()
            for rule in rules(file):
                answer = session.delete(f"{_firewalls(file)}/{rule['name']}")
                if answer.status_code != 404:
                    _wait(session, _checked(answer))
    except UserError as error:
        return [str(error)]
    return []


@contextmanager
def _told() -> Iterator[None]:
    """What Google's library and the network raise, as ``UserError`` in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from google.auth.exceptions import GoogleAuthError, TransportError
        from requests.exceptions import RequestException

        words = " ".join(str(error).split())[:300]
        if isinstance(error, TransportError | RequestException):
            raise UserError(f"Google Cloud does not answer ({words}): is the network there?") from None
        if isinstance(error, GoogleAuthError):
            raise UserError(f"Google Cloud: {words}: run 'gcloud auth application-default login'") from None
        raise


def _firewalls(file: ClusterFile) -> str:
    return f"{API}/projects/{file.provider['project_id']}/global/firewalls"


def _session() -> Any:
    """Requests with the caller's credentials."""
    try:
        import google.auth
        from google.auth.transport.requests import AuthorizedSession
    except ModuleNotFoundError:
        raise UserError("Google Cloud needs its library: pip install 'metagen[gcp]'") from None
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except google.auth.exceptions.DefaultCredentialsError:
        raise UserError("Google Cloud: no credentials: run 'gcloud auth application-default login'") from None
    return AuthorizedSession(credentials)


def _checked(answer: Any) -> dict[str, Any]:
    """The answer's JSON; raises ``UserError`` with the API's own message if it is an error."""
    try:
        values: dict[str, Any] = answer.json()
    except ValueError:
        values = {}
    if answer.status_code >= 400 or values.get("error"):
        error = values.get("error") or {}
        first = (error.get("errors") or [error])[0]
        raise UserError(f"Google Cloud: {first.get('message') or f'HTTP {answer.status_code}'}")
    return values


def _wait(session: Any, operation: dict[str, Any]) -> None:
    """Wait until an operation is done; rules hold only then."""
    deadline = time.monotonic() + OPERATION_SECONDS
    while operation.get("status") != "DONE":
        if time.monotonic() > deadline:
            raise UserError(
                f"Google Cloud: {operation.get('name')} is not done in {OPERATION_SECONDS:.0f} s: try again"
            )
        operation = _checked(session.post(f"{operation['selfLink']}/wait"))
