"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import ray
from ray._private import ray_constants
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.authentication.authentication_token_setup import (
    AUTH_MODE_ENV_VAR,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import Config, GcsClient  # type: ignore[attr-defined]  # compiled: no types
from ray.exceptions import AuthenticationError, RayError

from cluster.token import ensure_private
from metagen.errors import UserError
from metagen.pool import Crew, available_cores

Check = Callable[[Mapping[str, float]], object]
PROBE_SECONDS = 5.0
HTTP2_SETTINGS, FRAME_HEAD = b"\x04", 9
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + HTTP2_SETTINGS + b"\0\0\0\0\0"
"""What a client begins with, and its settings, which are empty; the fourth byte of a frame's head is its kind."""
ROUNDING = 1e-9
"""Ten tenths of a GPU are one."""
ACTOR_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""What an actor's process must have set before it starts: one compute thread, no telemetry."""

_started_here = False


def start_ray(address: str | None, crews: Sequence[Crew], check: Check | None = None) -> None:
    """Connect to the cluster at ``address``, or start Ray on this machine, for the least actors of ``crews``.

    ``check`` raises ``UserError`` if what there is (``CPU`` and ``GPU``, as Ray names them) is too little: before Ray
    is started here, or once the cluster is joined. By default the least actors must have room.

    Without an address the environment's ``RAY_ADDRESS`` counts, which Ray sets for the jobs of a cluster.
    Raises ``UserError`` if there is no cluster there, it refuses the token, or Ray does not start here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or None
    address = None if address == "local" else address  # Ray's word for a Ray of this machine's own
    check = check or partial(_check_room, crews, address is None)
    if address is None:
        cores = available_cores()
        check({"CPU": cores, "GPU": _gpus()})
        ensure_private()
        _start_local(cores, preload=2 * sum(crew.least * crew.cpus for crew in crews) >= cores)
        return
    _probe(address)
    try:
        where = _log_in(address)
        with _own_sigterm():
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise UserError(
            f"cannot log in to the Ray cluster at {address} ({error.message}): use the machine that started it, or "
            "copy its token file here (~/.ray/auth_token)"
        ) from None
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, RayError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"no Ray cluster answers at {address} ({first}): check 'ray status' there") from None
    try:
        check(ray.cluster_resources())
    except UserError:
        stop_ray()
        raise


def _check_room(crews: Sequence[Crew], here: bool, have: Mapping[str, float]) -> None:
    """Raise ``UserError`` unless there is room for the least actors of ``crews``."""
    for name, key, words in (("CPU", "cpus", "cores"), ("GPU", "gpus", "GPUs")):
        taking = [crew for crew in crews if getattr(crew, key)]
        actors, room = sum(crew.least for crew in taking), have.get(name, 0.0)
        need = sum(crew.least * getattr(crew, key) for crew in taking)
        if need <= room + ROUNDING:
            continue
        each = need / actors
        fit = int(room / each + ROUNDING)
        if len(crews) > 1:
            fix = f"ask for fewer (--actors, pool.others), or lower their {key}"
        elif not fit:
            fix = f"lower pool.{key} to {room:g}" + (" or less" if room else "")
        elif here:
            fix = f"use --actors {fit}"
        else:
            fix = f"use --actors {fit}, or a range such as 1-{actors}, which begins with those that there is room for"
        whose = "" if here else "the cluster's "
        raise UserError(f"{actors} actors of {each:g} {words} on {whose}{room:g}: {fix}")


def _gpus() -> int:
    """GPUs that Ray will find on this machine."""
    kind = get_accelerator_manager_for_resource("GPU")
    if kind is None:
        return 0
    visible = kind.get_current_process_visible_accelerator_ids()
    count: int = kind.get_current_node_num_accelerators()
    return count if visible is None else min(count, len(visible))


def _start_local(cores: int, preload: bool) -> None:
    """Start Ray here. Its processes get what actors need in their environment, and with it Ray can make actors of those
    that it starts beforehand, one a core: with ``preload`` they import it while the driver still measures and plans.

    Raises ``UserError`` if Ray does not start.
    """
    global _started_here
    os.environ.update(ACTOR_ENVIRONMENT)
    if preload:
        os.environ.setdefault("RAY_preload_python_modules", "cluster.actor")
    try:
        with _on_loopback(), _own_sigterm():
            # "local": a cluster that happens to run on this machine is joined only if it is asked for.
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:  # a machine too busy, a full disk, a folder that cannot be: no class in common
        raise UserError(
            f"Ray does not start on this machine ({' '.join(str(error).split())}): look with 'metagen doctor', or try "
            "again if the machine is busy; 'metagen train --pool serial' needs no Ray"
        ) from None
    _started_here = True


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A Ray started within has its processes listen on 127.0.0.1 alone: nobody else reaches them, and the machine may
    lose or change its network while they work. Ray does so by itself on macOS and has no argument for it elsewhere.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Have this program's handler of SIGTERM back once Ray has put its own, which abort, in Python and in C++."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def actor_environment() -> dict[str, str]:
    """What Ray has to set for an actor: nothing where ``start_ray`` has seen to it, since that costs a new process."""
    return {} if _started_here else ACTOR_ENVIRONMENT


def stop_ray() -> None:
    """Leave the cluster; a Ray that ``start_ray`` started on this machine ends with it."""
    global _started_here
    ray.shutdown()
    _started_here = False


def _probe(address: str) -> None:
    """Raise ``UserError`` unless gRPC, as Ray speaks it, is at ``HOST:PORT``: Ray itself would try for minutes.

    Such a server begins with its settings (RFC 9113, 3.4). With TLS they cannot be read here.
    """
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:  # "auto", or nothing that Ray would try either
        return
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS) as tried:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            tried.sendall(HTTP2_PREFACE)
            said = _said(tried)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"no Ray cluster answers at {address} ({why}): check 'ray status' there") from None
    if not said:
        raise UserError(f"no Ray cluster answers at {address} (nothing was said there): check 'ray status' there")
    if said[3:4] != HTTP2_SETTINGS:
        raise UserError(
            f"no Ray cluster answers at {address} (another program listens there): give the head's own port, which is "
            "6379 unless it was started with another; the dashboard's is not it"
        )


def _said(server: socket.socket) -> bytes:
    """The head of a server's first frame, or what it says instead; nothing if it is silent or hangs up."""
    said = b""
    with suppress(OSError):
        while len(said) < FRAME_HEAD and (more := server.recv(FRAME_HEAD - len(said))):
            said += more
    return said


def _log_in(address: str) -> str:
    """Take on the way of authentication that the cluster at ``address`` has; gives its ``HOST:PORT``.

    A cluster that asks for a token is shown the one that is here: Ray itself uses a token that it finds for "auto"
    alone. One that asks for none is shown none, although there is one wherever metagen has once started Ray: its head
    calls drivers, to hear whether their actors are still wanted, and a driver that asks for tokens refuses such a call,
    upon which its actors are ended.

    Raises ``AuthenticationError`` if the cluster refuses the token, or there is none. Ray itself takes such a cluster
    for one that is not there, after twenty seconds and as many warnings. Raises ``UserError`` if a token is insisted
    on and the cluster has none.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # as ray.init does: what it says of the token is for who starts
    if "//" in address:  # through Ray's client: its server, on the cluster, logs in
        return address
    where = address if ":" in address else str(canonicalize_bootstrap_address(address))
    said = os.environ.get(AUTH_MODE_ENV_VAR)
    with _quiet():
        if (said is None or said.lower() == "token") and not _asks_for_token(where):
            if said is None:
                return where
            raise UserError(
                f"the Ray cluster at {address} was started without a token, and with {AUTH_MODE_ENV_VAR}={said} its "
                "calls to this process would be refused: unset it here, or start the cluster with a token"
            )
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # where the environment says nothing
        _check_alive(where)
    return where


def _asks_for_token(address: str) -> bool:
    """Whether the cluster at ``HOST:PORT`` refuses who shows none."""
    before = os.environ.get(AUTH_MODE_ENV_VAR)
    _authenticate_by("disabled")
    try:
        _check_alive(address)
    except AuthenticationError:
        return True
    finally:
        _authenticate_by(before)
    return False


def _authenticate_by(mode: str | None) -> None:
    """Have this process authenticate by ``mode``; None for what Ray does unasked."""
    if mode is None:
        os.environ.pop(AUTH_MODE_ENV_VAR, None)
    else:
        os.environ[AUTH_MODE_ENV_VAR] = mode
    Config.initialize("")  # Ray has read the environment when it was imported


def _check_alive(address: str) -> None:
    GcsClient(address=address).check_alive([], timeout=PROBE_SECONDS)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from stderr what Ray's C++ writes there; what it raises says the same."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
