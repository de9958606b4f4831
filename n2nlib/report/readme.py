"""What a release takes from the results: the findings in README.md, and a model in the package.

Notebook 06 writes the findings of its scale. `python -m n2nlib readme` puts them into README.md and copies
the model.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pandas as pd

from n2nlib.denoiser import BUNDLED_MODEL
from n2nlib.experiments import best, effects, published
from n2nlib.files import ROOT, UserError, read_json, relative, replacing, write_text
from n2nlib.pairs import baselines
from n2nlib.params import Params
from n2nlib.report import tables, wording

# Largest first: README shows of each part the first scale that has it.
SCALES_IN_WORDS = {
    "paper": "pairs and epochs of the report, on photographs of ImageNet and a GPU",
    "workstation": "the report's network on photographs of ImageNet, trained on two CPU cores in 13 hours",
    "laptop": "a small network on photographs from Python packages, trained in 12 minutes on two CPU cores",
}
FINDINGS, REFERENCES = "06_discussion/readme.md", "07_beyond/references.csv"  # in reports/<scale>/
PICTURES = {
    "01_data/noise_schematic.png": "From a photograph to its blocks, and from a block to a noisy pixel",
    "07_beyond/fig_best.png": "Noisy images, the outputs of a blur and of two networks, and the clean images",
}
MODEL_SCALES = ("paper", "workstation")  # laptop sees too few photographs for a model that is worth using
MODELS = ("07_beyond/best", "05_fine_tuning/final")  # in reports/<scale>/
BEGIN, END = "<!-- results: python -m n2nlib readme -->", "<!-- /results -->"


def write_results(params: Params) -> None:
    """Write `FINDINGS` of a scale: three findings as a Markdown list, and a table of effects.

    Raises `UserError` if a table of notebook 06 is missing.
    """
    names = ("effects", "agreement", "claims", "interactions", "training_length")
    loaded = (tables.load(f"06_discussion/{name}", params) for name in names)
    found, agreement, weighed, interactions, length = loaded
    counts = f"Our verdicts on {len(weighed)} claims of the report: {wording.verdict_counts(weighed)}."
    findings = {  # title -> sentences, and the files behind them
        "What sharpening gains depends on how it is measured": (
            [wording.main_finding(found), wording.agreement_sentence(agreement)],
            ["report_evaluation.png", "effects.csv"],
        ),
        "What else the report compares": (
            [wording.lasting_finding(weighed, found), wording.dependence_finding(interactions), counts],
            ["effects.png", "claims.csv"],
        ),
        "What depends on the length of training": (
            [wording.length_finding(length, params.scale)],
            ["training_length.png", "training_length.csv"],
        ),
    }
    items = []
    for number, (title, (sentences, files)) in enumerate(findings.items(), 1):
        links = ", ".join(f"[{name}](reports/{params.scale}/06_discussion/{name})" for name in files)
        items.append(f"{number}. **{title}.** {' '.join(filter(None, sentences))} ({links})")
    table = wording.effects_markdown(found, length, params.scale)
    write_text(params.reports / FINDINGS, "\n".join([*items, "", table, ""]))


def result_table(folder: Path) -> str:
    """PSNRs of references.csv in Markdown: noisy input, best classical method, and every network.

    The classical method is the one that is best on the validation images.
    """
    if not (folder / REFERENCES).is_file():
        return f"The result table is not available: {REFERENCES} is missing (dvc repro)."
    table = pd.read_csv(folder / REFERENCES)
    network = table["method"].str.startswith((best.FINAL, best.BEST))
    classical, _ = baselines.best(pd.read_csv(tables.existing(folder / "01_data" / "baselines.csv")))
    rows = table[network | table["method"].isin([baselines.NOISY, classical])]
    lines = [f"| {table['split'].iloc[0]} images | PSNR (dB) | PSNR per image (dB) |", "|---|---|---|"]
    lines += [
        f"| {row.method} | {row.psnr_full:.2f} | {row.psnr_per_image:.2f} |" for row in rows.itertuples()
    ]
    values = table.set_index("method")["psnr_full"]
    note = (
        "PSNR is taken over all pixels of all images unless it says per image. The report's final model "
        f"reaches {published.FINAL_PSNR:.2f} dB on the images of its course, whose noisy input has "
        f"{published.NOISY_PSNR:.2f} dB."
    )
    if values[best.FINAL] < values[classical]:
        note = (
            f"At scale {folder.name} the report's network does not reach the best classical method, so the "
            f"verdicts of that scale describe only an early stage of training. {note}"
        )
    return "\n".join([*lines, "", note])


def block(root: Path = ROOT) -> str:
    """What stands between the markers: each part from the largest scale that has it.

    Raises `UserError` if no scale has findings.
    """

    def largest(name: str) -> str | None:
        return next((scale for scale in SCALES_IN_WORDS if (root / "reports" / scale / name).is_file()), None)

    scale, compared = largest(FINDINGS), largest(REFERENCES)
    if scale is None:
        raise UserError(f"reports/<scale>/{FINDINGS}: no scale has it; run dvc repro first")
    parts = [f"![{alt}](reports/{one}/{name})" for name, alt in PICTURES.items() if (one := largest(name))]
    paper = f"reports/{scale}/paper.pdf"
    details = f" [Our paper]({paper}) has the details." if (root / paper).is_file() else ""
    parts.append(
        "Results come from several *scales*, which differ in photographs, networks and length of training. "
        f"The findings below are those of scale *{scale}*: {SCALES_IN_WORDS[scale]}. Numbers in brackets are "
        f"{effects.PERCENT} intervals.{details}"
    )
    parts.append((root / "reports" / scale / FINDINGS).read_text(encoding="utf-8").strip())
    if compared not in (None, scale):
        parts.append(f"The models are those of scale *{compared}*: {SCALES_IN_WORDS[compared]}.")
    return "\n\n".join([*parts, result_table(root / "reports" / (compared or scale))])


def write_readme(check: bool, root: Path = ROOT) -> None:
    """Put the results into README.md; with `check`, raise `UserError` if they are not what it holds."""
    path = root / "README.md"
    text = path.read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not between.search(text):
        raise UserError(f"{path.name}: has no lines {BEGIN} and {END} to write between")
    new = between.sub(lambda _: f"{BEGIN}\n{block(root)}\n{END}", text)
    if check and new != text:
        raise UserError(f"{path.name}: its results are not those in reports/; run python -m n2nlib readme")
    if not check:
        write_text(path, new)


def bundle_model(check: bool, root: Path = ROOT, package: Path = BUNDLED_MODEL) -> None:
    """Copy a final or best model, with its description and its card if it has one, to where `denoise` looks.

    It is the one of `MODEL_SCALES` with the highest psnr_full on the validation images of its scale, all of
    them photographs of ImageNet; nothing is chosen on test images. Without any model nothing is done. With
    `check`, raise `UserError` that names the file if it is not there yet.
    """
    models = [root / "reports" / scale / f"{name}.json" for scale, name in product(MODEL_SCALES, MODELS)]
    metrics = {path: read_json(path)["metrics"] for path in models if path.is_file()}
    if not metrics:
        return
    best_model = max(metrics, key=lambda path: metrics[path]["psnr_full"])
    for suffix in (".safetensors", ".json", ".md"):
        source, target = best_model.with_suffix(suffix), package.with_suffix(suffix)
        new, old = (path.read_bytes() if path.is_file() else None for path in (source, target))
        if check:
            if new != old:
                raise UserError(f"{relative(target)}: not {relative(source)}; run python -m n2nlib readme")
        elif new is None:  # only best models have a card
            target.unlink(missing_ok=True)
        else:
            with replacing(target) as temporary:
                temporary.write_bytes(new)
