"""What a cluster costs, from the prices in its file."""

from __future__ import annotations

from pathlib import Path

from launch.clusters.cluster_file import ClusterFile, read
from metagen.errors import UserError


def machine_types(file: ClusterFile) -> tuple[str, str]:
    """What the head and the workers are, as prices name them."""
    if file.kind == "local":
        head = str(file.provider.get("head_ip"))
        return head, file.hosts[0] if file.hosts else head
    types = file.config["available_node_types"]
    head = file.config["head_node_type"]
    workers = [name for name in types if name != head] or [head]
    first, second = (_type(types[name]["node_config"]) for name in (head, workers[0]))
    return first, second


def _type(node: dict[str, object]) -> str:
    arm = node.get("azure_arm_parameters")
    inner = arm if isinstance(arm, dict) else node
    return str(inner.get("InstanceType") or inner.get("machineType") or inner.get("vmSize"))


def hourly(file: ClusterFile, workers: int) -> float:
    """USD an hour with so many workers; raises ``UserError`` if a price is missing."""
    prices = file.metagen.hourly_prices
    head, worker = machine_types(file)
    for kind in (head, *((worker,) if workers else ())):
        if kind not in prices:
            raise UserError(f"{file.path}: no price of {kind}: add it to metadata.metagen.hourly_prices")
    return prices[head] + (workers * prices[worker] if workers else 0.0)


def cost_line(file: ClusterFile, workers: int) -> str:
    """What it costs to leave the cluster as it is."""
    if file.kind == "local" and not file.metagen.hourly_prices:
        return f"cost: none in the file; {len(file.hosts) + 1} machines of your own are kept busy"
    try:
        price = hourly(file, workers)
    except UserError as error:
        return f"cost: unknown ({error})"
    return f"cost: about {price:.2f} USD an hour, {24 * price:.2f} a day, while it is left running"


def estimate(path: Path, hours: float) -> str:
    """The cost of a cluster at its least and at its most; raises ``UserError`` if a price is missing."""
    file = read(path)
    least, most = (hourly(file, workers) for workers in file.workers)
    head, worker = machine_types(file)
    return "\n".join(
        [
            f"{file.name}: a head ({head}) and {file.workers[0]} to {file.workers[1]} workers ({worker})",
            f"  least  {least:.2f} USD an hour  {least * hours:.2f} USD in {hours:g} h",
            f"  most   {most:.2f} USD an hour  {most * hours:.2f} USD in {hours:g} h",
            "From the prices in the file alone: disks, traffic and storage come on top.",
        ]
    )
