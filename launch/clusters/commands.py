"""``metagen cluster``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

PROVIDERS = ("aws", "gcp", "azure", "onprem", "kubernetes", "skypilot")

file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group()
def cluster() -> None:
    """Start, watch and stop a Ray cluster anywhere.

    In a cloud, on Kubernetes, or on machines of your own over ssh.
    """


@cluster.command()
@click.argument("provider", type=click.Choice(PROVIDERS), metavar="PROVIDER")
@click.option("-o", "--out", "file", default="cluster.yaml", show_default=True, help="Where to write it.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--name", default="metagen", show_default=True, help="The cluster's name.")
@click.option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="At most, beside the head.")
@click.option("--min-workers", type=click.IntRange(min=0), help="At least.  [default: as many]")
@click.option("--gpu", metavar="TYPE", help="A GPU in every worker: t4, l4, a100...")
@click.option("--spot", is_flag=True, help="Workers on spot machines; the head stays on demand.")
@click.option("--region", help="The cloud's region.")
@click.option("--zone", help="The cloud's zone, or zones.")
@click.option("--project", help="Google Cloud's project id, or Azure's subscription id.")
@click.option("--head-type", metavar="TYPE", help="The head's machine type.")
@click.option("--worker-type", metavar="TYPE", help="The workers' machine type.")
@click.option("--ssh-cidr", metavar="CIDR", help="Who may reach ssh; 'caller' for this machine's public address.")
@click.option("--storage", help="Where runs are kept: s3://..., gs://..., a shared folder, or pvc on Kubernetes.")
@click.option("--head", metavar="ADDRESS", help="onprem: the head.")
@click.option("--host", "hosts", metavar="ADDRESS", multiple=True, help="onprem: a worker; repeatable.")
@click.option("--external-head", metavar="ADDRESS", help="onprem: the head as seen from here, if another.")
@click.option("--user", help="onprem: who logs in.  [default: root]")
@click.option("--key", metavar="FILE", help="onprem: the ssh private key.")
@click.option("--venv", default="~/.metagen/venv", show_default=True, help="The virtual environment on the nodes.")
@click.option("--package", metavar="SPEC", help="What pip installs as metagen: a wheel, or NAME==VERSION.")
@click.option("--image", help="kubernetes: the container image.")
@click.option("--namespace", default="default", show_default=True, help="kubernetes: the namespace.")
@click.option("--storage-class", help="kubernetes: the volume's storage class.")
@click.option("--redis", metavar="HOST:PORT", help="kubernetes: a Redis that keeps the head's state.")
@click.option("--hours", type=click.IntRange(min=1), default=24, show_default=True, help="kubernetes: a job's limit.")
@click.option("--idle-minutes", type=click.IntRange(min=1), default=10, show_default=True, help="Then a worker goes.")
@click.option("--price", "prices", multiple=True, metavar="TYPE=USD", help="A machine's price an hour; repeatable.")
def init(provider: str, overwrite: bool, prices: tuple[str, ...], **options: Any) -> None:
    """Write a cluster file: complete, commented, safe.

    \b
    Examples:
      metagen cluster init aws --workers 4 --gpu t4 --spot --ssh-cidr 203.0.113.7/32 --storage s3://bucket/runs
      metagen cluster init onprem --head 10.0.0.1 --host 10.0.0.2 --key ~/.ssh/cluster --storage /shared/runs
      metagen cluster init kubernetes --image registry.example.com/metagen:0.1.0 --storage pvc
    """
    from launch.clusters.init import write
    from launch.clusters.providers import Request

    paths = write(provider, Request(prices=tuple(_price(text) for text in prices), **options), overwrite)
    for path in paths:
        click.echo(f"wrote {path}")
    if provider != "skypilot":
        click.echo(f"next: metagen cluster validate {paths[0]}")


def _price(text: str) -> tuple[str, float]:
    kind, _, price = text.rpartition("=")
    try:
        return kind, float(price)
    except ValueError:
        raise click.BadParameter(f"'{text}': give TYPE=USD an hour, such as m7i.xlarge=0.20") from None


@cluster.command()
@file_argument
def validate(file: Path) -> None:
    """Check a cluster file offline.

    Against the launcher's schema, and for what would be unsafe or unpinned.

    \b
    Example:
      metagen cluster validate cluster.yaml
    """
    from launch.clusters.init import problems

    found = problems(file)
    for line in found:
        click.echo(f"error: {file}: {line}", err=True)
    if found:
        raise click.exceptions.Exit(2)
    click.echo(f"{file}: good")


@cluster.command()
@file_argument
@click.option("--timeout", type=click.FloatRange(min=1), default=900, show_default=True, help="Seconds for workers.")
@click.option("--keep", is_flag=True, help="Leave a cluster that did not come up, to look at it.")
def up(file: Path, timeout: float, keep: bool) -> None:
    """Start a cluster and wait until its workers have joined.

    What a failed start leaves is stopped again.

    \b
    Example:
      metagen cluster up cluster.yaml
    """
    _module(file).up(file, timeout, keep)


@cluster.command()
@file_argument
def status(file: Path) -> None:
    """Nodes, jobs and cost of a running cluster.

    \b
    Example:
      metagen cluster status cluster.yaml
    """
    _module(file).status(file)


@cluster.command()
@file_argument
@click.argument("command", nargs=-1)
def ssh(file: Path, command: tuple[str, ...]) -> None:
    """A shell on the head, or one command there.

    \b
    Example:
      metagen cluster ssh cluster.yaml -- nvidia-smi
    """
    import shlex
    import subprocess

    from launch.clusters.access import head
    from launch.clusters.cluster_file import read

    words = head(read(file)).command(shlex.join(command) if command else None, terminal=not command)
    raise click.exceptions.Exit(subprocess.run(words, check=False).returncode)


@cluster.command()
@file_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
def down(file: Path, yes: bool) -> None:
    """Stop a cluster and release its machines. Runs are kept.

    \b
    Example:
      metagen cluster down cluster.yaml
    """
    module = _module(file)
    if not yes:
        if module.__name__ == "launch.clusters.lifecycle":
            from launch.clusters.cluster_file import read
            from launch.clusters.cost import cost_line

            checked = read(file)
            click.echo(cost_line(checked, checked.workers[0]))
        click.confirm(f"stop the cluster of {file}?", abort=True)
    module.down(file)


def _module(file: Path) -> Any:
    """What starts, watches and stops the clusters of a file: Ray's launcher or Kubernetes."""
    from launch.clusters.cluster_file import documents, is_kubernetes

    if is_kubernetes(documents(file)):
        from launch.clusters import kubernetes

        return kubernetes
    from launch.clusters import lifecycle

    return lifecycle


@cluster.command()
@file_argument
@click.option("--hours", type=click.FloatRange(min=0), default=24, show_default=True)
def cost(file: Path, hours: float) -> None:
    """What a cluster costs, from the prices in its file.

    \b
    Example:
      metagen cluster cost cluster.yaml --hours 8
    """
    from launch.clusters.cost import estimate

    click.echo(estimate(file, hours))
