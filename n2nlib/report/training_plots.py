"""Statistical figures of trainings: curves, training length, Table III, measures, studies, the best model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from n2nlib.experiments import effects
from n2nlib.experiments.effects import MARGIN, TABLE1, basis
from n2nlib.experiments.published import NOISY_PSNR
from n2nlib.report import marks, wording
from n2nlib.report.figures import BLUE, GREY, ORANGE, PAGE, described, nothing

TICK_STEPS = [1, 2, 5, 10]  # between ticks
FRAME = {"fill": False, "ec": ORANGE, "lw": 1.5}


def _panels(lines: list[int], height: float, around: float) -> tuple[Figure, list[Axes]]:
    """A figure with a panel of so many `lines`, `height` inches each, for each item, in rows of three.

    `around` are the inches that a row needs for titles and ticks.
    """
    count = len(lines)
    heights = [height * max(lines[first : first + 3]) + around for first in range(0, count, 3)]
    size, rows = (PAGE, 0.4 + sum(heights)), len(heights)
    figure, axes = plt.subplots(rows, min(count, 3), figsize=size, squeeze=False, height_ratios=heights)
    for axis in axes.flat[count:]:
        axis.remove()
    return figure, list(axes.flat[:count])


def curves(frame: pd.DataFrame, labels: Mapping[str, str], references: Mapping[str, float]) -> Figure:
    """Fig. 2: validation PSNR of each candidate during training, one panel for ours and one for the report's.

    `frame` has the columns of curves.csv, `labels` maps candidates ("A", "1") to their settings, `references`
    (name -> dB) hold "noisy input". The band is the range over seeds. If one seed is left, it is the
    standard deviation of the evaluation. The axis of PSNR covers the last three quarters of the training,
    where the curves differ. Failed runs are counted in the legend. Candidates of one setting have one colour.
    """
    noisy, epochs = references["noisy input"], frame["epoch"].max()
    last = frame.groupby(["candidate", "seed"])["psnr_mean"].transform("last")
    failed = frame[last < noisy].groupby("candidate")["seed"].nunique()
    alive = frame[last >= noisy]
    spread = alive["psnr_std"].where(alive.groupby("candidate")["seed"].transform("nunique") == 1, 0.0)
    alive = alive.assign(low=alive["psnr_mean"] - spread, high=alive["psnr_mean"] + spread)
    settings = list(dict.fromkeys(labels.values()))
    hues = None if len(settings) <= len(sns.color_palette()) else "husl"  # None: the colours of the style
    colors = dict(zip(settings, sns.color_palette(hues, len(settings)), strict=True))
    lists = {
        title: {name: colors[label] for name, label in labels.items() if name.isdigit() == theirs}
        for title, theirs in (("our candidates", False), ("the report's candidates", True))
    }
    figure, axes = plt.subplots(1, 2, figsize=(PAGE, 2.7))
    for axis, (title, palette) in zip(axes, lists.items(), strict=True):
        rows = alive[alive["candidate"].isin(palette)]
        late = rows[rows["epoch"] >= rows["epoch"].max() / 4]
        low, high = late["low"].min(), late["high"].max()
        near = {name: value for name, value in references.items() if value > low - 0.5 * (high - low)}
        lines = {f"{name}: {value:.2f} dB": value for name, value in near.items()}
        if len(rows):
            style = {"hue": "candidate", "palette": palette, "marker": "o" if epochs < 10 else None}
            style |= {"estimator": "mean", "errorbar": ("pi", 100), "err_kws": {"alpha": 0.15, "lw": 0}}
            shown = marks.known(rows, "psnr_mean")
            sns.lineplot(shown, x="epoch", y="psnr_mean", **style, legend=False, ax=axis)
            low, high = min([low, *lines.values()]), max([high, *lines.values()])
            room = 0.06 * (high - low) + 0.02
            axis.set_ylim(low - room, high + room)
        else:
            axis.text(0.5, 0.5, "every run failed", ha="center", transform=axis.transAxes)
            axis.set_yticks([])
        counts = {name: f" ({count} failed)" for name, count in failed.items()}
        words = {f"{name}: {labels[name]}{counts.get(name, '')}": color for name, color in palette.items()}
        entries = marks.handles(words) + marks.levels(axis.axhline, lines)
        axis.legend(handles=entries, loc="upper center", bbox_to_anchor=(0.5, -0.22))
        axis.set(title=title, xlabel="epoch", ylabel="validation PSNR (dB, global)", xlim=(0, epochs * 1.02))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ends = alive.groupby(["candidate", "seed"])["psnr_mean"].last().groupby("candidate").mean()
    said = [f"{name} ({labels[name]}) ends at {value:.2f} dB" for name, value in ends.items()]
    words = "; ".join(said) or "Every run failed"
    return described(figure, f"Validation PSNR of each candidate after each epoch. {words}.")


def fine_tuning(table: pd.DataFrame, published: pd.DataFrame, noisy: float) -> Figure:
    """Table III as heatmaps: ours as trained, ours with the report's evaluation, and the report's (dB).

    `table` has the columns of table3_fine_tuning.csv, `published` those of `published.table3()`; `noisy` is
    the PSNR of the noisy input. A cell is the mean over the seeds that did not fail; a cross says that some
    failed. The best cell of each panel has a frame.
    """
    ours = table.assign(failed=effects.failed(table, noisy))
    theirs = published.assign(failed=effects.failed(published, NOISY_PSNR))
    panels = effects.by_source(ours, theirs)
    rows, columns = ["tau_sharp", "lr0"], ["annealing_steps", "sigma_n"]
    shape = ours.groupby(rows + columns).size().unstack(columns)
    taus, steps = shape.index.get_level_values(0), shape.columns.get_level_values(0)
    names = [f"{f'τ = {tau:g}' if tau else 'not sharpened'}, rate {rate:g}" for tau, rate in shape.index]
    highest = max(runs[key].max() for runs, key in panels.values())
    colors = sns.light_palette(BLUE, as_cmap=True)
    style = {"cmap": colors, "cbar": False, "vmin": highest - 2, "vmax": highest}
    style |= {"lw": 0.4, "fmt": "", "annot_kws": {"fontsize": 6.3}, "yticklabels": names}
    sigmas, added = [f"{sigma:g}" for _, sigma in shape.columns], "added noise $σ_n$"
    if len(set(sigmas)) == 1:
        sigmas, added = False, f"{added} = {sigmas[0]}"
    style |= {"xticklabels": sigmas}
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 1.1 + 0.17 * len(shape)), sharey=True)
    said, crosses = [], 0
    for axis, (name, (runs, key)) in zip(axes, panels.items(), strict=True):
        cells = runs.assign(value=runs[key].where(~runs["failed"])).groupby(rows + columns)
        grids = cells["value"].mean().unstack(columns), cells["failed"].sum().unstack(columns)
        values, failed = (grid.reindex(index=shape.index, columns=shape.columns) for grid in grids)
        words = values.map("{:.2f}".format).where(values.notna(), "") + np.where(failed > 0, "×", "")
        crosses += (failed > 0).to_numpy().sum()
        shown = values.mask(values.isna() & (failed > 0), 0.0)  # the palest colour
        sns.heatmap(shown, annot=words, **style, ax=axis)
        for draw, groups in ((axis.axvline, steps), (axis.axhline, taus)):
            for place in np.flatnonzero(np.diff(groups)) + 1:
                draw(place, color="white", lw=3)
        centres = {step: np.flatnonzero(steps == step).mean() + 0.5 for step in steps}
        above = [wording.annealing(step).replace("annealing s", "s") for step in centres]
        top = axis.secondary_xaxis("top")
        top.set_xticks(list(centres.values()), above)
        top.spines[:].set_visible(False)
        for edge in (axis, top):
            edge.tick_params(length=0, rotation=0)
        if values.notna().any(axis=None):
            y, x = np.unravel_index(np.nanargmax(values), values.shape)
            axis.add_patch(Rectangle((x, y), 1, 1, **FRAME, clip_on=False, zorder=5))
            setting = dict(zip(rows + columns, [*values.index[y], *values.columns[x]], strict=True))
            best = f"{values.iloc[y, x]:.2f} dB ({wording.fine_tuning_setting(setting)})"
            said.append(f"{name}: best {best}, {failed.sum().sum():.0f} failed.")
        axis.grid(visible=False)
        axis.set(title=name, xlabel=f"{added} (grey levels)", ylabel="")
    handles = [Rectangle((0, 0), 1, 1, **FRAME, label="best")]
    if crosses:
        word = "failed runs, which the mean leaves out"
        handles += marks.handles({word: "black"}, {word: "x"})
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return described(figure, "Table III as three heatmaps of PSNR. " + " ".join(said))


def measures(frame: pd.DataFrame) -> Figure:
    """PSNR against PSNR-HVS-M and SSIM: one mark for each run, failed runs in a panel of their own.

    Columns: kind ("Table I", "Table III", "studies", "classical methods"), psnr_full, psnr_hvs_m (dB), ssim
    and failed.
    """
    colors = {kind: f"C{number}" for number, kind in enumerate(dict.fromkeys(frame["kind"]))}
    markers = dict(zip(colors, "os^D", strict=False))
    style = {"hue": "kind", "palette": colors, "style": "kind", "markers": markers, "legend": False}
    alive, failed = frame[~frame["failed"]], frame[frame["failed"]]
    names = ("psnr_hvs_m", "ssim")
    parts = {f"{len(failed)} failed": failed} if len(failed) else {}
    parts[""] = alive
    ratios = [1, 4][-len(parts) :]
    figure, axes = plt.subplots(1, 2 * len(parts), figsize=(PAGE, 2.5), width_ratios=2 * ratios)
    for axis, (measure, (title, part)) in zip(axes, product(names, parts.items()), strict=True):
        if len(part):
            sns.scatterplot(part, x="psnr_full", y=measure, **style, s=13, lw=0.3, alpha=0.8, ax=axis)
        left = title == next(iter(parts))  # the panels of a measure share its label
        axis.set(title=title, xlabel="PSNR (dB)", ylabel=wording.HEADERS[measure] if left else "")
        axis.xaxis.set_major_locator(MaxNLocator(3 if title else 6, steps=TICK_STEPS, min_n_ticks=1))
    marks.legend(figure, frame, marks.handles(colors, markers))
    said = ", ".join(f"{count} of {kind}" for kind, count in alive["kind"].value_counts(sort=False).items())
    ranks = [alive[["psnr_full", measure]].corr("spearman").iloc[0, 1] for measure in names]
    return described(
        figure,
        f"PSNR of runs ({said}) against PSNR-HVS-M (rank correlation {ranks[0]:.2f}) and SSIM "
        f"({ranks[1]:.2f}); {len(failed)} failed runs are apart.",
    )


def studies(frame: pd.DataFrame) -> Figure:
    """The effects of notebook 07: a panel with an axis of its own for each study, intervals over seeds.

    Columns: study, what ("one cycle − annealing step"), estimate, low, high (dB), basis.
    """
    panels = dict(sorted(frame.groupby("study", sort=False), key=lambda panel: -len(panel[1])))
    figure, axes = _panels([len(rows) for rows in panels.values()], 0.19, 0.56)
    for axis, (study, rows) in zip(axes, panels.items(), strict=True):
        variants = rows["what"].str.partition(" − ")
        first = variants[2].iloc[0]
        names = variants[0].where(variants[2] == first, variants[0] + "\nagainst " + variants[2])
        marks.differences(axis, rows.assign(name=names), order=names, y="name")
        plt.setp(axis.get_yticklabels(), linespacing=0.9)
        axis.set_title(f"{study}\nagainst {first}", loc="right", linespacing=1)
        axis.set_xlabel("")
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=TICK_STEPS))
    figure.supxlabel(marks.DIFFERENCE_LABEL, fontsize="medium")
    marks.legend(figure, frame)
    said = marks.listed(frame, "study", "what")
    return described(figure, f"Difference of each variant from its study's first, in dB. {said}.")


def budget(frame: pd.DataFrame) -> Figure:
    """What each step towards the best model gains, and the PSNR that it reaches.

    Columns: model, psnr_full (dB), gain, low, high (dB; none for the first), basis, images.
    """
    gains = frame.assign(estimate=frame["gain"]).dropna(subset="gain")
    figure, axis = plt.subplots(figsize=(PAGE, 0.5 + 0.3 * len(frame)))
    marks.differences(axis, gains, order=frame["model"], y="model")
    marks.beside(axis, [f"{row.psnr_full:.2f} dB, {row.images:,.0f} images" for row in frame.itertuples()])
    axis.set_xlabel(f"PSNR gain over the row above (dB); grey: smaller than {MARGIN} dB")
    marks.legend(figure, gains)
    said = "; ".join(f"{row.model}: {row.psnr_full:.2f} dB" for row in frame.itertuples())
    return described(figure, f"The way to the best model, step by step. {said}.")


def recipe(search: pd.DataFrame | None) -> Figure:
    """The search for the recipe of the best model: a panel for each length of training, best variant first.

    `search` is the record of `benchmarks.recipe`, or None. Its intervals are over images, from one run for
    each variant. A run that ends below its noisy input has no mark: it would be far off the axis.
    """
    if search is None:
        return nothing("This scale has no recorded search for the recipe of its best model.")
    panels = dict(list(search.assign(estimate=search["gain"]).groupby("schedule", sort=False)))
    figure, axes = _panels([len(rows) for rows in panels.values()], 0.17, 0.45)
    figure.get_layout_engine().set(wspace=0.08)
    said = []
    for axis, (schedule, rows) in zip(axes, panels.items(), strict=True):
        start = rows["variant"].iloc[0]
        rows = rows.sort_values("gain", ascending=False).assign(basis=basis(1))
        names = rows["variant"].tolist()
        failed = rows["psnr_full"] < rows["noisy_psnr_full"]
        marks.differences(axis, rows[(rows["variant"] != start) & ~failed], order=names, y="variant")
        reached = rows["psnr_full"].map("{:.2f} dB".format).mask(failed, "failed")
        ends = [
            f"{psnr}, {seconds / 60:.0f} min" for psnr, seconds in zip(reached, rows["seconds"], strict=True)
        ]
        marks.beside(axis, ends)
        axis.set(title=f"{schedule} run, {rows['images'].max():,.0f} images", xlabel="")
        said += [f"{schedule}, {name}: {end}" for name, end in zip(names, ends, strict=True)]
    figure.supxlabel(
        f"PSNR gain over the starting recipe (dB); grey: smaller than {MARGIN} dB", fontsize="medium"
    )
    marks.legend(figure, rows)
    return described(figure, f"The search for the recipe of the best model. {'; '.join(said)}.")


def training_length(frame: pd.DataFrame) -> Figure:
    """Effects against the images seen: one panel for each factor, one line for each source and scale.

    Columns: factor (of Table I), source, scale, images, estimate, low, high (dB). A dotted line joins the
    ends of the trainings of all scales. The axis of effects covers each training from its middle on.
    """
    if frame.empty:
        return nothing("This scale trains nothing that could show an effect.")
    scales = frame.groupby("scale")["images"].max().sort_values()
    what = [TABLE1[factor][0] for factor in frame["factor"]]
    frame = frame.assign(what=what, most=frame["scale"].map(scales))
    ends = frame[frame["images"] == frame["most"]]
    ticks = list(scales) if len(scales) > 1 else [frame["images"].min(), *scales]
    markers = dict(zip(scales.index, "osD^", strict=False))
    panels = dict(list(frame.groupby("what", sort=False)))
    figure, axes = _panels([1] * len(panels), 0.85, 0.45)
    style = {"x": "images", "y": "estimate", **marks.BY_SOURCE, "legend": False}
    dots = marks.INTERVAL | {"style": "scale", "markers": markers, "dashes": False, "mew": 0.3}
    dots |= {"err_kws": {"alpha": 0.15, "lw": 0}}
    for axis, (what, part) in zip(axes, panels.items(), strict=True):
        marks.band(axis, "y")
        sns.lineplot(marks.known(part), **style, **dots, ax=axis)
        sns.lineplot(ends[ends["what"] == what], **style, ls=":", lw=0.8, errorbar=None, ax=axis)
        axis.set(title=what, xlabel="", ylabel="effect (dB)", xscale="log")
        axis.set_ylim(marks.limits(part[part["images"] >= part["most"] / 2]))
        axis.set_xticks(ticks, [EngFormatter(sep="")(float(f"{tick:.3g}")) for tick in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
    figure.supxlabel("images seen", fontsize="medium")
    handles = marks.handles(marks.source_colors(frame))
    shapes = {f"scale {scale}": marker for scale, marker in markers.items()}
    handles += marks.handles(dict.fromkeys(shapes, GREY), shapes) if len(scales) > 1 else []
    marks.legend(figure, frame, handles)
    said = marks.listed(ends, "what", "source", "scale")
    return described(figure, f"Effect of each factor (dB) against the images seen. At the end: {said}.")
