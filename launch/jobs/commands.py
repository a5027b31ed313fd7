"""``metagen submit``, ``metagen jobs``, ``metagen fetch`` and ``metagen tensorboard``."""

from __future__ import annotations

from pathlib import Path

import click

target_argument = click.argument("target", metavar="FILE|URL")


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("words", nargs=-1, metavar="[FILE] -- train ...")
@click.option("--address", metavar="URL", help="A dashboard instead of a file, such as http://127.0.0.1:8265.")
@click.option("--storage", help="Where runs are kept.  [default: as in the file]")
@click.option("--run", help="The run's name.  [default: the config's]")
@click.option("--include", type=click.Path(path_type=Path), multiple=True, help="Also sent along; repeatable.")
@click.option("--kubernetes", "manifests", type=click.Path(path_type=Path), help="A file with a RayJob instead.")
@click.option("--detach", is_flag=True, help="Do not wait for the job.")
def submit(
    words: tuple[str, ...],
    address: str | None,
    storage: str | None,
    run: str | None,
    include: tuple[Path, ...],
    manifests: Path | None,
    detach: bool,
) -> None:
    """Train on a cluster: sends the config and your modules, shows the log, ends with the job's exit code.

    A run that is there already goes on from its newest checkpoint. Ctrl-C detaches; the job goes on.

    \b
    Examples:
      metagen submit cluster.yaml -- train standard --set seed=1
      metagen submit --address http://127.0.0.1:8265 --storage /shared/runs -- train standard
      metagen submit --kubernetes cluster.job.yaml -- train standard
    """
    if manifests is not None:
        from launch.clusters.kubernetes import submit as submit_manifests

        raise click.exceptions.Exit(submit_manifests(manifests, words, run, include, detach))
    if address is None:
        if not words:
            raise click.UsageError("give a cluster file, or --address")
        address, words = words[0], words[1:]
    from launch.clusters import target
    from launch.jobs import submission

    place = target.find(address, storage)
    job = submission.submit(place, words, run, include)
    click.echo(f"job {job} submitted")
    if not detach:
        raise click.exceptions.Exit(_follow(address, job))


def _follow(word: str, job: str) -> int:
    """Follow a job; Ctrl-C leaves it alone and says how to come back."""
    from launch.clusters import target
    from launch.jobs import watching

    try:
        return watching.follow(target.find(word), job)
    except KeyboardInterrupt:
        click.echo(
            f"\ndetached, the job goes on\n  follow: metagen jobs logs {word} {job} --follow\n"
            f"  stop:   metagen jobs stop {word} {job}",
            err=True,
        )
        return 130


@click.group()
def jobs() -> None:
    """List, follow and stop the jobs of a cluster."""


@jobs.command("list")
@target_argument
def list_jobs(target: str) -> None:
    """Jobs, oldest first.

    \b
    Example:
      metagen jobs list cluster.yaml
    """
    from launch.jobs.watching import print_jobs

    print_jobs(target)


@jobs.command()
@target_argument
@click.argument("job")
@click.option("--follow", is_flag=True, help="Until the job ends; then end with its exit code.")
def logs(target: str, job: str, follow: bool) -> None:
    """What a job has printed.

    \b
    Example:
      metagen jobs logs cluster.yaml standard-20261124-101500 --follow
    """
    if follow:
        raise click.exceptions.Exit(_follow(target, job))
    from launch.jobs.watching import print_log

    print_log(target, job)


@jobs.command()
@target_argument
@click.argument("job")
def stop(target: str, job: str) -> None:
    """Stop a job; its run saves a checkpoint first.

    \b
    Example:
      metagen jobs stop cluster.yaml standard-20261124-101500
    """
    from launch.jobs.watching import stop_job

    stop_job(target, job)


@click.command()
@target_argument
@click.argument("run")
@click.option("--storage", help="Where runs are kept.  [default: as in the file]")
@click.option("--out", type=click.Path(path_type=Path), help="[default: runs/RUN]")
def fetch(target: str, run: str, storage: str | None, out: Path | None) -> None:
    """Bring a run home, also while it trains: from the head's folder, a bucket, or a Kubernetes volume.

    \b
    Examples:
      metagen fetch cluster.yaml standard
      metagen fetch cluster.job.yaml standard
    """
    from launch.jobs.results import fetch

    fetch(target, run, storage, out or Path("runs") / run)


@click.command()
@target_argument
@click.option("--remote", "run", required=True, metavar="RUN", help="The run to show.")
def tensorboard(target: str, run: str) -> None:
    """TensorBoard of a run on a cluster, through a tunnel, until Ctrl-C.

    \b
    Example:
      metagen tensorboard cluster.yaml --remote standard
    """
    from launch.jobs.results import tensorboard

    tensorboard(target, run)
