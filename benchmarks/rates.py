"""python -m benchmarks.rates [--scale workstation] [--photos FOLDER]: the search behind batch size and rates.

It trains on four fifths of the training photographs of a scale and evaluates on the rest, so neither
validation nor test photographs have a say. Every batch size and rate is tried on the settings that fail first
and on plain ones (`SETTINGS`), and its score is the worst of them: one rate serves all rows of a table that
share optimiser and loss. The best rates are then tried over the longest schedule of the scale, and a rate of
which a single run ends below its noisy input is out. Writes benchmarks/records/rates_<scale>.csv, one row per
run.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from benchmarks import RECORDS
from n2nlib.experiments import paper_runs, results
from n2nlib.files import ROOT, replacing
from n2nlib.pairs.pair_set import PairSet, ensure_pairs
from n2nlib.pairs.photos import find_photos
from n2nlib.params import Params, load_params
from n2nlib.train.runs import Planned
from n2nlib.train.sweep import train_all

KIND = ["optimizer", "loss"]
KEYS = ["schedule", "batch_size", *KIND, "learning_rate"]
SETTINGS = (  # arch, sharpen, crops
    ("tconv", False, False),
    ("upsample", True, False),
    ("tconv", True, True),
    ("upsample", False, True),
)
RATES = {
    ("adam", "l1"): (2.5e-4, 5e-4, 1e-3, 2e-3),
    ("adam", "mse"): (2.5e-4, 5e-4, 1e-3, 2e-3),
    ("sgd", "l1"): (5e-4, 1e-3, 2e-3, 4e-3),
    ("sgd", "mse"): (1e-6, 2e-6, 4e-6, 8e-6),
}


@dataclass(frozen=True)
class Search:
    """Batch sizes tried on short trainings of `train` pairs, and the seeds of short and of long trainings."""

    batches: tuple[int, ...]
    train: int
    epochs: int
    seeds: tuple[int, ...]
    long_seeds: tuple[int, ...]
    long_settings: tuple[tuple[str, bool, bool], ...] = SETTINGS


SEARCH = {
    "laptop": Search((1, 2, 4, 8, 32), 780, 4, (0,), (0, 1, 2)),
    "workstation": Search((4,), 2400, 2, (0,), (0,), (SETTINGS[1], SETTINGS[3])),
}


def search_pairs(params: Params, train: int) -> PairSet:
    """Pairs of the training photographs alone, a fifth of which is held out for the evaluation."""
    folder = ROOT / "data" / "raw" / f"{params.scale}-training-photographs"
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(find_photos(params).training):
        link = folder / f"{number:05d}{photo.path.suffix}"
        if not link.is_symlink():
            link.symlink_to(photo.path)
    changes = {"source": "folder", "path": str(folder), "validation_path": None, "validation": 400, "test": 0}
    changes["train"] = train
    pairs = params.pairs.model_copy(update=changes)
    return ensure_pairs(params.model_copy(update={"pairs": pairs, "scale": f"{params.scale}-rates"}))


def search_runs(
    params: Params, schedule: str, epochs: int, tried: list[tuple], seeds: tuple[int, ...], settings: tuple
) -> list[Planned]:
    """Runs for each of `tried` (batch size, optimiser, loss, rate), each of `settings` and each seed."""
    planned = []
    for (batch, optimizer, loss, rate), (arch, sharpen, crops), seed in product(tried, settings, seeds):
        setting = {"arch": arch, "sharpen": sharpen, "crops": crops, "optimizer": optimizer, "loss": loss}
        own = {"batch_size": batch, "epochs": max(1, epochs // 2) if crops else epochs}
        run = paper_runs.run_params(
            params, setting, seed, learning_rate=rate, annealing_steps=1, validate_every_epoch=False, **own
        )
        row = {"schedule": schedule, "batch_size": batch, "learning_rate": rate, "seed": seed}
        planned.append(Planned(row | setting, run))
    return planned


def scores(table: pd.DataFrame, noisy_db: float) -> pd.DataFrame:
    """For each of KEYS: psnr_full (dB) of the worst and the mean run, and how many runs failed."""
    groups = table.groupby(KEYS)
    frame = groups["psnr_full"].agg(worst="min", mean="mean", runs="size")
    frame["failed"] = groups["psnr_full"].apply(lambda values: int((values < noisy_db).sum()))
    frame["seconds"] = groups["seconds"].mean()
    return frame.reset_index()


def best(table: pd.DataFrame, count: int) -> list[tuple]:
    """The `count` best rates of each batch size, optimiser and loss, by their worst run."""
    ranked = table[table["failed"] == 0].sort_values("worst", ascending=False)
    chosen = ranked.groupby(["batch_size", *KIND]).head(count)
    return [tuple(row) for row in chosen[KEYS[1:]].itertuples(index=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="laptop", choices=SEARCH)
    parser.add_argument("--photos", help="folder of photographs with train/ and val/")
    parser.add_argument("--long", type=int, nargs="*", help="batch sizes to try over the longest schedule")
    arguments = parser.parse_args()
    photos = (
        {"pairs": {"source": "folder", "path": str(Path(arguments.photos).resolve())}}
        if arguments.photos
        else {}
    )
    params = load_params(ROOT / "params" / f"{arguments.scale}.yaml", photos)
    search = SEARCH[arguments.scale]
    pairs = search_pairs(params, search.train)
    tried = [
        (batch, *kind, rate) for batch in search.batches for kind, rates in RATES.items() for rate in rates
    ]
    planned = search_runs(params, "short", search.epochs, tried, search.seeds, SETTINGS)
    table = results.collect(planned, train_all("rates", planned, pairs, params), params)
    noisy_db = pairs.card["noisy_psnr_db"]["validation"]["global"]
    if arguments.long:
        again = [one for one in best(scores(table, noisy_db), 1) if one[0] in arguments.long]
        images = max(params.curves.epochs, params.fine_tuning.final_epochs) * params.pairs.train
        long = search.long_seeds, search.long_settings
        planned = search_runs(params, "long", round(images / search.train), again, *long)
        found = results.collect(planned, train_all("rates", planned, pairs, params), params)
        table = pd.concat([table, found], ignore_index=True)
    columns = [*KEYS, "arch", "sharpen", "crops", "seed", "psnr_full", "dead", "seconds", "images"]
    path = RECORDS / f"rates_{arguments.scale}.csv"
    with replacing(path) as temporary:
        table[columns].round({"psnr_full": 4}).to_csv(temporary, index=False, lineterminator="\n")
    print(f"noisy input: {noisy_db:.2f} dB")
    print(scores(table, noisy_db).sort_values(["schedule", *KIND, "worst"]).to_string(index=False))


if __name__ == "__main__":
    main()
