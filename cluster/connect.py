"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray
from ray._private import ray_constants

from cluster.token import ensure_private
from metagen.errors import UserError
from metagen.pool import Crew, available_cores

PROBE_SECONDS = 5.0
ACTOR_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""What an actor's process must have set before it starts: one compute thread, no telemetry."""

_started_here = False


def start_ray(address: str | None, crews: Sequence[Crew]) -> None:
    """Connect to the cluster at ``address``, or start Ray on this machine, for the least actors of ``crews``.

    Without an address the environment's ``RAY_ADDRESS`` counts, which Ray sets for the jobs of a cluster.
    Raises ``UserError`` if there is no cluster there or fewer cores than the actors ask for.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or None
    actors = sum(crew.least for crew in crews)
    cpus, gpus = (sum(crew.least * getattr(crew, what) for crew in crews) for what in ("cpus", "gpus"))
    if address is None:
        cores = available_cores()
        if cpus > cores:
            each = cpus / actors
            most = int(cores // each)
            fix = f"use --actors {most}" if most else f"lower pool.cpus to {cores} or less"
            raise UserError(f"{actors} actors of {each:g} cores on {cores}: {fix}")
        ensure_private()
        _start_local(cores, preload=2 * cpus >= cores)
        return
    _probe(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"no Ray cluster answers at {address} ({first}): check 'ray status' there") from None
    have = ray.cluster_resources()
    for name, need in (("CPU", cpus), ("GPU", gpus)):
        if need > have.get(name, 0.0):
            stop_ray()
            raise UserError(
                f"{actors} actors need {need:g} {name}, the cluster has {have.get(name, 0.0):g}: ask for fewer, or for "
                f"a range such as --actors 1-{actors}, which begins with those that there is room for"
            )


def _start_local(cores: int, preload: bool) -> None:
    """Start Ray here. Its processes get what actors need in their environment, and with it Ray can make actors of those
    that it starts beforehand, one a core: with ``preload`` they import it while the driver still measures and plans.
    """
    global _started_here
    os.environ.update(ACTOR_ENVIRONMENT)
    if preload:
        os.environ.setdefault("RAY_preload_python_modules", "cluster.actor")
    with _on_loopback():
        # "local": a cluster that happens to run on this machine is joined only if it is asked for.
        ray.init(
            address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
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


def actor_environment() -> dict[str, str]:
    """What Ray has to set for an actor: nothing where ``start_ray`` has seen to it, since that costs a new process."""
    return {} if _started_here else ACTOR_ENVIRONMENT


def stop_ray() -> None:
    """Leave the cluster; a Ray that ``start_ray`` started on this machine ends with it."""
    global _started_here
    ray.shutdown()
    _started_here = False


def _probe(address: str) -> None:
    """Raise ``UserError`` unless something listens at ``HOST:PORT``: Ray itself would try for minutes."""
    try:
        parts = urlsplit(address if "//" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:  # "auto", or nothing that Ray would try either
        return
    try:
        socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(f"no Ray cluster answers at {address} ({why}): check 'ray status' there") from None
