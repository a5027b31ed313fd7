"""How long a cluster on three hosts takes to come up, to begin a job, and to go.

    python benchmarks/cluster_start.py

Makes the hosts of network namespaces on this machine, as the tests do: needs root, openssh-server, rsync and iproute2.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from environment import write

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "launch" / "onprem"))
import hosts  # noqa: E402

HOSTS = 3


class Life:
    """Hosts on this machine with a cluster file for them, for as long as the block runs."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.file = folder, count, folder / "cluster.yaml"
        self._open = ExitStack()

    def __enter__(self) -> Life:
        if why := hosts.missing():
            raise SystemExit(f"hosts cannot be made here: {why}")
        self._open.enter_context(hosts.alone())
        self._open.callback(hosts.down)
        hosts.up(self.folder, self.count)
        workers = [word for number in range(2, self.count + 1) for word in ("--host", hosts.address(number))]
        self.init_seconds = self.seconds(
            *("cluster", "init", "onprem", "-o", self.file, "--head", hosts.address(1), *workers),
            *("--key", self.folder / "key", "--storage", "/srv/runs", "--venv", sys.prefix),
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def metagen(self, *words: object) -> str:
        """What a command prints; ends everything if it fails."""
        return "".join(line for _, line in self._lines(words))

    def seconds(self, *words: object, until: str | None = None) -> float:
        """Seconds until a command ends, or until its output has ``until``; then it is let end."""
        began, found = time.perf_counter(), None
        for now, line in self._lines(words):
            if until and until in line and found is None:
                found = now - began
        if until and found is None:
            raise SystemExit(f"metagen {words[0]} never printed {until!r}")
        return round(found or time.perf_counter() - began, 2)

    def _lines(self, words: tuple[object, ...]) -> list[tuple[float, str]]:
        environment = {**os.environ, "METAGEN_HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, "RAY_ADDRESS": ""},
        )
        assert process.stdout is not None
        found = [(time.perf_counter(), line) for line in process.stdout]
        if process.wait():
            raise SystemExit("".join(line for _, line in found))
        return found


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, Life(Path(scratch), HOSTS) as life:
        run = ["submit", life.file, "--", "train", "quickstart", "--steps", "4", "--set"]
        figures = {
            "hosts": HOSTS,
            "init_seconds": life.init_seconds,
            "validate_seconds": life.seconds("cluster", "validate", life.file),
            "up_seconds": life.seconds("cluster", "up", life.file),
            "submit_to_first_line_seconds": life.seconds(*run, "name=first", until="Running entrypoint"),
            "submit_to_first_step_seconds": life.seconds(*run, "name=second", until="step 1/4"),
            "down_seconds": life.seconds("cluster", "down", life.file, "--yes"),
        }
    print("\n".join(f"{name}: {value}" for name, value in figures.items()))
    print(f"wrote {write('launch', figures)}")


if __name__ == "__main__":
    main()
