"""The report's tables and claims, transcribed, and what its authors published beside it, as data.

- table1_ablation.csv, table3_fine_tuning.csv: the printed tables.
- statements.csv: what it claims, in its words.
- authors_evaluations.csv: the authors' evaluations of their own saved networks, from the files results.txt in
  the public history of github.com/tsfeith-epfl/deeplearning_project (Miniproject_1). Those of 2022-04-20
  (commit fb6e264) and 2022-04-27 (16ea7ed) predict as trained; those of 2022-05-11 (c17d1c2) sharpen every
  prediction, as the report did.
- authors_networks.csv: our evaluation of the 16 Upsample networks of c17d1c2, both ways, on 1,000 validation
  pairs. `authors.evaluate_networks` made it. The pairs are of ImageNet photographs squashed to 224 x 224
  pixels (validation half of Imagenette, source folder, whole, seed 0, no test pairs, noisy input 20.03 dB).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from n2nlib.params import Params

_HERE = Path(__file__).parent
FINAL_PSNR = 24.45  # dB, section V: the final model on the full validation set
NOISY_PSNR = 19.62  # dB, global, of the course's noisy validation images
PAIRS, WIDTH = 50_000, 48
VALIDATION_PAIRS = 1_000
EPOCHS = {"ablation": 20, "curves": 200, "fine_tuning": 20}  # Fig. 2 says 200 and shows 100


def is_published_training(params: Params) -> bool:
    """Is the training no shorter than the report's, with no fewer pairs and no narrower network?"""
    tuning = params.fine_tuning
    # An epoch with crops has twice the images.
    sections = {"ablation": params.ablation, "curves": params.curves}
    epochs = {name: min(one.epochs, 2 * one.crops_epochs) for name, one in sections.items()}
    epochs["fine_tuning"] = min(tuning.epochs, tuning.final_epochs)
    long = all(epochs[name] >= theirs for name, theirs in EPOCHS.items())
    return long and params.pairs.train >= PAIRS and params.model.width >= WIDTH


def is_published_experiment(params: Params) -> bool:
    """Are the pairs the course's too, so that absolute values (dB) can be compared?"""
    return params.pairs.source == "ee559" and is_published_training(params)


def table1() -> pd.DataFrame:
    """Table I, 32 rows: loss, optimizer, sharpen, crops, arch, psnr_mean, psnr_std (dB)."""
    return pd.read_csv(_HERE / "table1_ablation.csv")


def table2() -> pd.DataFrame:
    """Table II: the three candidates of the report, in its own numbering."""
    columns = {"candidate": [1, 2, 3], "arch": ["upsample", "tconv", "tconv"], "loss": "mse"}
    return pd.DataFrame(columns | {"optimizer": ["adam", "adam", "sgd"], "sharpen": True, "crops": False})


def table3() -> pd.DataFrame:
    """Table III, 36 rows: sigma_n, tau_sharp, lr0, annealing_steps, psnr_mean, psnr_std (dB)."""
    return pd.read_csv(_HERE / "table3_fine_tuning.csv")


def statements() -> pd.DataFrame:
    """The claims that are weighed, in the report's words: claim, section, statement, published (dB)."""
    return pd.read_csv(_HERE / "statements.csv")


def authors_evaluations() -> pd.DataFrame:
    """48 rows, a setting and its epochs each: what the authors' networks reached on three dates, dB.

    psnr_2022_04_20, psnr_2022_04_27, psnr_2022_05_11; psnr_std_2022_05_11 over subsets; same_weights_* says
    whether the weights stayed the same between two dates. NaN: not published.
    """
    return pd.read_csv(_HERE / "authors_evaluations.csv")


def authors_networks() -> pd.DataFrame:
    """16 rows: setting, epochs, psnr_full (as trained) and report_full (with the report's evaluation), dB."""
    return pd.read_csv(_HERE / "authors_networks.csv")
