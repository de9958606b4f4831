"""Words that people read about results: names of settings, headers of columns, and most sentences.

Tables, figures, notebooks, our paper and README take their names from here, so that one thing has one name.
Where a sentence is itself a result (the rules of `claims`, `beyond.initialisation_answer`), it stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from n2nlib.experiments import authors, claims, effects, published
from n2nlib.experiments.effects import EVALUATIONS, MARGIN, TABLE1

LOSS = {"l1": "L1", "mse": "MSE", "huber": "Huber"}
OPTIMIZER = {"adam": "Adam", "sgd": "SGD"}
ARCH = {"tconv": "TConv", "upsample": "Upsample", "gated": "gated"}
MEASURE = {"psnr_hvs_m": "PSNR-HVS-M", "ssim": "SSIM"}
NAMES = {"loss": LOSS, "optimizer": OPTIMIZER, "arch": ARCH, "measure": MEASURE}
TRAINED, EVALUATED, REPORT = *EVALUATIONS, effects.REPORT
VERDICTS = claims.REPRODUCED, claims.NOT_REPRODUCED, claims.TOO_SMALL, claims.INCONCLUSIVE, claims.NOT_TESTED


@dataclass(frozen=True)
class Column:
    """A column of the result files.

    A setting says what a row is about and is written exactly; a result is compared by `verify` and written to
    four decimals; a note (the name of a run) says how the result came about and is not compared.
    `decimals` are those shown to people.
    """

    role: Literal["setting", "result", "note"]
    header: str
    decimals: int | None = 2


def _columns(role: Literal["setting", "result", "note"], decimals: int | None, **headers: str) -> dict:
    return {name: Column(role, header, decimals) for name, header in headers.items()}


COLUMNS: dict[str, Column] = {
    **_columns(
        "setting",
        None,
        loss="Loss",
        optimizer="Optimiser",
        sharpen="Sharpened",
        crops="Crops",
        arch="Upsampling",
        seed="Seed",
        candidate="Candidate",
        epoch="Epoch",
        sigma_n="Noise σ_n (grey levels)",
        tau_sharp="Sharpening factor τ",
        lr0="Initial rate",
        annealing_steps="Annealing steps",
        method="Method",
        model="Model",
        which="Image",
        claim="Claim",
        factor="Factor",
        level="Choice",
        what="Comparison",
        source="Source",
        reference="Compared with",
        scale="Scale",
        split="Set",
        study="Study",
        variant="Variant",
        width="Width (channels)",
        size="Image size (pixels)",
        measure="Measure",
        runs_of="Runs of",
    ),
    **_columns(
        "result",
        2,
        psnr_mean="PSNR, mean over subsets (dB)",
        psnr_std="PSNR, standard deviation over subsets (dB)",
        psnr_full="PSNR (dB)",
        psnr_per_image="PSNR per image (dB)",
        report_mean="PSNR with the report's evaluation, mean over subsets (dB)",
        report_std="PSNR with the report's evaluation, standard deviation over subsets (dB)",
        report_full="PSNR with the report's evaluation (dB)",
        peak_change="PSNR lost with the peak value of the report's code (dB)",
        psnr_hvs_m="PSNR-HVS-M (dB)",
        test_full="Test PSNR (dB)",
        test_per_image="Test PSNR per image (dB)",
        test_report_full="Test PSNR with the report's evaluation (dB)",
        test_psnr_hvs_m="Test PSNR-HVS-M (dB)",
        train_loss="Training loss",
        printed="The report's Table I (dB)",
        authors_trained="The authors, 2022-04-27, as trained (dB)",
        authors_report="The authors, 2022-05-11, with the report's evaluation (dB)",
        theirs_trained="Their network, evaluated by us, as trained (dB)",
        theirs_report="Their network, evaluated by us, with the report's evaluation (dB)",
        ours_trained="Our network, as trained (dB)",
        ours_report="Our network, with the report's evaluation (dB)",
        published="The report (dB)",
        ours="Ours (dB)",
        ours_report_evaluation="Ours, with the report's evaluation (dB)",
        ci_low="95 % interval from (dB)",
        ci_high="95 % interval to (dB)",
        estimate="Effect (dB)",
        smallest="Smallest effect of a pair (dB)",
        largest="Largest effect of a pair (dB)",
        gain="Gain (dB)",
        cost="PSNR lost (dB)",
        mean_abs_diff="Mean absolute difference (dB)",
        low="Interval from",
        high="Interval to",
        tau="Kendall's τ",
        share="Share",
        sharpness="Sharpness (clean image: 1)",
        error_energy="Energy of the error's gradients (output: 1)",
        forward_gflop="Forward (GFLOP)",
        forward_backward_gflop="Forward and backward (GFLOP)",
    ),
    **_columns("result", 3, ssim="SSIM", test_ssim="Test SSIM"),
    **_columns(
        "result",
        0,
        images="Images seen",
        parameters="Weights",
        failed="Failed",
        runs="Number of runs",
        seeds="Seeds",
        pairs="Pairs",
        cells="Settings",
        better="Pairs with a gain",
        passes="Passes per prediction",
        dead="Dead output channels",
        diverged="Diverged",
        statement="Statement of the report",
        verdict="Verdict",
        verdict_report_evaluation="Verdict with the report's evaluation",
        basis="Rests on",
        photographs="Photographs",
        rule="Rule",
        evidence="Evidence",
        section="Section",
    ),
    **_columns("note", 0, run="Run"),
}
HEADERS = {name: column.header for name, column in COLUMNS.items()}


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` for people, every cell as text: headers and settings in words, with units, numbers rounded."""
    shown = {HEADERS.get(name, name): [_cell(name, value) for value in frame[name]] for name in frame.columns}
    return pd.DataFrame(shown, dtype=object)


def _cell(column: object, value: object) -> str:
    if isinstance(value, str):
        return NAMES.get(column, {}).get(value, value)
    if pd.isna(value):
        return "–"
    if str(value) in ("True", "False"):
        return "yes" if value else "no"
    decimals = COLUMNS[column].decimals if column in COLUMNS else 2
    if decimals is None:
        return str(value) if isinstance(value, int) else f"{value:g}"
    return f"{value:z,.{0 if isinstance(value, int) else decimals}f}".replace("-", "−")


def setting(row: Mapping[str, object] | pd.Series) -> str:
    """ "TConv, MSE, Adam, sharpened, crops": a setting of Table I in words."""
    words = [NAMES[key][row[key]] for key in ("arch", "loss", "optimizer")]
    return ", ".join([*words, *["sharpened"] * bool(row["sharpen"]), *["crops"] * bool(row["crops"])])


def fine_tuning_setting(row: Mapping[str, float]) -> str:
    """A setting of Table III in words."""
    sharpening = f"sharpening factor {row['tau_sharp']:g}" if row["tau_sharp"] else "not sharpened"
    steps = annealing(int(row["annealing_steps"]))
    return f"added noise {row['sigma_n']:g}, {sharpening}, learning rate {row['lr0']:g}, {steps}"


def annealing(steps: int) -> str:
    """ "no annealing", "1 annealing step", "2 annealing steps"."""
    return f"{steps} annealing step{'s' * (steps > 1)}" if steps else "no annealing"


def signed(value: float) -> str:
    """ "+0.12", "−0.12", "0.00"; from four decimals, so that numbers in memory and in files look the same."""
    return f"{round(value, 4):+z.2f}".replace("-", "−").replace("+0.00", "0.00")


def interval(row: Mapping[str, float] | pd.Series) -> str:
    """ "[−0.10, +0.05]": the 95 % interval of an effect."""
    return "(no interval)" if pd.isna(row["low"]) else f"[{signed(row['low'])}, {signed(row['high'])}]"


def _effect(row: Mapping[str, float] | pd.Series) -> str:
    """ "−0.02 dB [−0.10, +0.05]"."""
    return f"{signed(row['estimate'])} dB {interval(row)}"


def between_pairs(row: Mapping[str, float] | pd.Series) -> str:
    """ "−0.60 to +0.67 dB": from the smallest to the largest effect of a pair of settings."""
    return f"{signed(row['smallest'])} to {signed(row['largest'])} dB"


def outcome(row: Mapping[str, float] | pd.Series) -> str:
    """What an interval establishes, in words."""
    if pd.isna(row["low"]):
        return claims.NOT_TESTED
    if effects.within_margin(row["low"], row["high"]):
        return claims.TOO_SMALL
    return "better" if row["low"] > 0 else "worse" if row["high"] < 0 else claims.INCONCLUSIVE


def over(row: Mapping[str, object] | pd.Series) -> str:
    """What an interval rests on: "one seed", "3 seeds"."""
    basis = effects.basis(int(row["seeds"]))
    return f"{row['seeds']:.0f} seeds" if basis == "seeds" else basis


def effect_sentences(found: pd.DataFrame) -> str:
    """A Markdown list with an item for each comparison of effects.csv, in it every source."""
    lines = []
    for what, rows in found.groupby("what", sort=False):
        parts = [
            f"{row['source']} {_effect(row)}, {outcome(row)} ({over(row)}; a gain in "
            f"{row['better']:.0f} of {row['pairs']:.0f} pairs; single pairs: {between_pairs(row)})"
            for row in rows.to_dict("records")
        ]
        lines.append(f"- **{what}**: {'; '.join(parts)}.")
    return "\n".join(lines)


def study_sentence(found: pd.DataFrame) -> str:
    """What the intervals of studies (what, estimate, low, high) establish, and what they leave open."""
    if found.empty:
        return "This study is not run at this scale."
    if found["low"].isna().all():
        return f"An interval needs at least three seeds, so there is no verdict with {over(found.iloc[0])}."
    listed = found["what"] + " (" + found["estimate"].map(signed) + " dB)"
    outcomes = listed.groupby(found.apply(outcome, axis=1)).agg(", ".join)
    return f"**{' '.join(f'{name.capitalize()}: {words}.' for name, words in outcomes.items())}**"


NO_TEST = (
    "There is no test set: all numbers are measured on the validation images, on which the settings were "
    "chosen, so those of chosen settings are higher than they would be on other images."
)
COMPARED = {  # claims about the other factors of Table I -> factor, what is compared, and what is claimed
    "adam_better": ("optimizer", "Adam instead of SGD", "better"),
    "mse_consistent": ("loss", "MSE instead of L1", "consistently better"),
    "crops_mixed": ("crops", "training on crops", "mixed results"),
    "tconv_worse": ("arch", "transposed convolutions instead of nearest-neighbour upsampling", "worse"),
}


def where_the_gain_is(trained: str, evaluated: str) -> str:
    """Where sharpening gains, by both verdicts on it: "evaluation", "both", "neither" or "open"."""
    refuted = (claims.NOT_REPRODUCED, claims.TOO_SMALL)
    if evaluated == claims.REPRODUCED:
        return "evaluation" if trained in refuted else "both" if trained == claims.REPRODUCED else "open"
    return "neither" if evaluated in refuted and trained in refuted else "open"


def main_finding(found: pd.DataFrame) -> str:
    """Where the report's +1.18 dB from sharpening comes from, from effects.csv."""
    rows = found[found["factor"] == "sharpen"].set_index("source")
    if not {TRAINED, EVALUATED} <= set(rows.index):
        return "This scale does not compare networks with and without sharpening in both evaluations."
    trained, evaluated = rows.loc[TRAINED], rows.loc[EVALUATED]
    report = f"{_printed_gain()} from sharpening"
    opening = {
        "evaluation": f"The report's main result, {report}, comes from the way in which it was measured.",
        "both": f"The report's main result, {report}, does not depend on how our networks are evaluated.",
        "neither": f"Our networks do not show the report's main result, {report}.",
        "open": f"The report's main result is {report}; our results leave open where it comes from.",
    }[where_the_gain_is(claims.better(trained), claims.better(evaluated))]
    return (
        f"{opening} Evaluated as trained, sharpening changes the PSNR of our networks by {_effect(trained)}. "
        "Evaluated as the report did, with sharpening switched on even for networks that were trained "
        f"without it, the change is {_effect(evaluated)} ({over(evaluated)})."
    )


def _printed_gain() -> str:
    """The report's main result: its mean over all networks with sharpening minus that over the others."""
    means = published.table1().groupby("sharpen")["psnr_mean"].mean()
    return f"{signed(means[True] - means[False])} dB"


def lasting_finding(weighed: pd.DataFrame, found: pd.DataFrame) -> str:
    """Which other choices of Table I matter as trained, with the verdicts on the report's claims about them.

    A choice matters if the interval of its effect leaves out 0 and the effect is at least 0.12 dB. `weighed`
    is claims.csv and `found` effects.csv, which has the range over pairs.
    """
    rows = weighed[weighed["claim"].isin(COMPARED) & weighed["ours"].notna()]
    if rows.empty:
        return "This scale compares nothing else of Table I."
    matter, others = [], []
    names = {"ours": "estimate", "ci_low": "low", "ci_high": "high"}
    trained = found[found["source"] == TRAINED].to_dict("records")
    by_pairs = {row["factor"]: f"; single pairs: {between_pairs(row)}" for row in trained}
    for row in rows.rename(columns=names).to_dict("records"):
        factor, name, claimed = COMPARED[row["claim"]]
        judged = f"(the report: {claimed}; our verdict: {row['verdict']}{by_pairs.get(factor, '')})"
        if abs(row["estimate"]) >= MARGIN and (row["low"] > 0 or row["high"] < 0):
            matter.append(f"{name} {_effect(row)} {judged}")
        else:
            others.append(f"{name} {judged}")
    basis = "intervals over seeds" if rows["basis"].iloc[0] == "seeds" else rows["basis"].iloc[0]
    change = f"these choices change the PSNR: {'; '.join(matter)}" if matter else "no choice matters clearly"
    small = f" The median effect is below {MARGIN} dB or uncertain for {'; '.join(others)}."
    return f"Evaluated as trained ({basis}), {change}.{small if others else ''}"


def dependence_finding(interactions: pd.DataFrame) -> str:
    """Which choices of Table I depend on one another as trained, from interactions.csv; "" if none does.

    The interval of such an interaction leaves out 0, and its size is at least 0.12 dB.
    """
    rows = interactions[(interactions["source"] == TRAINED) & (interactions["estimate"].abs() >= MARGIN)]
    rows = rows[(rows["low"] > 0) | (rows["high"] < 0)]
    listed = [f"{row['what']}: {_effect(row)}" for row in rows.to_dict("records")]
    return f"Choices depend on one another ({'; '.join(listed)})." if listed else ""


def length_finding(length: pd.DataFrame, scale: str) -> str:
    """Which effects as trained change with the length of training, from training_length.csv of `scale`.

    An effect changes if its two intervals do not overlap and its change is at least 0.12 dB. The first and
    the last length of the scale are compared, and its last one with the longest training of another scale if
    the intervals of both are over seeds.
    """
    rows = length[length["source"] == TRAINED]
    here = rows[rows["scale"] == scale]
    if here.empty:
        return "This scale has no two settings of Table I that differ in one thing and train equally long."
    first, last = (here[here["images"] == end] for end in (here["images"].min(), here["images"].max()))
    longest = rows.loc[rows["images"].idxmax()]
    parts = []
    if len(here) > len(last):
        between = "both lengths come from the same runs, whose learning rate may drop in between"
        parts.append(f"{_changes(first, last)} ({between}).")
    if longest["images"] > last["images"].iloc[0]:
        there = rows[(rows["scale"] == longest["scale"]) & (rows["images"] == longest["images"])]
        ends = [one.iloc[0] for one in (last, there)]
        few = [f"scale {one['scale']} has {over(one)}" for one in ends if one["seeds"] < effects.FEWEST_SEEDS]
        parts.append(
            f"Whether the effects differ at {longest['images']:,} images (scale {longest['scale']}) "
            f"cannot be tested, because {' and '.join(few)}."
            if few
            else f"{_changes(last, there)} (at scale {longest['scale']}, which differs in more than length)."
        )
    return " ".join(parts) or f"There is one length of training, {longest['images']:,} images."


def _changes(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """Which effects differ between two lengths of training."""
    both = before.merge(after, on="factor", suffixes=("", "_after"))
    apart = (both["high"] < both["low_after"]) | (both["high_after"] < both["low"])
    apart &= (both["estimate_after"] - both["estimate"]).abs() >= MARGIN
    lengths = [f"{one['images'].iloc[0]:,}" for one in (before, after)]
    opening = f"On all validation images, between {lengths[0]} and {lengths[1]} images seen"
    if not apart.any():
        return f"{opening} no effect of Table I changes clearly"
    listed = []
    for row in both[apart].to_dict("records"):
        then = {name: row[f"{name}_after"] for name in ("estimate", "low", "high")}
        listed.append(f"{TABLE1[row['factor']][0]} from {_effect(row)} to {_effect(then)}")
    others = "" if apart.all() else "; the other effects of Table I do not change clearly"
    return f"{opening} these effects change: {'; '.join(listed)}{others}"


def effects_markdown(found: pd.DataFrame, length: pd.DataFrame, scale: str) -> str:
    """The effects of Table I in Markdown, dB: by both evaluations, in the report, and at other scales.

    `found` is effects.csv of scale `scale`, `length` its training_length.csv, of which the last length of
    every other scale is shown.
    """
    others = length[length["scale"] != scale]
    last = others[others["images"] == others.groupby("scale")["images"].transform("max")]
    images = length.loc[length["scale"] == scale, "images"].max()
    own = found[found["factor"].isin(TABLE1)].assign(scale=scale, images=images)
    rows = pd.concat([own[own["source"] != REPORT], last, own[own["source"] == REPORT]])
    lines = [f"| change in PSNR (dB) | {' | '.join(what for what, *_ in TABLE1.values())} |"]
    lines += ["|---" * (len(TABLE1) + 1) + "|"]
    for (source, name), part in rows.groupby(["source", "scale"], sort=False):
        first = part.iloc[0]
        images = "" if pd.isna(first["images"]) else f"{first['images']:,.0f} images, "
        about = f" (scale {name}: {images}{over(first)})"
        cells = {row["factor"]: f"{signed(row['estimate'])} {interval(row)}" for _, row in part.iterrows()}
        words = " | ".join(cells.get(factor, "–") for factor in TABLE1)
        lines.append(f"| {source}{'' if source == REPORT else about} | {words} |")
    note = (
        "Each effect is the median over pairs of settings that differ in one thing. With three or more seeds "
        "it is the mean of these medians. With fewer seeds its interval is over pairs and says "
        "nothing about another run. The effects of other scales are computed on all validation images and "
        "those of this scale on random subsets, so their last digits may differ from scale to scale. The "
        f"report prints the mean over its pairs, {_printed_gain()} for sharpening."
    )
    return "\n".join([*lines, "", note])


def agreement_sentence(agreement: pd.DataFrame) -> str:
    """How far our Table I is from the report's, and from what its authors had measured; "" if unknown."""
    cells = agreement.set_index(["reference", "source", "arch"])["mean_abs_diff"]
    table1, _, april_27, *_ = authors.REFERENCES.values()
    keys = [(table1, EVALUATED, "all"), (table1, TRAINED, "all")]
    keys += [(april_27, TRAINED, arch) for arch in ("tconv", "upsample")]
    far = [cells.get(key) for key in keys]
    if pd.isna(far).any():
        return ""
    return (
        "Averaged over the settings of Table I, our networks differ from the report's numbers by "
        f"{far[0]:.2f} dB when evaluated as the report did, and by {far[1]:.2f} dB as trained. Its "
        "authors had also measured their networks as trained, on other images. Our TConv networks differ "
        f"from those values by {far[2]:.2f} dB and our Upsample networks by {far[3]:.2f} dB."
    )


def claims_sentence(weighed: pd.DataFrame, carried: Mapping[str, str], errors: float) -> str:
    """Counts of verdicts, what the report's evaluation changes, and what the report's tables do not support.

    `weighed` is claims.csv, `carried` maps a claim to its verdict on the report's own tables, and `errors` is
    how many verdicts are wrong by chance.
    """
    again = weighed["verdict_report_evaluation"]
    changed = [
        f"{row.claim.replace('_', ' ')} ({row.verdict}, then {row.verdict_report_evaluation})"
        for row in weighed[again.notna() & (again != weighed["verdict"])].itertuples()
    ]
    lost = [name.replace("_", " ") for name, verdict in carried.items() if verdict != claims.REPRODUCED]
    sentences = [
        f"The verdicts on the {len(weighed)} claims are: {verdict_counts(weighed)}.",
        f"Over both evaluations, at most {errors:.1f} verdicts are expected to be wrong by chance."
        if errors
        else "No verdict rests on three seeds or more, so how many are wrong by chance is not known.",
        f"With the report's evaluation, the verdicts on these claims change: {', '.join(changed)}."
        if changed
        else "",
        f"Under the same rules the report's own tables do not support {len(lost)} of the {len(carried)} "
        f"claims that they can test{': ' * bool(lost)}{', '.join(lost)}.",
    ]
    return " ".join(filter(None, sentences))


def sets_sentence(test: bool) -> str:
    """What the sets of images are for, and what it means if there is no test set."""
    opening = "Networks are trained on the training images. Every choice is made on the validation images."
    if not test:
        return f"{opening} {NO_TEST}"
    return (
        f"{opening} Networks are measured on the test images, too, but nothing is chosen on them, so the "
        "models are compared there at the end. No photograph is in two sets."
    )


def curves_sentence(curves: pd.DataFrame) -> str:
    """Which candidate is ahead first and at the end (means over seeds), and who is within 0.12 dB of it.

    `curves` is that of `results.collect_curves`: candidate, seed, images, psnr_mean (dB). A run that diverged
    counts with where it ended.
    """
    runs = curves.pivot_table("psnr_mean", "images", ["candidate", "seed"])
    everyone = runs.notna().T.groupby("candidate").any().all()
    table = runs.ffill()[everyone].T.groupby("candidate").mean().T
    if table.empty:
        return "The candidates were not validated after the same numbers of images."
    parts = []
    for images in dict.fromkeys(table.index[[0, -1]]):
        psnr = table.loc[images].sort_values(ascending=False)
        level = [name for name in psnr.index[1:] if psnr.iloc[0] - psnr[name] < MARGIN]
        near = f"; less than {MARGIN} dB behind: {', '.join(level)}" if level else ""
        parts.append(
            f"After {images:,} images candidate {psnr.index[0]} is ahead at {psnr.iloc[0]:.2f} dB{near}."
        )
    return " ".join(parts)


def reference_sentence(references: pd.DataFrame, differences: pd.DataFrame) -> str:
    """What the models reach on the images of references.csv, and their differences with intervals."""
    split = references["split"].iloc[0]
    rows = references.set_index("method")["psnr_full"]
    best = rows.idxmax()
    listed = [f"{row['what']}: {_effect(row)} ({over(row)})" for row in differences.to_dict("records")]
    unseen = "" if split == "test" else f" {NO_TEST}"
    ahead = f"On the {split} images the highest PSNR is {rows[best]:.2f} dB, that of the {best}"
    return f"{ahead}. The differences are: {'; '.join(listed)}.{unseen}"


def failure_sentence(failures: pd.DataFrame) -> str:
    """How often each choice of Table I fails (failures.csv), in a sentence for each factor."""
    if not failures["failed"].any():
        return "No run of Table I fails."
    sentences = []
    for _, rows in failures.groupby("factor", sort=False):
        listed = [
            f"{row.failed} of {row.runs} runs with {level(row.factor, row.level)} "
            f"({100 * row.low:.0f} to {100 * row.high:.0f} %, {effects.PERCENT} interval)"
            for row in rows.itertuples()
        ]
        sentences.append(f"{' and '.join(listed)} fail.")
    return " ".join(sentences)


def level(factor: str, value: object) -> str:
    """A choice of a factor in words: "TConv", "sharpening", "no crops", "rate 0.001"."""
    if factor in NAMES:
        return NAMES[factor][value]
    if factor == "lr0":
        return f"rate {value:g}"
    noun = {"sharpen": "sharpening", "crops": "crops"}[factor]
    return noun if str(value) == "True" else f"no {noun}"


def verdict_counts(weighed: pd.DataFrame) -> str:
    """ "7 reproduced, 5 not reproduced, 3 inconclusive", in the order of `VERDICTS`."""
    counts = weighed["verdict"].value_counts()
    return ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
