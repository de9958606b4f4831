"""Where photographs come from: installed packages (`bundled`), a folder, or Imagenette.

A source gives three lists of photographs, for training, validation and test. No photograph is in two of
them; a copy that was resized or compressed again counts as another photograph.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from n2nlib.files import ROOT, UserError, relative
from n2nlib.pairs.imagenette import imagenette
from n2nlib.params import Pairs, Params

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
# The first of these folders beside train/ holds the photographs of validation and test; others are not read.
HELD_OUT_NAMES = ("val", "validation", "test")
# The colour photographs inside the pinned packages; data/README.md lists their authors and licences. Left out
# are drawings, the right half of the stereo pair, and what made small networks worse or no better: grey
# photographs and the Hubble deep field.
BUNDLED = {
    "training": (
        "skimage/data/astronaut.png",
        "skimage/data/chelsea.png",
        "skimage/data/ihc.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/retina.jpg",
        "skimage/data/rocket.jpg",
    ),
    "validation": ("skimage/data/coffee.png", "sklearn/datasets/images/china.jpg"),
    "test": ("matplotlib/mpl-data/sample_data/grace_hopper.jpg", "sklearn/datasets/images/flower.jpg"),
}
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)  # what Pillow raises


@dataclass(frozen=True)
class Photo:
    """A photograph on disk, and its name in cards and messages."""

    path: Path
    name: str

    def read(self) -> np.ndarray:
        """Decode to uint8 RGB, H x W x 3, turned upright by its EXIF, transparent pixels on white.

        Raises one of `UNREADABLE` if the file is not a readable image.
        """
        with Image.open(self.path) as image:
            return _to_rgb(ImageOps.exif_transpose(image))


@dataclass(frozen=True)
class Photos:
    """Training, validation and test photographs (`test` may be empty), and why other files were left out."""

    training: list[Photo]
    validation: list[Photo]
    test: list[Photo]
    skipped: dict[str, str] = field(default_factory=dict)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 RGB of an image of any mode; transparent pixels are blended with white."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        image = Image.fromarray(np.clip(np.asarray(image).astype(np.int64) // 257, 0, 255).astype(np.uint8))
    elif image.mode == "F":  # taken to be in [0, 255]; an image in [0, 1] becomes black
        image = Image.fromarray(np.clip(np.asarray(image), 0, 255).astype(np.uint8))
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


def find_photos(
    params: Params, mapped: Callable[..., Iterable] = map, say: Callable[[str], None] = print
) -> Photos:
    """The photographs of `params.pairs.source`, which is not ee559; `say` announces a download.

    Those of a folder or of Imagenette are decoded once by `mapped` (like `map`), to leave out what is not
    readable, too small or a copy. Raises `UserError` if a folder is missing or empty, if a bundled photograph
    is missing, if the download fails, or if too few photographs are left for one of the sets.
    """
    options = params.pairs
    if options.source == "bundled":
        sets = [[_bundled(name) for name in names] for names in BUNDLED.values()]
        return Photos(*sets[:2], sets[2] if options.test else [])
    if options.source == "imagenette":
        return _folder(params, imagenette(say), mapped)
    return _folder(params, _existing(options.path, "pairs.path"), mapped)


def example() -> np.ndarray:
    """A bundled training photograph, uint8 H x W x 3, for explanations."""
    return _bundled(BUNDLED["training"][1]).read()


def _bundled(name: str) -> Photo:
    package, inside = name.split("/", 1)
    path = Path(find_spec(package).origin).parent / inside  # find_spec locates a package without importing it
    if not path.is_file():
        source = "pairs.source = bundled needs the photographs of the pinned packages"
        raise UserError(f"{path}: missing; {source}")
    return Photo(path, path.name)


def _folder(params: Params, root: Path, mapped: Callable[..., Iterable]) -> Photos:
    """A folder that has held-out photographs of its own, or of which a share is held out."""
    options = params.pairs
    training_root, held_root = _roots(options, root)
    listed = _list(training_root, exclude=held_root)
    listed_held = _list(held_root) if held_root else []
    for folder, photos in ((training_root, listed), (held_root, listed_held)):
        if folder and not photos:
            allowed = f"{', '.join(SUFFIXES)}, in any subfolder"
            raise UserError(f"{folder}: holds no photograph; allowed: {allowed}")

    # Held-out photographs come first, so that a photograph which is in both lists is not trained on.
    good, skipped = _usable(listed_held + listed, options.size, mapped)
    least = 2 if options.test else 1
    held_out = set(listed_held)
    if not held_root:
        count = min(max(least, round(options.holdout * len(good))), max(0, len(good) - 1))
        order = np.random.default_rng([params.seed, 2]).permutation(len(good))
        held_out = {good[index] for index in order[:count]}
    training = [photo for photo in good if photo not in held_out]
    held = [photo for photo in good if photo in held_out]

    purpose = "validation and test (1 with pairs.test = 0)" if options.test else "validation"
    for folder, photos, needed, what in (
        (training_root, training, 1, "training"),
        (held_root or root, held, least, purpose),
    ):
        if len(photos) < needed:
            left = f"photographs left for {what}: {len(photos)}; allowed: at least {needed}"
            raise UserError(f"{folder}: {left}. {_reasons(skipped, len(good))}")
    return Photos(training, *divide(held, options.validation, options.test, params.seed), skipped)


def divide(photos: list[Photo], validation: int, test: int, seed: int) -> tuple[list[Photo], list[Photo]]:
    """Divide photographs at random between validation and test in proportion to the two numbers of pairs.

    Of two photographs or more each set gets one at least. Without test pairs all are for validation.
    """
    if not test:
        return photos, []
    order = np.random.default_rng([seed, 5]).permutation(len(photos))
    count = min(max(1, round(len(photos) * validation / (validation + test))), len(photos) - 1)
    return tuple([photos[index] for index in sorted(part)] for part in (order[:count], order[count:]))


def _roots(options: Pairs, root: Path) -> tuple[Path, Path | None]:
    """The folder of the training photographs, and that of the held-out ones (None if a share is held out)."""
    if options.validation_path is not None:
        return root, _existing(options.validation_path, "pairs.validation_path")
    named = next((root / name for name in HELD_OUT_NAMES if (root / name).is_dir()), None)
    return (root / "train", named) if named and (root / "train").is_dir() else (root, None)


def _existing(given: str, key: str) -> Path:
    path = ROOT / os.path.expanduser(given)
    if not path.is_dir():
        allowed = "a folder of photographs, absolute or relative to the root of the project"
        raise UserError(f"{key} = {given}: no such folder; allowed: {allowed}")
    return path


def _list(root: Path, exclude: Path | None = None) -> list[Photo]:
    """All image files below `root` in an order that no file system changes; links are followed once."""
    found, visited = [], set()
    excluded = exclude.resolve() if exclude and exclude.resolve() != root.resolve() else None
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = Path(folder).resolve()
        if real in visited or real == excluded:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()
        paths = (Path(folder) / name for name in names if Path(name).suffix.lower() in SUFFIXES)
        found += [Photo(path, relative(path)) for path in paths]
    return sorted(found, key=lambda photo: photo.path.relative_to(root).as_posix())


def _usable(
    photos: list[Photo], smallest: int, mapped: Callable[..., Iterable]
) -> tuple[list[Photo], dict[str, str]]:
    """The photographs that are readable, large enough and no copies of earlier ones; why others are not."""
    seen: dict[str, Photo] = {}
    skipped: dict[str, str] = {}
    checked = mapped(partial(_check, smallest=smallest), photos)
    for photo, (pixels, problem) in zip(photos, checked, strict=True):
        if problem:
            skipped[photo.name] = problem
        elif pixels in seen:
            skipped[photo.name] = f"the same photograph as {seen[pixels].name}"
        else:
            seen[pixels] = photo
    return list(seen.values()), skipped


def _check(photo: Photo, smallest: int) -> tuple[str, str]:
    """(SHA-256 of the decoded pixels, "") or ("", what is wrong with the file)."""
    try:
        pixels = photo.read()
    except UNREADABLE as error:
        return "", f"unreadable: {type(error).__name__}: {str(error).replace(str(photo.path), photo.name)}"
    height, width = pixels.shape[:2]
    if min(height, width) < smallest:
        return "", f"too small: {width} x {height} pixels; at least {smallest} per side are needed"
    return hashlib.sha256(f"{height} {width}".encode() + pixels.tobytes()).hexdigest(), ""


def _reasons(skipped: dict[str, str], good: int) -> str:
    few = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
    more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return f"{good} files are usable, {len(skipped)} were left out" + (f" ({few}{more})" if skipped else "")
