"""Hosts on this machine, for what crosses a network: ``python hosts.py up FOLDER N|down|cut N|join N|limit N RATE``.

A host is a network namespace on a bridge, with its own mounts, processes, IPC and host name, and an ssh server. It sees
this Python and this checkout where they are, has its own /tmp, /run, /dev/shm and home, and shares /srv.
Needs root, and Debian's openssh-server, rsync and iproute2.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BRIDGE, SPACE, LINK, NETWORK = "mgtest0", "mgtest", "mgt", "10.93.7"
LINKS_SECONDS = 420.0
"""More than all tests on hosts take."""
LOCK = Path("/run/lock/metagen-test-hosts")
ROOT = Path(__file__).resolve().parents[3]
PRIVATE = ("/tmp", "/root", "/run")
TOOLS = ("ip", "unshare", "ssh", "ssh-keygen", "rsync")


def address(number: int) -> str:
    """Host ``number``, from 1."""
    return f"{NETWORK}.{10 + number}"


def missing() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not Path("/usr/sbin/sshd").exists():
        absent.append("sshd")
    if absent:
        return f"needs {', '.join(absent)}: apt-get install openssh-server rsync iproute2"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--uts", "--ipc", "sh", "-c", "mount -t tmpfs tmpfs /mnt"],
        capture_output=True,
        check=False,
    )
    bridge = subprocess.run(["ip", "link", "add", f"{BRIDGE}x", "type", "bridge"], capture_output=True, check=False)
    if bridge.returncode == 0:
        _run("ip", "link", "del", f"{BRIDGE}x")
    return None if tried.returncode == bridge.returncode == 0 else "namespaces are not allowed here"


def up(folder: Path, count: int) -> None:
    """Make ``count`` hosts; their key is FOLDER/key, what they share FOLDER/shared."""
    down()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shared").mkdir(exist_ok=True)
    # A name server that refuses at once: Ray asks for names, and would wait for one that cannot be reached.
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    if not (folder / "key").exists():
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    _run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    for number in range(1, count + 1):
        _start(folder, number)
    for number in range(1, count + 1):
        _wait_for_ssh(folder, number)


def down() -> None:
    """End every host and all that runs on it, also what a killed test left."""
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for space in [line.split()[0] for line in spaces.splitlines() if line.startswith(SPACE)]:
        inside = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
        for pid in map(int, inside.stdout.split()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
    _wait_for_links()
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def _wait_for_links() -> None:
    """Wait until no host's link is left. The kernel takes ours away some time after their processes. Those of a test in
    another container that shares this network, whose lock and namespaces cannot be seen here, go when it is done.
    """
    deadline = time.monotonic() + LINKS_SECONDS
    while True:
        shown = subprocess.run(["ip", "-o", "link", "show", "type", "veth"], capture_output=True, text=True, check=True)
        links = re.findall(rf"^\d+: ({LINK}\d+)[@:]", shown.stdout, re.MULTILINE)
        if not links:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"links that are not ours stay: ip link del {'; ip link del '.join(links)}")
        time.sleep(0.1)


@contextmanager
def alone() -> Iterator[None]:
    """Waits until no other test of this machine has hosts: their names and addresses are the same."""
    LOCK.parent.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cut(number: int) -> None:
    """Take a host off the network."""
    _run("ip", "link", "set", f"{LINK}{number}", "down")


def join(number: int) -> None:
    """Put a host on the network again."""
    _run("ip", "link", "set", f"{LINK}{number}", "up")


def limit(number: int, rate: str) -> None:
    """Bound a host's bandwidth in both directions, such as 200mbit; ``none`` lifts the bound."""
    for place in ([], ["-n", f"mgtest{number}"]):
        device = "eth0" if place else f"{LINK}{number}"
        subprocess.run(["tc", *place, "qdisc", "del", "dev", device, "root"], capture_output=True, check=False)
        if rate != "none":
            shape = ["tbf", "rate", rate, "burst", "256kb", "latency", "400ms"]
            _run("tc", *place, "qdisc", "add", "dev", device, "root", *shape)


def _start(folder: Path, number: int) -> None:
    space, link = f"mgtest{number}", f"{LINK}{number}"
    _run("ip", "netns", "add", space)
    _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
    _run("ip", "link", "set", link, "master", BRIDGE, "up")
    _run("ip", "-n", space, "addr", "add", f"{address(number)}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _run("ip", "-n", space, "link", "set", device, "up")
    _run("ip", "-n", space, "route", "add", "default", "via", f"{NETWORK}.1")
    with (folder / f"host{number}.log").open("w") as log:
        subprocess.Popen(
            [
                *("ip", "netns", "exec", space),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"),
                *("bash", "-c", _script(folder, number)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _script(folder: Path, number: int) -> str:
    """What the first process of a host does: its own file systems, then sshd."""
    seen = {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), ROOT, folder.resolve()}
    hidden = [path for path in sorted(seen) if any(path.is_relative_to(top) for top in PRIVATE)]
    lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs tmpfs /mnt"]
    for index, path in enumerate(hidden):
        lines += [f"mkdir /mnt/{index}", f"mount --rbind {path} /mnt/{index}"]
    lines += [f"mkdir /mnt/shared; mount --bind {folder.resolve()}/shared /mnt/shared"]
    lines += [f"cat {folder.resolve()}/resolv.conf >/mnt/resolv.conf; cat {folder.resolve()}/key.pub >/mnt/key.pub"]
    lines += [f"mount -t tmpfs tmpfs {top}" for top in PRIVATE]
    lines += [f"mkdir -p {path}; mount --rbind /mnt/{index} {path}" for index, path in enumerate(hidden)]
    return "\n".join(
        [
            *lines,
            "mount --bind /mnt/shared /srv",
            "mount --bind /mnt/resolv.conf /etc/resolv.conf",
            "mount -t tmpfs -o size=2g tmpfs /dev/shm",
            "mount -t proc proc /proc",
            f"hostname mgtest{number}",
            "chmod 700 /root; mkdir -p -m 700 /run/sshd /root/.ssh",
            "cat /mnt/key.pub >/root/.ssh/authorized_keys",
            "ssh-keygen -q -t ed25519 -N '' -f /run/hostkey",
            # sshd reads no file of this machine's; sessions see this checkout as Python does here.
            f"exec /usr/sbin/sshd -D -e -f /dev/null -h /run/hostkey -o ListenAddress={address(number)} -o UsePAM=no "
            "-o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o PidFile=none -o MaxSessions=100 "
            f"-o MaxStartups=100 -o SetEnv=PYTHONPATH={ROOT}",
        ]
    )


def _wait_for_ssh(folder: Path, number: int) -> None:
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=2"]
    command = ["ssh", "-i", str(folder / "key"), *options, "-o", "BatchMode=yes", f"root@{address(number)}", "true"]
    for _ in range(100):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise SystemExit(f"host {number} does not answer: {(folder / f'host{number}.log').read_text()}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")


if __name__ == "__main__":
    action, *words = sys.argv[1:]
    if action == "up":
        up(Path(words[0]), int(words[1]))
    elif action == "down":
        down()
    elif action in ("cut", "join"):
        (cut if action == "cut" else join)(int(words[0]))
    elif action == "limit":
        limit(int(words[0]), words[1])
    else:
        raise SystemExit(__doc__)
