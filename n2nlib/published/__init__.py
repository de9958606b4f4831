"""The paper's tables, typed over once, as data. Where they stand beside ours they come from here and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

_HERE = Path(__file__).parent

# Section V: the final model on the full validation set; facts in the README say how the figure was computed.
FINAL_PSNR = 24.45  # dB


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
