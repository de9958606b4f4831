"""README's result table, written from committed results: python -m n2nlib readme."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from n2nlib.experiments import effects, published, results
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.files import ROOT, UserError, write_text
from n2nlib.pairs.baselines import best as best_classical
from n2nlib.report import wording
from n2nlib.report.wording import changes

SCALES = {
    "paper": "the published experiment, on ImageNet photographs",
    "workstation": "the published network on ImageNet photographs, two CPU cores",
    "laptop": "a small network on eight bundled photographs, two CPU cores, ten minutes",
}


TABLE1_ALONE = {
    "paper": "At the published scale (50,000 pairs, 20 epochs, one GPU) Table I alone has been trained so far"
}  # no more than notebooks 1 to 3


BEGIN, END = "<!-- results: python -m n2nlib readme -->", "<!-- /results -->"


def result_table(scale: str, root: Path = ROOT) -> str:
    """The table of `scale` in Markdown, with the figure under it."""
    folder = root / "reports" / scale
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    final = json.loads((folder / "model" / "final.json").read_text(encoding="utf-8"))
    best_model = json.loads((folder / "model" / "best.json").read_text(encoding="utf-8"))
    table1, measures, baselines, references, claims, alive = (
        pd.read_csv(folder / "tables" / f"{name}.csv")
        for name in (
            "table1_ablation",
            "measures_ablation",
            "baselines",
            "references",
            "claims",
            "claims_without_dead",
        )
    )
    twin = references[references["method"] == results.TWIN]
    classical, classical_db = best_classical(baselines)
    settings, published_settings = (results.means(table, ABLATION) for table in (table1, published.table1()))
    best, best_published = (
        table.loc[table["psnr_mean"].idxmax()] for table in (settings, published_settings)
    )
    seeds = table1["seed"].nunique()
    setting = ", ".join(f"{name} {value:g}" for name, value in final["setting"].items() if name != "seed")
    rows = [
        ("noisy input", metrics["noisy_psnr_full"], "19.62 (the course's images)"),
        (f"best classical method: {classical}", classical_db, "–"),
        (
            f"best of the {len(settings)} settings of Table I{f', mean of {seeds} seeds' if seeds > 1 else ''}: {_setting(best)}",
            best["psnr_mean"],
            f"{best_published['psnr_mean']:.2f} ({_setting(best_published)})",
        ),
        (f"final model ({setting})", metrics["final_psnr_full"], f"{published.FINAL_PSNR:.2f}"),
        *((row.method, row.psnr_full, "–") for row in twin.itertuples()),
        (
            f"best model of notebook 7 (residual connection, scaled values; {best_model['images']:,} images)",
            best_model["metrics"]["psnr_full"],
            "–",
        ),
    ]
    lines = [
        f"| scale {scale}: {SCALES[scale]} | PSNR, global (dB) | published, on other images |",
        "|---|---|---|",
    ]
    lines += [f"| {what} | {value:.2f} | {paper} |" for what, value, paper in rows]
    count = metrics["table1_runs_below_noisy"]
    changed = changes(claims, alive, int((measures["dead_channels"] > 0).sum()))
    verdicts = ", ".join(
        f"{number} {verdict}" for verdict, number in claims["verdict"].value_counts().items()
    )
    note = (
        f"Of {len(claims)} claims of the report: {verdicts} ([claims.csv](reports/{scale}/tables/claims.csv), "
        f"[the paper](reports/{scale}/paper.pdf)). {count} of the {len(table1)} runs of Table I end below their noisy input at this scale. "
        f"{_seed_spread(settings)}Validation photographs are none of the training ones. {changed}"
    )
    more = [
        line for text in (table1_alone(other, root) for other in TABLE1_ALONE) if text for line in (text, "")
    ]
    return "\n".join(
        [
            *lines,
            "",
            note,
            "",
            *more,
            f"![Fig. 1: noisy input, networks, clean image](reports/{scale}/figures/fig1_examples.png)",
        ]
    )


def table1_alone(scale: str, root: Path = ROOT) -> str:
    """What a scale says at which Table I alone has been trained; nothing where there is more, or less."""
    folder = root / "reports" / scale
    path = folder / "tables" / "table1_ablation.csv"
    if (folder / "metrics.json").is_file() or not path.is_file():
        return ""
    table, baselines = pd.read_csv(path), pd.read_csv(folder / "tables" / "baselines.csv")
    classical, classical_db = best_classical(baselines)
    settings = results.means(table, ABLATION)
    best = settings.loc[settings["psnr_mean"].idxmax()]
    found = effects.table1_effects(table, published.table1()).query("source == 'ours'")
    ahead = [
        f"{one.what} in {one.same_sign if one.mean > 0 else one.pairs - one.same_sign} of {one.pairs}"
        for one in found.itertuples()
    ]
    return (
        f"{TABLE1_ALONE[scale]}: the best setting, {_setting(best)}, reaches {best['psnr_mean']:.2f} dB, and "
        f"{int((table['psnr_full'] > classical_db).sum())} of {len(table)} runs beat the {classical} at {classical_db:.2f} dB. {_seed_spread(settings)}"
        f"Pairs of settings with a gain: {', '.join(ahead)} "
        f"([Table I](reports/{scale}/tables/table1_ablation.md), [its figure](reports/{scale}/figures/ablation.png))."
    )


def _seed_spread(settings: pd.DataFrame) -> str:
    """How far a setting's seeds are apart, in a sentence; "" where there is one seed."""
    if "seed_std" not in settings:
        return ""
    typical, most = settings["seed_std"].quantile([0.5, 0.9])
    return f"Between seeds a setting spreads by {typical:.2f} dB (median of the {len(settings)}; {most:.2f} dB for nine in ten). "


def _setting(row: pd.Series) -> str:
    words = [wording.ARCH[row["arch"]], wording.LOSS[row["loss"]], wording.OPTIMIZER[row["optimizer"]]]
    return " ".join([*words, *["sharp"] * bool(row["sharpen"]), *["crops"] * bool(row["crops"])])


def write_readme(check: bool, root: Path = ROOT) -> None:
    """Put the results of the largest scale that has any into README.md; with `check`, raise `UserError` if they are not what stands there."""
    path = root / "README.md"
    scale = next((name for name in SCALES if (root / "reports" / name / "metrics.json").is_file()), None)
    if scale is None:
        raise UserError("reports/: no scale has results; run dvc repro first")
    text = path.read_text(encoding="utf-8")
    block = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not block.search(text):
        raise UserError(f"{path.name}: holds no lines {BEGIN} and {END} to write between")
    new = block.sub(lambda found: f"{BEGIN}\n{result_table(scale, root)}\n{END}", text)
    if check and new != text:
        raise UserError(
            f"{path.name}: its result table is not that of reports/{scale}; run python -m n2nlib readme"
        )
    if not check:
        write_text(path, new)
