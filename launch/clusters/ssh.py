"""The ssh client, as a process: commands on a machine, and a tunnel to the head's loopback."""

from __future__ import annotations

import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.launcher import Unreachable
from launch.clusters.process import captured

CONNECT_SECONDS = 10
TUNNEL_SECONDS = 2.0 * CONNECT_SECONDS
READY = "metagen-tunnel-ready"
REASONS = (
    # What is wrong with the key comes before the refusal that follows from it.
    ("UNPROTECTED PRIVATE KEY", "others can read {key}: run 'chmod 600 {key}'"),
    ("not accessible", "{key} cannot be read on this machine: make one, or name another in the file"),
    (
        "Permission denied",
        "the key is refused: is {key} the right one for {user}, without a passphrase, and its public half on the "
        "machine?",
    ),
    ("Host key verification failed", "another host key than before: if the machine is new, delete {known_hosts}"),
    ("local forwarding", "another program took the tunnel's port on this machine: try again"),
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
        """Run a shell command there; raises ``Unreachable`` if the machine cannot be reached."""
        try:
            done = captured(self.command(remote), "no ssh client here: install openssh-client", timeout)
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self.address}: no answer within {timeout:.0f} s: is it overloaded?") from None
        if done.returncode == 255:  # ssh's own failures
            raise Unreachable(f"{self.address}: {self.reason(done.stderr)}")
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
        """A local port that leads to ``port`` on the machine's loopback; raises ``Unreachable`` if none can be made."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            local = int(free.getsockname()[1])
        forward = ["-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}"]
        process = subprocess.Popen(
            # What the machine says can only come once the port is ours: whoever else listens there cannot say it.
            ["ssh", *self.options, *forward, f"{self.user}@{self.address}", f"echo {READY}; exec cat >/dev/null"],
            stdin=subprocess.PIPE,  # its end is the end of what runs there
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",  # a greeting there may be in any encoding
            start_new_session=True,  # Ctrl-C is for metagen, which closes the tunnel when it has said what it must
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        deadline = time.monotonic() + TUNNEL_SECONDS
        late = threading.Timer(TUNNEL_SECONDS, process.terminate)
        late.start()
        try:
            # A shell there may say something of its own first.
            if not any(line.strip() == READY for line in process.stdout):
                if time.monotonic() >= deadline:
                    raise Unreachable(f"{self.address}: no tunnel within {TUNNEL_SECONDS:.0f} s: try again")
                raise Unreachable(f"{self.address}: {self.reason(process.stderr.read())}")
            late.cancel()
            yield local
        finally:
            late.cancel()
            process.terminate()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                stream.close()
