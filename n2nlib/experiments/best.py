"""The best model that can be had with a stated budget, and what other measures than PSNR would have chosen (notebook 07)."""

from __future__ import annotations

import pandas as pd

from n2nlib import metrics
from n2nlib.denoiser import Denoiser
from n2nlib.experiments import effects
from n2nlib.experiments.beyond import COLUMNS, best_variant, network, of_variant, variants
from n2nlib.metrics import mse_per_image, summarize
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.train.runs import Planned, Result

FLIPS = "the four flips averaged at prediction"


def flipped(
    planned: list[Planned], results: list[Result], params: Params, pairs: PairSet, recipe: str
) -> pd.DataFrame:
    """The study of flips at prediction, on the networks of one recipe: as they are, and with the four flips averaged."""
    rows = []
    for one, result in of_variant(planned, results, "recipe", recipe):
        about = {name: result.about[name] for name in ("images", "run")}
        for variant, with_flips in (("one prediction", False), (FLIPS, True)):
            row = {"study": "prediction", "variant": variant, "seed": one.row["seed"]}
            rows.append(row | evaluate(result, params, pairs, with_flips) | about)
    return pd.DataFrame(rows)[COLUMNS]


def evaluate(result: Result, params: Params, pairs: PairSet, flips: bool) -> dict[str, float]:
    """The four PSNR columns, psnr_hvs_m (dB) and ssim of a run's network, with or without flips at prediction."""
    clean = pairs.validation["clean"].numpy()
    denoised = Denoiser(Denoiser.load(result.model).network, flips).predict(
        pairs.validation["noisy_1"].numpy()
    )
    return summarize(mse_per_image(denoised, clean), params.evaluation, params.seed) | metrics.perceptual(
        denoised, clean
    )


def best_run(params: Params, table: pd.DataFrame) -> tuple[Planned, bool]:
    """The best model for the budget of `beyond.best_epochs`, and whether it predicts with flips: of recipe, sharpening and prediction the best found."""
    recipe = best_variant(table, "recipe")
    tau = {"none": 0.0, "unsharp masking": params.training.tau_sharp}[best_variant(table, "sharpening")]
    flips = best_variant(table, "prediction") == FLIPS
    change = variants(params)["recipe"][recipe] | {"tau_sharp": tau, "epochs": params.beyond.best_epochs}
    seed = params.beyond.seeds[0]
    return Planned(
        {"recipe": recipe, "tau_sharp": tau, "epochs": params.beyond.best_epochs, "seed": seed},
        network(params, seed, **change),
    ), flips


def budget(table: pd.DataFrame, best: dict) -> pd.DataFrame:
    """From the published network to the best model, step by step: PSNR (dB), what it gains, and what it costs: images of training, passes a prediction."""
    recipe = best["setting"]["recipe"]
    steps = {
        "the paper's network": ("connection", "as published"),
        "with residual connection and scaling": ("connection", "both"),
        f"with the best recipe ({recipe})": ("recipe", recipe),
        "with flips at prediction": ("prediction", FLIPS),
    }
    means = table.groupby(["study", "variant"])[["psnr_mean", "psnr_hvs_m", "ssim", "images"]].mean()
    rows = [{"model": name} | means.loc[key].to_dict() for name, key in steps.items()]
    longer = f"the best model: {'sharpened' if best['setting']['tau_sharp'] else 'not sharpened'}, {best['setting']['epochs']} epochs"
    rows.append(
        {"model": longer}
        | {name: best["metrics"][name] for name in ("psnr_mean", "psnr_hvs_m", "ssim")}
        | {"images": best["images"]}
    )
    frame = pd.DataFrame(rows)
    frame.insert(2, "gain", frame["psnr_mean"].diff())
    return frame.assign(passes=[1, 1, 1, 4, 4 if best["flips"] else 1])


def selection(table: pd.DataFrame, of: str) -> dict[str, object]:
    """Would PSNR-HVS-M or SSIM have ranked the runs of `table` (psnr_full, psnr_hvs_m, ssim, run) otherwise, and chosen another?

    Kendall's tau of the ranks with a 95 % bootstrap interval over runs; whether the same run is first; what the other's choice costs in PSNR (dB).
    """
    row: dict[str, object] = {"runs": of, "count": len(table)}
    best = table["psnr_full"].max()
    for measure in ("psnr_hvs_m", "ssim"):
        tau, low, high = effects.rank_agreement(table["psnr_full"], table[measure])
        chosen = table.loc[table[measure].idxmax()]
        row |= {
            f"{measure}_tau": tau,
            f"{measure}_low": low,
            f"{measure}_high": high,
            f"{measure}_costs": best - chosen["psnr_full"],
        }
    return row
