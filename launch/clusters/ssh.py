"""The ssh client, as a process: commands on a machine, and a tunnel to the head's loopback."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launch.clusters.process import captured
from metagen.errors import UserError

CONNECT_SECONDS = 10
REASONS = (
    ("Permission denied", "the key is refused: is {key} the right one for {user}, and its public half on the machine?"),
    ("UNPROTECTED PRIVATE KEY", "others can read {key}: run 'chmod 600 {key}'"),
    ("Host key verification failed", "another host key than before: if the machine is new, delete {known_hosts}"),
    ("Connection refused", "no ssh server listens there: start one"),
    ("timed out", "no answer: is it on, and does its firewall let you in?"),
    ("No route to host", "no route: is it on, and on this network?"),
    ("Could not resolve", "unknown name: check the address"),
)
"""What ssh says, and what to do about it."""


@dataclass(frozen=True)
class Machine:
    """A machine that ssh can reach."""

    address: str
    user: str
    key: str | None
    known_hosts: Path
    through: str | None = None
    """A machine on the way, where this one cannot be reached from here."""

    @property
    def options(self) -> list[str]:
        """A machine's host key is kept when it is first met, and must stay the same."""
        identity = ["-i", str(Path(self.key).expanduser()), "-o", "IdentitiesOnly=yes"] if self.key else []
        common = [
            *identity,
            *("-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "LogLevel=ERROR"),
            *("-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={self.known_hosts}"),
            *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
        ]
        if self.through:
            hop = shlex.join(["ssh", *common, "-W", "%h:%p", f"{self.user}@{self.through}"])
            return [*common, "-o", f"ProxyCommand={hop}"]
        return common

    def command(self, remote: str | None = None, terminal: bool = False) -> list[str]:
        """The ssh command line that runs ``remote`` there, or a shell."""
        return [
            *("ssh", *self.options, *(("-t",) if terminal else ()), f"{self.user}@{self.address}"),
            *((remote,) if remote else ()),
        ]

    def run(self, remote: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell command there; raises ``UserError`` if the machine cannot be reached."""
        try:
            done = captured(self.command(remote), "no ssh client here: install openssh-client", timeout)
        except subprocess.TimeoutExpired:
            raise UserError(f"{self.address}: no answer within {timeout:.0f} s: is it overloaded?") from None
        if done.returncode == 255:  # ssh's own failures
            raise UserError(f"{self.address}: {self.reason(done.stderr)}")
        return done

    def reason(self, said: str) -> str:
        """What ssh's complaint means, in one line."""
        known = {"key": self.key or "the default key", "user": self.user, "known_hosts": self.known_hosts}
        for needle, meaning in REASONS:
            if needle in said:
                return meaning.format(**known)
        return (said.strip().splitlines() or ["ssh failed without a word"])[-1]

    @contextmanager
    def tunnel(self, port: int) -> Iterator[int]:
        """A local port that leads to ``port`` on the machine's loopback; raises ``UserError`` if none can be made."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            local = int(free.getsockname()[1])
        forward = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}"]
        process = subprocess.Popen(
            ["ssh", *self.options, *forward, f"{self.user}@{self.address}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for metagen, which closes the tunnel when it has said what it must
        )
        try:
            deadline = time.monotonic() + 2 * CONNECT_SECONDS
            while not _listens(local):
                if process.poll() is not None:
                    assert process.stderr is not None
                    raise UserError(f"{self.address}: {self.reason(process.stderr.read())}")
                if time.monotonic() > deadline:
                    raise UserError(f"{self.address}: no tunnel within {2 * CONNECT_SECONDS} s: try again")
                time.sleep(0.05)
            yield local
        finally:
            process.terminate()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
