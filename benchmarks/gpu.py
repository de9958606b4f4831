"""python -m benchmarks.gpu [--seconds 3]: what a GPU gives the sweep's own training step at the published width, and how far that is from its limits.

Images/s in float32 and bfloat16, step by step (eager), as a CUDA graph and as a graph of the compiled network, batches of 125, 250 and 625; then several runs
at a time, each on its own stream, as the sweep trains them. Beside them the two limits that a step can meet, the best matrix product (TFLOP/s)
and copy (GB/s), and the kernels that take most of the time. Prints a line a measurement and one JSON object at the end. Without a GPU it
measures the CPU, eager.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import torch

from benchmarks.training import published_like
from n2nlib import sweep, training
from n2nlib.diagrams import cost
from n2nlib.files import ROOT
from n2nlib.params import load_params
from n2nlib.sections import RunParams

STEPS = 40  # an epoch


def started(run: RunParams, how: str, device: torch.device) -> training.Step:
    """A run's step on noise, warmed up; `how`: "eager", "graph" or "compiled" (a graph too)."""
    images = torch.randint(0, 256, (STEPS * run.batch_size, 3, 32, 32), dtype=torch.uint8, device=device)
    state = training.begin(run, device)
    step = training.Step(run, state, images, images)
    if how != "compiled":
        step.layers = None
    if how == "eager":
        step.take = step
    training.train_epoch(step)
    return step


def images_per_second(run: RunParams, how: str, seconds: float, at_once: int = 1) -> float:
    """Training images/s of `at_once` runs together, each in a thread and on a stream of its own, all warm before the clock starts."""
    device = sweep.pick_device("auto")
    ready = threading.Barrier(at_once)

    def train(_: int) -> float:
        with sweep.stream(device):
            step = started(run, how, device)
            ready.wait()
            begun, seen = time.monotonic(), 0
            while time.monotonic() - begun < seconds:
                training.train_epoch(step)  # ends by reading its loss, which waits for the device
                seen += len(step.inputs)
            return seen / (time.monotonic() - begun)

    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(train, range(at_once)))


def limits(seconds: float = 0.5) -> dict[str, float]:
    """The device's best matrix product (TFLOP/s) in both precisions, and its copy bandwidth (GB/s, read and written)."""
    device = sweep.pick_device("auto")
    size = 8192 if device.type == "cuda" else 1024
    found = {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.rand(size, size, device=device).to(kind) for _ in range(2))
        found[f"matmul_{name}_tflops"] = 2 * size**3 * _rate(lambda a=a, b=b: a @ b, device, seconds) / 1e12
    block = torch.randint(0, 256, (2**30 if device.type == "cuda" else 2**26,), dtype=torch.uint8, device=device)
    found["copy_gb_s"] = 2 * len(block) * _rate(block.clone, device, seconds) / 1e9
    return found


def _rate(work: object, device: torch.device, seconds: float) -> float:
    work()
    count, begun = 0, time.monotonic()
    while time.monotonic() - begun < seconds:
        for _ in range(5):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        count += 5
    return count / (time.monotonic() - begun)


def kernels(run: RunParams, how: str, count: int = 12) -> str:
    """The GPU kernels of a step that take most of the time, with their shares."""
    device = sweep.pick_device("auto")
    with sweep.stream(device):  # a graph is not recorded on the default stream
        step = started(run, how, device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            training.train_epoch(step)
    rows = sorted(profile.key_averages(), key=lambda row: -row.self_device_time_total)
    total = sum(row.self_device_time_total for row in rows)
    head = f"{total / STEPS / 1e3:.3f} ms of kernels a step of {run.batch_size} images, {sum(row.count for row in rows) / STEPS:.0f} kernels"
    lines = [f"{row.self_device_time_total / total:6.1%} {row.count / STEPS:5.0f} a step  {row.key[:150]}" for row in rows[:count]]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[125, 250, 625])
    parser.add_argument("--at-once", type=int, nargs="+", default=[3, 6, 12])
    parser.add_argument("--how", nargs="+", default=["eager", "graph", "compiled"])
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "float32"])
    arguments = parser.parse_args()
    cuda = sweep.pick_device("auto").type == "cuda"
    base = published_like(load_params(ROOT / "params" / "paper.yaml"), 48)
    result: dict[str, object] = {"device": torch.cuda.get_device_name() if cuda else "cpu"} | {name: round(value, 1) for name, value in limits().items()}
    print(result, flush=True)
    rates = {}

    def measured(run: RunParams, how: str, at_once: int) -> None:
        name = f"{run.precision} batch {run.batch_size} {how} x{at_once}"
        try:
            rates[name] = images_per_second(run, how, arguments.seconds, at_once)
        except RuntimeError as error:  # a way that this torch or device does not have is a finding, not the end of the others
            print(f"{name}: {str(error).splitlines()[0]}", flush=True)
            return
        print(f"{name}: {rates[name]:,.0f} images/s", flush=True)

    for precision, batch, how in product(arguments.precisions if cuda else ["float32"], arguments.batches, arguments.how if cuda else ["eager"]):
        measured(base.model_copy(update={"precision": precision, "batch_size": batch}), how, 1)
    best = max(rates, key=rates.get).split()
    for batch, count in product(arguments.batches, arguments.at_once if cuda else []):
        measured(base.model_copy(update={"precision": best[0], "batch_size": batch}), best[3], count)
    if cuda:
        print(kernels(base, best[3]))
    best = max(rates, key=rates.get)
    achieved = rates[best] * cost(48, "upsample")["forward_backward_gflop"] / 1e3
    print(json.dumps(result | {"images_per_s": {name: round(rate) for name, rate in rates.items()}, "best": best, "achieved_tflops": round(achieved, 2)}))


if __name__ == "__main__":
    main()
