from __future__ import annotations

import math

from launch.benchmarks.chart import Line, charts


def test_what_has_diverged_leaves_the_rest_of_a_chart_to_be_seen() -> None:
    cells = [{"mean": 0.2, "low": 0.1, "high": 0.3}, {"mean": math.inf, "low": 0.25, "high": math.inf}]
    finite = [cells[0], {"mean": 0.3, "low": 0.25, "high": 0.3}]
    drawn = (charts({"data": [Line("meta", (0, 5), c)]}, "steps", "loss") for c in (cells, finite))
    assert len({image.tobytes() for image in drawn}) == 1, "at the top edge"
