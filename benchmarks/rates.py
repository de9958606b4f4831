"""python -m benchmarks.rates [--scale laptop] [--photos FOLDER]: the search behind batch size and rates.

It trains on a part of the training photographs of a scale and evaluates on the rest, so neither validation
nor test photographs have a say. Every batch size and rate is tried on the settings that fail first
and on plain ones (`SETTINGS`), and its score is the worst of them: one rate serves all rows of a table that
share optimiser and loss. The best rate must then survive the longest schedule of the scale, at a constant
rate, which is the hardest to survive, and the short trainings with two more seeds. If a single run of it ends
below its noisy input, the next best rate is tried. A long training has one seed and setting, because it takes
ten minutes at scale workstation, where only one batch size is tried. The report says that Adam does not
converge above a rate of 0.001, so such rates train for the longest schedule in any case, with more settings.

Writes benchmarks/records/rates_<scale>.csv, one row per run: schedule ("short" or "long"), batch_size, the
setting, learning_rate, seed, psnr_full and noisy_psnr_full (dB, of the run and of its noisy input), dead
(output channels), seconds and images. rates_paper.csv is of an earlier version and has other columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pandas as pd

from benchmarks import command, scale_params, scale_parser, write_record
from n2nlib.experiments import paper_runs, results
from n2nlib.experiments.claims import HIGHEST_RATE
from n2nlib.files import ROOT, digest
from n2nlib.pairs.pair_set import PairSet, ensure_pairs
from n2nlib.pairs.photos import find_photos
from n2nlib.params import Params
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
    ("adam", "l1"): (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
    ("adam", "mse"): (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
    ("sgd", "l1"): (5e-4, 1e-3, 2e-3, 4e-3),
    ("sgd", "mse"): (1e-6, 2e-6, 4e-6, 8e-6),
}


@dataclass(frozen=True)
class Search:
    """Batch sizes tried on short trainings of `train` pairs; those of `longer` are tried over the longest
    schedule, too. `holdout` is the share of the photographs that are kept for the evaluation: half of the six
    of scale laptop, because a fifth is a single one."""

    batches: tuple[int, ...]
    train: int
    holdout: float
    epochs: int
    longer: tuple[int, ...]


CLAIMED = SETTINGS[:2]  # two settings, two losses and two rates make enough runs for an interval
SEEDS = (0, 1, 2)  # the first one for all rates, the others for those that survive a long training
SEARCH = {
    "laptop": Search((1, 2, 4, 8, 16, 32), 780, 0.5, 4, (1,)),
    "workstation": Search((4,), 1200, 0.2, 2, (4,)),
}


def search_pairs(
    params: Params, name: str, train: int, validation: int, holdout: float = 0.2, resample: bool = False
) -> PairSet:
    """Pairs of the training photographs alone, the share `holdout` of which is kept for the evaluation."""
    photos = find_photos(params).training
    which = digest([str(photo.path) for photo in photos])[:8]  # other photographs make another pair set
    folder = ROOT / "data" / "raw" / f"{params.scale}-training-photographs-{which}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(photos):
        link = folder / f"{number:05d}{photo.path.suffix}"
        if not link.is_symlink():
            link.symlink_to(photo.path)
    changes = {"source": "folder", "path": str(folder), "validation_path": None, "holdout": holdout}
    changes |= {"test": 0, "train": train, "validation": validation, "resample": resample}
    pairs = params.pairs.model_copy(update=changes)
    return ensure_pairs(params.model_copy(update={"pairs": pairs, "scale": f"{params.scale}-{name}"}))


def search_runs(
    params: Params, schedule: str, epochs: int, tried: list[tuple], seeds: tuple[int, ...], settings: tuple
) -> list[Planned]:
    """Runs for each of `tried` (batch size, optimiser, loss, rate), each of `settings` and each seed."""
    planned = []
    for (batch, optimizer, loss, rate), (arch, sharpen, crops), seed in product(tried, settings, seeds):
        setting = {"arch": arch, "sharpen": sharpen, "crops": crops, "optimizer": optimizer, "loss": loss}
        own = {"batch_size": batch, "epochs": max(1, epochs // 2) if crops else epochs}
        own |= {"learning_rate": rate, "annealing_steps": int(schedule == "short")}
        run = paper_runs.run_params(params, setting, seed, validate_every_epoch=False, **own)
        row = {"schedule": schedule, "batch_size": batch, "learning_rate": rate, "seed": seed}
        planned.append(Planned(row | setting, run))
    return planned


def trained(planned: list[Planned], pairs: PairSet, params: Params) -> pd.DataFrame:
    """The table of `results.collect` with the seconds of each run, which are trained if they are missing."""
    finished = train_all("rates", planned, pairs, params)
    seconds = [one.about["seconds"] for one in finished]
    return results.collect(planned, finished, params).assign(seconds=seconds)


def scores(table: pd.DataFrame, noisy_db: float) -> pd.DataFrame:
    """For each of KEYS: psnr_full (dB) of the worst run and the mean (worst, mean), runs, failed, seconds."""
    groups = table.groupby(KEYS)
    frame = groups["psnr_full"].agg(worst="min", mean="mean", runs="size")
    frame["failed"] = groups["psnr_full"].apply(lambda values: int((values < noisy_db).sum()))
    frame["seconds"] = groups["seconds"].mean()
    return frame.reset_index()


def ranked(table: pd.DataFrame) -> list[tuple]:
    """The rates of which no run failed: (batch size, optimiser, loss, rate), by their worst run."""
    survived = table[table["failed"] == 0].sort_values("worst", ascending=False)
    return list(survived[KEYS[1:]].itertuples(index=False, name=None))


def first_of_each(rates: list[tuple]) -> list[tuple]:
    """The first rate of each batch size, optimiser and loss."""
    return list({rate[:3]: rate for rate in reversed(rates)}.values())


def main() -> None:
    params = scale_params(scale_parser(__doc__, "laptop", SEARCH).parse_args())
    search = SEARCH[params.scale]
    pairs = search_pairs(params, "rates", search.train, 400, search.holdout)
    tried = [
        (batch, *kind, rate) for batch in search.batches for kind, rates in RATES.items() for rate in rates
    ]
    tables: list[pd.DataFrame] = []
    noisy_db = pairs.card["noisy_psnr_db"]["validation"]["global"]

    def survivors(
        schedule: str, epochs: int, rates: list[tuple], seeds: tuple, settings: tuple
    ) -> list[tuple]:
        if not rates:
            return []
        planned = search_runs(params, schedule, epochs, rates, seeds, settings)
        tables.append(trained(planned, pairs, params))
        return ranked(scores(tables[-1], noisy_db))

    left = survivors("short", search.epochs, tried, SEEDS[:1], SETTINGS)
    left = [rate for rate in left if rate[0] in search.longer]
    images = max(params.curves.epochs, params.fine_tuning.final_epochs) * params.pairs.train
    epochs = round(images / search.train)
    while left:
        trying = first_of_each(left)
        alive = survivors("long", epochs, trying, SEEDS[:1], SETTINGS[1:2])
        alive = survivors("short", search.epochs, alive, SEEDS[1:], SETTINGS)
        done = {rate[:3] for rate in alive}
        left = [rate for rate in left if rate not in trying and rate[:3] not in done]
    high = [one for one in tried if one[1] == "adam" and one[3] > HIGHEST_RATE and one[0] in search.longer]
    survivors("long", epochs, high, SEEDS[:1], CLAIMED)
    table = pd.concat(tables, ignore_index=True).assign(noisy_psnr_full=noisy_db)
    table = table.drop_duplicates(["schedule", "run"])
    columns = [*KEYS, "arch", "sharpen", "crops", "seed", "psnr_full", "noisy_psnr_full", "dead"]
    columns += ["seconds", "images"]
    write_record(table[columns].round({"psnr_full": 4}), f"rates_{params.scale}")
    print(f"noisy input: {noisy_db:.2f} dB")
    print(scores(table, noisy_db).sort_values(["schedule", *KIND, "worst"]).to_string(index=False))


if __name__ == "__main__":
    command(main)
