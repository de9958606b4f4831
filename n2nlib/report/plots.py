"""Statistical figures of Table I and of what follows from it (notebooks 03 and 06).

Failed runs, which end below their noisy input, are counted in a margin and never stretch an axis of decibels.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from n2nlib.experiments import effects as paired
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.report import figures, tables, wording
from n2nlib.report.wording import EVALUATED, REPORT, TRAINED

ARCHES, ARCH_MARKERS = {"TConv": figures.GREEN, "Upsample": figures.PINK}, {"TConv": "o", "Upsample": "s"}
EXTRAS = {"sharpen": "sharpened", "crops": "crops"}


def _by_source(table: pd.DataFrame, published: pd.DataFrame, noisy: float) -> pd.DataFrame:
    """Table I as one row per run and source: its setting, arch in words, source, psnr (dB) and failed.

    Of the published rows those stay whose setting we trained, too. The report's noisy input is the course's.
    """
    theirs = published.merge(table[ABLATION].drop_duplicates())
    parts = {TRAINED: (table, "psnr_mean"), EVALUATED: (table, "report_mean"), REPORT: (theirs, "psnr_mean")}
    long = pd.concat([rows.assign(source=name, psnr=rows[key]) for name, (rows, key) in parts.items()])
    theirs = long["source"] == REPORT
    failed = np.where(theirs, long["psnr_mean"] < tables.REPORT_NOISY, long["psnr_full"] < noisy)
    return long.assign(arch=long["arch"].map(wording.ARCH), failed=failed).reset_index(drop=True)


def _setting(long: pd.DataFrame) -> pd.Series:
    """ "MSE, Adam" for each row."""
    return long["loss"].map(wording.LOSS) + ", " + long["optimizer"].map(wording.OPTIMIZER)


def _table1(
    long: pd.DataFrame, panel: str, hue: str, order_by: str, references: Mapping[str, float]
) -> tuple[Figure, dict[object, Axes]]:
    """One panel for each value of column `panel`, with a dot for each run over its `name`.

    Names are sorted by the mean of source `order_by`. Seeds of one setting are joined; failed runs are
    crosses in a margin at the left. Returns the figure and its panels.
    """
    alive = long[~long["failed"]]
    best = alive[alive["source"] == order_by].groupby("name")["psnr"].mean().sort_values(ascending=False)
    order = [*best.index, *(name for name in dict.fromkeys(long["name"]) if name not in best.index)]
    colors, markers = (ARCHES, ARCH_MARKERS) if hue == "arch" else (figures.SOURCES, figures.MARKERS)
    shift = dict(zip(colors, np.linspace(-0.18, 0.18, len(colors)), strict=True))
    long = long.assign(y=long["name"].map(order.index) + long[hue].map(shift), color=long[hue].map(colors))
    if hue == "source":  # a run fails as trained; its cross stands for both evaluations
        long = long[~(long["failed"] & (long["source"] == EVALUATED))]
    failed = long[long["failed"]]
    failed = failed.assign(place=2 + failed.groupby([panel, "y"]).cumcount())
    low, high = (find([*alive["psnr"], *references.values()]) for find in (min, max))
    step = (high - low) / 25
    left = low - step * max([1, *failed["place"] + 1])
    values = list(dict.fromkeys(long[panel]))
    size = (figures.PAGE, 0.85 + 0.15 * len(order))
    figure, axes = plt.subplots(1, len(values), figsize=size, sharex=True, sharey=True, squeeze=False)
    style = {"x": "psnr", "y": "y", "hue": hue, "palette": colors, "style": hue, "markers": markers}
    for axis, value in zip(axes[0], values, strict=True):
        dots, crosses = (rows[rows[panel] == value] for rows in (long[~long["failed"]], failed))
        ends = dots.groupby(["y", "color"])["psnr"].agg(["min", "max"]).reset_index()
        axis.hlines(ends["y"], ends["min"], ends["max"], color=ends["color"], lw=1.1)
        if len(dots):
            sns.scatterplot(dots, **style, s=13, lw=0.3, legend=False, ax=axis, zorder=3)
        places = low - step * crosses["place"]
        axis.scatter(places, crosses["y"], c=crosses["color"], marker="x", s=9, lw=0.9)
        axis.axvspan(left, low - step, color=figures.PALE, lw=0, zorder=0)
        for level, line in zip(references.values(), figures.LINES, strict=False):
            axis.axvline(level, color=figures.GREY, ls=line, lw=0.9, zorder=1)
        axis.set(xlabel="PSNR (dB, global)", ylabel="", xlim=(left, high + step))
        axis.set(yticks=range(len(order)), yticklabels=order, ylim=(len(order) - 0.4, -0.6))
    handles = figures.handles(colors, markers) + figures.levels(references)
    if len(failed):
        handles += figures.handles({"failed run": figures.GREY}, {"failed run": "x"})
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), handlelength=1.6)
    return figure, dict(zip(values, axes[0], strict=True))


def table1(table: pd.DataFrame, published: pd.DataFrame, references: Mapping[str, float]) -> Figure:
    """Table I at a glance: one panel for each source, best setting first, one axis of decibels.

    `table` has the columns of table1_ablation.csv, `published` those of `published.table1()`; `references`
    (name -> dB) are drawn as lines and hold "noisy input".
    """
    long = _by_source(table, published, references["noisy input"])
    extra = [long[factor].map({True: f", {word}", False: ""}) for factor, word in EXTRAS.items()]
    long = long.assign(name=_setting(long) + extra[0] + extra[1])
    figure, panels = _table1(long, "source", "arch", TRAINED, references)
    for source, axis in panels.items():
        axis.set_title(source)
    failed = long.loc[long["source"] == TRAINED, "failed"]
    return figures.described(
        figure,
        f"PSNR of every run of Table I in three panels: as trained, as the report evaluated, and as the "
        f"report prints it. {failed.sum()} of our {len(failed)} runs fail and are counted at the left edge.",
    )


def report_evaluation(
    table: pd.DataFrame, published: pd.DataFrame, references: Mapping[str, float]
) -> Figure:
    """The settings of Table I evaluated as trained and as the report did, beside what the report prints (dB).

    The arguments are those of `table1`. One panel holds what was trained without sharpening, one the rest.
    """
    long = _by_source(table, published, references["noisy input"])
    names = long["arch"] + ", " + _setting(long) + long["crops"].map({True: ", crops", False: ""})
    long = long.assign(name=names).sort_values("sharpen", kind="stable")
    figure, panels = _table1(long, "sharpen", "source", REPORT, references)
    for sharpen, axis in panels.items():
        axis.set_title(f"trained {'with' if sharpen else 'without'} sharpening")
    alive = long[~long["failed"]].pivot_table(values="psnr", index=ABLATION, columns="source")
    alive = alive.reindex(columns=list(figures.SOURCES)).dropna()
    said = [
        f"Trained {'with' if sharpen else 'without'} sharpening, the report's values lie "
        f"{(rows[EVALUATED] - rows[REPORT]).abs().median():.2f} dB from ours evaluated as the report did and "
        f"{(rows[TRAINED] - rows[REPORT]).abs().median():.2f} dB from ours as trained (medians)."
        for sharpen, rows in alive.groupby("sharpen")
    ]
    first = f"PSNR of {long.groupby(ABLATION).ngroups} settings in three ways."
    return figures.described(figure, " ".join([first, *said]))


def sides(what: str) -> tuple[str, str]:
    """What a negative and a positive difference say: "Upsample better" and "TConv better".

    `what` is "TConv − Upsample", or "crops" for the difference between crops and none.
    """
    better, _, worse = what.partition(" − ")
    if worse in ("", "none"):
        worse = f"no {better}"
    better += f" {worse.split()[-1]}" if " " in worse and not worse.startswith("no ") else ""
    return f"{worse} better", f"{better} better"


def effects(frame: pd.DataFrame) -> Figure:
    """Effects as in effects.csv: source, what ("TConv − Upsample"), estimate, low, high (dB), basis.

    Marks whose interval says nothing about other seeds (`basis` other than "seeds") are hollow.
    """
    order = list(dict.fromkeys(frame["what"]))
    figure, axis = plt.subplots(figsize=(figures.PAGE, 0.75 + 0.31 * len(order)))
    figures.band(axis)
    style = {
        "x": "estimate",
        "y": "what",
        "order": order,
        "hue": "source",
        "hue_order": list(figures.SOURCES),
        "palette": figures.SOURCES,
        "markers": list(figures.MARKERS.values()),
        "dodge": 0.45,
    }
    figures.points(axis, frame, **style)
    figures.fit(axis, frame)
    axis.set(xlabel=figures.DIFFERENCE, ylabel="", ylim=(len(order) - 0.5, -0.5))
    axis.set_yticks(range(len(order)), [f"← {sides(what)[0]}" for what in order])
    right = axis.secondary_yaxis("right")
    right.set_yticks(range(len(order)), [f"{sides(what)[1]} →" for what in order])
    right.spines[:].set_visible(False)
    for edge in (axis, right):
        edge.tick_params(axis="y", length=0)
    present = {name: color for name, color in figures.SOURCES.items() if name in set(frame["source"])}
    handles = figures.handles(present, figures.MARKERS) + figures.hollow(frame)
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    said = "; ".join(
        f"{what}: " + ", ".join(f"{row.source} {wording.signed(row.estimate)}" for row in rows.itertuples())
        for what, rows in frame.groupby("what", sort=False)
    )
    return figures.described(figure, f"Effect of each factor with its interval, in dB. {said}.")


def failures(frame: pd.DataFrame) -> Figure:
    """Share of failed runs for each level of each factor, as in failures.csv.

    Columns: factor, level, failed, runs, share, low, high (binomial interval; shares in [0, 1]).
    """
    factors = dict(list(frame.groupby("factor", sort=False)))
    counts = [len(rows) for rows in factors.values()]
    size = (figures.COLUMN, 0.5 + 0.19 * sum(counts))
    figure, axes = plt.subplots(
        len(counts), 1, figsize=size, sharex=True, height_ratios=counts, squeeze=False
    )
    said = []
    for axis, (factor, rows) in zip(axes[:, 0], factors.items(), strict=True):
        names = [wording.level(factor, level) for level in rows["level"]]
        percent = rows.assign(
            name=names, estimate=100 * rows["share"], low=100 * rows["low"], high=100 * rows["high"]
        )
        figures.points(axis, percent, x="estimate", y="name", color=figures.BLUE)
        for y, row in enumerate(percent.itertuples()):
            words = f"{row.failed} of {row.runs}"
            axis.annotate(words, (1.03, y), xycoords=axis.get_yaxis_transform(), va="center", fontsize=7)
            said.append(f"{row.name}: {words}")
        axis.set(xlabel="failed runs (%)", ylabel="", ylim=(len(rows) - 0.5, -0.5))
        axis.tick_params(axis="y", length=0)
        axis.label_outer()
    axes[0, 0].set_xlim(-2, 104 * max(0.1, frame["high"].max()))
    text = f"Share of runs that end below their noisy input, with 95 % intervals. {'; '.join(said)}."
    return figures.described(figure, text)


def interactions(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """What crops and the loss change without and with sharpening: a panel for each, lines joining the levels.

    `table` has the columns of table1_ablation.csv, `published` those of `published.table1()`.
    """
    sources = {source: (table, value) for source, value in paired.SOURCES.items()}
    sources[REPORT] = (published, paired.AS_TRAINED)
    found = []
    for factor, other in paired.INTERACTIONS:
        for source, (runs, value) in sources.items():
            for level, part in runs.groupby(other):
                compared = paired.levels(part, factor)
                if compared is not None and paired.levels(table, factor) is not None:
                    what, *pair = compared
                    row = {"what": what, "level": f"{'with' if level else 'without'} sharpening"}
                    found.append(row | {"source": source} | vars(paired.effect(part, factor, *pair, value)))
    if not found:
        return figures.nothing("This scale trains nothing that could show an interaction.")
    frame = pd.DataFrame(found)
    panels = dict(list(frame.groupby("what", sort=False)))
    figure, axes = plt.subplots(1, len(panels), figsize=(figures.PAGE, 2.1), squeeze=False)
    style = {"hue": "source", "hue_order": list(figures.SOURCES), "palette": figures.SOURCES, "dodge": 0.25}
    style |= {"markers": list(figures.MARKERS.values()), "linestyle": "-", "linewidth": 0.9}
    for axis, (what, part) in zip(axes[0], panels.items(), strict=True):
        figures.band(axis, "y")
        figures.points(axis, part, x="level", y="estimate", **style)
        figures.fit(axis, part, "y")
        axis.set(title=what, xlabel="", ylabel="effect (dB)", xlim=(-0.4, part["level"].nunique() - 0.6))
    handles = figures.handles(figures.SOURCES, figures.MARKERS)
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    said = "; ".join(
        f"{row.what}, {row.level}, {row.source}: {wording.signed(row.estimate)}" for row in frame.itertuples()
    )
    return figures.described(figure, f"Effects (dB) without and with sharpening. {said}.")
