"""python -m benchmarks.precision: does bfloat16 change what is concluded? Needs a GPU, which alone computes in it.

Three configurations of Table I, three seeds each, trained in float32 and in bfloat16 on 10,000 pairs of the scale of params.yaml, for 6 epochs.
Writes reports/<scale>/tables/precision.csv: a row a configuration with both means (dB), their difference and the spread between seeds.
"""

from __future__ import annotations

import pandas as pd

from n2nlib import tables
from n2nlib.experiments import Planned, ablation_runs
from n2nlib.files import UserError
from n2nlib.pairs import ensure_pairs
from n2nlib.params import Params, load_params
from n2nlib.sweep import pick_device, train_all

CONFIGURATIONS = [("mse", "adam", "upsample", True), ("l1", "adam", "tconv", False), ("mse", "sgd", "upsample", False)]
SEEDS, PAIRS, EPOCHS = (0, 1, 2), 10_000, 6


def precision_runs(params: Params) -> list[Planned]:
    planned = []
    for one in ablation_runs(params):
        row = one.row
        if (row["loss"], row["optimizer"], row["arch"], row["sharpen"]) in CONFIGURATIONS and not row["crops"] and row["seed"] == params.ablation.seeds[0]:
            for seed in SEEDS:
                for precision in ("float32", "bfloat16"):
                    run = one.run.model_copy(update={"seed": seed, "epochs": EPOCHS, "precision": precision})
                    planned.append(Planned(row | {"seed": seed, "precision": precision}, run))
    return planned


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """A row a configuration: mean psnr_mean (dB) in both precisions, their difference, the spread between seeds in float32."""
    keys = ["loss", "optimizer", "sharpen", "arch"]
    means = table.pivot_table("psnr_mean", keys, "precision", "mean")
    spread = table[table["precision"] == "float32"].groupby(keys)["psnr_mean"].std(ddof=1)
    return means.assign(difference=means["bfloat16"] - means["float32"], seed_std=spread).reset_index()


def main() -> None:
    params = load_params()
    if pick_device(params.device).type != "cuda":
        raise UserError("no GPU here: the CPU computes in float32 whatever is asked for")
    small = params.model_copy(update={"scale": f"{params.scale}-precision", "pairs": params.pairs.model_copy(update={"train": PAIRS})})
    planned = precision_runs(params)
    table = tables.collect(planned, train_all("precision", planned, ensure_pairs(small), params), params)
    compared = compare(table)
    tables.save(compared, "precision", params, list(table["run"]))
    print(compared.to_string(index=False))


if __name__ == "__main__":
    main()
