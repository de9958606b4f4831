"""The pair set of a scale: made from photographs or course files, written with its card, read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from n2nlib.files import UserError, full_disk_explained, read_safetensors, relative, replacing, write_json
from n2nlib.meaning import code_identity
from n2nlib.metrics import mse_per_image, psnr_full, psnr_per_image
from n2nlib.pairs import noise
from n2nlib.pairs.corruption import VERSIONS, make_pairs
from n2nlib.pairs.ee559 import read_course
from n2nlib.pairs.photos import Photo, find_photos
from n2nlib.params import Pairs, Params

SPLITS = ("train", "validation", "test")
BLOCKS_FILE = "train_blocks.npy"
PAIRS_PER_JOB = 32  # of one photograph
MAKING = ("photos", "ee559", "corruption", "noise", "pair_set")  # the modules whose code makes a pair set


def _map(function: Callable, jobs: list) -> Iterator:
    """`map` on all cores, in the order of `jobs`. Threads suffice: Pillow and NumPy release Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, jobs)


def _jobs(photos: list[Photo], count: int, seed: list[int]) -> list[tuple[Photo, list[int]]]:
    """Deal the pairs 0 to count - 1 to the shuffled photographs: a list of (photograph, its pairs)."""
    order = np.random.default_rng(seed).permutation(len(photos))
    dealt = [(photos[photo], [*range(turn, count, len(photos))]) for turn, photo in enumerate(order[:count])]
    return [
        (photo, indices[start : start + PAIRS_PER_JOB])
        for photo, indices in dealt
        for start in range(0, len(indices), PAIRS_PER_JOB)
    ]


def build_pairs(params: Params, folder: Path | None = None, say: Callable[[str], None] = print) -> dict:
    """Make the pair set of `params` in `folder` (default: data/pairs/<scale>) and return its card.

    The same parameters, seed and photographs give the same bytes, whatever the number of cores. The pairs of
    a split are dealt to its shuffled photographs in turn, so pair i shows the one at i modulo their number.
    `say` gets lines on files left out, progress and broken assumptions. Raises `UserError` as `find_photos`
    and `read_course` do, or if the disk is full.
    """
    folder, options = folder or params.pairs_folder, params.pairs
    if options.source == "ee559":
        arrays = read_course(params)
        used = {split: len(versions["noisy_1"]) for split, versions in arrays.items()}
        return write_pairs(folder, arrays, options, params.seed, used, {}, say)
    photos = find_photos(params, _map, say)
    for name, reason in list(photos.skipped.items())[:10]:
        say(f"left out: {name}: {reason}")
    if len(photos.skipped) > 10:
        say(f"left out: {len(photos.skipped) - 10} more ({relative(folder / 'card.json')} lists all of them)")
    keep = _empty_blocks(folder, options) if options.resample else None
    sets = (
        ("train", photos.training, options.train, options.train_crop, keep),
        ("validation", photos.validation, options.validation, options.validation_crop, None),
        ("test", photos.test, options.test, options.validation_crop, None),
    )
    arrays, used = {}, {}
    for number, (split, chosen, count, crop, kept) in enumerate(sets):
        if not count:
            continue
        jobs = _jobs(chosen, count, [params.seed, 3, number])
        whole = {"whole": count, "square": 0, "mixed": len(chosen)}[crop]  # the first pair of each photograph
        permute = options.permute_channels and split == "train"
        seed = (params.seed, number)
        work = partial(make_pairs, options=options, whole=whole, seed=seed, permute=permute, keep=kept)
        made = np.empty((len(VERSIONS), count, 3, options.size, options.size), np.uint8)
        told = time.monotonic()
        for done, ((_, indices), versions) in enumerate(zip(jobs, _map(work, jobs), strict=True), 1):
            made[:, indices] = versions
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"{split}: {done / len(jobs):.0%} of {count} pairs are made")
        arrays[split] = dict(zip(VERSIONS, made, strict=True))
        used[split] = min(count, len(chosen))
    return write_pairs(folder, arrays, options, params.seed, used, photos.skipped, say)


def _empty_blocks(folder: Path, options: Pairs) -> Path:
    """A new file for the blocks of all training pairs, uint8 (pairs, block * block, 3, S, S).

    An old file is removed and not overwritten, because another process may have mapped it.
    """
    path = folder / BLOCKS_FILE
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    shape = (options.train, options.block**2, 3, options.size, options.size)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    if hasattr(os, "posix_fallocate"):  # else the system kills who writes to the map once the disk is full
        try:
            with full_disk_explained(path), path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except (OSError, UserError):
            path.unlink()
            raise
    return path


def write_pairs(
    folder: Path,
    arrays: dict[str, dict[str, np.ndarray]],
    options: Pairs,
    seed: int,
    used: dict[str, int],
    skipped: dict[str, str],
    say: Callable[[str], None] = print,
) -> dict:
    """Write a pair set (split -> version -> uint8 N x 3 x S x S) whole or not at all, and return its card.

    `used` counts the photographs behind each split, `skipped` maps the files left out to reasons. The card
    says whether the set meets the assumptions of Noise2Noise, and `say` tells if it does not. Its hash
    (SHA-256, hex) covers names, shapes and bytes of all splits, but not the blocks in `BLOCKS_FILE`.
    """
    measured = noise.assumptions(arrays["train"], arrays["validation"])
    verdict = noise.verdict(measured)
    if any(one.broken for one in measured):
        say(f"WARNING: {verdict}")
    (folder / "card.json").unlink(missing_ok=True)  # written last: without a card there is no pair set
    if not options.resample:
        (folder / BLOCKS_FILE).unlink(missing_ok=True)
    whole = hashlib.sha256()
    for split in SPLITS:
        path = folder / f"{split}.safetensors"
        if split not in arrays:
            path.unlink(missing_ok=True)
            continue
        for version, array in sorted(arrays[split].items()):
            whole.update(f"{split} {version} {array.shape}".encode())
            whole.update(array)
        with replacing(path) as temporary:
            save_file(arrays[split], temporary)
    card = {
        "source": options.source,
        "made_from": _made_from(options, seed),
        "counts": {split: len(versions["noisy_1"]) for split, versions in arrays.items()},
        "photographs": used,
        "photographs_left_out": {"count": len(skipped), "reasons": skipped},
        "noisy_psnr_db": {split: _noisy_psnr(versions) for split, versions in arrays.items()},
        "assumptions": [asdict(one) for one in measured],
        "verdict": verdict,
        "hash": whole.hexdigest(),
    }
    write_json(folder / "card.json", card)
    return card


def _made_from(options: Pairs, seed: int) -> dict:
    """What makes a pair set what it is: its parameters but for the words about photographs, and the code."""
    parameters = options.model_dump(mode="json", exclude={"photographs"}) | {"seed": seed}
    files = tuple((name, f"{name}.py") for name in MAKING)
    return {"parameters": parameters, "code": code_identity(files, folder=Path(__file__).parent)}


def is_current(card: dict | None, params: Params) -> bool:
    """Is `card` that of the pair set that `params` and this code make?"""
    return card is not None and card.get("made_from") == _made_from(params.pairs, params.seed)


def _noisy_psnr(versions: dict[str, np.ndarray]) -> dict[str, float] | None:
    """PSNR (dB) of the first noisy version, global and per image; None without clean images."""
    if "clean" not in versions:
        return None
    mse = mse_per_image(versions["noisy_1"], versions["clean"])
    return {"global": round(psnr_full(mse), 4), "per_image": round(psnr_per_image(mse), 4)}


@dataclass(frozen=True)
class PairSet:
    """A pair set on disk. Each split maps version -> uint8 torch tensor N x 3 x S x S, memory-mapped.

    `train` has noisy_1, noisy_2 and (not from course files) clean; `validation` and `test` have noisy_1,
    clean and (not from course files) noisy_2. `test` is {} without a test set.
    """

    folder: Path
    card: dict
    train: dict[str, torch.Tensor]
    validation: dict[str, torch.Tensor]
    test: dict[str, torch.Tensor]

    @property
    def hash(self) -> str:
        """The hash of the card, see `write_pairs`."""
        return self.card["hash"]

    def target(self, which: str) -> torch.Tensor:
        """Training targets, uint8 N x 3 x S x S: "noisy" (the second versions) or "clean".

        Raises `UserError` if the set has no clean training images.
        """
        version = "clean" if which == "clean" else "noisy_2"
        if version not in self.train:
            missing = f"source {self.card['source']} has no clean training images to train towards"
            raise UserError(f"{relative(self.folder)}: {missing}")
        return self.train[version]

    def photographs(self, split: str) -> int:
        """How many photographs are behind a split."""
        return self.card["photographs"][split]

    def blocks(self) -> torch.Tensor:
        """The blocks behind the training pairs, uint8 N x block * block x 3 x S x S, memory-mapped.

        Raises `UserError` if they were not kept, or if their file is damaged.
        """
        path = self.folder / BLOCKS_FILE
        # Mode c is writable in memory alone: torch warns of arrays that are read-only.
        try:
            return torch.from_numpy(np.load(path, mmap_mode="c"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{relative(path)}: no blocks were kept, or damaged; set pairs.resample: true, remove "
                f"{relative(self.folder)} and run notebook 01"
            ) from error


def load_pairs(folder: Path) -> PairSet:
    """Map the pair set in `folder`.

    Raises `UserError` if there is none, or if a file is unreadable or has another number of pairs than the
    card says. Contents are not compared with the hash, which would read every file.
    """
    card = read_card(folder)
    if card is None or "counts" not in card:
        raise UserError(f"{relative(folder)}: no pair set here; make it with notebook 01 (dvc repro data)")
    cure = f"remove {relative(folder)} and make it again with notebook 01"
    splits = {split: {} for split in SPLITS}
    for split, count in card["counts"].items():
        path = folder / f"{split}.safetensors"
        try:
            splits[split], _ = read_safetensors(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{relative(path)}: damaged ({error}); {cure}") from error
        if len(splits[split].get("noisy_1", ())) != count:
            raise UserError(f"{relative(path)}: not the file that card.json describes; {cure}")
    return PairSet(folder, card, **splits)


def read_card(folder: Path) -> dict | None:
    """The card of the pair set in `folder`, or None if there is none or it is damaged."""
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) else None


def ensure_pairs(params: Params, folder: Path | None = None) -> PairSet:
    """The pair set of `params` in `folder` (default: data/pairs/<scale>).

    It is made anew if other parameters or other code made it. Photographs that changed since are not noticed.
    """
    folder = folder or params.pairs_folder
    if not is_current(read_card(folder), params):
        build_pairs(params, folder)
    return load_pairs(folder)
