"""python -m benchmarks.recipe [--scale workstation] [--photos FOLDER]: the search behind section `best`.

It trains on four fifths of the training photographs of a scale and evaluates on the rest, so neither
validation nor test photographs have a say. Each variant changes one thing in the recipe of `START`, except
the U-Net, which has a width and a batch size of its own; all see the same number of images. The variants that
are worth their time are then compared over a training `LONGER` times as long. Writes
benchmarks/records/recipe_<scale>.csv, one row per variant and schedule. Columns: variant, schedule ("short"
or "long"), psnr_full and noisy_psnr_full (dB, of the run and of its noisy input), the difference from `START`
with the interval over images (gain, low, high; dB), images and seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from benchmarks import command, scale_params, scale_parser, write_record
from benchmarks.rates import search_pairs
from n2nlib.experiments import beyond, effects
from n2nlib.metrics import psnr_full
from n2nlib.params import Params
from n2nlib.train.runs import Planned
from n2nlib.train.sweep import train_all

PAIRS, VALIDATION = 7_500, 1_500
IMAGES, LONGER = 22_500, 5  # of a short training, and how many times as long the long ones are
START = {
    "arch": "gated",
    "width": 32,
    "loss": "mse",
    "learning_rate": 1e-3,
    "batch_size": 16,
    "sigma_n": 0.0,
    "averaging": 0.0,
    "precision": "bfloat16",
}
SHORT: dict[str, dict[str, object]] = {
    "start": {},
    "batch 8": {"batch_size": 8},
    "batch 4": {"batch_size": 4},
    "rate 2e-3": {"learning_rate": 2e-3},
    "rate 5e-4": {"learning_rate": 5e-4},
    "rate 4e-3": {"learning_rate": 4e-3},
    "width 48": {"width": 48},
    "U-Net": {"arch": "tconv", "width": 48, "batch_size": 8},
    "Huber loss": {"loss": "huber"},
    "noise of sigma 1": {"sigma_n": 1.0},
    "noise of sigma 5": {"sigma_n": 5.0},
    "averaged weights": {"averaging": 0.999},
    "float32": {"precision": "float32"},
}
LONG = ("start", "width 48", "batch 4", "rate 2e-3")


def recipe_runs(params: Params, names: Iterable[str], images: int) -> list[Planned]:
    """One run for each variant, with columns variant and schedule."""
    epochs = max(1, round(images / PAIRS))
    planned = []
    for name in names:
        recipe = START | SHORT[name]
        changes = beyond.one_cycle(recipe["learning_rate"]) | {"resample": True, "epochs": epochs}
        run = beyond.network(params, 0, **(recipe | changes))
        planned.append(Planned({"variant": name}, run))
    return planned


def main() -> None:
    params = scale_params(scale_parser(__doc__, "workstation").parse_args())
    pairs = search_pairs(params, "recipe", PAIRS, VALIDATION, resample=True)
    noisy_db, frames = pairs.card["noisy_psnr_db"]["validation"]["global"], []
    for schedule, names, images in (("short", SHORT, IMAGES), ("long", LONG, LONGER * IMAGES)):
        planned = recipe_runs(params, names, images)
        finished = train_all("recipe", planned, pairs, params)
        first = finished[0].errors["mse"][None]
        rows = []
        for one, result in zip(planned, finished, strict=True):
            mse = result.errors["mse"]
            gain = effects.compare(mse[None], first, pairs.photographs("validation"))
            row = one.row | {"schedule": schedule, "psnr_full": psnr_full(mse)}
            row |= {"noisy_psnr_full": noisy_db}
            row |= {"gain": gain.estimate, "low": gain.low, "high": gain.high}
            rows.append(row | {key: result.about[key] for key in ("images", "seconds")})
        frames.append(pd.DataFrame(rows))
        table = pd.concat(frames, ignore_index=True).round(4)
        write_record(table, f"recipe_{params.scale}")
        print(table.to_string(index=False), flush=True)


if __name__ == "__main__":
    command(main)
