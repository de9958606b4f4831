"""What the report claims, and what holds: every verdict follows from a stated rule.

Each rule uses the 95 % interval of an effect and a margin of 0.12 dB, the evaluation spread that the report
prints. It can reproduce a claim, refute it, call the difference too small to matter, or leave it open. A
claim of a difference cannot be reproduced within the margin, and a claim of no difference needs an interval
that rules out a difference beyond it. So each verdict is wrong by chance with a probability of at most 2.5
%.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from n2nlib.experiments import effects, published
from n2nlib.experiments.effects import AS_REPORT, AS_TRAINED, CONFIDENCE, FEWEST_SEEDS, MARGIN, REACH, Effect
from n2nlib.experiments.paper_runs import ABLATION

REPRODUCED, NOT_REPRODUCED, TOO_SMALL, INCONCLUSIVE, NOT_TESTED = (
    "reproduced",
    "not reproduced",
    "too small to matter",
    "inconclusive",
    "not tested",
)
CONSISTENT = 0.9  # share of pairs with a gain from which an effect is called consistent
MIXED = 0.1  # share of pairs with a gain, and with a loss, from which results are called mixed
HIGHEST_RATE = 0.001  # of section III-B: the report's networks do not converge above it
NETWORK = {"loss": "mse", "optimizer": "adam", "sharpen": True, "crops": False, "arch": "tconv"}
BASELINE = {"loss": "l1", "optimizer": "adam", "sharpen": False, "crops": False, "arch": "upsample"}
SPREADS = {AS_TRAINED: "psnr_std", AS_REPORT: "report_std"}
ERRORS = {AS_TRAINED: "mse", AS_REPORT: "mse_report"}


@dataclass(frozen=True)
class Results:
    """What claims are measured on. Tables have the columns of the result files; None or {}: not available.

    `errors` are `Result.errors` by run, `curve_errors` are `Result.curve` by (candidate, seed). With them,
    comparisons of single settings have intervals over images; without, of the evaluation spread.
    """

    table1: pd.DataFrame
    table3: pd.DataFrame
    curves: pd.DataFrame | None = None
    rate_search: pd.DataFrame | None = None  # optimizer, learning_rate, psnr_full, ...: a row for each run
    noisy_db: float = float("nan")  # global PSNR of the noisy validation images
    final_psnr: float = float("nan")  # of the final model on the whole validation set, dB
    errors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    curve_errors: dict[tuple[str, int], dict[int, dict[str, np.ndarray]]] = field(default_factory=dict)
    value: str = AS_TRAINED  # or AS_REPORT: the evaluation that is read


def the_report() -> Results:
    """The report's own tables. Its Fig. 2 and its rate search are not published as data."""
    return Results(
        published.table1(),
        published.table3(),
        noisy_db=published.NOISY_PSNR,
        final_psnr=published.FINAL_PSNR,
    )


@dataclass(frozen=True)
class Rule:
    """How an effect becomes a verdict: in words, and as code."""

    words: str
    judge: Callable[[Effect], str]


def _small(effect: Effect) -> bool:
    return effect.low >= -MARGIN and effect.high <= MARGIN


def _direction(sign: int) -> Callable[[Effect], str]:
    def judge(effect: Effect) -> str:
        low, high = sorted((sign * effect.low, sign * effect.high))
        if _small(effect):
            return TOO_SMALL
        if low > 0 and sign * effect.estimate >= MARGIN:
            return REPRODUCED
        return NOT_REPRODUCED if high < MARGIN else INCONCLUSIVE

    return judge


def _consistent(effect: Effect) -> str:
    found = _direction(1)(effect)
    if found != REPRODUCED or effect.better >= CONSISTENT * effect.pairs:
        return found
    return NOT_REPRODUCED if effect.losses > (1 - CONSISTENT) * effect.pairs else INCONCLUSIVE


def _mixed(effect: Effect) -> str:
    enough = max(2, MIXED * effect.pairs)
    rarer, more = sorted((effect.gains, effect.losses))
    if rarer >= enough:
        return REPRODUCED
    if _small(effect) and more < enough:
        return TOO_SMALL
    one_sided = abs(effect.estimate) >= MARGIN and (effect.low > 0 or effect.high < 0)
    return NOT_REPRODUCED if one_sided and rarer == 0 else INCONCLUSIVE


def _no_advantage(effect: Effect) -> str:
    if effect.high < MARGIN:
        return TOO_SMALL if effect.low > 0 else REPRODUCED
    return NOT_REPRODUCED if effect.low > 0 and effect.estimate >= MARGIN else INCONCLUSIVE


def _similar(effect: Effect) -> str:
    if _small(effect):
        return REPRODUCED
    return NOT_REPRODUCED if effect.low > MARGIN or effect.high < -MARGIN else INCONCLUSIVE


_GAIN = (
    "Reproduced: the interval lies {above} 0 and the estimate is at least 0.12 dB {above} it. Too "
    "small to matter: the interval lies within 0.12 dB of 0. Not reproduced: the interval rules out a "
    "{gain} of 0.12 dB."
)
BETTER = Rule(_GAIN.format(above="above", gain="gain"), _direction(1))
WORSE = Rule(_GAIN.format(above="below", gain="loss"), _direction(-1))
_ESTABLISHED = (
    " A gain or loss of a pair is established if its own interval over seeds leaves out 0 and its mean is at "
    "least 0.12 dB, or with fewer than three seeds if its mean is between 0.36 and 5 dB."
)
CONSISTENTLY_BETTER = Rule(
    f"{BETTER.words} To be reproduced, nine of ten pairs must gain, too. It is not reproduced if more than "
    f"one of ten has an established loss.{_ESTABLISHED}",
    _consistent,
)
MIXED_RESULTS = Rule(
    "Reproduced: at least a tenth of the pairs (two or more) has an established gain, and as many have an "
    "established loss. Too small to matter: neither, and the interval lies within 0.12 dB of 0. Not "
    "reproduced: the interval leaves out 0, the estimate is at least 0.12 dB away from it, and no pair is "
    f"established on the other side.{_ESTABLISHED}",
    _mixed,
)
NO_ADVANTAGE = Rule(
    "Reproduced: the interval rules out a gain of 0.12 dB. Too small to matter: it does so but lies above 0. "
    "Not reproduced: the interval lies above 0 and the estimate is at least 0.12 dB.",
    _no_advantage,
)
SIMILAR = Rule(
    "Reproduced: the interval lies within 0.12 dB of 0. Not reproduced: it lies wholly beyond.", _similar
)


@dataclass(frozen=True)
class Claim:
    """A sentence of the report, how it is measured (None: these results cannot tell) and how it is judged."""

    name: str
    section: str
    statement: str
    measure: Callable[[Results], Effect | None]
    rule: Rule
    evidence: str  # which file and which columns, in words
    quoted: float = float("nan")  # the report's value (dB), if it stands in the text and in no table


def _table1(factor: str) -> Callable[[Results], Effect | None]:
    return lambda results: _compared(results.table1, effects.levels(results.table1, factor), factor, results)


def _table3(factor: str, lowest: str = "min") -> Callable[[Results], Effect | None]:
    """A parameter of Table III at its largest value against its smallest, or its median."""

    def measure(results: Results) -> Effect | None:
        found = effects.levels(results.table3, factor)
        if found and lowest == "middle":
            values = sorted(results.table3[factor].unique())
            found = (found[0], values[-1], values[(len(values) - 1) // 2])
        return _compared(results.table3, found, factor, results)

    return measure


def _compared(
    table: pd.DataFrame, found: tuple[str, object, object] | None, factor: str, results: Results
) -> Effect | None:
    if found is None or results.value not in table:
        return None
    return effects.effect(table, factor, *found[1:], results.value)


def _crops_with_sharpening(results: Results) -> Effect | None:
    found = {name: effects.levels(results.table1, name) for name in ("crops", "sharpen")}
    if None in found.values() or results.value not in results.table1:
        return None
    return effects.interaction(
        results.table1, *((name, *levels[1:]) for name, levels in found.items()), results.value
    )


def _contrast(
    sides: list[tuple[pd.DataFrame, pd.DataFrame]], value: str, errors: dict[str, dict[str, np.ndarray]]
) -> Effect | None:
    """Difference of two sets of runs, whose PSNRs are averaged; a pair of sets for each seed."""
    if not sides or any(part.empty for side in sides for part in side):
        return None
    if errors and all(name in errors for side in sides for part in side for name in part["run"]):
        stacks = [[[errors[name][ERRORS[value]] for name in part["run"]] for part in side] for side in sides]
        return effects.compare(*(np.array(part) for part in zip(*stacks, strict=True)))
    each = np.array([a[value].mean() - b[value].mean() for a, b in sides])
    if len(each) >= FEWEST_SEEDS:
        return effects.single(each)
    # The spread is that of subsets of half of the images; a whole set has half the variance.
    spreads = [part.get(SPREADS[value], part["psnr_std"]) for side in sides for part in side]
    variances = [spread.pow(2).mean() / 2 for spread in spreads]
    return effects.single(each, REACH * float(np.sqrt(sum(variances) / len(sides))))


def _is(table: pd.DataFrame, setting: dict[str, object]) -> pd.Series:
    return (table[list(setting)] == pd.Series(setting)).all(axis=1)


def _of_table1(results: Results) -> pd.DataFrame:
    table = results.table1.assign(seed=results.table1.get("seed", 0))
    return table if results.value in table else table.head(0)


def _new_models(results: Results) -> Effect | None:
    """The report's three candidates against the original Noise2Noise."""
    table = _of_table1(results)
    candidates = published.table2()[ABLATION]
    sides = [
        (part.merge(candidates), part[_is(part, BASELINE)]) for _, part in table.groupby("seed", sort=False)
    ]
    whole = all(len(a) == len(candidates) for a, _ in sides)
    return _contrast(sides, results.value, results.errors) if whole else None


def _optimal_network(results: Results) -> Effect | None:
    """The report's choice against the best other setting, which the other seeds choose if there are any."""
    table = _of_table1(results)
    ours, others = table[_is(table, NETWORK)], table[~_is(table, NETWORK)]
    sides = []
    for seed in ours["seed"]:
        chosen_on = others[others["seed"] != seed] if ours["seed"].nunique() > 1 else others
        if chosen_on.empty:
            return None
        best = chosen_on.groupby(ABLATION)[results.value].mean().idxmax()
        rival = others[_is(others, dict(zip(ABLATION, best, strict=True)))]
        sides.append((ours[ours["seed"] == seed], rival[rival["seed"] == seed]))
    return _contrast(sides, results.value, results.errors)


def _curve(results: Results, candidate: str, share: tuple[float, float]) -> pd.DataFrame:
    """The epochs of a candidate of the report within a share of the schedule; empty if it was not trained."""
    if results.curves is None or results.value not in results.curves:
        return pd.DataFrame(columns=["seed", "epoch", results.value])
    curves = results.curves.assign(seed=results.curves.get("seed", 0))
    curve = curves[curves["candidate"].astype(str) == candidate]
    last = curve["epoch"].max()
    return curve[(curve["epoch"] > share[0] * last) & (curve["epoch"] <= share[1] * last)]


def _candidates(a: str, b: str, share: tuple[float, float]) -> Callable[[Results], Effect | None]:
    """Mean PSNR over a share of the schedule, candidate a of the report minus candidate b."""

    def measure(results: Results) -> Effect | None:
        curves = [_curve(results, name, share) for name in (a, b)]
        seeds = sorted(set(curves[0]["seed"]) & set(curves[1]["seed"]))
        if not seeds:
            return None
        if all((name, seed) in results.curve_errors for name in (a, b) for seed in seeds):
            key, epochs = ERRORS[results.value], sorted(set(curves[0]["epoch"]) & set(curves[1]["epoch"]))
            stacks = [
                [[results.curve_errors[name, seed][epoch][key] for epoch in epochs] for seed in seeds]
                for name in (a, b)
            ]
            return effects.compare(np.array(stacks[0]), np.array(stacks[1]))
        sides = [tuple(curve[curve["seed"] == seed] for curve in curves) for seed in seeds]
        return _contrast(sides, results.value, {})

    return measure


def _steadier(results: Results) -> Effect | None:
    """How much more candidate 3 (SGD) changes from epoch to epoch than candidate 2 (Adam), later on."""
    later = [_curve(results, name, LATER).groupby("seed")[results.value] for name in ("3", "2")]
    changes = [psnr.agg(lambda values: values.diff().abs().mean()) for psnr in later]
    found = (changes[0] - changes[1]).dropna()
    return effects.single(found.to_numpy()) if len(found) else None


def _high_rates(results: Results) -> Effect | None:
    """PSNR minus that of the noisy input, median over Adam's runs with rates above 0.001."""
    if results.rate_search is None or results.value != AS_TRAINED:
        return None
    search = results.rate_search
    runs = search[(search["optimizer"] == "adam") & (search["learning_rate"] > HIGHEST_RATE)]
    if runs.empty or np.isnan(results.noisy_db):
        return None
    known = ["batch_size", "loss", "arch", "sharpen", "crops", "learning_rate"]
    keys = [name for name in known if name in runs]
    gaps = runs.assign(gap=runs["psnr_full"] - results.noisy_db, seed=runs.get("seed", 0))
    return effects.summarize(gaps.pivot_table("gap", keys, "seed"))


EARLY, LATE, LATER = (0, 0.25), (0.5, 1), (0.25, 1)  # shares of the schedule of Fig. 2
_T1 = "03_ablation/table1_ablation.csv: psnr_mean"
_T3 = "05_fine_tuning/table3_fine_tuning.csv: psnr_mean"
_CURVES = "04_candidate_curves/curves.csv: psnr_mean"


def _pairs_in(factor: str) -> str:
    return f"{_T1}, pairs of settings that differ in {factor} alone"


CLAIMS = (
    Claim(
        "tconv_no_advantage",
        "I",
        "there is no consistent advantage in this complexity gain",
        _table1("arch"),
        NO_ADVANTAGE,
        _pairs_in("arch"),
    ),
    Claim(
        "crops_mixed",
        "I",
        "local and global crops as a data augmentation strategy [lead] to mixed results",
        _table1("crops"),
        MIXED_RESULTS,
        _pairs_in("crops"),
    ),
    Claim(
        "sharpening_better",
        "I",
        "an explicit sharpening operator after the U-Net leads to a better performance",
        _table1("sharpen"),
        BETTER,
        _pairs_in("sharpen"),
    ),
    Claim(
        "better_than_original",
        "III-A",
        "the new models performed better [than the original Noise2Noise]",
        _new_models,
        BETTER,
        f"{_T1}, mean of candidates 1, 2 and 3 minus L1, Adam, Upsample without sharpening and crops",
    ),
    Claim(
        "adam_faster",
        "III-B",
        "the models trained with Adam optimizer converged faster",
        _candidates("2", "3", EARLY),
        BETTER,
        f"{_CURVES}, first quarter of the epochs, candidate 2 minus 3, which differ in the optimiser alone",
    ),
    Claim(
        "adam_steadier",
        "III-B",
        "[Adam] with less fluctuation towards its optimal configuration",
        _steadier,
        BETTER,
        f"{_CURVES}, mean change from epoch to epoch after the first quarter, candidate 3 minus candidate 2",
    ),
    Claim(
        "adam_better_minimum",
        "III-B",
        "[Adam converged] to a better minimum",
        _candidates("2", "3", LATE),
        BETTER,
        f"{_CURVES}, second half of the epochs, candidate 2 minus candidate 3",
    ),
    Claim(
        "candidates_similar",
        "III-B",
        "Candidates 1 and 2 perform very similarly",
        _candidates("2", "1", LATE),
        SIMILAR,
        f"{_CURVES}, second half of the epochs, candidate 2 minus candidate 1",
    ),
    Claim(
        "candidate_2_ahead",
        "III-B",
        "Candidate 2 slightly outperforms 1 in the beginning",
        _candidates("2", "1", EARLY),
        BETTER,
        f"{_CURVES}, first quarter of the epochs, candidate 2 minus candidate 1",
    ),
    Claim(
        "high_rates_fail",
        "III-B",
        "[for] learning rate values larger than 0.001, [...] the network would not converge, leading to "
        "values of PSNR ~ 5",
        _high_rates,
        WORSE,
        "rate search: psnr_full of Adam's runs with rates above 0.001, minus that of the noisy input",
        5 - published.NOISY_PSNR,
    ),
    Claim(
        "candidate_1_ahead",
        "IV",
        "Candidate 1 outperforms Candidate 2 in the beginning",
        _candidates("2", "1", EARLY),
        WORSE,
        f"{_CURVES}, first quarter of the epochs, candidate 2 minus candidate 1",
    ),
    Claim(
        "tconv_worse",
        "IV",
        "on average, TConv led to worse results than Upsample",
        _table1("arch"),
        WORSE,
        _pairs_in("arch"),
    ),
    Claim(
        "sharpening_consistent",
        "IV",
        "the sharpening operator was very beneficial, consistently improving the results",
        _table1("sharpen"),
        CONSISTENTLY_BETTER,
        _pairs_in("sharpen"),
    ),
    Claim(
        "mse_consistent",
        "IV",
        "the MSE loss gave consistently better results than the L1 loss",
        _table1("loss"),
        CONSISTENTLY_BETTER,
        _pairs_in("loss"),
    ),
    Claim(
        "adam_better",
        "IV",
        "likewise Adam performed better than SGD",
        _table1("optimizer"),
        BETTER,
        _pairs_in("optimizer"),
    ),
    Claim(
        "crops_with_sharpening",
        "IV",
        "[crops] led to a drop, especially when combined with the sharpening operator",
        _crops_with_sharpening,
        WORSE,
        f"{_T1}, effect of crops with sharpening minus that without, fours of settings",
    ),
    Claim(
        "annealing_no_advantage",
        "IV",
        "the annealing strategy didn't show any advantages",
        _table3("annealing_steps"),
        NO_ADVANTAGE,
        f"{_T3}, most annealing steps minus fewest; values of sigma_n stand for one setting",
    ),
    Claim(
        "higher_rates_better",
        "IV",
        "higher learning rates lead to better results",
        _table3("lr0"),
        BETTER,
        f"{_T3}, highest lr0 minus lowest; values of sigma_n stand for one setting",
    ),
    Claim(
        "strong_noise_worse",
        "IV",
        "when the gaussian noise gets too strong the performance decreases",
        _table3("sigma_n", "middle"),
        WORSE,
        f"{_T3}, largest sigma_n minus the middle one",
    ),
    Claim(
        "stronger_sharpening_worse",
        "IV",
        "increasing the strength of the sharpening operator decreased the performance",
        _table3("tau_sharp"),
        WORSE,
        f"{_T3}, largest tau_sharp minus the smallest above 0; values of sigma_n stand for one setting",
    ),
    Claim(
        "optimal_network",
        "V",
        "the optimal network is a U-Net with Transposed Convolutions, [sharpening], Adam and MSE loss",
        _optimal_network,
        BETTER,
        f"{_T1}, that setting minus the best other one, which other seeds choose (one seed: the same seed)",
    ),
)


def _final(ours: Results, theirs: Results, comparable: bool) -> dict[str, object]:
    """The final model's PSNR, which only the course's images and the published training make comparable."""
    reach = REACH * MARGIN / np.sqrt(2)  # the spread is that of half of the images
    gap = abs(ours.final_psnr - theirs.final_psnr)
    verdict = REPRODUCED if gap <= MARGIN else NOT_REPRODUCED if gap > MARGIN + reach else INCONCLUSIVE
    return {
        "claim": "final_psnr",
        "statement": f"V: can achieve a PSNR of {theirs.final_psnr:.2f} dB on the full validation set",
        "published": theirs.final_psnr,
        "ours": ours.final_psnr,
        "ci_low": ours.final_psnr - reach,
        "ci_high": ours.final_psnr + reach,
        "verdict": verdict if comparable and not np.isnan(gap) else NOT_TESTED,
        "basis": effects.basis(1),
        "rule": "Reproduced: within 0.12 dB of the report's value. Not reproduced: the interval is beyond.",
        "evidence": "06_discussion/metrics.json: global PSNR of the final model; the course's images only",
        "section": "V",
    }


def weigh(ours: Results, theirs: Results, comparable: bool = False) -> pd.DataFrame:
    """claims.csv: a row for each claim, with the report's value, ours, its interval (dB) and the verdict.

    `comparable`: our pairs and training are the published ones, so absolute values (dB) can be compared. The
    columns that end in _report_evaluation say what follows if our networks are evaluated as the report's
    were. They are empty if both evaluations are the same.
    """
    as_report = replace(ours, value=AS_REPORT)
    rows = []
    for claim in CLAIMS:
        effect, again, published_effect = (claim.measure(one) for one in (ours, as_report, theirs))
        row = {
            "claim": claim.name,
            "statement": f"{claim.section}: {claim.statement}",
            "published": published_effect.estimate if published_effect else claim.quoted,
            "ours": effect.estimate if effect else np.nan,
            "ci_low": effect.low if effect else np.nan,
            "ci_high": effect.high if effect else np.nan,
            "verdict": claim.rule.judge(effect) if effect else NOT_TESTED,
        }
        if again and effect and again.estimate != effect.estimate:
            row["verdict_report_evaluation"] = claim.rule.judge(again)
            row["ours_report_evaluation"] = again.estimate
        row |= {"basis": effect.basis if effect else "", "rule": claim.rule.words}
        rows.append(row | {"evidence": claim.evidence, "section": claim.section})
    return pd.DataFrame([*rows, _final(ours, theirs, comparable)], columns=COLUMNS)


COLUMNS = ["claim", "statement", "published", "ours", "ci_low", "ci_high", "verdict"]
COLUMNS += ["verdict_report_evaluation", "ours_report_evaluation", "basis", "rule", "evidence", "section"]


def on_its_own_tables(theirs: Results) -> dict[str, str]:
    """The same rules applied to the report's tables: claim -> verdict. Do its tables carry its words?"""
    measured = {claim.name: (claim.rule, claim.measure(theirs)) for claim in CLAIMS}
    return {name: rule.judge(effect) for name, (rule, effect) in measured.items() if effect}


def chance_errors(weighed: pd.DataFrame) -> float:
    """How many verdicts of a table of `weigh` chance alone makes wrong, at most, on average.

    Every rule errs with a probability of at most 2.5 %, and expectations add up although claims share runs.
    """
    return float((weighed["verdict"] != NOT_TESTED).sum() * (1 - CONFIDENCE) / 2)
