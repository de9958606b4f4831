"""PSNR (global, per image, over the report's random subsets), PSNR-HVS-M and SSIM; data range 255.

All images have one size, so every PSNR follows from the mean squared error of each image, and one pass
through a network serves all subsets.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from skimage.metrics import structural_similarity

from n2nlib.params import Evaluation

with contextlib.redirect_stdout(io.StringIO()):  # the package prints a hint about its optional backends
    from psnr_hvsm import bt601ycbcr, psnr_hvs_hvsm

PEAK = 255.0
BATCH = 200  # images at a time: float64 takes eight times the memory of uint8
SSIM = {
    "channel_axis": -1,
    "data_range": 255,
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
}
SSIM_BORDER = 5  # pixels: half the window of sigma 1.5, which scikit-image leaves out at each border


def _batches(images: np.ndarray, clean: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if images.shape != clean.shape:
        raise ValueError(f"shapes differ: {images.shape} and {clean.shape}")
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH], clean[start : start + BATCH]


def mse_per_image(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Mean squared error of each image, float64 N, of two N x C x H x W arrays in [0, 255] of any real dtype.

    In `images` (not in `clean`), NaN counts as 0 and infinity as the nearer end of [0, 255], so a diverged
    network still gets a finite error. Finite values are not clipped. Raises ValueError if the shapes differ.
    """
    parts = [np.empty(0)]
    for a, b in _batches(images, clean):
        finite = np.nan_to_num(a.astype(np.float64), nan=0.0, posinf=PEAK, neginf=0.0)
        parts.append(((finite - b) ** 2).mean(axis=(1, 2, 3)))
    return np.concatenate(parts)


def psnr(mse: np.ndarray | float) -> np.ndarray | float:
    """10 log10(255^2 / mse) in dB, float64, for each `mse` (squared grey levels); infinite where it is 0."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(PEAK**2 / np.asarray(mse, np.float64))


def psnr_full(mse: np.ndarray) -> float:
    """Global PSNR (dB): one MSE over all pixels of all images, from the MSE of each image, N."""
    return float(psnr(np.mean(mse)))


def psnr_per_image(mse: np.ndarray) -> float:
    """Mean of the PSNRs of the images (dB), over the images that have an error; infinite if none has one."""
    values = psnr(np.asarray(mse)[np.asarray(mse) != 0])
    return float(values.mean()) if len(values) else float("inf")


def subset_psnr(mse: np.ndarray, protocol: Evaluation, seed: int) -> tuple[float, float]:
    """Mean and sample standard deviation (dB) of the global PSNR over random subsets of half of the images.

    Section III-A of the report: 100 subsets of 500 of its 1,000 validation images. The images of a subset are
    drawn with replacement, as in the report's code. The subsets depend on `seed`, their number and the number
    of images alone, so all networks are evaluated on the same ones.
    """
    values = psnr(np.asarray(mse)[_subsets(len(mse), protocol, seed)].mean(axis=1))
    return float(values.mean()), float(values.std(ddof=1))


def _subsets(count: int, protocol: Evaluation, seed: int) -> np.ndarray:
    """The images of each random subset, int64 repeats x half of `count`."""
    rng = np.random.default_rng([seed, 4])
    return rng.integers(0, count, (protocol.repeats, max(1, count // 2)))


def peak_change(highest: np.ndarray, protocol: Evaluation, seed: int) -> float:
    """How much the PSNR of a subset falls at the most (dB, at least 0) with the peak of the report's code.

    That peak is the highest value of the predictions of a subset, where we take 255. `highest` has the
    highest value of each prediction. Below one grey level, which only dead networks have, it counts as one.
    """
    peaks = np.maximum(1.0, highest)[_subsets(len(highest), protocol, seed)].max(axis=1)
    return float(20 * np.log10(PEAK / peaks).max())


def summarize(mse: np.ndarray, protocol: Evaluation, seed: int) -> dict[str, float]:
    """psnr_mean, psnr_std, psnr_full and psnr_per_image (dB), from the error of each validation image."""
    mean, std = subset_psnr(mse, protocol, seed)
    full, per_image = psnr_full(mse), psnr_per_image(mse)
    return {"psnr_mean": mean, "psnr_std": std, "psnr_full": full, "psnr_per_image": per_image}


def psnr_hvs_m(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """PSNR-HVS-M (dB, peak 255; Ponomarenko et al. 2007) of the luma of each image, float64 N.

    Takes N x 3 x S x S in [0, 255], S a multiple of 8; other values are clipped. The luma is Y of BT.601 in
    [16, 235], which the package rounds to whole numbers, predictions included. An image of which contrast
    masking leaves no error has 100 dB, as in the package. Raises ValueError if the shapes differ.
    """
    with np.errstate(all="ignore"):  # of flat blocks: the library divides by zero and then mends the result
        parts = [psnr_hvs_hvsm(_luma(a), _luma(b), batch=True)[1] for a, b in _batches(images, clean)]
    return np.concatenate(parts)


def ssim(images: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Structural similarity of each image, mean over channels, float64 N in [-1, 1], of N x 3 x S x S.

    Wang et al. (2004), Gaussian window of sigma 1.5 (11 x 11 pixels, so S is at least 11), values in
    [0, 255]. All images are stacked into one tall image, and the inner part of each is averaged. This gives
    the numbers of one call for each image, but faster. Raises ValueError if the shapes differ.
    """
    inner = slice(SSIM_BORDER, -SSIM_BORDER)
    parts = []
    for a, b in _batches(images, clean):
        _, similarity = structural_similarity(_stacked(a), _stacked(b), full=True, **SSIM)
        similarity = similarity.reshape(len(a), *a.shape[2:], 3)
        parts.append(similarity[:, inner, inner].mean(axis=(1, 2, 3)))
    return np.concatenate(parts)


def perceptual(images: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """psnr_hvs_m (dB) and ssim, each the mean over images."""
    return {"psnr_hvs_m": float(psnr_hvs_m(images, clean).mean()), "ssim": float(ssim(images, clean).mean())}


def gradient_energy(images: np.ndarray) -> np.ndarray:
    """Sum of squared differences of adjacent pixels, in rows and columns, of each N x 3 x S x S, float64 N.

    Divided by that of the clean images it tells how sharp denoised images are: below 1 they are blurrier than
    the clean images, above 1 noisier or sharper.
    """
    x = images.astype(np.float64)
    return (np.diff(x, axis=2) ** 2).sum(axis=(1, 2, 3)) + (np.diff(x, axis=3) ** 2).sum(axis=(1, 2, 3))


def _stacked(images: np.ndarray) -> np.ndarray:
    """N x 3 x H x W, any dtype -> float64 (N * H) x W x 3."""
    count, channels, height, width = images.shape
    return images.astype(np.float64).transpose(0, 2, 3, 1).reshape(count * height, width, channels)


def _luma(images: np.ndarray) -> np.ndarray:
    """N x 3 x H x W in [0, 255] -> float64 N x H x W, the package's Y of BT.601 in [16, 235] / 255."""
    luma = bt601ycbcr(np.clip(_stacked(images), 0, 255))[0]
    return luma.reshape(len(images), *images.shape[2:])
