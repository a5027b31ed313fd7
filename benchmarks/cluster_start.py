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
from pathlib import Path

from environment import write

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "launch" / "onprem"))
import hosts  # noqa: E402

HOSTS = 3


def main() -> None:
    if why := hosts.missing():
        raise SystemExit(f"hosts cannot be made here: {why}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        script = Path(hosts.__file__)
        with hosts.alone():
            try:
                subprocess.run([sys.executable, script, "up", folder, str(HOSTS)], check=True)
                figures = measure(folder)
            finally:
                hosts.down()
    print("\n".join(f"{name}: {value}" for name, value in figures.items()))
    print(f"wrote {write('launch', figures)}")


def measure(folder: Path) -> dict[str, float]:
    """Seconds of every step of a cluster's life."""
    file = folder / "cluster.yaml"
    workers = [word for number in range(2, HOSTS + 1) for word in ("--host", hosts.address(number))]
    init = [
        *("cluster", "init", "onprem", "-o", str(file), "--head", hosts.address(1), *workers),
        *("--key", str(folder / "key"), "--storage", "/srv/runs", "--venv", sys.prefix),
    ]
    environment = {**os.environ, "METAGEN_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ""}

    def timed(*words: str, until: str | None = None) -> float:
        """Seconds until a command ends, or until its output has ``until``; then it is let end."""
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        seen, found = [], None
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if until and until in line and found is None:
                found = time.perf_counter() - began
        if process.wait():
            raise SystemExit("".join(seen))
        if until and found is None:
            raise SystemExit(f"never printed {until!r}: {''.join(seen)}")
        return round(found or time.perf_counter() - began, 2)

    run = ["submit", str(file), "--", "train", "quickstart", "--steps", "4", "--set"]
    return {
        "hosts": HOSTS,
        "init_seconds": timed(*init),
        "validate_seconds": timed("cluster", "validate", str(file)),
        "up_seconds": timed("cluster", "up", str(file)),
        "submit_to_first_line_seconds": timed(*run, "name=first", until="Running entrypoint"),
        "submit_to_first_step_seconds": timed(*run, "name=second", until="step 1/4"),
        "down_seconds": timed("cluster", "down", str(file), "--yes"),
    }


if __name__ == "__main__":
    main()
