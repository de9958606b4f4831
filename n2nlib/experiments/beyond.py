"""What the paper leaves for the future, and what its authors could not see: small studies around its final network (notebook 07).

Every study compares variants of one training that differ in one thing, over the same seeds. Unless a study is about just that, the network has
the residual connection and the scaling to [-0.5, 0.5] that the paper's lacks: within a short training the published one has not learnt enough
for finer differences to show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from n2nlib import metrics
from n2nlib.experiments import effects
from n2nlib.metrics import mse_per_image, psnr_full
from n2nlib.pairs import baselines
from n2nlib.pairs.pair_set import PairSet, ensure_pairs
from n2nlib.params import Params
from n2nlib.train.runs import Planned, Result, RunParams

STEPS, ONE_CYCLE, AVERAGED = "annealing step", "one cycle", "averaged weights"


SHOWN = ["what", "mean", "standard_error", "low", "high", "same_sign", "pairs"]


COLUMNS = [
    "study",
    "variant",
    "seed",
    "psnr_mean",
    "psnr_std",
    "psnr_full",
    "psnr_per_image",
    "psnr_hvs_m",
    "ssim",
    "images",
    "run",
]


def network(params: Params, seed: int, **changes: object) -> RunParams:
    """The paper's final network (TConv, MSE, Adam, sharpening) with a residual connection and scaled values; `changes` on top."""
    training, options = params.training, params.beyond
    values = {
        "seed": seed,
        "width": params.model.width,
        "arch": "tconv",
        "residual": True,
        "normalized": True,
        "tau_sharp": training.tau_sharp,
        "loss": "mse",
        "optimizer": "adam",
        "learning_rate": options.learning_rate,
        "annealing_steps": 1,
        "epochs": options.epochs,
        "batch_size": training.batch_size,
        "sigma_n": training.sigma_n,
        "flips": training.flips,
        "shared_noise": training.shared_noise,
        "crops": (),
        "precision": training.precision,
    }
    return RunParams(**(values | changes))


def variants(params: Params) -> dict[str, dict[str, dict]]:
    """Study -> variant -> what it changes in `network`. The first variant of each is what the others are compared with."""
    options = params.beyond
    one_cycle = {"schedule": "one_cycle", "annealing_steps": 0, "learning_rate": options.best_learning_rate}
    averaged = {"averaging": options.averaging}
    every = {
        "connection": {
            "as published": {"residual": False, "normalized": False},
            "residual": {"normalized": False},
            "[-0.5, 0.5]": {"residual": False},
            "both": {},
        },
        "sharpening": {"none": {"tau_sharp": 0.0}, "unsharp masking": {}},
        "crops": {"none": {}}
        | {
            crops_name(scales): {"crops": scales, "epochs": options.epochs // len(scales)}
            for scales in options.crops
        },
        "recipe": {STEPS: {}, ONE_CYCLE: one_cycle}
        | (
            {AVERAGED: averaged, f"{ONE_CYCLE}, {AVERAGED}": one_cycle | averaged}
            if options.averaging
            else {}
        ),
    }
    for sigma in options.sigma_n:
        every[f"augmentation noise, sigma {sigma:g}"] = {
            "independent": {"sigma_n": sigma, "shared_noise": False},
            "shared": {"sigma_n": sigma, "shared_noise": True},
        }
    if (
        params.pairs.source != "ee559"
    ):  # the course's files hold neither photographs nor clean training images
        every["noise draws"] = {"one draw": {}, "fresh every epoch": {"resample": True}}
        every["targets"] = {"noisy": {}, "clean": {"target": "clean"}}
        every["targets, as published"] = {
            name: {"residual": False, "normalized": False} | change
            for name, change in every["targets"].items()
        }
    return every


def crops_name(scales: tuple[tuple[float, float], ...]) -> str:
    """ "70–100 % and 5–40 %": the shares of the image's area of each of an image's crops."""
    return " and ".join(f"{100 * low:g}–{100 * high:g} %" for low, high in scales)


def set_options(params: Params) -> dict[str, Params]:
    """The parameters of the pair sets that the studies need beside the scale's own, by name."""
    if params.pairs.source == "ee559":
        return {}
    sizes, pairs = params.beyond.sizes, params.pairs
    small = {"block": sizes.block, "train": sizes.train, "validation": sizes.validation, "resample": False}
    options = {size_name(size): pairs.model_copy(update=small | {"size": size}) for size in sizes.pixels}
    options["fresh"] = pairs.model_copy(update={"resample": True})
    return {name: params.model_copy(update={"pairs": changed}) for name, changed in options.items()}


def size_name(size: int) -> str:
    return f"{size}px"


def ensure_sets(params: Params, pairs: PairSet) -> dict[str, PairSet]:
    """The pair sets of all studies, made where missing in data/pairs/<scale>-beyond/ (which stays empty where none can be made)."""
    set_folder(params, "any").parent.mkdir(parents=True, exist_ok=True)
    return {"": pairs} | {
        name: ensure_pairs(changed, set_folder(params, name)) for name, changed in set_options(params).items()
    }


def set_folder(params: Params, name: str) -> Path:
    return params.pairs_folder.with_name(f"{params.scale}-beyond") / name if name else params.pairs_folder


def study_runs(params: Params) -> list[Planned]:
    """All runs of all studies, every seed; a training that two studies share stands in both and is trained once."""
    planned = [
        Planned(
            {"study": study, "variant": variant, "seed": seed},
            network(params, seed, **change),
            "fresh" if change.get("resample") else "",
        )
        for study, changes in variants(params).items()
        for variant, change in changes.items()
        for seed in params.beyond.seeds
    ]
    return planned + (size_runs(params) if set_options(params) else [])


def size_runs(params: Params) -> list[Planned]:
    """The study of image sizes: each size without and with sharpening."""
    options = params.beyond
    return [
        Planned(
            {"study": f"size {size}", "variant": variant, "seed": seed},
            network(params, seed, epochs=options.sizes.epochs, tau_sharp=tau),
            size_name(size),
        )
        for size in options.sizes.pixels
        for variant, tau in (("none", 0.0), ("unsharp masking", params.training.tau_sharp))
        for seed in options.seeds
    ]


def of_variant(
    planned: list[Planned], results: list[Result], study: str, variant: str
) -> list[tuple[Planned, Result]]:
    """A study's variant: each of its runs with its result."""
    return [
        (one, result)
        for one, result in zip(planned, results, strict=True)
        if (one.row["study"], one.row["variant"]) == (study, variant)
    ]


def collect(planned: list[Planned], results: list[Result], params: Params) -> pd.DataFrame:
    """A row a run of each study (`COLUMNS`; PSNR in dB)."""
    rows = []
    for one, result in zip(planned, results, strict=True):
        about = {name: result.about[name] for name in ("images", "run")}
        rows.append(one.row | result.metrics(params) | result.measures | about)
    return pd.DataFrame(rows)[COLUMNS]


def best_variant(table: pd.DataFrame, study: str) -> str:
    """The variant with the best psnr_mean, averaged over seeds."""
    return table[table["study"] == study].groupby("variant")["psnr_mean"].mean().idxmax()


def study_effects(table: pd.DataFrame) -> pd.DataFrame:
    """Each variant against the first of its study, over the seeds (psnr_mean, dB): study, what, mean, standard_error, low, high, pairs, same_sign."""
    rows = []
    for study, part in table.groupby("study", sort=False):
        names = list(dict.fromkeys(part["variant"]))
        for name in names[1:]:
            found = effects.effect(
                part[["variant", "seed", "psnr_mean", "psnr_std"]], "variant", name, names[0]
            )
            rows.append({"study": study, "what": f"{name} − {names[0]}"} | found.as_dict())
    return pd.DataFrame(rows)[
        ["study", "what", "mean", "standard_error", "low", "high", "pairs", "same_sign"]
    ]


def sizes(planned: list[Planned], results: list[Result], sets: dict[str, PairSet]) -> pd.DataFrame:
    """For each image size: noisy input, best Gaussian blur and network in dB, and how sharp the outputs are (means over seeds)."""
    rows = []
    for name, pairs in sets.items():
        if not name.endswith("px"):
            continue
        noisy, clean = (pairs.validation[version].numpy() for version in ("noisy_1", "clean"))
        blurred = baselines.blur(noisy, baselines.choose(*baselines.METHODS["Gaussian blur"], pairs))
        sharp = metrics.gradient_energy(clean).sum()
        row = {
            "size": int(name.removesuffix("px")),
            "noisy": psnr_full(mse_per_image(noisy, clean)),
            "blur": psnr_full(mse_per_image(blurred, clean)),
        }
        for variant, short in (("none", "network"), ("unsharp masking", "sharpened")):
            of = [
                result
                for one, result in zip(planned, results, strict=True)
                if one.pairs == name and one.row["variant"] == variant
            ]
            row[short] = np.mean([psnr_full(result.validation["mse"][-1]) for result in of])
            row[f"{short}_sharpness"] = np.mean(
                [result.validation["gradient_energy"].sum() / sharp for result in of]
            )
        rows.append(row | {"blur_sharpness": metrics.gradient_energy(blurred).sum() / sharp})
    return pd.DataFrame(rows, columns=None if rows else ["size"])


def of_studies(effects: pd.DataFrame, *studies: str) -> pd.DataFrame:
    """The effects of the studies whose names begin with one of `studies`, each named with its study where there are several."""
    rows = effects[effects["study"].str.startswith(studies)]
    return rows.assign(what=rows["study"] + ": " + rows["what"]) if rows["study"].nunique() > 1 else rows


def own_size(table: pd.DataFrame) -> pd.DataFrame:
    """The runs on the scale's own pairs, each once: those of other image sizes have other validation images."""
    return table[~table["study"].str.startswith(("size", "prediction"))].drop_duplicates("run")
