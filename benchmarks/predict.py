"""python -m benchmarks.predict [--model FILE]: how fast a trained model denoises on one core.

`Denoiser.predict`, with and without the mean over four flips, and classical denoisers work in turns on the
same noisy images: many of 32 x 32 pixels, and few of 256 x 256. For each size read

    megapixels_per_s  of each method on one core of this machine
    ratio             the same over that of `Denoiser.predict` without flips; above 1 the method is faster
    settings          the same ratio for other settings of torch: memory layout, recording of gradients,
                      bfloat16, threads and `torch.compile` (null without a C++ compiler). They run the bare
                      network, without the padding and the copies of `Denoiser.predict`, so compare them
                      with "channels_last, inference_mode", which is what it uses. The last one is
                      `Denoiser.predict` with half as many pixels in the network at a time

The classical methods have the parameters that notebook 01 chooses at scale laptop; non-local means searches
one pixel far there, and eleven with scikit-image's defaults. BM3D is left out. Its authors' package (bm3d) is
for non-commercial use only; of the free ones, PyBM3D was last released in 2017 for Python 3.6, bm3dornl
removes streaks from sinograms, and vapoursynth-bm3dcpu needs Python 3.12 and a video framework.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch
from skimage.restoration import denoise_nl_means
from torch import nn

from benchmarks import command
from n2nlib.denoiser import SMALL_IMAGES, Denoiser
from n2nlib.files import ROOT
from n2nlib.pairs import baselines
from n2nlib.pairs.corruption import make_pairs
from n2nlib.pairs.photos import find_photos
from n2nlib.params import load_params
from n2nlib.report.speed import calls_per_second
from n2nlib.train.runs import machine

SIZES = {32: 7, 256: 2}  # pixels per side: block, with which no bundled photograph is much enlarged
PREDICT = "Denoiser.predict"
Work = Callable[[], object]


def noisy_images(size: int, pixels: int) -> np.ndarray:
    """Noisy versions of random squares of a validation photograph: uint8 N x 3 x size x size, N >= 1."""
    options = {"size": size, "block": SIZES[size]}
    params = load_params(ROOT / "params" / "laptop.yaml", {"pairs": options})
    photo = find_photos(params).validation[0]
    indices = list(range(max(1, pixels // size**2)))
    return make_pairs((photo, indices), params.pairs, whole=0, seed=(0, 1))[0]


def methods(denoiser: Denoiser, images: np.ndarray) -> dict[str, Work]:
    """What is compared, by name; `denoiser` comes without and with flips."""
    plain, flipped = (Denoiser(denoiser.network, flips) for flips in (False, True))
    return {
        PREDICT: partial(plain.predict, images),
        f"{PREDICT}, four flips": partial(flipped.predict, images),
        "Gaussian blur": partial(baselines.blur, images, 0.59),
        "total variation": partial(baselines.total_variation, images, 0.08),
        "non-local means": partial(baselines.non_local_means, images, 0.19),
        "non-local means, scikit-image's defaults": lambda: [
            denoise_nl_means(image / 255, channel_axis=0) for image in images
        ],
    }


def settings(denoiser: Denoiser, images: np.ndarray) -> dict[str, Work | None]:
    """Other ways to run the network on all images at once, by name; None if this machine cannot."""
    network = denoiser.network
    contiguous = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    given = torch.from_numpy(images).float()
    last = given.contiguous(memory_format=torch.channels_last)
    inference = torch.inference_mode()
    ways: dict[str, Work | None] = {
        "channels_last, inference_mode": inference(partial(network, last)),
        "contiguous": inference(partial(contiguous, given)),
        "no_grad": torch.no_grad()(partial(network, last)),
        "gradients recorded": partial(network, last),
        "bfloat16": inference(torch.autocast("cpu", torch.bfloat16)(partial(network, last))),
        "compiled": None,
    }
    if has_compiler():
        ways["compiled"] = inference(partial(torch.compile(network, dynamic=False), last))
    ways["all threads"] = inference(partial(_with_threads, os.cpu_count() or 1, network, last))
    half = SMALL_IMAGES // 2
    return ways | {f"{half} pixels at a time": partial(Denoiser(network).predict, images, half)}


def _with_threads(count: int, network: nn.Module, images: torch.Tensor) -> None:
    torch.set_num_threads(count)
    network(images)
    torch.set_num_threads(1)


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which `torch.compile` needs on a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)


def compare(ways: dict[str, Work | None], seconds: float, rounds: int) -> dict[str, float | None]:
    """Calls per second of each way, the median over `rounds` in which all of them take turns."""
    possible = {name: work for name, work in ways.items() if work}
    for work in possible.values():
        work()  # warms up
    taken = [
        {name: calls_per_second(work, seconds) for name, work in possible.items()} for _ in range(rounds)
    ]
    return {name: median(one[name] for one in taken) if name in possible else None for name in ways}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a model file; default: the bundled model")
    parser.add_argument("--pixels", type=int, default=2**18, help="of all images of a size together")
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement in each round")
    parser.add_argument("--rounds", type=int, default=3, help="the median of the rounds is reported")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    denoiser = Denoiser.load(arguments.model)
    result = {"machine": machine(torch.device("cpu")), "network": denoiser.network.config, "sizes": {}}
    for size in SIZES:
        images = noisy_images(size, arguments.pixels)
        megapixels = len(images) * size**2 / 1e6
        compared, others = methods(denoiser, images), settings(denoiser, images)
        calls = compare(compared | others, arguments.seconds, arguments.rounds)
        ratio = {name: value and float(f"{value / calls[PREDICT]:.3g}") for name, value in calls.items()}
        result["sizes"][size] = {
            "images": len(images),
            "megapixels_per_s": {name: float(f"{calls[name] * megapixels:.3g}") for name in compared},
            "ratio": {name: ratio[name] for name in compared if name != PREDICT},
            "settings": {name: ratio[name] for name in others},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    command(main)
