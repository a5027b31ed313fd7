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


class Unreachable(UserError):
    """A machine or a cloud does not answer; it may when it is asked again."""


COLOURS = re.compile(r"\x1b\[[0-9;]*m")
RAY = (sys.executable, "-m", "ray.scripts.scripts")
STATES = "ray/cluster-*.state"
"""What Ray remembers of one's own machines. Where it was ended while it wrote, it is empty, and Ray trips over it."""
KEPT = "ray-config-*"
"""Where ``ray up`` keeps a file with all that it added: the network, the key. It has made these when it writes it."""
CLOUD_ERRORS = re.compile(r"An error occurred \(.*|Unable to locate credentials.*|(?i:\S*(quota|credential)\S* .*)")
"""How clouds say that they refuse."""
RAYS = re.compile(r"\d{4}-\d\d-\d\d ")
"""How lines of the launcher's own begin."""
ENDED_BY = "Error message: "
"""What the launcher says of a setup that failed, more than in its last line."""
COMPLAINT = re.compile(r"[Ee]rror|ERROR|[Ff]ail|denied|refused|wanted|not found")
LOGIN = {
    "aws": "run 'aws configure', or set AWS_PROFILE",
    "gcp": "run 'gcloud auth application-default login'",
    "azure": "run 'az login'",
}
"""How a cloud's library comes to know the user."""


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
        lines = [line.rpartition(" -- ")[2].strip() for line in said.getvalue().splitlines() if line.strip()]
        trip = lines[0] if lines else f"{type(error).__name__}: {error}".partition("\n")[0]
        return _wrong_type(config) or trip
    return None


def _wrong_type(config: Mapping[str, Any]) -> str | None:
    """The first value of a file that is of another type than Ray's schema says."""
    import jsonschema
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    for error in jsonschema.Draft7Validator(schema).iter_errors(dict(config)):
        if error.validator == "type":
            return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    return None


def environment(provider: str, home: Path) -> dict[str, str]:
    """What ``ray up`` and ``ray down`` run with: no telemetry, and for one's own machines the autoscaler that starts
    their workers, which version 2 does not. What they remember lies in ``home``, not in a /tmp that others can write.
    """
    folder = _folder(home)
    added = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    return {**os.environ, **added, **({"RAY_UP_enable_autoscaler_v2": "0"} if provider == "local" else {})}


def _folder(home: Path) -> Path:
    folder = home / "tmp"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _run(
    command: Sequence[str], provider: str, home: Path, log: Path, heard: Callable[[str], None] = lambda line: None
) -> tuple[int, list[str]]:
    """Run a command, its output into ``log`` and line by line to ``heard``; gives the exit code and the lines."""
    for state in _folder(home).glob(STATES):
        if state.stat().st_size == 0:
            state.unlink()
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
    """``ray up``: create the head and set it up; it then starts the workers by itself.

    It keeps what it made of the file, and only that: all that comes later goes by what was started, not by what has
    become of the file since.
    """
    for stale in _folder(home).glob(KEPT):
        stale.unlink()
    return _run([*RAY, "up", str(file), "--yes"], provider, home, log, heard)


def down(file: Path, provider: str, home: Path, log: Path) -> tuple[int, list[str]]:
    """``ray down``: stop Ray on the head and release every node."""
    kept = started(home)
    if provider == "local" or kept is None:
        return _run([*RAY, "down", str(file), "--yes"], provider, home, log)
    return _run([sys.executable, "-c", DOWN, str(file), str(kept)], provider, home, log)


def started(home: Path) -> Path | None:
    """What ``ray up`` kept of the cluster that it started; None if none was started from here, or all is released.

    A file that it was ended in the middle of writing is none: no machine is made before it is written.
    """
    for path in sorted(_folder(home).glob(KEPT), key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(ValueError):
            json.loads(path.read_text())
            return path
    return None


DOWN = """
import json, sys
from pathlib import Path
from ray.autoscaler._private import commands
kept = Path(sys.argv[2]).read_text()
commands._bootstrap_config = lambda *_, **__: json.loads(kept)["config"]
commands.teardown_cluster(sys.argv[1], True, False, None, False)
"""
"""``ray down`` for what was started. From a file that was changed since Ray would first make its network anew."""

HEAD = """
import json, sys, yaml
from pathlib import Path
from ray.autoscaler._private import commands
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import NODE_KIND_HEAD, STATUS_UP_TO_DATE, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS
file, kept = sys.argv[1:]
config = (
    json.loads(Path(kept).read_text())["config"] if kept else prepare_config(yaml.safe_load(Path(file).read_text()))
)
provider = commands._get_node_provider(config["provider"], config["cluster_name"])
heads = provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD})
heads.sort(key=lambda node: provider.node_tags(node).get(TAG_RAY_NODE_STATUS) != STATUS_UP_TO_DATE)
auth = config["auth"]
found = {"user": auth["ssh_user"], "key": auth.get("ssh_private_key")}
head = {**found, "address": provider.external_ip(heads[0])} if heads else None
print(json.dumps([head, len(provider.non_terminated_nodes({}))]))
"""
"""Asks a cloud for the head; in a process, for what Ray prints on the way. Ray's own way to the head calls
``_bootstrap_config``, which makes what it does not find: a security group or a rule that opens ssh to everybody.
"""


def ask(file: Path, provider: str, home: Path, kept: Path | None) -> tuple[dict[str, Any] | None, int]:
    """User, key and address of a cloud's head, None if there is none, and how many machines there are.

    Of what was started, if it is given, or of what the file describes. Makes nothing. Raises ``Unreachable`` if the
    cloud does not answer.
    """
    log = home / "access.log"
    code, lines = _run([sys.executable, "-c", HEAD, str(file), str(kept or "")], provider, home, log)
    if code:
        why = reason(lines)
        library = "No module named" in why
        fix = f"pip install 'metagen[{provider}]'" if library else f"{LOGIN[provider]}, or look at the network"
        raise Unreachable(f"{file}: {provider} cannot be asked for the head: {why} (see {log}): {fix}")
    head, machines = json.loads(lines[-1])
    return head, machines


def access(file: Path, provider: str, home: Path) -> dict[str, Any]:
    """Address, user and key of a cloud's head; raises ``UserError`` if none is running that was started from here."""
    kept = started(home)
    if kept is None:
        raise UserError(f"{file}: no cluster was started from here: start it with 'metagen cluster up {file}'")
    found, _ = ask(file, provider, home, kept)
    if found is None:
        raise UserError(f"{file}: no head is running: start it with 'metagen cluster up {file}'")
    if not found["address"]:
        raise UserError(f"{file}: the head has no address yet: try again")
    return found


def reason(lines: Sequence[str]) -> str:
    """The line that says why, of what Ray's launcher printed; a cloud's own words where there are any."""
    clean = [line.strip() for line in lines if line.strip()]
    for line in reversed(clean):
        if found := CLOUD_ERRORS.search(line):
            return found.group()
    # What a command on a machine said stands before what Ray says of its end.
    end = next((i for i, line in enumerate(clean) if "update-failed" in line), len(clean))
    ends = [line.partition(ENDED_BY)[2].rstrip(".") for line in clean[end:] if ENDED_BY in line]
    for said in ([line for line in clean[:end] if not RAYS.match(line)], ends, clean):
        if last := [line for line in said if COMPLAINT.search(line)]:
            return last[-1]
    return (clean or ["it said nothing"])[-1]


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
