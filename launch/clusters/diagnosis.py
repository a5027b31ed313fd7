"""What ``metagen doctor`` looks at: this machine, and with a target the way to a cluster."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from metagen.errors import UserError

GOOD, POOR, BAD = "good", "poor", "bad"
GIB = 2**30
RAY_PORTS = (6379, 8265)
CLOCK_SECONDS = 30.0


class Finding(NamedTuple):
    """One line of the report."""

    state: str
    """good; poor: it works, with a drawback; bad: it will not work."""
    what: str
    seen: str
    fix: str = ""


Check = Callable[[], Iterator[Finding]]


def python() -> Iterator[Finding]:
    """A Python that metagen supports."""
    seen = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding(GOOD, "python", seen)
    else:
        yield Finding(BAD, "python", seen, "install Python 3.11, 3.12 or 3.13")


def torch_build() -> Iterator[Finding]:
    """PyTorch, and whether it can use the GPU that is there."""
    import torch

    card = shutil.which("nvidia-smi") is not None
    seen = f"{torch.__version__}, {'CUDA ' + str(torch.version.cuda) if torch.version.cuda else 'CPU build'}"
    yield Finding(GOOD, "torch", seen)
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        yield Finding(GOOD, "gpu", f"{torch.cuda.device_count()}: {', '.join(sorted(names))}")
    elif card and torch.version.cuda is None:
        yield Finding(POOR, "gpu", "there is one, and PyTorch is a CPU build", "pip install torch from the CUDA index")
    elif card:
        yield Finding(
            BAD, "gpu", "there is one, and PyTorch cannot use it", "see that nvidia-smi runs; update the driver"
        )
    else:
        yield Finding(GOOD, "gpu", "none; everything runs on CPU")


def cores() -> Iterator[Finding]:
    """Cores that may be used, and one compute thread a worker."""
    from metagen.pool import available_cores

    count, all_of_them = available_cores(), os.cpu_count() or 1
    seen = f"{count} of {all_of_them}" if count < all_of_them else str(count)
    if count < 2:
        yield Finding(POOR, "cores", seen, "one actor and the learner share it: use --pool serial")
    else:
        yield Finding(GOOD, "cores", seen)


def memory() -> Iterator[Finding]:
    """Main memory and shared memory, where Ray keeps what actors read."""
    free = _available_memory()
    if free is not None:
        fix = "" if free >= 2 * GIB else "end other programs, or lower phases.N.tasks"
        yield Finding(GOOD if not fix else POOR, "memory", f"{free / GIB:.1f} GiB free", fix)
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        fix = "" if free >= GIB else "in a container: --shm-size=2g; else: mount -o remount,size=2g /dev/shm"
        yield Finding(GOOD if not fix else POOR, "shared memory", f"{free / GIB:.1f} GiB free in /dev/shm", fix)


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def disk() -> Iterator[Finding]:
    """Space for runs, and for what Ray spills to disk."""
    for place in (Path.cwd(), Path("/tmp")):
        free = shutil.disk_usage(place).free
        fix = "" if free >= 2 * GIB else "free some space"
        yield Finding(GOOD if not fix else POOR, f"disk {place}", f"{free / GIB:.1f} GiB free", fix)


def ray_here() -> Iterator[Finding]:
    """Ray's version, its ports and its token on this machine."""
    yield Finding(GOOD, "ray", metadata.version("ray"))
    for port in RAY_PORTS:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
                yield Finding(GOOD, f"port {port}", "free")
            except OSError:
                fix = "a Ray cluster runs here already: join it with --address auto, or 'ray stop'"
                yield Finding(POOR, f"port {port}", "taken", fix)
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if not token.exists():
        yield Finding(GOOD, "ray token", "none yet; Ray makes one")
    elif token.stat().st_mode & 0o077:
        yield Finding(POOR, "ray token", f"{token} can be read by others", f"chmod 600 {token}")
    else:
        yield Finding(GOOD, "ray token", f"{token} is private")


LOCAL: tuple[Check, ...] = (python, torch_build, cores, memory, disk, ray_here)


def cluster(word: str) -> Iterator[Finding]:
    """The way to a cluster: ssh, token, versions, nodes, storage, clock."""
    from launch.clusters import target

    try:
        place = target.find(word)
        if place.file is not None:
            yield from _over_ssh(place)
        with place.dashboard() as dashboard:
            theirs, mine = dashboard.version(), metadata.version("ray")
            same = theirs == mine
            yield Finding(
                GOOD if same else BAD, "cluster's ray", theirs, "" if same else f"pip install ray=={theirs} here"
            )
            nodes = dashboard.nodes()  # the version is told to everybody, the nodes are not
            yield Finding(GOOD, "cluster's token", "accepted" if dashboard.headers else "none is asked for")
            gone = [node.address for node in nodes if not node.alive]
            seen = f"{len(nodes) - len(gone)} alive, {len(gone)} gone"
            yield Finding(POOR if gone else GOOD, "nodes", seen, f"look at {', '.join(gone[:3])}" if gone else "")
    except ConnectionError as error:
        yield Finding(BAD, "dashboard", str(error), "is the cluster up, and is this its address?")
    except UserError as error:
        yield Finding(BAD, "cluster", *_halves(str(error)))


def _over_ssh(place: object) -> Iterator[Finding]:
    from launch.clusters import access
    from launch.clusters.target import Target
    from launch.jobs.places import folder_there, is_bucket
    from metagen.files import Files

    assert isinstance(place, Target)
    file = place.ssh_file("this")
    machine = access.head(file)
    began = time.time()
    done = machine.run("date +%s")
    ended = time.time()
    yield Finding(GOOD, "ssh", f"{machine.user}@{machine.address} in {ended - began:.1f} s")
    there = float(done.stdout.strip() or 0)
    skew = max(began - there - 1, there - ended, 0.0)  # its clock shows whole seconds
    off = skew > CLOCK_SECONDS
    yield Finding(BAD if off else GOOD, "clock", f"{skew:.0f} s off", "start chrony on both machines" if off else "")
    storage = file.metagen.storage
    if is_bucket(storage):
        try:
            Files(storage).reach()
            yield Finding(GOOD, "storage", f"{storage} answers from here")
        except UserError as error:
            yield Finding(POOR, "storage", *_halves(str(error)))
    else:
        # One that is not there is made when the cluster is started.
        ready = f'p={folder_there(storage)}; while test ! -e "$p"; do p=$(dirname "$p"); done; test -d "$p" -a -w "$p"'
        bad = machine.run(ready).returncode != 0
        fix = "mount it, or let the ssh user write there" if bad else ""
        yield Finding(BAD if bad else GOOD, "storage", f"{storage} is {'not ' if bad else ''}writable on the head", fix)


def _halves(text: str) -> tuple[str, str]:
    """An error's message is what is wrong, a colon, and the fix."""
    seen, _, fix = text.rpartition(": ")
    return (seen, fix) if seen else (text, "")
