"""reports/<scale>/paper.pdf: reports/paper.typ typeset by typst over the result files of one scale.

What no table holds (sizes, rates, hardware, time) is gathered in facts.json beside it, so that the prose has nothing to type.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import pandas as pd

from n2nlib.experiments import claims, effects, paper_runs, published, results
from n2nlib.files import ROOT, UserError, read_json, relative, replacing, write_json
from n2nlib.metrics import PEAK
from n2nlib.pairs.pair_set import read_card
from n2nlib.params import Params
from n2nlib.report import tables, wording
from n2nlib.report.notebooks import write_index
from n2nlib.train.runs import RUNS
from n2nlib.train.sweep import duration

SOURCE = ROOT / "reports" / "paper.typ"


def write_paper(params: Params) -> Path:
    """Gather the facts and typeset the paper; returns its path. Raises `UserError` if a result is missing or the text does not compile."""
    import typst

    write_json(params.reports / "facts.json", facts(params))
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
        raise UserError(
            f"{relative(SOURCE)}: does not compile over {relative(params.reports)}: {error}"
        ) from error
    write_index(params)
    print(f"{relative(target)}: typeset from the results of scale {params.scale}", flush=True)
    return target


def facts(params: Params) -> dict[str, object]:
    """What the prose says beside the tables. Raises `UserError` for a missing result."""
    card = read_card(params.pairs_folder)
    if card is None:
        raise UserError(
            f"{relative(params.pairs_folder)}: no pair set here; make it with notebook 01 (dvc repro data)"
        )
    references = tables.load("references", params).set_index("method")["psnr_full"]
    costs = tables.load("network_costs", params).query("width == @params.model.width").set_index("arch")
    candidates, curves = tables.load("table2_candidates", params), tables.load("curves", params)
    training, options = params.training, params.ablation
    weighed, alive = tables.load("claims", params), tables.load("claims_without_dead", params)
    dead = int((tables.load("measures_ablation", params)["dead_channels"] > 0).sum())
    own = claims.on_its_own_tables(
        claims.Results(published.table1(), published.table3(), final_psnr=published.FINAL_PSNR)
    )
    return {
        "metrics": read_json(params.reports / "metrics.json"),
        "best": read_json(params.reports / "model" / "best.json"),
        "clean_twin": float(references[results.TWIN]) if results.TWIN in references else None,
        "size": params.pairs.size,
        "block": params.pairs.block,
        "source": params.pairs.source,
        "train_crop": params.pairs.train_crop,
        "train_pairs": card["counts"]["train"],
        "validation_pairs": card["counts"]["validation"],
        "photographs": card["photographs"],
        "verdict": card["verdict"].rstrip("."),
        "width": params.model.width,
        "parameters": {name: int(value) for name, value in costs["parameters"].items()},
        "batch_size": training.batch_size,
        "sigma_n": training.sigma_n,
        "rates": options.learning_rates.model_dump(),
        "epochs": {
            "ablation": options.epochs,
            "ablation_crops": options.crops_epochs,
            "curves": params.curves.epochs,
            "fine_tuning": params.fine_tuning.epochs,
        },
        "published_epochs": published.EPOCHS,
        "published_pairs": published.PAIRS,
        "published_training": published.is_published_training(params),
        "repeats": params.evaluation.repeats,
        "subset": params.evaluation.subset,
        "peak": int(PEAK),
        "confidence": round(100 * effects.CONFIDENCE),
        "chosen": int(
            paper_runs.choose_candidate(curves, candidates, params.fine_tuning.epochs)["candidate"]
        ),
        "without_dead": wording.changes(weighed, alive, dead),
        "own_tables": {
            "tested": len(own),
            "not_carried": [
                name.replace("_", " ") for name, verdict in own.items() if verdict != claims.REPRODUCED
            ],
        },
        "beyond": {
            "seeds": len(params.beyond.seeds),
            "images": params.beyond.epochs * card["counts"]["train"],
            "size_images": params.beyond.sizes.epochs * params.beyond.sizes.train,
        },
        "hash": params.hash,
        "commit": tables.commit(),
        "command": f"make paper SCALE={params.scale}"
        + (" PHOTOS=<folder>" if params.pairs.source == "folder" else ""),
    } | _of_runs(params)


def _run_names(params: Params) -> set[str]:
    """Every run that a table of this scale came from."""
    sidecars = [
        path
        for path in (params.reports / "tables").glob("*.json")
        if path.stem not in ("rate_search", "precision")
    ]  # of benchmarks
    return {run for path in sidecars for run in read_json(path)["runs"]}


def _of_runs(params: Params) -> dict[str, object]:
    """Number of runs, training time, hardware and versions, from the runs' own folders."""
    folders = {path.parent.name: path for path in RUNS.glob("[!.]*/*/run.json")}
    names = _run_names(params)
    missing = sorted(names - set(folders))
    if missing:
        raise UserError(
            f"data/runs: run {missing[0]} of the tables is not here; rebuild it first (dvc repro)"
        )
    about = pd.DataFrame([read_json(folders[name]) for name in sorted(names)])
    versions = pd.DataFrame(about["versions"].tolist())
    devices = [
        f"{os.cpu_count()} cores, {_cpu()}"
        if device in (platform.machine(), platform.processor())
        else device
        for device in about["device"].unique()
    ]
    return {
        "runs": len(about),
        "training_time": duration(float(about["seconds"].sum())),
        "hardware": _listed(devices),
        "versions": ", ".join(f"{name} {_listed(versions[name].unique())}" for name in versions),
    }


def _listed(values: Iterable[str]) -> str:
    return " and ".join(sorted(values))


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
