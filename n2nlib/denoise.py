"""An image file in, a restored one out: python -m n2nlib denoise photo.png -o out.png [--model final|best|FILE] [--pixelate]."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image

from n2nlib.evaluation import mse_per_image, psnr_full
from n2nlib.files import ROOT, UserError, relative, replacing
from n2nlib.model import Denoiser
from n2nlib.pairs import block_mean, cut, draw
from n2nlib.params import load_params
from n2nlib.photos import UNREADABLE, Photo

WRITES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def denoise_file(source: Path, target: Path, model: str, pixelate: bool) -> None:
    """Restore the image file `source` (any size, any mode that Pillow reads) and write it to `target`, in the format of its suffix.

    `pixelate`: `source` is a clean photograph, of which the noisy input is made first, as the pairs are: one pixel for each block.
    It and its clean version are written beside `target`. Raises `UserError` for a wrong file, suffix or model.
    """
    if target.suffix.lower() not in WRITES:
        raise UserError(f"-o {target}: cannot write files of this kind; allowed: {', '.join(WRITES)}")
    if target.is_dir() or (target.exists() and source.exists() and target.samefile(source)):
        raise UserError(f"-o {target}: {'is a folder' if target.is_dir() else 'is the image itself'}; allowed: another file")
    denoiser, pixels = Denoiser.load(model_file(model)), _read(source)
    started = time.monotonic()
    if not pixelate:
        _write(target, _restore(denoiser, pixels))
        print(f"{source.name}, {pixels.shape[1]} x {pixels.shape[0]} pixels, restored in {time.monotonic() - started:.1f} s: {target}")
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
        there = ", ".join(sorted(relative(one) for one in ROOT.glob("reports/*/model/*.safetensors"))) or "none yet: run dvc repro"
        raise UserError(f"--model {model}: no file {relative(path)}; allowed: final, best, or a model file (here: {there})")
    return path


def pixelated(pixels: np.ndarray, block: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(noisy, clean) of a photograph, uint8 H x W x 3 -> H/block x W/block x 3 each; what does not fill a block is cut off.

    Raises `UserError` for a photograph smaller than a block.
    """
    height, width = (length // block for length in pixels.shape[:2])
    if not height * width:
        raise UserError(f"the photograph has {pixels.shape[1]} x {pixels.shape[0]} pixels; one pixel stands for {block} x {block}, so at least that is needed")
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
        Image.fromarray(np.ascontiguousarray(pixels)).save(temporary, Image.registered_extensions()[path.suffix.lower()], **options)
