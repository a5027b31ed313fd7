"""Ray's own cluster launcher: check a file as ``ray up`` would, start, stop, find the head.

Starting and stopping are processes of the ``ray`` command, so that what Ray prints and the environment that it
needs stay out of this one.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metagen.errors import UserError

RAY = (sys.executable, "-m", "ray.scripts.scripts")


def complaint(config: Mapping[str, Any]) -> str | None:
    """What Ray's schema and its own checks say against a cluster file, in one line; None if nothing. Offline."""
    import copy

    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(copy.deepcopy(dict(config))))
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path)
        return f"{where}: {error.message}" if where else str(error.message)
    except (Exception, SystemExit) as error:  # Ray's checks have no common error, and trip over wrong types
        lines = [line.strip() for line in said.getvalue().splitlines() if line.strip()]
        return lines[0] if lines else f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


def environment(provider: str) -> dict[str, str]:
    """What ``ray up`` and ``ray down`` run with: no telemetry, and for one's own machines the autoscaler that starts
    their workers, which version 2 does not."""
    added = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **added, **({"RAY_UP_enable_autoscaler_v2": "0"} if provider == "local" else {})}


def run(
    arguments: list[str], provider: str, log: Path, heard: Callable[[str], None] = lambda line: None
) -> tuple[int, list[str]]:
    """Run ``ray ARGUMENTS``, its output into ``log`` and line by line to ``heard``; gives the exit code and the lines.

    Ctrl-C ends it: it runs in this process's group.
    """
    lines: list[str] = []
    with log.open("a") as file:
        process = subprocess.Popen(
            [*RAY, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(provider),
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                lines.append(line.rstrip())
                heard(lines[-1])
            return process.wait(), lines
        except BaseException:
            process.terminate()
            process.wait()
            raise


def up(file: Path, provider: str, log: Path, heard: Callable[[str], None]) -> tuple[int, list[str]]:
    """``ray up``: create the head and set it up; it then starts the workers by itself."""
    return run(["up", str(file), "--yes", "--no-config-cache"], provider, log, heard)


def down(file: Path, provider: str, log: Path) -> tuple[int, list[str]]:
    """``ray down``: stop Ray on the head and release every node."""
    return run(["down", str(file), "--yes"], provider, log)


def head_address(file: Path, provider: str, log: Path) -> str:
    """Where the head can be reached from here; raises ``UserError`` if there is none."""
    code, lines = run(["get-head-ip", str(file)], provider, log)
    if code:
        raise UserError(f"{file}: no head is running: start it with 'metagen cluster up {file}' (see {log})")
    return lines[-1].strip()
