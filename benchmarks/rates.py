"""python -m benchmarks.rates --photos FOLDER [--scale workstation]: the search behind the batch size and learning rates of a scale.

Short trainings (`SHORT`) on training photographs alone, a share of them held
out, so that no photograph of the scale's validation set has a say. One rule for all rows: of each optimiser and loss the rate with the best
mean PSNR over networks with and without sharpening; the batch size with the best mean over all of its best rates. Writes
reports/<scale>/tables/rate_search.csv.
"""

from __future__ import annotations

import argparse
from itertools import product

import pandas as pd

from n2nlib import tables
from n2nlib.experiments import Planned
from n2nlib.files import ROOT
from n2nlib.pairs import ensure_pairs
from n2nlib.params import Params, load_params
from n2nlib.sections import RunParams
from n2nlib.sweep import train_all

KEYS = ["batch_size", "optimizer", "loss", "learning_rate", "sharpen"]
RATES = {  # by scale: of the scale's own batch size
    "workstation": {
        ("adam", "mse"): (5e-4, 1e-3, 2e-3),
        ("adam", "l1"): (5e-4, 1e-3, 2e-3),
        ("sgd", "mse"): (1e-6, 3e-6, 1e-5),
        ("sgd", "l1"): (3e-4, 1e-3, 3e-3),
    },
    "paper": {
        ("adam", "mse"): (3e-4, 1e-3, 2e-3),
        ("adam", "l1"): (3e-4, 1e-3, 2e-3),
        ("sgd", "mse"): (3e-6, 1e-5, 3e-5),
        ("sgd", "l1"): (1e-3, 3e-3, 1e-2),
    },
}
SHORT = {"workstation": (2_400, 2), "paper": (20_000, 6)}  # pairs, epochs
LARGER = {"workstation": [(32, 1e-3), (32, 2e-3)], "paper": [(625, 1e-3), (625, 2e-3)]}  # is a larger batch worth its fewer steps? Adam, MSE


def rows(scale: str, batch_size: int) -> list[tuple]:
    tried = [(batch_size, optimizer, loss, rate) for (optimizer, loss), rates in RATES[scale].items() for rate in rates]
    tried += [(batch, "adam", "mse", rate) for batch, rate in LARGER[scale]]
    return [(*one, sharpen) for one, sharpen in product(tried, (False, True))]


def search_runs(params: Params, scale: str, epochs: int) -> list[Planned]:
    options, common = params.training, {"seed": params.seed, "width": params.model.width, "arch": "upsample", "annealing_steps": 1, "crops": ()}
    common |= {"sigma_n": options.sigma_n, "flips": options.flips, "shared_noise": options.shared_noise, "precision": options.precision}
    planned = []
    for values in rows(scale, params.training.batch_size):
        row = dict(zip(KEYS, values, strict=True))
        changes = {key: value for key, value in row.items() if key != "sharpen"} | {"tau_sharp": options.tau_sharp if row["sharpen"] else 0.0}
        planned.append(Planned(row, RunParams(**common, epochs=epochs, **changes)))
    return planned


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """The rule: for each batch size, optimiser and loss the rate with the best mean over sharpening."""
    means = table.groupby(KEYS[:-1], as_index=False)["psnr_mean"].mean()
    return means.loc[means.groupby(KEYS[:-2])["psnr_mean"].idxmax()].reset_index(drop=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", required=True, help="folder of training photographs")
    parser.add_argument("--scale", default="workstation", choices=RATES)
    arguments = parser.parse_args()
    file = ROOT / "params" / f"{arguments.scale}.yaml"
    count, epochs = SHORT[arguments.scale]
    pairs = {"source": "folder", "path": arguments.photos, "train": count, "validation": 500}
    params = load_params(file, {"scale": f"{arguments.scale}-rates", "pairs": pairs, "evaluation": {"subset": 250}})
    planned, pair_set = search_runs(params, arguments.scale, epochs), ensure_pairs(params)
    table = tables.collect(planned, train_all("rates", planned, pair_set, params), params)
    tables.save(table.drop(columns="diverged"), "rate_search", load_params(file), list(table["run"]))
    print(f"noisy input: {pair_set.card['noisy_psnr_db']['validation']['global']:.2f} dB")
    print(chosen(table).to_string(index=False))


if __name__ == "__main__":
    main()
