"""Tidy frames -> CSV with fixed columns, rendered tables for people, and the provenance beside each."""

from __future__ import annotations

import numpy as np
import pandas as pd

from n2nlib.denoiser import Denoiser
from n2nlib.experiments.paper_runs import ABLATION
from n2nlib.experiments.published import table2
from n2nlib.metrics import subset_psnr
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.train.runs import Planned, Result

EXACT = {"sigma_n", "tau_sharp", "lr0", "learning_rate"}  # what was asked for, not measured


TWIN = "the same network, trained on clean targets"


def collect(planned: list[Planned], results: list[Result], params: Params) -> pd.DataFrame:
    """A row a run: what describes it, its four PSNR columns (dB), its name, and whether it diverged."""
    rows = [
        one.row | result.metrics(params) | {"run": result.about["run"], "diverged": result.diverged}
        for one, result in zip(planned, results, strict=True)
    ]
    return pd.DataFrame(rows)


def collect_curves(planned: list[Planned], results: list[Result], params: Params) -> pd.DataFrame:
    """A row a candidate, seed and epoch: psnr_mean and psnr_std (dB) of the validation after it, and the training loss."""
    rows = []
    for one, result in zip(planned, results, strict=True):
        for mse, epoch in zip(result.validation["mse"], result.history.to_dict("records"), strict=True):
            mean, std = subset_psnr(mse, params.evaluation, params.seed)
            rows.append(
                one.row
                | {
                    "epoch": int(epoch["epoch"]),
                    "psnr_mean": mean,
                    "psnr_std": std,
                    "train_loss": epoch["train_loss"],
                }
            )
    return pd.DataFrame(rows)


def collect_measures(results: list[Result], params: Params) -> pd.DataFrame:
    """A row a run, each run once: psnr_full, psnr_per_image, psnr_hvs_m (dB), ssim, all of the whole validation set after the last epoch."""
    rows = []
    for result in {result.about["run"]: result for result in results}.values():
        psnr = result.metrics(params)
        rows.append(
            {"run": result.about["run"]}
            | {name: psnr[name] for name in ("psnr_full", "psnr_per_image")}
            | result.measures
        )
    return pd.DataFrame(rows)


def collect_references(
    baselines: pd.DataFrame, final: dict[str, float], twin: list[Result], params: Params
) -> pd.DataFrame:
    """What a result is to be read against: the classical methods, the final model, and its twin on clean targets; columns of baselines.csv."""
    rows = [{"method": "final model"} | final]
    rows += [{"method": TWIN} | result.metrics(params) | result.measures for result in twin]
    return pd.concat([baselines, pd.DataFrame(rows)[list(baselines.columns)]], ignore_index=True)


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` as a file of it reads: what was measured to 4 decimals."""
    return frame.round(
        {column: 4 for column in frame.select_dtypes("floating").columns if column not in EXACT}
    )


def means(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row a setting: PSNR and evaluation spread averaged over seeds, the spread between seeds, the rank (1 is best)."""
    frame = frame.assign(diverged=frame.get("diverged", False))
    groups = frame.groupby(keys, sort=False)
    means = groups.agg(
        psnr_mean=("psnr_mean", "mean"), psnr_std=("psnr_std", "mean"), diverged=("diverged", "any")
    )
    if "seed" in frame and frame["seed"].nunique() > 1:
        means["seed_std"] = groups["psnr_mean"].std(ddof=1)
    means["rank"] = means["psnr_mean"].rank(ascending=False, method="first")
    return means.reset_index()


def dead_channels(results: list[Result]) -> list[int]:
    """How many of the three output channels of each run are dead: zero at more than half of all pixels of the validation images.

    Where the last convolution's output is negative everywhere the ReLU behind it passes no gradient, and the channel learns nothing more.
    """
    return [int((result.validation["zeros"] > 0.5).sum()) for result in results]


def examples(table1: pd.DataFrame, results: list[Result]) -> dict[str, Result]:
    """Fig. 1's models, by title: of the paper's the baseline and the three candidates, where they were trained, and the best run of our Table I."""
    settings = [
        {"loss": "l1", "optimizer": "adam", "sharpen": False, "crops": False, "arch": "upsample"},
        *table2()[ABLATION].to_dict("records"),
    ]
    shown = {}
    for number, setting in enumerate(settings):
        rows = table1.index[(table1[list(setting)] == pd.Series(setting)).all(axis=1)]
        if len(rows):
            shown[f"candidate {number}" if number else "baseline"] = results[rows[0]]
    return shown | {"our best": results[table1["psnr_mean"].idxmax()]}


def example_pictures(
    shown: dict[str, Result], pairs: PairSet, count: int = 4
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(title -> float32 or uint8 count x 3 x S x S, clean): noisy validation images spread over the set, each model's output, clean."""
    noisy, clean = pairs.validation["noisy_1"], pairs.validation["clean"].numpy()
    chosen = np.linspace(0, len(clean) - 1, min(count, len(clean))).round().astype(int)
    pictures = {"noisy": noisy[chosen].numpy()}
    pictures |= {
        title: Denoiser.load(result.model).predict(noisy[chosen]).numpy() for title, result in shown.items()
    }
    return pictures | {"clean": clean[chosen]}, clean[chosen]
