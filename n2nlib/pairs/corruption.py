"""Photograph -> (noisy, noisy, clean), and the pair set on disk.

The corruption is the course's "downsampled, pixelated" one: a photograph is squashed to (size * block) pixels a side; a pixel of the
clean image is the rounded mean of a block x block cell; a pixel of a noisy version is one uniformly drawn pixel of that cell, its three
channels together. Two independent draws give the two noisy versions, so the noise has mean zero given the clean image, up to rounding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from n2nlib.pairs.photos import Photo
from n2nlib.params import Pairs

VERSIONS = ("noisy_1", "noisy_2", "clean")


def block_mean(blocks: np.ndarray) -> np.ndarray:
    """Clean image of a photograph: uint8 (S, S, b*b, 3) cells -> uint8 (S, S, 3), the mean of each cell rounded half up."""
    count = blocks.shape[2]
    return ((2 * blocks.sum(axis=2, dtype=np.int64) + count) // (2 * count)).astype(np.uint8)


def draw(blocks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A noisy version: uint8 (S, S, b*b, 3) cells -> uint8 (S, S, 3), one uniformly drawn pixel of each cell."""
    chosen = rng.integers(0, blocks.shape[2], size=(*blocks.shape[:2], 1, 1))
    return np.take_along_axis(blocks, chosen, axis=2)[:, :, 0]


def cells(pixels: np.ndarray, size: int, block: int) -> np.ndarray:
    """Squash uint8 (H, W, 3) to (size * block) pixels a side and cut it: uint8 (size, size, block*block, 3)."""
    side = size * block
    if pixels.shape[:2] != (side, side):
        pixels = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    return cut(pixels, block)


def cut(pixels: np.ndarray, block: int) -> np.ndarray:
    """Cut uint8 (H * block, W * block, 3) into its cells: uint8 (H, W, block*block, 3)."""
    height, width = (length // block for length in pixels.shape[:2])
    return (
        pixels.reshape(height, block, width, block, 3)
        .transpose(0, 2, 1, 3, 4)
        .reshape(height, width, block * block, 3)
    )


def random_square(pixels: np.ndarray, smallest: float, rng: np.random.Generator) -> np.ndarray:
    """A uniformly placed square of `pixels` (H, W, 3); its side is uniform in [smallest, 1] times the shorter side."""
    shorter = min(pixels.shape[:2])
    side = int(rng.integers(max(1, round(smallest * shorter)), shorter + 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def make_pairs(
    job: tuple[Photo, list[int]], options: Pairs, crop: str, seed: tuple[int, int], keep: Path | None = None
) -> np.ndarray:
    """All pairs of one photograph: uint8 (3 versions, len(indices), 3, S, S). Pair `i` depends on `seed`, `i` and the photograph alone.

    With `keep`, the blocks behind pair `i` go to row `i` of that file (see `PairSet.blocks`).
    """
    photo, indices = job
    pixels = photo.read()
    made = np.empty((len(VERSIONS), len(indices), 3, options.size, options.size), np.uint8)
    kept = np.load(keep, mmap_mode="r+") if keep else None
    for row, index in enumerate(indices):
        rng = np.random.default_rng([*seed, index])
        region = random_square(pixels, options.min_crop, rng) if crop == "square" else pixels
        blocks = cells(np.ascontiguousarray(region), options.size, options.block)
        versions = draw(blocks, rng), draw(blocks, rng), block_mean(blocks)
        made[:, row] = np.stack(versions).transpose(0, 3, 1, 2)
        if kept is not None:
            kept[index] = blocks.transpose(2, 3, 0, 1)
    return made
