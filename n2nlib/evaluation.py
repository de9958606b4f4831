"""PSNR in decibels, data range 255: global (one MSE over all pixels), per image, and the paper's 100 x 500 protocol.

All images have one size, so every figure follows from the mean squared error of each image, and one forward pass serves all subsets.
"""

from __future__ import annotations

import numpy as np

from n2nlib.sections import Evaluation

PEAK = 255.0


def mse_per_image(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Mean squared error of each image, float64 N, of two N x C x H x W arrays in [0, 255] of any real dtype.

    A value that is no number counts as 0, an infinite one as the end of the range it lies beyond: what a diverged network is worth.
    Raises ValueError if the shapes differ.
    """
    if images.shape != clean.shape:
        raise ValueError(f"shapes differ: {images.shape} and {clean.shape}")
    step = 1000  # images at a time: float64 takes eight times the memory of uint8
    parts = [np.empty(0)]
    for start in range(0, len(images), step):
        part = images[start : start + step].astype(np.float64)
        part = np.nan_to_num(part, nan=0.0, posinf=PEAK, neginf=0.0)
        parts.append(((part - clean[start : start + step]) ** 2).mean(axis=(1, 2, 3)))
    return np.concatenate(parts)


def psnr(mse: np.ndarray | float) -> np.ndarray | float:
    """10 log10(255^2 / mse), dB; infinite where the error is zero."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(PEAK**2 / np.asarray(mse, np.float64))


def psnr_full(mse: np.ndarray) -> float:
    """Global PSNR (dB): one MSE over all pixels of all images."""
    return float(psnr(np.mean(mse)))


def psnr_per_image(mse: np.ndarray) -> float:
    """Mean of the images' own PSNRs (dB), over the images that have an error at all."""
    values = psnr(np.asarray(mse)[np.asarray(mse) > 0])
    return float(values.mean()) if len(values) else float("inf")


def subset_psnr(mse: np.ndarray, protocol: Evaluation, seed: int) -> tuple[float, float]:
    """Mean and standard deviation (dB) of the global PSNR over `protocol.repeats` random subsets of `protocol.subset` images.

    Section III-A of the paper. Subsets are drawn without replacement and depend on `seed` alone, so all models meet the same ones. Of fewer images than a
    subset has (a study's own small validation set) a subset is half.
    """
    rng = np.random.default_rng([seed, 4])
    size = protocol.subset if protocol.subset <= len(mse) else max(1, len(mse) // 2)
    subsets = [rng.choice(len(mse), size, replace=False) for _ in range(protocol.repeats)]
    values = np.array([psnr_full(mse[subset]) for subset in subsets])
    return float(values.mean()), float(values.std(ddof=1))


def summarize(mse: np.ndarray, protocol: Evaluation, seed: int) -> dict[str, float]:
    """The four PSNR columns of every table, from the error of each validation image."""
    mean, std = subset_psnr(mse, protocol, seed)
    return {"psnr_mean": mean, "psnr_std": std, "psnr_full": psnr_full(mse), "psnr_per_image": psnr_per_image(mse)}
