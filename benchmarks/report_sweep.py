"""What report.py writes of the benchmark of sweeps: what is found, what is inherited, what the driver bears."""

from __future__ import annotations

from statistics import fmean

from report_evidence import result


def search() -> str:
    values = result("sweep_search")
    names = {
        "default": f"`{values['search']}` with `{values['schedule']}`",
        "random": "`random` without a schedule",
        "handmade": "the quickstart's network",
        "handmade_longer": "the same, for as many seconds as the first",
    }
    lines = [
        "| network | in the sweeps | trainings | seconds each | loss on test classes | difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, label in names.items():
        loss, minus = values["loss"][name], values["default_minus"].get(name)
        apart = f"{minus['mean']:+.4f} ({minus['low']:+.4f}, {minus['high']:+.4f})" if minus else ""
        trainings = len(values["trainings"][name])
        row = f"{loss['mean']:.4f} ({loss['low']:.4f}, {loss['high']:.4f})"
        judged = [sweep["validation_loss"] for sweep in values["sweeps"] if sweep["search"] == name]
        swept = f"{fmean(judged):.4f} ({min(judged):.4f} to {max(judged):.4f})" if judged else ""
        took = values["seconds"][name]
        lines.append(f"| {label} | {swept} | {trainings} | {min(took):.0f} to {max(took):.0f} | {row} | {apart} |")
    lost = fmean(sweep["share_not_training"] for sweep in values["sweeps"])
    return (
        f"Sweeps of `{values['preset']}`, {values['budget_seconds']:.0f} s each, {values['seeds']} seeds; the best "
        f"network of each trained anew three times for equal {values['equal'].replace('flops', 'FLOPs')}; losses of "
        f"{values['test_classes']} test classes after {values['adaptation_steps']} adaptation steps; differences are "
        "the first's minus the row's, paired by class; 95% intervals, which say nothing of other seeds of the search; "
        "in the sweeps: the best trial's loss on validation classes, mean and range over seeds "
        "(`benchmarks/results/sweep_search.json`):\n\n" + "\n".join(lines) + "\n\n"
        f"{lost:.0%} of the room for trials was not training and judging, but starting and scheduling.\n"
    )


def inherit() -> str:
    values = result("sweep_inherit")
    minus = values["inherited_minus_fresh"]
    return (
        f"The same {values['pairs']} proposals at random, {values['steps']} outer steps each, with weights inherited "
        f"and without: the loss on validation classes differed by {minus['mean']:+.4f} ({minus['low']:+.4f}, "
        f"{minus['high']:+.4f}) (`benchmarks/results/sweep_inherit.json`).\n"
    )


def synthetic() -> str:
    values = result("sweep_synthetic")
    again, seconds = values["ended_trials_repeated"], values["seconds_before"] + values["seconds_after"]
    return (
        f"{values['trials']:,} trials that cost nothing took {seconds:.0f} s, "
        f"{values['seconds_a_trial']:.2f} s each, with `{values['search']}` and `{values['schedule']}`; the driver was "
        f"killed after {values['killed_at']:,} and went on, with {again} of the ended trials repeated. Its memory "
        f"reached {values['driver_peak_mib']:.0f} MiB (`benchmarks/results/sweep_synthetic.json`).\n"
    )
