"""Source `ee559`: the course's own files, train_data.pkl (two noisy versions) and val_data.pkl (noisy, clean), used as they are.

They are pickles from elsewhere: only tensors are read from them (`weights_only=True`), so that no file can run code.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch

from n2nlib.files import ROOT, UserError, relative
from n2nlib.params import Params

DEFAULT = "data/raw/ee559"


FILES = {"train": "train_data.pkl", "validation": "val_data.pkl"}


VERSIONS = {"train": ("noisy_1", "noisy_2"), "validation": ("noisy_1", "clean")}


def read_course(params: Params) -> dict[str, dict[str, np.ndarray]]:
    """split -> version -> uint8 N x 3 x S x S: the first `pairs.train` and `pairs.validation` pairs, values and order kept.

    Raises `UserError` that names the file for one that is missing, needs more than tensors, or holds something else.
    """
    options = params.pairs
    folder = Path(options.path or DEFAULT).expanduser()
    folder = folder if folder.is_absolute() else ROOT / folder
    tensors = {split: _read(folder / name, options.size) for split, name in FILES.items()}
    _not_swapped(folder, tensors)
    arrays = {}
    for split, wanted in (("train", options.train), ("validation", options.validation)):
        held = len(tensors[split][0])
        if wanted > held:
            raise UserError(
                f"pairs.{split} = {wanted}: {relative(folder / FILES[split])} holds {held} pairs; allowed: 1 to {held}"
            )
        arrays[split] = {
            version: tensor[:wanted].numpy()
            for version, tensor in zip(VERSIONS[split], tensors[split], strict=True)
        }
    return arrays


def _read(path: Path, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    name = relative(path)
    if not path.is_file():
        raise UserError(
            f"{name}: missing; source ee559 needs {' and '.join(FILES.values())} in one folder (pairs.path, default {DEFAULT})"
        )
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{name}: refused: it needs more than tensors to be read, and reading it could run code ({reason})"
        ) from error
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
    ) as error:
        raise UserError(f"{name}: not a file that torch.save wrote, or damaged ({error})") from error
    if (
        not isinstance(held, tuple | list)
        or len(held) != 2
        or not all(isinstance(one, torch.Tensor) for one in held)
    ):
        raise UserError(f"{name}: holds {_kind(held)}; allowed: two tensors")
    for number, tensor in enumerate(held, 1):
        which = f"{name}: tensor {number}"
        if tensor.dtype != torch.uint8:
            scaled = tensor.is_floating_point() and tensor.numel() and float(tensor.max()) <= 1
            hint = " in [0, 1], scaled already" if scaled else ""
            raise UserError(
                f"{which} is {str(tensor.dtype).removeprefix('torch.')}{hint}; allowed: uint8 in [0, 255]"
            )
        if tensor.ndim != 4 or tensor.shape[1:] != (3, size, size) or not len(tensor):
            raise UserError(
                f"{which} has shape {tuple(tensor.shape)}; allowed: N x 3 x {size} x {size} (pairs.size = {size})"
            )
    if len(held[0]) != len(held[1]):
        raise UserError(
            f"{name}: its two tensors hold {len(held[0])} and {len(held[1])} images; allowed: the same number"
        )
    return held[0], held[1]


def _kind(held: object) -> str:
    return (
        f"a {type(held).__name__} of {len(held)}"
        if isinstance(held, tuple | list | dict)
        else f"a {type(held).__name__}"
    )


def _roughness(images: torch.Tensor) -> float:
    """Mean squared difference of neighbouring pixels: noise adds to it."""
    some = images[:2000].float()
    return float((some[..., 1:] - some[..., :-1]).square().mean())


def _not_swapped(folder: Path, tensors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Refuse files that have each other's content: two noisy versions are equally rough, a clean image is smoother than a noisy one."""
    train, validation = (
        _roughness(second) / max(1e-9, _roughness(first)) for first, second in tensors.values()
    )
    names = [relative(folder / name) for name in FILES.values()]
    if train < 0.9 and 0.95 < validation < 1.05:
        raise UserError(
            f"{names[0]} and {names[1]}: swapped? The first holds a noisy and a clean version, the second two noisy ones"
        )
    if train < 0.9 or train > 1.1:
        raise UserError(
            f"{names[0]}: one of its tensors is smoother than the other; allowed: two noisy versions of the same images"
        )
    if validation > 1.05:
        raise UserError(
            f"{names[1]}: its second tensor is rougher than its first; allowed: noisy first, clean second"
        )
