"""What notebook 06 gathers before it weighs the claims: our results, the search for rates, other scales."""

from __future__ import annotations

import pandas as pd

from n2nlib.experiments import effects
from n2nlib.experiments.claims import Results
from n2nlib.experiments.effects import EVALUATIONS
from n2nlib.experiments.pipeline import Chain
from n2nlib.experiments.results import plain_run, search_record
from n2nlib.files import ROOT
from n2nlib.train.network import Network, load_network

SCALES = ("laptop", "workstation", "paper")  # whose trainings are compared by length
PROGRESS = dict(zip(EVALUATIONS, ("psnr_full", "report_full"), strict=True))  # the columns of progress.csv


def our_results(chain: Chain) -> Results:
    """What the claims are measured on, with the error of each image for comparisons of single settings."""
    ablation, curves = chain.ablation, chain.curves
    of_epochs = [errors for one in curves.finished for _, errors in sorted(one.curve.items())]
    return Results(
        table1=ablation.table.assign(errors=[one.errors for one in ablation.finished]),
        table3=chain.fine_tuning.table,
        curves=curves.table.assign(errors=of_epochs),
        rate_search=search_record("rates", chain.params.scale),
        noisy_db=chain.pairs.card["noisy_psnr_db"]["validation"]["global"],
        photographs=chain.pairs.photographs("validation"),
        final_psnr=float(chain.final.table["psnr_full"].iloc[0]),
    )


def plain_network(chain: Chain) -> Network:
    """The network of `results.plain_run`; says so if Table I has none that was trained without sharpening."""
    number = plain_run(chain.ablation.table)
    if chain.ablation.planned[number].run.tau_sharp:
        print("All networks of Table I were trained with sharpening, so the two outputs below are the same.")
    return load_network(chain.ablation.finished[number].model)[0]


def training_length(progress: pd.DataFrame, scale: str) -> pd.DataFrame:
    """training_length.csv: effects against images seen, at this and the committed scales.

    `progress` is that of this scale. Columns: those of `effects.by_length` and source.
    """
    paths = {name: ROOT / "reports" / name / "03_ablation" / "progress.csv" for name in SCALES}
    scales = {name: pd.read_csv(path) for name, path in paths.items() if name != scale and path.is_file()}
    return pd.concat(
        [
            effects.by_length(table, name, column).assign(source=source)
            for name, table in ({scale: progress} | scales).items()
            for source, column in PROGRESS.items()
            if table[column].notna().all()
        ],
        ignore_index=True,
    )
