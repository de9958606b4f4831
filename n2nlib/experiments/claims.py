"""What the paper claims, and what holds: every verdict follows from a stated rule, none is typed.

Intervals are 95 %. Where a claim is about a factor they are over the pairs of runs that differ in it alone (seeds averaged first); where it is
about single settings they are of the evaluation, and of the seeds where there are several; one seed can give no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from n2nlib.experiments import effects
from n2nlib.experiments.effects import Effect
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.experiments.results import means

MARGIN = 0.12  # dB, the paper's typical evaluation spread: a smaller difference is none in its own terms


CONSISTENT = 0.9  # share of pairs with one sign from which an effect is called consistent


MIXED = 0.2  # share of the rarer sign from which results are called mixed


REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_TESTED = (
    "reproduced",
    "not reproduced",
    "inconclusive",
    "not tested at this scale",
)


def direction(sign: int) -> Callable[[Effect], str]:
    """A is better (sign +1) or worse (-1): the interval must leave out zero on that side; on the other side it refutes."""

    def rule(effect: Effect) -> str:
        low, high = sorted((sign * effect.low, sign * effect.high))
        return REPRODUCED if low > 0 else NOT_REPRODUCED if high < 0 else INCONCLUSIVE

    return rule


def consistent(sign: int) -> Callable[[Effect], str]:
    """Better in (nearly) every pair: the direction holds, and at least 90 % of pairs have that sign. A direction with fewer refutes."""

    def rule(effect: Effect) -> str:
        found = direction(sign)(effect)
        if found != REPRODUCED:
            return found
        return REPRODUCED if effect.same_sign / effect.pairs >= CONSISTENT else NOT_REPRODUCED

    return rule


def no_advantage(effect: Effect) -> str:
    """No advantage of A: an advantage beyond the margin is ruled out. An interval above zero refutes."""
    if np.isnan(effect.high):
        return INCONCLUSIVE
    return REPRODUCED if effect.high <= MARGIN else NOT_REPRODUCED if effect.low > 0 else INCONCLUSIVE


def mixed(effect: Effect) -> str:
    """Better here, worse there: at least a fifth of the pairs has the rarer sign. Fewer, with an interval that leaves out zero, refute."""
    if 1 - effect.same_sign / effect.pairs >= MIXED:
        return REPRODUCED
    return NOT_REPRODUCED if effect.low > 0 or effect.high < 0 else INCONCLUSIVE


def similar(effect: Effect) -> str:
    """Alike: the whole interval lies within twice the margin. An interval wholly beyond it refutes."""
    reach = 2 * MARGIN
    if -reach <= effect.low and effect.high <= reach:
        return REPRODUCED
    return NOT_REPRODUCED if effect.low > reach or effect.high < -reach else INCONCLUSIVE


def not_worse(effect: Effect) -> str:
    """As good as the best other: not below it by more than the margin. An interval wholly below refutes."""
    return NOT_REPRODUCED if effect.high < -MARGIN else REPRODUCED if effect.mean >= -MARGIN else INCONCLUSIVE


@dataclass(frozen=True)
class Results:
    """The tables that claims are about; the published study has no curves as data."""

    table1: pd.DataFrame
    table3: pd.DataFrame
    curves: pd.DataFrame | None = None
    candidates: pd.DataFrame | None = None
    final_psnr: float = float("nan")


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, how it is measured (None: these results cannot tell) and the rule for its verdict."""

    name: str
    section: str
    statement: str
    measure: Callable[[Results], Effect | None]
    rule: Callable[[Effect], str]


def _table1(factor: str, a: object, b: object) -> Callable[[Results], Effect | None]:
    return lambda results: _between(results.table1, factor, a, b)


def _between(table: pd.DataFrame, factor: str, a: object, b: object) -> Effect | None:
    return effects.effect(table, factor, a, b) if {a, b} <= set(table[factor]) and a != b else None


def _ends(factor: str, low: str = "min") -> Callable[[Results], Effect | None]:
    """Of a parameter of Table III: its largest value against its smallest, or against the middle one."""

    def measure(results: Results) -> Effect | None:
        values = sorted(results.table3[factor].unique())
        return _between(
            results.table3, factor, values[-1], values[len(values) // 2 if low == "middle" else 0]
        )

    return measure


def _crops_with_sharpening(results: Results) -> Effect | None:
    """How much worse crops do with sharpening than without, over the pairs."""
    if not all({True, False} <= set(results.table1[name]) for name in ("crops", "sharpen")):
        return None
    return effects.interaction(results.table1, ("crops", True, False), ("sharpen", True, False))


NETWORK = {"loss": "mse", "optimizer": "adam", "sharpen": True, "crops": False, "arch": "tconv"}


BASELINE = {"loss": "l1", "optimizer": "adam", "sharpen": False, "crops": False, "arch": "upsample"}


def _rows(table: pd.DataFrame, setting: dict[str, object]) -> pd.Series:
    return (table[list(setting)] == pd.Series(setting)).all(axis=1)


def _single(a: pd.DataFrame, b: pd.DataFrame, seeds: float = 0.0) -> Effect | None:
    """Difference of two settings' mean PSNRs, its interval from the spread of the evaluation and from that of `seeds` (dB, of the difference)."""
    if a.empty or b.empty:
        return None
    spread = float(np.sqrt(a["psnr_std"].mean() ** 2 + b["psnr_std"].mean() ** 2 + seeds**2))
    return effects.of_spread(float(a["psnr_mean"].mean() - b["psnr_mean"].mean()), spread)


def _settings(results: Results) -> tuple[pd.DataFrame, float]:
    """Table I's settings, seeds averaged, and how far two such means are apart by their seeds alone (standard deviation, dB; 0 for one seed)."""
    table = means(results.table1, ABLATION)
    if "seed_std" not in table:
        return table, 0.0
    seeds = results.table1["seed"].nunique()
    return table, effects.seed_spread(table["seed_std"], seeds) * np.sqrt(2 / seeds)


def _best_against_baseline(results: Results) -> Effect | None:
    table, seeds = _settings(results)
    is_baseline = _rows(table, BASELINE)
    return _single(table[~is_baseline].nsmallest(1, "rank"), table[is_baseline], seeds)


def _optimal_network(results: Results) -> Effect | None:
    table, seeds = _settings(results)
    is_network = _rows(table, NETWORK)
    return _single(table[is_network], table[~is_network].nsmallest(1, "rank"), seeds)


def _curve(results: Results, setting: dict[str, object], share: tuple[float, float]) -> pd.DataFrame:
    """A candidate's epochs within `share` of the schedule; empty if it is none of the candidates."""
    if results.curves is None or results.candidates is None:
        return pd.DataFrame()
    found = results.candidates[_rows(results.candidates, setting)]
    curve = results.curves[results.curves["candidate"].isin(found["candidate"])]
    last = curve["epoch"].max() if len(curve) else 0
    return curve[(curve["epoch"] > share[0] * last) & (curve["epoch"] <= share[1] * last)]


def _adam_early(results: Results) -> Effect | None:
    return _single(*(_curve(results, {"optimizer": name}, (0, 0.25)) for name in ("adam", "sgd")))


def _candidate_2_against_1(first: float, last: float) -> Callable[[Results], Effect | None]:
    def measure(results: Results) -> Effect | None:
        return _single(
            *(_curve(results, NETWORK | {"arch": arch}, (first, last)) for arch in ("tconv", "upsample"))
        )

    return measure


CLAIMS = (
    Claim(
        "tconv_no_advantage",
        "I",
        "there is no consistent advantage in this complexity gain",
        _table1("arch", "tconv", "upsample"),
        no_advantage,
    ),
    Claim(
        "crops_mixed",
        "I",
        "local and global crops as a data augmentation strategy [lead] to mixed results",
        _table1("crops", True, False),
        mixed,
    ),
    Claim(
        "sharpening_better",
        "I",
        "an explicit sharpening operator after the U-Net leads to a better performance",
        _table1("sharpen", True, False),
        direction(1),
    ),
    Claim(
        "better_than_original",
        "III-A",
        "the new models performed better [than the original Noise2Noise]",
        _best_against_baseline,
        direction(1),
    ),
    Claim(
        "adam_faster",
        "III-B",
        "the models trained with Adam optimizer converged faster",
        _adam_early,
        direction(1),
    ),
    Claim(
        "candidates_similar",
        "III-B",
        "Candidates 1 and 2 perform very similarly",
        _candidate_2_against_1(0.5, 1),
        similar,
    ),
    Claim(
        "candidate_2_ahead",
        "III-B",
        "Candidate 2 slightly outperforms 1 in the beginning",
        _candidate_2_against_1(0, 0.25),
        direction(1),
    ),
    Claim(
        "candidate_1_ahead",
        "IV",
        "Candidate 1 outperforms Candidate 2 in the beginning",
        _candidate_2_against_1(0, 0.25),
        direction(-1),
    ),
    Claim(
        "tconv_worse",
        "IV",
        "on average, TConv led to worse results than Upsample",
        _table1("arch", "tconv", "upsample"),
        direction(-1),
    ),
    Claim(
        "sharpening_consistent",
        "IV",
        "the sharpening operator was very beneficial, consistently improving the results",
        _table1("sharpen", True, False),
        consistent(1),
    ),
    Claim(
        "mse_consistent",
        "IV",
        "the MSE loss gave consistently better results than the L1 loss",
        _table1("loss", "mse", "l1"),
        consistent(1),
    ),
    Claim(
        "adam_better",
        "IV",
        "likewise Adam performed better than SGD",
        _table1("optimizer", "adam", "sgd"),
        direction(1),
    ),
    Claim(
        "crops_with_sharpening",
        "IV",
        "[crops] led to a drop, especially when combined with the sharpening operator",
        _crops_with_sharpening,
        direction(-1),
    ),
    Claim(
        "annealing_no_advantage",
        "IV",
        "the annealing strategy didn't show any advantages",
        _ends("annealing_steps"),
        no_advantage,
    ),
    Claim(
        "higher_rates_better",
        "IV",
        "higher learning rates lead to better results",
        _ends("lr0"),
        direction(1),
    ),
    Claim(
        "strong_noise_worse",
        "IV",
        "when the gaussian noise gets too strong the performance decreases",
        _ends("sigma_n", "middle"),
        direction(-1),
    ),
    Claim(
        "stronger_sharpening_worse",
        "IV",
        "increasing the strength of the sharpening operator decreased the performance",
        _ends("tau_sharp"),
        direction(-1),
    ),
    Claim(
        "optimal_network",
        "V",
        "the optimal network is a U-Net with Transposed Convolutions, [sharpening], Adam and MSE loss",
        _optimal_network,
        not_worse,
    ),
)


def _final(ours: Results, published: Results, comparable: bool) -> dict[str, object]:
    """The final model's PSNR: only the published data and training can be compared with 24.45 dB."""
    gap = ours.final_psnr - published.final_psnr
    verdict = NOT_TESTED if not comparable else REPRODUCED if abs(gap) <= 2 * MARGIN else NOT_REPRODUCED
    return {
        "claim": "final_psnr",
        "statement": f"V: can achieve a PSNR of {published.final_psnr:.2f} dB on the full validation set",
        "published": published.final_psnr,
        "ours": ours.final_psnr,
        "ci_low": np.nan,
        "ci_high": np.nan,
        "verdict": verdict,
    }


def weigh(ours: Results, published: Results, comparable: bool) -> pd.DataFrame:
    """claims.csv: claim, statement, published and ours (dB), ci_low, ci_high (of ours), verdict.

    `comparable`: our pairs are the published ones and the training is the published training, so that absolute dB can be compared.
    """
    rows = []
    for claim in CLAIMS:
        effect, theirs = claim.measure(ours), claim.measure(published)
        rows.append(
            {
                "claim": claim.name,
                "statement": f"{claim.section}: {claim.statement}",
                "published": theirs.mean if theirs else np.nan,
                "ours": effect.mean if effect else np.nan,
                "ci_low": effect.low if effect else np.nan,
                "ci_high": effect.high if effect else np.nan,
                "verdict": claim.rule(effect) if effect else NOT_TESTED,
            }
        )
    return pd.DataFrame([*rows, _final(ours, published, comparable)])


def without_dead(ours: Results, dead: pd.Series) -> Results:
    """`ours` without the runs of Table I whose output died (bool, a value a row); as it is where all did.

    Such a run is some 15 dB below its partner: one or two widen an interval beyond use, and give "mixed" results their rarer sign.
    """
    return ours if dead.all() else replace(ours, table1=ours.table1[~dead.to_numpy()])


def on_its_own_tables(published: Results) -> dict[str, str]:
    """The same rules applied to the published tables: claim -> verdict. Does the paper's evidence carry its words?"""
    measured = {claim.name: (claim, claim.measure(published)) for claim in CLAIMS}
    return {name: claim.rule(effect) for name, (claim, effect) in measured.items() if effect}
