"""The paper's experiments as lists of runs: Table I, the candidates' curves, Table III, the final model."""

from __future__ import annotations

import json
from itertools import product

import pandas as pd

from n2nlib.denoiser import Denoiser
from n2nlib.files import read_json, write_json
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.train.network import save_network
from n2nlib.train.runs import Planned, Result, RunParams

ABLATION = ["loss", "optimizer", "sharpen", "crops", "arch"]


FINE_TUNING = ["sigma_n", "tau_sharp", "lr0", "annealing_steps"]


def _run(params: Params, choice: dict, section: object, seed: int, **changes: object) -> RunParams:
    """The run of one `choice` (loss, optimizer, sharpen, crops, arch) under a section's schedule (epochs, rates, annealing)."""
    training = params.training
    values = {
        "seed": seed,
        "width": params.model.width,
        "arch": choice["arch"],
        "tau_sharp": training.tau_sharp if choice["sharpen"] else 0.0,
        "loss": choice["loss"],
        "optimizer": choice["optimizer"],
        "batch_size": training.batch_size,
        "sigma_n": training.sigma_n,
        "flips": training.flips,
        "shared_noise": training.shared_noise,
        "crops": (training.global_crop, training.local_crop) if choice["crops"] else (),
        "resample": params.pairs.resample,
        "precision": training.precision,
    }
    if "learning_rate" not in changes:
        rates = getattr(section.learning_rates, choice["optimizer"])
        values |= {
            "learning_rate": getattr(rates, choice["loss"]),
            "annealing_steps": section.annealing_steps,
            "epochs": section.crops_epochs if choice["crops"] else section.epochs,
        }
    return RunParams(**(values | changes))


def ablation_runs(params: Params) -> list[Planned]:
    """Table I: every combination of the ablation's lists, each with every seed."""
    options = params.ablation
    order = ["loss", "optimizer", "crops", "sharpen", "arch"]  # that of the paper's rows
    rows = (
        dict(zip(order, values, strict=True))
        for values in product(*(getattr(options, name) for name in order))
    )
    return [
        Planned(row | {"seed": seed}, _run(params, row, options, seed))
        for row in rows
        for seed in options.seeds
    ]


def top_candidates(table1: pd.DataFrame, count: int) -> pd.DataFrame:
    """Table II: the `count` best rows of Table I by psnr_mean (dB, averaged over seeds), numbered from 1."""
    means = table1.groupby(ABLATION, sort=False, as_index=False)["psnr_mean"].mean()
    best = means.sort_values("psnr_mean", ascending=False, kind="stable").head(count).reset_index(drop=True)
    best.insert(0, "candidate", best.index + 1)
    return best[["candidate", "arch", "loss", "optimizer", "sharpen", "crops"]]


def curve_runs(params: Params, candidates: pd.DataFrame) -> list[Planned]:
    """Fig. 2: each candidate (a row of Table II) over the long schedule, with every seed."""
    options = params.curves
    rows = candidates.to_dict("records")
    return [
        Planned({"candidate": row["candidate"], "seed": seed}, _run(params, row, options, seed))
        for row in rows
        for seed in options.seeds
    ]


def choose_candidate(curves: pd.DataFrame, candidates: pd.DataFrame, epochs: int) -> pd.Series:
    """The row of Table II to fine-tune: the best psnr_mean at the end of a short cycle of `epochs` (section III-B).

    A candidate with crops sees every image twice an epoch and is read after half as many.
    """
    crops = candidates.set_index("candidate")["crops"]
    at_end = {}
    for candidate, curve in curves.groupby("candidate"):
        last = min(_cycle(epochs, crops[candidate]), curve["epoch"].max())
        at_end[candidate] = curve.loc[curve["epoch"] == last, "psnr_mean"].mean()
    return candidates.set_index("candidate", drop=False).loc[max(at_end, key=at_end.get)]


def _cycle(epochs: int, crops: bool) -> int:
    return max(1, epochs // 2) if crops else epochs


def fine_tuning_runs(params: Params, candidate: pd.Series) -> list[Planned]:
    """Table III: the candidate under every combination of noise, sharpening factor, initial rate and annealing, with every seed."""
    options = params.fine_tuning
    rates = getattr(options.learning_rate, candidate["optimizer"])
    grid = product(options.sigma_n, options.tau_sharp, rates, options.annealing_steps)
    rows = [dict(zip(FINE_TUNING, values, strict=True)) for values in grid]
    return [
        Planned(row | {"seed": seed}, _fine_tuned(params, candidate, row, options.epochs, seed))
        for row in rows
        for seed in options.seeds
    ]


def final_run(params: Params, candidate: pd.Series, table3: pd.DataFrame) -> Planned:
    """The final model: the setting of Table III with the best psnr_mean (averaged over seeds), trained for `final_epochs`."""
    means = table3.groupby(FINE_TUNING, sort=False, as_index=False)["psnr_mean"].mean()
    best = means.loc[means["psnr_mean"].idxmax(), FINE_TUNING].to_dict()
    seed = params.fine_tuning.seeds[0]
    return Planned(
        best | {"seed": seed}, _fine_tuned(params, candidate, best, params.fine_tuning.final_epochs, seed)
    )


def _fine_tuned(params: Params, candidate: pd.Series, row: dict, epochs: int, seed: int) -> RunParams:
    """With crops an epoch has twice the images, so the epochs are halved, as in Table I."""
    return _run(
        params,
        candidate.to_dict(),
        params.fine_tuning,
        seed,
        sigma_n=row["sigma_n"],
        tau_sharp=row["tau_sharp"],
        learning_rate=row["lr0"],
        annealing_steps=int(row["annealing_steps"]),
        epochs=_cycle(epochs, candidate["crops"]),
    )


def clean_twin(params: Params, pairs: PairSet) -> list[Planned]:
    """The final model's run trained towards clean images, what Noise2Noise does without; none where the pair set has no clean training images.

    Raises `UserError` if there is no final model yet.
    """
    about = read_json(params.reports / "model" / "final.json")
    return twin(
        Planned(about["setting"], RunParams.model_validate_json(json.dumps(about["parameters"]))), pairs
    )


def twin(final: Planned, pairs: PairSet) -> list[Planned]:
    """`final` with clean targets, if the pair set has clean training images."""
    return (
        [Planned(final.row, final.run.model_copy(update={"target": "clean"}))]
        if "clean" in pairs.train
        else []
    )


def save_model(
    name: str,
    planned: Planned,
    result: Result,
    params: Params,
    metrics: dict[str, float],
    flips: bool = False,
) -> dict:
    """Write a run's model to reports/<scale>/model/<name>.safetensors and describe it in <name>.json; returns the latter.

    `metrics` are of the prediction that the file stands for: with `flips` the mean over the four flips of an image.
    """
    folder = params.reports / "model"
    save_network(Denoiser.load(result.model).network, folder / f"{name}.safetensors", flips)
    about = {
        "scale": params.scale,
        "run": result.about["run"],
        "setting": planned.row,
        "flips": flips,
        "parameters": result.about["parameters"],
        "metrics": {key: round(value, 4) for key, value in metrics.items()},
        "seconds": result.about["seconds"],
        "images": result.about["images"],
        "versions": result.about["versions"],
    }
    write_json(folder / f"{name}.json", about)
    return about
