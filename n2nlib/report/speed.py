"""How fast this machine trains, for `plan` and for the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from n2nlib.train import loop, sweep
from n2nlib.train.identity import RunParams


def images_per_second(run: RunParams, size: int, device: torch.device, seconds: float = 1) -> float:
    """Training rate of one process here, from `seconds` of training on random images."""
    torch.set_num_threads(1)  # as in the processes of a sweep
    torch.set_flush_denormal(True)  # as `loop.train` sets it
    count = max(4 * run.batch_size, 64)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=device)
    with sweep.stream(device):
        step = loop.Step(run, loop.begin(run, device), images, images)
        loop.train_epoch(step)
        return epoch_rate(step, seconds)


def epoch_rate(step: loop.Step, seconds: float) -> float:
    """Training images per second of `step`, from whole epochs that take at least `seconds`."""
    # An epoch reads its loss at the end, so it waits for a GPU.
    return step.items * calls_per_second(partial(loop.train_epoch, step), seconds)


def calls_per_second(work: Callable[[], object], seconds: float) -> float:
    """Calls of `work` per second, from whole calls that take at least `seconds`."""
    count, started = 0, time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds or not count:
        work()
        count += 1
    return count / elapsed
