"""The network: the U-Net of Lehtinen et al. (2018) as the paper uses it, unsharp masking, the output clamp; and `Denoiser`, to use one.

Layers, widths and initialisation follow sections II-A and II-B of the paper and its published code.
"""

from __future__ import annotations

import json
import math
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from n2nlib.files import ROOT, UserError, read_safetensors, relative, replacing
from n2nlib.metrics import mse_per_image, psnr_full
from n2nlib.pairs.corruption import block_mean, cut, draw
from n2nlib.pairs.photos import UNREADABLE, Photo
from n2nlib.params import load_params
from n2nlib.train.network import DEPTH, Network

REACH = 192  # pixels: no output depends on an input farther away, and a multiple of 2**5


class Denoiser:
    """A trained network, ready to use: `Denoiser.load("reports/laptop/model/final.safetensors").predict(images)`."""

    def __init__(self, network: Network, flips: bool = False) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)
        self.flips = flips

    @classmethod
    def load(cls, path: Path | str) -> Denoiser:
        """Read a model file. Raises `UserError` if it is missing, damaged or of something else."""
        try:
            tensors, metadata = read_safetensors(Path(path))
            config = json.loads(metadata["network"])
            flips = config.pop("flips", False)
            network = Network(**config)
            network.load_state_dict(tensors)
            return cls(network, flips)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: not a model of this project, or damaged ({error}); allowed: a model.safetensors, final.safetensors"
            ) from error

    @torch.no_grad()
    def predict(self, images: Tensor | np.ndarray, batch_pixels: int = 2**20) -> Tensor | np.ndarray:
        """Denoise `images`: N x 3 x H x W in [0, 255], any float type or uint8, any N, H and W; a tensor or a numpy array.

        Returns float32 of the same shape in [0, 255], of the kind that was given. Images are padded to multiples of 32 by repeating
        their border and cropped back. At most about `batch_pixels` pixels are in the network at a time: a larger image goes through it
        in tiles whose margins reach as far as the network sees, which changes nothing but rounding. Raises ValueError for another shape.
        """
        readable = (
            isinstance(images, Tensor) or images.flags.writeable
        )  # torch warns of an array that it may not write to
        given = torch.as_tensor(images if readable else images.copy())
        if given.ndim != 4 or given.shape[1] != 3:
            raise ValueError(f"images have shape {tuple(given.shape)}; allowed: N x 3 x H x W")
        height, width = given.shape[2:]
        denoised = torch.empty(given.shape, dtype=torch.float32)
        if denoised.numel():
            step = 2**DEPTH
            padding = (0, -width % step, 0, -height % step)
            batch = max(1, batch_pixels // ((height + padding[3]) * (width + padding[1])))
            side = max(step, math.isqrt(batch_pixels) // step * step - 2 * REACH)
            for start in range(0, len(given), batch):
                part = F.pad(given[start : start + batch].float(), padding, mode="replicate")
                denoised[start : start + batch] = self._tiled(part, side)[:, :, :height, :width]
        return denoised.numpy() if isinstance(images, np.ndarray) else denoised

    def _tiled(self, images: Tensor, side: int) -> Tensor:
        """Float B x 3 x H x W of sides in multiples of 32, whole if there is no more than a tile in it, else tile by tile."""
        height, width = images.shape[2:]
        if height * width <= (side + 2 * REACH) ** 2:
            return self._flipped(images)
        result = torch.empty_like(images)
        for top, left in product(range(0, height, side), range(0, width, side)):
            y, x = (
                max(0, top - REACH),
                max(0, left - REACH),
            )  # a multiple of 32, so that the poolings fall as in the whole
            tile = self._flipped(images[:, :, y : top + side + REACH, x : left + side + REACH])
            result[:, :, top : top + side, left : left + side] = tile[
                :, :, top - y : top - y + side, left - x : left - x + side
            ]
        return result

    def _flipped(self, images: Tensor) -> Tensor:
        """The network's output, or its mean over the four flips."""
        ways = ((), (3,), (2,), (2, 3)) if self.flips else ((),)
        return sum(self._network(images.flip(way)).flip(way) for way in ways) / len(ways)

    def _network(self, images: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        return self.network(images.to(device).contiguous(memory_format=torch.channels_last)).cpu()


WRITES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def denoise_file(source: Path, target: Path, model: str, pixelate: bool) -> None:
    """Restore the image file `source` (any size, any mode that Pillow reads) and write it to `target`, in the format of its suffix.

    `pixelate`: `source` is a clean photograph, of which the noisy input is made first, as the pairs are: one pixel for each block.
    It and its clean version are written beside `target`. Raises `UserError` for a wrong file, suffix or model.
    """
    if target.suffix.lower() not in WRITES:
        raise UserError(f"-o {target}: cannot write files of this kind; allowed: {', '.join(WRITES)}")
    if target.is_dir() or (target.exists() and source.exists() and target.samefile(source)):
        raise UserError(
            f"-o {target}: {'is a folder' if target.is_dir() else 'is the image itself'}; allowed: another file"
        )
    denoiser, pixels = Denoiser.load(model_file(model)), _read(source)
    started = time.monotonic()
    if not pixelate:
        _write(target, _restore(denoiser, pixels))
        print(
            f"{source.name}, {pixels.shape[1]} x {pixels.shape[0]} pixels, restored in {time.monotonic() - started:.1f} s: {target}"
        )
        return
    noisy, clean = pixelated(pixels, load_params().pairs.block, np.random.default_rng(0))
    restored = _restore(denoiser, noisy)
    for image, name in ((noisy, "noisy"), (clean, "clean")):
        _write(target.with_stem(f"{target.stem}-{name}"), image)
    _write(target, restored)
    before, after = (psnr_full(mse_per_image(image[None], clean[None])) for image in (noisy, restored))
    print(
        f"{source.name}, pixelated to {noisy.shape[1]} x {noisy.shape[0]}: {before:.2f} dB, restored: {after:.2f} dB against {target.stem}-clean{target.suffix}"
    )


def model_file(model: str) -> Path:
    """The file of a model: "final" or "best" of params.yaml's scale, or a path. Raises `UserError` if it is not there."""
    named = load_params().reports / "model" / f"{model}.safetensors"
    path = Path(model) if model not in ("final", "best") else named
    if not path.is_file():
        there = (
            ", ".join(sorted(relative(one) for one in ROOT.glob("reports/*/model/*.safetensors")))
            or "none yet: run dvc repro"
        )
        raise UserError(
            f"--model {model}: no file {relative(path)}; allowed: final, best, or a model file (here: {there})"
        )
    return path


def pixelated(pixels: np.ndarray, block: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(noisy, clean) of a photograph, uint8 H x W x 3 -> H/block x W/block x 3 each; what does not fill a block is cut off.

    Raises `UserError` for a photograph smaller than a block.
    """
    height, width = (length // block for length in pixels.shape[:2])
    if not height * width:
        raise UserError(
            f"the photograph has {pixels.shape[1]} x {pixels.shape[0]} pixels; one pixel stands for {block} x {block}, so at least that is needed"
        )
    blocks = cut(pixels[: height * block, : width * block], block)
    return draw(blocks, rng), block_mean(blocks)


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return Photo(path, path.name).read()
    except UNREADABLE as error:
        raise UserError(f"{path}: no image that can be read ({type(error).__name__}: {error})") from error


def _restore(denoiser: Denoiser, pixels: np.ndarray) -> np.ndarray:
    restored = denoiser.predict(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]))[0]
    return np.clip(np.rint(restored), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _write(path: Path, pixels: np.ndarray) -> None:
    with replacing(path) as temporary:
        options = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
        Image.fromarray(np.ascontiguousarray(pixels)).save(
            temporary, Image.registered_extensions()[path.suffix.lower()], **options
        )
