"""Statistical figures of trainings: curves, training length, Table III, measures, studies, the best model."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from n2nlib.experiments.effects import MARGIN, TABLE1
from n2nlib.report import figures, plots, tables, wording
from n2nlib.report.wording import EVALUATED, REPORT, TRAINED

PALETTE = [figures.BLUE, figures.YELLOW, figures.GREEN, figures.PINK, figures.SKY, figures.ORANGE, "black"]
FRAME = {"fill": False, "ec": figures.ORANGE, "lw": 1.5}
SCALE_MARKERS = ["o", "s", "D", "^"]


def curves(frame: pd.DataFrame, labels: Mapping[str, str], references: Mapping[str, float]) -> Figure:
    """Fig. 2: validation PSNR of each candidate during training, one panel for ours and one for the report's.

    `frame` has the columns of curves.csv, `labels` maps candidates ("A", "1") to their settings, `references`
    (name -> dB) hold "noisy input". The band is the range over seeds; with one seed it is the standard
    deviation of the evaluation. The axis shows where the curves differ: the last three quarters of the
    training. Failed runs are counted in the legend. Candidates of one setting have one colour.
    """
    frame = frame.assign(candidate=frame["candidate"].astype(str))
    last = frame.groupby(["candidate", "seed"])["psnr_mean"].transform("last")
    failed = frame[last < references["noisy input"]].groupby("candidate")["seed"].nunique()
    alive = frame[last >= references["noisy input"]]
    spread = alive["psnr_std"].where(alive.groupby("candidate")["seed"].transform("nunique") == 1, 0.0)
    bounds = alive.assign(low=alive["psnr_mean"] - spread, high=alive["psnr_mean"] + spread)
    lists = [
        {name: label for name, label in labels.items() if name.isdigit() == theirs}
        for theirs in (False, True)
    ]
    lists = [one for one in lists if one]
    colors = dict(zip(dict.fromkeys(labels.values()), cycle(PALETTE), strict=False))
    size = (figures.PAGE if len(lists) > 1 else figures.COLUMN, 2.7)
    figure, axes = plt.subplots(1, len(lists), figsize=size, squeeze=False)
    for axis, names in zip(axes[0], lists, strict=True):
        palette = {name: colors[label] for name, label in names.items()}
        rows = bounds[bounds["candidate"].isin(palette)]
        late = rows[rows["epoch"] > frame["epoch"].max() / 4]
        low, high = late["low"].min(), late["high"].max()
        lines = {name: value for name, value in references.items() if value > low - 0.5 * (high - low)}
        low, high = min([low, *lines.values()]), max([high, *lines.values()])
        for value, style in zip(lines.values(), figures.LINES, strict=False):
            axis.axhline(value, color=figures.GREY, ls=style, lw=0.9)
        words = {
            name: f"{name}: {label}" + (f" ({failed[name]} failed)" if name in failed else "")
            for name, label in names.items()
        }
        entries = figures.handles({words[name]: color for name, color in palette.items()})
        if len(rows):
            sns.lineplot(
                figures.known(rows, "psnr_mean"),
                x="epoch",
                y="psnr_mean",
                hue="candidate",
                hue_order=list(palette),
                palette=palette,
                estimator="mean",
                errorbar=("pi", 100),
                marker="o" if frame["epoch"].max() < 10 else None,
                legend=False,
                err_kws={"alpha": 0.15, "lw": 0},
                ax=axis,
            )
            axis.set_ylim(low - 0.06 * (high - low) - 0.02, high + 0.06 * (high - low) + 0.02)
        else:
            axis.text(0.5, 0.5, "every run failed", ha="center", transform=axis.transAxes)
            axis.set_yticks([])
        entries += figures.levels(lines, decimals=True)
        axis.legend(handles=entries, loc="upper center", bbox_to_anchor=(0.5, -0.24), handlelength=1.4)
        axis.set(xlabel="epoch", ylabel="validation PSNR (dB, global)", xlim=(0, frame["epoch"].max() * 1.02))
        axis.set_title("the report's candidates" if all(map(str.isdigit, names)) else "our candidates")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    final = alive[alive["epoch"] == alive.groupby(["candidate", "seed"])["epoch"].transform("max")]
    means = final.groupby("candidate")["psnr_mean"].mean()
    said = "; ".join(f"{name} ({labels[name]}) ends at {value:.2f} dB" for name, value in means.items())
    return figures.described(figure, f"Validation PSNR of each candidate after each epoch. {said}.")


def fine_tuning(table: pd.DataFrame, published: pd.DataFrame, noisy: float) -> Figure:
    """Table III as heatmaps: ours as trained, ours as the report evaluated, and the report's (dB).

    `table` has the columns of table3_fine_tuning.csv, `published` those of `published.table3()`; `noisy` is
    the PSNR of the noisy input. A cell is the mean over the seeds that did not fail; a cross says that some
    failed. The best cell of each panel has a frame.
    """
    ours = table.assign(failed=table["psnr_full"] < noisy)
    theirs = published.assign(failed=published["psnr_mean"] < tables.REPORT_NOISY)
    panels = {TRAINED: (ours, "psnr_mean"), EVALUATED: (ours, "report_mean"), REPORT: (theirs, "psnr_mean")}
    rows, columns = ["tau_sharp", "lr0"], ["annealing_steps", "sigma_n"]
    row_order, column_order = (
        pd.MultiIndex.from_frame(table[keys].drop_duplicates().sort_values(keys)) for keys in (rows, columns)
    )
    grids = {}
    for name, (runs, key) in panels.items():
        values = runs[~runs["failed"]].groupby(rows + columns)[key].mean().unstack(columns)
        failed = runs.groupby(rows + columns)["failed"].sum().unstack(columns)
        grids[name] = [grid.reindex(index=row_order, columns=column_order) for grid in (values, failed)]
    best = [values.max().max() for values, _ in grids.values()]
    highest = np.nanmax([*best, noisy])
    size = (figures.PAGE, 1.08 + 0.17 * len(row_order))
    figure, axes = plt.subplots(1, len(grids), figsize=size, sharey=True)
    said = []
    for axis, (name, (values, failed)) in zip(axes, grids.items(), strict=True):
        axis.grid(visible=False)
        sns.heatmap(values, cmap="cividis", cbar=False, vmin=highest - 2, vmax=highest, lw=0.4, ax=axis)
        for (y, x), value in np.ndenumerate(values.to_numpy()):
            some_failed = failed.to_numpy()[y, x] > 0
            if some_failed and np.isnan(value):
                axis.add_patch(Rectangle((x, y), 1, 1, color=figures.PALE, ec="white", lw=0.4))
            words = f"{value:.2f}" * bool(np.isfinite(value)) + "×" * bool(some_failed)
            color = "white" if value < highest - 1.05 else "black"
            axis.text(x + 0.5, y + 0.5, words, ha="center", va="center", fontsize=6.3, color=color)
        steps, rates = column_order.get_level_values(0), row_order.get_level_values(0)
        for x in np.flatnonzero(np.diff(steps)) + 1:
            axis.axvline(x, color="white", lw=3)
        for y in np.flatnonzero(np.diff(rates)) + 1:
            axis.axhline(y, color="white", lw=3)
        for step in dict.fromkeys(steps):
            label = "no annealing" if step == 0 else f"{step:g} step" + "s" * (step > 1)
            axis.text(np.flatnonzero(steps == step).mean() + 0.5, -0.15, label, ha="center", fontsize=7)
        if values.notna().any(axis=None):
            y, x = np.unravel_index(np.nanargmax(values), values.shape)
            axis.add_patch(Rectangle((x, y), 1, 1, **FRAME, clip_on=False, zorder=5))
            setting = dict(zip(rows + columns, [*values.index[y], *values.columns[x]], strict=True))
            words = f"{values.iloc[y, x]:.2f} dB ({wording.fine_tuning_setting(setting)})"
            said.append(f"{name}: best {words}, {failed.sum().sum():.0f} failed.")
        sigmas = [f"{sigma:g}" for _, sigma in column_order]
        axis.set_xticks(np.arange(len(sigmas)) + 0.5, sigmas, rotation=0)
        axis.set(xlabel="added noise $σ_n$ (grey levels)", ylabel="")
        axis.set_title(name, pad=13)
        axis.tick_params(length=0)
    names = [
        f"τ = {tau:g}, rate {rate:g}" if tau else f"not sharpened, rate {rate:g}" for tau, rate in row_order
    ]
    axes[0].set_yticks(np.arange(len(row_order)) + 0.5, names, rotation=0)
    word = "failed runs, which the mean leaves out"
    handles = [Rectangle((0, 0), 1, 1, **FRAME, label="best"), *figures.handles({word: "black"}, {word: "x"})]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figures.described(figure, "Table III as three heatmaps of PSNR. " + " ".join(said))


def measures(frame: pd.DataFrame) -> Figure:
    """PSNR against PSNR-HVS-M and SSIM: one mark for each run, failed runs in an inset.

    Columns: kind ("Table I", "Table III", "studies", "classical methods"), psnr_full, psnr_hvs_m (dB), ssim
    and failed.
    """
    kinds = list(dict.fromkeys(frame["kind"]))
    colors, markers = (dict(zip(kinds, cycle(marks), strict=False)) for marks in (PALETTE, "os^DvP"))
    style = {"x": "psnr_full", "hue": "kind", "palette": colors, "style": "kind", "markers": markers}
    style |= {"lw": 0.3, "legend": False}
    alive, failed = frame[~frame["failed"]], frame[frame["failed"]]
    figure, axes = plt.subplots(1, 2, figsize=(figures.PAGE, 2.5))
    for axis, measure in zip(axes, ("psnr_hvs_m", "ssim"), strict=True):
        if len(alive):
            sns.scatterplot(alive, y=measure, **style, s=15, alpha=0.8, ax=axis)
        axis.set(xlabel="PSNR (dB, global)", ylabel=wording.HEADERS[measure])
        if len(failed):
            inset = axis.inset_axes((0.66, 0.14, 0.33, 0.34))
            sns.scatterplot(failed, y=measure, **style, s=9, ax=inset)
            inset.set(xlabel="", ylabel="")
            inset.set_title(f"{len(failed)} failed run" + "s" * (len(failed) > 1), fontsize=6.5, pad=2)
            inset.tick_params(labelsize=6)
            inset.margins(0.2)
    figure.legend(handles=figures.handles(colors, markers), loc="outside upper center", ncols=len(kinds))
    said = ", ".join(f"{count} of {kind}" for kind, count in alive["kind"].value_counts(sort=False).items())
    ranks = [alive[["psnr_full", measure]].corr("spearman").iloc[0, 1] for measure in ("psnr_hvs_m", "ssim")]
    return figures.described(
        figure,
        f"PSNR of runs ({said}) against PSNR-HVS-M (rank correlation {ranks[0]:.2f}) and SSIM "
        f"({ranks[1]:.2f}); {len(failed)} failed runs are in an inset.",
    )


def studies(frame: pd.DataFrame) -> Figure:
    """The effects of notebook 07: a panel with an axis of its own for each study, intervals over seeds.

    Columns: study, what ("one cycle − annealing step"), estimate, low, high (dB), basis.
    """
    if frame.empty:
        return figures.nothing("This scale leaves the studies out.")
    parts = list(frame.groupby("study", sort=False))
    space, line = 0.52, 0.24  # inches: around a panel, and a row of it
    heights = np.cumsum([space + line * len(rows) for _, rows in parts])
    split = int(np.argmin(np.abs(heights - heights[-1] / 2))) + 1 if len(parts) > 1 else 1
    sides = [side for side in (parts[:split], parts[split:]) if side]
    size = figures.PAGE, max(sum(space + line * len(rows) for _, rows in side) for side in sides) + 0.2
    figure = plt.figure(figsize=size)
    for half, side in zip(np.atleast_1d(figure.subfigures(1, len(sides))), sides, strict=True):
        ratios = [space + line * len(rows) for _, rows in side]
        axes = half.subplots(len(side), 1, height_ratios=ratios, squeeze=False)[:, 0]
        for axis, (study, rows) in zip(axes, side, strict=True):
            variants = rows["what"].str.partition(" − ")
            names = [textwrap.fill(name, 28) for name in variants[0]]
            figures.band(axis)
            figures.points(axis, rows.assign(name=names), names, x="estimate", y="name", color=figures.BLUE)
            figures.fit(axis, rows)
            against = " or ".join(filter(None, dict.fromkeys(variants[2])))
            title = f"{study}, against {against}" if against else study
            axis.set_title(textwrap.fill(title, 42), loc="left")
            axis.set(xlabel="", ylabel="", ylim=(len(rows) - 0.5, -0.5))
            axis.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        half.supxlabel(figures.DIFFERENCE, fontsize=8)
    if figures.hollow(frame):
        figure.legend(handles=figures.hollow(frame), loc="outside upper center")
    said = "; ".join(f"{row.study}, {row.what}: {wording.signed(row.estimate)}" for row in frame.itertuples())
    return figures.described(figure, f"Difference of each variant from its study's first, in dB. {said}.")


def budget(frame: pd.DataFrame) -> Figure:
    """What each step towards the best model gains, and the PSNR that it reaches.

    Columns: model, psnr_mean (dB), gain, low, high (dB; none for the first), basis, images.
    """
    names = [textwrap.fill(name, 34) for name in frame["model"]]
    figure, axis = plt.subplots(figsize=(figures.PAGE, 0.5 + 0.3 * len(frame)))
    figures.band(axis)
    steps = frame.assign(name=names, estimate=frame["gain"])
    figures.points(axis, steps, names, x="estimate", y="name", color=figures.BLUE)
    figures.fit(axis, steps.dropna(subset="gain"))
    for y, row in enumerate(frame.itertuples()):
        words = f"{row.psnr_mean:.2f} dB, {row.images:,.0f} images"
        axis.annotate(words, (1.02, y), xycoords=axis.get_yaxis_transform(), va="center", fontsize=7.5)
    axis.set(ylabel="", ylim=(len(frame) - 0.5, -0.5))
    axis.set_xlabel(f"gain of PSNR over the row above (dB); grey: below {MARGIN} dB")
    if figures.hollow(steps.dropna(subset="gain")):
        figure.legend(handles=figures.hollow(frame), loc="outside upper center")
    said = "; ".join(f"{row.model}: {row.psnr_mean:.2f} dB" for row in frame.itertuples())
    return figures.described(figure, f"The way to the best model, step by step. {said}.")


def training_length(frame: pd.DataFrame) -> Figure:
    """Effects against the images seen: one panel for each factor, one line for each source and scale.

    Columns: factor (of Table I), source, scale, images, estimate, low, high (dB). A dotted line joins the
    ends of the trainings of all scales. The axis shows the second half of each training.
    """
    if frame.empty:
        return figures.nothing("This scale trains nothing that could show an effect.")
    frame = frame.assign(what=[TABLE1[factor][0] for factor in frame["factor"]])
    panels = list(dict.fromkeys(frame["what"]))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(figures.PAGE, 0.3 + 1.5 * rows), sharex=True, squeeze=False
    )
    scales = frame.groupby("scale")["images"].max().sort_values().index.tolist()
    frame["most"] = frame.groupby(["what", "source", "scale"])["images"].transform("max")
    style = {
        "x": "images",
        "y": "estimate",
        "hue": "source",
        "hue_order": list(figures.SOURCES),
        "palette": figures.SOURCES,
        "legend": False,
    }
    for axis, what in zip(axes.flat, panels, strict=False):
        part = frame[frame["what"] == what]
        figures.band(axis, "y")
        sns.lineplot(
            figures.known(part),
            **style,
            **figures.INTERVAL,
            style="scale",
            style_order=scales,
            dashes=False,
            markers=SCALE_MARKERS[: len(scales)],
            markersize=3,
            markeredgewidth=0.3,
            err_kws={"alpha": 0.15, "lw": 0},
            ax=axis,
        )
        sns.lineplot(part[part["images"] == part["most"]], **style, ls=":", lw=0.8, errorbar=None, ax=axis)
        figures.fit(axis, part[part["images"] > part["most"] / 2], "y")
        axis.set(title=what, xlabel="images seen", ylabel="effect (dB)", xscale="log")
        for side, y, va in zip(plots.sides(what), (0.02, 0.98), ("bottom", "top"), strict=True):
            text, box = (
                f"{'↓' if va == 'bottom' else '↑'} {side}",
                {"color": "white", "alpha": 0.75, "pad": 0.8},
            )
            axis.text(0.02, y, text, transform=axis.transAxes, va=va, fontsize=6.5, bbox=box)
    for axis in axes.flat[max(0, len(panels) - columns) : len(panels)]:
        axis.tick_params(labelbottom=True)
        axis.xaxis.label.set_visible(True)
    free = axes.flat[len(panels) :]
    for axis in free:
        axis.axis("off")
    present = {name: color for name, color in figures.SOURCES.items() if name in set(frame["source"])}
    handles = figures.handles(present)
    marks = {f"scale {scale}": marker for scale, marker in zip(scales, SCALE_MARKERS, strict=False)}
    handles += figures.handles(dict.fromkeys(marks, figures.GREY), marks)
    if len(free):
        free[0].legend(handles=handles, loc="center")
    else:
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    said = "; ".join(
        f"{row.what}, {row.source}, {row.images:,.0f} images: {wording.signed(row.estimate)}"
        for row in frame[frame["images"] == frame["most"]].itertuples()
    )
    text = f"Effect of each factor (dB) against the images seen in training. At the end: {said}."
    return figures.described(figure, text)
