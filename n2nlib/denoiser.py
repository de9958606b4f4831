"""A trained model, ready to use on images of any size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from n2nlib.files import UserError, read_json, relative, replacing
from n2nlib.metrics import PEAK, mse_per_image, psnr_full
from n2nlib.pairs.corruption import block_mean, cut, draw
from n2nlib.pairs.photos import SUFFIXES, UNREADABLE, Photo
from n2nlib.train.network import DEPTH, Network, load_network

FIELD = 192  # pixels: no output depends on an input farther away; a multiple of 2**5
SMALL_IMAGES = 2**15  # pixels of the small images that pass together, few enough for the cache
# Package data, also in an installed wheel; `report.readme.bundle_model` puts it there.
BUNDLED_MODEL = Path(__file__).with_name("models") / "best.safetensors"
BLOCK = 7  # pixels: side of the block of a photograph behind one pixel; pairs.block of all committed scales


class Denoiser:
    """A trained network: `Denoiser.load().predict(images)` denoises images with the bundled model.

    The network stays on its device and is put into evaluation mode. With `flips` the prediction is the mean
    over the four flips of an image (self-ensemble, Timofte et al. 2016, without rotations).
    """

    def __init__(self, network: Network, flips: bool = False) -> None:
        self.network = network.eval().to(memory_format=torch.channels_last)
        self.flips = flips

    @classmethod
    def load(cls, path: Path | str | None = None) -> Denoiser:
        """Read a model file, by default the bundled model.

        Raises `UserError` if the file is missing, damaged, or not a model.
        """
        path = default_model() if path is None else Path(path)
        try:
            return cls(*load_network(path))
        except Exception as error:  # a foreign file can make the reader raise nearly anything
            raise UserError(
                f"{path}: not a model of this project, or damaged ({error}); "
                "allowed: a model.safetensors, final.safetensors or best.safetensors"
            ) from error

    @torch.inference_mode()
    def predict(self, images: Tensor | np.ndarray, batch_pixels: int = 2**20) -> Tensor | np.ndarray:
        """Denoise N x 3 x H x W in [0, 255], uint8 or float, any N, H and W; a tensor or a numpy array.

        Returns float32 of the same shape in [0, 255], of the kind that was given; a tensor is on the CPU. The
        range is not checked: images in [0, 1] must be multiplied by 255 first. Images are padded to multiples
        of 32 by repeating their border, and cropped back. At most about `batch_pixels` pixels (416 x 416 if
        that is more) are in the network at a time: larger images pass in tiles whose margins reach as far as
        the network sees, which changes nothing but rounding. Raises ValueError for another shape.
        """
        # A copy, because torch refuses arrays with negative strides and warns of those that are read-only.
        given = torch.as_tensor(np.array(images) if isinstance(images, np.ndarray) else images)
        if given.ndim != 4 or given.shape[1] != 3:
            raise ValueError(f"images have shape {tuple(given.shape)}; allowed: N x 3 x H x W")
        height, width = given.shape[2:]
        denoised = torch.empty(given.shape, dtype=torch.float32)
        if denoised.numel():
            step = 2**DEPTH
            padding = (0, -width % step, 0, -height % step)
            padded = (height + padding[3]) * (width + padding[1])
            batch = max(1, min(batch_pixels, SMALL_IMAGES) // padded)
            side = max(step, math.isqrt(batch_pixels) // step * step - 2 * FIELD)
            for start in range(0, len(given), batch):
                part = F.pad(given[start : start + batch].float(), padding, mode="replicate")
                denoised[start : start + batch] = self._tiled(part, side)[:, :, :height, :width]
        return denoised.numpy() if isinstance(images, np.ndarray) else denoised

    def _tiled(self, images: Tensor, side: int) -> Tensor:
        """Denoise B x 3 x H x W with sides in multiples of 32, whole or in tiles of `side` pixels."""
        height, width = images.shape[2:]
        if height * width <= (side + 2 * FIELD) ** 2:
            return self._flipped(images)
        result = torch.empty_like(images)
        for top, left in product(range(0, height, side), range(0, width, side)):
            # The margins are multiples of 32, so the poolings fall as in the whole image.
            y, x = max(0, top - FIELD), max(0, left - FIELD)
            tile = self._flipped(images[:, :, y : top + side + FIELD, x : left + side + FIELD])
            inner = tile[:, :, top - y : top - y + side, left - x : left - x + side]
            result[:, :, top : top + side, left : left + side] = inner
        return result

    def _flipped(self, images: Tensor) -> Tensor:
        """The output of the network, or its mean over the four flips."""
        ways = ((), (3,), (2,), (2, 3)) if self.flips else ((),)
        return sum(self._network(images.flip(way)).flip(way) for way in ways) / len(ways)

    def _network(self, images: Tensor) -> Tensor:
        device = next(self.network.parameters()).device
        output = self.network(images.to(device).contiguous(memory_format=torch.channels_last)).cpu()
        return output.nan_to_num(nan=0.0, posinf=PEAK, neginf=0.0)  # of a network that diverged


def default_model() -> Path:
    """The bundled model, which is package data. Raises `UserError` if it is missing."""
    if not BUNDLED_MODEL.is_file():
        raise UserError(f"{BUNDLED_MODEL}: missing; install n2nlib again, or give a model file")
    return BUNDLED_MODEL


def describe(path: Path) -> str:
    """Which model a file holds and, if its card lies beside it, what it is trained for, in words.

    Raises `UserError` if the JSON file beside it is damaged.
    """
    beside = path.with_suffix(".json")
    about = read_json(beside) if beside.is_file() else {}
    # Another program may have left a JSON file of that name.
    if not (isinstance(about, dict) and "scale" in about and isinstance(about.get("images"), int)):
        return f"model {relative(path)}"
    return (
        f"model {relative(path)} (scale {about['scale']}, {about['images']:,} training images), "
        "trained for photographs in which each pixel was drawn at random from its block"
    )


def denoise_files(
    sources: Sequence[Path], output: Path | None = None, model: Path | None = None, pixelate: bool = False
) -> dict[Path, str]:
    """Denoise image files, or all images in folders, of any size and any mode that Pillow reads.

    One file goes to the file `output`, in the format of its suffix, or into the folder `output` if there is
    one; by default it goes beside the source, as "<name>-denoised.png". Several files go to the folder
    `output`, by default "denoised", as "<name>.png". Older results are replaced. With `pixelate` the sources
    are clean photographs, of which noisy inputs are made first (blocks of `BLOCK` pixels, seed 0); these and
    the clean images are written beside the results, in the same format: JPEG and WebP change them. A line for
    each file is printed, with PSNRs (dB) of the pixels before they are written. Returns the files of several
    that failed with the reason. Raises `UserError` if a single file fails, or if nothing can be done at all.
    """
    from tqdm import tqdm

    files = list({file.resolve(): file for source in sources for file in _images(source)}.values())
    many = len(files) > 1 or any(source.is_dir() for source in sources)
    targets = _targets(files, output, many)
    _check(targets, pixelate)
    path = default_model() if model is None else model
    denoiser = Denoiser.load(path)
    print(f"Using {describe(path)}.")
    failed: dict[Path, str] = {}
    for file, target in tqdm(targets.items(), unit="image", disable=not many):
        try:
            tqdm.write(_denoise_file(denoiser, file, target, pixelate))
        except UserError as error:
            if not many:
                raise
            failed[file] = str(error).removeprefix(f"{file}: ")
    return failed


def _images(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"{source}: holds no image; allowed: {', '.join(SUFFIXES)}")
    return found


def _targets(files: list[Path], output: Path | None, many: bool) -> dict[Path, Path]:
    """Where each file goes. Files of one name but different kinds keep their suffix: "a.jpg.png"."""
    if not (many or (output and output.is_dir())):
        return {file: output or file.with_name(f"{file.stem}-denoised.png") for file in files}
    folder = output or Path("denoised")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"-o {folder}: is a file; allowed: a folder for several images")
    stems = Counter(file.stem for file in files)
    names = {file: file.stem if stems[file.stem] == 1 else file.name for file in files}
    return {file: folder / f"{name}.png" for file, name in names.items()}


def _written(target: Path, pixelate: bool) -> list[Path]:
    """The files that a denoised image leaves behind."""
    beside = [target.with_stem(f"{target.stem}-{name}") for name in ("noisy", "clean")]
    return [target, *beside] if pixelate else [target]


def _check(targets: dict[Path, Path], pixelate: bool) -> None:
    """Raise `UserError` if a result cannot be written, or would replace a source or another result."""
    sources = {file.resolve() for file in targets}
    taken: dict[Path, Path] = {}
    for file, target in targets.items():
        if target.suffix.lower() not in SUFFIXES:
            allowed = f"{', '.join(SUFFIXES)}, or a folder that exists"
            raise UserError(f"-o {target}: cannot write files of this kind; allowed: {allowed}")
        for path in _written(target, pixelate):
            if path.resolve() in sources:
                raise UserError(f"-o {path}: is itself an image to denoise; allowed: another file or folder")
            if path.resolve() in taken:
                both = f"{taken[path.resolve()]} and {file}"
                raise UserError(f"{both}: both would become {path}; allowed: other names")
            taken[path.resolve()] = file


def _denoise_file(denoiser: Denoiser, source: Path, target: Path, pixelate: bool) -> str:
    """Denoise one file and say what was done."""
    pixels = _read(source)
    if not pixelate:
        _write(target, _restore(denoiser, pixels))
        return f"{source.name}, {pixels.shape[1]} x {pixels.shape[0]} pixels: {target}"
    height, width = (length // BLOCK for length in pixels.shape[:2])  # a remainder is cut off
    if not height * width:
        raise UserError(
            f"{source}: the photograph has {pixels.shape[1]} x {pixels.shape[0]} pixels; one pixel stands "
            f"for {BLOCK} x {BLOCK}, so it needs at least as many"
        )
    blocks = cut(pixels[: height * BLOCK, : width * BLOCK], BLOCK)
    noisy, clean = draw(blocks, np.random.default_rng(0)), block_mean(blocks)
    restored = _restore(denoiser, noisy)
    for path, image in zip(_written(target, pixelate), (restored, noisy, clean), strict=True):
        _write(path, image)
    before, after = (psnr_full(mse_per_image(image[None], clean[None])) for image in (noisy, restored))
    size = f"{width} x {height} pixels"
    return f"{source.name}, pixelated to {size}: {before:.2f} dB, denoised: {after:.2f} dB, {target}"


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return Photo(path, path.name).read()
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable image ({type(error).__name__}: {error})") from error


def _restore(denoiser: Denoiser, pixels: np.ndarray) -> np.ndarray:
    restored = denoiser.predict(pixels.transpose(2, 0, 1)[None])[0]
    return np.clip(np.rint(restored), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _write(path: Path, pixels: np.ndarray) -> None:
    suffix = path.suffix.lower()
    options = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
    try:
        with replacing(path) as temporary:
            Image.fromarray(pixels).save(temporary, Image.registered_extensions()[suffix], **options)
    except (OSError, ValueError) as error:  # ValueError: a side too long for WebP (16,383 pixels)
        raise UserError(f"{path}: cannot be written ({error})") from error
