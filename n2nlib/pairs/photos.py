"""Where photographs come from: the ones bundled with scikit-image and scikit-learn, a folder, or Imagenette.

A source answers with two lists, training and validation, that share no pixel of any photograph.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from n2nlib.files import ROOT, UserError, relative
from n2nlib.pairs.imagenette import imagenette
from n2nlib.params import Params

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


VALIDATION_NAMES = ("val", "validation", "test")


# The colour photographs that ship inside the two wheels; drawings, textures, microscopy and the right half of the stereo pair are left out.
# Whole photographs are held out: one of a thing close by, one of a place, so that validation asks for more than other parts of the same.
BUNDLED = {
    "training": (
        ("skimage.data", ("astronaut.png", "chelsea.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg")),
        ("sklearn.datasets.images", ("flower.jpg",)),
    ),
    "validation": (("skimage.data", ("coffee.png",)), ("sklearn.datasets.images", ("china.jpg",))),
}


UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    Image.DecompressionBombError,
)  # what Pillow's decoders raise


@dataclass(frozen=True)
class Photo:
    """A photograph on disk, and the name that it goes by in cards and messages."""

    path: Path
    name: str

    def read(self) -> np.ndarray:
        """Decode to uint8, H x W x 3. Raises one of `UNREADABLE` if the file is no readable image."""
        with Image.open(self.path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))


@dataclass(frozen=True)
class Photos:
    """Training and validation photographs, and the files that were left out with the reason."""

    training: list[Photo]
    validation: list[Photo]
    skipped: dict[str, str] = field(default_factory=dict)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 RGB of any mode: 16-bit grey scaled, transparency on white, palette, grey and CMYK converted."""
    if image.mode.startswith(
        "I"
    ):  # 16-bit grey (and its 32-bit container): Pillow's own conversion would clip at 255
        grey = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(grey // 257, 0, 255).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.clip(np.asarray(image), 0, 255).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


def find_photos(
    params: Params, map_in_parallel: Callable[..., Iterator] = map, say: Callable[[str], None] = print
) -> Photos:
    """The photographs of `params.pairs.source`; `map_in_parallel` (like `map`) decodes them to check them.

    Raises `UserError` for a missing or empty folder, or if no photograph is left for training or for validation.
    """
    if params.pairs.source == "bundled":
        return _bundled()
    if params.pairs.source == "imagenette":
        return _folder(params, imagenette(say), map_in_parallel)
    return _folder(params, _existing(params.pairs.path, "pairs.path"), map_in_parallel)


def _bundled() -> Photos:
    sides = []
    for packages in BUNDLED.values():
        photos = [
            Photo(Path(str(files(package) / name)), name) for package, names in packages for name in names
        ]
        for photo in photos:
            if not photo.path.is_file():
                raise UserError(
                    f"{photo.path}: missing; pairs.source = bundled needs the photographs that the pinned packages ship"
                )
        sides.append(photos)
    return Photos(*sides)


def _folder(params: Params, root: Path, map_in_parallel: Callable[..., Iterator]) -> Photos:
    """A folder with its own validation photographs, or with a held-out fraction of all."""
    options = params.pairs
    named = next((root / name for name in VALIDATION_NAMES if (root / name).is_dir()), None)
    if options.validation_path is not None:
        validation_root = _existing(options.validation_path, "pairs.validation_path")
        training_root = root
    elif (root / "train").is_dir() and named:
        training_root, validation_root = root / "train", named
    else:
        training_root, validation_root = root, None

    listed = _list(training_root, exclude=validation_root)
    listed_validation = _list(validation_root) if validation_root else []
    for folder, photos in ((training_root, listed), (validation_root, listed_validation)):
        if folder and not photos:
            raise UserError(
                f"{folder}: holds no photograph; allowed: {', '.join(sorted(SUFFIXES))}, in any subfolder"
            )

    both = listed_validation + listed  # validation first: a photograph that is in both stays there
    check = partial(_check, smallest=options.size)
    seen: dict[str, Photo] = {}
    skipped: dict[str, str] = {}
    for photo, (pixels_hash, problem) in zip(both, map_in_parallel(check, both), strict=True):
        if problem:
            skipped[photo.name] = problem
        elif pixels_hash in seen:
            skipped[photo.name] = f"the same photograph as {seen[pixels_hash].name}"
        else:
            seen[pixels_hash] = photo
    good = list(seen.values())
    if validation_root:
        held_out = {photo.path for photo in listed_validation}
    else:
        if len(good) < 2:
            raise UserError(
                f"{root}: {_reasons(skipped, len(good))}; two photographs are needed, one to train on and one to validate on"
            )
        order = np.random.default_rng([params.seed, 2]).permutation(len(good))
        count = min(max(1, round(options.holdout * len(good))), len(good) - 1)
        held_out = {good[index].path for index in order[:count]}
    training = [photo for photo in good if photo.path not in held_out]
    validation = [photo for photo in good if photo.path in held_out]
    for name, folder, photos in (
        ("training", training_root, training),
        ("validation", validation_root, validation),
    ):
        if not photos:
            raise UserError(f"{folder}: no photograph left for {name}: {_reasons(skipped, len(good))}")
    return Photos(training, validation, skipped)


def _existing(given: str | None, key: str) -> Path:
    path = Path(str(given)).expanduser()
    path = path if path.is_absolute() else ROOT / path
    if not path.is_dir():
        raise UserError(
            f"{key} = {given}: no such folder; allowed: a folder of photographs, from the root of the project or absolute"
        )
    return path


def _list(root: Path, exclude: Path | None = None) -> list[Photo]:
    """All image files below `root`, links followed once, in an order that does not depend on the file system."""
    found, visited = [], set()
    excluded = exclude.resolve() if exclude and exclude.resolve() != root.resolve() else None
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited or (excluded and Path(real) == excluded):
            subfolders.clear()  # a loop of links, or the validation photographs
            continue
        visited.add(real)
        subfolders.sort()
        paths = (Path(folder) / name for name in names if Path(name).suffix.lower() in SUFFIXES)
        found += [Photo(path, relative(path)) for path in paths]
    return sorted(found, key=lambda photo: photo.path.relative_to(root).as_posix())


def _check(photo: Photo, smallest: int) -> tuple[str, str]:
    """(hash of the decoded pixels, what is wrong with the file or an empty string)."""
    try:
        pixels = photo.read()
    except UNREADABLE as error:
        return "", f"unreadable: {type(error).__name__}: {str(error).replace(str(photo.path), photo.name)}"
    height, width = pixels.shape[:2]
    if min(height, width) < smallest:
        return "", f"too small: {width} x {height} pixels, at least {smallest} a side are needed"
    return hashlib.sha256(f"{height} {width}".encode() + pixels.tobytes()).hexdigest(), ""


def _reasons(skipped: dict[str, str], good: int) -> str:
    few = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
    more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return f"{good} readable, {len(skipped)} left out" + (f" ({few}{more})" if skipped else "")
