"""metagen's inner loop against higher, TorchOpt and a plain PyTorch loop, as ratios in one run.

    pip install '.[bench]'
    python benchmarks/inner_loop.py [--device cuda] [--generators conv mlp] [--repeats 9] [--skip memory]

Same networks, tasks, noise, steps and batches (5 steps of 10 images and a query of 10) for all, on one thread, first
and second order. Contenders take turns and each figure is a median. On a CPU time is that of the processor: what else
runs on the machine is not counted. Peak memory is measured in a process of its own for every contender and number of
steps. Beside them stand the machine's peak in matrix products and where the time of a pass goes. Writes
results/inner_loop.json (on a GPU: inner_loop_cuda.json).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contenders import GENERATORS, Contender, Setting, ours, theirs
from environment import write
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from launch.preset import load_config
from metagen import algorithms, tasks, work
from metagen.generators import Condition
from metagen.paths import timed
from metagen.pool import one_thread
from metagen.precision import resolve
from metagen.seeding import torch_generator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CASES = [("first", "adam"), ("second", "sgd"), ("second", "adam")]
TOGETHER = {"mlp": (16, 64)}
"""Tasks at once that are tried beside the loop; for the others as in ``paths.CANDIDATES`` below 16."""
MEMORY_STEPS = (1, 5, 10, 20, 50)
KINDS = {
    "convolution": ("convolution", "conv2d"),
    "matrix product": ("mm", "bmm", "attention"),
    "normalisation": ("norm",),
    "activation": ("silu", "sigmoid"),
    "copies and concatenation": ("copy", "cat", "clone", "contiguous"),
    "parameters": ("adam", "AccumulateGrad"),
}


def contenders(setting: Setting, order: str) -> list[Contender]:
    """All that take part in a case."""
    second = order == "second"
    return ours(setting, second, TOGETHER.get(setting.generator, (4,))) + theirs(setting, second)


def times(setting: Setting, order: str, repeats: int) -> dict[str, Any]:
    """Seconds a task of every contender, in turn, and how far its losses and gradient are from the first peer's."""
    field, device = contenders(setting, order), torch.device(setting.device)
    singles = {(one.name, one.dtype): one.run() for one in field if one.tasks == 1}
    reference = singles["PyTorch", "fp32"]
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(repeats):
        for one in field:
            seconds[one.name, one.dtype].append(timed(one.run, device, repeats=0) / one.tasks)
    rows = []
    for one in field:
        each = seconds[one.name, one.dtype]
        row = {"name": one.name, "dtype": one.dtype, "seconds": statistics.median(each), "each": each}
        if one.tasks == 1:
            away = (singles[one.name, one.dtype] - reference).norm() / reference.norm()
            row |= {"curve": one.curve(), "gradient_away_from_pytorch_fp32": float(away)}
        rows.append(row)
    return {"generator": setting.generator, "order": order, "rule": setting.rule, "rows": rows}


def peak(device: torch.device, size: int = 1024) -> dict[str, float]:
    """GFLOP/s of a large matrix product."""
    found = {}
    for name, dtype in DTYPES.items():
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        found[name] = 2 * size**3 / timed(lambda a=a, b=b: a @ b, device, repeats=20) / 1e9
    return found


def passes(device: str, repeats: int) -> list[dict[str, Any]]:
    """Forward and backward passes of the quickstart's network: their share of the peak, and where the rest goes."""
    rows = []
    for dtype in DTYPES:
        config = load_config("quickstart", [f"precision={dtype}", f"device={device}"], None, None)
        problem = work.build_problem(config)
        theta, family = problem.network.initial.to(problem.network.device), problem.family
        rng, size = torch_generator("passes"), (family.channels, family.image_size, family.image_size)
        for name, groups, each in (("joint, 160 images", 16, 10), ("inner step, 20 images", 5, 4), ("10 images", 5, 2)):
            support = torch.rand(groups, 5, *size, generator=rng)
            condition = Condition.of_tasks(support) if groups == 16 else Condition.leave_one_out(support[0])
            images = torch.rand(groups * each, *size, generator=rng)
            draw = family.draw(len(images), rng)

            def one(problem: Any = problem, given: Any = (theta, condition, images, draw)) -> Any:
                return problem.gradient(*given)

            with FlopCounterMode(display=False) as counted:
                one()
            flops = counted.get_total_flops()
            took = timed(one, problem.network.device, repeats)
            rates = peak(problem.network.device)
            share = flops / took / 1e9 / rates[dtype]
            rows.append(
                {"pass": name, "dtype": dtype, "seconds": took, "gflop": flops / 1e9, "matmul_gflops": rates[dtype],
                 "share_of_matmul_peak": share, "shares": shares(one)}
            )  # fmt: skip
    return rows


def shares(one: Callable[[], Any]) -> dict[str, float]:
    """The share of a pass's time that each kind of operation takes."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for _ in range(3):
            one()
    found: dict[str, float] = defaultdict(float)
    for event in trace.key_averages():
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), "the rest")
        found[kind] += event.self_cpu_time_total
    return {kind: value / sum(found.values()) for kind, value in found.items()}


def estimators(device: str, repeats: int) -> list[dict[str, Any]]:
    """Every estimator at its own options on one task of the quickstart's network: seconds."""
    rows = []
    for name in sorted(algorithms.REGISTRY):
        needs = algorithms.REGISTRY[name].needs
        policy = "ridge" if needs.solver else "stochastic" if needs.explorer else "learned-steps"
        phase = f"phases=[{{estimator: {name}, steps: 1, items: 1, tasks: 1}}]"
        changes = [phase, f"device={device}", f"policy={{name: {policy}, proximal: {10.0 * needs.proximal}}}"]
        config = resolve(load_config("quickstart", changes, None, None))
        parts = work.build(config, tasks.load(config.data))
        item = work.item(config, 0, 0, 0)
        episodes = parts.drawings[0].episodes(item)
        theta = parts.problem.network.initial.to(parts.problem.network.device)
        vector = parts.policy.initial(parts.problem.network.layout).to(theta)

        def one(parts: Any = parts, episodes: Any = episodes, theta: Any = theta, vector: Any = vector) -> Any:
            return parts.estimators[0].estimate(
                parts.problem, theta, parts.policy, vector, episodes, [torch_generator("estimators")]
            )

        took = timed(one, parts.problem.network.device, repeats)
        rows.append({"estimator": name, "policy": policy, "dtype": config.precision, "seconds": took})
        print(f"{name:12s} {policy:14s} {1e3 * took:8.1f} ms a task", flush=True)
    return rows


def memory(setting: Setting, order: str, name: str, dtype: str) -> float:
    """Peak MB of one contender beyond what stood before it ran; in a process of its own."""
    [one] = [one for one in contenders(setting, order) if (one.name, one.dtype) == (name, dtype)]
    if setting.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one.run()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _resident("VmRSS")
    one.run()
    return _resident("VmHWM") - before


def _resident(kind: str) -> float:
    """Resident memory of this process in MB: as it is (``VmRSS``) or its peak (``VmHWM``)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[kind].split()[0]) / 1024


def apart(*arguments: object) -> Any:
    """This script in a process of its own; what it prints last is JSON."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compared(case: dict[str, Any]) -> None:
    """Print a case as a table, with ratios to the best peer of any precision and to the best one in float32."""
    rows = case["rows"]
    peers = [row for row in rows if not row["name"].startswith("metagen")]
    for key, among in (("best_peer", peers), ("best_peer_fp32", [row for row in peers if row["dtype"] == "fp32"])):
        best = min(among, key=lambda row: row["seconds"])
        for row in rows:
            pairs = zip(best["each"], row["each"], strict=True)
            row[f"times_{key}"] = statistics.median(theirs / mine for theirs, mine in pairs)
    print(f"\n{case['generator']}, {case['order']} order, {case['rule']}")
    for row in rows:
        print(
            f"  {row['name']:28s} {row['dtype']} {1e3 * row['seconds']:8.1f} ms a task, {row['times_best_peer']:5.2f} "
            f"times the best peer, {row['times_best_peer_fp32']:5.2f} times the best in fp32",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--generators", nargs="+", choices=GENERATORS, default=list(GENERATORS))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--memory-steps", type=int, nargs="*", default=list(MEMORY_STEPS))
    parser.add_argument("--skip", nargs="*", choices=("times", "memory", "passes", "estimators"), default=[])
    parser.add_argument("--case", nargs=3, metavar=("GENERATOR", "ORDER", "RULE"), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=5, help=argparse.SUPPRESS)
    parser.add_argument("--peak-of", nargs=2, metavar=("NAME", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    one_thread()
    if options.case:
        generator, order, rule = options.case
        setting = Setting(generator, options.steps, rule, options.device)
        if options.peak_of:
            print(json.dumps(memory(setting, order, *options.peak_of)))
        else:
            print(json.dumps(times(setting, order, options.repeats)))
        return
    figures: dict[str, Any] = {"device": options.device, "matmul_gflops": peak(torch.device(options.device))}
    common = ["--device", options.device]
    if "times" not in options.skip:
        figures["cases"] = []
        for generator in options.generators:
            for order, rule in CASES:
                case = apart(*common, "--repeats", options.repeats, "--case", generator, order, rule)
                compared(case)
                figures["cases"].append(case)
    if "memory" not in options.skip:
        figures["memory"] = []
        for steps in options.memory_steps:
            for name, dtype in (
                ("metagen, adjoint", "fp32"), ("metagen, adjoint", "bf16"), ("metagen, unroll", "fp32"),
                ("PyTorch", "fp32"), ("higher", "fp32"), ("TorchOpt", "fp32"),
            ):  # fmt: skip
                found = apart(*common, "--steps", steps, "--case", "conv", "second", "sgd", "--peak-of", name, dtype)
                figures["memory"].append({"steps": steps, "name": name, "dtype": dtype, "peak_mb": found})
                print(f"K={steps:2d} {name:18s} {dtype} {found:7.0f} MB", flush=True)
    if "passes" not in options.skip:
        figures["passes"] = passes(options.device, options.repeats)
        for row in figures["passes"]:
            print(f"{row['pass']:24s} {row['dtype']} {1e3 * row['seconds']:7.1f} ms, {row['share_of_matmul_peak']:.0%}")
    if "estimators" not in options.skip:
        figures["estimators"] = estimators(options.device, min(options.repeats, 5))
    name = "inner_loop" if options.device == "cpu" else f"inner_loop_{options.device.partition(':')[0]}"
    print(f"wrote {write(name, figures)}")


if __name__ == "__main__":
    main()
