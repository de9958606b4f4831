"""reports/<scale>/paper.pdf: the template reports/paper.typ typeset over the results of one scale.

`contents` gathers what the paper shows into reports/<scale>/paper.json: facts and tables as finished text,
verdicts by claim, and figures. The template chooses between sentences and lays them out; it calculates and
formats nothing.
"""

from __future__ import annotations

import html
import re
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from n2nlib.experiments import best, claims, effects, published
from n2nlib.experiments.claims import NOT_REPRODUCED, NOT_TESTED, REPRODUCED, TOO_SMALL
from n2nlib.experiments.effects import AS_REPORT, AS_TRAINED, MARGIN
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.files import ROOT, UserError, read_json, relative, replacing, write_json
from n2nlib.metrics import PEAK
from n2nlib.pairs import baselines
from n2nlib.pairs.pair_set import read_card
from n2nlib.params import Params, load_params
from n2nlib.report import tables, wording
from n2nlib.report.notebooks import write_index
from n2nlib.report.wording import EVALUATED, REPORT, TRAINED
from n2nlib.train import runs
from n2nlib.train.network import BLUR_SIGMA
from n2nlib.train.sweep import duration

SOURCE = ROOT / "reports" / "paper.typ"
NBSP = "\N{NO-BREAK SPACE}"
FIGURES = {
    "noise": "01_data/noise_schematic",
    "network": "02_architecture/network",
    "examples": "03_ablation/fig1_examples",
    "failures": "03_ablation/failures",
    "curves": "04_candidate_curves/fig2_curves",
    "table3": "05_fine_tuning/table3",
    "report_evaluation": "06_discussion/report_evaluation",
    "sharpening": "06_discussion/sharpening",
    "effects": "06_discussion/effects",
    "length": "06_discussion/training_length",
    "studies": "07_beyond/studies",
    "best": "07_beyond/fig_best",
}
SHORT = {"Optimiser": "Optim.", "Sharpened": "Sharp.", "Upsampling": "Ups."}  # heads of narrow columns
WIDE = 300  # points: a figure that is wider takes both columns
MODELS = {best.FINAL: "final", best.BEST: "best"}
GATHERED = ("image size", "initialisation", "augmentation noise")  # studies of several places
SOURCES = {"trained": TRAINED, "evaluated": EVALUATED, "report": REPORT}
QUOTED = {"arch": "−0.13 ± 0.04 dB", "sharpen": "+1.18 ± 0.04 dB"}  # section IV of the report
DATES = {"as_trained": "psnr_2022_04_20", "sharpened": "psnr_2022_05_11"}  # of the authors' evaluations
PHOTOGRAPHS = {
    "bundled": "free photographs inside Python packages",
    "imagenette": "ImageNet (Imagenette)",
    "folder": "a folder of photographs",
    "ee559": "ImageNet, as given by the course",
}
Table = dict[str, Any]


def write_paper(params: Params) -> Path:
    """Gather paper.json, typeset paper.pdf, write the index again; returns the path of the paper.

    Raises `UserError` if a result is missing or if the template does not compile.
    """
    import typst

    write_json(params.reports / "paper.json", contents(params))
    target = params.reports / "paper.pdf"
    fonts = [str(Path(matplotlib.get_data_path()) / "fonts" / "ttf")]  # those of the figures
    try:
        with replacing(target) as temporary:
            typst.compile(
                str(SOURCE),
                output=str(temporary),
                root=str(ROOT),
                format="pdf",
                font_paths=fonts,
                ignore_system_fonts=True,
                sys_inputs={"scale": params.scale},
            )
    except typst.TypstError as error:
        problem = f"does not compile over {relative(params.reports)}: {error}"
        raise UserError(f"{relative(SOURCE)}: {problem}") from error
    write_index(params)
    print(f"{relative(target)}: typeset from the results of scale {params.scale}", flush=True)
    return target


def contents(params: Params) -> dict[str, Any]:
    """What paper.json holds. Raises `UserError` that names the notebook to run if a result is missing."""
    card = read_card(params.pairs_folder)
    if card is None:
        raise UserError(f"{relative(params.pairs_folder)}: no pair set here; run notebook 01_data first")
    table1 = tables.load("03_ablation/table1_ablation", params)
    weighed = tables.load("06_discussion/claims", params)
    longest = published_length(params)
    return {
        **_front_matter(params),
        "figures": {name: _figure(path, params) for name, path in FIGURES.items()},
        "facts": _data(params, card) | _network(params) | _table1_facts(table1, card) | _models(params),
        "is": _states(params, weighed, table1) | {"longest": longest is not None},
        "quoted": {factor: text.replace(" ", NBSP) for factor, text in QUOTED.items()},
        "authors_found": _authors_found(),
        "claims": _claims(weighed),
        "counts": _counts(weighed, longest),
        "effects": _effects(params, longest),
        "interactions": _by_source(tables.load("06_discussion/interactions", params)),
        "failures": _failures(params),
        "studies": _studies(params),
        "differences": _differences(params),
        "measures": _measures(params),
        "tables": {
            "settings": _settings_table(params),
            "ablation": _ablation_table(params, table1),
            "authors": _authors_table(params, table1),
            "agreement": _agreement_table(params),
            "models": _models_table(params),
            "budget": _budget_table(params),
            "sizes": _sizes_table(params),
            "verdicts": _verdicts_table(weighed, longest),
        },
        "made": _made(params),
    }


def number(value: float, decimals: int = 2) -> str:
    """ "23.57" with a real minus sign; "–" for what was not measured."""
    return "–" if pd.isna(value) else f"{value:,.{decimals}f}".replace("-", "−")


def count(value: float) -> str:
    """ "1,000,000"."""
    return f"{value:,.0f}"


def decibels(value: float) -> str:
    return f"{number(value)}{NBSP}dB"


def change(estimate: float, low: float = np.nan, high: float = np.nan) -> str:
    """ "+0.31 dB [+0.10, +0.52]", without the brackets if there is no interval."""
    if pd.isna(estimate):
        return "not measured"
    text = f"{wording.signed(estimate)}{NBSP}dB"
    return text if pd.isna(low) else f"{text} [{wording.signed(low)},{NBSP}{wording.signed(high)}]"


def scientific(rate: float) -> str:
    """ "1e-4" without a sign that breaks a line: "10⁻⁴", "5 × 10⁻⁶"."""
    factor, power = f"{rate:.1e}".split("e")
    digits = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    factor = f"{float(factor):g}"
    return f"10{digits}" if factor == "1" else f"{factor}{NBSP}×{NBSP}10{digits}"


def listed(words: list[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# Front matter, figures and how the paper was made


def _front_matter(params: Params) -> dict[str, Any]:
    citation = YAML(typ="safe", pure=True).load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    return {
        "scale": params.scale,
        "title": citation["title"],
        "authors": [
            one.get("name") or f"{one['given-names']} {one['family-names']}" for one in citation["authors"]
        ],
        "version": str(citation["version"]),
        "date": commit_date(),
    }


def commit_date() -> str:
    """The date of the last commit, "24 November 2026", or "" outside of git."""
    command = ["git", "-C", str(ROOT), "show", "-s", "--format=%cs", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    day = date.fromisoformat(found)
    return f"{day.day} {day:%B %Y}"


def _figure(name: str, params: Params) -> dict[str, Any]:
    """Path, size (points) and description of a figure. Raises `UserError` if it is missing."""
    path = params.reports / f"{name}.svg"
    if not path.is_file():
        notebook = path.parent.name
        raise UserError(f"{relative(path)}: missing; run notebook {notebook} first (or all: dvc repro)")
    text = path.read_text(encoding="utf-8")
    width, height = (
        float(re.search(rf'<svg[^>]*\b{side}="([\d.]+)', text)[1]) for side in ("width", "height")
    )
    described = re.search(r"<dc:description>(.*?)</dc:description>", text, re.DOTALL)
    return {
        "path": f"/{path.relative_to(ROOT).as_posix()}",
        "wide": width > WIDE,
        "height": height,
        "alt": html.unescape(described[1]) if described else "",
    }


def _made(params: Params) -> dict[str, Any]:
    """Who trained and how to rebuild, from the provenance of the result folders."""
    found = [read_json(path) for path in sorted(params.reports.glob("*/provenance.json"))]
    if not found:
        raise UserError(f"{relative(params.reports)}: no provenance.json; run the notebooks (dvc repro)")
    names = {name for one in found for files in one["files"].values() for name in files}
    folders = {path.parent.name: path for path in runs.RUNS.glob("[!.]*/*/run.json")}
    seconds = [read_json(folders[name])["seconds"] for name in names if name in folders]
    photos = " PHOTOS=<folder>" if params.pairs.source == "folder" else ""
    return {
        "runs": count(len(names)),
        "time": duration(sum(seconds)) if len(seconds) == len(names) else "",
        "machines": listed(sorted({machine for one in found for machine in one["machines"]})),
        "versions": ", ".join(f"{name} {version}" for name, version in found[-1]["versions"].items()),
        "parameters": params.hash()[:12],
        "commit": tables.commit(),
        "command": f"make paper SCALE={params.scale}{photos}",
    }


# Facts, as finished text


def _data(params: Params, card: dict) -> dict[str, Any]:
    counts, photographs, noisy = (card[key] for key in ("counts", "photographs", "noisy_psnr_db"))
    assumptions = {one["name"].split()[0]: one for one in card["assumptions"]}
    return {
        "source": params.pairs.source,
        "photographs": {split: count(value) for split, value in photographs.items()},
        "size": str(params.pairs.size),
        "block": str(params.pairs.block),
        "side": str(params.pairs.size * params.pairs.block),
        "verdict": card["verdict"].replace(" -", " −"),
        "median": assumptions["median"]["words"].split("; L1")[0].replace(" -", " −"),
        "noisy": decibels(noisy["validation"]["global"]),
        "noisy_course": decibels(published.NOISY_PSNR),
        "repeats": str(params.evaluation.repeats),
        "subset": count(max(1, counts["validation"] // 2)),
        "margin": f"{MARGIN}{NBSP}dB",
        "confidence": effects.PERCENT.replace(" ", NBSP),
        "peak": f"{PEAK:g}",
    }


def _network(params: Params) -> dict[str, str]:
    costs = tables.load("02_architecture/network_costs", params)
    weights = costs[costs["width"] == params.model.width].set_index("arch")["parameters"]
    seeds = len(params.ablation.seeds)
    return {
        "width": str(params.model.width),
        "weights_tconv": count(weights["tconv"]),
        "weights_upsample": count(weights["upsample"]),
        "blur_sigma": f"{BLUR_SIGMA:g}",
        "seeds": "one seed" if seeds == 1 else f"{seeds} seeds",
        "images": count(params.ablation.epochs * params.pairs.train),
        "highest_rate": f"{claims.HIGHEST_RATE:g}",
        "error_rate": f"{50 * (1 - effects.CONFIDENCE):g}{NBSP}%",
    }


def _table1_facts(table1: pd.DataFrame, card: dict) -> dict[str, str]:
    """How near Table I is to the report's, and what sharpening at prediction costs, without sharpening."""
    plain = _not_sharpened(table1)
    both = plain.merge(published.table1(), on=ABLATION, suffixes=("", "_printed"))
    printed = both[f"{AS_TRAINED}_printed"]
    means = table1.groupby(ABLATION)[AS_TRAINED].mean()
    failed = table1["psnr_full"] < card["noisy_psnr_db"]["validation"]["global"]
    parts = {"l1": plain["loss"] == "l1", "mse": plain["loss"] == "mse"}
    parts |= {"crops": plain["crops"], "whole": ~plain["crops"]}
    return {
        "near_trained": decibels((both[AS_TRAINED] - printed).abs().median()),
        "near_evaluated": decibels((both[AS_REPORT] - printed).abs().median()),
        **{f"lost_{name}": change(plain.loc[part, "lost"].median()) for name, part in parts.items()},
        "table1_runs": count(len(table1)),
        "table1_failed": count(failed.sum()),
        "table1_best": decibels(means.max()),
        "table1_best_setting": wording.setting(dict(zip(ABLATION, means.idxmax(), strict=True))),
    }


def _not_sharpened(table1: pd.DataFrame) -> pd.DataFrame:
    """Settings trained without sharpening: medians over seeds, and what sharpening at prediction changes."""
    settings = table1.groupby(ABLATION, as_index=False)[[AS_TRAINED, AS_REPORT]].median()
    plain = settings[~settings["sharpen"]]
    return plain.assign(lost=plain[AS_REPORT] - plain[AS_TRAINED])


def _models(params: Params) -> dict[str, str]:
    """The headline numbers, all on the images of references.csv."""
    table = tables.load("07_beyond/references", params)
    psnr = table.set_index("method")["psnr_full"]
    classical, _ = baselines.best(
        table[~table["method"].str.startswith((best.FINAL, best.BEST))].drop(columns="split")
    )
    final = read_json(params.reports / "05_fine_tuning" / "final.json")
    long_run = read_json(params.reports / "07_beyond" / "best.json")
    return {
        "split": str(table["split"].iloc[0]),
        "classical": classical,
        "final_test": decibels(psnr[best.FINAL]),
        "final_gain": change(psnr[best.FINAL] - psnr[baselines.NOISY]),
        "final_setting": wording.fine_tuning_setting(final["setting"]),
        "final_images": count(final["images"]),
        "best_test": decibels(psnr[best.BEST]),
        "best_images": count(long_run["images"]),
        "report_final": decibels(published.FINAL_PSNR),
    }


def _states(params: Params, weighed: pd.DataFrame, table1: pd.DataFrame) -> dict[str, bool | str]:
    """What sentences depend on, beside verdicts."""
    plain = _not_sharpened(table1)
    by_loss, by_crops = (plain.groupby(factor)["lost"].median() for factor in ("loss", "crops"))
    row = weighed.set_index("claim").loc["sharpening_better"]
    trained, evaluated = row["verdict"], row.get("verdict_report_evaluation")
    refuted = (NOT_REPRODUCED, TOO_SMALL)
    sharpening = "open"
    if evaluated == REPRODUCED and trained in refuted:
        sharpening = "evaluation"
    elif evaluated == REPRODUCED and trained == REPRODUCED:
        sharpening = "both"
    elif evaluated in refuted:
        sharpening = "neither"
    return {
        "published_training": published.is_published_training(params),
        "published_experiment": published.is_published_experiment(params),
        "one_study_seed": len(params.beyond.seeds) == 1,
        "few_seeds": len(params.ablation.seeds) < effects.FEWEST_SEEDS,
        "test": params.pairs.test > 0,
        "course": params.pairs.source == "ee559",
        "sharpening": sharpening,
        "l1_loses_more": bool(by_loss.get("l1", 0) < by_loss.get("mse", 0) - MARGIN),
        "whole_loses_more": bool(by_crops.get(False, 0) < by_crops.get(True, 0) - MARGIN),
    }


def _authors_found() -> dict[str, str]:
    """What the authors' own evaluations say about sharpening, and one network as an example."""
    table = published.authors_evaluations()
    table = table[(table["epochs"] == published.EPOCHS["ablation"]) & (table["arch"] == "tconv")]
    found = {name: effects.effect(table, "sharpen", True, False, key) for name, key in DATES.items()}
    setting = {"loss": "l1", "optimizer": "adam", "sharpen": False, "crops": False, "arch": "tconv"}
    printed = published.table1()
    both = table.merge(printed, on=ABLATION)
    same = both[~both["crops"]]
    again = published.authors_networks().merge(published.authors_evaluations(), on=[*ABLATION, "epochs"])
    gaps = {
        "as_trained": again["psnr_full"] - again["psnr_2022_04_27"],
        "sharpened": again["report_full"] - again["psnr_2022_05_11"],
    }
    example, row = table.merge(pd.DataFrame([setting])), printed.merge(pd.DataFrame([setting]))
    return {
        "pairs": str(found["as_trained"].pairs),
        **{name: change(one.estimate) for name, one in found.items()},
        **{f"example_{name}": decibels(example[key].iloc[0]) for name, key in DATES.items()},
        "example_printed": decibels(row["psnr_mean"].iloc[0]),
        **{f"again_{name}": decibels(gap.abs().mean()) for name, gap in gaps.items()},
        "largest": decibels((same["psnr_mean"] - same[DATES["sharpened"]]).abs().max()),
    }


# Claims and effects


def published_length(params: Params) -> dict[str, Any] | None:
    """Verdicts and effects at the published length of training, from reports/paper.

    None if this scale is that scale, if it has no Table I yet, or if its training is shorter than the
    report's. With a Table I alone, the other claims are not tested. Keys: verdicts (claim -> verdict),
    effects (factor -> `Effect`), scale, images (of a training without crops), pairs, epochs, seeds.
    """
    longer = load_params(ROOT / "params" / "paper.yaml")
    path = longer.reports / "03_ablation" / "table1_ablation.csv"
    if params.scale == longer.scale or not path.is_file() or not published.is_published_training(longer):
        return None
    table1 = tables.load("03_ablation/table1_ablation", longer)
    if (longer.reports / "06_discussion" / "claims.csv").is_file():
        weighed = tables.load("06_discussion/claims", longer)
    else:
        weighed = claims.weigh(claims.Results(table1, table1.head(0)), claims.the_report())
    compared = {factor: effects.levels(table1, factor) for factor in effects.TABLE1}
    return {
        "verdicts": weighed.set_index("claim")["verdict"].to_dict(),
        "effects": {
            factor: effects.effect(table1, factor, *found[1:]) for factor, found in compared.items() if found
        },
        "scale": longer.scale,
        "images": longer.ablation.epochs * longer.pairs.train,
        "pairs": longer.pairs.train,
        "epochs": longer.ablation.epochs,
        "seeds": table1["seed"].nunique(),
    }


def _claims(weighed: pd.DataFrame) -> dict[str, dict[str, str]]:
    own = claims.on_its_own_tables(claims.the_report())
    found = {}
    for row in weighed.to_dict("records"):
        name, again = row["claim"], row.get("verdict_report_evaluation")
        tested = not pd.isna(row["ours"])
        found[name] = {
            "verdict": row["verdict"],
            "evaluated": row["verdict"] if pd.isna(again) else again,
            "own": own.get(name, ""),
            "ours": change(row["ours"], row["ci_low"], row["ci_high"]) if tested else "not measured",
        }
    return found


def _counts(weighed: pd.DataFrame, longest: dict[str, Any] | None) -> dict[str, Any]:
    own = claims.on_its_own_tables(claims.the_report())
    again = weighed["verdict_report_evaluation"]
    found = {
        "claims": str(len(weighed)),
        "verdicts": wording.verdict_counts(weighed),
        "chance": number(claims.chance_errors(weighed), 1),
        "own_tested": str(len(own)),
        "own_not_carried": str(sum(verdict != REPRODUCED for verdict in own.values())),
        "changed": str(int((again.notna() & (again != weighed["verdict"])).sum())),
    }
    if longest:
        verdicts = weighed.set_index("claim")["verdict"]
        there = {name: one for name, one in longest["verdicts"].items() if one != NOT_TESTED}
        both = {name: one for name, one in there.items() if verdicts.get(name, NOT_TESTED) != NOT_TESTED}
        found |= {
            "longest": wording.verdict_counts(pd.DataFrame({"verdict": list(there.values())})),
            "longest_tested": str(len(there)),
            "longest_both": str(len(both)),
            "longest_same": str(sum(verdicts[name] == one for name, one in both.items())),
            "longest_scale": longest["scale"],
            "longest_pairs": count(longest["pairs"]),
            "longest_epochs": str(longest["epochs"]),
            "longest_seeds": "one seed" if longest["seeds"] == 1 else f"{longest['seeds']} seeds",
        }
    return found


def _effect(row: Any) -> str:
    return change(row.estimate, row.low, row.high)


def _by_source(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """factor -> source ("trained", "evaluated", "report") -> effect in words."""
    names = {source: name for name, source in SOURCES.items()}
    found: dict[str, dict[str, str]] = {}
    for row in table.itertuples():
        found.setdefault(row.factor, {})[names[row.source]] = _effect(row)
    return found


def _effects(params: Params, longest: dict[str, Any] | None) -> dict[str, dict[str, str]]:
    """The effect of each factor by source, its pairs, and what it is at other lengths of training."""
    table = tables.load("06_discussion/effects", params)
    length = tables.load("06_discussion/training_length", params)
    length = length[(length["source"] == TRAINED) & (length["scale"] != params.scale)]
    found = _by_source(table)
    for row in table[table["source"] == REPORT].itertuples():
        found[row.factor]["report_pairs"] = f"{row.better:.0f} of {row.pairs:.0f}"
    for row in table[table["source"] == TRAINED].itertuples():
        mine = found[row.factor]
        mine["pairs"] = f"{row.better:.0f} of {row.pairs:.0f}"
        ends = length[length["factor"] == row.factor].sort_values("images").groupby("scale", sort=False)
        others = {
            scale: (one["images"].iloc[-1], one["estimate"].iloc[-1], _effect(one.iloc[-1]))
            for scale, one in ends
        }
        if longest and longest["scale"] not in others and row.factor in longest["effects"]:
            effect = longest["effects"][row.factor]
            others[longest["scale"]] = longest["images"], effect.estimate, _effect(effect)
        ordered = sorted(others.items(), key=lambda other: other[1][0])
        mine["lengths"] = listed(
            [f"{words} after {count(images)} images (scale {scale})" for scale, (images, _, words) in ordered]
        )
        moved = bool(ordered) and abs(ordered[-1][1][1] - row.estimate) > MARGIN
        mine["moves"] = "yes" if moved else "no"
    return found


def _failures(params: Params) -> dict[str, str]:
    """factor -> "0 of 16 runs with TConv and 4 of 16 runs with Upsample"."""
    table = tables.load("06_discussion/failures", params)
    words = [
        f"{row.failed} of {row.runs} runs with {wording.level(row.factor, row.level)}"
        for row in table.itertuples()
    ]
    return table.assign(words=words).groupby("factor")["words"].agg(list).map(listed).to_dict()


def _studies(params: Params) -> dict[str, str]:
    """Study -> its differences to the first variant in words; "open" if the interval includes zero.

    Studies that begin alike, such as the two of initialisation, stand together.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for row in tables.load("07_beyond/beyond_effects", params).itertuples():
        kind = next((name for name in GATHERED if row.study.startswith(name)), row.study)
        variant, place = row.what.partition(" − ")[0], row.study.removeprefix(kind).strip(" ,")
        for key, name in wording.OPTIMIZER.items():
            place = place.replace(key, name)
        remarks = [place] * bool(place) + ["open"] * (row.low <= 0 <= row.high)
        words = change(row.estimate) + (f" ({', '.join(remarks)})" if remarks else "")
        found.setdefault(kind, []).append((variant, words))
    return {
        kind: ", ".join(f"{variant} {words}" if len(rows) > 1 else words for variant, words in rows)
        for kind, rows in found.items()
    }


def _differences(params: Params) -> dict[str, dict[str, str]]:
    """ "final_classical", "final_twin", "best_classical", "best_twin" -> the difference and its outcome."""
    found = {}
    for row in tables.load("07_beyond/differences", params).itertuples():
        model, _, other = row.what.partition(" − ")
        if model in MODELS:
            kind = "twin" if other == best.TWIN.format(model) else "classical"
            outcome = "better" if row.low > 0 else "worse" if row.high < 0 else "open"
            found[f"{MODELS[model]}_{kind}"] = {"said": _effect(row), "outcome": outcome}
    return found


def _measures(params: Params) -> str:
    """How PSNR-HVS-M and SSIM rank runs, in a sentence for each kind of runs."""
    table = tables.load("07_beyond/selection", params)
    names = {"psnr_hvs_m": "PSNR-HVS-M", "ssim": "SSIM"}
    sentences = []
    for runs_of, rows in table.groupby("runs_of", sort=False):
        words = [
            f"{names[row.measure]} has τ = {number(row.tau)} and its choice "
            + (f"gives away {decibels(row.cost)}" if row.cost > 0 else "is the same")
            for row in rows.itertuples()
        ]
        sentences.append(f"Among the {rows['runs'].iloc[0]} runs of {runs_of}, {listed(words)}.")
    return " ".join(sentences)


# Tables, as finished cells


def _sheet(frame: pd.DataFrame, strong: list[tuple[int, int]] | None = None) -> Table:
    """A table for the template: groups of columns (label, span), head, rows of text, cells in bold."""
    groups: list[list[Any]] = []
    if isinstance(frame.columns, pd.MultiIndex):
        for label in frame.columns.get_level_values(0):
            if groups and groups[-1][0] == label:
                groups[-1][1] += 1
            else:
                groups.append([label, 1])
    head = [str(name[-1] if isinstance(name, tuple) else name) for name in frame.columns]
    rows = [[str(cell).replace("'", "’") for cell in row] for row in frame.itertuples(index=False)]
    return {
        "groups": groups,
        "head": head,
        "rows": rows,
        "strong": [[int(row), int(column)] for row, column in strong or []],
    }


def departures(params: Params) -> pd.DataFrame:
    """Our settings beside the report's, as setting, report, ours and differs (bool).

    A dagger marks what the report's text does not say and its authors' published code does.
    """
    pairs, training, ablation, tuning = params.pairs, params.training, params.ablation, params.fine_tuning
    sizes = {name: _areas(getattr(training, f"{name}_crop")) for name in ("global", "local")}
    flips = {"image": "drawn for each image", "batch": "drawn once a batch", "none": "none"}
    warmup = f"{100 * training.warmup:g}{NBSP}% of the steps" if training.warmup else "none"
    shared = "shared by input and target"
    seeds, steps = len(ablation.seeds), ablation.annealing_steps
    published_rates = {"adam": 1e-4, "sgd": 1e-5}
    rows = [
        ("Photographs", PHOTOGRAPHS["ee559"], PHOTOGRAPHS[pairs.source]),
        ("Training pairs", count(published.PAIRS), count(pairs.train)),
        ("Validation pairs", "1,000", count(pairs.validation)),
        ("Test pairs", "none", count(pairs.test) if pairs.test else "none"),
        ("Noisy versions", "one draw", "new in every epoch" if pairs.resample else "one draw"),
        ("Channels", str(published.WIDTH), str(params.model.width)),
        ("Batch", "10, 125 and 625†", str(training.batch_size)),
        ("Epochs, Table I", "20, with crops 10", f"{ablation.epochs}, with crops {ablation.crops_epochs}"),
        ("Epochs, Fig. 2", "200; its plot has 100", str(params.curves.epochs)),
        ("Epochs, Table III", "20", str(tuning.epochs)),
        ("Epochs, final model", "20", str(tuning.final_epochs)),
        ("Seeds, Table I", "one seed", "one seed" if seeds == 1 else f"{seeds} seeds"),
    ]
    for optimizer, name in wording.OPTIMIZER.items():
        for loss, part in (("l1", 1), ("mse", 0.1)):
            theirs = scientific(part * published_rates[optimizer])
            ours = scientific(getattr(getattr(ablation.learning_rates, optimizer), loss))
            rows.append((f"Rate, {name}, {wording.LOSS[loss]}", f"{theirs}†", ours))
    rows += [
        ("Annealing, Table I", "1 step", f"{steps} step" + "s" * (steps != 1)),
        ("Warm-up", "none†", warmup),
        ("Crops, areas", f"70–100{NBSP}% and 5–40{NBSP}%", f"{sizes['global']} and {sizes['local']}"),
        ("Flips", "drawn once a batch†", flips[training.flips]),
        ("Added noise", f"{shared}†", shared if training.shared_noise else "independent"),
        ("Rates, Table III", _grid((1e-4, 5e-4, 1e-3)), _grid(tuning.learning_rate.adam)),
        ("Noise σₙ, Table III", _grid((1, 5, 10)), _grid(tuning.sigma_n)),
        ("Factor τ, Table III", _grid((1, 2)), _grid(tuning.tau_sharp)),
        ("Precision", "not stated", "bfloat16 on GPUs" if training.precision == "bfloat16" else "float32"),
        ("Evaluation", "always sharpened†", "in both ways"),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["setting", "report", "ours"])
    return frame.assign(differs=frame["report"].str.removesuffix("†") != frame["ours"])


def _grid(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _areas(scale: tuple[float, float]) -> str:
    return f"{100 * scale[0]:g}–{100 * scale[1]:g}{NBSP}%"


def _settings_table(params: Params) -> Table:
    frame = departures(params)
    strong = [(row, 2) for row in np.flatnonzero(frame["differs"])]
    shown = frame[["setting", "report", "ours"]].set_axis(["", "the report", "here"], axis=1)
    return _sheet(shown, strong)


def _ablation_table(params: Params, table1: pd.DataFrame) -> Table:
    """Table I; our candidates and the report's are bold."""
    candidates = tables.load("04_candidate_curves/table2_candidates", params)
    frame = tables.render_table1(table1, tables.load("01_data/baselines", params))
    settings = table1[["loss", "optimizer", "sharpen", "crops"]].drop_duplicates().reset_index(drop=True)
    strong = []
    for one in candidates.to_dict("records"):
        row = np.flatnonzero((settings == pd.Series(one)[settings.columns]).all(axis=1))
        source = REPORT if str(one["candidate"]).isdigit() else TRAINED
        column = [
            number
            for number, (arch, name) in enumerate(frame.columns)
            if arch == wording.ARCH[one["arch"]] and name.startswith(source)
        ]
        strong += [(int(row[0]), column[0])] if len(row) and column else []
    heads = [name.removesuffix(" (dB)").removeprefix("ours, ") for _, name in frame.columns]
    groups = frame.columns.get_level_values(0)
    frame.columns = pd.MultiIndex.from_arrays([groups, [SHORT.get(name, name) for name in heads]])
    return _sheet(frame, strong)


def _authors_table(params: Params, table1: pd.DataFrame) -> Table:
    """The networks trained without sharpening: by their authors, by us on theirs, and our own."""
    keys = ["arch", "loss", "optimizer", "crops"]
    theirs = published.authors_evaluations()
    again = tables.load("06_discussion/authors", params)
    parts = [
        theirs[theirs["epochs"] == published.EPOCHS["ablation"]],
        again[again["epochs"] == published.EPOCHS["ablation"]][[*ABLATION, "psnr_full", "report_full"]],
        published.table1().rename(columns={"psnr_mean": "printed"})[[*ABLATION, "printed"]],
        table1.groupby(ABLATION, as_index=False)[[AS_TRAINED, AS_REPORT]].median(),
    ]
    found = parts[0]
    for part in parts[1:]:
        found = found.merge(part, on=ABLATION, how="left")
    found = found[~found["sharpen"]].sort_values(keys, kind="stable")
    columns = {
        ("the authors", "as trained"): "psnr_2022_04_27",
        ("the authors", "sharpened"): "psnr_2022_05_11",
        ("the authors", "printed"): "printed",
        ("theirs, by us", "as trained"): "psnr_full",
        ("theirs, by us", "sharpened"): "report_full",
        ("our own", "as trained"): AS_TRAINED,
        ("our own", "sharpened"): AS_REPORT,
    }
    settings = wording.readable(found[keys])
    shown = {("", SHORT.get(name, name)): list(settings[name]) for name in settings}
    shown |= {name: [number(value) for value in found[key]] for name, key in columns.items()}
    return _sheet(pd.DataFrame(shown))


def _agreement_table(params: Params) -> Table:
    """Kendall's tau and the mean absolute difference of our Table I with each reference, both evaluations."""
    table = tables.load("06_discussion/agreement", params)
    table = table[table["arch"] == "all"]
    rows = []
    for reference, part in table.groupby("reference", sort=False):
        one = part.set_index("source")
        row = [reference, str(int(one["cells"].max()))]
        for source in (TRAINED, EVALUATED):
            values = one.loc[source] if source in one.index else pd.Series(dtype=float)
            row += [number(values.get(name, np.nan)) for name in ("tau", "mean_abs_diff")]
        rows.append(row)
    head = [("", "ours against"), ("", "cells")]
    head += [(evaluation, name) for evaluation in ("as trained", "sharpened") for name in ("τ", "dB")]
    return _sheet(pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(head)))


def _models_table(params: Params) -> Table:
    table = tables.load("07_beyond/references", params)
    shown = {
        "": table["method"],
        "PSNR": table["psnr_full"].map(number),
        "per image": table["psnr_per_image"].map(number),
        "HVS-M": table["psnr_hvs_m"].map(number),
        "SSIM": table["ssim"].map(lambda value: number(value, 3)),
    }
    return _sheet(pd.DataFrame(shown))


def _budget_table(params: Params) -> Table:
    table = tables.load("07_beyond/budget", params)
    gains = [
        "–" if pd.isna(row.gain) else change(row.gain, row.low, row.high).replace(f"{NBSP}dB", "")
        for row in table.itertuples()
    ]
    shown = {
        "": table["model"],
        "PSNR": table["psnr_full"].map(number),
        "gain": gains,
        "images": table["images"].map(count),
        "passes": table["passes"].map(str),
    }
    return _sheet(pd.DataFrame(shown))


def _sizes_table(params: Params) -> Table:
    """A row for each image size: PSNR of each method, with the sharpness of its output."""
    table = tables.load("07_beyond/sizes", params)
    if table.empty:
        return _sheet(pd.DataFrame())
    cells = table.assign(
        cell=[f"{number(row.psnr_full)} ({number(row.sharpness)})" for row in table.itertuples()]
    ).pivot(index="size", columns="method", values="cell")[list(dict.fromkeys(table["method"]))]
    return _sheet(cells.reset_index().rename(columns={"size": "pixels"}).astype(str))


def _verdicts_table(weighed: pd.DataFrame, longest: dict[str, Any] | None) -> Table:
    """Every claim with the report's value, ours by both evaluations, and up to three verdicts."""
    rows = []
    for row in weighed.to_dict("records"):
        write = number if row["claim"] == "final_psnr" else wording.signed
        values = {
            key: "–" if pd.isna(row.get(key)) else write(row[key])
            for key in ("published", "ours", "ci_low", "ci_high", "ours_report_evaluation")
        }
        section, _, statement = row["statement"].partition(": ")
        again = row.get("verdict_report_evaluation")
        limits = "" if values["ci_low"] == "–" else f" [{values['ci_low']}, {values['ci_high']}]"
        rows.append([section, statement, values["published"], values["ours"] + limits, row["verdict"]])
        rows[-1] += [values["ours_report_evaluation"], "–" if pd.isna(again) else again]
        rows[-1] += [longest["verdicts"].get(row["claim"], NOT_TESTED)] if longest else []
    head = [("", "§"), ("", "Claim"), ("the report", "dB")]
    head += [("ours, as trained", "dB"), ("ours, as trained", "verdict")]
    head += [("as the report evaluated", "dB"), ("as the report evaluated", "verdict")]
    head += [("published length", "verdict")] if longest else []
    return _sheet(pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(head)))
