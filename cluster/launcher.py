"""Ray's own cluster launcher: check a file as ``ray up`` would, start, stop, find the head.

Starting and stopping are processes of the ``ray`` command, so that what Ray prints and the environment that it
needs stay out of this one.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metagen.errors import UserError

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RAY = (sys.executable, "-m", "ray.scripts.scripts")


def complaint(config: Mapping[str, Any]) -> str | None:
    """What Ray's schema and its own checks say against a cluster file, in one line; None if nothing. Offline."""
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


def environment(provider: str, home: Path) -> dict[str, str]:
    """What ``ray up`` and ``ray down`` run with: no telemetry, and for one's own machines the autoscaler that starts
    their workers, which version 2 does not. What they remember lies in ``home``, not in a /tmp that others can write.
    """
    folder = home / "tmp"
    folder.mkdir(mode=0o700, exist_ok=True)
    added = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    return {**os.environ, **added, **({"RAY_UP_enable_autoscaler_v2": "0"} if provider == "local" else {})}


def _run(
    command: Sequence[str], provider: str, home: Path, log: Path, heard: Callable[[str], None] = lambda line: None
) -> tuple[int, list[str]]:
    """Run a command, its output into ``log`` and line by line to ``heard``; gives the exit code and the lines."""
    lines: list[str] = []
    with log.open("a") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(provider, home),
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                line = COLOURS.sub("", line)
                file.write(line)
                file.flush()
                lines.append(line.rstrip())
                heard(lines[-1])
            return process.wait(), lines
        except BaseException:
            process.terminate()
            process.wait()
            raise


def up(file: Path, provider: str, home: Path, log: Path, heard: Callable[[str], None]) -> tuple[int, list[str]]:
    """``ray up``: create the head and set it up; it then starts the workers by itself."""
    return _run([*RAY, "up", str(file), "--yes", "--no-config-cache"], provider, home, log, heard)


def down(file: Path, provider: str, home: Path, log: Path) -> tuple[int, list[str]]:
    """``ray down``: stop Ray on the head and release every node."""
    return _run([*RAY, "down", str(file), "--yes"], provider, home, log)


ACCESS = """
import json, sys, yaml
from ray.autoscaler._private import commands
config = commands._bootstrap_config(yaml.safe_load(open(sys.argv[1]).read()))
provider = commands._get_node_provider(config["provider"], config["cluster_name"])
node = commands._get_running_head_node(config, sys.argv[1], None)
auth = config["auth"]
print(json.dumps({"address": provider.external_ip(node), "user": auth["ssh_user"], "key": auth["ssh_private_key"]}))
"""
"""Asks Ray's launcher for the head of a cloud and the key that it made; in a process, for what it prints on the way."""


def access(file: Path, home: Path) -> dict[str, str]:
    """Address, user and key of a cloud's head; raises ``UserError`` if none is running."""
    log = home / "access.log"
    code, lines = _run([sys.executable, "-c", ACCESS, str(file)], "cloud", home, log)
    if code:
        raise UserError(f"{file}: no head is running: start it with 'metagen cluster up {file}' (see {log})")
    found: dict[str, str] = json.loads(lines[-1])
    return found


def aws_networks(config: Mapping[str, Any]) -> set[str]:
    """The VPCs that Ray chooses for a cluster on EC2."""
    import boto3
    from ray.autoscaler._private.aws.config import _configure_subnet
    from ray.autoscaler._private.util import prepare_config

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            chosen = _configure_subnet(prepare_config(copy.deepcopy(dict(config))))
    except SystemExit:
        words = " ".join(COLOURS.sub("", said.getvalue()).split())
        raise UserError(f"AWS: {words or 'no subnet was found'}") from None
    client = boto3.client("ec2", region_name=config["provider"]["region"])
    subnets = [kind["node_config"]["SubnetIds"][0] for kind in chosen["available_node_types"].values()]
    found = client.describe_subnets(SubnetIds=sorted(set(subnets)))["Subnets"]
    return {str(subnet["VpcId"]) for subnet in found}
