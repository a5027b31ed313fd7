"""What Prometheus reads of a run, scraped from Ray's own endpoint."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def _scraped(needle: str, seconds: float = 60.0) -> str:
    """The metrics page of this node, once ``needle`` is in it."""
    import ray

    [node] = ray.nodes()
    end, page = time.monotonic() + seconds, ""
    while time.monotonic() < end and needle not in page:
        time.sleep(1.0)
        with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
            page = answer.read().decode()
    return page


def test_prometheus_reads_the_documented_names(run_to_end: Any, tiny_config: Any) -> None:
    from cluster.metrics import Metrics

    _, reports = run_to_end(tiny_config())
    metrics = Metrics("tiny")
    for report in (*reports[:-1], replace(reports[-1], rolled_back=True, events={"lost": 1})):
        metrics.write(report)
    page = _scraped("ray_metagen_staleness_bucket")
    documented = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    names = set(re.findall(r"`(ray_metagen_\w+)`", documented))
    assert len(names) == 12
    for name in names:
        assert re.search(rf"^{name}(_bucket)?\{{", page, re.MULTILINE), name
    values = dict(re.findall(r"^(ray_metagen_\w+)\{[^}]*\} ([\d.e+-]+)$", page, re.MULTILINE))
    assert float(values["ray_metagen_step"]) == 5
    assert float(values["ray_metagen_loss"]) == pytest.approx(reports[-1].loss)
    assert float(values["ray_metagen_steps_total"]) == 5
    assert float(values["ray_metagen_pool_events_total"]) == 1
