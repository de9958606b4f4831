"""Figures at their printed size in one style (n2n.mplstyle): saving, pictures of images, their noise.

Each function here and in `plots`, `training_plots` and `diagrams` that draws a figure returns it with a label
(`figure.get_label()`) that describes it for readers who cannot see it. `save_figure` writes it and returns
the picture to display, with that description as its alternative text: a cell of a notebook ends with
`figures.save_figure(figure, ...)`, and nbconvert writes the alternative text into the page.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import seaborn as sns
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from n2nlib.denoiser import Denoiser
from n2nlib.experiments import results
from n2nlib.experiments.effects import NORMAL_REACH
from n2nlib.experiments.results import Experiment
from n2nlib.files import replacing
from n2nlib.metrics import mse_per_image, psnr
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.report import tables, wording
from n2nlib.train.identity import RunParams

COLUMN, PAGE = 3.35, 6.9  # inches: one column of our paper, and both
BLUE, ORANGE, GREEN, PINK, YELLOW = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
GREY, PALE = "0.45", "0.93"
LARGEST_ERROR = 64  # grey levels: the error that has the lightest colour
SPECTRA = {
    "clean image": ("black", ""),
    "noisy input": (GREY, (1, 1)),
    "output": (BLUE, ""),
    "sharpened output": (ORANGE, ""),
    "error of the output": (BLUE, (3, 1.5)),
    "error of the sharpened output": (ORANGE, (3, 1.5)),
}  # colour and dashes

plt.style.use("n2nlib.report.n2n")


def save_figure(figure: Figure, name: str, params: Params, runs: Sequence[str]) -> Image:
    """Write reports/<scale>/<name>.svg and .png, record what made them, close the figure.

    `name` is "<notebook>/<figure>". The same figure gives the same bytes. Returns the PNG, displayed at its
    printed size, with the figure's description as alternative text. Raises ValueError if the figure has no
    description.
    """
    alt = figure.get_label()
    if not alt:
        raise ValueError(f"{name}: the figure has no description (see `described`)")
    path = params.reports / name
    svg, png = path.with_suffix(".svg"), path.with_suffix(".png")
    with replacing(svg) as temporary:
        metadata = {"Date": None, "Creator": "n2n", "Description": alt}
        figure.savefig(temporary, format="svg", metadata=metadata)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pixels = PIL.Image.open(buffer).convert("RGB")
    if not any(axes.images for axes in figure.axes):  # 256 colours suffice, and take a third of the bytes
        pixels = pixels.quantize(256, dither=PIL.Image.Dither.NONE)
    with replacing(png) as temporary:
        pixels.save(temporary, format="png", optimize=True)
    for written in (svg, png):
        tables.record(written, params, runs)
    plt.close(figure)
    width = round(96 * figure.get_figwidth())  # CSS has 96 pixels in an inch
    return Image(png.read_bytes(), width=width, alt=alt)


def described(figure: Figure, alt: str) -> Figure:
    """`figure`, with `alt` as what it shows in words."""
    figure.set_label(alt)
    return figure


def nothing(why: str) -> Figure:
    """A figure that says in a sentence why there is nothing to draw."""
    figure = plt.figure(figsize=(COLUMN, 0.35))
    figure.text(0.5, 0.5, why, ha="center", va="center", color=GREY)
    return described(figure, why)


def to_picture(image: np.ndarray) -> np.ndarray:
    """3 x H x W in [0, 255], any dtype -> uint8 H x W x 3."""
    return np.clip(np.rint(np.asarray(image, np.float64)), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def error_map(image: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Absolute error in grey levels, mean over channels: two 3 x H x W images -> float H x W."""
    return np.abs(np.asarray(image, np.float64) - np.asarray(clean, np.float64)).mean(0)


def psnr_texts(images: np.ndarray, clean: np.ndarray) -> list[str]:
    """The PSNR of each image against the clean one as text; "" for equal images."""
    values = psnr(mse_per_image(np.asarray(images), np.asarray(clean)))
    return [f"{value:.2f} dB" if np.isfinite(value) else "" for value in values]


def show_picture(
    axis: Axes, picture: np.ndarray, title: str = "", below: str = "", reach: float | None = None
) -> None:
    """A picture without ticks or frame, `title` above it and `below` under it.

    The picture is H x W x 3, or H x W with values from 0 to `reach`, which are drawn in colours.
    """
    axis.imshow(picture, vmin=0, vmax=reach)
    axis.set(xticks=[], yticks=[], title=title)
    axis.set_xlabel(below, labelpad=1.5)
    axis.spines[:].set_visible(False)


def image_grid(
    columns: Mapping[str, np.ndarray],
    clean: np.ndarray | None = None,
    width: float = PAGE,
    errors: bool = False,
) -> Figure:
    """One column of pictures for each title (N x 3 x H x W), under each its PSNR (dB) against `clean`.

    Long lines of titles are wrapped. With `errors`, a row of error maps of the first image follows; the last
    column, which holds the clean images, ends in their scale.
    """
    count, side = len(next(iter(columns.values()))), width / len(columns)
    titles = [
        "\n".join(textwrap.fill(line, int(18 * side)) for line in title.split("\n")) for title in columns
    ]
    lines = 1 + max(title.count("\n") for title in titles)
    height = (count + errors) * side + 0.14 * count * (clean is not None) + 0.125 * lines
    figure, axes = plt.subplots(count + errors, len(columns), figsize=(width, height), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.01, wspace=0, hspace=0)
    said = []
    for column, title, (name, images) in zip(axes.T, titles, columns.items(), strict=True):
        values = [""] * count if clean is None else psnr_texts(images, clean)
        for axis, image, value in zip(column, images, values, strict=False):
            show_picture(axis, to_picture(image), below=value)
        column[0].set_title(title, linespacing=1)
        if errors:
            show_picture(column[-1], error_map(images[0], clean[0]), reach=LARGEST_ERROR)
        said.append(" ".join([name.replace("\n", " "), *filter(None, values)]))
    if errors:
        axes[-1, 0].set_ylabel("error", labelpad=2)
        last = axes[-1, -1]
        last.axis("off")
        scale = last.inset_axes((0.08, 0.05, 0.14, 0.9))
        figure.colorbar(last.images[0], scale, ticks=[0, LARGEST_ERROR]).set_label("grey levels", labelpad=1)
        last.images[0].set_visible(False)
    return described(figure, f"{count} examples side by side: {'; '.join(said)}.")


def examples(shown: Mapping[str, Denoiser], pairs: PairSet, width: float = PAGE) -> Figure:
    """Two noisy images, blurred, as each of `shown` denoises them, and clean; then the first one's errors.

    Keys of `shown` are titles, see `titled`. Fig. 1 shows networks of Table I, notebook 07 the final and the
    best model.
    """
    pictures, clean = results.pictures(shown, pairs, 2)
    return image_grid({**pictures, "clean": clean}, clean, width, errors=True)


def titled(name: str, run: RunParams, flips: bool = False) -> str:
    """A title of `examples`: the name of a model, and under it the setting of its run in words."""
    setting = run.model_dump() | {"sharpen": run.tau_sharp > 0}
    return f"{name}\n{wording.setting(setting)}{', four flips' if flips else ''}"


def table1_networks(ablation: Experiment) -> dict[str, Denoiser]:
    """What Fig. 1 shows of Table I, by title: `results.examples`."""
    return {
        titled(name, ablation.planned[row].run): Denoiser.load(ablation.finished[row].model)
        for name, row in results.examples(ablation.table).items()
    }


def sharpening(output: np.ndarray, sharpened: np.ndarray, clean: np.ndarray, spectra: pd.DataFrame) -> Figure:
    """What sharpening at prediction does to an output of a network that was trained without.

    It shows two images (3 x S x S in [0, 255]) with their PSNR, their difference around mid-grey, and the
    `spectra` of `experiments.sharpening`: frequency (cycles per pixel), power (squared grey levels), which.
    """
    figure, axes = plt.subplots(1, 4, figsize=(PAGE, 1.5), width_ratios=[1, 1, 1, 1.7])
    difference = np.asarray(sharpened, np.float64) - np.asarray(output, np.float64)
    before, after = psnr_texts(np.stack([output, sharpened]), np.stack([clean, clean]))
    show_picture(axes[0], to_picture(output), "output", before)
    show_picture(axes[1], to_picture(sharpened), "sharpened output", after)
    show_picture(axes[2], to_picture(128 + difference), "difference", "grey: unchanged")
    palette, dashes = ({name: style[part] for name, style in SPECTRA.items()} for part in (0, 1))
    style = {"hue": "which", "palette": palette, "style": "which", "dashes": dashes, "errorbar": None}
    sns.lineplot(spectra, x="frequency", y="power", **style, ax=axes[3])
    axes[3].set(xlabel="frequency (cycles per pixel)", ylabel="power (grey levels²)")
    axes[3].set(yscale="log", xlim=(0, 0.5))
    axes[3].legend(title=None, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return described(
        figure,
        f"An output before ({before}) and after sharpening ({after}), their difference, and power by spatial "
        f"frequency of: {', '.join(dict.fromkeys(spectra['which']))}.",
    )


def noise_distribution(noisy: np.ndarray, clean: np.ndarray) -> Figure:
    """Histogram of noisy - clean (uint8 N x 3 x S x S) and a normal distribution of the same spread."""
    error = (np.asarray(noisy).astype(np.int64) - np.asarray(clean)).ravel()
    sigma, kurtosis, x = error.std(), stats.kurtosis(error), np.linspace(-150, 150, 301)
    figure, axis = plt.subplots(figsize=(COLUMN, 1.9))
    bins = {"binrange": (-256.5, 256.5), "binwidth": 3, "stat": "density", "element": "step"}
    sns.histplot(x=error, **bins, color=BLUE, alpha=0.4, lw=0.8, label="noise", ax=axis)
    normal = stats.norm.pdf(x, scale=sigma)
    sns.lineplot(x=x, y=normal, color="black", label=f"normal, σ = {sigma:.1f}", ax=axis)
    axis.set(xlabel="noisy − clean (grey levels)", ylabel="density (per grey level)")
    axis.set(yscale="log", xlim=(-150, 150), ylim=(1e-6, 0.2))
    axis.legend(loc="upper right")
    return described(
        figure,
        f"Histogram of the noise on a logarithmic axis, with a normal distribution of the same standard "
        f"deviation, {sigma:.1f} grey levels. The excess kurtosis of the noise is {kurtosis:.1f}.",
    )


def noise_structure(by_level: pd.DataFrame, by_contrast: pd.DataFrame) -> Figure:
    """Centre of the noise by grey level, and its spread by local contrast.

    `by_level` has the columns level, mean, error (standard error of the mean) and median, `by_contrast`
    contrast and std; all in grey levels.
    """
    if by_level.empty:
        return nothing("There are too few images to show the noise at each grey level.")
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 1.9))
    left.axhline(0, color=GREY, lw=0.8)
    reach = NORMAL_REACH * by_level["error"]
    low, high = by_level["mean"] - reach, by_level["mean"] + reach
    left.fill_between(by_level["level"], low, high, color=BLUE, alpha=0.2, lw=0, label="95 % band")
    centres = by_level.melt("level", ["mean", "median"])
    style = {"hue": "variable", "palette": [BLUE, YELLOW], "style": "variable", "markers": ["o", "s"]}
    sns.lineplot(centres, x="level", y="value", **style, ax=left)
    left.set(xlabel="clean pixel (grey levels)", ylabel="noise (grey levels)", xlim=(0, 255))
    left.legend(title=None)
    sns.lineplot(by_contrast, x="contrast", y="std", marker="o", color=BLUE, ax=right)
    right.set(xlabel="local contrast of the clean image (grey levels)", ylim=(0, None))
    right.set_ylabel("standard deviation of\nthe noise (grey levels)")
    return described(
        figure,
        f"Left: the mean and the median of the noise at each grey level; the mean is at most "
        f"{by_level['mean'].abs().max():.2f} grey levels from zero. Right: its standard deviation by local "
        f"contrast, from {by_contrast['std'].min():.1f} to {by_contrast['std'].max():.1f} grey levels.",
    )
