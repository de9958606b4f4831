"""Classical denoisers on the validation set, so that no network's PSNR stands alone.

Each has one parameter, chosen as Noise2Noise chooses weights: by the mean squared error of a denoised first noisy version against the second,
on training pairs. No clean image and no validation image is looked at. BM3D is left out: its package is closed and for non-commercial use only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, median_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from n2nlib.metrics import mse_per_image, perceptual, psnr_full, psnr_per_image
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params

SAMPLE = 100  # training pairs that choose a parameter


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of N x 3 x S x S, `sigma` in pixels."""
    return gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma), mode="mirror")


def median(images: np.ndarray, size: int) -> np.ndarray:
    """Median of `size` x `size` pixels, each channel of its own."""
    return median_filter(images.astype(np.float32), (1, 1, size, size), mode="mirror")


def _each(denoise: Callable[..., np.ndarray], images: np.ndarray, **options: object) -> np.ndarray:
    scaled = images.astype(np.float32) / 255
    return 255 * np.stack([denoise(image, channel_axis=0, **options) for image in scaled])


def total_variation(images: np.ndarray, weight: float) -> np.ndarray:
    """Total-variation denoising (Chambolle 2004) of N x 3 x S x S in [0, 255]; `weight` for images in [0, 1]."""
    return _each(denoise_tv_chambolle, images, weight=weight)


def non_local_means(images: np.ndarray, h: float) -> np.ndarray:
    """Non-local means (Buades et al. 2005), 3 x 3 patches within 5 pixels; `h` for images in [0, 1]."""
    return _each(denoise_nl_means, images, h=h, patch_size=3, patch_distance=5, fast_mode=True)


METHODS: dict[str, tuple[Callable, tuple]] = {
    "Gaussian blur": (blur, tuple(np.arange(8, 25) / 20)),
    "median": (median, (2, 3, 5)),
    "total variation": (total_variation, (0.03, 0.05, 0.08, 0.12, 0.18)),
    "non-local means": (non_local_means, (0.04, 0.07, 0.1, 0.15, 0.2)),
}


def choose(method: Callable, values: tuple, pairs: PairSet) -> float:
    """The value whose result on first noisy training versions is nearest to the second ones."""
    first, second = (pairs.train[name][:SAMPLE].numpy() for name in ("noisy_1", "noisy_2"))
    errors = [mse_per_image(method(first, value), second).mean() for value in values]
    return values[int(np.argmin(errors))]


def evaluate(name: str, images: np.ndarray, clean: np.ndarray) -> dict[str, object]:
    """A row of baselines.csv: method, psnr_full, psnr_per_image, psnr_hvs_m (dB), ssim."""
    mse = mse_per_image(images, clean)
    return {"method": name, "psnr_full": psnr_full(mse), "psnr_per_image": psnr_per_image(mse)} | perceptual(
        images, clean
    )


def baselines(pairs: PairSet) -> pd.DataFrame:
    """The noisy input and every method at its chosen parameter, on the whole validation set."""
    noisy, clean = (pairs.validation[name].numpy() for name in ("noisy_1", "clean"))
    rows = [evaluate("noisy input", noisy, clean)]
    for name, (method, values) in METHODS.items():
        value = choose(method, values, pairs)
        parameter = next(iter(method.__annotations__.keys() - {"images", "return"}))
        rows.append(evaluate(f"{name} ({parameter} {value:g})", method(noisy, value), clean))
    return pd.DataFrame(rows)


def for_pairs(params: Params, pairs: PairSet) -> pd.DataFrame:
    """The table that notebook 01 wrote for these pairs; computed now where it has not."""
    path = params.reports / "tables" / "baselines.csv"
    if path.is_file():
        table = pd.read_csv(path)
        if np.isclose(
            table.loc[0, "psnr_full"], pairs.card["noisy_psnr_db"]["validation"]["global"], atol=1e-3
        ):
            return table
    return baselines(pairs)


def best(table: pd.DataFrame) -> tuple[str, float]:
    """The classical method with the best global PSNR: its name with parameter, and dB."""
    row = table[table["method"] != "noisy input"].sort_values("psnr_full", ascending=False).iloc[0]
    return row["method"], float(row["psnr_full"])
