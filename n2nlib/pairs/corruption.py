"""From a photograph to two noisy images and a clean one.

The corruption is the one that the course calls "downsampled, pixelated". A photograph is squashed to size x
block pixels per side and divided into blocks of block x block pixels, one for each pixel of the result. The
clean pixel is the mean of its block, rounded; a noisy pixel is one pixel of the block, drawn uniformly, with
all its three channels. Two independent draws give two noisy versions, whose noise has mean zero up to the
rounding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from n2nlib.pairs.photos import Photo
from n2nlib.params import Pairs

VERSIONS = ("noisy_1", "noisy_2", "clean")


def block_mean(blocks: np.ndarray) -> np.ndarray:
    """The clean image: uint8 (H, W, b*b, 3) blocks -> uint8 (H, W, 3), their means with halves rounded up."""
    count = blocks.shape[2]
    sums = np.einsum("hwkc->hwc", blocks, dtype=np.int64)  # three times faster than blocks.sum(axis=2)
    return ((2 * sums + count) // (2 * count)).astype(np.uint8)


def draw(blocks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A noisy version: uint8 (H, W, b*b, 3) blocks -> uint8 (H, W, 3), a uniformly drawn pixel of each."""
    chosen = rng.integers(0, blocks.shape[2], size=(*blocks.shape[:2], 1, 1))
    return np.take_along_axis(blocks, chosen, axis=2)[:, :, 0]


def squashed_blocks(pixels: np.ndarray, size: int, block: int) -> np.ndarray:
    """Squash uint8 (H, W, 3) to size * block pixels per side: uint8 (size, size, block*block, 3) blocks.

    Bicubic, with Pillow's antialiasing where it shrinks. The aspect ratio is not kept.
    """
    side = size * block
    if pixels.shape[:2] != (side, side):
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    return cut(pixels, block)


def cut(pixels: np.ndarray, block: int) -> np.ndarray:
    """Cut uint8 (H * block, W * block, 3) into its blocks: uint8 (H, W, block*block, 3)."""
    height, width = (length // block for length in pixels.shape[:2])
    parts = pixels.reshape(height, block, width, block, 3).transpose(0, 2, 1, 3, 4)
    return parts.reshape(height, width, block * block, 3)


def random_square(pixels: np.ndarray, smallest: float, rng: np.random.Generator) -> np.ndarray:
    """A random square of `pixels` (H, W, 3), with a side uniform in [smallest, 1] x the shorter side."""
    shorter = min(pixels.shape[:2])
    side = int(rng.integers(max(1, round(smallest * shorter)), shorter + 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def make_pairs(
    job: tuple[Photo, list[int]],
    options: Pairs,
    whole: int,
    seed: tuple[int, int],
    permute: bool = False,
    keep: Path | None = None,
) -> np.ndarray:
    """The pairs of one photograph: uint8 (3, len(indices), 3, S, S), where `job` is (photograph, indices).

    The first axis is `VERSIONS`. Pairs with an index below `whole` show the whole photograph, the others a
    random square of it. With `permute` the channels of each pair are in a random order, which gives a few
    photographs the colours of many. Beside the options, pair i depends only on `seed` (that of the set, and
    the number of the split), i and the photograph. With `keep`, the blocks behind pair i are written to row i
    of that file (see `PairSet.blocks`).
    """
    photo, indices = job
    pixels = photo.read()
    made = np.empty((len(VERSIONS), len(indices), 3, options.size, options.size), np.uint8)
    kept = np.load(keep, mmap_mode="r+") if keep else None
    for row, index in enumerate(indices):
        rng = np.random.default_rng([*seed, index])
        region = pixels if index < whole else random_square(pixels, options.min_crop, rng)
        blocks = squashed_blocks(np.ascontiguousarray(region), options.size, options.block)
        if permute:
            blocks = blocks[..., rng.permutation(3)]
        versions = draw(blocks, rng), draw(blocks, rng), block_mean(blocks)
        made[:, row] = np.stack(versions).transpose(0, 3, 1, 2)
        if kept is not None:
            kept[index] = blocks.transpose(2, 3, 0, 1)
    return made
