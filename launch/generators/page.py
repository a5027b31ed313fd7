"""An evaluation as one page to open in a browser: everything is in the file, nothing is fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import Any

from torch import Tensor

from launch.generators.tables import digits_of
from metagen.bootstrap import bounds
from metagen.makers import Gallery
from metagen.picture import picture_of
from metagen.quality import READINGS
from metagen.wording import counted

COLOURS = 4
"""``--c0`` to ``--c3`` of the page's style."""
METHODS = {
    "meta": "meta-trained, its own policy",
    "finetune": "the same weights, tuned Adam",
    "finetune_oracle": "the same weights, Adam tuned on this data",
    "joint": "unconditioned, jointly trained, tuned Adam",
    "copycat": "copycat: shown images, jittered",
    "real": "other real images",
}


@dataclass(frozen=True, eq=False)
class Row:
    """One class to look at."""

    gallery: Gallery
    made: Tensor
    """New images ``[n, C, H, W]``."""
    nearest: Tensor
    """The real image nearest to each."""
    was_shown: Sequence[bool]
    """Whether that was one of those shown."""


def html_page(values: dict[str, Any], rows: Sequence[Row]) -> str:
    """The page of an evaluation's figures, and of rows of images."""
    parts = [_losses(values)]
    if "samples" in values:
        parts.append(_samples(values))
    parts.append(_categories(values))
    if rows:
        parts.append(_grids(rows, values["samples"]["steps"]))
    template = resources.files("launch.generators").joinpath("page.html").read_text()
    origin, classes = values["split_origin"], counted(len(values["classes"]), "class", "classes")
    subtitle = (
        f"{escape(values['checkpoint'])}, outer step {values['step']} &middot; {classes} of "
        f"split &lsquo;{values['split']}&rsquo;, {counted(values['shots'], 'image')} shown of each &middot; metagen "
        f"{values['metagen']}. {escape(origin[:1].upper() + origin[1:])}."
    )
    title = f"Evaluation on classes of {escape(values['data'])}"
    return Template(template).substitute(title=title, subtitle=subtitle, body="\n".join(parts))


def _losses(values: dict[str, Any]) -> str:
    steps = [str(k) for k in values["steps"]]
    rows = []
    for name, entry in values["methods"].items():
        rows.append([_method(name), *(_cell(entry["query_loss"][k], 4) for k in steps)])
    for name, entry in values["methods"].items():
        if "meta_minus_this" in entry:
            cells = [_cell(entry["meta_minus_this"][k], 4, "+") for k in steps]
            rows.append([f"meta minus <i>{_method(name)}</i>", *cells])
    head = ["method", *(counted(k, "step") for k in values["steps"])]
    caption = "Mean of classes and 95% interval, classes drawn anew; differences are paired by class."
    return (
        f"<h2>Loss of images not shown</h2><p>{escape(values['metric']).capitalize()} after so many inner steps, "
        f"in the same noise for every method. Lower is better.</p>{_chart(values)}{_table(head, rows, caption)}"
    )


def _samples(values: dict[str, Any]) -> str:
    samples = values["samples"]
    rows = []
    for metric, reading in READINGS.items():
        cells = [entry[metric] for entry in samples["methods"].values()]
        digits = digits_of(cells)
        title = f"<span title='{escape(reading.about)}'>{escape(reading.title)}</span>"
        rows.append([title, escape(reading.best), *(_cell(cell, digits) for cell in cells)])
    head = ["metric", "best", *(_method(name) for name in samples["methods"])]
    about = "".join(f"<li><b>{escape(r.title)}</b>: {escape(r.about)}</li>" for r in READINGS.values())
    return (
        f"<h2>New images</h2><p>{counted(samples['images'], 'image')} of each method after "
        f"{counted(samples['steps'], 'step')}, as many real "
        f"ones to compare with, in features of &lsquo;{escape(samples['extractor'])}&rsquo;. Read every column between "
        "the copycat's and that of other real images.</p>"
        f"{_table(head, rows)}<details><summary>What they mean</summary><ul class='soft'>{about}</ul></details>"
    )


def _categories(values: dict[str, Any]) -> str:
    last = values["steps"][-1]
    losses = {n: e["query_loss"][str(last)].get("by_category") for n, e in values["methods"].items()}
    meta = losses["meta"]
    if meta is None:
        return ""
    rows = [
        [escape(category), str(cell["classes"]), *(_cell(found[category], 4) for found in losses.values())]
        for category, cell in meta.items()
    ]
    head = ["category", "classes", *map(_method, losses)]
    parts = [_table(head, rows, f"Loss of images not shown, after {counted(last, 'step')}.")]
    if "samples" in values:  # apart: side by side they are wider than the page
        metrics = {m: cell["by_category"] for m, cell in values["samples"]["methods"]["meta"].items()}
        digits = {m: digits_of(list(found.values())) for m, found in metrics.items()}
        rows = [
            [escape(category), *(_cell(found[category], digits[m]) for m, found in metrics.items())]
            for category in meta
        ]
        head = ["category", *(escape(READINGS[m].title) for m in metrics)]
        parts.append(_table(head, rows, f"New images: {METHODS['meta']}."))
    return f"<h2>By category</h2>{''.join(parts)}"


def _grids(rows: Sequence[Row], steps: int) -> str:
    cards = []
    for row in rows:
        pairs = "".join(
            f"<div class='pair'>{_image(made)}{_image(real, 'real shown' if shown else 'real')}</div>"
            for made, real, shown in zip(row.made, row.nearest, row.was_shown, strict=True)
        )
        category = f" <span class='soft'>{escape(row.gallery.category)}</span>" if row.gallery.category else ""
        cards.append(
            f"<div class='class'><h3>{escape(row.gallery.name)}{category}</h3>"
            f"<div class='soft'>shown</div><div class='strip'>{''.join(map(_image, row.gallery.support))}</div>"
            "<div class='soft'>generated, with the nearest real image below</div>"
            f"<div class='strip'>{pairs}</div></div>"
        )
    return (
        f"<h2>Images</h2><p>New images after {counted(steps, 'step')}. Below each is the real image of its class that "
        "is nearest in the features, framed if it was one of those shown.</p>"
        f"<div class='classes'>{''.join(cards)}</div>"
    )


def _chart(values: dict[str, Any]) -> str:
    """Losses against steps as lines in their intervals, drawn as SVG."""
    steps = values["steps"]
    if len(steps) < 2:
        return ""
    width, height, left, right, top, bottom = 640, 280, 88, 16, 16, 52
    entries = {name: [e["query_loss"][str(k)] for k in steps] for name, e in values["methods"].items()}
    low, high = bounds(c for cells in entries.values() for c in cells)
    span = (high - low) or 1.0

    def x(k: int) -> float:
        return left + (width - left - right) * (k - steps[0]) / (steps[-1] - steps[0])

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - (min(value, high) - low) / span)  # what has diverged: at the top

    parts, legend = [], []
    for share in (0.0, 0.5, 1.0):
        value = low + share * span
        parts.append(f"<line class='axis' x1='{left}' x2='{width - right}' y1='{y(value):.1f}' y2='{y(value):.1f}'/>")
        parts.append(f"<text x='{left - 6}' y='{y(value) + 4:.1f}' text-anchor='end'>{value:.4f}</text>")
    for k in steps:
        parts.append(f"<text x='{x(k):.1f}' y='{height - 28}' text-anchor='middle'>{k}</text>")
    parts.append(f"<text x='{(left + width) / 2}' y='{height - 5}' text-anchor='middle'>inner steps</text>")
    for number, (name, cells) in enumerate(entries.items()):
        colour = f"var(--c{number % COLOURS})"
        points = list(zip(steps, cells, strict=True))
        band = [f"{x(k):.1f},{y(c['low']):.1f}" for k, c in points]
        band += [f"{x(k):.1f},{y(c['high']):.1f}" for k, c in reversed(points)]
        line = " ".join(f"{x(k):.1f},{y(c['mean']):.1f}" for k, c in points)
        parts.append(f"<polygon points='{' '.join(band)}' style='fill:{colour};opacity:.12'/>")
        parts.append(f"<polyline points='{line}' style='fill:none;stroke:{colour};stroke-width:2'/>")
        legend.append(f"<span><i style='background:{colour}'></i>{_method(name)}</span>")
    label = "Loss of images not shown against inner steps, one line a method"
    return (
        f"<figure><svg viewBox='0 0 {width} {height}' role='img' aria-label='{label}'>{''.join(parts)}</svg>"
        f"<div class='legend'>{''.join(legend)}</div></figure>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    titles = "".join(f"<th>{text}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<div class='scroll'><table><caption>{escape(caption)}</caption><thead><tr>{titles}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(cell: dict[str, Any], digits: int, sign: str = "") -> str:
    text = f"{cell['mean']:{sign}.{digits}f}"
    if "low" in cell:
        text += f"<small>{cell['low']:{sign}.{digits}f} to {cell['high']:{sign}.{digits}f}</small>"
    return text


def _method(name: str) -> str:
    return escape(METHODS.get(name, name))


def _image(image: Tensor, kind: str = "") -> str:
    """One image ``[C, H, W]`` as an element with its pixels in it."""
    buffer = io.BytesIO()
    picture_of(image).save(buffer, "png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<img class='{kind}' alt='' src='data:image/png;base64,{data}'>"
