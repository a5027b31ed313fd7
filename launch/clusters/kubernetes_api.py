"""The Kubernetes API through the official client, with its errors in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from launch.clusters.providers.manifests import Manifest
from metagen.errors import UserError

MANAGER = "metagen"
DELETE_SECONDS = 120.0
SILENT_SECONDS = 120.0
STDOUT, STDERR, STATUS = 1, 2, 3
"""Channels of what runs in a pod."""


class Api:
    """The cluster that the caller's kubeconfig names, or the one that this pod is in."""

    def __init__(self) -> None:
        try:
            from kubernetes import client, config, dynamic
        except ModuleNotFoundError:
            raise UserError("Kubernetes needs its library: pip install 'metagen[kubernetes]'") from None
        file = os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
        try:
            if "KUBERNETES_SERVICE_HOST" in os.environ and not os.path.exists(file):  # in a pod
                config.load_incluster_config()
            else:
                config.load_kube_config(config_file=file)
        except config.ConfigException as error:
            raise UserError(
                f"no Kubernetes cluster ({_first(error)}): set KUBECONFIG, or run 'kubectl config'"
            ) from None
        self.core: Any = client.CoreV1Api()
        with self._told():
            self.dynamic = dynamic.DynamicClient(client.ApiClient())

    def apply(self, documents: list[Manifest]) -> list[Manifest]:
        """Server-side apply all, or none: what was new is deleted again if one is refused. Gives what was new."""
        made: list[Manifest] = []
        try:
            for document in documents:
                new = self.get(document) is None
                with self._told(document):
                    self._resource(document).server_side_apply(
                        body=document, field_manager=MANAGER, force_conflicts=True, **_place(document)
                    )
                if new:
                    made.append(document)
        except BaseException:
            self.undo(made)
            raise
        return made

    def undo(self, made: list[Manifest]) -> None:
        """Delete what was made, the last first."""
        for document in reversed(made):
            self.delete(document)

    def get(self, document: Manifest) -> Manifest | None:
        """The object as the cluster has it; None if it has none."""
        from kubernetes.client.exceptions import ApiException

        with self._told(document):
            try:
                found = self._resource(document).get(name=document["metadata"]["name"], **_place(document))
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        values: Manifest = found.to_dict()
        return values

    def delete(self, document: Manifest, wait: bool = False) -> None:
        """Delete an object, if it is there."""
        from kubernetes.client.exceptions import ApiException

        with self._told(document):
            try:
                self._resource(document).delete(name=document["metadata"]["name"], **_place(document))
            except ApiException as error:
                if error.status != 404:
                    raise
        deadline = time.monotonic() + DELETE_SECONDS
        while wait and self.get(document) is not None:
            if time.monotonic() > deadline:
                raise UserError(f"{_title(document)} is not deleted within {DELETE_SECONDS:.0f} s: see its finalizers")
            time.sleep(0.5)

    def logs(self, namespace: str, selector: str, container: str) -> Iterator[tuple[str, str]]:
        """Pods that match, and what their container has printed; none where it has not begun."""
        from kubernetes.client.exceptions import ApiException

        with self._told():
            found = self.core.list_namespaced_pod(namespace, label_selector=selector).items
        for name in (pod.metadata.name for pod in found):
            try:
                text = self.core.read_namespaced_pod_log(name, namespace, container=container)
            except ApiException as error:
                if error.status in (400, 404):  # still being made, or gone already
                    continue
                raise UserError(f"Kubernetes: {_words(error)}") from None
            yield name, text

    def execute(self, namespace: str, pod: str, command: list[str], out: IO[bytes]) -> tuple[int, str]:
        """Run a command in a pod, what it prints into ``out``; gives its exit code and its complaint's last line."""
        from kubernetes.stream import stream

        with self._told():
            socket: Any = stream(
                self.core.connect_get_namespaced_pod_exec,
                *(pod, namespace),
                command=command,
                stdin=False,
                stdout=True,
                stderr=True,
                tty=False,
                binary=True,
                _preload_content=False,
            )
        complaint, end, deadline = b"", b"", time.monotonic() + SILENT_SECONDS
        try:
            goes_on = True
            while goes_on:  # once more after the end: reading one channel may have taken in the last of another
                goes_on = socket.is_open()
                socket.update(timeout=1.0)
                text = socket.read_channel(STDOUT)
                out.write(text)
                complaint += socket.read_channel(STDERR)
                end += socket.read_channel(STATUS)
                if text:
                    deadline = time.monotonic() + SILENT_SECONDS
                if time.monotonic() > deadline:
                    raise UserError(f"Pod {pod}: silent for {SILENT_SECONDS:.0f} s: try again")
        finally:
            socket.close()
            socket.sock.shutdown()  # where the server closed first, close() leaves the socket open
        words = (complaint.decode(errors="replace").strip().splitlines() or [""])[-1]
        try:
            status = json.loads(end)
        except ValueError:
            raise UserError(f"Pod {pod}: the connection broke: try again") from None
        if status["status"] == "Success":
            return 0, words
        causes = (status.get("details") or {}).get("causes") or []
        code = next((int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"), None)
        if code is None:  # it was not even begun
            raise UserError(f"Kubernetes: {status.get('message')}")
        return code, words

    def events(self, document: Manifest) -> list[str]:
        """The last warnings about an object."""
        name, namespace = document["metadata"]["name"], document["metadata"].get("namespace", "default")
        with self._told():
            found = self.core.list_namespaced_event(namespace, field_selector=f"involvedObject.name={name}").items
        return [f"{event.reason}: {event.message}" for event in found if event.type == "Warning"][-3:]

    def _resource(self, document: Manifest) -> Any:
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        try:
            return self.dynamic.resources.get(api_version=document["apiVersion"], kind=document["kind"])
        except ResourceNotFoundError:
            raise UserError(
                f"the cluster does not know {document['kind']} of {document['apiVersion']}: install KubeRay's operator"
            ) from None

    @contextmanager
    def _told(self, document: Manifest | None = None) -> Iterator[None]:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        about = f"{_title(document)}: " if document else ""
        try:
            yield
        except ApiException as error:
            raise UserError(f"Kubernetes: {about}{_words(error)}") from None
        except HTTPError as error:
            raise UserError(f"Kubernetes does not answer ({_first(error)}): is it up?") from None


def _place(document: Manifest) -> dict[str, str]:
    namespace = document["metadata"].get("namespace")
    return {"namespace": namespace} if namespace else {}


def _title(document: Manifest) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def _words(error: Any) -> str:
    """The API's own message: a quota, a missing right, a wrong field."""
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = error.reason
    what = " ".join(str(message).split())
    return f"{what}: are your credentials for this cluster still good?" if error.status == 401 else what


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
