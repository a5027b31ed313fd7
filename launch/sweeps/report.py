"""``metagen sweep report``: one page that opens offline, and its pictures."""

from __future__ import annotations

import base64
import html
import io
import sys
from collections import Counter
from pathlib import Path

from launch.sweeps import folder as folders
from launch.sweeps.charts import Charts
from launch.sweeps.durations import short
from launch.sweeps.names import short_names, shown
from metagen import tasks
from metagen.checkpoint import load_checkpoint, publishing
from metagen.errors import UserError
from metagen.evaluate import drawn, method_of
from metagen.picture import grid
from metagen.pool import one_thread
from metagen.search.config import SweepConfig
from metagen.search.importance import LEAST, importance
from metagen.search.judge import Judge
from metagen.search.ledger import Progress, Tried
from metagen.wording import counted

PAGE, PICTURES = "report.html", "report"
TOP, DRAWN, CLASSES, SAMPLES = 5, 3, 5, 5
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 46rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
svg, img { width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #eee; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } .facts td { text-align: left; white-space: normal; }
p.note { color: #666; font-size: .9rem; } code { background: #f4f4f4; padding: 0 .2rem; overflow-wrap: anywhere; }
"""


def write_report(folder: Path, samples: bool) -> None:
    """Write the page and the pictures; raises ``UserError`` where nothing was judged yet."""
    sweep, progress = folders.read(folder)
    folders.begun(folder)
    ranked = progress.ranked()
    if not ranked:
        raise UserError(f"{folder}: no trial was judged yet: 'metagen sweep status {folder}' says how far it is")
    charts, names, space = Charts(sweep), short_names(sweep.space), sweep.make_space()
    found = importance(space, list(progress.trials.values()))
    pictures = {"curves": charts.curves(ranked), "parallel": charts.parallel(ranked, names)}
    for other in ("parameters", "flops", "latency"):
        pictures[f"loss-{other}"] = charts.trade(ranked, other)
    if found is not None:
        pictures["importance"] = charts.importance(found, names)
    parts = [
        _head(sweep, progress, ranked[0]),
        _section("Best trials", _table(sweep, ranked[:TOP], names)),
        _section("Learning curves", pictures["curves"][0]),
        _section(
            "Loss against size, work and time",
            "<p>What no trial beats in both is joined by a line.</p>"
            + "".join(pictures[f"loss-{other}"][0] for other in ("parameters", "flops", "latency")),
        ),
        _section("Choices", "<p>A line is a trial; the best fifth is red.</p>" + pictures["parallel"][0]),
    ]
    if found is None:
        text = f"<p class=note>Fewer than {LEAST} trials were judged: too few to say.</p>"
    else:
        text = (
            f"<p>Permutation importance in a random forest fitted to the losses of {found.trials} trials at judgement "
            f"{found.rung}. It explains {max(found.fit, 0.0):.0%} of their variance on trials that it has not seen; "
            "the less, the less the bars say.</p>" + pictures["importance"][0]
        )
    parts.append(_section("Which choice matters", text))
    grids = _grids(sweep, folder, ranked[:DRAWN]) if samples else []
    if grids:
        images = "".join(
            f"<h3>Trial {n}</h3><img alt='what trial {n} draws' src='data:image/png;base64,{_coded(png)}'>"
            for n, png in grids
        )
        parts.append(
            _section(
                "What the best draw", f"<p>Validation classes, none of them seen in training. Left: shown.</p>{images}"
            )
        )
    parts += [_section("Cost", _cost(sweep, progress)), _section("Failed and refused", _failures(progress))]
    _write(folder, sweep, "\n".join(parts), {k: png for k, (_, png) in pictures.items()}, grids)


def _head(sweep: SweepConfig, progress: Progress, best: Tried) -> str:
    losses = sorted(t.objective("loss") for t in progress.ranked())
    return (
        f"<h1>{html.escape(sweep.name)}</h1><p>{counted(len(progress.trials), 'trial')}, "
        f"{short(progress.seconds)}. The best, "
        f"trial {best.number}, has a loss of <b>{best.objective('loss'):.4f}</b> on validation classes after "
        f"{counted(sweep.judge.steps, 'adaptation step')}; the middle trial {losses[len(losses) // 2]:.4f}. Search "
        f"{sweep.search.name}, schedule {sweep.schedule.name}.</p>"
        "<p><code>metagen sweep best DIR --export best.yaml</code> writes its config for "
        "<code>metagen train</code>.</p>"
        "<p class=note>A loss chosen as the least of many is too good by chance: measure the best anew, on test "
        "classes, with <code>metagen evaluate</code>.</p>"
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2>{body}"


def _table(sweep: SweepConfig, trials: list[Tried], names: dict[str, str]) -> str:
    """One column a trial: so that many choices stay readable on a narrow page."""
    rows: list[tuple[str, list[str]]] = [
        ("loss", [f"{t.objective('loss'):.4f}" for t in trials]),
        ("state", [t.status for t in trials]),
        ("step", [str(t.step) for t in trials]),
        ("parameters", [f"{t.facts['parameters']:,}" for t in trials]),
        ("MFLOPs a task", [f"{t.facts['flops'] / 1e6:,.0f}" for t in trials]),
        ("ms to adapt", [f"{1000 * t.objective('latency'):.0f}" for t in trials]),
        *(
            (short_name, [shown(t.assignment[name]) if name in t.assignment else "–" for t in trials])
            for name, short_name in names.items()
        ),
    ]
    head = "".join(f"<th>trial {t.number}</th>" for t in trials)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        for name, cells in rows
    )
    return f"<div class=wide><table><tr><th></th>{head}</tr>{body}</table></div>"


def _cost(sweep: SweepConfig, progress: Progress) -> str:
    busy = sum(trial.seconds for trial in progress.trials.values())
    steps = sum(trial.step for trial in progress.trials.values())
    all_steps = sum(int(trial.facts.get("steps", sweep.steps)) for trial in progress.trials.values())
    counts = Counter(trial.status for trial in progress.trials.values())
    room = progress.slots * progress.seconds
    rows = [
        ("wall-clock", short(progress.seconds)),
        ("trials", ", ".join(f"{count} {status}" for status, count in counts.items())),
        ("training and judging", f"{short(busy)} of trials, up to {progress.slots} at a time"),
        ("outer steps", f"{steps:,} of {all_steps:,} that whole trials would have taken"),
        ("share lost to starting and scheduling", f"{max(0.0, 1 - busy / room):.0%}" if room else "–"),
        ("proposals refused before they cost anything", str(len(progress.refusals))),
    ]
    body = "".join(f"<tr><td>{name}</td><td>{html.escape(text)}</td></tr>" for name, text in rows)
    return f"<table class=facts>{body}</table>"


def _failures(progress: Progress) -> str:
    failed = [trial for trial in progress.trials.values() if trial.status in ("failed", "refused")]
    lines = [f"trial {t.number} {t.status}: {t.reason}" for t in failed]
    lines += [f"{counted(count, 'proposal')}: {reason}" for reason, count in progress.reasons().most_common(8)]
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>" if lines else "<p>None.</p>"


def _grids(sweep: SweepConfig, folder: Path, trials: list[Tried]) -> list[tuple[int, bytes]]:
    """What the trials' checkpoints draw of validation classes, as PNGs by number."""
    one_thread()
    out, images = [], tasks.load(sweep.make_space().base.data)
    for trial in trials:
        try:
            saved = load_checkpoint(folder / str(trial.checkpoint))
        except UserError as error:
            print(f"note: trial {trial.number} is not drawn: {error}", file=sys.stderr)
            continue
        judge, file = Judge.of(sweep.judge, images, saved.config.episode.shots), io.BytesIO()
        rows = drawn(method_of(saved), judge.bench, judge.bench.classes[:CLASSES], sweep.judge.steps, SAMPLES)
        grid(rows).save(file, format="png")
        out.append((trial.number, file.getvalue()))
    return out


def _coded(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _write(
    folder: Path, sweep: SweepConfig, body: str, charts: dict[str, bytes], grids: list[tuple[int, bytes]]
) -> None:
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(sweep.name)}</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )
    with publishing(folder / PICTURES) as pictures:
        for name, png in charts.items():
            (pictures / f"{name}.png").write_bytes(png)
        for number, png in grids:
            (pictures / f"trial-{number:04d}.png").write_bytes(png)
    try:
        partial = folder / f".{PAGE}.partial"
        partial.write_text(page)
        partial.replace(folder / PAGE)
    except OSError as error:
        raise UserError(f"{folder / PAGE}: cannot be written ({error.strerror}): free some space") from None
    print(f"wrote {folder / PAGE} and {folder / PICTURES}")
