"""Cluster files are templates with comments, filled here; what all files for Ray's launcher share is one template."""

from __future__ import annotations

import platform
import string
from importlib import resources
from pathlib import Path

from launch.clusters.providers.request import Request, versions

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


class _Template(string.Template):
    delimiter = "%"
    """Shell commands in the templates are full of dollars."""


def fill(template: str, /, **values: object) -> str:
    """The file ``template`` with every ``%{key}`` replaced; an unknown key is a bug."""
    text = (resources.files("launch.clusters.providers") / "templates" / template).read_text()
    return _Template(text).substitute({key: str(value) for key, value in values.items()})


def python_version() -> str:
    """This Python, as 3.12: nodes need the same, for what Ray pickles between them."""
    return ".".join(platform.python_version_tuple()[:2])


def launcher_file(
    template: str,
    request: Request,
    price_example: str,
    prepare: tuple[str, ...] = (),
    head_setup: tuple[str, ...] = (),
    head_address: str | None = None,
    storage_help: str = "a bucket that the head can write to. Runs outlive the cluster.",
    **values: object,
) -> str:
    """A file for Ray's cluster launcher: the provider's part, then what all of them share."""
    pinned = versions()
    mounts = {"~/.metagen/token": request.token}
    package = request.package or f"metagen=={pinned['metagen']}"
    if package.endswith(".whl"):
        wheel = Path(package).name
        mounts[f"~/.metagen/wheels/{wheel}"] = str(Path(package).expanduser().absolute())
        package = f"$HOME/.metagen/wheels/{wheel}"
    common = fill(
        "common.yaml",
        file_mounts="\n".join(f"  {remote}: {local}" for remote, local in mounts.items()),
        setup_commands="\n".join(f"  - >-\n    {line}" for line in (*prepare, *install_commands(request, package))),
        head_setup_commands="".join(f"\n  - >-\n    {line}" for line in head_setup) or "[]",
        venv=request.venv,
        # Version 2 of Ray's autoscaler starts no workers with the provider "local".
        autoscaler_v1=" RAY_enable_autoscaler_v2=0" if head_address else "",
        head_ip_option=f"\n    --node-ip-address={head_address}" if head_address else "",
        metagen_version=pinned["metagen"],
        ray_version=pinned["ray"],
        torch_version=pinned["torch"],
        storage=request.storage,
        storage_help=storage_help,
        token=request.token,
        ssh_cidr=_ssh_cidr(request),
        price_example=price_example,
        prices=", ".join(f"{kind}: {price:g}" for kind, price in request.prices),
    )
    return fill(template, file=request.file, name=request.name, idle=request.idle_minutes, **values) + common


def _ssh_cidr(request: Request) -> str:
    if request.ssh_cidr is None:
        return ""
    why = "    # The only network that may reach port 22; the firewall closes all other ports.\n"
    return f"{why}    ssh_cidr: {request.cidr}\n"


def install_commands(request: Request, package: str) -> tuple[str, ...]:
    """Shell commands that leave the pinned versions in the virtual environment, or fail and say why."""
    pinned = versions()
    python, pip = f"{request.venv}/bin/python", f"{request.venv}/bin/pip install --quiet --disable-pip-version-check"
    wanted = " ".join(f"{name}=={version}" for name, version in pinned.items())
    check = (
        f'{python} -c "import sys; from importlib.metadata import version as v;'
        f" bad = [w + ' is wanted, ' + v(w.split('==')[0]) + ' is installed' for w in sys.argv[1:]"
        f" if v(w.split('==')[0]).split('+')[0] != w.split('==')[1]];"
        f" sys.exit('; '.join(bad) or 0)\" {wanted}"
    )
    torch = f"torch=={pinned['torch']}" + ("" if request.gpu else f" --index-url {CPU_WHEELS}")
    return (
        f"test -x {python} || python3 -m venv {request.venv}",
        f"{check} 2>/dev/null || ({pip} {torch} && {pip} 'ray[default,tune]=={pinned['ray']}' \"{package}\")",
        check,
    )
