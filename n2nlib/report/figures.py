"""Figures at their printed size in one style (n2n.mplstyle): saving, what all figures share, pictures, noise.

Each function of this module, of `plots`, `training_plots` and `diagrams` returns a figure whose label
(`figure.get_label()`) describes it for readers who cannot see it. `save` writes the figure and returns the
picture to display, with that description as its alternative text: a cell of a notebook ends with
`figures.save(figure, ...)`, and nbconvert writes the alternative text into the page.

seaborn draws every statistical figure from tidy frames. Its functions compute intervals themselves; where an
interval is known, `known` turns it into three rows, whose median and range they draw.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from n2nlib.experiments.effects import MARGIN
from n2nlib.files import replacing
from n2nlib.metrics import mse_per_image, psnr
from n2nlib.params import Params
from n2nlib.report import tables
from n2nlib.report.wording import EVALUATED, REPORT, TRAINED

if TYPE_CHECKING:
    from IPython.display import Image

COLUMN, PAGE = 3.35, 6.9  # inches: one column of our paper, and both
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
GREY, PALE = "0.45", "0.93"
SOURCES = {TRAINED: BLUE, EVALUATED: ORANGE, REPORT: "black"}
MARKERS = {TRAINED: "o", EVALUATED: "s", REPORT: "D"}
REACH = 64  # grey levels: the error that has the lightest colour
LINES = ["--", ":", "-.", (0, (1, 3))]
DIFFERENCE = f"difference of PSNR (dB); grey: below {MARGIN} dB"
SPECTRA = {
    "clean image": ("black", ""),
    "noisy input": (GREY, (1, 1)),
    "output": (BLUE, ""),
    "sharpened output": (ORANGE, ""),
    "error of the output": (BLUE, (3, 1.5)),
    "error of the sharpened output": (ORANGE, (3, 1.5)),
}  # colour and dashes
INTERVAL = {"estimator": "median", "errorbar": ("pi", 100)}

plt.style.use("n2nlib.report.n2n")


def save(figure: Figure, name: str, params: Params, runs: Sequence[str]) -> Image:
    """Write reports/<scale>/<name>.svg and .png, record what made them, close the figure.

    `name` is "<notebook>/<figure>". The same figure gives the same bytes. Returns the PNG, displayed at its
    printed size, with the figure's description as alternative text. Raises ValueError if the figure has no
    description.
    """
    from IPython.display import Image

    alt = figure.get_label()
    if not alt:
        raise ValueError(f"{name}: the figure has no description (see `described`)")
    path = params.reports / name
    kinds = {"svg": {"Date": None, "Creator": "n2n", "Description": alt}, "png": {"Software": "n2n"}}
    for kind, metadata in kinds.items():
        with replacing(path.with_suffix(f".{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        tables.record(path.with_suffix(f".{kind}"), params, runs)
    plt.close(figure)
    width = round(96 * figure.get_figwidth())  # CSS has 96 pixels in an inch
    return Image(path.with_suffix(".png").read_bytes(), width=width, alt=alt)


def described(figure: Figure, alt: str) -> Figure:
    """`figure`, with `alt` as what it shows in words."""
    figure.set_label(alt)
    return figure


def nothing(why: str) -> Figure:
    """A figure that says in a sentence why there is nothing to draw."""
    figure = plt.figure(figsize=(COLUMN, 0.35))
    figure.text(0.5, 0.5, why, ha="center", va="center", color=GREY)
    return described(figure, why)


def known(frame: pd.DataFrame, estimate: str = "estimate") -> pd.DataFrame:
    """Three rows for each (estimate, low, high). A missing bound gives no interval."""
    bounds = [frame[estimate], *(frame[side].fillna(frame[estimate]) for side in ("low", "high"))]
    return pd.concat([frame.assign(**{estimate: bound}) for bound in bounds], ignore_index=True)


def points(axis: Axes, frame: pd.DataFrame, order: Sequence[str] | None = None, **options: object) -> None:
    """`sns.pointplot` of known intervals in the marks of all figures.

    Marks are hollow if `frame` has a column basis that says that the interval is not over seeds.
    """
    marks = {"linestyle": "none", "markersize": 3.5, "markeredgewidth": 0.5, "err_kws": {"linewidth": 1.1}}
    hollow = ~over_seeds(frame)
    for rows, face in (
        (frame[~hollow], {}),
        (frame[hollow], {"markerfacecolor": "white", "markeredgewidth": 1}),
    ):
        if len(rows):
            style = INTERVAL | marks | {"legend": False} | options | face
            sns.pointplot(known(rows), order=order, ax=axis, **style)


def over_seeds(frame: pd.DataFrame) -> pd.Series:
    """Which rows have an interval over seeds; all of them if `frame` does not say (column basis)."""
    return frame["basis"] == "seeds" if "basis" in frame else pd.Series(True, frame.index)


def fit(axis: Axes, frame: pd.DataFrame, along: str = "x") -> None:
    """Limits of axis `along` that show zero and every estimate; longer intervals end in an arrowhead."""
    rows = frame.dropna(subset="estimate")
    low, high = min([0.0, *rows["estimate"]]), max([0.0, *rows["estimate"]])
    room = high - low + 1
    low = max(low - room, min([low - MARGIN, *rows["low"].dropna()]))
    high = min(high + room, max([high + MARGIN, *rows["high"].dropna()]))
    space = 0.05 * (high - low)
    axis.set(**{f"{along}lim": (low - space, high + space)})
    for line in [line for line in axis.lines if len(line.get_xdata()) == 2]:
        ends, across = (np.asarray(line.get_data()[number], float) for number in (along == "y", along == "x"))
        for beyond, edge, marker in ((ends.min() < low, low, "<v"), (ends.max() > high, high, ">^")):
            if beyond:
                place = (edge, across[0]) if along == "x" else (across[0], edge)
                style = {"marker": marker[along == "y"], "color": line.get_color(), "ms": 3.5}
                axis.plot(*place, **style, scalex=False, scaley=False)


def band(axis: Axes, along: str = "x") -> None:
    """Zero, and around it the margin below which an effect counts as none."""
    span, line = (axis.axvspan, axis.axvline) if along == "x" else (axis.axhspan, axis.axhline)
    span(-MARGIN, MARGIN, color=PALE, lw=0, zorder=0)
    line(0, color=GREY, lw=0.8, zorder=0.5)


def handles(colors: Mapping[str, str], markers: Mapping[str, str] | None = None) -> list[Line2D]:
    """Entries of a legend: a mark for each name, or a line if there are no `markers`."""
    styles = {name: {"marker": markers[name], "ls": "none"} if markers else {} for name in colors}
    return [Line2D([], [], color=colors[name], label=name, ms=3.5, **styles[name]) for name in colors]


def hollow(frame: pd.DataFrame) -> list[Line2D]:
    """The entry of a legend for hollow marks, if `points` draws any for `frame`."""
    style = {"marker": "o", "ls": "none", "ms": 3.5, "color": GREY, "mfc": "white"}
    return [] if over_seeds(frame).all() else [Line2D([], [], **style, label="fewer than three seeds")]


def levels(references: Mapping[str, float], decimals: bool = False) -> list[Line2D]:
    """Entries of a legend for the lines of `references` (name -> dB), with their values if `decimals`."""
    return [
        Line2D([], [], color=GREY, ls=style, lw=0.9, label=f"{name}: {value:.2f} dB" if decimals else name)
        for (name, value), style in zip(references.items(), LINES, strict=False)
    ]


def to_picture(image: np.ndarray) -> np.ndarray:
    """3 x H x W in [0, 255], any dtype -> uint8 H x W x 3."""
    return np.clip(np.rint(np.asarray(image, np.float64)), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def error_map(image: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Absolute error, mean over channels, of two 3 x H x W images -> uint8 H x W x 3, dark for none.

    Errors of `REACH` grey levels and more have the lightest colour.
    """
    error = np.abs(np.asarray(image, np.float64) - np.asarray(clean, np.float64)).mean(0)
    return (255 * plt.get_cmap("cividis")(np.minimum(error / REACH, 1))[..., :3]).round().astype(np.uint8)


def show(axis: Axes, picture: np.ndarray, title: str = "", below: str = "") -> None:
    """A picture (H x W x 3) without ticks or frame, `title` above it and `below` under it."""
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=7, pad=3, linespacing=1.05)
    axis.set_xlabel(below, fontsize=7, labelpad=1.5)


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
    letters = int(19 * side)
    titles = {
        title: "\n".join(line for part in title.split("\n") for line in textwrap.wrap(part, letters))
        for title in columns
    }
    lines = 1 + max(title.count("\n") for title in titles.values())
    rows = count + errors
    height = rows * side + 0.13 * count * (clean is not None) + 0.11 * lines
    figure, axes = plt.subplots(rows, len(columns), figsize=(width, height), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.01, wspace=0, hspace=0)
    said = []
    for column, (title, images) in zip(axes.T, columns.items(), strict=True):
        values = psnr(mse_per_image(np.asarray(images), np.asarray(clean))) if clean is not None else []
        words = [f"{value:.2f} dB" if np.isfinite(value) else "" for value in values] or [""] * count
        for row in range(count):
            show(column[row], to_picture(images[row]), titles[title] if row == 0 else "", words[row])
        if errors:
            show(column[-1], error_map(images[0], clean[0]))
        said.append(" ".join([title.replace("\n", " "), *filter(None, words)]))
    if errors:
        axes[-1, 0].set_ylabel("error", fontsize=7, labelpad=2)
        axes[-1, -1].clear()
        axes[-1, -1].axis("off")
        scale = axes[-1, -1].inset_axes((0.08, 0.05, 0.14, 0.9))
        bar = figure.colorbar(plt.cm.ScalarMappable(Normalize(0, REACH), "cividis"), scale, ticks=[0, REACH])
        bar.set_label("error (grey levels)", fontsize=7, labelpad=1)
        bar.ax.tick_params(labelsize=7, length=2)
    return described(figure, f"{count} examples side by side: " + "; ".join(said) + ".")


def examples(pictures: Mapping[str, np.ndarray], clean: np.ndarray) -> Figure:
    """Fig. 1: `pictures` (title -> N x 3 x S x S: noisy, blur, candidates, final, best), then the clean ones.

    A line break in a title separates the name of a model from its setting. The last row shows the error of
    the first image.
    """
    return image_grid({**pictures, "clean": clean}, clean, errors=True)


def sharpening(output: np.ndarray, sharpened: np.ndarray, clean: np.ndarray, spectra: pd.DataFrame) -> Figure:
    """What sharpening at prediction does to an output of a network that was trained without.

    It shows two images (3 x S x S in [0, 255]) with their PSNR, their difference around mid-grey, and the
    `spectra` of `experiments.sharpening`: frequency (cycles per pixel), power (squared grey levels), which.
    """
    figure, axes = plt.subplots(1, 4, figsize=(PAGE, 1.45), width_ratios=[1, 1, 1, 1.9])
    difference = np.asarray(sharpened, np.float64) - np.asarray(output, np.float64)
    before, after = psnr(mse_per_image(np.stack([output, sharpened]), np.stack([clean, clean])))
    show(axes[0], to_picture(output), "output", f"{before:.2f} dB")
    show(axes[1], to_picture(sharpened), "sharpened output", f"{after:.2f} dB")
    show(axes[2], to_picture(128 + difference), "difference", "grey: none")
    present = {name: SPECTRA[name] for name in dict.fromkeys(spectra["which"])}
    style = {"palette": {name: color for name, (color, _) in present.items()}, "errorbar": None}
    style |= {"dashes": {name: dashes for name, (_, dashes) in present.items()}}
    sns.lineplot(spectra, x="frequency", y="power", hue="which", style="which", **style, ax=axes[3])
    axes[3].set(
        xlabel="frequency (cycles per pixel)", ylabel="power (grey levels²)", yscale="log", xlim=(0, 0.5)
    )
    axes[3].legend(title=None, handlelength=1.6, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    return described(
        figure,
        f"An output before ({before:.2f} dB) and after sharpening ({after:.2f} dB), their difference, and "
        f"power by spatial frequency of: {', '.join(present)}.",
    )


def noise_distribution(noisy: np.ndarray, clean: np.ndarray) -> Figure:
    """Histogram of noisy - clean (uint8 N x 3 x S x S) and a normal distribution of the same spread."""
    error = np.asarray(noisy).astype(np.int64) - np.asarray(clean)
    sigma, x = error.std(), np.linspace(-150, 150, 301)
    kurtosis = ((error - error.mean()) ** 4).mean() / sigma**4 - 3
    figure, axis = plt.subplots(figsize=(COLUMN, 1.9))
    counts, edges = np.histogram(error, np.arange(-150.5, 151.5, 3), density=True)
    bars = pd.DataFrame({"error": edges[:-1] + 1.5, "density": counts})
    sns.histplot(
        bars,
        x="error",
        weights="density",
        bins=edges.tolist(),
        element="step",
        color=BLUE,
        alpha=0.4,
        lw=0.8,
        label="noise",
        ax=axis,
    )
    normal = np.exp(-((x / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
    sns.lineplot(x=x, y=normal, color="black", label=f"normal, σ = {sigma:.1f}", ax=axis)
    axis.set(xlabel="noisy − clean (grey levels)", ylabel="density", yscale="log", ylim=(1e-6, 0.2))
    axis.legend(loc="upper right", handlelength=1.2)
    return described(
        figure,
        f"Histogram of the noise on a logarithmic axis, with a normal distribution of the same standard "
        f"deviation, {sigma:.1f} grey levels. The excess kurtosis of the noise is {kurtosis:.1f}.",
    )


def noise_structure(by_level: pd.DataFrame, by_contrast: pd.DataFrame) -> Figure:
    """Centre of the noise by grey level, and its spread by local contrast.

    `by_level` has the columns level, mean, error (standard error of the mean) and median, if it is known,
    `by_contrast` contrast and std; all in grey levels.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 1.9))
    reach = 1.96 * by_level["error"]
    bounds = by_level.assign(low=by_level["mean"] - reach, high=by_level["mean"] + reach)
    left.axhline(0, color="0.6", lw=0.8)
    sns.lineplot(
        known(bounds, "mean"),
        x="level",
        y="mean",
        **INTERVAL,
        marker="o",
        color=BLUE,
        label="mean, 95 % band",
        ax=left,
    )
    if "median" in by_level:
        style = {"marker": "s", "ls": "--", "color": YELLOW, "label": "median"}
        sns.lineplot(by_level, x="level", y="median", **style, ax=left)
    left.set(xlabel="clean pixel (grey levels)", ylabel="noise (grey levels)", xlim=(0, 255))
    left.legend(handlelength=1.5)
    sns.lineplot(by_contrast, x="contrast", y="std", marker="o", color=BLUE, ax=right)
    right.set(
        xlabel="local contrast of the clean image (grey levels)",
        ylim=(0, None),
        ylabel="standard deviation of\nthe noise (grey levels)",
    )
    return described(
        figure,
        f"Left: the mean and the median of the noise at each grey level; the mean is at most "
        f"{by_level['mean'].abs().max():.2f} grey levels from zero. Right: its standard deviation by local "
        f"contrast, from {by_contrast['std'].min():.1f} to {by_contrast['std'].max():.1f} grey levels.",
    )
