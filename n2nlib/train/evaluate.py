"""How a network is evaluated: as trained and with the report's evaluation, from one pass through the network.

The report's script sharpened every prediction with factor 1, whatever the training had. Both evaluations
share the output before sharpening, so they cost one pass. Layers compute in float32, also those of a network
that was trained in bfloat16, because that is how a stored model is used. A change in this file or in
`metrics` measures finished runs again and trains nothing. Only the curve of a run stays as it was measured
during training, since the networks of its epochs are not kept.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from n2nlib.metrics import PEAK, gradient_energy, mse_per_image, psnr_hvs_m, ssim
from n2nlib.train.network import Network

REPORT_TAU = 1.0  # the sharpening factor of every prediction of the report's script
CPU_BATCH, GPU_BATCH = 20, 500  # images at a time: on a CPU few enough to stay in its cache


@torch.inference_mode()
def predict(network: Network, images: Tensor, both: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Predictions (as trained, with the report's evaluation), each float32 N x 3 x S x S in [0, 255].

    `images` is uint8 N x 3 x S x S on the device of the network, which stays in evaluation mode. Without
    `both` the second one is None. NaN counts as 0, so a diverged network still gets a finite error; infinity
    before the clamp is NaN after it.
    """
    network.eval()
    trained_in, network.unet.dtype = network.unet.dtype, torch.float32
    shape = tuple(images.shape)
    trained = np.empty(shape, np.float32)
    report = np.empty(shape, np.float32) if both else None
    size = GPU_BATCH if images.is_cuda else CPU_BATCH
    for start in range(0, len(images), size):
        part = images[start : start + size].float().contiguous(memory_format=torch.channels_last)
        plain = network.plain(part)
        trained[start : start + size] = _finite(network.finish(plain, network.tau_sharp))
        if report is not None:
            report[start : start + size] = _finite(network.finish(plain, REPORT_TAU))
    network.unet.dtype = trained_in
    return trained, report


def _finite(images: Tensor) -> np.ndarray:
    return torch.nan_to_num(images, nan=0.0, posinf=PEAK, neginf=0.0).cpu().numpy()


def errors(network: Network, noisy: Tensor, clean: np.ndarray) -> dict[str, np.ndarray]:
    """Mean squared error of each image, float64 N: mse as trained, mse_report in the report's evaluation."""
    trained, report = predict(network, noisy)
    return {"mse": mse_per_image(trained, clean), "mse_report": mse_per_image(report, clean)}


def measure(
    network: Network, validation: dict[str, Tensor], test: dict[str, Tensor], device: torch.device
) -> dict[str, np.ndarray]:
    """Everything that is measured on a finished run, as float64 arrays with a value for each image.

    Of the validation images: `mse`, `mse_report`, `highest_report` (the highest value of each prediction as
    the report evaluated), and as trained `psnr_hvs_m` (dB), `ssim`, `gradient_energy` and `zeros` (three
    values: the share of zeros in each output channel). Of the test images, where there are any: `test_mse`
    and `test_mse_report`.
    """
    clean = validation["clean"].numpy()
    trained, report = predict(network, validation["noisy_1"].to(device))
    measured = {
        "mse": mse_per_image(trained, clean),
        "mse_report": mse_per_image(report, clean),
        "highest_report": report.max(axis=(1, 2, 3)).astype(np.float64),
        "psnr_hvs_m": psnr_hvs_m(trained, clean),
        "ssim": ssim(trained, clean),
        "gradient_energy": gradient_energy(trained),
        "zeros": (trained == 0).mean(axis=(0, 2, 3)),
    }
    if test:
        on_test = errors(network, test["noisy_1"].to(device), test["clean"].numpy())
        measured |= {f"test_{name}": values for name, values in on_test.items()}
    return measured
