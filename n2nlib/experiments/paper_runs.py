"""The experiments of the report as lists of runs: Table I, curves, Table III and the final model."""

from __future__ import annotations

import math
from itertools import product
from string import ascii_uppercase
from typing import Any

import pandas as pd

from n2nlib.experiments import published
from n2nlib.files import write_json
from n2nlib.params import Params
from n2nlib.train.identity import RunParams
from n2nlib.train.network import load_network, save_network
from n2nlib.train.runs import Planned, Result

ABLATION = ["loss", "optimizer", "sharpen", "crops", "arch"]
FINE_TUNING = ["sigma_n", "tau_sharp", "lr0", "annealing_steps"]
CANDIDATE = ["arch", "loss", "optimizer", "sharpen", "crops"]
BASELINE = {"loss": "l1", "optimizer": "adam", "sharpen": False, "crops": False, "arch": "upsample"}


def run_params(params: Params, setting: dict[str, Any], seed: int, **schedule: Any) -> RunParams:
    """The run of a `setting` (a value for each of ABLATION) under a `schedule`.

    The schedule gives learning_rate, annealing_steps and epochs, and may change any other parameter.
    """
    training = params.training
    values = {name: setting[name] for name in ("arch", "loss", "optimizer")}
    values |= training.model_dump(exclude={"tau_sharp", "global_crop", "local_crop"})
    values |= {
        "seed": seed,
        "width": params.model.width,
        "tau_sharp": training.tau_sharp if setting["sharpen"] else 0.0,
        "crops": (training.global_crop, training.local_crop) if setting["crops"] else (),
        "resample": params.pairs.resample,
    }
    return RunParams(**(values | schedule))


def schedule_of(section: Any, setting: dict[str, Any]) -> dict[str, Any]:
    """Rate, annealing and epochs of a setting in section `ablation` or `curves`."""
    rates = getattr(section.learning_rates, setting["optimizer"])
    epochs = section.crops_epochs if setting["crops"] else section.epochs
    rate = getattr(rates, setting["loss"])
    return {"learning_rate": rate, "annealing_steps": section.annealing_steps, "epochs": epochs}


def ablation_runs(params: Params) -> list[Planned]:
    """Table I: every combination of the lists in section `ablation`, with every seed."""
    options, order = params.ablation, ["loss", "optimizer", "crops", "sharpen", "arch"]
    grid = product(*(getattr(options, name) for name in order))
    settings = [dict(zip(order, values, strict=True)) for values in grid]
    return [
        Planned(setting | {"seed": seed}, run_params(params, setting, seed, **schedule_of(options, setting)))
        for setting in settings
        for seed in options.seeds
    ]


def has_setting(table: pd.DataFrame, setting: dict[str, Any]) -> pd.Series:
    """Which rows of `table` have the values of `setting`."""
    return (table[list(setting)] == pd.Series(setting)).all(axis=1)


def by_setting(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row per setting of `keys`: psnr_mean (dB, mean over seeds), seed standard deviation, seeds, rank.

    `seed_std` has one degree of freedom less than there are seeds, and is NaN for one seed. Rank 1 is the
    best, and of equals the one that comes first in `table`.
    """
    groups = table.groupby(keys, sort=False)["psnr_mean"]
    frame = groups.agg(psnr_mean="mean", seed_std="std", seeds="size").reset_index()
    return frame.assign(rank=frame["psnr_mean"].rank(ascending=False, method="first").astype(int))


def top_candidates(table1: pd.DataFrame, count: int) -> pd.DataFrame:
    """Our candidates A, B, C, ...: the best settings of Table I by psnr_mean (dB, mean over seeds)."""
    best = by_setting(table1, ABLATION).nsmallest(count, "rank")
    return best[CANDIDATE].assign(candidate=list(ascii_uppercase[: len(best)]))[["candidate", *CANDIDATE]]


def candidate_lists(ours: pd.DataFrame) -> pd.DataFrame:
    """Table II: our candidates and the report's (1, 2, 3), with the columns candidate and `CANDIDATE`."""
    return pd.concat([ours, published.table2().astype({"candidate": str})], ignore_index=True)


def curve_runs(params: Params, candidates: pd.DataFrame) -> list[Planned]:
    """Fig. 2: each candidate over the long schedule, with every seed."""
    options = params.curves
    return [
        Planned(
            {"candidate": row["candidate"], "seed": seed},
            run_params(params, row, seed, **schedule_of(options, row)),
        )
        for row in candidates.to_dict("records")
        for seed in options.seeds
    ]


def choose_candidate(curves: pd.DataFrame, candidates: pd.DataFrame, epochs: int) -> dict[str, Any]:
    """The candidate of ours to fine-tune: the best psnr_mean after a short cycle of `epochs` (section III-B).

    A candidate with crops sees every image twice an epoch and is read after half as many. A run that diverged
    before counts with where it ended. `candidates` are ours alone.
    """

    def at_end(row: dict[str, Any]) -> float:
        curve = curves[curves["candidate"] == row["candidate"]]
        short = curve[curve["epoch"] <= _cycle(epochs, row["crops"])]
        return short.groupby("seed")["psnr_mean"].last().mean()

    return max(candidates.to_dict("records"), key=at_end)


def _cycle(epochs: int, crops: bool) -> int:
    return max(1, epochs // 2) if crops else epochs


def fine_tuning_runs(params: Params, candidate: dict[str, Any]) -> list[Planned]:
    """Table III: the candidate under every combination of noise, sharpening factor, rate and annealing.

    A sharpening factor of 0 means no sharpening; the report has no such rows.
    """
    options = params.fine_tuning
    rates = getattr(options.learning_rate, candidate["optimizer"])
    grid = product(options.sigma_n, options.tau_sharp, rates, options.annealing_steps)
    rows = [dict(zip(FINE_TUNING, values, strict=True)) for values in grid]
    return _tuned_runs(params, candidate, rows, options.epochs)


def final_runs(params: Params, candidate: dict[str, Any], table3: pd.DataFrame) -> list[Planned]:
    """The best setting of Table III (psnr_mean, mean over seeds) for `final_epochs`, with every seed.

    The run of the first seed is the final model; the others say how much of it is luck.
    """
    best = by_setting(table3, FINE_TUNING).nsmallest(1, "rank")[FINE_TUNING].to_dict("records")
    return _tuned_runs(params, candidate, best, params.fine_tuning.final_epochs)


def clean_twin(final: Planned) -> Planned:
    """The final model trained towards clean images, which Noise2Noise does without."""
    return Planned(final.row, final.run.model_copy(update={"target": "clean"}))


def _tuned_runs(params: Params, candidate: dict[str, Any], rows: list[dict], epochs: int) -> list[Planned]:
    """The candidate with each of `rows` (settings of Table III) and every seed.

    With crops, which double the images of an epoch, half as many epochs are trained.
    """
    schedule = {"epochs": _cycle(epochs, candidate["crops"]), "validate_every_epoch": False}
    planned = []
    for row, seed in product(rows, params.fine_tuning.seeds):
        own = {name: row[name] for name in ("sigma_n", "tau_sharp", "annealing_steps")}
        own |= {"learning_rate": row["lr0"]}
        planned.append(Planned(row | {"seed": seed}, run_params(params, candidate, seed, **own, **schedule)))
    return planned


def save_model(
    name: str, setting: dict, result: Result, params: Params, metrics: dict[str, float], flips: bool = False
) -> dict[str, Any]:
    """Write reports/<scale>/<name>.safetensors and describe it in <name>.json, which is returned.

    `setting` is `Planned.row` of the run. `metrics` are those of the prediction that the file stands for:
    with `flips`, the mean over the four flips of an image.
    """
    path = params.reports / f"{name}.safetensors"
    network, _ = load_network(result.model)
    save_network(network, path, flips)
    about = {
        "scale": params.scale,
        "run": result.name,
        "setting": setting,
        "flips": flips,
        "parameters": result.about["parameters"],
        "metrics": {key: round(value, 4) for key, value in metrics.items() if math.isfinite(value)},
    }
    about |= {key: result.about[key] for key in ("seconds", "images", "machine", "versions")}
    write_json(path.with_suffix(".json"), about)
    return about
