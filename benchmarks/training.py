"""python -m benchmarks.training [--width 48] [--seconds 30]: the sweep's training step on all cores against a plain loop, interleaved.

The plain loop is what one would write first: eager, contiguous layout, batch 625, all threads, one process. `fraction` is the share of this
machine's best float32 matrix product that our convolutions reach, counting 3 x the forward pass (two operations a multiply-add).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch

from n2nlib import sweep
from n2nlib.diagrams import cost
from n2nlib.files import ROOT
from n2nlib.model import Network
from n2nlib.params import Params, load_params
from n2nlib.plan import measure_on_worker
from n2nlib.sections import RunParams

ROUNDS = 3


def published_like(params: Params, width: int) -> RunParams:
    """A run of the paper's default kind (Upsample, MSE, Adam, sharpened) as a scale of `params` trains it."""
    from n2nlib.experiments import ablation_runs

    choice = {"arch": "upsample", "loss": "mse", "optimizer": "adam", "sharpen": True, "crops": False}
    runs = [one.run for one in ablation_runs(params) if all(one.row[name] == value for name, value in choice.items())]
    return runs[0].model_copy(update={"width": width})


def plain_loop(width: int, seconds: float) -> float:
    """Images/s of the plain loop, with all threads of this process."""
    torch.manual_seed(0)
    network = Network(width, "upsample", tau_sharp=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    noisy = torch.randint(0, 256, (625, 3, 32, 32)).float()
    target = torch.randint(0, 256, (625, 3, 32, 32)).float()
    seen, started = 0, None
    while started is None or time.monotonic() - started < seconds:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(noisy + 5 * torch.randn_like(noisy)), target + 5 * torch.randn_like(target))
        loss.backward()
        optimizer.step()
        if started is None:
            started = time.monotonic()  # the first step warms up
        else:
            seen += len(noisy)
    return seen / (time.monotonic() - started)


def matmul_gflops(seconds: float = 2.0) -> float:
    """The best float32 matrix product (GFLOP/s) of this process, over a few sizes, all threads."""
    best = 0.0
    for size in (1024, 2048, 4096):
        a, b = torch.rand(size, size), torch.rand(size, size)
        out = a @ b
        until = time.monotonic() + seconds / 3
        while time.monotonic() < until:
            started = time.monotonic()
            torch.mm(a, b, out=out)
            best = max(best, 2 * size**3 / (time.monotonic() - started) / 1e9)
    return best


def _elsewhere(call: str) -> float:
    """`call` of this module in a fresh process with every core's thread, as a script would have."""
    code = f"from benchmarks import training; print(training.{call})"
    return float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=30, help="of measurement of each side, in all")
    arguments = parser.parse_args()
    scale = "laptop" if arguments.width < 32 else "workstation"
    params = load_params(ROOT / "params" / f"{scale}.yaml", {"device": "cpu"})
    run = published_like(params, arguments.width)
    each = arguments.seconds / ROUNDS
    ours, loop, matmul = [], [], []
    with sweep.client(params, sweep.default_workers(params)) as client:
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        for _ in range(ROUNDS):
            futures = [client.submit(measure_on_worker, run, 32, "cpu", each, workers=[worker], pure=False) for worker in workers]
            ours.append(sum(train for train, _ in client.gather(futures)))
            loop.append(_elsewhere(f"plain_loop({arguments.width}, {each})"))
            matmul.append(_elsewhere("matmul_gflops()"))
    images, plain, product = sorted(ours)[1], sorted(loop)[1], max(matmul)
    achieved = images * cost(arguments.width, "upsample")["forward_backward_gflop"]
    result = {
        "width": arguments.width,
        "batch_size": run.batch_size,
        "workers": len(workers),
        "images_per_s": round(images, 1),
        "loop_images_per_s": round(plain, 1),
        "ratio": round(images / plain, 3),
        "matmul_gflops": round(product, 1),
        "achieved_gflops": round(achieved, 1),
        "fraction": round(achieved / product, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
