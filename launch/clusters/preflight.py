"""What must be true of one's own machines before a cluster is started: Ray would try for a quarter of an hour."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from launch.clusters import access
from launch.clusters.cluster_file import ClusterFile
from launch.clusters.providers.template import python_version
from launch.clusters.ssh import Machine
from launch.jobs.places import folder_there, is_bucket
from metagen.errors import UserError

CLOCK_SECONDS = 30

SCRIPT = """
echo "time=$(date +%s)"
echo "rsync=$(command -v rsync)"
echo "pgrep=$(command -v pgrep)"
if test -x {venv}/bin/python; then
  {venv}/bin/python - {packages} <<'END'
import platform, sys
from importlib.metadata import PackageNotFoundError, version
print("python=" + ".".join(platform.python_version_tuple()[:2]))
for name in sys.argv[1:]:
    try:
        print(name + "=" + version(name).partition("+")[0])
    except PackageNotFoundError:
        pass
END
else
  echo "python=$(python3 -c 'import platform; print(".".join(platform.python_version_tuple()[:2]))')"
fi
mkdir -p {storage} && test -w {storage} && echo storage=writable
test -n "$(pgrep -x raylet)" && echo raylet=running
true
"""


def check(file: ClusterFile) -> None:
    """Raise ``UserError`` with one line that names every machine that is not ready, and why."""
    machines = access.machines(file)
    with ThreadPoolExecutor(max_workers=32) as threads:
        answers = list(threads.map(lambda machine: _trouble(file, machine), machines))
    wrong = [answer for answer in answers if answer]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(machines)} machines are not ready, nothing was started: {'; '.join(wrong)}"
        )


def _trouble(file: ClusterFile, machine: Machine) -> str | None:
    script = SCRIPT.format(
        venv=file.venv,
        packages=" ".join(sorted(file.metagen.versions)),
        storage="/tmp" if is_bucket(file.metagen.storage) else folder_there(file.metagen.storage),
    )
    began = time.time()
    try:
        done = machine.run(script)
    except UserError as error:
        return str(error)
    facts = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode or "time" not in facts:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        return f"{machine.address}: its shell says '{said}'"
    return _fault(file, machine.address, facts, began)


def _fault(file: ClusterFile, address: str, facts: dict[str, str], began: float) -> str | None:
    for tool, package in (("rsync", "rsync"), ("pgrep", "procps")):
        if not facts.get(tool):
            return f"{address}: no {tool}: install the package {package}"
    if facts.get("python") != python_version():
        return f"{address}: Python {facts.get('python') or 'is missing'}, here {python_version()}: install that one"
    for name, wanted in file.metagen.versions.items():
        # Where none is installed, or pip can replace it, setup does; where Ray already runs, it would be torn apart.
        if facts.get(name) not in (None, wanted):
            return (
                f"{address}: {name} {facts[name]} in {file.metagen.venv}, {wanted} in the file: install {wanted} there"
            )
    if facts.get("storage") != "writable":
        return f"{address}: {file.metagen.storage} cannot be written: mount the shared folder, or name another"
    if facts.get("raylet"):
        return f"{address}: Ray is running there already: 'metagen cluster down {file.path}', or 'ray stop' on it"
    skew = max(began - float(facts["time"]), float(facts["time"]) - time.time())
    if skew > CLOCK_SECONDS:
        return f"{address}: its clock is {skew:.0f} s off: start chrony or systemd-timesyncd there"
    return None
