"""What statistical figures share: marks with known intervals, the margin that matters, entries of legends.

seaborn draws every statistical figure from tidy frames. Its functions compute intervals themselves; where an
interval is known, `known` turns it into three rows, whose median and range they draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from n2nlib.experiments.effects import MARGIN
from n2nlib.pairs.baselines import NOISY
from n2nlib.report import wording
from n2nlib.report.figures import BLUE, GREY, ORANGE, PALE
from n2nlib.report.wording import EVALUATED, REPORT, TRAINED

SOURCE_COLORS = {TRAINED: BLUE, EVALUATED: ORANGE, REPORT: "black"}
SOURCE_MARKERS = {TRAINED: "o", EVALUATED: "s", REPORT: "D"}
BY_SOURCE = {"hue": "source", "hue_order": list(SOURCE_COLORS), "palette": SOURCE_COLORS}
POINTS_BY_SOURCE = BY_SOURCE | {"markers": list(SOURCE_MARKERS.values())}
DIFFERENCE_LABEL = f"difference in PSNR (dB); grey: smaller than {MARGIN} dB"
INTERVAL = {"estimator": "median", "errorbar": ("pi", 100)}


def known(frame: pd.DataFrame, estimate: str = "estimate") -> pd.DataFrame:
    """Three rows for each (estimate, low, high). A missing bound gives no interval."""
    bounds = [frame[estimate], *(frame[side].fillna(frame[estimate]) for side in ("low", "high"))]
    return pd.concat([frame.assign(**{estimate: bound}) for bound in bounds], ignore_index=True)


def _hollow(frame: pd.DataFrame) -> pd.Series:
    """Which rows have an interval that says nothing about other seeds; none without a column basis."""
    return frame["basis"] != "seeds" if "basis" in frame else pd.Series(False, frame.index)


def points(axis: Axes, frame: pd.DataFrame, order: Sequence[str] | None = None, **options: object) -> None:
    """`sns.pointplot` of known intervals (estimate, low, high) in the marks of all figures.

    Estimates lie along x and names along y unless `options` say otherwise. Marks are hollow if the column
    basis says that the interval is not over seeds.
    """
    style = {"x": "estimate", "linestyle": "none", "markersize": 3.5, "err_kws": {"linewidth": 1.1}}
    for hollow, rows in frame.groupby(_hollow(frame)):
        face = {"mfc": "white", "mew": 1} if hollow else {"mew": 0.5}
        drawn = INTERVAL | style | {"legend": False} | options | face
        sns.pointplot(known(rows), order=order, **drawn, ax=axis)
    if "x" not in options:
        axis.set_ylabel("")
        axis.tick_params(axis="y", length=0)


def beside(axis: Axes, labels: Sequence[str]) -> None:
    """Labels on the right of the rows of an axis of names."""
    right = axis.secondary_yaxis("right")
    right.set_yticks(range(len(labels)), labels)
    right.tick_params(length=0)
    right.spines[:].set_visible(False)


def limits(frame: pd.DataFrame) -> tuple[float, float]:
    """Limits that show zero, every estimate, and of the intervals as much as fits in three times that."""
    low, high = (find([0.0, *frame["estimate"].dropna()]) for find in (min, max))
    room = high - low + 1
    low = max(low - room, min(low - MARGIN, frame["low"].fillna(0).min()))
    high = min(high + room, max(high + MARGIN, frame["high"].fillna(0).max()))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def band(axis: Axes, along: str = "x") -> None:
    """Zero, and around it the margin below which an effect counts as none."""
    span, line = (axis.axvspan, axis.axvline) if along == "x" else (axis.axhspan, axis.axhline)
    span(-MARGIN, MARGIN, color=PALE, lw=0, zorder=0)
    line(0, color=GREY, lw=0.8, zorder=0.5)


def differences(axis: Axes, frame: pd.DataFrame, **options: object) -> None:
    """`points` of differences of PSNR over `band`, in `limits`; intervals that are longer have arrowheads."""
    along = "y" if "x" in options else "x"
    band(axis, along)
    points(axis, frame, **options)
    low, high = limits(frame)
    axis.set(**{f"{along}lim": (low, high)})
    left, right = "<>" if along == "x" else "v^"
    for line in list(axis.lines):
        ends, across = line.get_data() if along == "x" else line.get_data()[::-1]
        if len(ends) == 2 and across[0] == across[1]:
            for beyond, edge, marker in ((min(ends) < low, low, left), (max(ends) > high, high, right)):
                if beyond:
                    place = 0.97 * edge + 0.03 * (low + high) / 2
                    at = (place, across[0]) if along == "x" else (across[0], place)
                    axis.plot(*at, marker=marker, color=line.get_color(), scalex=False, scaley=False)


def source_colors(frame: pd.DataFrame) -> dict[str, str]:
    """The colours of the sources in `frame`, in the order of legends."""
    return {name: color for name, color in SOURCE_COLORS.items() if name in set(frame["source"])}


def handles(colors: Mapping[str, str], markers: Mapping[str, str] | None = None) -> list[Line2D]:
    """Entries of a legend: a mark for each name, or a line if there are no `markers`."""
    styles = {name: {"marker": markers[name], "ls": "none"} if markers else {} for name in colors}
    return [Line2D([], [], color=color, label=name, **styles[name]) for name, color in colors.items()]


def levels(draw: Callable[..., Line2D], references: Mapping[str, float]) -> list[Line2D]:
    """Lines for `references` (name -> dB): dashed for the noisy input, dotted for a classical method.

    `draw` is `axhline` or `axvline` of an axis. The lines are entries of a legend, too.
    """
    styles = {name: "--" if NOISY in name else ":" for name in references}
    return [draw(references[name], color=GREY, ls=ls, lw=0.9, label=name) for name, ls in styles.items()]


def legend(figure: Figure, frame: pd.DataFrame, entries: Sequence[Artist] = ()) -> None:
    """A legend above a figure: `entries`, or those of the sources in `frame`, and one for hollow marks."""
    if "source" in frame and not entries:
        entries = handles(source_colors(frame), SOURCE_MARKERS)
    if _hollow(frame).any():
        style = {"marker": "o", "ls": "none", "color": GREY, "mfc": "white"}
        entries = [*entries, Line2D([], [], **style, label="fewer than three seeds")]
    if entries:
        figure.legend(handles=entries, loc="outside upper center", ncols=len(entries))


def listed(frame: pd.DataFrame, *names: str) -> str:
    """ "crops, the report: +0.12; ...": the estimates of `frame` after the columns `names`, in words."""
    return "; ".join(
        f"{', '.join(str(row[name]) for name in names)}: {wording.signed(row['estimate'])}"
        for row in frame.to_dict("records")
    )
