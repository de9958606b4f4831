"""Other measures than PSNR, from libraries: PSNR-HVS-M (package psnr-hvsm) and SSIM (scikit-image)."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from skimage.metrics import structural_similarity

with contextlib.redirect_stdout(io.StringIO()):  # it prints a hint about its optional backends
    from psnr_hvsm import bt601ycbcr, psnr_hvs_hvsm

BATCH = 200  # images at a time
SSIM = {"channel_axis": -1, "data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
SSIM_REACH = 5  # pixels: half the window that sigma 1.5 makes; scikit-image leaves out as many at each border


def psnr_hvs_m(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """PSNR-HVS-M (dB, Ponomarenko et al. 2007) of the luma of each image, float64 N, of N x 3 x S x S in [0, 255]; S a multiple of 8.

    An image without any error has 100 dB, as the package has it.
    """
    with np.errstate(all="ignore"):  # flat blocks: the library divides by a variance of zero and takes care of it after
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
    return [(images[start : start + BATCH], clean[start : start + BATCH]) for start in range(0, len(images), BATCH)]


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
