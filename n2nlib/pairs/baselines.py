"""Classical denoisers, so that no network's PSNR stands alone.

The parameter of a method is chosen as Noise2Noise chooses weights: its result on the first noisy versions
must come nearest to the second ones (mean squared error), on training pairs. No clean image takes part, and
no validation or test image. Left out are BM3D (its package is closed and for non-commercial
use only), and scikit-image's bilateral filter, which does worse than the median here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from inspect import signature

import numpy as np
import pandas as pd
from scipy.ndimage import correlate, gaussian_filter, median_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor

from n2nlib.metrics import mse_per_image, perceptual, psnr_full, psnr_per_image
from n2nlib.pairs.pair_set import PairSet

TAPS = 5  # pixels: side of the linear filter
TUNED_ON = 100  # training pairs that choose a parameter
FITTED_ON = 1000  # training pairs that the linear filter is fitted to
NOISY = "noisy input"


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of N x 3 x S x S, `sigma` in pixels."""
    return gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma), mode="mirror")


def median(images: np.ndarray, radius: float) -> np.ndarray:
    """Median over a disc of N x 3 x S x S, each channel by itself; `radius` in pixels."""
    reach = int(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = rows**2 + columns**2 <= radius**2
    return median_filter(images.astype(np.float32), footprint=disc[None, None], mode="mirror")


def total_variation(images: np.ndarray, weight: float) -> np.ndarray:
    """Total-variation denoising (Chambolle 2004) of N x 3 x S x S in [0, 255], each channel by itself.

    `weight` is that of scikit-image, for images in [0, 1]. Returns float32.
    """
    return _each(denoise_tv_chambolle, images, weight=weight, eps=1e-3)


def non_local_means(images: np.ndarray, h: float) -> np.ndarray:
    """Non-local means (Buades et al. 2005) of N x 3 x S x S in [0, 255].

    Compares patches of 5 x 5 pixels at most one pixel apart: in such small images a wider search does worse
    (noisy to noisy, on training pairs). `h` is that of scikit-image, for images in [0, 1].
    """
    return _each(denoise_nl_means, images, h=h, patch_size=5, patch_distance=1)


def _each(denoise: Callable[..., np.ndarray], images: np.ndarray, **options: float) -> np.ndarray:
    scaled = images.astype(np.float32) / 255
    return 255 * np.stack([denoise(image, channel_axis=0, **options) for image in scaled])


def _grid(low: float, high: float) -> tuple[float, ...]:
    """33 values in a geometric sequence, three significant digits each."""
    return tuple(float(f"{value:.3g}") for value in np.geomspace(low, high, 33))


# Each method has one parameter, and its error has one minimum over the grid. The radii give every different
# disc that is at most five pixels wide; radius 0 is the noisy input.
METHODS: dict[str, tuple[Callable[..., np.ndarray], tuple[float, ...]]] = {
    "Gaussian blur": (blur, _grid(0.2, 2)),
    "median": (median, (0, 1, 1.5, 2, 2.3, 2.9)),
    "total variation": (total_variation, _grid(0.01, 0.5)),
    "non-local means": (non_local_means, _grid(0.03, 1)),
}


def choose(method: Callable[..., np.ndarray], values: tuple[float, ...], pairs: PairSet) -> float:
    """The value whose result on first noisy training versions is nearest to the second ones.

    Coarse to fine: a quarter of the grid apart, then both neighbours of the best at half the distance, down
    to adjacent values.
    """
    first, second = (pairs.train[name][:TUNED_ON].numpy() for name in ("noisy_1", "noisy_2"))

    @cache
    def error(index: int) -> float:
        return mse_per_image(method(first, values[index]), second).mean()

    step = max(1, (len(values) - 1) // 4)
    best = min(range(0, len(values), step), key=error)
    while step > 1:
        step //= 2
        near = (best, best - step, best + step)
        best = min((index for index in near if index in range(len(values))), key=error)
    return values[best]


def tuned_blur(images: np.ndarray, pairs: PairSet) -> np.ndarray:
    """Gaussian blur of N x 3 x S x S with the sigma that `choose` finds."""
    return blur(images, choose(*METHODS["Gaussian blur"], pairs))


def fit_linear(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The filter (5 x 5 weights) that brings `first` nearest to `second` (N x 3 x S x S), by least squares.

    The three channels share one filter and borders are mirrored. Weights for the other two channels are
    left out: with 75 weights per channel instead of 25 the filter gained 0.01 dB on photographs of
    ImageNet.
    """
    reach = TAPS // 2
    gram, moment = np.zeros((TAPS**2, TAPS**2)), np.zeros(TAPS**2)
    for start in range(0, len(first), 100):  # the windows take 200 times the memory of the images
        border = ((0, 0), (0, 0), (reach, reach), (reach, reach))
        padded = np.pad(first[start : start + 100], border, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (TAPS, TAPS), axis=(2, 3))
        windows = windows.reshape(-1, TAPS**2).astype(np.float64)
        gram += windows.T @ windows
        moment += windows.T @ second[start : start + 100].ravel().astype(np.float64)
    return np.linalg.lstsq(gram, moment)[0].reshape(TAPS, TAPS)


def linear(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Apply the weights of `fit_linear` to N x 3 x S x S; the result is limited to [0, 255]."""
    filtered = correlate(images.astype(np.float32), weights[None, None], mode="mirror")
    return filtered.clip(0, 255)


def tuned(pairs: PairSet) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The noisy input and each method, tuned on training pairs: name -> function of N x 3 x S x S images.

    Names carry the chosen parameter. A function takes images in [0, 255] and returns float32 in grey levels;
    only the linear filter clips its result to [0, 255].
    """
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {NOISY: lambda noisy: noisy.astype(np.float32)}
    for name, (method, values) in METHODS.items():
        value, parameter = choose(method, values, pairs), list(signature(method).parameters)[1]
        methods[f"{name} ({parameter} {value:g})"] = partial(method, **{parameter: value})
    weights = fit_linear(*(pairs.train[name][:FITTED_ON].numpy() for name in ("noisy_1", "noisy_2")))
    return methods | {f"linear filter ({TAPS} x {TAPS})": partial(linear, weights=weights)}


def baseline_row(name: str, images: np.ndarray, clean: np.ndarray) -> dict[str, object]:
    """A row of baselines.csv: method, psnr_full, psnr_per_image, psnr_hvs_m (dB), ssim."""
    mse = mse_per_image(images, clean)
    row = {"method": name, "psnr_full": psnr_full(mse), "psnr_per_image": psnr_per_image(mse)}
    return row | perceptual(images, clean)


def baselines(
    methods: Mapping[str, Callable[[np.ndarray], np.ndarray]], images: Mapping[str, Tensor]
) -> pd.DataFrame:
    """A row of `baseline_row` for each method of `tuned`, on the noisy and clean images of a split."""
    noisy, clean = (images[version].numpy() for version in ("noisy_1", "clean"))
    return pd.DataFrame([baseline_row(name, method(noisy), clean) for name, method in methods.items()])


def best(table: pd.DataFrame) -> tuple[str, float]:
    """The classical method with the best global PSNR in a table of `baselines`: its name, and dB."""
    row = table[table["method"] != NOISY].nlargest(1, "psnr_full").iloc[0]
    return row["method"], float(row["psnr_full"])


def reference_levels(table: pd.DataFrame) -> dict[str, float]:
    """The noisy input and the best classical method of a table of `baselines`: name -> global PSNR (dB)."""
    return {NOISY: float(table["psnr_full"].iloc[0])} | dict([best(table)])
