"""Statistical figures of Table I and of what follows from it (notebooks 03 and 06).

Failed runs, which end below their noisy input, are counted in a margin and never stretch an axis of decibels.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from n2nlib.experiments import effects as paired
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.experiments.published import NOISY_PSNR
from n2nlib.report import marks, wording
from n2nlib.report.figures import COLUMN, GREEN, GREY, PAGE, PALE, PINK, described, nothing
from n2nlib.report.wording import EVALUATED, REPORT, TRAINED

ARCHES, ARCH_MARKERS = {"TConv": GREEN, "Upsample": PINK}, {"TConv": "o", "Upsample": "s"}
CROSS = {"ha": "right", "va": "center", "fontsize": 7, "weight": "bold"}
DODGE = 0.36  # rows between the first and the last mark of a row
SHARPEN = {False: "trained without sharpening", True: "trained with sharpening"}


def _by_source(table: pd.DataFrame, published: pd.DataFrame, noisy: float) -> pd.DataFrame:
    """Table I as one row per run and source: its setting, in words as name, source, psnr (dB) and failed.

    Of the published rows those stay whose setting we trained, too. The report's noisy input is the course's.
    """
    ours = table.assign(failed=paired.failed(table, noisy))
    theirs = published.merge(table[ABLATION].drop_duplicates())
    theirs = theirs.assign(failed=paired.failed(theirs, NOISY_PSNR))
    parts = paired.by_source(ours, theirs).items()
    long = pd.concat([rows.assign(source=source, psnr=rows[value]) for source, (rows, value) in parts])
    names = [wording.setting(row) for row in long.to_dict("records")]
    return long.assign(name=names, arch=long["arch"].map(wording.ARCH)).reset_index(drop=True)


def _table1(long: pd.DataFrame, panel: str, hue: str, first: str, references: dict[str, float]) -> Figure:
    """One panel for each value of column `panel`, with a mark for each `name` and `hue`.

    A mark is the mean over seeds and its line their range. Names are sorted by the means of source `first` in
    the first panel. Failed runs are crosses in a margin at the left.
    """
    alive, values = long[~long["failed"]], list(dict.fromkeys(long[panel]))
    dots = alive.groupby([panel, "name", hue])["psnr"].agg(estimate="mean", low="min", high="max")
    dots = dots.reset_index()
    ranked = dots[(dots["source"] == first) & (dots[panel] == values[0])]
    best = ranked.groupby("name")["estimate"].mean().sort_values(ascending=False)
    order = list(dict.fromkeys([*best.index, *long["name"]]))
    colors, markers = (ARCHES, ARCH_MARKERS) if hue == "arch" else (marks.SOURCE_COLORS, marks.SOURCE_MARKERS)
    # A run fails as trained. Where both evaluations are in one panel, its cross stands for both.
    failed = long[long["failed"] & ((hue != "source") | (long["source"] != EVALUATED))]
    crosses = failed.groupby([panel, "name", hue]).size()
    low, high = (find([*alive["psnr"], *references.values()]) for find in (min, max))
    step = 0.045 * (high - low)
    left = low - step * (1 + 1.15 * max([0, *crosses]))
    size = (PAGE, 0.85 + 0.155 * len(order))
    figure, axes = plt.subplots(1, len(values), figsize=size, sharex=True, sharey=True, squeeze=False)
    panels = dict(zip(values, axes[0], strict=True))
    style = {"hue": hue, "hue_order": list(colors), "palette": colors, "dodge": DODGE}
    style |= {"markers": list(markers.values())}
    for value, axis in panels.items():
        if value != REPORT:
            levels = marks.levels(axis.axvline, references)
        marks.points(axis, dots[dots[panel] == value], order, y="name", **style)
        if len(crosses):
            axis.axvspan(left, low - 0.6 * step, color=PALE, lw=0, zorder=0)
        axis.set(xlabel="PSNR (dB, global)", xlim=(left, high + step), title=value)
        axis.grid(visible=True, axis="y")
    shift = dict(zip(colors, np.linspace(-DODGE / 2, DODGE / 2, len(colors)), strict=True))
    for (value, name, one), count in crosses.items():
        y = order.index(name) + shift[one]
        panels[value].text(low - step, y, "×" * count, color=colors[one], **CROSS)
    entries = marks.handles(colors, markers) + levels
    entries += marks.handles({"failed": GREY}, {"failed": "x"}) if len(crosses) else []
    marks.legend(figure, dots, entries)
    return figure


def table1(table: pd.DataFrame, published: pd.DataFrame, references: dict[str, float]) -> Figure:
    """Table I at a glance: one panel for each source, best setting first, one axis of decibels.

    `table` has the columns of table1_ablation.csv, `published` those of `published.table1()`; `references`
    (name -> dB on our images) are drawn as lines in our panels and hold "noisy input".
    """
    long = _by_source(table, published, references["noisy input"])
    long["name"] = long["name"].str.partition(", ")[2]  # the first word is arch, which has a mark of its own
    figure = _table1(long, "source", "arch", TRAINED, references)
    failed = long.loc[long["source"] == TRAINED, "failed"]
    return described(
        figure,
        f"PSNR of every run of Table I in three panels: as trained, with the report's evaluation, and as the "
        f"report prints it. {failed.sum()} of our {len(failed)} runs fail and are counted at the left edge.",
    )


def report_evaluation(table: pd.DataFrame, published: pd.DataFrame, references: dict[str, float]) -> Figure:
    """The settings of Table I evaluated as trained and as the report did, beside what the report prints (dB).

    The arguments are those of `table1`. One panel holds what was trained without sharpening, one the rest.
    """
    long = _by_source(table, published, references["noisy input"]).sort_values("sharpen", kind="stable")
    long["name"] = long["name"].str.replace(", sharpened", "")
    long["sharpened"] = long["sharpen"].map(SHARPEN)
    ours = {f"our {name}": value for name, value in references.items()}
    figure = _table1(long, "sharpened", "source", REPORT, ours)
    alive = long[~long["failed"]].pivot_table("psnr", ["name", "sharpened"], "source")
    alive = alive.reindex(columns=list(marks.SOURCE_COLORS)).dropna()
    gaps = alive[[TRAINED, EVALUATED]].sub(alive[REPORT], axis=0).abs().groupby("sharpened").median()
    said = [
        f"{panel.capitalize()}, the report's values lie {gap[EVALUATED]:.2f} dB from ours evaluated as the "
        f"report did and {gap[TRAINED]:.2f} dB from ours as trained (medians)."
        for panel, gap in gaps.iterrows()
    ]
    count = len(long[["name", "sharpened"]].drop_duplicates())
    return described(figure, " ".join([f"PSNR of {count} settings in three ways.", *said]))


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
    figure, axis = plt.subplots(figsize=(PAGE, 0.75 + 0.28 * len(order)))
    marks.differences(axis, frame, order=order, y="what", dodge=0.45, **marks.POINTS_BY_SOURCE)
    axis.set_xlabel(marks.DIFFERENCE_LABEL)
    axis.set_yticks(range(len(order)), [f"← {sides(what)[0]}" for what in order])
    marks.beside(axis, [f"{sides(what)[1]} →" for what in order])
    marks.legend(figure, frame)
    said = marks.listed(frame, "what", "source")
    return described(figure, f"Effect of each factor with its interval, in dB. {said}.")


def failures(frame: pd.DataFrame) -> Figure:
    """Share of failed runs for each level of each factor, as in failures.csv.

    Columns: factor, level, failed, runs, share, low, high (binomial interval; shares in [0, 1]).
    """
    names = [wording.level(row.factor, row.level) for row in frame.itertuples()]
    counts = [f"{row.failed} of {row.runs}" for row in frame.itertuples()]
    percent = {"estimate": 100 * frame["share"], "low": 100 * frame["low"], "high": 100 * frame["high"]}
    figure, axis = plt.subplots(figsize=(COLUMN, 0.4 + 0.19 * len(frame)))
    marks.points(axis, frame.assign(name=names, **percent), names, y="name")
    for row in np.flatnonzero(frame["factor"] != frame["factor"].shift())[1:]:
        axis.axhline(row - 0.5, color=GREY, lw=0.5)
    marks.beside(axis, counts)
    axis.set(xlabel="failed runs (%)", xlim=(-2, 104 * max(0.1, frame["high"].max())))
    said = "; ".join(map(": ".join, zip(names, counts, strict=True)))
    return described(figure, f"Share of runs that end below their noisy input, with 95 % intervals. {said}.")


def interactions(table: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """What one factor changes at each level of another: a panel for each of `effects.INTERACTIONS`.

    `table` has the columns of table1_ablation.csv, `published` those of `published.table1()`.
    """
    found = [
        {"what": compared[0], "by": other, "level": wording.level(other, level), "source": source}
        | vars(paired.effect(part, factor, *compared[1:], value))
        for factor, other in paired.INTERACTIONS
        for source, (runs, value) in paired.by_source(table, published).items()
        for level, part in runs.groupby(other)
        if paired.contrast_of(table, factor) and (compared := paired.contrast_of(part, factor))
    ]
    if not found:
        return nothing("This scale trains nothing that could show an interaction.")
    frame = pd.DataFrame(found)
    panels = dict(list(frame.groupby(["what", "by"], sort=False)))
    figure, axes = plt.subplots(1, len(panels), figsize=(PAGE, 2.1), squeeze=False)
    style = marks.POINTS_BY_SOURCE | {"dodge": 0.25, "linestyle": "-", "linewidth": 0.9}
    for axis, ((what, _), part) in zip(axes[0], panels.items(), strict=True):
        marks.differences(axis, part, x="level", y="estimate", **style)
        axis.set(title=what, xlabel="", ylabel="effect (dB)")
    marks.legend(figure, frame)
    said = marks.listed(frame, "what", "level", "source")
    return described(figure, f"Effects (dB) of one factor at each level of another. {said}.")
