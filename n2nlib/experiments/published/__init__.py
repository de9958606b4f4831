"""The paper's tables, typed over once, as data. Where they stand beside ours they come from here and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from n2nlib.params import Params

_HERE = Path(__file__).parent


# Section V: the final model on the full validation set.
FINAL_PSNR = 24.45  # dB


PAIRS, WIDTH = 50_000, 48


EPOCHS = {"ablation": 20, "curves": 200, "fine_tuning": 20}  # what Fig. 2's caption says; its plot shows 100


def is_published_training(params: Params) -> bool:
    """Is the training no less than the published one?"""
    return (
        params.pairs.train >= PAIRS
        and params.model.width >= WIDTH
        and all(getattr(params, name).epochs >= epochs for name, epochs in EPOCHS.items())
    )


def is_published_experiment(params: Params) -> bool:
    """Are the pairs the course's too, so that decibels may be compared?"""
    return params.pairs.source == "ee559" and is_published_training(params)


def table1() -> pd.DataFrame:
    """Table I, 32 rows: loss, optimizer, sharpen, crops, arch, psnr_mean, psnr_std (dB)."""
    return pd.read_csv(_HERE / "table1_ablation.csv")


def table2() -> pd.DataFrame:
    """Table II: the paper's three candidates, in its own numbering."""
    return pd.DataFrame(
        [
            (1, "upsample", "mse", "adam", True, False),
            (2, "tconv", "mse", "adam", True, False),
            (3, "tconv", "mse", "sgd", True, False),
        ],
        columns=["candidate", "arch", "loss", "optimizer", "sharpen", "crops"],
    )


def table3() -> pd.DataFrame:
    """Table III, 36 rows: sigma_n, tau_sharp, lr0, annealing_steps, psnr_mean, psnr_std (dB)."""
    table = pd.read_csv(_HERE / "table3_fine_tuning.csv")
    return table.rename(columns={"learning_rate": "lr0"})
