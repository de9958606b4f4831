"""python -m benchmarks.gpu [--seconds 3]: how fast a GPU trains, and how fast it could.

The training step of the sweep is measured at the published width, on noise. First one run trains at a time:
step by step (eager), as a CUDA graph, and as a graph of the compiled network. Then several runs train at a
time, each on a stream of its own, as in the sweep. Without a GPU the CPU is measured, eager. Read

    images_per_s     training images per second by precision, batch size, way and runs at a time
    achieved_tflops  what the best of them computes, to be compared with the limits: the best matrix product
                     (TFLOP/s) and copy (GB/s, read and written) of the device
    kernels          on a GPU: those that take most of a step, by their share of its time
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import torch

from benchmarks.training import default_run
from n2nlib.files import ROOT
from n2nlib.params import load_params
from n2nlib.report.diagrams import costs
from n2nlib.report.speed import calls_per_second, epoch_rate
from n2nlib.train import loop, sweep
from n2nlib.train.cuda_graph import compiled
from n2nlib.train.identity import RunParams
from n2nlib.train.runs import machine

STEPS = 40  # per epoch


def started(run: RunParams, how: str, device: torch.device) -> loop.Step:
    """A step of `run` on noise, warmed up; `how` is "eager", "graph" or "compiled" (also a graph)."""
    shape = (STEPS * run.batch_size, 3, 32, 32)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    state = loop.begin(run, device)
    step = loop.Step(run, state, images, images)
    step.layers = compiled(state.network.unet.layers) if how == "compiled" else None
    if how == "eager":
        step.take = step
    loop.train_epoch(step)
    return step


def images_per_second(run: RunParams, how: str, seconds: float, at_once: int) -> float:
    """Training images per second of `at_once` runs together, each in a thread with a stream of its own."""
    device = sweep.pick_device("auto")
    ready = threading.Barrier(at_once)

    def train(_: int) -> float:
        with sweep.stream(device):
            try:
                step = started(run, how, device)
                ready.wait()
            except RuntimeError:
                ready.abort()  # or the others would wait for this run forever
                raise
            return epoch_rate(step, seconds)

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(train, range(at_once)))


def limits(device: torch.device, seconds: float = 0.5) -> dict[str, float]:
    """The best matrix product (TFLOP/s) in both precisions, and the bandwidth of a copy (GB/s)."""
    size, length = (8192, 2**30) if device.type == "cuda" else (1024, 2**26)
    found = {}
    for kind in (torch.float32, torch.bfloat16):
        a, b = torch.rand(2, size, size, device=device).to(kind)
        products = _repeated(lambda a=a, b=b: a @ b, device, seconds)
        found[f"matmul_{str(kind).removeprefix('torch.')}_tflops"] = 2 * size**3 * products / 1e12
    block = torch.zeros(length, dtype=torch.uint8, device=device)
    found["copy_gb_s"] = 2 * length * _repeated(block.clone, device, seconds) / 1e9
    return {name: round(value, 2) for name, value in found.items()}


def _repeated(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Calls of `work` per second, of which a GPU is given five at a time."""

    def five() -> None:
        for _ in range(5):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()  # warms up
    return 5 * calls_per_second(five, seconds)


def kernels(run: RunParams, how: str, count: int = 12) -> list[dict[str, object]]:
    """The GPU kernels that take most of a step: name, share of the time, calls per step."""
    device = sweep.pick_device("auto")
    with sweep.stream(device):  # a graph is not recorded on the default stream
        step = started(run, how, device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            loop.train_epoch(step)
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)
    total = sum(row.self_device_time_total for row in rows)
    return [
        {
            "share": round(row.self_device_time_total / total, 3),
            "calls": round(row.count / STEPS),
            "name": row.key[:150],
        }
        for row in rows[:count]
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--batches", type=int, nargs="+", default=[125, 250, 625])
    parser.add_argument("--at-once", type=int, nargs="+", default=[3, 6, 12])
    arguments = parser.parse_args(argv)
    device = sweep.pick_device("auto")
    cuda = device.type == "cuda"
    paper = load_params(ROOT / "params" / "paper.yaml")
    rates: dict[tuple[str, int, str, int], float] = {}

    def measure(*way: str | int) -> None:
        precision, batch, how, at_once = way
        run = default_run(paper, width=arguments.width, precision=precision, batch_size=batch)
        try:
            rates[way] = images_per_second(run, how, arguments.seconds, at_once)
        except RuntimeError as error:  # what this torch or device cannot do is a finding, not the end
            print(f"{way}: {error}", file=sys.stderr)

    precisions, ways = (("bfloat16", "float32"), ("eager", "graph", "compiled"))
    for precision, batch, how in product(precisions, arguments.batches, ways):
        if cuda or (precision, how) == ("float32", "eager"):
            measure(precision, batch, how, 1)
    if not rates:
        raise SystemExit(f"n2n: nothing could be measured on {machine(device)}; the reasons stand above")
    precision, _, how, _ = max(rates, key=rates.__getitem__)
    for batch, at_once in product(arguments.batches, arguments.at_once if cuda else []):
        measure(precision, batch, how, at_once)
    best = precision, batch, how, at_once = max(rates, key=rates.__getitem__)
    result = {"device": machine(device), "limits": limits(device)}
    result["images_per_s"] = {_words(way): round(value, 1) for way, value in rates.items()}
    gflop = costs(arguments.width).set_index("arch")["forward_backward_gflop"]["upsample"]
    result |= {"best": _words(best), "achieved_tflops": round(rates[best] * gflop / 1e3, 4)}
    if cuda:
        run = default_run(paper, width=arguments.width, precision=precision, batch_size=batch)
        result["kernels"] = kernels(run, how)
    print(json.dumps(result))


def _words(way: tuple[str, int, str, int]) -> str:
    return "{}, batch {}, {}, {} at once".format(*way)


if __name__ == "__main__":
    main()
