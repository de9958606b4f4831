"""python -m benchmarks.gpu [--seconds 3]: what is worth doing on a GPU before the published scale is trained there.

Images/s of the sweep's own training step at the published width: float32 and bfloat16, eager, compiled and as CUDA graphs, batches of 125
and 625, one run and several at a time on the one GPU. Beside them the two limits that a step can meet: the best matrix product (TFLOP/s) and
copy (GB/s). Prints a line a measurement and one JSON object at the end. Without a GPU it measures the CPU, where CUDA graphs are left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import torch

from benchmarks.training import published_like
from n2nlib import sweep, training
from n2nlib.diagrams import cost
from n2nlib.files import ROOT
from n2nlib.params import load_params
from n2nlib.sections import RunParams


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def images_per_second(run: RunParams, how: str, seconds: float) -> float:
    """Training steps of `run` on noise for `seconds`, after one epoch to warm up; `how`: "eager", "compiled" or "graphs"."""
    device = sweep.pick_device("auto")
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (8 * run.batch_size, 3, 32, 32), dtype=torch.uint8, device=device)
    state = training.begin(run, device)
    if how == "compiled":
        state.network = torch.compile(state.network)
    if how == "graphs":
        sample = torch.rand(run.batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16, enabled=run.precision == "bfloat16", cache_enabled=False):
            state.network = torch.cuda.make_graphed_callables(state.network, (sample,))
    training.train_epoch(run, state, images, images)
    _wait(device)
    seen, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        training.train_epoch(run, state, images, images)  # ends by reading its loss, which waits for the device
        seen += len(images)
    return seen / (time.monotonic() - started)


def limits(seconds: float = 1.0) -> dict[str, float]:
    """The device's best matrix product (TFLOP/s) in both precisions, and its copy bandwidth (GB/s, read and written)."""
    device = sweep.pick_device("auto")
    size = 8192 if device.type == "cuda" else 1024
    found = {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.rand(size, size, device=device).to(kind) for _ in range(2))
        found[f"matmul_{name}_tflops"] = 2 * size**3 * _rate(lambda a=a, b=b: a @ b, device, seconds) / 1e12
    block = torch.zeros(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    found["copy_gb_s"] = 2 * len(block) * _rate(block.clone, device, seconds) / 1e9
    return found


def _rate(work: object, device: torch.device, seconds: float) -> float:
    work()
    _wait(device)
    count, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        work()
        _wait(device)
        count += 1
    return count / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[125, 625])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    cuda = sweep.pick_device("auto").type == "cuda"
    base = published_like(load_params(ROOT / "params" / "paper.yaml"), 48)
    result: dict[str, object] = {"device": torch.cuda.get_device_name() if cuda else "cpu"} | {name: round(value, 1) for name, value in limits().items()}
    rates = {}
    for precision, batch, how in product(["float32", "bfloat16"][: 2 if cuda else 1], arguments.batches, ["eager", "compiled", "graphs"][: 3 if cuda else 1]):
        run = base.model_copy(update={"precision": precision, "batch_size": batch})
        try:
            rates[f"{precision} {batch} {how}"] = images_per_second(run, how, arguments.seconds)
        except RuntimeError as error:  # a way that this torch or device does not have is a finding, not the end of the others
            print(f"{precision}, batch {batch}, {how}: {str(error).splitlines()[0]}", flush=True)
            continue
        print(f"{precision}, batch {batch}, {how}: {rates[f'{precision} {batch} {how}']:,.0f} images/s", flush=True)
    run = base.model_copy(update={"precision": "bfloat16", "batch_size": arguments.batches[0]})
    for count in arguments.at_once:
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(images_per_second, *zip(*[(run, "eager", 0.1)] * count, strict=True)))  # every process is up and warm
            together = sum(pool.map(images_per_second, *zip(*[(run, "eager", 2 * arguments.seconds)] * count, strict=True)))
        rates[f"{count} at once"] = together
        print(f"{count} at once, batch {run.batch_size}, eager: {together:,.0f} images/s", flush=True)
    best = max(rates, key=rates.get)
    achieved = rates[best] * cost(48, "upsample")["forward_backward_gflop"] / 1e3
    print(json.dumps(result | {"images_per_s": {name: round(rate) for name, rate in rates.items()}, "best": best, "achieved_tflops": round(achieved, 2)}))


if __name__ == "__main__":
    main()
