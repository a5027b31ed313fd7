"""Jobs of a cluster: listed, followed until they end, stopped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.jobs import ENDED, Dashboard
from cluster.launcher import Unreachable
from launch.clusters import target
from launch.clusters.target import Target
from metagen.errors import UserError

STOP_SECONDS = 90.0
RETRY_SECONDS, GIVE_UP_SECONDS = 2.0, 900.0


@contextmanager
def _dashboard(word: str) -> Iterator[Dashboard]:
    try:
        with target.find(word).dashboard() as dashboard:
            yield dashboard
    except ConnectionError as error:
        raise UserError(f"{word}: the cluster does not answer ({error}): is it up?") from None


def print_jobs(word: str) -> None:
    """A line a job."""
    with _dashboard(word) as dashboard:
        jobs = dashboard.jobs()
    if not jobs:
        print("no jobs yet")
    for job in jobs:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started)) if job.started else "-"
        lasted = f"{(job.ended or time.time()) - job.started:.0f} s" if job.started else "-"
        code = f"  exit code {job.code}" if job.status == "FAILED" and job.code is not None else ""
        print(f"{job.id}  {job.status:<9}  {began}  {lasted:>8}  run {job.run or '-'}{code}")


def print_log(word: str, job: str) -> None:
    """What a job has printed so far."""
    with _dashboard(word) as dashboard:
        dashboard.job(job)
        print(dashboard.log(job), end="")


def stop_job(word: str, job_id: str) -> None:
    """Stop a job and wait until it has ended."""
    with _dashboard(word) as dashboard:
        job = dashboard.job(job_id)
        if job.status not in ENDED:
            dashboard.stop(job_id)
        deadline = time.monotonic() + STOP_SECONDS
        while (job := dashboard.job(job_id)).status not in ENDED:
            if time.monotonic() > deadline:
                raise UserError(f"job {job_id} has not stopped within {STOP_SECONDS:.0f} s: see its log")
            time.sleep(0.5)
    print(f"job {job_id}: {job.status.lower()}")


def follow(target: Target, job_id: str) -> int:
    """Show a job's log until it ends, over broken connections too; gives its exit code.

    Raises ``UserError`` if the cluster cannot be reached at first or for long, or is one without the job.
    """
    seen, met, lost = 0, False, None
    while True:
        try:
            with target.dashboard() as dashboard:
                job = dashboard.job(job_id)
                if lost is not None:
                    print("connected again", file=sys.stderr)
                met, lost = True, None
                seen = dashboard.follow(job_id, seen, _show)
                job = dashboard.job(job_id)
            if job.status in ENDED:
                break
        except (ConnectionError, Unreachable) as error:  # all else no second try can change: the cluster is down
            if isinstance(error, Unreachable) and not met:
                raise
            if isinstance(error.args[0] if error.args else None, int):
                seen = error.args[0]
            now = time.monotonic()
            if lost is None:
                lost = now
                print("connection lost, trying again; the job goes on", file=sys.stderr)
            if now - lost > GIVE_UP_SECONDS:
                raise UserError(
                    f"no connection for {GIVE_UP_SECONDS:.0f} s; the job may go on: 'metagen jobs list {target.word}'"
                ) from None
        time.sleep(RETRY_SECONDS)
    if job.status == "SUCCEEDED":
        return 0
    # Of a program that ended by itself Ray repeats the log, which has been shown.
    why = f"with exit code {job.code}" if job.code else job.message.strip().partition("\n")[0]
    print(f"job {job_id}: {job.status.lower()} {why}".rstrip(), file=sys.stderr)
    return 130 if job.status == "STOPPED" else job.code or 1


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
