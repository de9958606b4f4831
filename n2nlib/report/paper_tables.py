"""The tables of our paper, as finished text."""

from __future__ import annotations

from itertools import groupby

import pandas as pd

from n2nlib.experiments import authors, published
from n2nlib.experiments.best import PHOTOGRAPHS, photographs_in_words
from n2nlib.experiments.beyond import crops_name
from n2nlib.experiments.claims import NOT_TESTED, REPRODUCED
from n2nlib.experiments.effects import AS_REPORT, AS_TRAINED, EVALUATIONS
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.params import Params
from n2nlib.report import tables, wording
from n2nlib.report.paper_text import APRIL_27, MAY_11, NBSP, change, claims_in_words, trained_with
from n2nlib.report.wording import REPORT, TRAINED

BOLD = "*{}*".format
ROWS = {"04_candidate_curves": "Fig. 2", "05_fine_tuning": "Table III|final model"}  # of `settings`


def all_tables(params: Params, weighed: pd.DataFrame, longer: pd.DataFrame | None) -> dict[str, dict]:
    """The tables of the paper by name. Raises `UserError` if a result is missing."""
    sizes, selection, budget, references = (
        tables.load(f"07_beyond/{name}", params) for name in ("sizes", "selection", "budget", "references")
    )
    gains = [change(row.gain, row.low, row.high, unit="") for row in budget.itertuples()]
    found = {
        "settings": beside_the_report(params, longer is not None),
        "ablation": ablation(params),
        "authors": _authors(params),
        "agreement": _agreement(tables.load("06_discussion/agreement", params)),
        "verdicts": verdicts(weighed, longer),
        "sizes": (
            _across(sizes, ["size"], "method", ["psnr_full", "sharpness"]),
            ["|pixels", *_each(["noisy", "blur", "not sharpened", "sharpened"], ["dB", "sharp."])],
        ),
        "measures": (
            _across(selection, ["runs_of", "runs"], "measure", ["tau", "cost"]),
            ["|runs of", "|runs", *_each(["PSNR-HVS-M", "SSIM"], ["corr.", "dB"])],
        ),
        "budget": (
            budget.assign(gain=gains)[["model", "psnr_full", "gain", "images", "passes"]],
            ["", "PSNR", "gain", "images", "passes"],
        ),
        "models": (
            references[["method", "psnr_full", "psnr_per_image", "psnr_hvs_m", "ssim"]],
            ["", "PSNR", "per image", "HVS-M", "SSIM"],
        ),
    }
    return {name: _sheet(*one) for name, one in found.items()}


def _sheet(frame: pd.DataFrame, head: list[str]) -> dict[str, list]:
    """A table for the template: groups of columns (label, span), names of columns, and rows of cells.

    `head` has "group|column" or "column". A cell between asterisks is bold, an empty one belongs to the one
    before it.
    """
    groups = [[label, len(list(same))] for label, same in groupby(name.split("|")[0] for name in head)]
    return {
        "groups": groups if "|" in head[0] else [],
        "head": [name.split("|")[-1] for name in head],
        "rows": wording.readable(frame).to_numpy().tolist(),
    }


def _each(groups: list[str], columns: list[str]) -> list[str]:
    return [f"{group}|{column}" for group in groups for column in columns]


def _across(frame: pd.DataFrame, rows: list[str], columns: str, values: list[str]) -> pd.DataFrame:
    """A row for each value of `rows`, and `values` side by side for each value of `columns`."""
    parts = {name: part.set_index(rows)[values] for name, part in frame.groupby(columns, sort=False)}
    return pd.concat(parts, axis=1).reset_index() if parts else frame


def beside_the_report(params: Params, longer: bool) -> tuple[pd.DataFrame, list[str]]:
    """`settings`; with `longer` also what trained the results of scale paper, as far as that is recorded."""
    frame, head = settings(params), ["", "the report", f"here (scale {params.scale})"]
    there = trained_with() if longer else None
    if there:
        frame["longer"] = settings(there)["ours"]
        if AS_REPORT not in tables.load("03_ablation/table1_ablation", there):
            frame.loc[frame["setting"] == "Evaluation", "longer"] = BOLD("as trained")
        for notebook, names in ROWS.items():
            if not (there.reports / notebook).is_dir():
                frame.loc[frame["setting"].str.contains(names), "longer"] = "not trained"
        head.append(f"published length (scale {there.scale})")
    return frame, head


def settings(params: Params) -> pd.DataFrame:
    """Our settings beside the report's: setting, report, ours.

    Ours are bold unless they equal all of the report's cell. A dagger marks what the report's text does not
    say and its authors' published code does.
    """
    pairs, training, ablation, tuning = params.pairs, params.training, params.ablation, params.fine_tuning
    adam, sgd = ablation.learning_rates.adam, ablation.learning_rates.sgd
    part = {"whole": "whole", "square": "a random square", "mixed": "whole once, then random squares"}
    flips = {"image": "drawn for each image", "batch": "drawn once per batch", "none": "none"}
    shared, bfloat16 = "shared by input and target", training.precision == "bfloat16"
    epochs = published.EPOCHS
    rows = [
        ("Photographs", PHOTOGRAPHS["ee559"], photographs_in_words(params)),
        ("Part of a photograph", "whole", "whole" if pairs.source == "ee559" else part[pairs.train_crop]),
        ("Training pairs", f"{published.PAIRS:,}", f"{pairs.train:,}"),
        ("Validation pairs", f"{published.VALIDATION_PAIRS:,}", f"{pairs.validation:,}"),
        ("Test pairs", "none", f"{pairs.test:,}" if pairs.test else "none"),
        ("Noisy versions", "one draw", "new in every epoch" if pairs.resample else "one draw"),
        ("Channels", f"{published.WIDTH}", f"{params.model.width}"),
        ("Batch", "10, 125 and 625†", f"{training.batch_size}"),
        (
            "Epochs, Table I",
            f"{epochs['ablation']}, with crops {epochs['ablation'] // 2} (code: {epochs['ablation']}†)",
            f"{ablation.epochs}, with crops {ablation.crops_epochs}",
        ),
        ("Epochs, Fig. 2", f"{epochs['curves']}; its plot has 100", f"{params.curves.epochs}"),
        ("Epochs, Table III", f"{epochs['fine_tuning']}", f"{tuning.epochs}"),
        ("Epochs, final model", f"{epochs['fine_tuning']}", f"{tuning.final_epochs}"),
        ("Seeds, Table I", "1", f"{len(ablation.seeds)}"),
        ("Seeds, Fig. 2 and Table III", "1, 1", f"{len(params.curves.seeds)}, {len(tuning.seeds)}"),
        ("Adam: rate for L1, MSE", "10⁻⁴, 10⁻⁵†", _rates(adam.l1, adam.mse)),
        ("SGD: rate for L1, MSE", "10⁻⁵, 10⁻⁶†", _rates(sgd.l1, sgd.mse)),
        ("Annealing steps, Table I", "1", f"{ablation.annealing_steps}"),
        ("Warm-up", "none†", f"{100 * training.warmup:g} % of the steps" if training.warmup else "none"),
        ("Crops, areas", "70–100 % and 5–40 %", crops_name((training.global_crop, training.local_crop))),
        ("Flips", "drawn once per batch†", flips[training.flips]),
        ("Added noise", f"{shared}†", shared if training.shared_noise else "independent"),
        ("Adam: rates, Table III", _rates(1e-4, 5e-4, 1e-3), _rates(*tuning.learning_rate.adam)),
        ("Noise σₙ, Table III", "1, 5, 10", ", ".join(f"{sigma:g}" for sigma in tuning.sigma_n)),
        ("Factor τ, Table III", "1, 2", ", ".join(f"{tau:g}" for tau in tuning.tau_sharp)),
        ("Precision", "not stated", "bfloat16 where the processor has it" if bfloat16 else "float32"),
        ("Evaluation", "always sharpened†", "in both ways"),
    ]
    frame = pd.DataFrame(rows, columns=["setting", "report", "ours"])
    same = frame["report"].str.removesuffix("†") == frame["ours"]
    return frame.assign(ours=frame["ours"].where(same, frame["ours"].map(BOLD)))


def _rates(*rates: float) -> str:
    """ "10⁻⁴, 5 × 10⁻⁶"."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    parts = [f"{rate:.5e}".split("e") for rate in rates]
    words = [
        f"{float(factor):g}{NBSP}×{NBSP}10{str(int(power)).translate(raised)}" for factor, power in parts
    ]
    return ", ".join(word.removeprefix(f"1{NBSP}×{NBSP}") for word in words)


def ablation(params: Params) -> tuple[pd.DataFrame, list[str]]:
    """Table I; our candidates and the report's are bold. In brackets: how many runs failed."""
    table1 = tables.load("03_ablation/table1_ablation", params)
    frame = tables.render_table1(table1, tables.load("01_data/baselines", params))
    frame = frame.replace(r" failed\)", ")", regex=True)
    rows = table1[ABLATION].drop_duplicates()
    rows["row"] = rows.groupby(["loss", "optimizer", "sharpen", "crops"], sort=False).ngroup()
    candidates = tables.load("04_candidate_curves/table2_candidates", params)
    for one in candidates.merge(rows, on=ABLATION).itertuples():
        column = wording.ARCH[one.arch], f"{REPORT if one.candidate.isdigit() else TRAINED} (dB)"
        frame.loc[[one.row], [column]] = BOLD(frame[column][one.row])
    names = [f"{group}|{name.removeprefix('ours, ').removesuffix(' (dB)')}" for group, name in frame.columns]
    return frame, [*_each([""], ["Loss", "Optim.", "Sharp.", "Crops"]), *names[4:]]


def _authors(params: Params) -> tuple[pd.DataFrame, list[str]]:
    """The networks trained without sharpening: by their authors, by us on theirs, and our own."""
    keys, two = ["arch", "loss", "optimizer", "crops"], ["as trained", "sharpened"]
    ours = tables.load("03_ablation/table1_ablation", params)
    ours = ours.groupby(ABLATION, as_index=False)[[AS_TRAINED, AS_REPORT]].mean()
    found = authors.published_networks().merge(ours, "left", ABLATION)
    found = found[~found["sharpen"]].sort_values(keys)
    head = _each([""], ["Upsampling", "Loss", "Optim.", "Crops"]) + _each(["the authors"], [*two, "printed"])
    columns = [APRIL_27, MAY_11, "printed", "psnr_full", "report_full", AS_TRAINED, AS_REPORT]
    return found[[*keys, *columns]], [*head, *_each(["theirs, our evaluation", "our own"], two)]


def _agreement(agreement: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Kendall's tau over all settings, and the mean distance of each kind of upsampling, dB."""
    wide = agreement.pivot(index="reference", columns=["arch", "source"], values=["tau", "mean_abs_diff"])
    kinds = [("tau", "all"), ("mean_abs_diff", "tconv"), ("mean_abs_diff", "upsample")]
    columns = [(*kind, source) for kind in kinds for source in EVALUATIONS]
    rows = wide.reindex(agreement["reference"].unique())[columns].reset_index()
    shorter = {
        r"2022-04-(\d+)": r"\1 April",
        r"2022-05-(\d+)": r"\1 May",
        "with the report's evaluation": "sharpened",
    }
    rows["reference"] = rows["reference"].replace(shorter, regex=True)
    head = _each(["correlation", "TConv, dB", "Upsample, dB"], ["trained", "sharp."])
    return rows, ["|ours against", *head]


def verdicts(weighed: pd.DataFrame, longer: pd.DataFrame | None) -> tuple[pd.DataFrame, list[str]]:
    """Every claim with the report's value, ours by both evaluations, and up to three verdicts.

    A dagger marks what the report's own tables do not support.
    """
    frame = claims_in_words(weighed).replace(f"{NBSP}dB", "", regex=True)
    frame.loc[~frame.pop("own").isin(["", REPRODUCED]), "published"] += "†"
    head = ["|§", "|Claim", "the report|dB"]
    head += _each(["ours, as trained", "report's evaluation"], ["dB", "verdict"])
    if longer is not None:
        frame["longer"] = longer.set_index("claim")["verdict"].reindex(frame.index, fill_value=NOT_TESTED)
        head.append("published length|verdict")
    return frame, head
