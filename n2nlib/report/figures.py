"""Frames and images -> figures in the one style (n2n.mplstyle), as SVG for the paper and PNG to look at, provenance beside them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from n2nlib.experiments.effects import PERCENT, REACH, differences, effect
from n2nlib.files import replacing, write_json
from n2nlib.metrics import mse_per_image, psnr
from n2nlib.params import Params
from n2nlib.report import tables, wording

STYLE = str(Path(__file__).with_name("n2n.mplstyle"))


COLUMN, PAGE = 3.35, 6.9  # inches: one column of the paper, both


plt.style.use(STYLE)


def save(figure: Figure, name: str, params: Params, runs: list[str]) -> None:
    """Write reports/<scale>/figures/<name>.svg, .png and .json (provenance). The same figure gives the same bytes."""
    path = params.reports / "figures" / name
    for suffix, metadata in ((".svg", {"Date": None, "Creator": "n2n"}), (".png", {"Software": "n2n"})):
        with replacing(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)
    write_json(path.with_suffix(".json"), {"figure": name} | tables.provenance(params, runs))


def to_picture(image: np.ndarray) -> np.ndarray:
    """3 x H x W in [0, 255], any dtype -> uint8 H x W x 3."""
    return np.clip(np.rint(np.asarray(image, np.float64)), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def image_grid(
    columns: dict[str, np.ndarray], clean: np.ndarray | None = None, width: float = PAGE
) -> Figure:
    """A column of pictures for each title (N x 3 x H x W); with `clean`, the PSNR (dB) of each picture stands under it."""
    count = len(next(iter(columns.values())))
    side = width / len(columns)
    figure, axes = plt.subplots(
        count,
        len(columns),
        figsize=(width, count * (side + (0.14 if clean is not None else 0))),
        squeeze=False,
    )
    for column, (title, images) in enumerate(columns.items()):
        values = psnr(mse_per_image(images, clean)) if clean is not None else None
        for row in range(count):
            axis = axes[row, column]
            axis.imshow(to_picture(images[row]))
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if values is not None and np.isfinite(values[row]):
                axis.set_xlabel(f"{values[row]:.2f} dB", labelpad=1.5, fontsize=7.5)
        axes[0, column].set_title(title, fontsize=7.5)
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015)
    return figure


def noise_distribution(noisy: np.ndarray, clean: np.ndarray) -> Figure:
    """Histogram of noisy - clean (uint8 N x 3 x S x S) beside a normal distribution of the same spread."""
    error = noisy.astype(np.int64) - clean
    figure, axis = plt.subplots(figsize=(COLUMN, 2.1))
    axis.hist(
        error.ravel(), bins=np.arange(-150.5, 151.5, 3), density=True, log=True, color="C0", label="noise"
    )
    sigma, x = error.std(), np.linspace(-150, 150, 301)
    axis.plot(
        x,
        np.exp(-((x / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi)),
        color="C1",
        label=f"normal, σ = {sigma:.1f}",
    )
    axis.set(xlabel="noisy − clean (grey levels)", ylabel="density", ylim=(1e-6, None))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def noise_structure(by_level: pd.DataFrame, by_contrast: pd.DataFrame) -> Figure:
    """The noise's mean by grey level with 95 % intervals, and its spread by local contrast (frames of `noise`)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 2.1))
    left.axhline(0, color="black", linewidth=0.8)
    left.errorbar(
        by_level["level"], by_level["mean"], yerr=REACH * by_level["error"], fmt="o", color="C0"
    )
    left.set(
        xlabel="clean grey level",
        ylabel="mean of the noise (grey levels)",
        title=f"Mean at each grey level, {PERCENT} interval",
    )
    right.plot(by_contrast["contrast"], by_contrast["std"], "o-", color="C0")
    right.set(
        xlabel="local contrast of the clean image (grey levels)",
        ylabel="std of the noise (grey levels)",
        ylim=(0, None),
        title="Spread by local contrast",
    )
    return figure


def curves(
    frame: pd.DataFrame, labels: dict[int, str], lines: dict[str, float], chosen_at: int | None = None
) -> Figure:
    """Fig. 2: PSNR (dB) after each epoch of each candidate with its evaluation spread; `lines` are reference values in dB."""
    figure, axis = plt.subplots(figsize=(COLUMN, 2.5))
    for number, (candidate, curve) in enumerate(frame.groupby("candidate")):
        curve = curve.groupby("epoch", as_index=False)[["psnr_mean", "psnr_std"]].mean()
        axis.fill_between(
            curve["epoch"],
            curve.psnr_mean - curve.psnr_std,
            curve.psnr_mean + curve.psnr_std,
            alpha=0.15,
            color=f"C{number}",
            lw=0,
        )
        axis.plot(
            curve["epoch"],
            curve["psnr_mean"],
            color=f"C{number}",
            label=labels[candidate],
            marker="o" if len(curve) < 30 else None,
            ms=2.5,
        )
    for (name, value), style in zip(lines.items(), ("--", ":", "-."), strict=False):
        axis.axhline(value, color="black", linestyle=style, linewidth=0.9, label=f"{name}: {value:.2f} dB")
    if chosen_at is not None and frame["epoch"].max() > chosen_at:
        axis.axvline(chosen_at, color="0.6", linewidth=0.8)
        axis.annotate(
            "short cycle ends",
            (chosen_at, 0.03),
            (-2, 0),
            ("data", "axes fraction"),
            "offset points",
            rotation=90,
            fontsize=7,
            ha="right",
            color="0.4",
        )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="epoch", ylabel="validation PSNR (dB, global)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=7.5)
    return figure


def ablation_dots(table: pd.DataFrame, published: pd.DataFrame, noisy_db: float) -> Figure:
    """Every run of Table I as a dot over its setting, ours and the published, with its evaluation spread (dB).

    A run far below the others (Tukey's far-out values) would squeeze them together: it is an arrow at the edge with its value beside it.
    """
    keys = ["loss", "optimizer", "sharpen", "crops"]
    settings = list(
        dict.fromkeys(
            tuple(setting) for frame in (published, table) for setting in frame[keys].to_numpy().tolist()
        )
    )
    place = {
        setting: len(settings) - 1 - row for row, setting in enumerate(settings)
    }  # one order for both panels, which share their axis
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.9), sharey=True)
    low, high = table["psnr_mean"].quantile([0.25, 0.75])
    fence = low - 3 * (high - low)
    edge = (
        min(noisy_db, table.loc[table["psnr_mean"] >= fence, "psnr_mean"].min()) - 1
    )  # room for those values
    for axis, frame, title in ((axes[0], table, "ours"), (axes[1], published, "published")):
        for number, (arch, group) in enumerate(frame.groupby("arch")):
            heights = np.array(
                [
                    place[tuple(setting)] + (0.15 if number else -0.15)
                    for setting in group[keys].to_numpy().tolist()
                ]
            )
            far = (group["psnr_mean"] < fence).to_numpy() & (frame is table)
            shown = group[~far]
            axis.errorbar(
                shown["psnr_mean"],
                heights[~far],
                xerr=shown["psnr_std"],
                fmt="os"[number],
                color=f"C{number}",
                label=wording.ARCH[arch],
                ms=3.5,
                lw=0.8,
            )
            for height, values in group["psnr_mean"][far].groupby(heights[far]):  # of several seeds
                axis.plot(edge, height, marker="<", color=f"C{number}", ms=4, clip_on=False)
                text = ", ".join(f"{value:.1f}" for value in values) + " dB"
                axis.annotate(
                    text,
                    (edge, height),
                    (5, 0),
                    textcoords="offset points",
                    va=("top", "bottom")[number],
                    fontsize=6.5,
                    color=f"C{number}",
                )
        axis.set(xlabel="PSNR (dB, global)", title=title)
        axis.set_yticks(list(place.values()), [_setting(*setting) for setting in place])
    if (table["psnr_mean"] < fence).any():
        axes[0].set_xlim(left=edge)
    axes[0].axvline(noisy_db, color="black", linestyle="--", linewidth=0.9, label="noisy input")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _setting(loss: str, optimizer: str, sharpen: bool, crops: bool) -> str:
    words = (
        [wording.LOSS[loss], wording.OPTIMIZER[optimizer]]
        + ["sharp"] * bool(sharpen)
        + ["crops"] * bool(crops)
    )
    return " ".join(words)


def effect_intervals(rows: pd.DataFrame) -> Figure:
    """Paired effects (columns what, source, mean, low, high; dB) as intervals around zero."""
    names = list(dict.fromkeys(rows["what"]))
    figure, axis = plt.subplots(figsize=(COLUMN, 0.34 * len(names) + 0.9))
    axis.axvline(0, color="black", linewidth=0.8)
    for number, (source, part) in enumerate(rows.groupby("source", sort=False)):
        heights = [len(names) - 1 - names.index(what) + 0.2 * (1 - number) for what in part["what"]]
        reach = [part["mean"] - part["low"], part["high"] - part["mean"]]
        axis.errorbar(
            part["mean"],
            heights,
            xerr=np.nan_to_num(np.array(reach)),
            fmt="osD"[number],
            color=f"C{number}",
            label=source,
        )
    axis.set(xlabel=f"difference (dB), {PERCENT} interval over pairs of runs")
    axis.set_yticks(range(len(names)), names[::-1])
    figure.legend(loc="outside upper center", ncols=3, columnspacing=1)
    return figure


def fine_tuning(table: pd.DataFrame) -> Figure:
    """Table III as lines: PSNR (dB) against the initial rate, a panel for each sharpening factor, a colour for each noise level."""
    factors = sorted(table["tau_sharp"].unique())
    figure, axes = plt.subplots(1, len(factors), figsize=(PAGE, 2.3), sharey=True, squeeze=False)
    for axis, factor in zip(axes[0], factors, strict=True):
        for number, (sigma, by_sigma) in enumerate(table[table["tau_sharp"] == factor].groupby("sigma_n")):
            for steps, group in by_sigma.groupby("annealing_steps"):
                line = group.groupby("lr0", as_index=False)["psnr_mean"].mean()
                label = f"σ$_n$ = {sigma:g}, {'no annealing' if steps == 0 else f'{steps} step' + 's' * (steps > 1)}"
                axis.plot(
                    line["lr0"],
                    line["psnr_mean"],
                    marker="o",
                    color=f"C{number}",
                    linestyle=["-", "--", ":"][min(int(steps), 2)],
                    label=label,
                )
        axis.set(xscale="log", xlabel="initial learning rate", title=f"τ$_{{sharp}}$ = {factor:g}")
    axes[0, 0].set_ylabel("PSNR (dB, global)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=7.5)
    return figure


def interactions(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """What crops and the MSE loss change without and with sharpening (dB): every pair of runs as a dot, their mean with its 95 % interval."""
    figure, axes = plt.subplots(1, 2, figsize=(COLUMN, 2.3))
    for axis, (title, factor) in zip(
        axes, (("crops", ("crops", True, False)), ("MSE − L1", ("loss", "mse", "l1"))), strict=True
    ):
        axis.axhline(0, color="black", linewidth=0.8)
        for number, (source, frame) in enumerate((("ours", table), ("published", published))):
            means, places = [], []
            for place, sharpen in enumerate((False, True)):
                part = frame[frame["sharpen"] == sharpen]
                if not set(factor[1:]) <= set(part[factor[0]]):
                    continue
                found, x = effect(part, *factor), place + (0.1 if number else -0.1)
                values = differences(part, *factor)
                axis.plot(
                    np.full(len(values), x + (0.07 if number else -0.07)),
                    values,
                    ".",
                    color=f"C{number}",
                    alpha=0.4,
                    ms=4,
                )
                reach = np.nan_to_num([[found.mean - found.low], [found.high - found.mean]])
                axis.errorbar(x, found.mean, yerr=reach, fmt="os"[number], color=f"C{number}")
                means.append(found.mean)
                places.append(x)
            axis.plot(places, means, color=f"C{number}", lw=1, label=source)
        axis.set(title=title, xlabel="sharpening", xlim=(-0.5, 1.5))
        axis.set_xticks([0, 1], ["without", "with"])
    axes[0].set_ylabel("difference (dB)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def studies(effects: pd.DataFrame) -> Figure:
    """The effects of notebook 07 (frame of `beyond.effects`, dB) as intervals around zero, a colour a study; one seed has no interval."""
    figure, axis = plt.subplots(figsize=(PAGE, 0.17 * len(effects) + 0.7))
    axis.axvline(0, color="black", linewidth=0.8)
    heights = np.arange(len(effects))[::-1]
    for number, (_, part) in enumerate(effects.groupby("study", sort=False)):
        reach = np.nan_to_num(np.array([part["mean"] - part["low"], part["high"] - part["mean"]]))
        axis.errorbar(part["mean"], heights[part.index], xerr=reach, fmt="o", color=f"C{number % 2}")
    for height, row in zip(heights, effects.itertuples(), strict=True):
        interval = f" [{wording.signed(row.low)}, {wording.signed(row.high)}]" if row.pairs > 1 else ""
        axis.annotate(
            f"{wording.signed(row.mean)}{interval}",
            (1.01, height),
            xycoords=axis.get_yaxis_transform(),
            va="center",
            fontsize=7.5,
        )
    axis.set(
        xlabel=f"difference (dB), {PERCENT} interval over seeds", ylim=(-0.7, len(effects) - 0.3)
    )
    axis.set_yticks(heights, [f"{row.study}: {row.what}" for row in effects.itertuples()], fontsize=7.5)
    return figure


def measures(frames: dict[str, pd.DataFrame]) -> Figure:
    """Runs (title -> frame of `results.collect_measures`) by PSNR and by the two other measures."""
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.4))
    for axis, (name, label) in zip(axes, (("psnr_hvs_m", "PSNR-HVS-M (dB)"), ("ssim", "SSIM")), strict=True):
        for number, (title, frame) in enumerate(frames.items()):
            axis.plot(
                frame["psnr_full"],
                frame[name],
                "os^"[number % 3],
                color=f"C{number}",
                ms=3.5,
                alpha=0.7,
                label=title,
            )
        axis.set(xlabel="PSNR (dB, global)", ylabel=label)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(frames))
    return figure
