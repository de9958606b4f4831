"""python -m benchmarks.training [--widths 16 48] [--batches 1 2 4 8 16]: how fast a CPU trains.

The sweep's own training step runs on one worker per core. Beside it stands the loop that one would write
first: eager, contiguous, batches of 625 images, all threads in one process. All measurements take turns, so
compare their ratios; images per second hold for this machine only. For each width and batch size read

    images_per_s  training images per second of all workers together, without validation
    ratio         the same over images per second of the plain loop at that width; above 1 the sweep is faster
    fraction      the share of the best float32 matrix product of this machine that the network's operations
                  reach, counted as three forward passes per image, two operations per multiply-add
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from statistics import median

import torch
from torch.nn import functional as F

from benchmarks import run_without_crops
from n2nlib.files import ROOT
from n2nlib.params import Params, load_params
from n2nlib.report.diagrams import costs
from n2nlib.report.speed import calls_per_second, images_per_second
from n2nlib.train import sweep
from n2nlib.train.identity import RunParams
from n2nlib.train.network import Network
from n2nlib.train.runs import machine


def default_run(params: Params, **changes: object) -> RunParams:
    """A run of Upsample, MSE and Adam, sharpened, without crops, as `params` trains it, with `changes`."""
    setting = {"arch": "upsample", "loss": "mse", "optimizer": "adam", "sharpen": True}
    return run_without_crops(params, setting, **changes)


def plain_loop(width: int, seconds: float) -> float:
    """Training images per second of the plain loop on all threads of this process."""
    torch.manual_seed(0)
    network = Network(width, "upsample", tau_sharp=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    noisy, target = torch.randint(0, 256, (2, 625, 3, 32, 32)).float()

    def step() -> None:
        optimizer.zero_grad()
        inputs, targets = (images + 5 * torch.randn_like(images) for images in (noisy, target))
        F.mse_loss(network(inputs), targets).backward()
        optimizer.step()

    step()  # warms up
    return len(noisy) * calls_per_second(step, seconds)


def matmul_gflops(seconds: float) -> float:
    """The best float32 matrix product (GFLOP/s) of three sizes, on all threads of this process."""
    best = 0.0
    for size in (1024, 2048, 4096):
        a, b, out = torch.rand(3, size, size)
        until = time.monotonic() + seconds / 3
        while not best or time.monotonic() < until:
            started = time.monotonic()
            torch.mm(a, b, out=out)
            best = max(best, 2 * size**3 / (time.monotonic() - started) / 1e9)
    return best


def _in_fresh_process(call: str) -> float:
    """The value of a call of this module in a process with a thread per core, as a script would have."""
    code = f"from benchmarks import training; print(training.{call})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 48])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement in each round")
    parser.add_argument("--rounds", type=int, default=3, help="the median of the rounds is reported")
    arguments = parser.parse_args(argv)
    seconds, rounds = arguments.seconds, range(arguments.rounds)
    params, device = load_params(ROOT / "params" / "laptop.yaml", {"device": "cpu"}), torch.device("cpu")
    runs = {
        (width, batch): default_run(params, width=width, batch_size=batch)
        for width in arguments.widths
        for batch in arguments.batches
    }
    ours: dict[tuple[int, int], list[float]] = {key: [] for key in runs}
    plain: dict[int, list[float]] = {width: [] for width in arguments.widths}
    product = 0.0
    with sweep.client(params, sweep.default_workers(params)) as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        for _ in rounds:
            product = max(product, _in_fresh_process(f"matmul_gflops({seconds})"))
            for width in arguments.widths:
                plain[width].append(_in_fresh_process(f"plain_loop({width}, {seconds})"))
            for key, run in runs.items():
                measure = partial(client.submit, images_per_second, run, 32, device, seconds, pure=False)
                ours[key].append(sum(client.gather([measure(workers=[worker]) for worker in workers])))
    result = {"machine": machine(device), "workers": len(workers)}
    result |= {"matmul_gflops": round(product, 1), "widths": {}}
    for width in arguments.widths:
        gflop = costs(width).set_index("arch")["forward_backward_gflop"]["upsample"]
        slow = median(plain[width])
        batches = {}
        for batch in arguments.batches:
            images = median(ours[width, batch])
            measured = {"images_per_s": round(images, 1), "ratio": round(images / slow, 3)}
            batches[batch] = measured | {"fraction": round(images * gflop / product, 3)}
        result["widths"][width] = {"loop_images_per_s": round(slow, 1), "batches": batches}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
