"""The source `ee559`: the files of the course.

train_data.pkl holds two noisy versions of each image, val_data.pkl a noisy and a clean one. The files are
pickles from elsewhere. Only tensors are read from them (`weights_only=True`), so they cannot run code.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import torch

from n2nlib.files import ROOT, UserError, relative
from n2nlib.params import Params

DEFAULT = "data/raw/ee559"
FILES = {"train": "train_data.pkl", "validation": "val_data.pkl"}
COURSE_VERSIONS = {"train": ("noisy_1", "noisy_2"), "validation": ("noisy_1", "clean")}


def read_course(params: Params) -> dict[str, dict[str, np.ndarray]]:
    """The first `pairs.train` and `pairs.validation` pairs: split -> version -> uint8 N x 3 x S x S.

    S is `pairs.size`. Raises `UserError` that names the file if it is missing, if reading it needs more than
    tensors, if it holds something else or too few pairs, or if noisy and clean images seem to be swapped.
    """
    options = params.pairs
    folder = ROOT / os.path.expanduser(options.path or DEFAULT)
    tensors = {split: _read(folder / name, options.size) for split, name in FILES.items()}
    _check_order(folder, tensors)
    arrays = {}
    for split, pair in tensors.items():
        wanted, held, path = getattr(options, split), len(pair[0]), relative(folder / FILES[split])
        if wanted > held:
            raise UserError(f"pairs.{split} = {wanted}: {path} holds {held} pairs; allowed: 1 to {held}")
        arrays[split] = {
            version: np.ascontiguousarray(tensor[:wanted].numpy())
            for version, tensor in zip(COURSE_VERSIONS[split], pair, strict=True)
        }
    return arrays


def _read(path: Path, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two uint8 tensors of a file, both N x 3 x size x size."""
    name = relative(path)
    if not path.is_file():
        needed = f"{' and '.join(FILES.values())} in one folder (pairs.path, default {DEFAULT})"
        raise UserError(f"{name}: missing; source ee559 needs {needed}")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{name}: refused: it is no file of torch.save, or reading it needs more than tensors and could "
            f"run code ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # damaged bytes can make the reader raise nearly anything
        raise UserError(f"{name}: not a file that torch.save wrote, or damaged ({error})") from error
    listed = isinstance(held, tuple | list)
    if not listed or len(held) != 2 or not all(isinstance(one, torch.Tensor) for one in held):
        count = f" of {len(held)}" if isinstance(held, tuple | list | dict) else ""
        raise UserError(f"{name}: holds a {type(held).__name__}{count}; allowed: two tensors")
    for number, tensor in enumerate(held, 1):
        which = f"{name}: tensor {number}"
        if tensor.dtype != torch.uint8:
            scaled = tensor.is_floating_point() and tensor.numel() and float(tensor.max()) <= 1
            kind = str(tensor.dtype).removeprefix("torch.") + (" in [0, 1], scaled already" if scaled else "")
            raise UserError(f"{which} is {kind}; allowed: uint8 in [0, 255]")
        if tensor.ndim != 4 or tensor.shape[1:] != (3, size, size) or not len(tensor):
            allowed = f"N x 3 x {size} x {size} (pairs.size = {size})"
            raise UserError(f"{which} has shape {tuple(tensor.shape)}; allowed: {allowed}")
    first, second = held
    if len(first) != len(second):
        counts = f"{len(first)} and {len(second)} images"
        raise UserError(f"{name}: its two tensors hold {counts}; allowed: the same number")
    return first, second


def _roughness(images: torch.Tensor) -> float:
    """Mean squared difference of horizontal neighbours (squared grey levels), to which noise adds."""
    some = images[:2000].float()
    return float((some[..., 1:] - some[..., :-1]).square().mean())


def _check_order(folder: Path, tensors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Refuse swapped files and tensors: two noisy versions are equally rough, a clean image is smoother."""
    rough = {split: [_roughness(one) for one in pair] for split, pair in tensors.items()}
    ratios = {split: second / max(1e-9, first) for split, (first, second) in rough.items()}
    train, validation = (relative(folder / name) for name in FILES.values())
    if ratios["train"] < 0.9 and 0.95 < ratios["validation"] < 1.05:
        held = "the first holds a noisy and a clean version, the second two noisy ones"
        raise UserError(f"{train} and {validation}: swapped? {held.capitalize()}")
    if not 0.9 <= ratios["train"] <= 1.1:
        allowed = "two noisy versions of the same images"
        raise UserError(f"{train}: one of its tensors is smoother than the other; allowed: {allowed}")
    if ratios["validation"] > 0.95:
        problem = "its second tensor is not smoother than its first"
        raise UserError(f"{validation}: {problem}; allowed: noisy first, clean second")
