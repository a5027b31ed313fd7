"""A run as a job of a cluster: packed here, submitted, followed until it ends."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.jobs import ENDED, Dashboard
from launch.clusters.target import Target
from launch.preset import load_config
from launch.pretrained import is_packaged
from metagen.checkpoint import load_checkpoint
from metagen.config import RunConfig
from metagen.errors import UserError
from metagen.names import checked
from metagen.tasks.config import DataConfig

OWN_CLASS = re.compile(r"(\w+)(?:\.\w+)*:\w+")
CONFIG, START = "run.yaml", "start_from"
SENT = ("source", "assignments", "steps", "seed", "start_from", "store", "pool", "actors")
"""Parameters of ``train`` that go along with a job."""
LEFT_OUT = ("__pycache__", ".git", ".gitignore", ".rayignore")
"""What is not sent along. Ray would silently leave out what a .gitignore names, which is often data."""
DECIDED = ("address", "run_dir", "dry_run")


def pack(words: Sequence[str], include: Sequence[Path], folder: Path) -> tuple[RunConfig, list[str]]:
    """Put what a job needs into ``folder``: the run's whole config, the modules that it names, and ``include``.

    Gives the config and the options of ``train`` that go along. Raises ``UserError`` for any mistake in them, so that
    none is found on the cluster.
    """
    if not words or words[0] != "train":
        raise UserError(
            f"'{' '.join(words[:1])}' cannot be submitted: give a training after --, such as: -- train standard"
        )
    from launch.training.train import train

    options = train.make_context("train", list(words[1:])).params
    for option in (name for name, value in options.items() if value and name not in SENT):
        word = f"--{option.replace('_', '-')}"
        if option in DECIDED:
            raise UserError(f"{word} is decided by submit: drop it (--run names the run)")
        raise UserError(f"{word} does not go along with a job: drop it, or train without submit")
    assignments = options["assignments"]
    if options["store"]:
        assignments = (*assignments, f"log.store={options['store'].rstrip('/')}")
    config = load_config(options["source"], assignments, options["steps"], options["seed"], options["start_from"])
    config = config.model_copy(update={"start_from": _sent_along(config.start_from, folder)})
    (folder / CONFIG).write_text(config.to_yaml())
    for path in (*_own_modules(config.model_dump(mode="json")), *include):
        if not path.exists():
            raise UserError(f"{path}: no such file or folder to include")
        if path.name in (CONFIG, START):
            raise UserError(f"{path}: this name is taken: rename it")
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy2(path, folder / path.name)
    for key, data in _images(config.data):
        first = Path(data).parts[0]
        if first == "..":
            raise UserError(
                f"{key}: {data} is not sent along: add --include {data} and set {key}={Path(data).name}, or give a "
                "path there"
            )
        if not first.startswith(("/", "~")) and not (folder / first).exists():
            raise UserError(f"{key}: {data} is not sent along: add --include {first}, or give a path there")
    kept = [f"--{name}={options[name]}" for name in ("pool", "actors") if options[name] is not None]
    return config, kept


def _images(data: DataConfig) -> Iterator[tuple[str, str]]:
    """Where the images lie, by the config's keys."""
    named = {"data.path": data.path, **{f"data.parts.{i}.path": part.path for i, part in enumerate(data.parts)}}
    return ((key, path) for key, path in named.items() if path is not None)


def _sent_along(start: str | None, folder: Path) -> str | None:
    """Where the job finds the checkpoint that it starts from: a local one is put into ``folder``."""
    if start is None or is_packaged(start) or "://" in start:
        return start
    shutil.copytree(load_checkpoint(Path(start)).path, folder / START)
    return START


def _own_modules(values: Any) -> Iterator[Path]:
    """Files and folders of the modules that a config names as ``package.module:Class``."""
    names = sorted(set(_tops(values)))
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or "site-packages" in spec.origin:
            continue  # installed: the cluster must have it, as setup_commands say
        origin = Path(spec.origin)
        yield origin.parent if origin.name == "__init__.py" else origin


def _tops(values: Any) -> Iterator[str]:
    if isinstance(values, dict | list):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tops(value)
    elif isinstance(values, str) and (found := OWN_CLASS.fullmatch(values)):
        yield found.group(1)


def entrypoint(python: str, run: str, storage: str, options: Sequence[str]) -> str:
    """The job's command line."""
    words = ["-m", "launch.jobs.remote", "--run", run, "--storage", storage, *options, CONFIG]
    return f"{python} {shlex.join(words)}"


def submit(target: Target, words: Sequence[str], run: str | None, include: Sequence[Path]) -> str:
    """Pack and hand over a job; gives its id. A run that is being trained already is refused."""
    if target.storage is None:
        raise UserError("--storage is needed with an address: say where runs are kept, such as s3://bucket/runs")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "job"
        folder.mkdir()
        config, options = pack(words, include, folder)
        name = checked(run or config.name)
        job_id = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            with target.dashboard() as dashboard:
                _check(dashboard, target, name)
                try:
                    dashboard.submit(
                        entrypoint(target.python, name, target.storage, options),
                        job_id,
                        {"working_dir": str(folder), "env_vars": {"PYTHONUNBUFFERED": "1"}},
                        {"run": name},
                    )
                except KeyboardInterrupt:
                    print(f"\njob {job_id} may have begun: see 'metagen jobs list {target.word}'", file=sys.stderr)
                    raise
                except ConnectionError as error:
                    raise UserError(
                        f"{target.word}: the connection broke ({error}), job {job_id} may have begun: "
                        f"see 'metagen jobs list {target.word}'"
                    ) from None
        except ConnectionError as error:
            raise UserError(f"{target.word}: the cluster does not answer ({error}): is it up?") from None
    return job_id


def _check(dashboard: Dashboard, target: Target, run: str) -> None:
    from importlib.metadata import version

    mine, theirs = version("ray"), dashboard.version()
    if mine != theirs:
        raise UserError(f"Ray {theirs} on the cluster, {mine} here: install ray=={theirs} here, or start a new cluster")
    for job in dashboard.jobs():
        if job.run == run and job.status not in ENDED:
            raise UserError(
                f"run '{run}' is being trained by job {job.id}: follow it with "
                f"'metagen jobs logs {target.word} {job.id} --follow', or name another with --run"
            )
