"""Is a fresh rebuild the same as the committed results? "Slightly different numbers: is that all right?"

Each cell of each table is identical, within a tolerance that follows from the spread of evaluation and seeds, or different.
"""

from __future__ import annotations

import io
import subprocess
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from n2nlib.experiments import effects
from n2nlib.files import ROOT, UserError
from n2nlib.report.tables import COLUMNS

Z = effects.REACH * np.sqrt(2)  # for the difference of two results with the same spread


ROUNDING = 1e-4  # tables hold four decimals


SPREAD_OF_SPREAD = Z / np.sqrt(
    2 * 99
)  # relative, of a standard deviation over the 100 subsets of the protocol


MEASURED = {
    "psnr_mean",
    "psnr_std",
    "psnr_full",
    "psnr_per_image",
    "psnr_hvs_m",
    "ssim",
    "train_loss",
    "published",
    "ours",
    "ci_low",
    "ci_high",
    "verdict",
}


IGNORED = {"run"}  # names the code and the parameters, and is what led here


@dataclass
class Comparison:
    """Counts of one table's cells, and a line for each that differs."""

    table: str
    identical: int = 0
    within: int = 0
    different: list[str] = field(default_factory=list)


def compare(name: str, committed: pd.DataFrame, fresh: pd.DataFrame) -> Comparison:
    """Compare two versions of a table, row by row by the columns that describe a row; a row that one lacks differs."""
    found = Comparison(name)
    keys = [column for column in committed.columns if column not in MEASURED | IGNORED]
    if set(committed.columns) != set(fresh.columns):
        found.different.append(f"columns: {', '.join(sorted(set(committed.columns) ^ set(fresh.columns)))}")
        return found
    theirs, ours = (frame.set_index([frame[key].astype(str) for key in keys]) for frame in (committed, fresh))
    for row in theirs.index.symmetric_difference(ours.index):
        found.different.append(f"row {_words(row)} is in one of them alone")
    seeds = _seed_spread(committed, keys)
    for row in theirs.index.intersection(ours.index):
        a, b = theirs.loc[row], ours.loc[row]
        for column in sorted((MEASURED & set(committed.columns)) - IGNORED):
            if a[column] == b[column] or (pd.isna(a[column]) and pd.isna(b[column])):
                found.identical += 1
            elif column != "verdict" and abs(a[column] - b[column]) <= _tolerance(column, a, seeds):
                found.within += 1
            else:
                found.different.append(f"{_words(row)}: {column} {a[column]} committed, {b[column]} now")
    return found


def _words(row: object) -> str:
    return ", ".join(row) if isinstance(row, tuple) else str(row)


def _seed_spread(table: pd.DataFrame, keys: list[str]) -> float:
    """Standard deviation (dB) between seeds of one setting; 0 where there is one seed: then nothing is known of it.

    The median of the settings: one whose output died at one seed alone is some 15 dB apart and would let anything pass as the same.
    """
    if "seed" not in keys or table["seed"].nunique() < 2:
        return 0.0
    others = [key for key in keys if key != "seed"]
    return float(table.groupby(others)["psnr_mean"].std(ddof=1).median())


def _tolerance(column: str, row: pd.Series, seeds: float) -> float:
    """How far a cell may be from the committed one."""
    decibels = Z * np.hypot(row["psnr_std"], seeds) if "psnr_std" in row else 0.0
    if column == "psnr_std":
        return SPREAD_OF_SPREAD * row[column] + ROUNDING
    if column == "train_loss":  # a change of d dB is one of d ln(10) / 10 of the squared error
        return abs(row[column]) * decibels * np.log(10) / 10 + ROUNDING
    if column in ("ours", "ci_low", "ci_high"):
        return (row["ci_high"] - row["ci_low"]) / 2 + ROUNDING if pd.notna(row["ci_low"]) else ROUNDING
    return decibels + ROUNDING


def committed_table(scale: str, name: str) -> pd.DataFrame:
    """A table as the last commit has it. Raises `UserError` if it has none."""
    path = f"reports/{scale}/tables/{name}.csv"
    done = subprocess.run(
        ["git", "-C", str(ROOT), "show", f"HEAD:{path}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(
            f"{path}: not in the last commit, so there is nothing to compare with; allowed: a scale whose results are committed"
        )
    return pd.read_csv(io.StringIO(done.stdout))


def verify(scale: str) -> list[Comparison]:
    """Compare reports/<scale>/tables/ with the last commit's. Raises `UserError` if a table is missing on either side."""
    compared = []
    for name in COLUMNS:
        path = ROOT / "reports" / scale / "tables" / f"{name}.csv"
        committed = committed_table(scale, name)
        if not path.is_file():
            raise UserError(f"reports/{scale}/tables/{name}.csv: missing; rebuild it first (dvc repro)")
        compared.append(compare(name, committed, pd.read_csv(path)))
    return compared


def print_verification(scale: str) -> bool:
    """Print a short table; True if nothing differs."""
    compared = verify(scale)
    print(f"{'table':<22}{'identical':>10}{'within':>8}{'different':>11}")
    for one in compared:
        print(f"{one.table:<22}{one.identical:>10}{one.within:>8}{len(one.different):>11}")
    differences = [f"{one.table}: {line}" for one in compared for line in one.different]
    for line in differences[:10]:
        print(line)
    if len(differences) > 10:
        print(f"and {len(differences) - 10} more")
    if differences:
        print("Different: more than the spread of evaluation and seeds explains.")
    else:
        print(
            "The same."
            if not any(one.within for one in compared)
            else "The same within the spread of evaluation and seeds."
        )
    return not differences
