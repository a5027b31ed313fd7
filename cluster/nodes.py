"""How large a running cluster is: ``python -m cluster.nodes --address HOST:PORT --alive`` prints its nodes."""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

import ray


def _connected(address: str | None) -> Any:
    return ray.init(
        address=address or os.environ.get("RAY_ADDRESS") or "auto", log_to_driver=False, logging_level=logging.ERROR
    )


def alive(address: str | None = None) -> int:
    """Nodes that are there now."""
    with _connected(address):
        return sum(node["Alive"] for node in ray.nodes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--address")
    parser.add_argument("--alive", action="store_true", required=True)
    print(alive(parser.parse_args().address))
