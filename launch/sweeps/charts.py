"""Charts of a sweep, by matplotlib, as SVG for the page and as PNG. Small, with large letters: for phones too."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

from metagen.search.config import SweepConfig
from metagen.search.importance import Importance
from metagen.search.ledger import Tried
from metagen.search.models import optional
from metagen.search.pareto import front
from metagen.search.space import Domain

BEST, OTHER, FRONT = "#c0392b", "#9fb4c7", "#1f6f8b"
WIDTH, HEIGHT = 6.0, 3.8
UNITS = {"loss": "validation loss", "parameters": "parameters", "flops": "FLOPs a task", "latency": "seconds to adapt"}
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "path",  # the page needs no fonts
    "svg.hashsalt": "metagen",
    "figure.constrained_layout.use": True,
}


class Charts:
    """Makes figures; raises ``UserError`` where matplotlib is not installed."""

    def __init__(self, sweep: SweepConfig) -> None:
        matplotlib = optional("matplotlib", "the report")
        matplotlib.use("agg")
        self.plt: Any = optional("matplotlib.pyplot", "the report")
        self.sweep = sweep

    def figure(self, height: float = HEIGHT) -> tuple[Any, Any]:
        """A new figure and its axes."""
        self.plt.rcParams.update(STYLE)
        figure, axes = self.plt.subplots(figsize=(WIDTH, height))
        return figure, axes

    def saved(self, figure: Any) -> tuple[str, bytes]:
        """A figure as SVG and as PNG; it is closed."""
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        figure.savefig(png, format="png", dpi=150)
        self.plt.close(figure)
        text = svg.getvalue()
        return text[text.index("<svg") :], png.getvalue()

    def curves(self, ranked: Sequence[Tried]) -> tuple[str, bytes]:
        """Validation loss over outer steps, one line a trial, the best in colour."""
        figure, axes = self.figure()
        for place, trial in reversed(list(enumerate(ranked))):
            steps, losses = [r["step"] for r in trial.results], [r["loss"] for r in trial.results]
            colour, width = (BEST, 2.0) if place == 0 else (OTHER, 1.0)
            axes.plot(steps, losses, color=colour, linewidth=width, marker="o", markersize=3 if place else 5)
        losses = sorted(r["loss"] for t in ranked for r in t.results)
        span = losses[int(0.97 * (len(losses) - 1))] - losses[0]
        if losses[-1] - losses[0] > 2 * span > 0:  # one that went astray is not to hide the others
            axes.set_ylim(losses[0] - 0.05 * span, losses[0] + 1.05 * span)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("outer steps")
        axes.set_ylabel(UNITS["loss"])
        axes.set_title(f"trial {ranked[0].number} in colour", fontsize=11)
        return self.saved(figure)

    def trade(self, ranked: Sequence[Tried], other: str) -> tuple[str, bytes]:
        """Loss against another objective; the front, which no trial beats in both, as steps."""
        figure, axes = self.figure()
        points = [(t.objective(other), t.objective("loss")) for t in ranked]
        shown = [(point, trial) for point, trial in zip(points, ranked, strict=True) if all(map(math.isfinite, point))]
        best = front([point for point, _ in shown])
        axes.scatter(*zip(*(p for p, _ in shown), strict=True), color=OTHER, s=22)
        line = sorted(shown[i][0] for i in best)
        axes.step(*zip(*line, strict=True), where="post", color=FRONT)
        axes.scatter(*zip(*line, strict=True), color=FRONT, s=36, zorder=3)
        for index in best:
            (x, y), trial = shown[index]
            axes.annotate(str(trial.number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9)
        if other in ("parameters", "flops"):  # 100 k and 50 M, not 100000 and 0.5 with 1e8 in a corner
            axes.xaxis.set_major_formatter(optional("matplotlib.ticker", "the report").EngFormatter())
        axes.set_xlabel(UNITS[other])
        axes.set_ylabel(UNITS["loss"])
        return self.saved(figure)

    def parallel(self, ranked: Sequence[Tried], names: dict[str, str]) -> tuple[str, bytes]:
        """Every trial a line through its choices, down to its loss; the best fifth in colour.

        The axes lie one below the other: so they have room for words on a phone.
        """
        figure, axes = self.figure(0.6 * (len(names) + 1) + 0.6)
        losses = sorted(t.objective("loss") for t in ranked)
        low, high = losses[0], losses[math.ceil(0.9 * (len(losses) - 1))]
        axes.set_yticks(range(len(names) + 1), [*names.values(), "loss"])
        axes.invert_yaxis()
        axes.set_xticks([])
        few = max(1, len(ranked) // 5)
        for place, trial in reversed(list(enumerate(ranked))):
            xs = [self._place(name, trial) for name in names]
            xs.append(min(1.0, (trial.objective("loss") - low) / ((high - low) or 1.0)))
            points = [(x, y) for y, x in enumerate(xs) if x is not None]
            colour, width, alpha = (BEST, 1.6, 0.9) if place < few else (OTHER, 0.8, 0.5)
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=width, alpha=alpha)
        for y, name in enumerate(names):
            for x, text in _ticks(self.sweep.space[name]):
                axes.text(x, y - 0.12, text, fontsize=8, ha="center", va="bottom")
        axes.text(0.0, len(names) - 0.12, f"{low:.4g}", fontsize=8, ha="center", va="bottom")
        end = f"{high:.4g}" + "+" * (high < losses[-1])
        axes.text(1.0, len(names) - 0.12, end, fontsize=8, ha="center", va="bottom")
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_xlim(-0.06, 1.06)
        return self.saved(figure)

    def _place(self, name: str, trial: Tried) -> float | None:
        """Where a choice lies between 0 and 1; None if it is inactive."""
        if name not in trial.assignment:
            return None
        domain, value = self.sweep.space[name], trial.assignment[name]
        if domain.choice is not None:
            return domain.labels.index(domain.label(value)) / max(1, len(domain.choice) - 1)
        low, high = domain.ends
        if domain.loguniform is not None:
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))

    def importance(self, found: Importance, names: dict[str, str]) -> tuple[str, bytes]:
        """Shares of the parameters as bars."""
        figure, axes = self.figure(0.35 * len(found.shares) + 0.9)
        words = [names[name] for name in found.shares]
        bars = axes.barh(words, list(found.shares.values()), color=FRONT)
        axes.bar_label(bars, [f"{share:.0%}" for share in found.shares.values()], padding=3, fontsize=9)
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.spines[["bottom"]].set_visible(False)
        return self.saved(figure)


def _ticks(domain: Domain) -> list[tuple[float, str]]:
    if domain.choice is not None:
        count = max(1, len(domain.choice) - 1)
        return [(place / count, str(label)) for place, label in enumerate(domain.labels)]
    low, high = domain.ends
    return [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
