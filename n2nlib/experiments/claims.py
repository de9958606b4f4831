"""What the report claims, and what holds: every verdict follows from a stated rule.

A rule judges an effect by its 95 % interval and a margin of 0.12 dB, the evaluation spread that the report
prints. It can reproduce a claim, refute it, call the difference too small to matter, or leave it open. A true
effect of 0 reproduces a claim of a difference with a probability of at most 2.5 %. A true effect of 0.12 dB
or more is ruled out or called too small with at most the same probability. Effects in between may get
either verdict. With fewer than three seeds this holds for the runs that were trained and says nothing about
other seeds. It also assumes that both choices fail equally often: if one fails more often, the medians lean
to the other one, so failures are weighed beside the verdicts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from n2nlib.experiments import effects, published
from n2nlib.experiments.effects import AS_REPORT, AS_TRAINED, FEWEST_SEEDS, MARGIN, NORMAL_REACH, Effect
from n2nlib.experiments.paper_runs import ABLATION, BASELINE, has_setting

REPRODUCED, NOT_REPRODUCED, TOO_SMALL = "reproduced", "not reproduced", "too small to matter"
INCONCLUSIVE, NOT_TESTED = "inconclusive", "not tested"
HIGHEST_RATE = 0.001  # of section III-B: the report's networks do not converge above it
OPTIMAL = {"loss": "mse", "optimizer": "adam", "sharpen": True, "crops": False, "arch": "tconv"}
CANDIDATES = ("1", "2", "3")  # of the report, which are trained for the same number of epochs
EARLY, SECOND, LATE = "first quarter", "second quarter", "second half"  # of the epochs of Fig. 2
SHARES = {EARLY: (0, 0.25), SECOND: (0.25, 0.5), LATE: (0.5, 1)}
SPREADS = {AS_TRAINED: "psnr_std", AS_REPORT: "report_std"}
ERRORS = {AS_TRAINED: "mse", AS_REPORT: "mse_report"}
SEARCHED = ["batch_size", "loss", "arch", "sharpen", "crops", "learning_rate"]  # settings of a rate search
CLAIM_COLUMNS = ["claim", "statement", "published", "ours", "ci_low", "ci_high", "verdict"]
CLAIM_COLUMNS += ["verdict_report_evaluation", "ours_report_evaluation", "basis", "rule", "evidence"]
CLAIM_COLUMNS += ["section"]


@dataclass(frozen=True)
class Results:
    """What claims are measured on. Tables have the columns of the result files; None or {}: not available.

    table1 and curves may have a column errors: `Result.errors` of the run, or those of the epoch. With it,
    comparisons of single settings have the intervals of `effects.compare`. Without it the interval is
    Student's t over three seeds or more, and with fewer that of the evaluation spread.
    """

    table1: pd.DataFrame
    table3: pd.DataFrame
    curves: pd.DataFrame | None = None
    rate_search: pd.DataFrame | None = None  # optimizer, learning_rate, psnr_full, ...: a row for each run
    noisy_db: float = float("nan")  # global PSNR of the noisy validation images
    photographs: float = float("inf")  # behind the validation images
    final_psnr: float = float("nan")  # of the final model on the whole validation set, dB
    value: str = AS_TRAINED  # or AS_REPORT: the evaluation that is read


def the_report() -> Results:
    """The report's own tables. Its Fig. 2 and its rate search are not published as data."""
    tables = published.table1(), published.table3()
    return Results(*tables, noisy_db=published.NOISY_PSNR, final_psnr=published.FINAL_PSNR)


# Rules: an effect becomes a verdict. Each docstring is the text in claims.csv.

Rule = Callable[[Effect], str]


def words(rule: Rule) -> str:
    """The text of a rule."""
    return " ".join(rule.__doc__.split())


def better(effect: Effect) -> str:
    """Reproduced: the interval lies above 0 and the estimate is at least 0.12 dB above it. Too small to
    matter: the interval lies within 0.12 dB of 0. Not reproduced: the interval rules out a gain of 0.12 dB.
    """
    if effects.within_margin(effect.low, effect.high):
        return TOO_SMALL
    if effect.low > 0 and effect.estimate >= MARGIN:
        return REPRODUCED
    return NOT_REPRODUCED if effect.high < MARGIN else INCONCLUSIVE


def worse(effect: Effect) -> str:
    """Reproduced: the interval lies below 0 and the estimate is at least 0.12 dB below it. Too small to
    matter: the interval lies within 0.12 dB of 0. Not reproduced: the interval rules out a loss of 0.12 dB.
    """
    return better(replace(effect, estimate=-effect.estimate, low=-effect.high, high=-effect.low))


def consistently_better(effect: Effect) -> str:
    """Not reproduced: more than an eighth of the pairs, and at least two, have an established loss: there are
    three seeds or more, the interval of the pair over them lies below 0, and its mean is at least 0.12 dB
    below it. Otherwise reproduced: the interval lies above 0, the estimate is at least 0.12 dB above it, and
    at least 90 % of the pairs have a gain. Too small to matter: the interval lies within 0.12 dB of 0. Not
    reproduced: it rules out a gain of 0.12 dB.
    """
    if _many(effect.losses, effect.pairs):
        return NOT_REPRODUCED
    found = better(effect)
    return found if found != REPRODUCED or 10 * effect.better >= 9 * effect.pairs else INCONCLUSIVE


def mixed(effect: Effect) -> str:
    """Reproduced: more than an eighth of the pairs, and at least two, have an established gain, and as many
    have an established loss. Not reproduced: so many pairs are established on one side that too few are left
    for the other. Too small to matter: no pair is established, and the interval lies within 0.12 dB of 0. A
    pair is established if its own interval over seeds leaves out 0 and its mean is at least 0.12 dB away from
    it. With fewer than four pairs the verdict is inconclusive, and with fewer than three seeds the claim is
    not tested.
    """
    rarer, more = sorted((effect.gains, effect.losses))
    if effect.seeds < FEWEST_SEEDS or effect.pairs < 4:
        return INCONCLUSIVE
    if _many(rarer, effect.pairs):
        return REPRODUCED
    if not _many(effect.pairs - more, effect.pairs):
        return NOT_REPRODUCED
    return TOO_SMALL if more == 0 and effects.within_margin(effect.low, effect.high) else INCONCLUSIVE


def no_advantage(effect: Effect) -> str:
    """Reproduced: the interval rules out a gain of 0.12 dB. Too small to matter: the interval does so, but
    lies above 0. Not reproduced: the interval lies above 0 and the estimate is at least 0.12 dB.
    """
    if effect.high < MARGIN:
        return TOO_SMALL if effect.low > 0 else REPRODUCED
    return NOT_REPRODUCED if effect.low > 0 and effect.estimate >= MARGIN else INCONCLUSIVE


def similar(effect: Effect) -> str:
    """Reproduced: the interval lies within 0.12 dB of 0. Not reproduced: the whole interval is
    more than 0.12 dB from 0.
    """
    if effects.within_margin(effect.low, effect.high):
        return REPRODUCED
    return NOT_REPRODUCED if effect.low > MARGIN or effect.high < -MARGIN else INCONCLUSIVE


def _many(count: int, pairs: int) -> bool:
    """Of 16 pairs without an effect, chance establishes so many on one side with a probability of 0.7 %."""
    return count >= 2 and 8 * count > pairs


# Measures: results become an effect


class Measure(NamedTuple):
    """File and columns, in words, and how they become an effect (None: these results cannot tell)."""

    evidence: str
    effect: Callable[[Results], Effect | None]


_T1 = "03_ablation/table1_ablation.csv: psnr_mean"
_T3 = "05_fine_tuning/table3_fine_tuning.csv: psnr_mean"
_CURVES = "04_candidate_curves/curves.csv: psnr_mean"


def _table1(factor: str) -> Measure:
    evidence = f"{_T1}, pairs of settings that differ in {factor} alone"
    return Measure(evidence, partial(_compared, "table1", factor))


def _table3(factor: str, compared: str) -> Measure:
    copies = "" if factor == "sigma_n" else "; settings that differ only in sigma_n count as one"
    return Measure(f"{_T3}, {compared}{copies}", partial(_compared, "table3", factor))


def _compared(name: str, factor: str, results: Results) -> Effect | None:
    table = _table(name, results)
    found = effects.contrast_of(table, factor)
    if found is None:
        return None
    _, a, b = found
    if factor == "sigma_n":  # "too strong" is about the upper half of what was tried
        values = sorted(table[factor].unique())
        b = values[(len(values) - 1) // 2]
    return effects.effect(table, factor, a, b, results.value)


def _table(name: str, results: Results) -> pd.DataFrame:
    """A table of `results` with seeds and, as far as they are known, the errors of each run.

    It is empty if the evaluation that is read was not measured.
    """
    table = getattr(results, name)
    table = table.assign(seed=table.get("seed", 0), errors=table.get("errors"))
    return table if results.value in table else table.head(0)


@partial(Measure, f"{_T1}, effect of crops with sharpening minus that without, over groups of four settings")
def _crops_with_sharpening(results: Results) -> Effect | None:
    return effects.interaction(_table("table1", results), "crops", "sharpen", results.value)


def _contrast(sides: list[tuple[pd.DataFrame, pd.DataFrame]], results: Results) -> Effect | None:
    """Difference of two sets of runs, whose PSNRs are averaged; a pair of sets for each seed."""
    value, parts = results.value, [part for side in sides for part in side]
    if not parts or any(part.empty for part in parts):
        return None
    if all(part["errors"].notna().all() for part in parts):
        stacks = [[[one[ERRORS[value]] for one in part["errors"]] for part in side] for side in sides]
        return effects.compare(*map(np.array, zip(*stacks, strict=True)), results.photographs)
    each = np.array([a[value].mean() - b[value].mean() for a, b in sides])
    if len(each) >= FEWEST_SEEDS:
        return effects.single(each)
    # The spread is that of subsets of half of the images; a whole set has half the variance.
    variances = [part.get(SPREADS[value], part["psnr_std"]).pow(2).mean() / 2 for part in parts]
    return effects.single(each, NORMAL_REACH * float(np.sqrt(sum(variances) / len(sides))))


@partial(Measure, f"{_T1}, mean of candidates 1, 2, 3 minus L1, Adam, Upsample, no sharpening, no crops")
def _new_models(results: Results) -> Effect | None:
    candidates, seeds = published.table2()[ABLATION], _table("table1", results).groupby("seed", sort=False)
    sides = [(part.merge(candidates), part[has_setting(part, BASELINE)]) for _, part in seeds]
    whole = all(len(a) == len(candidates) for a, _ in sides)
    return _contrast(sides, results) if whole else None


@partial(
    Measure,
    f"{_T1}, that setting minus the best other setting, which is chosen on the other seeds (no interval with "
    "one seed)",
)
def _optimal_network(results: Results) -> Effect | None:
    table, value = _table("table1", results), results.value
    chosen = has_setting(table, OPTIMAL)
    ours, others = table[chosen], table[~chosen]
    if ours.empty or others.empty:
        return None
    if ours["seed"].nunique() == 1:  # the best of 31 owes something to luck
        best = others.groupby(ABLATION)[value].mean().max()
        return effects.single(np.array([ours[value].mean() - best]))
    sides = []
    for seed, mine in ours.groupby("seed"):
        best = others[others["seed"] != seed].groupby(ABLATION)[value].mean().idxmax()
        rival = others[has_setting(others, dict(zip(ABLATION, best, strict=True)))]
        sides.append((mine, rival[rival["seed"] == seed]))
    return _contrast(sides, results)


def _curve(candidate: str, when: str, results: Results) -> pd.DataFrame:
    """The epochs of a candidate of the report in a part of the schedule; empty if it was not trained.

    A run that diverged stays where it ended.
    """
    columns, curves = [results.value, "psnr_std", "errors"], results.curves
    if curves is None or results.value not in curves or candidate not in set(curves["candidate"]):
        return pd.DataFrame(columns=["seed", "epoch", *columns])
    epochs = sorted(set(curves.loc[curves["candidate"].isin(CANDIDATES), "epoch"]))
    curve = curves[curves["candidate"] == candidate]
    by_seed = curve.assign(errors=curve.get("errors")).set_index(["epoch", "seed"])[columns].unstack("seed")
    curve = by_seed.reindex(epochs).ffill().stack("seed", future_stack=True).reset_index()
    share, (first, last) = curve["epoch"] / curve["epoch"].max(), SHARES[when]
    return curve[(share > first) & (share <= last)]


def _candidates(a: str, b: str, when: str) -> Measure:
    """Mean PSNR of candidate a of the report in a part of the schedule minus that of candidate b."""

    def effect(results: Results) -> Effect | None:
        curves = [_curve(name, when, results) for name in (a, b)]
        seeds = sorted(set(curves[0]["seed"]) & set(curves[1]["seed"]))
        sides = [tuple(curve[curve["seed"] == seed] for curve in curves) for seed in seeds]
        return _contrast(sides, results)

    return Measure(f"{_CURVES}, {when} of the epochs, candidate {a} minus candidate {b}", effect)


@partial(
    Measure,
    f"{_CURVES}, mean distance of an epoch from the line through its neighbours, in the {SECOND} and the "
    f"{LATE}, candidate 3 minus candidate 2, seeds of which neither run failed",
)
def _steadier(results: Results) -> Effect | None:
    """A curve that rises or falls steadily has no such distance, so its trend is not called fluctuation.

    The annealing step after half of the epochs bends a curve, so no distance is taken across it.
    """
    found = (_fluctuation("3", results) - _fluctuation("2", results)).dropna()
    return effects.single(found.to_numpy()) if len(found) else None


def _fluctuation(candidate: str, results: Results) -> pd.Series:
    """The mean distance of `_steadier` by seed, dB.

    It is NaN if no part of the curve has three epochs, or if the run ends below its noisy input: a dead run
    is not a steady one.
    """
    parts = [_curve(candidate, when, results).assign(part=when) for when in (SECOND, LATE)]
    curve = pd.concat(parts, ignore_index=True)
    psnr = curve.groupby(["seed", "part"])[results.value]
    distances = (curve[results.value] - (psnr.shift(1) + psnr.shift(-1)) / 2).abs()
    failed = curve.groupby("seed")[results.value].last() < results.noisy_db
    return distances.groupby(curve["seed"]).mean().mask(failed)


@partial(
    Measure,
    "benchmarks/records/rates_<scale>.csv: psnr_full of the runs with Adam at rates above 0.001, over the "
    "longest schedule that was tried at all of them, minus that of the noisy input",
)
def _high_rates(results: Results) -> Effect | None:
    """A rate that works in a short run may make a long one fail, so long runs are used if all rates have one.

    Only rates that survive are tried with more seeds, so only the first seed is used here.
    """
    search = results.rate_search
    if search is None or results.value != AS_TRAINED:
        return None
    gap = search["psnr_full"] - search.get("noisy_psnr_full", results.noisy_db)
    search = search.assign(gap=gap, seed=search.get("seed", 0))
    read = (search["optimizer"] == "adam") & (search["learning_rate"] > HIGHEST_RATE)
    search = search[read & (search["seed"] == search["seed"].min())]
    if "schedule" in search:
        long, rate = search["schedule"] == "long", ["loss", "learning_rate"]
        every = len(search.loc[long, rate].drop_duplicates()) == len(search[rate].drop_duplicates())
        search = search[long == every]
    keys = [name for name in SEARCHED if name in search]
    found = search.pivot_table("gap", keys, "seed")
    return None if found.empty else effects.effect_of(found)


CLAIMS: dict[str, tuple[Rule, Measure]] = {  # their words: `published.statements`
    "tconv_no_advantage": (no_advantage, _table1("arch")),
    "crops_mixed": (mixed, _table1("crops")),
    "sharpening_better": (better, _table1("sharpen")),
    "better_than_original": (better, _new_models),
    "adam_faster": (better, _candidates("2", "3", EARLY)),
    "adam_steadier": (better, _steadier),
    "adam_better_minimum": (better, _candidates("2", "3", LATE)),
    "candidates_similar": (similar, _candidates("2", "1", LATE)),
    "candidate_2_ahead": (better, _candidates("2", "1", EARLY)),
    "high_rates_fail": (worse, _high_rates),
    "candidate_1_ahead": (worse, _candidates("2", "1", EARLY)),
    "tconv_worse": (worse, _table1("arch")),
    "sharpening_consistent": (consistently_better, _table1("sharpen")),
    "mse_consistent": (consistently_better, _table1("loss")),
    "adam_better": (better, _table1("optimizer")),
    "crops_with_sharpening": (worse, _crops_with_sharpening),
    "annealing_no_advantage": (no_advantage, _table3("annealing_steps", "most annealing steps minus none")),
    "higher_rates_better": (better, _table3("lr0", "highest lr0 minus lowest")),
    "strong_noise_worse": (worse, _table3("sigma_n", "largest sigma_n minus the middle one")),
    "stronger_sharpening_worse": (worse, _table3("tau_sharp", "largest tau_sharp minus smallest above 0")),
    "optimal_network": (better, _optimal_network),
}


def _verdict(rule: Rule, effect: Effect) -> str:
    """What a rule says of an effect; not tested if the effect has not what the rule looks at."""
    lacking = effect.seeds < FEWEST_SEEDS if rule is mixed else np.isnan(effect.low)
    return NOT_TESTED if lacking else rule(effect)


def _judged(claim: str, ours: Results, theirs: Results) -> dict[str, object]:
    rule, measure = CLAIMS[claim]
    each = (ours, replace(ours, value=AS_REPORT), theirs)
    effect, again, published_effect = (measure.effect(results) for results in each)
    row = {"verdict": NOT_TESTED, "basis": "", "rule": words(rule), "evidence": measure.evidence}
    if published_effect:
        row["published"] = published_effect.estimate
    if effect:
        row |= {"ours": effect.estimate, "ci_low": effect.low, "ci_high": effect.high}
        row |= {"verdict": _verdict(rule, effect), "basis": effect.basis}
    if effect and again and not pd.Series(vars(again)).equals(pd.Series(vars(effect))):  # NaN equals NaN
        row |= {"verdict_report_evaluation": _verdict(rule, again)}
        row |= {"ours_report_evaluation": again.estimate}
    return row


def _final(ours: Results, theirs: Results, comparable: bool) -> dict[str, object]:
    """The final model's PSNR: one run against one run, so the verdict has no error rate."""
    reach = NORMAL_REACH * MARGIN / np.sqrt(2)  # the spread is that of half of the images
    psnr, gap = ours.final_psnr, abs(ours.final_psnr - theirs.final_psnr)
    verdict = REPRODUCED if gap <= MARGIN else NOT_REPRODUCED if gap > MARGIN + reach else INCONCLUSIVE
    return {
        "ours": psnr,
        "ci_low": psnr - reach,
        "ci_high": psnr + reach,
        "verdict": verdict if comparable and not np.isnan(gap) else NOT_TESTED,
        "basis": effects.basis(1),
        "rule": "Reproduced: within 0.12 dB of the report's value. Not reproduced: the whole interval is "
        "more than 0.12 dB from it.",
        "evidence": "06_discussion/metrics.json: global PSNR of the final model; the course's images only",
    }


def weigh(ours: Results, comparable: bool = False) -> pd.DataFrame:
    """claims.csv: a row for each claim, with the report's value, ours, its interval (dB) and the verdict.

    Columns: `CLAIM_COLUMNS`, of which published, ours, ci_low, ci_high and ours_report_evaluation are in dB;
    basis says what the interval rests on, rule and evidence how the verdict follows.

    `comparable`: our pairs and training are the published ones, so absolute values (dB) can be compared. The
    columns that end in _report_evaluation say what follows if our networks are evaluated as the report's
    were. They are empty if both evaluations are the same.
    """
    theirs, rows = the_report(), []
    for said in published.statements().to_dict("records"):
        final = said["claim"] == "final_psnr"
        row = _final(ours, theirs, comparable) if final else _judged(said["claim"], ours, theirs)
        rows.append(said | {"statement": f"{said['section']}: {said['statement']}"} | row)
    return pd.DataFrame(rows, columns=CLAIM_COLUMNS)


def on_its_own_tables() -> dict[str, str]:
    """The same rules applied to the report's tables: claim -> verdict. Left out: what they cannot test."""
    theirs = the_report()
    measured = {claim: (rule, measure.effect(theirs)) for claim, (rule, measure) in CLAIMS.items()}
    judged = {claim: _verdict(rule, effect) for claim, (rule, effect) in measured.items() if effect}
    return {claim: verdict for claim, verdict in judged.items() if verdict != NOT_TESTED}


def chance_errors(weighed: pd.DataFrame) -> float:
    """How many verdicts of a table of `weigh` chance alone makes wrong, at most, on average.

    Every rule errs with a probability of at most 2.5 %, and expectations add up although claims share runs.
    """
    return rated_verdicts(weighed) * effects.TAILS[0]


def rated_verdicts(weighed: pd.DataFrame) -> int:
    """How many verdicts, by both evaluations, rest on three seeds or more and so have an error rate."""
    rated = weighed[weighed["basis"] == effects.basis(FEWEST_SEEDS)]
    verdicts = rated[["verdict", "verdict_report_evaluation"]]
    return int((verdicts.notna() & (verdicts != NOT_TESTED)).to_numpy().sum())
