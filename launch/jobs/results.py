"""What ``metagen fetch`` and ``metagen tensorboard`` do."""

from __future__ import annotations

import secrets
import shlex
import shutil
import subprocess
from pathlib import Path

from launch.clusters import access, target
from launch.clusters.process import captured
from launch.jobs.places import LOCAL, folder_there, is_bucket
from launch.jobs.storage import Bucket
from launch.training import run_folder
from metagen.checkpoint import publishing
from metagen.errors import UserError
from metagen.names import checked


def fetch(word: str, run: str, storage: str | None, out: Path) -> None:
    """Copy a run's folder here; a copy of the same run that is here is replaced, another run's is not."""
    checked(run)
    if out.exists() and not (out / run_folder.CONFIG).exists():
        raise UserError(f"{out} is there and holds no run: choose another --out")
    before = run_folder.read_config(out) if out.exists() else None
    scratch = out.with_name(f".partial-fetch-{out.name}")
    try:
        _pull(word, storage, run, scratch)
        if before is not None and run_folder.read_config(scratch).identity != before.identity:
            raise UserError(f"{out} holds another run than {run} on the cluster: choose another --out")
        with publishing(out) as partial:
            shutil.copytree(scratch, partial, dirs_exist_ok=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"fetched {run} to {out}: try 'metagen evaluate {out}'")


def _pull(word: str, storage: str | None, run: str, into: Path) -> None:
    """Copy a run from wherever it is kept: a bucket, a volume of Kubernetes, a folder on the head."""
    if manifests := target.manifests(word):
        from launch.clusters import kubernetes_volume

        storage = storage or kubernetes_volume.storage_of(manifests)
        if not is_bucket(storage):
            kubernetes_volume.pull(manifests, run, into)
            return
    else:
        place = target.find(word, storage)
        storage = place.storage
        if storage is None:
            raise UserError("--storage is needed with an address: say where runs are kept, such as s3://bucket/runs")
        if not is_bucket(storage):
            _copy(place, storage, run, into)
            return
    if not Bucket(storage).pull(run, into):
        raise UserError(f"{storage}: no run '{run}' there")


def _copy(place: target.Target, storage: str, run: str, into: Path) -> None:
    machine = access.head(place.ssh_file("fetching from a folder"))
    if machine.run(f"test -f {folder_there(storage)}/{run}/{run_folder.CONFIG}").returncode:
        raise UserError(f"{machine.address}: no run '{run}' in {storage}: see 'metagen jobs list {place.word}'")
    # Whether rsync has a shell there expand a ~ is up to its version; what is relative begins at the home for all.
    source = f"{storage.removeprefix('file://')}/{run}".removeprefix("~/")
    into.mkdir(parents=True, exist_ok=True)
    shell = shlex.join(["ssh", *machine.options])
    copy = ["rsync", "-az", "--exclude=.*", "-e", shell, f"{machine.user}@{machine.address}:{source}/", f"{into}/"]
    done = captured(copy, "no rsync here: install rsync")
    if done.returncode not in (0, 24):  # 24: a checkpoint was pruned while it was copied
        raise UserError(f"{machine.address}: rsync: {(done.stderr.strip().splitlines() or ['failed'])[0]}: try again")


def tensorboard(word: str, run: str) -> None:
    """Start TensorBoard on the head's loopback, tunnel to it, and end it with this process."""
    place = target.find(word)
    file = place.ssh_file("a tunnel")
    checked(run)
    machine = access.head(file)
    folder = folder_there(LOCAL if is_bucket(file.metagen.storage) else file.metagen.storage)
    if machine.run(f"test -d {folder}/{run}").returncode:
        raise UserError(f"{machine.address}: no run '{run}' there: see 'metagen jobs list {word}'")
    port = 20000 + secrets.randbelow(40000)
    remote = (
        f'exec "{file.venv}/bin/tensorboard" --logdir {folder}/{run} --host 127.0.0.1 --port {port} --load_fast false'
    )
    server = subprocess.Popen(
        ["ssh", "-tt", *machine.command(remote)[1:]],  # a terminal, so that the server ends with it
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with machine.tunnel(port) as local:
            print(f"TensorBoard of {run}: http://127.0.0.1:{local}  (Ctrl-C ends it)", flush=True)
            if server.wait():
                raise UserError(
                    f"{machine.address}: TensorBoard ended by itself: is it installed in {file.metagen.venv}?"
                )
    finally:
        server.terminate()
        server.wait()
