"""Paired comparisons: what one factor changes when nothing else does, with an interval."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95  # of every interval


TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


PERCENT = f"{100 * CONFIDENCE:.0f} %"


REACH = float(stats.norm.ppf(TAILS[1]))  # of a normal interval, in standard deviations


@dataclass(frozen=True)
class Effect:
    """Differences (dB) between runs that differ in one factor alone."""

    mean: float
    standard_error: float  # between pairs: their standard deviation over the square root of their number
    low: float  # 95 % interval of the mean, Student's t over the pairs
    high: float
    pairs: int
    same_sign: int  # pairs whose difference has the sign of the mean
    smallest: float
    largest: float
    evaluation_error: float  # what the evaluation spreads alone would give, as the paper propagated them

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def differences(
    table: pd.DataFrame, factor: str, a: object, b: object, value: str = "psnr_mean"
) -> pd.Series:
    """`value` at `factor` == a minus at `factor` == b, over the pairs of rows alike in every other column that describes a run.

    Columns that begin with "psnr", and "run", are results; the rest describe. Raises ValueError if no pair is left.
    """
    keys = [
        column
        for column in table.columns
        if not column.startswith("psnr") and column not in (factor, "run", "diverged")
    ]
    sides = [table[table[factor] == side].set_index(keys)[value] for side in (a, b)]
    pairs = pd.concat(sides, axis=1, join="inner", keys=["a", "b"])
    if pairs.empty:
        raise ValueError(f"no two rows differ in {factor} alone ({a!r} and {b!r})")
    return pairs["a"] - pairs["b"]


def effect(table: pd.DataFrame, factor: str, a: object, b: object, value: str = "psnr_mean") -> Effect:
    """The paired effect of `factor` == a against b, dB; seeds of one setting are averaged first. One pair has no interval (nan)."""
    spread = (
        table.loc[table[factor].isin([a, b]), "psnr_std"].to_numpy(np.float64)
        if "psnr_std" in table
        else np.array([np.nan])
    )
    return _summarize(_over_seeds(differences(table, factor, a, b, value)), spread)


def interaction(
    table: pd.DataFrame,
    factor: tuple[str, object, object],
    other: tuple[str, object, object],
    value: str = "psnr_mean",
) -> Effect:
    """How much the effect of `factor` (name, a, b) at `other` == a differs from that at `other` == b, dB, over the fours of runs."""
    sides = [
        differences(table[table[other[0]] == side].drop(columns=other[0]), *factor, value)
        for side in other[1:]
    ]
    both = pd.concat([_over_seeds(side) for side in sides], axis=1, join="inner", keys=["a", "b"])
    return _summarize(both["a"] - both["b"], table["psnr_std"].to_numpy(np.float64))


def of_spread(mean: float, spread: float) -> Effect:
    """A difference (dB) of two settings whose `spread` is known from elsewhere (the evaluation, other settings' seeds): a normal interval."""
    reach = REACH * spread
    return Effect(mean, float("nan"), mean - reach, mean + reach, 1, 1, mean, mean, spread)


def seed_spread(stds: pd.Series, seeds: int) -> float:
    """Standard deviation (dB) between seeds, from that of each setting over its `seeds` (nan: a single one); 0 where nothing is known.

    The median of the settings, over what it is for normal values of unit spread: a setting whose output died at one seed would carry any mean.
    """
    typical = stds.median()
    return 0.0 if np.isnan(typical) else float(typical / np.sqrt(stats.chi2.median(seeds - 1) / (seeds - 1)))


def _over_seeds(values: pd.Series) -> pd.Series:
    """One value a setting: its mean over seeds. Where seeds are all that differs they are the pairs themselves."""
    others = [name for name in values.index.names if name != "seed"]
    settings = values.groupby(level=others).mean() if others else values
    return settings if len(settings) > 1 else values


def _summarize(differences: pd.Series, spread: np.ndarray) -> Effect:
    values = differences.to_numpy(np.float64)
    count, mean = len(values), float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    reach = float(stats.t.ppf(TAILS[1], count - 1)) * error if count > 1 else float("nan")
    return Effect(
        mean=mean,
        standard_error=error,
        low=mean - reach,
        high=mean + reach,
        pairs=count,
        same_sign=int((np.sign(values) == np.sign(mean)).sum()),
        smallest=float(values.min()),
        largest=float(values.max()),
        evaluation_error=float(np.sqrt((spread**2).sum()) / (len(spread) / 2)),
    )


def rank_agreement(a: pd.Series, b: pd.Series) -> tuple[float, float, float]:
    """Kendall's tau of two measures of the same runs, with a 95 % bootstrap interval over runs (1,000 resamples, seed 0); nan where all are ties."""
    values = np.array([a, b], np.float64)
    rng = np.random.default_rng(0)
    resampled = [stats.kendalltau(*values[:, rng.integers(0, len(a), len(a))]).statistic for _ in range(1000)]
    return float(stats.kendalltau(*values).statistic), *(
        float(limit) for limit in np.nanquantile(resampled, TAILS)
    )


TABLE1_FACTORS = {
    "TConv − Upsample": ("arch", "tconv", "upsample"),
    "sharpening": ("sharpen", True, False),
    "MSE − L1": ("loss", "mse", "l1"),
    "Adam − SGD": ("optimizer", "adam", "sgd"),
    "crops": ("crops", True, False),
}


def _rows(table: pd.DataFrame, factors: dict[str, tuple], source: str) -> list[dict]:
    """An effect a factor; a factor whose two values are not both in the table is left out."""
    present = {
        what: factor
        for what, factor in factors.items()
        if set(factor[1:]) <= set(table[factor[0]]) and factor[1] != factor[2]
    }
    rows = []
    for what, factor in present.items():
        with contextlib.suppress(ValueError):  # dead runs can leave no pair
            rows.append({"what": what, "source": source} | effect(table, *factor).as_dict())
    return rows


ALIVE = "ours, without dead runs"


def table1_effects(
    ours: pd.DataFrame, published: pd.DataFrame, dead: pd.Series | None = None
) -> pd.DataFrame:
    """The paired effect (dB) of each factor of Table I, in ours and in the published one: a row an effect and source.

    `dead` (bool, a value a row of ours): runs whose output died. Where there are any, the effects stand once more without their pairs.
    """
    rows = _rows(ours, TABLE1_FACTORS, "ours") + _rows(published, TABLE1_FACTORS, "published")
    if dead is not None and dead.any() and not dead.all():
        rows += _rows(ours[~dead.to_numpy()], TABLE1_FACTORS, ALIVE)
    return pd.DataFrame(rows)


def _table3_factors(table: pd.DataFrame) -> dict[str, tuple]:
    """Of each parameter of Table III the largest value against the smallest; annealing against none."""
    ends = {
        name: (name, table[name].max(), table[name].min())
        for name in ("annealing_steps", "lr0", "sigma_n", "tau_sharp")
    }
    words = {
        "annealing_steps": "annealing",
        "lr0": "highest − lowest rate",
        "sigma_n": "most − least noise",
        "tau_sharp": "τ_sharp largest − smallest",
    }
    return {words[name]: factor for name, factor in ends.items()}


def section4(
    table1: pd.DataFrame,
    table3: pd.DataFrame,
    published1: pd.DataFrame,
    published3: pd.DataFrame,
    dead: pd.Series | None = None,
) -> pd.DataFrame:
    """Every difference (dB) that section IV speaks of, from our tables and from the published: a row an effect and source (`table1_effects`)."""
    fine = _rows(table3, _table3_factors(table3), "ours") + _rows(
        published3, _table3_factors(published3), "published"
    )
    return pd.concat([table1_effects(table1, published1, dead), pd.DataFrame(fine)], ignore_index=True)


INTERACTIONS = {
    "crops, more with sharpening than without": (("crops", True, False), ("sharpen", True, False)),
    "MSE − L1, more with sharpening than without": (("loss", "mse", "l1"), ("sharpen", True, False)),
}


def sharpening_interactions(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """How much more (dB) crops and the MSE loss give with sharpening than without: a row an interaction and source."""
    rows = []
    for what, (factor, other) in INTERACTIONS.items():
        for source, table in (("ours", ours), ("published", published)):
            if all(set(values) <= set(table[name]) for name, *values in (factor, other)):
                rows.append({"what": what, "source": source} | interaction(table, factor, other).as_dict())
    return pd.DataFrame(rows, columns=None if rows else ["what"])
