"""What sharpening at prediction does to the output of a network that was trained without it.

Unsharp masking amplifies high frequencies, both of edges and of the error that is left.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from n2nlib.metrics import gradient_energy, mse_per_image, psnr_full
from n2nlib.pairs.pair_set import PairSet
from n2nlib.train.evaluate import predict
from n2nlib.train.network import Network

OUTPUTS = ("output", "sharpened output")


def spectrum(images: np.ndarray) -> pd.Series:
    """Radially averaged power spectrum of N x C x S x S images without their means, in grey levels squared.

    The index is the frequency in cycles per pixel, 1/S to 1/2. The sum over all coefficients of a spectrum
    would be the variance of the pixels.
    """
    size = images.shape[-1]
    centred = images - images.mean(axis=(2, 3), keepdims=True)
    power = (np.abs(np.fft.fft2(centred.astype(np.float64)) / size**2) ** 2).mean(axis=(0, 1))
    frequency = np.fft.fftfreq(size)
    ring = np.rint(np.hypot(*np.meshgrid(frequency, frequency)) * size).astype(int)
    rings = np.arange(1, size // 2 + 1)
    means = [power[ring == one].mean() for one in rings]
    return pd.Series(means, index=pd.Index(rings / size, name="frequency"), name="power")


def outputs(network: Network, pairs: PairSet) -> dict[str, np.ndarray]:
    """The validation images and what `network`, trained without sharpening, makes of them: N x 3 x S x S.

    Names: "clean image", "noisy input" and `OUTPUTS`.
    """
    noisy, clean = pairs.validation["noisy_1"], pairs.validation["clean"].numpy().astype(np.float32)
    shown = {"clean image": clean, "noisy input": noisy.numpy()}
    return shown | dict(zip(OUTPUTS, predict(network, noisy), strict=True))


def spectra(images: dict[str, np.ndarray]) -> pd.DataFrame:
    """Spectra of what `outputs` gives and of the errors, tidy: frequency (cycles per pixel), power, which.

    `which` is a name of `outputs`, "error of the output" or "error of the sharpened output".
    """
    errors = {f"error of the {name}": images[name] - images["clean image"] for name in OUTPUTS}
    frames = [spectrum(one).reset_index().assign(which=which) for which, one in (images | errors).items()]
    return pd.concat(frames, ignore_index=True)


def summary(images: dict[str, np.ndarray]) -> pd.DataFrame:
    """What sharpening costs, as which (of `OUTPUTS`), psnr_full (dB) and two energy ratios.

    An energy is the sum of the squared differences of neighbouring pixels. sharpness is that of an
    output over that of the clean image, so 1 is as sharp as the clean image. error_energy compares the
    errors of the outputs in the same way, with the error before sharpening as 1.
    """
    clean = images["clean image"]
    sharp, error = gradient_energy(clean).sum(), gradient_energy(images["output"] - clean).sum()
    rows = [
        {
            "which": which,
            "psnr_full": psnr_full(mse_per_image(images[which], clean)),
            "sharpness": gradient_energy(images[which]).sum() / sharp,
            "error_energy": gradient_energy(images[which] - clean).sum() / error,
        }
        for which in OUTPUTS
    ]
    return pd.DataFrame(rows)
