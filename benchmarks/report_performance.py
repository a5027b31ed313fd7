"""The figures of docs/performance.md, from results/inner_loop.json."""

from __future__ import annotations

from typing import Any

from report_evidence import result

SOURCE = "(`benchmarks/results/inner_loop.json`)"


def cases() -> str:
    """Every case: milliseconds a task, the ratio to the best peer, and where the losses end."""
    values = result("inner_loop")
    parts = [
        "Five inner steps of ten images and a query of ten, the meta-gradient of one task, on one thread of an "
        f"{values['environment']['processor'].split(' (')[0]} {SOURCE}. Ratios are medians over turns, above 1 faster "
        "than the fastest other library: in any precision, and in float32, as people use them.\n"
    ]
    for case in values["cases"]:
        parts.append(
            f"**{case['generator']}, {case['order']} order, {case['rule']}**\n\n"
            "| | dtype | ms a task | times the best peer | times the best in fp32 | query loss |\n"
            "|---|---|---|---|---|---|\n" + "".join(_row(row) for row in case["rows"])
        )
    return "\n".join(parts)


def _row(row: dict[str, Any]) -> str:
    loss = f"{row['curve'][-1]:.4f}" if "curve" in row else ""
    return (
        f"| {row['name']} | {row['dtype']} | {1e3 * row['seconds']:.1f} | {row['times_best_peer']:.2f} | "
        f"{row['times_best_peer_fp32']:.2f} | {loss} |\n"
    )


def memory() -> str:
    """Peak memory by inner steps."""
    rows = result("inner_loop")["memory"]
    names = list(dict.fromkeys((row["name"], row["dtype"]) for row in rows))
    found = {(row["steps"], row["name"], row["dtype"]): row["peak_mb"] for row in rows}
    head = " | ".join(f"{name} {dtype}" for name, dtype in names)
    lines = [f"| inner steps | {head} |", "|---|" + "---|" * len(names)]
    for steps in dict.fromkeys(row["steps"] for row in rows):
        cells = " | ".join(f"{found[steps, *name]:.0f}" for name in names)
        lines.append(f"| {steps} | {cells} |")
    return (
        "Peak MB of an exact meta-gradient on the quickstart's network, SGD, each in a process of its own "
        f"{SOURCE}:\n\n" + "\n".join(lines) + "\n"
    )


def passes() -> str:
    """Share of the matrix-product peak, and of the time by kind of operation."""
    rows = result("inner_loop")["passes"]
    kinds = sorted({kind for row in rows for kind in row["shares"]}, key=lambda kind: -rows[0]["shares"].get(kind, 0))
    lines = [
        f"| pass | dtype | ms | of the matrix-product peak | {' | '.join(kinds)} |",
        "|---|---|---|---|" + "---|" * len(kinds),
    ]
    for row in rows:
        shares = " | ".join(f"{row['shares'].get(kind, 0):.0%}" for kind in kinds)
        took, part = 1e3 * row["seconds"], row["share_of_matmul_peak"]
        lines.append(f"| {row['pass']} | {row['dtype']} | {took:.1f} | {part:.0%} | {shares} |")
    return (
        "Forward and backward passes of the quickstart's network, against a large matrix product of the same dtype on "
        f"the same core, and their time by kind of operation {SOURCE}:\n\n" + "\n".join(lines) + "\n"
    )


def estimators() -> str:
    """Milliseconds a task of every estimator."""
    rows = result("inner_loop")["estimators"]
    lines = ["| estimator | policy | dtype | ms a task |", "|---|---|---|---|"]
    lines += [
        f"| `{row['estimator']}` | {row['policy']} | {row['dtype']} | {1e3 * row['seconds']:.0f} |" for row in rows
    ]
    return (
        f"Every estimator at its default options, on one task of the quickstart {SOURCE}:\n\n" + "\n".join(lines) + "\n"
    )
