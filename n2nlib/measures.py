"""Other measures than PSNR, from libraries: PSNR-HVS-M (package psnr-hvsm) and SSIM (scikit-image)."""

from __future__ import annotations

import contextlib
import io

import numpy as np
from skimage.metrics import structural_similarity

with contextlib.redirect_stdout(io.StringIO()):  # it prints a hint about its optional backends
    from psnr_hvsm import bt601ycbcr, psnr_hvs_hvsm


def psnr_hvs_m(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """PSNR-HVS-M (dB, Ponomarenko et al. 2007) of the luma of each image, float64 N, of N x 3 x S x S in [0, 255]; S a multiple of 8."""
    with np.errstate(all="ignore"):  # flat blocks: the library divides by a variance of zero and takes care of it after
        return np.array([psnr_hvs_hvsm(_luma(a), _luma(b))[1] for a, b in zip(images, clean, strict=True)])


def _luma(image: np.ndarray) -> np.ndarray:
    return bt601ycbcr(np.clip(image, 0, 255).transpose(1, 2, 0))[0]


def ssim(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5) of each image, mean over channels, float64 N in [-1, 1]."""
    options = {"channel_axis": 0, "data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return np.array([structural_similarity(a.astype(np.float64), b.astype(np.float64), **options) for a, b in zip(images, clean, strict=True)])


def finite_mean(values: np.ndarray) -> float:
    """Mean over the images whose value is finite: an image without any error has an infinite PSNR."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("inf")
