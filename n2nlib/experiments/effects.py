"""What one factor changes when nothing else does, in dB, with an interval; and how often runs fail.

The seed is the experimental unit, because runs of one seed share their initial weights. At each seed the
effect of a factor is the median over the pairs of settings that differ in it alone, so a failed run moves
it little and every run is kept. If one choice fails more often, the median leans to the other one, so
effects and failures are read together. With three seeds or more the effect is the mean over seeds, with
Student's t over seeds. With fewer it is the median over pairs, with an interval from the sign test, which
says nothing about other seeds. Intervals hold for the settings that were trained, not for others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from n2nlib.experiments import published
from n2nlib.experiments.paper_runs import ABLATION, FINE_TUNING
from n2nlib.metrics import psnr

CONFIDENCE = 0.95  # of every interval
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
PERCENT = f"{100 * CONFIDENCE:.0f} %"
NORMAL_REACH = float(stats.norm.ppf(TAILS[1]))  # half the width of a normal interval, in standard deviations
MARGIN = 0.12  # dB, the evaluation spread that the report prints: a smaller difference does not matter
FEWEST_SEEDS = 3  # for an interval over seeds
RESAMPLES = 1000  # of a bootstrap
FEWEST_PHOTOGRAPHS = 20  # behind the images of an interval over images
AS_TRAINED, AS_REPORT = "psnr_mean", "report_mean"  # the two evaluations of every run
EVALUATIONS = {"ours, as trained": AS_TRAINED, "ours, with the report's evaluation": AS_REPORT}
REPORT = "the report"
DIFFERENCE = ("estimate", "low", "high", "seeds", "basis")  # the fields of `Effect` without pairs of settings
SETTING_COLUMNS = [*ABLATION, *FINE_TUNING]  # columns that say what was trained, the seed aside
TABLE1 = {
    "arch": ("TConv − Upsample", "tconv", "upsample"),
    "sharpen": ("sharpening", True, False),
    "loss": ("MSE − L1", "mse", "l1"),
    "optimizer": ("Adam − SGD", "adam", "sgd"),
    "crops": ("crops", True, False),
}
TABLE3 = {
    "annealing_steps": "annealing − none",
    "lr0": "highest − lowest rate",
    "sigma_n": "most − least noise",
    "tau_sharp": "strongest − weakest sharpening",
}
INTERACTIONS = {
    ("crops", "sharpen"): "crops: effect with sharpening minus effect without",
    ("loss", "sharpen"): "MSE − L1: effect with sharpening minus effect without",
    ("loss", "crops"): "MSE − L1: effect with crops minus effect without",
    ("loss", "optimizer"): "MSE − L1: effect with Adam minus effect with SGD",
}


@dataclass(frozen=True)
class Effect:
    """A difference in dB, its 95 % interval (NaN if there is none) and what it rests on."""

    estimate: float
    low: float
    high: float
    seeds: int
    pairs: int  # pairs of settings
    better: int  # pairs whose median over seeds is a gain
    gains: int  # pairs with a gain that is established and matters, see `established`
    losses: int
    basis: str  # "seeds", or "one seed" or "two seeds" if the interval says nothing about other seeds
    smallest: float = float("nan")  # of the pairs, each the mean over its seeds
    largest: float = float("nan")


def differences(
    table: pd.DataFrame, factor: str, a: object, b: object, value: str = AS_TRAINED
) -> pd.DataFrame:
    """`value` at a minus at b: one row for each pair of settings alike but for `factor`, one column per seed.

    Settings that differ in sigma_n alone are near copies: their median stands for them unless sigma_n is the
    factor. Raises ValueError if no pair is left, or if a setting has two runs of one seed.
    """
    keys = [name for name in SETTING_COLUMNS if name in table and name != factor]
    frame = table.assign(seed=table.get("seed", 0))
    if frame.duplicated([factor, *keys, "seed"]).any():
        raise ValueError(
            f"two runs of one seed differ in nothing that is known; known: {', '.join(SETTING_COLUMNS)}"
        )
    if "sigma_n" in keys:
        keys.remove("sigma_n")
        frame = frame.groupby([factor, *keys, "seed"], as_index=False)[value].median()
    sides = [frame[frame[factor] == side].set_index([*keys, "seed"])[value] for side in (a, b)]
    found = (sides[0] - sides[1]).dropna()
    if found.empty:
        raise ValueError(f"no two rows differ in {factor} alone ({a!r} and {b!r})")
    return found.unstack("seed")


def student(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high along the first axis, by Student's t; NaN limits for a single value."""
    count, mean = len(values), values.mean(axis=0)
    if count == 1:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    reach = stats.t.ppf(TAILS[1], count - 1) * values.std(axis=0, ddof=1) / np.sqrt(count)
    return mean, mean - reach, mean + reach


def sign_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, low and high along the first axis, from the order statistics of the sign test.

    Fewer than six values have no 95 % interval: its limits are NaN.
    """
    ordered, count = np.sort(values, axis=0), len(values)
    rank = int(stats.binom.ppf(TAILS[0], count, 0.5))
    nothing = np.full(values.shape[1:], np.nan)
    low, high = (ordered[rank - 1], ordered[count - rank]) if rank else (nothing, nothing)
    return np.median(values, axis=0), low, high


def estimate_and_limits(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate, low and high (dB) from differences of shape (pairs, seeds, ...)."""
    if values.shape[1] >= FEWEST_SEEDS:
        return student(np.nanmedian(values, axis=0))
    return sign_interval(np.nanmean(values, axis=1))


def established(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many pairs have a gain, and how many a loss, that chance does not explain and that matters.

    `values` are differences (pairs, seeds, ...) in dB. The interval of a pair over its seeds must leave out
    zero, and its mean must reach the margin. Fewer than three seeds establish nothing: what one run differs
    from another by chance is then unknown.
    """
    mean, low, high = student(np.moveaxis(values, 1, 0))
    enough = values.shape[1] >= FEWEST_SEEDS
    gains, losses = (mean >= MARGIN) & (low > 0), (mean <= -MARGIN) & (high < 0)
    return enough * gains.sum(axis=0), enough * losses.sum(axis=0)


def within_margin(low: float, high: float) -> bool:
    """Does an interval (dB) lie within 0.12 dB of zero, so that the effect is too small to matter?"""
    return low >= -MARGIN and high <= MARGIN


def basis(seeds: int) -> str:
    """What an interval rests on."""
    return {1: "one seed", 2: "two seeds"}.get(seeds, "seeds")


def effect_of(found: pd.DataFrame) -> Effect:
    """The effect behind differences of `differences`."""
    values = found.to_numpy(np.float64)
    pairs, seeds = values.shape
    better = int((np.nanmedian(values, axis=1) > 0).sum())
    limits, counts = map(float, estimate_and_limits(values)), map(int, established(values))
    each = np.nanmean(values, axis=1)
    return Effect(*limits, seeds, pairs, better, *counts, basis(seeds), float(each.min()), float(each.max()))


def effect(table: pd.DataFrame, factor: str, a: object, b: object, value: str = AS_TRAINED) -> Effect:
    """The effect of `factor` == a against b on the column `value`, dB. Raises ValueError as `differences`."""
    return effect_of(differences(table, factor, a, b, value))


def interaction(table: pd.DataFrame, factor: str, other: str, value: str = AS_TRAINED) -> Effect | None:
    """How much larger the effect of `factor` is at the first level of `other` than at the second, dB.

    It is taken over the groups of four runs that differ in the two factors alone. None if `table` lacks a
    level of either, see `contrast_of`. Raises ValueError as `differences`.
    """
    compared, conditions = contrast_of(table, factor), contrast_of(table, other)
    if compared is None or conditions is None:
        return None
    sides = [
        differences(table[table[other] == level].drop(columns=other), factor, *compared[1:], value)
        for level in conditions[1:]
    ]
    found = (sides[0] - sides[1]).dropna(how="all").dropna(axis=1, how="all")
    return effect_of(found)


def compare(a: np.ndarray, b: np.ndarray, photographs: float = np.inf) -> Effect:
    """Difference of the global PSNR of a and b, dB, from errors of each image, shape seeds x ... x images.

    Both are evaluated on the same images with the same seeds. One row, or an array of images alone, stands
    for all seeds (a classical method). Axes between seeds and images, such as epochs, are averaged after the
    PSNR. The variance over images is that of a bootstrap of the paired difference. With three seeds or more
    the variance over seeds is added to it, with Satterthwaite's degrees of freedom. Images of one photograph
    are not independent, so the bootstrap draws `photographs`: image i shows photograph i modulo their number
    (see `pair_set.build_pairs`). Fewer than `FEWEST_PHOTOGRAPHS` give no interval.
    """

    def gaps(weights: np.ndarray) -> np.ndarray:  # images x resamples -> seeds x resamples
        gap = psnr(a @ weights) - psnr(b @ weights)
        return gap.reshape(len(gap), -1, weights.shape[1]).mean(axis=1)

    a, b = np.atleast_2d(a), np.atleast_2d(b)
    images = a.shape[-1]
    each = gaps(np.full((images, 1), 1 / images))[:, 0]
    seeds = len(each)
    count = int(min(photographs, images))
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights = drawn[:, np.arange(images) % count].T
    over_images = float(gaps(weights / weights.sum(axis=0)).mean(axis=0).var(ddof=1))
    over_seeds = float(each.var(ddof=1)) / seeds if seeds >= FEWEST_SEEDS else 0.0
    variance = over_images + over_seeds
    freedom = (seeds - 1) * (variance / over_seeds) ** 2 if over_seeds else np.inf
    reach = float(stats.t.ppf(TAILS[1], freedom)) * variance**0.5
    return single(each, reach if photographs >= FEWEST_PHOTOGRAPHS else np.nan)


def single(each: np.ndarray, reach: float | None = None) -> Effect:
    """The difference of two settings from their differences at each seed (dB).

    The interval is the mean plus or minus `reach`, or by default Student's t over seeds, which takes three.
    """
    found = effect_of(pd.DataFrame([each]))
    if reach is None:
        return found
    return replace(found, low=found.estimate - reach, high=found.estimate + reach)


def _tau_b(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of two measures (2 x runs) in each resample; NaN where a measure ranks nothing.

    `times` (resamples x runs) says how often a resample has each run. SciPy computes one at a time, which
    takes twenty times as long.
    """
    a, b = (np.sign(np.subtract.outer(each, each)) for each in values)
    both, in_a, in_b = (((times @ one) * times).sum(axis=1) for one in (a * b, np.abs(a), np.abs(b)))
    with np.errstate(invalid="ignore"):
        return np.clip(both / np.sqrt(in_a * in_b), -1, 1)


def rank_agreement(a: pd.Series, b: pd.Series) -> tuple[float, float, float]:
    """Kendall's tau-b of two measures of the same runs and its bootstrap interval over runs.

    All are NaN if a measure is the same for all runs, which ranks nothing. The limits are NaN, too, if so few
    runs differ that this happens to more than one of forty resamples.
    """
    values = np.array([a, b], np.float64)
    if min(len(set(each)) for each in values) < 2:
        return (float("nan"),) * 3
    drawn = np.random.default_rng(0).integers(0, len(a), (RESAMPLES, len(a)))
    times = np.array([np.bincount(chosen, minlength=len(a)) for chosen in drawn])
    resampled = _tau_b(values, times)
    defined = np.isfinite(resampled)
    known = defined.mean() >= 1 - TAILS[0]
    low, high = np.quantile(resampled[defined], TAILS) if known else (np.nan, np.nan)
    return float(stats.kendalltau(*values).statistic), float(low), float(high)


def contrast_of(table: pd.DataFrame, factor: str) -> tuple[str, object, object] | None:
    """What is compared of a factor, in words, and its two levels in `table`; None if one is missing.

    A parameter of Table III is compared at its largest and its smallest value. A sharpening factor of 0 means
    a network that does not sharpen, so it is no weaker sharpening. Annealing is compared with none.
    """
    if factor not in table:
        return None
    if factor in TABLE1:
        what, a, b = TABLE1[factor]
    else:
        values = table.loc[table[factor] > 0, factor] if factor == "tau_sharp" else table[factor]
        what, a, b = TABLE3[factor], values.max(), 0 if factor == "annealing_steps" else values.min()
    return (what, a, b) if a != b and {a, b} <= set(table[factor]) else None


EFFECT_COLUMNS = ["source", "factor", "what", "estimate", "low", "high", "seeds", "pairs", "better", "basis"]
EFFECT_COLUMNS += ["smallest", "largest"]


def _rows(table: pd.DataFrame, factors: list[str], source: str, value: str) -> Iterator[dict[str, object]]:
    for factor in factors:
        compared = contrast_of(table, factor)
        if compared is not None and value in table:
            what, a, b = compared
            found = effect(table, factor, a, b, value)
            yield {"source": source, "factor": factor, "what": what} | vars(found)


def by_source(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, tuple[pd.DataFrame, str]]:
    """Source -> table and column of means (dB): both evaluations of our runs, and the report's of its own."""
    return {source: (ours, value) for source, value in EVALUATIONS.items()} | {REPORT: (theirs, AS_TRAINED)}


def effects_table(table1: pd.DataFrame, table3: pd.DataFrame) -> pd.DataFrame:
    """effects.csv: the differences (dB) of section IV, ours by both evaluations and the report's.

    Columns: source, factor, what, estimate, low, high (dB), seeds, pairs (of settings), better (pairs with a
    gain), basis, and smallest and largest (dB), the extremes over single pairs: a median says little about
    pairs that differ much.
    """
    rows: list[dict[str, object]] = []
    for ours, theirs, factors in ((table1, published.table1(), TABLE1), (table3, published.table3(), TABLE3)):
        for source, (table, value) in by_source(ours, theirs).items():
            rows += _rows(table, list(factors), source, value)
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def interactions_table(table1: pd.DataFrame) -> pd.DataFrame:
    """How much more (dB) a factor gains at one level of another factor; columns of effects.csv."""
    rows = []
    for (factor, other), what in INTERACTIONS.items():
        for source, (table, value) in by_source(table1, published.table1()).items():
            found = interaction(table, factor, other, value) if value in table else None
            if found:
                rows.append({"source": source, "factor": f"{factor} x {other}", "what": what} | vars(found))
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def failed(table: pd.DataFrame, noisy_db: float) -> pd.Series:
    """Which runs fail: those that end below the PSNR of their noisy input (dB, global).

    A table that is published without psnr_full is judged by psnr_mean.
    """
    return table["psnr_full" if "psnr_full" in table else "psnr_mean"] < noisy_db


def failures(table: pd.DataFrame, noisy_db: float) -> pd.DataFrame:
    """failures.csv: of the runs with each level of each factor of Table I, how many fail, and the share.

    See `failed`. The interval of the share is that of Clopper and Pearson. Columns: factor, level, failed,
    runs, share, low, high.
    """
    rows = []
    for factor in ABLATION:
        for level, runs in table.groupby(factor, sort=False):
            count = int(failed(runs, noisy_db).sum())
            limits = stats.binomtest(count, len(runs)).proportion_ci(CONFIDENCE)
            share = {"failed": count, "runs": len(runs), "share": count / len(runs)}
            rows.append({"factor": factor, "level": level} | share | {"low": limits.low, "high": limits.high})
    return pd.DataFrame(rows)


def by_length(progress: pd.DataFrame, scale: str, value: str = "psnr_full") -> pd.DataFrame:
    """training_length.csv of one scale: the effects of Table I's factors against the images seen.

    `progress` has a row for each run and validated epoch: setting, seed, images, `value` (dB). With crops an
    epoch has twice the images, so runs are compared at equal images: those numbers at which runs with and
    without crops were validated. A run that diverged stays where it ended. Rates are annealed over the whole
    schedule, so an early point is not a finished short training. Columns: scale, images, factor, estimate,
    low, high (dB; over seeds with three or more, else over pairs), seeds.
    """
    keys = [name for name in (*ABLATION, "seed") if name in progress]
    wide = progress.pivot(index=keys, columns="images", values=value)
    compared = wide.notna().groupby("crops").any().all()
    rows = []
    for images in compared.index[compared]:
        part = wide.ffill(axis=1)[images].dropna().rename(value).reset_index()
        rows += [{"scale": scale, "images": images} | row for row in _rows(part, list(TABLE1), "", value)]
    return pd.DataFrame(rows, columns=["scale", "images", "factor", "estimate", "low", "high", "seeds"])
