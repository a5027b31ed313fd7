"""Three hosts on this machine, and a cluster on them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import hosts as machines  # noqa: E402

RAY = (
    "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000 RAY_health_check_failure_threshold=3 "
    "RAY_prestart_worker_first_driver=0 RAY_worker_niceness=0"
)
"""A lost host is noticed in seconds; by default it takes a minute. No process that no test needs, and none that waits
for everything else on a busy machine."""


@dataclass
class Site:
    """Three hosts, a cluster file for them, and the command line as a user of this machine has it."""

    folder: Path
    file: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, *words: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(words), capture_output=True, text=True, timeout=timeout, env=self._env, check=False
        )

    def start(self, *words: object) -> tuple[subprocess.Popen[str], list[str], threading.Thread]:
        """A command in the background, and its lines as they come."""
        process = subprocess.Popen(
            self._command(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._env
        )
        self.started.append(process)
        lines: list[str] = []
        assert process.stdout is not None
        stream = process.stdout

        def read() -> None:
            with stream:
                for line in stream:
                    lines.append(line.rstrip())

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return process, lines, thread

    @contextmanager
    def ending(self) -> Iterator[None]:
        """At its end no host and no command is left."""
        try:
            yield
        finally:
            machines.down()
            for process in self.started:
                process.kill()
                process.wait()

    def processes(self, number: int) -> list[str]:
        """Ray's processes on a host."""
        done = subprocess.run(
            ["ip", "netns", "pids", f"mgtest{number}"], capture_output=True, text=True, check=True
        ).stdout.split()
        found = []
        for pid in done:
            try:
                words = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(name in words for name in ("gcs_server", "raylet", "ray::", "monitor.py", "dashboard.py")):
                found.append(words)
        return found

    def changed(self, name: str, change: Callable[[dict[str, object]], None]) -> Path:
        """A copy of the cluster file, changed."""
        config = yaml.safe_load(self.file.read_text())
        change(config)
        path = self.folder / name
        path.write_text(yaml.safe_dump(config))
        return path

    def _command(self, words: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "launch.cli", *map(str, words)]

    @property
    def _env(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(machines.ROOT), "OMP_NUM_THREADS": "1", **self.environment}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The hosts, with nothing running on them."""
    if why := machines.missing():
        pytest.skip(f"hosts cannot be made on this machine: {why}")
    folder = tmp_path_factory.mktemp("site")
    folder.chmod(0o700)
    site = Site(folder, folder / "cluster.yaml", {"METAGEN_HOME": str(folder / "home"), "RAY_ADDRESS": ""})
    with machines.alone(), site.ending():
        subprocess.run([sys.executable, HERE / "hosts.py", "up", str(folder), "3"], check=True)
        workers = [word for number in (2, 3) for word in ("--host", machines.address(number))]
        done = site.run(
            *("cluster", "init", "onprem", "-o", site.file, "--head", machines.address(1), *workers),
            *("--key", folder / "key", "--storage", "/srv/runs", "--venv", sys.prefix),
        )
        assert done.returncode == 0, done.stderr
        text = site.file.read_text().replace("RAY_enable_autoscaler_v2=0", f"RAY_enable_autoscaler_v2=0 {RAY}")
        site.file.write_text(text.replace("--object-manager-port=8076", "--object-manager-port=8076 --num-cpus=1"))
        yield site
