"""Photograph -> (noisy, noisy, clean), and the pair set on disk.

The corruption is the course's "downsampled, pixelated" one: a photograph is squashed to (size * block) pixels a side; a pixel of the
clean image is the rounded mean of a block x block cell; a pixel of a noisy version is one uniformly drawn pixel of that cell, its three
channels together. Two independent draws give the two noisy versions, so the noise has mean zero given the clean image, up to rounding.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from n2nlib.files import UserError, read_safetensors, relative, replacing, write_json
from n2nlib.metrics import mse_per_image, psnr_full, psnr_per_image
from n2nlib.pairs import noise
from n2nlib.pairs.corruption import VERSIONS, make_pairs
from n2nlib.pairs.ee559 import read_course
from n2nlib.pairs.photos import Photo, find_photos
from n2nlib.params import Pairs, Params

if TYPE_CHECKING:
    import torch  # where it is used it is imported late: it would cost every process that makes pairs two seconds


SPLITS = ("train", "validation")


BLOCKS = "train_blocks.npy"


@contextmanager
def _parallel_map(work: int) -> Iterator[Callable[..., Iterator]]:
    """`map`, over all cores where there is enough to do to pay for starting the processes."""
    workers = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 32
    )
    if work < 1000 or workers == 1:
        yield map
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield partial(_bounded_map, pool, 4 * workers)


def _bounded_map(pool: ProcessPoolExecutor, ahead: int, function: Callable, jobs: list) -> Iterator:
    """`pool.map` in order that holds at most `ahead` chunks of results, whatever the number of jobs."""
    size = min(16, -(-len(jobs) // ahead))
    chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    pending = [pool.submit(_each, function, chunk) for chunk in chunks[:ahead]]
    for following in range(ahead, len(chunks) + ahead):
        if not pending:
            return
        done = pending.pop(0)
        if following < len(chunks):
            pending.append(pool.submit(_each, function, chunks[following]))
        yield from done.result()


def _each(function: Callable, chunk: list) -> list:
    return [function(job) for job in chunk]


def _jobs(photos: list[Photo], count: int, seed: list[int]) -> list[tuple[Photo, list[int]]]:
    """Which pairs each photograph gives: `count` pairs dealt round over the photographs in a seeded order, at most 32 a job."""
    order = np.random.default_rng(seed).permutation(len(photos))
    dealt = [
        (photos[photo], list(range(turn, count, len(photos)))) for turn, photo in enumerate(order[:count])
    ]
    return [
        (photo, indices[start : start + 32])
        for photo, indices in dealt
        for start in range(0, len(indices), 32)
    ]


def build_pairs(params: Params, folder: Path | None = None, say: Callable[[str], None] = print) -> dict:
    """Make the pair set of `params` in `folder` (default: data/pairs/<scale>) and return its card. Raises `UserError`."""
    folder, options = folder or params.pairs_folder, params.pairs
    if options.source == "ee559":
        arrays = read_course(params)
        used = {split: len(versions["noisy_1"]) for split, versions in arrays.items()}
        return write_pairs(folder, arrays, options, params.seed, used, {}, say)
    started = time.monotonic()
    arrays: dict[str, dict[str, np.ndarray]] = {}
    wanted = {"train": options.train, "validation": options.validation}
    with _parallel_map(sum(wanted.values())) as mapped:
        photos = find_photos(params, mapped, say)
        for reason in [f"{name}: {reason}" for name, reason in photos.skipped.items()][:10]:
            say(f"left out: {reason}")
        if len(photos.skipped) > 10:
            say(
                f"left out: {len(photos.skipped) - 10} more (all are listed in {relative(folder / 'card.json')})"
            )
        sides = (photos.training, options.train_crop), (photos.validation, options.validation_crop)
        for number, (split, (chosen, crop)) in enumerate(zip(SPLITS, sides, strict=True)):
            jobs = _jobs(chosen, wanted[split], [params.seed, 3, number])
            keep = _empty_blocks(folder, options) if options.resample and split == "train" else None
            work = partial(make_pairs, options=options, crop=crop, seed=(params.seed, number), keep=keep)
            made = {
                version: np.empty((wanted[split], 3, options.size, options.size), np.uint8)
                for version in VERSIONS
            }
            done, told = 0, time.monotonic()
            for (_, indices), result in zip(jobs, mapped(work, jobs), strict=True):
                for version, images in zip(VERSIONS, result, strict=True):
                    made[version][indices] = images
                done += len(indices)
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    left = (told - started) / done * (wanted[split] - done)
                    say(f"{split}: {done} of {wanted[split]} pairs, about {left:.0f} s left")
            arrays[split] = made
    used = {"train": len(photos.training), "validation": len(photos.validation)}
    return write_pairs(folder, arrays, options, params.seed, used, photos.skipped, say)


def _empty_blocks(folder: Path, options: Pairs) -> Path:
    """A new file for the blocks of all training pairs, uint8 (pairs, block * block, 3, S, S), filled row by row."""
    path = folder / BLOCKS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").unlink(missing_ok=True)
    shape = (options.train, options.block**2, 3, options.size, options.size)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    return path


def write_pairs(
    folder: Path,
    arrays: dict,
    options: Pairs,
    seed: int,
    used: dict[str, int],
    skipped: dict[str, str],
    say: Callable[[str], None] = print,
) -> dict:
    """Write `arrays` (split -> version -> uint8 N x 3 x S x S) and their card, whole or not at all; return the card.

    The card says whether the set meets Noise2Noise's assumptions; a set that does not is called out.
    """
    measured = noise.assumptions(arrays["train"], arrays["validation"])
    if any(one.needed and not one.holds for one in measured):
        say(f"WARNING: {noise.verdict(measured)}")
    card = {
        "source": options.source,
        "parameters": options.model_dump(mode="json") | {"seed": seed},
        "counts": {split: len(arrays[split]["noisy_1"]) for split in SPLITS},
        "photographs": used,
        "photographs_left_out": {"count": len(skipped), "reasons": skipped},
        "noisy_psnr_db": {split: _noisy_psnr(arrays[split]) for split in SPLITS},
        "assumptions": [asdict(one) for one in measured],
        "verdict": noise.verdict(measured),
    }
    whole = hashlib.sha256()
    (folder / "card.json").unlink(missing_ok=True)  # no card, no pair set: it is written last
    if not options.resample:
        (folder / BLOCKS).unlink(missing_ok=True)
    for split in SPLITS:
        for version, array in sorted(arrays[split].items()):
            whole.update(f"{split} {version} {array.shape}".encode())
            whole.update(array)
        with replacing(folder / f"{split}.safetensors") as temporary:
            save_file(arrays[split], temporary)
    card["hash"] = whole.hexdigest()
    write_json(folder / "card.json", card)
    return card


def _noisy_psnr(versions: dict[str, np.ndarray]) -> dict[str, float] | None:
    """PSNR (dB) of the first noisy version, global and per image; None without clean images."""
    if "clean" not in versions:
        return None
    mse = mse_per_image(versions["noisy_1"], versions["clean"])
    return {"global": round(psnr_full(mse), 4), "per_image": round(psnr_per_image(mse), 4)}


@dataclass(frozen=True)
class PairSet:
    """A pair set on disk. `train` and `validation` map version -> uint8 torch tensor N x 3 x S x S, memory-mapped."""

    folder: Path
    card: dict
    train: dict[str, torch.Tensor]
    validation: dict[str, torch.Tensor]

    @property
    def hash(self) -> str:
        return self.card["hash"]

    def target(self, which: str) -> torch.Tensor:
        """Training targets: "noisy" (the second versions) or "clean". Raises `UserError` if the set has no clean training images."""
        version = "clean" if which == "clean" else "noisy_2"
        if version not in self.train:
            raise UserError(
                f"{relative(self.folder)}: source {self.card['source']} has no clean training images to train towards"
            )
        return self.train[version]

    def blocks(self) -> torch.Tensor:
        """The blocks behind the training pairs, uint8 N x block * block x 3 x S x S, memory-mapped. Raises `UserError` if they were not kept."""
        import torch

        try:
            return torch.from_numpy(np.load(self.folder / BLOCKS, mmap_mode="c"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{relative(self.folder / BLOCKS)}: no blocks were kept; set pairs.resample: true and run notebook 01"
            ) from error


def load_pairs(folder: Path) -> PairSet:
    """Map the pair set in `folder`. Raises `UserError` if it is missing or damaged."""
    card = read_card(folder)
    if card is None:
        raise UserError(f"{relative(folder)}: no pair set here; make it with notebook 01 (dvc repro data)")
    splits = {}
    for split in SPLITS:
        path = folder / f"{split}.safetensors"
        try:
            splits[split], _ = read_safetensors(path)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{relative(path)}: damaged ({error}); remove {relative(folder)} and make it again with notebook 01"
            ) from error
        if len(splits[split]["noisy_1"]) != card["counts"][split]:
            raise UserError(
                f"{relative(path)}: not the file that card.json describes; remove {relative(folder)} and make it again"
            )
    return PairSet(folder, card, **splits)


def read_card(folder: Path) -> dict | None:
    """The card of the pair set in `folder`, or None if there is none."""
    try:
        return json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def ensure_pairs(params: Params, folder: Path | None = None) -> PairSet:
    """The pair set that `params` describes, in `folder` (default: data/pairs/<scale>): the one on disk, or made now if it is missing or other."""
    folder = folder or params.pairs_folder
    card = read_card(folder)
    if card is None or card["parameters"] != params.pairs.model_dump(mode="json") | {"seed": params.seed}:
        build_pairs(params, folder)
    return load_pairs(folder)
