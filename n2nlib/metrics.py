"""PSNR in decibels, data range 255: global (one MSE over all pixels), per image, and the paper's 100 x 500 protocol.

All images have one size, so every figure follows from the mean squared error of each image, and one forward pass serves all subsets.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
from skimage.metrics import structural_similarity

from n2nlib.params import Evaluation

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
    return {
        "psnr_mean": mean,
        "psnr_std": std,
        "psnr_full": psnr_full(mse),
        "psnr_per_image": psnr_per_image(mse),
    }


with contextlib.redirect_stdout(io.StringIO()):  # it prints a hint about its optional backends
    from psnr_hvsm import bt601ycbcr, psnr_hvs_hvsm


BATCH = 200  # images at a time


SSIM = {
    "channel_axis": -1,
    "data_range": 255,
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
}


SSIM_REACH = 5  # pixels: half the window that sigma 1.5 makes; scikit-image leaves out as many at each border


def psnr_hvs_m(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """PSNR-HVS-M (dB, Ponomarenko et al. 2007) of the luma of each image, float64 N, of N x 3 x S x S in [0, 255]; S a multiple of 8.

    An image without any error has 100 dB, as the package has it.
    """
    with np.errstate(
        all="ignore"
    ):  # flat blocks: the library divides by a variance of zero and takes care of it after
        parts = [psnr_hvs_hvsm(_luma(a), _luma(b), batch=True)[1] for a, b in _batches(images, clean)]
    return np.concatenate(parts)


def ssim(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5) of each image, mean over channels, float64 N in [-1, 1].

    One map of all images on top of each other, of which each image's inner part is averaged: what one call an image gives, but faster.
    """
    inner = slice(SSIM_REACH, -SSIM_REACH)
    parts = []
    for a, b in _batches(images, clean):
        _, similarity = structural_similarity(_stacked(a), _stacked(b), full=True, **SSIM)
        parts.append(similarity.reshape(len(a), *a.shape[2:], 3)[:, inner, inner].mean(axis=(1, 2, 3)))
    return np.concatenate(parts)


def perceptual(images: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """psnr_hvs_m (dB) and ssim, each the mean over images."""
    return {"psnr_hvs_m": float(psnr_hvs_m(images, clean).mean()), "ssim": float(ssim(images, clean).mean())}


def _batches(images: np.ndarray, clean: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (images[start : start + BATCH], clean[start : start + BATCH])
        for start in range(0, len(images), BATCH)
    ]


def _stacked(images: np.ndarray) -> np.ndarray:
    """N x 3 x H x W, any dtype -> float64 (N * H) x W x 3."""
    count, channels, height, width = images.shape
    return images.astype(np.float64).transpose(0, 2, 3, 1).reshape(count * height, width, channels)


def _luma(images: np.ndarray) -> np.ndarray:
    """N x 3 x H x W in [0, 255] -> N x H x W, the package's Y of BT.601."""
    luma = bt601ycbcr(np.clip(_stacked(images), 0, 255))[0]
    return luma.reshape(len(images), *images.shape[2:])


def gradient_energy(images: np.ndarray) -> np.ndarray:
    """Sum of the squared differences of neighbouring pixels of each image, float64 N, of N x 3 x S x S.

    Over that of the clean images it says how sharp denoised ones are: below 1 they are blurrier, above 1 noisier or sharper.
    """
    x = images.astype(np.float64)
    return (np.diff(x, axis=2) ** 2).sum(axis=(1, 2, 3)) + (np.diff(x, axis=3) ** 2).sum(axis=(1, 2, 3))
