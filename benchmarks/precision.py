"""python -m benchmarks.precision [--scale workstation] [--photos FOLDER]: does bfloat16 change conclusions?

Three settings of Table I are trained in float32 and in bfloat16 with three seeds each. It needs a GPU, or a
CPU with instructions for bfloat16. Writes benchmarks/records/precision_<scale>.csv, one row per setting: mean
psnr_mean (dB) in both precisions, their difference, and the seed standard deviation in float32. A difference
well below that deviation changes no conclusion.
"""

from __future__ import annotations

from itertools import product

import pandas as pd
import torch

from benchmarks import command, run_without_crops, scale_params, scale_parser, write_record
from n2nlib.experiments import results
from n2nlib.files import UserError
from n2nlib.pairs.pair_set import ensure_pairs
from n2nlib.params import Params
from n2nlib.train.network import layer_dtype
from n2nlib.train.runs import Planned
from n2nlib.train.sweep import pick_device, train_all

KEYS = ["loss", "optimizer", "sharpen", "arch"]
SETTINGS = (
    ("mse", "adam", True, "upsample"),
    ("l1", "adam", False, "tconv"),
    ("mse", "sgd", False, "upsample"),
)
SEEDS = (0, 1, 2)
LENGTHS = {"workstation": (2_400, 2), "paper": (10_000, 6)}  # pairs and epochs


def precision_runs(params: Params, epochs: int) -> list[Planned]:
    """The runs, with columns KEYS, seed and precision."""
    planned = []
    for values, seed, precision in product(SETTINGS, SEEDS, ("float32", "bfloat16")):
        setting, varied = dict(zip(KEYS, values, strict=True)), {"seed": seed, "precision": precision}
        run = run_without_crops(params, setting, epochs=epochs, validate_every_epoch=False, **varied)
        planned.append(Planned(setting | varied, run))
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
    params = scale_params(scale_parser(__doc__, "workstation", LENGTHS).parse_args())
    if layer_dtype("bfloat16", pick_device(params.device)) == torch.float32:
        raise UserError("no bfloat16 here: it needs a CUDA GPU, or a CPU with AVX-512 or AMX for bfloat16")
    train, epochs = LENGTHS[params.scale]
    pairs = params.pairs.model_copy(update={"train": train})
    small = params.model_copy(update={"scale": f"{params.scale}-precision", "pairs": pairs})
    planned = precision_runs(params, epochs)
    finished = train_all("precision", planned, ensure_pairs(small), params)
    compared = compare(results.collect(planned, finished, params)).round(4)
    write_record(compared, f"precision_{params.scale}")
    print(compared.to_string(index=False))


if __name__ == "__main__":
    command(main)
