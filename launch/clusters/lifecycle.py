"""What ``metagen cluster up``, ``status`` and ``down`` do."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cluster import launcher
from cluster.jobs import ENDED, Node, alive
from launch.clusters import access, preflight
from launch.clusters.cluster_file import ClusterFile, read
from launch.clusters.cost import cost_line
from launch.clusters.init import validated
from launch.clusters.providers import around
from launch.clusters.providers.rules import ssh_is_closed
from launch.clusters.ssh import Machine
from metagen.errors import UserError
from metagen.lock import held

POLL_SECONDS = 1.0
STEP = re.compile(r"\[\d+/\d+\] .*")
LEFT = r"pgrep -f -a 'core/src/ray/(gcs/gcs_server|raylet/raylet)|^ray::' | grep -v pgrep || true"


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def _alone(file: ClusterFile) -> Iterator[None]:
    """Start or stop the cluster alone on this machine: a start that fails would stop what another has started."""
    with held(access.home(file), "started or stopped", "wait until that is done"):
        yield


@contextmanager
def _told_if_broken_off(file: ClusterFile) -> Iterator[None]:
    """Stop a cluster; who breaks that off is told that there may be more to stop."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"{file.name}: broken off, some of it may still run: 'metagen cluster down {file.path}' again")
        raise


def up(path: Path, timeout: float, keep: bool) -> None:
    """Start the cluster and wait for its workers; what was started by a failed attempt is stopped again."""
    file = validated(path)
    with _alone(file):
        _up(file, timeout, keep)


def _up(file: ClusterFile, timeout: float, keep: bool) -> None:
    path, log = file.path, access.home(file) / "up.log"
    began = time.monotonic()
    if file.kind == "local":
        _check_name(file)
        say(f"{file.name}: checking {len(file.hosts) + 1} machines")
        preflight.check(file)
    else:
        _check_no_head(file)
    around.before(file)
    access.make_token(file)  # last of all: a start that was refused leaves no secret behind
    try:
        say(f"{file.name}: starting the head (everything that is said goes to {log})")
        code, lines = launcher.up(path, file.kind, access.home(file), log, _show_step)
        if code:
            raise UserError(f"the head did not start: {launcher.reason(lines)}: see {log}")
        around.after(file)
        joined = _wait_for_workers(file, timeout)
    except BaseException as error:
        after = f"it was left as it is, 'metagen cluster down {path}' stops it"
        if not keep:
            say(f"{file.name}: stopping what was started")
            with _told_if_broken_off(file):
                left = _release(file)
            after = f"not all could be stopped: {'; '.join(left)}" if left else "nothing is left running"
        if isinstance(error, UserError):
            raise UserError(f"{error}; {after}") from None
        say(f"{file.name}: {after}")
        raise
    say(f"{file.name}: up with {joined} workers after {time.monotonic() - began:.0f} s")
    say(f"next: metagen submit {path} -- train standard")


def _check_name(file: ClusterFile) -> None:
    """Raise ``UserError`` if machines with another head were started from here under this cluster's name.

    What is remembered here, their token too, is kept by name, and would be lost.
    """
    kept = launcher.started(access.home(file))
    if kept is not None:
        head = json.loads(kept.read_text())["config"]["provider"].get("head_ip")
        if head != file.provider.get("head_ip"):
            raise UserError(
                f"{file.path}: the {file.name} that was started from here has the head {head}: give this one another "
                "cluster_name, or name that head in it"
            )


def _check_no_head(file: ClusterFile) -> None:
    """Raise ``UserError`` if a head is running, of the file as it is or as it was when it was started.

    Ray would start itself over under the jobs that run, and a failure would then end what this start did not make.
    """
    home = access.home(file)
    for kept in {launcher.started(home), None}:
        head, _ = launcher.ask(file.path, file.kind, home, kept)
        if head is not None:
            raise UserError(f"{file.name}: a head is running already: 'metagen cluster down {file.path}' first")


def _show_step(line: str) -> None:
    if found := STEP.search(line):
        say(f"  {found.group()}")


def _wait_for_workers(file: ClusterFile, timeout: float) -> int:
    """Wait for the minimum of workers; raises ``UserError`` with the monitor's last words if they do not join."""
    wanted, shown = file.workers[0], -1
    deadline, said = time.monotonic() + timeout, "nobody answers at the dashboard"
    while time.monotonic() < deadline:
        try:
            with access.dashboard(file) as dashboard:
                while time.monotonic() < deadline:
                    joined = sum(not node.head for node in alive(dashboard.nodes()))
                    if joined != shown:
                        say(f"  workers joined: {joined} of {wanted}")
                        shown = joined
                    if joined >= wanted:
                        return joined
                    said = f"only {joined} of {wanted} workers joined within {timeout:.0f} s"
                    time.sleep(POLL_SECONDS)
        except ConnectionError:  # the dashboard comes up after the head
            time.sleep(POLL_SECONDS)
    tail = access.head(file).run("tail -n 20 /tmp/ray/session_latest/logs/monitor*.{out,err,log} 2>/dev/null")
    print(f"The end of the head's monitor log:\n{tail.stdout.rstrip()}", file=sys.stderr)
    raise UserError(f"{said}: read the log above; try --timeout, a quota for more machines, or fewer min_workers")


def status(path: Path) -> None:
    """Print nodes and jobs."""
    file = read(path)
    try:
        with access.dashboard(file) as dashboard:
            nodes, jobs = dashboard.nodes(), dashboard.jobs()
    except ConnectionError as error:
        raise UserError(f"{file.name}: the head does not answer ({error}): 'metagen cluster up {path}'") from None
    working = list(alive(nodes))
    least, most = file.workers
    workers = sum(not node.head for node in working)
    cores, gpus = sum(node.cpus for node in working), sum(node.gpus for node in working)
    say(f"{file.name}: {workers} workers ({least} to {most}), {cores:g} cores, {gpus:g} GPUs")
    for node in sorted(nodes, key=lambda node: (not node.head, not node.alive, node.address)):
        say(f"  {_describe(node)}")
    running = [job for job in jobs if job.status not in ENDED]
    say(f"jobs: {len(running)} running, {len(jobs) - len(running)} ended")
    for job in running:
        say(f"  {job.id}  {job.status}  run {job.run or '-'}")
    say(cost_line(file, workers))


def _describe(node: Node) -> str:
    what = "head  " if node.head else "worker"
    return f"{what}  {node.address:<15}  {'alive' if node.alive else 'gone '}  {node.cpus:g} cores, {node.gpus:g} GPUs"


def down(path: Path) -> None:
    """Stop Ray everywhere and release the machines; raises ``UserError`` if something is left."""
    file = read(path)  # not validated: what runs must be stoppable, whatever has changed here since
    if file.kind == "local":
        _check_name(file)
    known = file.kind == "local" or launcher.started(access.home(file)) is not None
    with _alone(file), _told_if_broken_off(file):
        left = _release(file, known or _closed(file))
    if left:
        raise UserError(f"{file.name}: not all is stopped: {'; '.join(left)}")
    say(f"{file.name}: down, nothing is left running")


def _closed(file: ClusterFile) -> bool:
    """Whether machines are running though nothing is known here of their start; then the firewall is closed first.

    Ray makes a cluster's network anew where it does not know it, open to everybody, and only then looks for machines.
    """
    _, machines = launcher.ask(file.path, file.kind, access.home(file), None)
    if machines:
        if wrong := next(ssh_is_closed(file), None):
            raise UserError(f"{file.path}: {wrong}")
        around.before(file)
    return machines > 0


def _release(file: ClusterFile, machines: bool = True) -> list[str]:
    """Stop and release everything, machines if there are any; gives what could not be."""
    home = access.home(file)
    left: list[str] = []
    if file.kind == "local":
        # Ray's teardown stops Ray on the head alone: workers would find out after a minute.
        with ThreadPoolExecutor(max_workers=32) as threads:
            left += [line for line in threads.map(lambda machine: _stop(file, machine), access.machines(file)) if line]
    if machines:
        code, lines = launcher.down(file.path, file.kind, home, home / "down.log")
        if code:
            left.append(f"ray down: {launcher.reason(lines)} (see {home / 'down.log'})")
    left += around.released(file)
    if not left:
        Path(file.metagen.token).expanduser().unlink(missing_ok=True)
        (home / "known_hosts").unlink(missing_ok=True)
        shutil.rmtree(home / "tmp", ignore_errors=True)
    return left


def _stop(file: ClusterFile, machine: Machine) -> str | None:
    """Stop Ray on one machine; gives what is left of it."""
    try:
        done = machine.run(
            f"test -x {file.venv}/bin/ray || exit 0; {file.venv}/bin/ray stop --grace-period 10 >/dev/null 2>&1; "
            f"rm -f ~/.metagen/token ~/ray_bootstrap_key.pem ~/ray_bootstrap_config.yaml; {LEFT}",
            timeout=90,
        )
    except UserError as error:
        return str(error)
    rest = done.stdout.strip().splitlines()
    return f"{machine.address}: {len(rest)} Ray processes are left ({rest[0][:80]})" if rest else None
