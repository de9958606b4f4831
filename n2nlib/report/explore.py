"""What notebooks/explore.ipynb does behind its widgets; `explore_figures` draws it.

No pair set and no run is kept on disk: pairs are made from bundled photographs or from the reader's own.
Images are 3 x S x S in [0, 255], as everywhere.
"""

from __future__ import annotations

import copy
import io
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import nn

from n2nlib.denoiser import Denoiser, default_model
from n2nlib.experiments import beyond, paper_runs, results
from n2nlib.files import UserError, read_json
from n2nlib.metrics import mse_per_image, psnr_full
from n2nlib.pairs.corruption import VERSIONS, block_mean, draw, random_square, squashed_blocks
from n2nlib.pairs.pair_set import PairSet, build_pairs, load_pairs, read_card
from n2nlib.pairs.photos import UNREADABLE, Photo, find_photos
from n2nlib.params import Params, load_params
from n2nlib.report import tables, wording
from n2nlib.train import augment, loop, runs
from n2nlib.train.identity import RunParams

# The pairs that a small network is trained on live: random squares of the bundled photographs.
LIVE_PAIRS = {"source": "bundled", "train": 120, "validation": 40, "test": 1, "resample": True}
LIVE_PAIRS |= {"train_crop": "square", "validation_crop": "square", "min_crop": 0.6, "permute_channels": True}
LIVE_PAIRS |= {"size": 32, "block": 7}
TRAINED_FACTOR = "as trained"
COMMITTED = {"final": "05_fine_tuning/final", "best": "07_beyond/best"}  # models in reports/<scale>
LIVE_NETWORK = {"arch": "upsample", "width": 8, "tau_sharp": 0.0, "seed": 0, "precision": "float32"}
LIVE_AUGMENTATION = {"sigma_n": 5.0, "crops": (), "flips": "image", "shared_noise": False}
LIVE_SCHEDULE = {"loss": "mse", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 4, "epochs": 100}
# What is trained live.
LIVE_RUN = RunParams(**LIVE_NETWORK, **LIVE_AUGMENTATION, **LIVE_SCHEDULE, annealing_steps=0)
NUMBERS: dict[str, list[Any]] = {
    "width": [2, 4, 8, 16, 32],
    "learning_rate": [1e-7, 1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 1e-2],
    "batch_size": [1, 2, 4, 8, 16, 32],
    "sigma_n": [0.0, 1.0, 5.0, 10.0, 25.0, 50.0],
    "tau_sharp": [0.0, 0.5, 1.0, 2.0, 3.0],
    "annealing_steps": [0, 1, 2],
    "warmup": [0.0, 0.05, 0.3],
    "averaging": [0.0, 0.99, 0.998],
    "epochs": [5, 10, 20, 50, 100, 200],
    "seed": [0, 1, 2, 3],
    "crops": [("none", ()), ("global", ((0.7, 1.0),)), ("both", ((0.7, 1.0), (0.05, 0.4)))],
}  # values to try instead; a pair is a label and a value
NO_EFFECT = {"precision", "validate_every_epoch"}  # parameters that change nothing here


@dataclass(frozen=True)
class Record:
    """A finished run: all its parameters, and what is left of it."""

    parameters: dict[str, Any]
    psnr_full: float  # at its end, dB
    curve: pd.DataFrame  # images, psnr_full (dB); empty if it is not known
    model: Path | None


def photographs() -> dict[str, np.ndarray]:
    """The bundled photographs by name, uint8 H x W x 3; those that no network is trained on come last."""
    found = find_photos(load_params(overrides={"pairs": LIVE_PAIRS}))
    return {one.path.stem: one.read() for one in (*found.training, *found.validation, *found.test)}


def add_photographs(
    known: dict[str, np.ndarray], uploaded: Iterable[Mapping[str, Any]] = (), path: str = ""
) -> list[str]:
    """Add image files to `known`; returns all names, the last one first.

    `uploaded` has the name and the content (bytes) of each file, as a widget gives them; `path` is a file on
    this machine. A photograph that is known already becomes the last one; another one of the same name gets a
    number. Raises `UserError` for files that are no images, after the others are added.
    """
    files = [(one["name"], io.BytesIO(one["content"])) for one in uploaded]
    files += [(path, os.path.expanduser(path))] if path else []
    failed = []
    for file_name, file in files:
        try:
            pixels = Photo(file, file_name).read()
        except UNREADABLE as error:
            failed.append(f"{file_name}: not a readable image ({type(error).__name__})")
            continue
        stem = Path(file_name).stem
        names = chain([stem], (f"{stem} ({number})" for number in count(2)))
        name = next(name for name in names if name not in known or np.array_equal(known[name], pixels))
        known.pop(name, None)
        known[name] = pixels
    if failed:
        raise UserError("; ".join(failed))
    return list(reversed(known))


def square(photo: np.ndarray, number: int) -> np.ndarray:
    """A random square of a photograph, the same for the same `number`; 0: the whole photograph."""
    return random_square(photo, LIVE_PAIRS["min_crop"], np.random.default_rng(number)) if number else photo


def make_pair(
    photo: np.ndarray, number: int = 0, seed: int = 0, size: int = LIVE_PAIRS["size"]
) -> dict[str, np.ndarray]:
    """A noisy pair and its clean image (`VERSIONS`, uint8 1 x 3 x S x S) of a `square` of a photograph.

    `seed` draws the noise; `diagrams.noise` draws the same.
    """
    blocks = squashed_blocks(square(photo, number), size, LIVE_PAIRS["block"])
    noisy = [draw(blocks, np.random.default_rng([seed, version])) for version in (1, 2)]
    images = zip(VERSIONS, [*noisy, block_mean(blocks)], strict=True)
    return {name: image.transpose(2, 0, 1)[None] for name, image in images}


@cache
def small_pairs() -> tuple[PairSet, torch.Tensor]:
    """The pair set of `LIVE_PAIRS`, and the blocks behind its training pairs (see `PairSet.blocks`)."""
    params = load_params(overrides={"pairs": LIVE_PAIRS})
    with TemporaryDirectory() as folder:
        build_pairs(params, Path(folder), say=lambda text: None)
        pairs = load_pairs(Path(folder))
        return pairs, pairs.blocks()  # mapped files stay readable after they are removed


def models(params: Params) -> dict[str, Denoiser]:
    """The committed models by name: the final and the best one of this scale; the bundled one, if another."""
    own = {name: params.reports / f"{file}.safetensors" for name, file in COMMITTED.items()}
    paths = {f"{name}, {params.scale}": path for name, path in own.items() if path.is_file()}
    default = default_model()
    if default.read_bytes() not in [path.read_bytes() for path in paths.values()]:
        paths[f"bundled, {read_json(default.with_suffix('.json'))['scale']}"] = default
    return {name: Denoiser.load(path) for name, path in paths.items()}


def compare_models(
    models: Mapping[str, Denoiser],
    pair: Mapping[str, np.ndarray],
    sigma_n: float = 0.0,
    tau: float | str = TRAINED_FACTOR,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """What a blur and each model make of the first noisy image of `make_pair`: title -> 1 x 3 x S x S.

    Gaussian noise of `sigma_n` grey levels, drawn from `seed`, is added first. `tau` is the sharpening factor
    at prediction, or `TRAINED_FACTOR`.
    """
    image, clean = (torch.from_numpy(pair[version].copy()) for version in ("noisy_1", "clean"))
    (noisy,) = augment.add_noise((image.float(),), sigma_n, False, torch.Generator().manual_seed(seed))
    shown = {name: Denoiser(copy.copy(model.network), model.flips) for name, model in models.items()}
    if tau != TRAINED_FACTOR:
        for model in shown.values():
            model.network.tau_sharp = tau
    one = replace(small_pairs()[0], validation={"noisy_1": noisy, "clean": clean})
    return results.pictures(shown, one, 1)[0]


def filters(denoiser: Denoiser) -> np.ndarray:
    """The filters of the first layer as pictures, N x 3 x 3 x 3 in [0, 255]: mid-grey stands for zero."""
    first = next(layer for layer in denoiser.network.unet.modules() if isinstance(layer, nn.Conv2d))
    weights = first.weight.detach().numpy()
    return 127.5 * (1 + weights / np.abs(weights).max(axis=(1, 2, 3), keepdims=True))


@torch.no_grad()
def features(denoiser: Denoiser, image: np.ndarray) -> dict[str, np.ndarray]:
    """What each level of the network makes of an image (3 x S x S): name of the level -> C x H x W."""
    unet, found = denoiser.network.unet, {}
    levels = {f"down {number}": level for number, level in enumerate(unet.encoder, 1)}
    levels |= {"bottom": unet.bottom} if hasattr(unet, "bottom") else {}
    levels |= {f"up {number}": level for number, level in enumerate(unet.decoder, 1)}
    hooks = [
        level.register_forward_hook(lambda _, __, made, name=name: found.update({name: made[0].numpy()}))
        for name, level in levels.items()
    ]
    denoiser.network(torch.from_numpy(image[None].astype(np.float32)))
    for hook in hooks:
        hook.remove()
    return found


def receptive_field(denoiser: Denoiser, image: np.ndarray) -> np.ndarray:
    """How much each input pixel of an image (3 x S x S) moves the output in its centre, H x W.

    The absolute gradient of the sum of the centre's three channels, before the last ReLU, summed over the
    input's channels.
    """
    given = torch.from_numpy(image[None].astype(np.float32)).requires_grad_()
    height, width = image.shape[1:]
    centre = denoiser.network.unet(given)[0, :, height // 2, width // 2].sum()
    (gradient,) = torch.autograd.grad(centre, given)
    return gradient[0].abs().sum(0).numpy()


def choices() -> dict[str, list[Any]]:
    """Every parameter of a training that is worth changing here, and values to choose from."""
    found = {}
    for name, about in RunParams.model_fields.items():
        if name not in NO_EFFECT:
            values = [False, True] if about.annotation is bool else list(get_args(about.annotation))
            found[name] = NUMBERS.get(name, values)
    return found


def train_one(seconds: float = 20.0, **changes: Any) -> Iterator[tuple[pd.DataFrame, Denoiser]]:
    """Train a small network for some seconds or `epochs` passes over `small_pairs`, whichever ends first.

    `changes` are parameters of a run (see `RunParams`) that replace those of `LIVE_RUN`. Yields the history
    and the network before the first step, at most once a second, and at the end. The history has a row
    before the first step and one per epoch: images, train_loss (NaN before the first step), psnr_full (dB)
    and run, which says what differs from `LIVE_RUN`. Uses one
    thread, as the processes of a sweep do: on several, such small steps take longer. Raises `UserError` for a
    parameter that does not exist or a value that is not allowed.
    """
    try:
        run = RunParams(**(LIVE_RUN.model_dump() | changes))
    except ValidationError as error:
        problems = (f"{one['loc'][0]} = {one['input']!r}: {one['msg']}" for one in error.errors())
        raise UserError(f"{'; '.join(problems)}; parameters: {', '.join(choices())}") from None
    changed = [f"{name} {value}" for name, value in changes.items() if value != getattr(LIVE_RUN, name)]
    return _train(run, seconds, ", ".join(changed) or "unchanged")


def _train(run: RunParams, seconds: float, name: str) -> Iterator[tuple[pd.DataFrame, Denoiser]]:
    torch.set_num_threads(1)
    pairs, blocks = small_pairs()
    noisy, clean = (pairs.validation[version].numpy() for version in ("noisy_1", "clean"))
    state = loop.begin(run, torch.device("cpu"))
    inputs, targets = pairs.train["noisy_1"], pairs.target(run.target)
    step = loop.Step(run, state, inputs, targets, blocks if run.resample else None)
    row: dict[str, object] = {"run": name, "images": 0, "train_loss": math.nan}
    started, told, rows = time.monotonic(), -math.inf, []
    while True:
        denoiser = Denoiser(state.evaluation_network)
        rows.append(row | {"psnr_full": psnr_full(mse_per_image(denoiser.predict(noisy), clean))})
        now = time.monotonic() - started
        done = now >= seconds or len(state.history) == run.epochs or state.diverged
        if done or now - told >= 1:
            told = now
            yield pd.DataFrame(rows), denoiser
        if done:
            return
        row = row | {"images": row["images"] + step.items, "train_loss": loop.train_epoch(step)}
        state.history.append(row)


def records(params: Params) -> dict[str, Record]:
    """The runs of this scale on disk by name; without any, those of committed results.

    The latter are the rows of Table I, whose parameters are those that `params` plans for them, and the final
    and the best model. Raises `UserError` if there is no Table I either.
    """
    return _on_disk(params) or _committed(params)


def _on_disk(params: Params) -> dict[str, Record]:
    folders = [params.pairs_folder, *beyond.set_folder(params, "any").parent.glob("*")]
    pairs = {card["hash"] for card in map(read_card, folders) if card}
    found = {}
    for path in sorted(runs.RUNS.glob("[!.]*/*/run.json")):
        about, folder = read_json(path), path.parent
        if about["pairs"] in pairs:
            curve = pd.read_csv(folder / "history.csv").dropna(subset="psnr_full")
            last, model = curve["psnr_full"].iloc[-1], next(folder.glob(runs.MODEL), None)
            found[f"{folder.parent.name}: {about['run']}"] = Record(about["parameters"], last, curve, model)
    return found


def _committed(params: Params) -> dict[str, Record]:
    keys, nothing, found = [*paper_runs.ABLATION, "seed"], pd.DataFrame(), {}
    table = tables.load("03_ablation/table1_ablation", params).set_index(keys)["psnr_full"].to_dict()
    progress = params.reports / "03_ablation" / "progress.csv"
    curves = dict(list(pd.read_csv(progress).groupby(keys))) if progress.is_file() else {}
    for one in paper_runs.ablation_runs(params):
        setting = tuple(one.row[key] for key in keys)
        if setting in table:
            parameters, curve = one.run.model_dump(mode="json"), curves.get(setting, nothing)
            name = f"Table I: {wording.setting(one.row)}, seed {one.row['seed']}"
            found[name] = Record(parameters, table[setting], curve, None)
    for name, file in COMMITTED.items():
        path = params.reports / f"{file}.safetensors"
        if path.is_file():
            about = read_json(path.with_suffix(".json"))
            record = Record(about["parameters"], about["metrics"]["psnr_full"], nothing, path)
            found[f"{name} model: {about['run']}"] = record
    return found


def compare_runs(first: Record, second: Record) -> pd.DataFrame:
    """The parameters in which two runs differ: columns Parameter, First, Second, all text."""
    both = {"First": first.parameters, "Second": second.parameters}
    table = pd.DataFrame({name: pd.Series(values, dtype=object).map(str) for name, values in both.items()})
    return table[table["First"] != table["Second"]].fillna("–").rename_axis("Parameter").reset_index()
