"""What notebooks/explore.ipynb does behind its widgets. Every function also works without one.

No pair set and no run is made on disk: pairs are made in memory, from bundled photographs or from the
reader's own. Images are 3 x S x S in [0, 255], as everywhere.
"""

from __future__ import annotations

import base64
import copy
import html
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from pydantic import ValidationError
from torch import nn

from n2nlib.denoiser import Denoiser, default_model
from n2nlib.experiments import beyond, paper_runs
from n2nlib.files import UserError, read_json
from n2nlib.metrics import mse_per_image, psnr, psnr_full
from n2nlib.pairs import baselines
from n2nlib.pairs.corruption import VERSIONS, block_mean, cells, draw, random_square
from n2nlib.pairs.pair_set import PairSet, read_card
from n2nlib.pairs.photos import UNREADABLE, Photo, Photos, find_photos
from n2nlib.params import Params, load_params
from n2nlib.report import figures, tables, training_plots, wording
from n2nlib.train import augment, loop, runs
from n2nlib.train.evaluate import errors

SIZE, BLOCK, SMALLEST = 32, 7, 0.6  # of the images that the networks are trained on, see params.yaml
SQUARES = 20  # of each photograph, for the network that is trained live
SHOWN = 12  # pictures in a row
INCH = 120  # pixels on the screen for an inch of a figure: a little larger than printed
AS_TRAINED = "as trained"
COMMITTED = {"final": "05_fine_tuning/final", "best": "07_beyond/best"}  # models in reports/<scale>
START = runs.RunParams(
    arch="upsample",
    width=8,
    loss="mse",
    optimizer="adam",
    learning_rate=1e-3,
    batch_size=4,
    sigma_n=5.0,
    tau_sharp=0.0,
    crops=(),
    flips="image",
    shared_noise=False,
    annealing_steps=0,
    epochs=100,
    seed=0,
    precision="float32",
)  # what is trained live
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
FIXED = {"precision", "validate_every_epoch"}  # parameters that change nothing here


@dataclass(frozen=True)
class Pair:
    """A noisy pair, its clean image (uint8 3 x S x S each) and the blocks behind it (uint8, see `cells`)."""

    noisy_1: np.ndarray
    noisy_2: np.ndarray
    clean: np.ndarray
    blocks: np.ndarray  # S x S x block * block x 3


@dataclass(frozen=True)
class Progress:
    """A live training so far."""

    label: str  # what differs from `START`
    history: pd.DataFrame  # a row an epoch: images, seconds, train_loss, psnr_full, report_full (dB)
    noisy: float  # PSNR of the noisy validation images (dB)
    example: dict[str, np.ndarray]  # a validation image: noisy, output so far and clean
    denoiser: Denoiser


@dataclass(frozen=True)
class Record:
    """A finished run: all its parameters, and what is left of it."""

    parameters: dict[str, Any]
    psnr_full: float  # at its end, dB
    curve: pd.DataFrame  # images, psnr_full (dB); empty if it is not known
    model: Path | None


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    differences: pd.DataFrame  # a row for each parameter that differs; columns parameter, first, second
    curves: dict[str, pd.DataFrame]
    models: dict[str, Denoiser]  # of those runs whose network is on disk


def live(function: Callable[..., object], button: str = "", **controls: Any) -> Any:
    """Widgets, and below them what `function` makes of their values: once now and after every change.

    `controls` are the widgets by parameter of `function`, which returns what `rendered` takes, or yields it
    step by step. With the words of a `button`, changes wait until it is pressed. A `UserError` is shown.
    """
    import ipywidgets as widgets

    view, press = widgets.HTML(), widgets.Button(description=button)

    def update(_: object = None) -> None:
        try:
            made = function(**{name: control.value for name, control in controls.items()})
            for step in made if isinstance(made, Iterator) else [made]:
                view.value = rendered(step)
        except UserError as error:
            view.value = rendered(str(error))

    for name, control in controls.items():
        control.description = control.description or name
        if hasattr(control.style, "description_width"):
            control.style.description_width = "118px"
        if not button:
            control.observe(update, "value")
    press.on_click(update)
    update()
    above = [*controls.values(), *[press] * bool(button)]
    return widgets.VBox([widgets.Box(above, layout=widgets.Layout(flex_flow="row wrap")), view])


def rendered(shown: object) -> str:
    """HTML of a figure (which is closed), a table, plain text, or a list of them."""
    if isinstance(shown, Figure):
        buffer = io.BytesIO()
        shown.savefig(buffer, format="png")
        plt.close(shown)
        png, alt = base64.b64encode(buffer.getvalue()).decode(), html.escape(shown.get_label())
        style = f"width: {INCH * shown.get_figwidth():.0f}px; max-width: 100%"
        return f'<img src="data:image/png;base64,{png}" style="{style}" alt="{alt}">'
    if shown is None:
        return ""
    if isinstance(shown, list):
        return "".join(map(rendered, shown))
    return shown.to_html() if isinstance(shown, Styler) else f"<p>{html.escape(str(shown))}</p>"


def _bundled() -> Photos:
    return find_photos(load_params(overrides={"pairs": {"source": "bundled", "test": 1}}))


def photographs() -> dict[str, np.ndarray]:
    """The bundled photographs by name, uint8 H x W x 3."""
    found = _bundled()
    return {one.path.stem: one.read() for one in (*found.test, *found.validation, *found.training)}


def add_photographs(
    known: dict[str, np.ndarray], uploaded: Iterable[Mapping[str, Any]] = (), path: str = ""
) -> list[str]:
    """Put image files first in `known`; returns all names.

    `uploaded` has the name and the content (bytes) of each file, as a widget gives them; `path` is a file on
    this machine. Raises `UserError` for a file that is no image.
    """
    given = {Path(one["name"]).stem: io.BytesIO(one["content"]) for one in uploaded}
    given |= {Path(path).stem: Path(path).expanduser()} if path else {}
    for name, file in given.items():
        if name not in known:
            try:
                pixels = Photo(file, name).read()
            except UNREADABLE as error:
                reason = f"no image that can be read ({type(error).__name__}: {error})"
                raise UserError(f"{name}: {reason}") from error
            others = dict(known)
            known.clear()
            known.update({name: pixels} | others)
    return list(known)


def square(photo: np.ndarray, number: int) -> np.ndarray:
    """A random square of a photograph, the same for the same `number`; 0: the whole photograph."""
    chosen = random_square(photo, SMALLEST, np.random.default_rng(number)) if number else photo
    return np.ascontiguousarray(chosen)


def make_pair(photo: np.ndarray, seed: int = 0, size: int = SIZE, block: int = BLOCK) -> Pair:
    """A noisy pair of a photograph (uint8 H x W x 3), which is squashed to a square; `seed` draws the noise.

    `diagrams.noise` draws the same noise for the same seed.
    """
    blocks = cells(np.ascontiguousarray(photo), size, block)
    noisy = (draw(blocks, np.random.default_rng([seed, version])) for version in (1, 2))
    images = (image.transpose(2, 0, 1) for image in (*noisy, block_mean(blocks)))
    return Pair(*images, blocks)


def models(params: Params) -> dict[str, Denoiser]:
    """The committed models by name: the final and the best one of this scale, and the best one of all."""
    paths = {
        f"{name}, {params.scale}": params.reports / f"{file}.safetensors" for name, file in COMMITTED.items()
    }
    default = default_model()
    paths[f"best, {read_json(default.with_suffix('.json'))['scale']}"] = default
    return {name: Denoiser.load(path) for name, path in paths.items() if path.is_file()}


def sharpened(denoiser: Denoiser, tau: float | str) -> Denoiser:
    """`denoiser` with another sharpening factor at prediction, or `AS_TRAINED`."""
    network = copy.copy(denoiser.network)
    if tau != AS_TRAINED:
        network.tau_sharp = tau
    return Denoiser(network, denoiser.flips)


def compare_models(
    models: Mapping[str, Denoiser],
    pair: Pair,
    sigma_n: float = 0.0,
    tau: float | str = AS_TRAINED,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """What a blur and each model make of the first noisy image: title -> 1 x 3 x S x S.

    Gaussian noise of `sigma_n` grey levels, drawn from `seed`, is added first. The blur is the one that
    brings first noisy images nearest to second ones. `tau` is the sharpening factor, see `sharpened`.
    """
    image = torch.from_numpy(pair.noisy_1.copy())[None].float()
    (noisy,) = augment.add_noise((image,), sigma_n, False, torch.Generator().manual_seed(seed))
    noisy = noisy.numpy()
    columns = {"noisy": noisy, "Gaussian blur": baselines.blur(noisy, _blur())}
    return columns | {name: sharpened(model, tau).predict(noisy) for name, model in models.items()}


@cache
def _blur() -> float:
    pairs, _ = small_pairs()
    return baselines.choose(*baselines.METHODS["Gaussian blur"], pairs)


@cache
def small_pairs() -> tuple[PairSet, torch.Tensor]:
    """A small pair set of the bundled photographs in memory, and the blocks behind its training pairs.

    It has `SQUARES` random squares of each training and each validation photograph. The blocks are uint8
    N x block * block x 3 x S x S.
    """
    found, splits = _bundled(), []
    for chosen in (found.training, found.validation):
        pixels = [one.read() for one in chosen]
        splits.append(
            [make_pair(square(one, number), number) for number in range(1, SQUARES + 1) for one in pixels]
        )
    train, validation = (
        {name: torch.from_numpy(np.stack([getattr(pair, name) for pair in pairs])) for name in VERSIONS}
        for pairs in splits
    )
    blocks = torch.from_numpy(np.stack([pair.blocks.transpose(2, 3, 0, 1) for pair in splits[0]]))
    return PairSet(Path(), {}, train, validation, {}), blocks


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
        level.register_forward_hook(lambda _, __, output, name=name: found.update({name: output[0].numpy()}))
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
    for name, about in runs.RunParams.model_fields.items():
        values = [False, True] if about.annotation is bool else list(get_args(about.annotation))
        found[name] = NUMBERS.get(name, values)
    return {name: values for name, values in found.items() if name not in FIXED}


def train_one(seconds: float = 20.0, **changes: Any) -> Iterator[Progress]:
    """Train a small network for some seconds or `epochs` passes over `small_pairs`, whichever ends first.

    `changes` are parameters of a run (see `RunParams`) that replace those of `START`. Yields the progress
    before the first step, at most once a second, and at the end. Uses one thread, as the processes of a
    sweep do: on several, such small steps take longer. Raises `UserError` for a parameter that does not
    exist or a value that is not allowed.
    """
    try:
        run = runs.RunParams(**(START.model_dump() | changes))
    except ValidationError as error:
        problems = (f"{one['loc'][0]} = {one['input']!r}: {one['msg']}" for one in error.errors())
        raise UserError(f"{'; '.join(problems)}; parameters: {', '.join(choices())}") from None
    torch.set_num_threads(1)
    pairs, blocks = small_pairs()
    noisy, clean = pairs.validation["noisy_1"], pairs.validation["clean"].numpy()
    state = loop.begin(run, torch.device("cpu"))
    inputs, targets = pairs.train["noisy_1"], pairs.target(run.target)
    step = loop.Step(run, state, inputs, targets, blocks if run.resample else None)
    changed = [f"{name} {value}" for name, value in changes.items() if value != getattr(START, name)]
    history: list[dict[str, float]] = []
    started, told, loss = time.monotonic(), -math.inf, math.nan
    while True:
        now, epoch = time.monotonic() - started, len(state.history)
        measured = errors(state.evaluation_network, noisy, clean)
        row = {"images": epoch * step.items, "seconds": now, "train_loss": loss}
        row |= {"psnr_full": psnr_full(measured["mse"]), "report_full": psnr_full(measured["mse_report"])}
        history.append(row)
        done = now >= seconds or epoch == run.epochs or state.diverged
        if done or now - told >= 1:
            told, denoiser = now, Denoiser(state.evaluation_network)
            example = {"noisy": noisy[:1].numpy(), "output": denoiser.predict(noisy[:1].numpy())}
            yield Progress(
                ", ".join(changed) or "unchanged",
                pd.DataFrame(history),
                psnr_full(mse_per_image(noisy.numpy(), clean)),
                example | {"clean": clean[:1]},
                denoiser,
            )
        if done:
            return
        loss = loop.train_epoch(step)
        state.history.append({"train_loss": loss})


def training_figures(training: Iterable[Progress], earlier: dict[str, pd.DataFrame]) -> Iterator[Figure]:
    """A figure for each step of a training, over the curves of `earlier` ones, which it joins at its end."""
    for progress in training:
        yield training_figure(progress, earlier)
    earlier[progress.label] = progress.history


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
            model = folder / runs.MODEL
            found[f"{folder.parent.name}: {about['run']}"] = Record(
                about["parameters"],
                read_json(folder / "metrics.json")["psnr_full"],
                pd.read_csv(folder / "history.csv").dropna(subset="psnr_full"),
                model if model.is_file() else None,
            )
    return found


def _committed(params: Params) -> dict[str, Record]:
    keys = [*paper_runs.ABLATION, "seed"]
    table, nothing = tables.load("03_ablation/table1_ablation", params), pd.DataFrame()
    progress = params.reports / "03_ablation" / "progress.csv"
    curves = dict(list(pd.read_csv(progress).groupby(keys))) if progress.is_file() else {}
    planned = {tuple(one.row[key] for key in keys): one.run for one in paper_runs.ablation_runs(params)}
    found = {}
    for row in table.to_dict("records"):
        setting = tuple(row[key] for key in keys)
        if setting in planned:
            curve, parameters = curves.get(setting, nothing), planned[setting].model_dump(mode="json")
            name = f"Table I: {wording.setting(row)}, seed {row['seed']}"
            found[name] = Record(parameters, row["psnr_full"], curve, None)
    for name, file in COMMITTED.items():
        path = params.reports / f"{file}.safetensors"
        if path.is_file():
            about = read_json(path.with_suffix(".json"))
            record = Record(about["parameters"], about["metrics"]["psnr_full"], nothing, path)
            found[f"{name} model: {about['run']}"] = record
    return found


def compare_runs(first: Record, second: Record) -> Comparison:
    """What differs between two runs, and what is there to look at."""
    both, rows = {"first": first, "second": second}, []
    for name in first.parameters | second.parameters:
        values = [one.parameters.get(name, "–") for one in both.values()]
        if values[0] != values[1]:
            rows.append([name, *map(str, values)])
    titles = {f"{name} run, {one.psnr_full:.2f} dB at its end": one.curve for name, one in both.items()}
    return Comparison(
        pd.DataFrame(rows, columns=["Parameter", "First", "Second"]),
        {title: curve for title, curve in titles.items() if len(curve)},
        {f"{name} run": Denoiser.load(one.model) for name, one in both.items() if one.model},
    )


def views(comparison: Comparison, pair: Pair) -> list[object]:
    """A comparison to look at: what differs, the curves, and what the two networks make of a noisy image."""
    pictures = [models_figure(comparison.models, pair)] if comparison.models else []
    table = tables.show(comparison.differences).set_table_attributes('cellpadding="5"')
    return [table, curves(comparison.curves), *pictures]


def models_figure(models: Mapping[str, Denoiser], pair: Pair, **options: Any) -> Figure:
    """The results of `compare_models` with their PSNR, above maps of their errors."""
    clean = pair.clean[None]
    return figures.image_grid(compare_models(models, pair, **options) | {"clean": clean}, clean, errors=True)


def curves(known: Mapping[str, pd.DataFrame], noisy: float | None = None) -> Figure:
    """PSNR (dB) against the images seen: a line for each name; `noisy` is that of the noisy input."""
    if not known:
        return figures.nothing("There is no curve of these runs: PSNR was measured at their end only.")
    figure, axis = plt.subplots(figsize=(figures.PAGE, 2.4))
    _draw_curves(axis, known, noisy)
    said = "; ".join(f"{name}: {curve['psnr_full'].iloc[-1]:.2f} dB" for name, curve in known.items())
    return figures.described(figure, f"PSNR against the images seen. At the end: {said}.")


def _draw_curves(axis: Axes, known: Mapping[str, pd.DataFrame], noisy: float | None) -> None:
    frame = pd.concat([curve.assign(run=name) for name, curve in known.items()])
    palette = dict(zip(known, cycle(training_plots.PALETTE), strict=False))
    sns.lineplot(frame, x="images", y="psnr_full", hue="run", palette=palette, marker="o", ax=axis)
    if noisy is not None:
        axis.axhline(noisy, color=figures.GREY, ls="--", lw=0.9, label=f"noisy input: {noisy:.2f} dB")
    axis.set(xlabel="images seen", ylabel="validation PSNR (dB, global)")
    axis.legend(loc="lower right")


def training_figure(progress: Progress, earlier: Mapping[str, pd.DataFrame]) -> Figure:
    """The curve of a live training with those of earlier ones, and what its network makes of an image."""
    curve, example = progress.history, progress.example
    figure, axes = plt.subplot_mosaic(
        [["curve", *example]], figsize=(figures.PAGE, 1.9), width_ratios=[3, 1, 1, 1]
    )
    _draw_curves(axes["curve"], {**earlier, progress.label: curve}, progress.noisy)
    for name, images in example.items():
        value = psnr(mse_per_image(images, example["clean"]))[0]
        below = f"{value:.2f} dB" if np.isfinite(value) else ""
        figures.show(axes[name], figures.to_picture(images[0]), name, below)
    images, end = curve["images"].iloc[-1], curve["psnr_full"].iloc[-1]
    return figures.described(
        figure,
        f"Validation PSNR of a network in training ({progress.label}): {end:.2f} dB after {images:,} images, "
        f"{progress.noisy:.2f} dB without it. Beside it an example: noisy, output, clean.",
    )


def filter_figure(denoiser: Denoiser) -> Figure:
    """The filters of the first layer, in rows."""
    tiles = [figures.to_picture(one) / 255 for one in filters(denoiser)]
    rows = {
        f"{start + 1} to {min(start + SHOWN, len(tiles))}": tiles[start : start + SHOWN]
        for start in range(0, len(tiles), SHOWN)
    }
    return _strips(
        rows, f"The {len(tiles)} filters of the first layer, 3 × 3 weights of three channels each."
    )


def feature_figure(denoiser: Denoiser, image: np.ndarray) -> Figure:
    """The feature maps of each level that vary most, each on a scale of its own."""
    rows, color = {}, plt.get_cmap("cividis")
    for name, maps in features(denoiser, image).items():
        chosen = np.sort(np.argsort(-maps.std(axis=(1, 2)))[:SHOWN])
        low, high = (end(maps[chosen], axis=(1, 2), keepdims=True) for end in (np.min, np.max))
        scaled = (maps[chosen] - low) / np.maximum(high - low, 1e-9)
        rows[f"{name}\n{maps.shape[1]} × {maps.shape[2]}"] = [*color(scaled)[..., :3]]
    said = ", ".join(name.replace("\n", ": ") for name in rows)
    return _strips(rows, f"Feature maps of each level of the network, dark for low values: {said} pixels.")


def _strips(rows: Mapping[str, list[np.ndarray]], alt: str) -> Figure:
    """Rows of square pictures (floats in [0, 1]), all drawn in one size."""
    side = figures.PAGE / (SHOWN + 1)
    figure, axes = plt.subplots(len(rows), 1, figsize=(figures.PAGE, side * len(rows)), squeeze=False)
    for axis, (name, tiles) in zip(axes[:, 0], rows.items(), strict=True):
        times = 96 // len(tiles[0])
        row = [np.ones_like(tiles[0])] * SHOWN
        row[: len(tiles)] = tiles
        enlarged = [np.kron(tile, np.ones((times, times, 1))) for tile in row]
        gaps = ((0, 0), (0, 6), (0, 0))
        figures.show(axis, np.hstack([np.pad(tile, gaps, constant_values=1) for tile in enlarged]))
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    return figures.described(figure, alt)


def field_figure(denoiser: Denoiser, image: np.ndarray) -> Figure:
    """An image with its centre marked, and which of its pixels move the output there (`receptive_field`)."""
    gradient = receptive_field(denoiser, image)
    height, width = gradient.shape
    rows, columns = np.indices(gradient.shape)
    distance = np.hypot(rows - height // 2, columns - width // 2)
    order = np.argsort(distance, axis=None)
    share = np.cumsum(gradient.flat[order]) / gradient.sum()
    reach = distance.flat[order][np.searchsorted(share, 0.9)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(figures.PAGE / 1.5, 2.3))
    figures.show(left, figures.to_picture(image), "the output pixel in the centre ...")
    left.plot(width // 2, height // 2, marker="+", ms=9, color="white")
    shown = right.imshow(gradient, norm=LogNorm(gradient.max() / 1e5, gradient.max(), clip=True))
    right.set(xticks=[], yticks=[])
    right.set_title("... depends on these pixels", fontsize=7, pad=3)
    right.set_xlabel(f"90 % of the gradient within {reach:.0f} pixels", fontsize=7, labelpad=1.5)
    figure.colorbar(shown, ax=right, label="gradient")
    return figures.described(
        figure,
        f"The gradient of the centre of the output by each input pixel, on a logarithmic scale: 90 % of "
        f"it lie within {reach:.0f} pixels of the centre.",
    )
