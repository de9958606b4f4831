"""Numbers in the sentences of our paper, as finished text, and the conditions of those sentences."""

from __future__ import annotations

from contextlib import suppress
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd

from n2nlib.experiments import authors, best, beyond, claims, effects, published
from n2nlib.experiments.claims import NOT_TESTED, REPRODUCED
from n2nlib.experiments.effects import AS_REPORT, AS_TRAINED, FEWEST_PHOTOGRAPHS, FEWEST_SEEDS, MARGIN
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.experiments.results import search_record
from n2nlib.files import ROOT, UserError, read_json, relative
from n2nlib.metrics import PEAK
from n2nlib.pairs.baselines import NOISY
from n2nlib.pairs.baselines import best as best_classical
from n2nlib.pairs.pair_set import read_card
from n2nlib.params import Params, load_params
from n2nlib.report import tables, wording
from n2nlib.train.network import BLUR_SIGMA

NBSP = "\N{NO-BREAK SPACE}"
SAID = {"arch": "−0.13 ± 0.04 dB", "sharpen": "+1.18 ± 0.04 dB"}  # section IV of the report
APRIL_20, APRIL_27, MAY_11 = "psnr_2022_04_20", "psnr_2022_04_27", "psnr_2022_05_11"  # May: all sharpened


def decibels(value: float) -> str:
    """ "24.13 dB"; "–" for NaN."""
    return "–" if pd.isna(value) else f"{value:.2f}{NBSP}dB"


def change(estimate: float, low: float = np.nan, high: float = np.nan, unit: str = f"{NBSP}dB") -> str:
    """ "+0.31 dB [+0.10, +0.52]", without brackets if there is no interval; "–" if there is no estimate."""
    if pd.isna(estimate):
        return "–"
    text = f"{wording.signed(estimate)}{unit}"
    return text if pd.isna(low) else f"{text} [{wording.signed(low)},{NBSP}{wording.signed(high)}]"


def published_length(params: Params) -> pd.DataFrame | None:
    """The claims at the published length of training, which the committed Table I of scale paper has.

    None at scale paper, if there is no such table, and if its networks saw fewer images than the report's. If
    it is the only result of scale paper, all other claims are not tested.
    """
    longer = load_params(ROOT / "params" / "paper.yaml")  # it trains as long as the report did
    if params.scale == longer.scale:
        return None
    with suppress(UserError):
        names = ("table1_ablation", "progress")
        table1, progress = (tables.load(f"03_ablation/{name}", longer) for name in names)
        seen = progress.groupby("crops")["images"].max()  # a run that diverged saw fewer than the others
        if seen.min() < published.PAIRS * published.EPOCHS["ablation"]:
            return None
        with suppress(UserError):
            return tables.load("06_discussion/claims", longer)
        noisy_db = float(tables.load("01_data/baselines", longer)["psnr_full"][0])
        search = search_record("rates", longer.scale)
        results = claims.Results(table1, table1.head(0), rate_search=search, noisy_db=noisy_db)
        return claims.weigh(results)
    return None


def trained_with() -> Params | None:
    """The parameters behind the committed results of scale paper, from their provenance.

    They may differ from those that the scale has by now. None if the provenance holds no parameters, or
    parameters that this version does not know.
    """
    used: dict[str, Any] = {}
    for notebook in ("05_fine_tuning", "04_candidate_curves", "03_ablation"):
        path = ROOT / "reports" / "paper" / notebook / "provenance.json"
        used |= read_json(path).get("parameters", {}) if path.is_file() else {}
    with suppress(UserError):
        return load_params(ROOT / "params" / "paper.yaml", used) if used else None
    return None


def facts(params: Params, weighed: pd.DataFrame, longer: pd.DataFrame | None) -> dict[str, Any]:
    """Numbers, names, and conditions (bool) of sentences. Raises `UserError` if a result is missing."""
    card = read_card(params.pairs_folder)
    if card is None:
        raise UserError(f"{relative(params.pairs_folder)}: no pair set here; run notebook 01_data first")
    noisy, seeds = card["noisy_psnr_db"]["validation"]["global"], len(params.ablation.seeds)
    costs = tables.load("02_architecture/network_costs", params)
    table3 = tables.load("05_fine_tuning/table3_fine_tuning", params)
    studied = tables.load("07_beyond/beyond_effects", params)
    weights = costs[costs["width"] == params.model.width].set_index("arch")["parameters"]
    psnr = tables.load("07_beyond/references", params).set_index("method")["psnr_full"]
    final, long_run = (
        read_json(params.reports / name) for name in ("05_fine_tuning/final.json", "07_beyond/best.json")
    )
    own, again = claims.on_its_own_tables(), weighed["verdict_report_evaluation"]
    verdicts = weighed.assign(evaluated=again.astype(object).fillna(weighed["verdict"])).set_index("claim")
    ours = ascii_uppercase[: params.curves.candidates]
    images = params.ablation.epochs * params.pairs.train
    share = images / (published.PAIRS * published.EPOCHS["ablation"])
    return _ablation(params) | {
        "said": {factor: text.replace(" ", NBSP) for factor, text in SAID.items()},
        "source": params.pairs.source,
        "photographs_of": best.photographs_in_words(params),
        "counts": {split: f"{count:,}" for split, count in card["counts"].items()},
        "photographs": {split: f"{count:,}" for split, count in card["photographs"].items()},
        "test": params.pairs.test > 0,
        "size": params.pairs.size,
        "sizes_block": params.beyond.sizes.block,
        "sizes_train": f"{params.beyond.sizes.train:,}",
        "block": params.pairs.block,
        "crop": params.pairs.train_crop,
        "side": params.pairs.size * params.pairs.block,
        "noisy": decibels(noisy),
        "noisy_course": decibels(published.NOISY_PSNR),
        "assumptions": card["verdict"].replace(" -", " −"),
        "width": params.model.width,
        "weights": {arch: f"{count:,}" for arch, count in weights.items()},
        "blur_sigma": f"{BLUR_SIGMA:g}",
        "peak": f"{PEAK:g}",
        "images": f"{images:,}",
        "share": f"{100 * share:.2g}{NBSP}%",
        "published_training": published.is_published_training(params),
        "published_images": published.is_published_experiment(params),
        "repeats": params.evaluation.repeats,
        "subset": f"{max(1, card['counts']['validation'] // 2):,}",
        "seeds": seeds,
        "few_seeds": seeds < FEWEST_SEEDS,
        "seeds_table3": len(params.fine_tuning.seeds),
        "fewest_photographs": FEWEST_PHOTOGRAPHS,
        "margin": f"{MARGIN}{NBSP}dB",
        "confidence": effects.PERCENT.replace(" ", NBSP),
        "error_rate": f"{50 * (1 - effects.CONFIDENCE):g}{NBSP}%",
        "authors": _authors(),
        "final": decibels(psnr[best.FINAL]),
        "final_gain": change(psnr[best.FINAL] - psnr[NOISY]),
        "final_setting": wording.fine_tuning_setting(final["setting"]),
        "final_images": f"{final['images']:,}",
        "final_report": decibels(published.FINAL_PSNR),
        "best": decibels(psnr[best.BEST]),
        "best_images": f"{long_run['images']:,}",
        "best_pairs": f"{params.best.train:,}",
        "best_resample": params.best.resample,
        "annealing_by_group": _by_group(table3, "annealing_steps", ["lr0"]),
        "rates": " and ".join(f"{rate:g}" for rate in (table3["lr0"].min(), table3["lr0"].max())),
        "high_rates": _high_rates(params),
        "claims": len(weighed),
        "comparisons": weighed["evidence"].nunique(),
        "verdicts": wording.verdict_counts(weighed),
        "rated": claims.rated_verdicts(weighed),
        "chance_errors": f"{claims.chance_errors(weighed):.1f}",
        "sharpening": wording.where_the_gain_is(*verdicts.loc["sharpening_better", ["verdict", "evaluated"]]),
        "changed": int((again.notna() & (again != weighed["verdict"])).sum()),
        "initialisation": beyond.initialisation_answer(studied),
        "initialisation_tested": bool(beyond.of_studies(studied, beyond.INITIALISATION)["low"].notna().any()),
        "candidates": " and ".join(filter(None, [", ".join(ours[:-1]), ours[-1]])),
        "shared": _shared_candidates(params),
        **_sizes(params),
        "cost": decibels(tables.load("07_beyond/selection", params)["cost"].max()),
        "own_tested": len(own),
        "own_not_carried": sum(verdict != REPRODUCED for verdict in own.values()),
        "longer": None if longer is None else _longer(longer),
    }


def _shared_candidates(params: Params) -> str:
    """Which of our candidates are the report's: "A is candidate 2, B is candidate 1", or ""."""
    table = tables.load("04_candidate_curves/table2_candidates", params)
    theirs = table["candidate"].str.isdigit()
    both = table[~theirs].merge(table[theirs], on=ABLATION)
    return ", ".join(f"{row.candidate_x} is candidate {row.candidate_y}" for row in both.itertuples())


def _sizes(params: Params) -> dict[str, str]:
    """The sharpness of networks that do not sharpen, and how many networks end below their noisy input."""
    sizes = tables.load("07_beyond/sizes", params)
    rows = sizes[sizes["method"] == f"network, {beyond.PLAIN}"]
    networks = sizes[sizes["method"].str.startswith("network")]
    noisy = networks["size"].map(sizes[sizes["method"] == NOISY].set_index("size")["psnr_full"])
    failed = int((networks["psnr_full"] < noisy).sum())
    sharpness = ", ".join(f"{row.sharpness:.2f} at {row.size} pixels" for row in rows.itertuples())
    return {"sharpness": sharpness, "sizes_failed": f"{failed} of {len(networks)}" if failed else ""}


def _ablation(params: Params) -> dict[str, Any]:
    """Table I; without sharpening, the distance to the report and what sharpening at prediction costs."""
    table1 = tables.load("03_ablation/table1_ablation", params)
    failures = tables.load("06_discussion/failures", params)
    headline = read_json(params.reports / "06_discussion" / "metrics.json")
    means = table1.groupby(ABLATION)[AS_TRAINED].mean()
    plain = table1[~table1["sharpen"]].groupby(ABLATION, as_index=False)[[AS_TRAINED, AS_REPORT]].mean()
    plain = plain.merge(published.table1().rename(columns={AS_TRAINED: "printed"}), on=ABLATION)
    lost = plain[AS_REPORT] - plain[AS_TRAINED]
    far = {name: (plain[name] - plain["printed"]).abs() for name in (AS_TRAINED, AS_REPORT)}
    classical, classical_db = best_classical(tables.load("01_data/baselines", params))
    by = {"l1": plain["loss"] == "l1", "mse": plain["loss"] == "mse"}
    by |= {"crops": plain["crops"], "whole": ~plain["crops"]}
    return {
        "runs": f"{len(table1):,}",
        "failed": f"{headline['table1_failed_runs']:,}",
        "table3_failed": f"{headline['table3_failed_runs']:,}",
        "failures": wording.failure_sentence(failures[failures["factor"] == "arch"]),
        "setting": wording.setting(dict(zip(ABLATION, means.idxmax(), strict=True))),
        "highest": decibels(means.max()),
        "classical": f"{classical} ({decibels(classical_db)})",
        "below_classical": bool(means.max() < classical_db),
        "above_classical": f"{(means > classical_db).sum()} of {len(means)}",
        "loss_by_group": _by_group(table1, "loss", ["optimizer", "crops"]),
        "crops_by_group": _by_group(table1, "crops", ["loss"]),
        "crops_established": _established(table1),
        "far_trained": decibels(far[AS_TRAINED].median()),
        "far_evaluated": decibels(far[AS_REPORT].median()),
        "nearer": f"{(far[AS_REPORT] < far[AS_TRAINED]).sum()} of {len(plain)}",
        "lost": {name: change(lost[part].median()) for name, part in by.items()},
    }


def _by_group(table: pd.DataFrame, factor: str, by: list[str]) -> str:
    """The effect of `factor` as trained in each group of settings: "+0.62 dB [...] (Adam, no crops); ..."."""
    words = []
    for levels, part in table.groupby(by, sort=False):
        compared = effects.contrast_of(part, factor)
        if compared is not None:
            name = ", ".join(wording.level(*one) for one in zip(by, levels, strict=True))
            words.append(f"{_effect(effects.effect(part, *[factor, *compared[1:]]))} ({name})")
    return "; ".join(words)


def _established(table1: pd.DataFrame) -> str:
    """How many pairs have an established gain and how many a loss by crops; "" if that is not known."""
    compared = effects.contrast_of(table1, "crops")
    found = compared and effects.effect(table1, "crops", *compared[1:])
    if not found or found.seeds < FEWEST_SEEDS:
        return ""
    return f"{found.gains} of {found.pairs} pairs have an established gain and {found.losses} a loss"


def _high_rates(params: Params) -> str:
    """How many runs of the rate search above 0.001 fail, by length: "8 of 8 runs of 50,400 images"; or ""."""
    search = search_record("rates", params.scale)
    if search is None or "images" not in search:
        return ""
    high = search[(search["optimizer"] == "adam") & (search["learning_rate"] > claims.HIGHEST_RATE)]
    words = []
    for _, runs in high.groupby("schedule"):
        failed = (runs["psnr_full"] < runs["noisy_psnr_full"]).sum()
        words.append(f"{failed} of {len(runs)} runs of up to {runs['images'].max():,} images")
    return " and ".join(words)


def _authors() -> dict[str, Any]:
    """What the authors' own evaluations say about sharpening, with one network as an example."""
    networks = authors.published_networks()
    tconv = networks[networks["arch"] == "tconv"]
    first = effects.effect(networks, "sharpen", True, False, APRIL_20)
    unchanged = networks[networks[APRIL_27].notna()].groupby("arch")  # from 27 April on
    example = tconv.set_index(ABLATION).loc[("l1", "adam", False, False, "tconv")]
    far = (tconv["printed"] - tconv[MAY_11])[~tconv["crops"]].abs().max()
    far = np.ceil(100 * far) / 100  # no value is farther than what the text says
    return {
        "pairs": first.pairs,
        "first": change(first.estimate),
        "unchanged": {arch: _evaluated_twice(rows) for arch, rows in unchanged},
        "example": [decibels(example[key]) for key in (APRIL_20, MAY_11, "printed")],
        "far": decibels(far),
        "ours_trained": decibels((networks["psnr_full"] - networks[APRIL_27]).abs().mean()),
        "ours_sharpened": decibels((networks["report_full"] - networks[MAY_11]).abs().mean()),
    }


def _evaluated_twice(networks: pd.DataFrame) -> dict[str, str]:
    """What sharpening changes in the same networks before and after their evaluation was changed."""
    before, after = (effects.effect(networks, "sharpen", True, False, day) for day in (APRIL_27, MAY_11))
    return {"pairs": str(before.pairs), "before": change(before.estimate), "after": change(after.estimate)}


def _longer(longer: pd.DataFrame) -> dict[str, Any]:
    """The claims of scale paper that were tested."""
    longer = longer[longer["verdict"] != NOT_TESTED]
    return {
        "verdicts": wording.verdict_counts(longer),
        "tested": len(longer),
        "recorded": trained_with() is not None,
        "one_seed": bool((longer["basis"] == effects.basis(1)).any()),
    }


def claims_in_words(weighed: pd.DataFrame) -> pd.DataFrame:
    """claims.csv as text, by claim, with the verdict on the report's own tables (own)."""
    own = claims.on_its_own_tables()
    statement, rows = weighed["statement"].str.partition(": "), list(weighed.itertuples())
    frame = pd.DataFrame(
        {
            "section": statement[0],
            "statement": statement[2],
            "published": [change(row.published) for row in rows],
            "ours": [change(row.ours, row.ci_low, row.ci_high) for row in rows],
            "verdict": weighed["verdict"],
            "evaluated": [change(row.ours_report_evaluation) for row in rows],
            "verdict_evaluated": weighed["verdict_report_evaluation"].astype(object).fillna("–"),
            "own": weighed["claim"].map(own).fillna(""),
        }
    ).set_index(weighed["claim"])
    level = frame.filter(like="final_psnr", axis=0)  # no difference, so without its sign
    frame.update(level.replace(r"\+", "", regex=True))
    return frame


def effects_in_words(params: Params) -> dict[str, dict[str, str]]:
    """factor -> its effect by source ("as trained", ..., "the report"), and how many pairs gain.

    "lengths" has the effect as trained after the runs of other scales, the shortest first.
    """
    found: dict[str, dict[str, str]] = {}
    for name in ("effects", "interactions"):
        for row in tables.load(f"06_discussion/{name}", params).itertuples():
            source = row.source.removeprefix("ours, ")
            said = {source: _effect(row), f"{source}, pairs": f"{row.better} of {row.pairs}"}
            said[f"{source}, range"] = wording.between_pairs(row._asdict()).replace(" dB", f"{NBSP}dB")
            found.setdefault(row.factor, {}).update(said)
    length = tables.load("06_discussion/training_length", params)
    length = length[(length["source"] == wording.TRAINED) & (length["scale"] != params.scale)]
    ends = length.sort_values("images").drop_duplicates(["factor", "scale"], keep="last")
    for factor, rows in ends[ends["factor"].isin(list(found))].groupby("factor"):
        words = [
            f"{_effect(row)} after {row.images:,} images (scale {row.scale})" for row in rows.itertuples()
        ]
        found[factor]["lengths"] = "; ".join(words)
    return found


def _effect(row: Any) -> str:
    return change(row.estimate, row.low, row.high)


def studies(params: Params) -> dict[str, str]:
    """Study -> the differences of its variants, against its first one unless another is named.

    Studies "name, place" stand together.
    """
    table = tables.load("07_beyond/beyond_effects", params)
    found: dict[str, list[str]] = {}
    for study, rows in table.groupby("study", sort=False):
        name, *place = study.split(", ", 1)
        _, first = rows["what"].iloc[0].split(" − ")
        for row in rows.itertuples():
            variant = ", ".join([row.what.removesuffix(f" − {first}"), *place])
            found.setdefault(name, []).append(f"{_effect(row)} ({variant})")
    return {name: "; ".join(words) for name, words in found.items()}


def model_differences(params: Params) -> dict[str, dict[str, str]]:
    """Model -> its difference from the best "classical" method, whose "name" it has, and from its "twin"."""
    found: dict[str, dict[str, str]] = {best.FINAL: {}, best.BEST: {}}
    for row in tables.load("07_beyond/differences", params).itertuples():
        model, other = row.what.split(" − ")
        known = f"{wording.outcome(row._asdict())}; {wording.over(row._asdict())}"
        known = known if pd.notna(row.low) else "no interval: too few photographs"
        words = f"{_effect(row)} ({known})"
        if model in found:
            twin = other == best.TWIN.format(model)
            found[model] |= {"twin": words} if twin else {"name": other, "classical": words}
    return found
