"""Is a rebuild the same as the committed results? "Slightly different numbers: is that all right?"

Every CSV file of reports/<scale>/ that the last commit holds is merged with the rebuilt one on the columns
that say what a row is about. Each other cell is identical, within tolerance, or different. Two runs of
one setting differ by the standard deviations of evaluation and seeds, which gives the tolerance of decibels.
An estimate may move by half the width of its interval. Notebooks 01 and 02 train nothing, so their tables
must be identical but for the rounding of the last decimal.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from n2nlib.experiments.effects import NORMAL_REACH
from n2nlib.experiments.paper_runs import ABLATION, by_setting
from n2nlib.files import ROOT, UserError, git
from n2nlib.report import tables
from n2nlib.report.wording import COLUMNS, Column

PROTOCOL = 100  # subsets of an evaluation of the report
ROUNDING = 1.5e-4  # files hold four decimals
EXACT = ("01_data", "02_architecture")
# Columns that the interval of their row belongs to, and its own limits.
WITH_INTERVAL = {"estimate", "ours", "gain", "tau", "share", "low", "high", "ci_low", "ci_high"}
RATIOS = {"train_loss", "ssim", "test_ssim", "sharpness"}  # of errors or of energies, not in decibels
SIDES = ("committed", "now")
# Columns that are transcribed from the report and its authors: no training moves them.
TRANSCRIBED = {"published", "printed", "authors_trained", "authors_report"}
UNKNOWN = Column("result", "")  # of a column that the registry does not know
MOST_SHOWN = 10  # differences


@dataclass
class Comparison:
    """Counts of the cells of one table, and a line for each that differs."""

    table: str
    identical: int = 0
    within: int = 0
    different: list[str] = field(default_factory=list)


def spread(table1: pd.DataFrame) -> float:
    """How far apart two runs of one setting may be by chance, dB, from a committed Table I.

    95 % of the differences are smaller. Medians over settings: a failed run has no weight. The median of the
    sample standard deviations of a few seeds is too small: 0.67 of the true one with two seeds, 0.83 with
    three. It is corrected by the median of the chi distribution. (c4 would correct a mean over settings.)
    """
    settings = by_setting(table1, ABLATION)
    freedom = settings["seeds"] - 1
    seeds = (settings["seed_std"] / np.sqrt(stats.chi2.median(freedom) / freedom)).median()
    return float(NORMAL_REACH * np.sqrt(2) * np.hypot(table1["psnr_std"].median(), np.nan_to_num(seeds)))


def compare_tables(
    name: str, committed: pd.DataFrame, now: pd.DataFrame, decibels: float, subsets: int = PROTOCOL
) -> Comparison:
    """Compare two versions of a table, all cells as text; `decibels` is the tolerance of what was trained.

    `subsets` is the number of random subsets behind each standard deviation of an evaluation.
    """
    found = Comparison(name)
    if set(committed) != set(now):
        found.different.append(f"columns: {', '.join(sorted(set(committed) ^ set(now)))}")
        return found
    roles = {column: COLUMNS.get(column, UNKNOWN).role for column in committed}
    keys, results = ([name for name in roles if roles[name] == role] for role in ("setting", "result"))
    old, new = (
        side.assign(row=side.groupby(keys).cumcount() if keys else range(len(side)))
        for side in (committed, now)
    )
    both = old.merge(new, on=[*keys, "row"], how="outer", suffixes=SIDES, indicator="side")
    for row in both.to_dict("records"):
        words = ", ".join(f"{row[key]}" for key in keys) or f"row {row['row'] + 1}"
        if row["side"] != "both":
            found.different.append(f"{words}: this row is {'gone' if row['side'] == 'left_only' else 'new'}")
            continue
        for column in results:
            before, after = (row[column + side] for side in SIDES)
            if before == after:
                found.identical += 1
            elif _close(column, row, decibels, subsets):
                found.within += 1
            else:
                found.different.append(f"{words}: {column} was {before or 'empty'}, is {after or 'empty'}")
    return found


def _close(column: str, row: dict[str, str], decibels: float, subsets: int) -> bool:
    """Is the change of a cell within its tolerance? `row` holds both versions; text and counts have none."""
    about = COLUMNS.get(column, UNKNOWN)
    if about.decimals == 0 or column in TRANSCRIBED:
        return False
    limits = ("ci_low", "ci_high") if f"ci_low{SIDES[0]}" in row else ("low", "high")
    names = [column + side for side in SIDES] + [name + SIDES[0] for name in limits]
    before, after, low, high = pd.to_numeric([row.get(name) for name in names], errors="coerce")
    if column.endswith("_std"):  # of the difference of two standard deviations
        allowed = NORMAL_REACH / np.sqrt(subsets - 1) * before
    elif column in WITH_INTERVAL and np.isfinite(high - low):
        allowed = (high - low) / 2
    elif column in RATIOS:  # a change of d dB is one of d ln(10) / 10 of a squared error or an energy
        allowed = decibels * np.log(10) / 10 * (1 - before if column.endswith("ssim") else before)
    else:
        allowed = decibels if about.header.endswith("(dB)") else 0.0
    return bool(abs(after - before) <= allowed + ROUNDING)


def _read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def verify(scale: str) -> tuple[list[Comparison], float, int]:
    """Compare every committed CSV of reports/<scale>/ with the file on disk.

    Also returned are the tolerance of what was trained (dB) and the number of seeds of the committed Table I,
    which gives it; both are 0 without one. Raises `UserError` if the last commit holds no CSV, or if one is
    missing on disk.
    """
    folder = f"reports/{scale}"
    names = git("ls-tree", "-r", "--name-only", "HEAD", f"{folder}/").split("\n")
    committed = {name: git("show", f"HEAD:{name}") for name in names if name.endswith(".csv")}
    if not committed:
        raise UserError(f"{folder}: the last commit holds no results of this scale to compare with")
    decibels, seeds, subsets = 0.0, 0, _subsets(folder)
    if text := committed.get(f"{folder}/03_ablation/table1_ablation.csv"):
        table1 = pd.read_csv(io.StringIO(text))
        decibels, seeds = spread(table1), table1["seed"].nunique()
    compared = []
    for name, text in committed.items():
        short = name.removeprefix(f"{folder}/").removesuffix(".csv")
        now = _read(tables.existing(ROOT / name).read_text(encoding="utf-8"))
        allowed = 0.0 if short.startswith(EXACT) else decibels
        compared.append(compare_tables(short, _read(text), now, allowed, subsets))
    return compared, decibels, seeds


def _subsets(folder: str) -> int:
    """The random subsets of an evaluation in the committed Table I; as many as the report's if unrecorded."""
    recorded = git("show", f"HEAD:{folder}/03_ablation/provenance.json")
    parameters = json.loads(recorded).get("parameters", {}) if recorded else {}
    return parameters.get("evaluation", {}).get("repeats", PROTOCOL)


def print_verification(scale: str) -> bool:
    """Print a short table; True if nothing differs."""
    compared, decibels, seeds = verify(scale)
    width = max(len(one.table) for one in compared)
    print(f"{'table':<{width}}{'identical':>11}{'within':>8}{'different':>11}")
    for one in compared:
        print(f"{one.table:<{width}}{one.identical:>11}{one.within:>8}{len(one.different):>11}")
    lines = [f"{one.table}: {line}" for one in compared for line in one.different]
    more = [f"... and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
    print(*lines[:MOST_SHOWN], *more, sep="\n")
    causes = "evaluation and seeds" if seeds > 1 else "the evaluation"
    tolerance = f"the spread of {causes} ({decibels:.2f} dB between two runs)" if seeds else "rounding"
    same = "identical" if not any(one.within for one in compared) else f"the same within {tolerance}"
    print(f"Different: more than {tolerance}." if lines else f"All {len(compared)} tables are {same}.")
    if lines and seeds == 1:
        print(
            "This scale has one seed, so how much two runs of a setting may differ is not known. Training "
            "on another machine does not give identical numbers, so such differences are to be expected."
        )
    return not lines
