"""python -m benchmarks.precision: does bfloat16 change what is concluded? It needs a GPU.

A CPU computes in float32 whatever the parameters say. Three settings of Table I are trained in float32 and in
bfloat16 with three seeds each, for 6 epochs on 10,000 pairs of the scale in params.yaml. Writes
benchmarks/records/precision_<scale>.csv, one row per setting: mean psnr_mean (dB) in both precisions, their
difference, and the seed standard deviation in float32. A difference well below that deviation changes no
conclusion.
"""

from __future__ import annotations

import contextlib
import json
import sys
from itertools import product

import pandas as pd

from benchmarks import RECORDS
from n2nlib.experiments import paper_runs, results
from n2nlib.files import UserError, replacing
from n2nlib.pairs.pair_set import ensure_pairs
from n2nlib.params import Params, load_params
from n2nlib.train.runs import Planned
from n2nlib.train.sweep import pick_device, train_all

KEYS = ["loss", "optimizer", "sharpen", "arch"]
SETTINGS = (
    ("mse", "adam", True, "upsample"),
    ("l1", "adam", False, "tconv"),
    ("mse", "sgd", False, "upsample"),
)
SEEDS, PAIRS, EPOCHS = (0, 1, 2), 10_000, 6


def precision_runs(params: Params) -> list[Planned]:
    """The runs, with columns KEYS, seed and precision."""
    planned = []
    for values, seed, precision in product(SETTINGS, SEEDS, ("float32", "bfloat16")):
        setting = dict(zip(KEYS, values, strict=True))
        options = params.ablation
        schedule = {
            "learning_rate": getattr(getattr(options.learning_rates, setting["optimizer"]), setting["loss"]),
            "annealing_steps": options.annealing_steps,
            "epochs": EPOCHS,
            "precision": precision,
            "validate_every_epoch": False,
        }
        run = paper_runs.run_params(params, setting | {"crops": False}, seed, **schedule)
        planned.append(Planned(setting | {"seed": seed, "precision": precision}, run))
    return planned


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """One row per setting of KEYS: bfloat16, float32, difference and seed_std, all in dB.

    `table` has one row per run with psnr_mean (dB) and the columns of `precision_runs`.
    """
    groups = table.groupby([*KEYS, "precision"])["psnr_mean"]
    means, deviation = groups.mean().unstack(), groups.std(ddof=1).unstack()
    difference = means["bfloat16"] - means["float32"]
    return means.assign(difference=difference, seed_std=deviation["float32"]).reset_index()


def main() -> None:
    params = load_params()
    if pick_device(params.device).type != "cuda":
        raise UserError("no GPU here: a CPU computes in float32 whatever is asked for")
    pairs = params.pairs.model_copy(update={"train": PAIRS})
    small = params.model_copy(update={"scale": f"{params.scale}-precision", "pairs": pairs})
    planned = precision_runs(params)
    with contextlib.redirect_stdout(sys.stderr):
        finished = train_all("precision", planned, ensure_pairs(small), params)
    compared = compare(results.collect(planned, finished, params)).round(4)
    with replacing(RECORDS / f"precision_{params.scale}.csv") as temporary:
        compared.to_csv(temporary, index=False, lineterminator="\n")
    print(json.dumps({"scale": params.scale, "settings": compared.to_dict("records")}))


if __name__ == "__main__":
    main()
