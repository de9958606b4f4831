"""The studies of notebook 07: what the report leaves for the future, and what its authors could not see.

Each study compares variants of one run over the same seeds. The variants differ in what the study is named
after, which may be two parameters at once, and see the same number of images. Unless a study says otherwise,
the network is the report's (TConv, MSE, Adam, without sharpening) with a residual connection and values
scaled to [-0.5, 0.5]: in a short run the published network has not learnt enough for finer differences to
show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from n2nlib.experiments import effects
from n2nlib.experiments.effects import DIFFERENCE, MARGIN
from n2nlib.experiments.paper_runs import ablation_runs, run_params
from n2nlib.experiments.results import Experiment
from n2nlib.metrics import gradient_energy, mse_per_image, psnr_full
from n2nlib.pairs import baselines
from n2nlib.pairs.pair_set import PairSet, ensure_pairs
from n2nlib.params import Params
from n2nlib.train.identity import RunParams
from n2nlib.train.runs import Planned, Result

STUDIED = {"arch": "tconv", "loss": "mse", "optimizer": "adam", "sharpen": False, "crops": False}
AS_PUBLISHED = {"residual": False, "normalized": False}
ANNEALED, ONE_CYCLE, AVERAGED = "annealing step", "one cycle", "averaged weights"
BEST_NETWORK = "network of the best model"
PLAIN, SHARPENED = "not sharpened", "sharpened"
INITIALISATION = "initialisation"  # how the names of its studies begin
INITIALISED = {("l1", "sgd"): "L1 and SGD", ("mse", "adam"): "MSE and Adam"}  # loss and optimiser, in words
LIBRARY, FAN_IN, UPSAMPLE = "TConv", "TConv, right fan-in", "Upsample"
INITIALISATIONS = {
    LIBRARY: {"arch": "tconv", "init": "library"},
    FAN_IN: {"arch": "tconv", "init": "fan_in"},
    UPSAMPLE: {"arch": "upsample", "init": "library"},
}
NOISE_DRAWS = "noise draws"
SIZE = "image size"  # how the names of the studies of image sizes begin


def network(params: Params, seed: int, **changes: object) -> RunParams:
    """The training that the studies vary, with `changes` on top."""
    schedule = {
        "learning_rate": params.beyond.learning_rate,
        "annealing_steps": 1,
        "epochs": params.beyond.epochs,
        "residual": True,
        "normalized": True,
        "validate_every_epoch": False,
    }
    return run_params(params, STUDIED, seed, **(schedule | changes))


def one_cycle(rate: float) -> dict[str, object]:
    """The changes to a run that give it a one-cycle schedule up to `rate`, which has a warm-up of its own."""
    return {"schedule": "one_cycle", "learning_rate": rate, "annealing_steps": 0, "warmup": 0.0}


def variants(params: Params) -> dict[str, dict[str, dict[str, object]]]:
    """Study -> variant -> its changes to `network`. Each study compares its variants with its first one."""
    options, best, course = params.beyond, params.best, params.pairs.source == "ee559"
    cycle = one_cycle(options.peak_rate)
    recipes: dict[str, dict[str, object]] = {ANNEALED: {}, ONE_CYCLE: cycle}
    if options.averaging:
        average = {"averaging": options.averaging}
        recipes |= {AVERAGED: average, f"{ONE_CYCLE}, {AVERAGED}": cycle | average}
    crops = {
        crops_name(scales): {"crops": scales, "epochs": options.epochs // len(scales)}
        for scales in options.crops
    }
    every = {
        "connection": {
            "as published": AS_PUBLISHED,
            "residual": {"normalized": False},
            "scaled values": {"residual": False},
            "both": {},
        },
        "sharpening": {PLAIN: {}, SHARPENED: {"tau_sharp": params.training.tau_sharp}},
        "crops": {"none": {}} | crops,
        "recipe": recipes,
    }
    if (best.arch, best.width) != (STUDIED["arch"], params.model.width):
        other = {"arch": best.arch, "width": best.width}
        every["network"] = {"U-Net": cycle, BEST_NETWORK: cycle | other}
    for sigma in options.sigma_n:
        every[f"augmentation noise, sigma {sigma:g}"] = {
            "independent": {"sigma_n": sigma, "shared_noise": False},
            "shared": {"sigma_n": sigma, "shared_noise": True},
        }
    if not course:  # its files hold neither photographs nor clean training images
        if options.epochs > 1:  # in a single epoch nothing is drawn twice
            every[NOISE_DRAWS] = {"one draw": {"resample": False}, "new in every epoch": {"resample": True}}
        every["targets"] = targets = {"noisy": {}, "clean": {"target": "clean"}}
        every["targets, as published"] = {name: AS_PUBLISHED | change for name, change in targets.items()}
    return {study: changes for study, changes in every.items() if len(changes) > 1}


def crops_name(scales: tuple[tuple[float, float], ...]) -> str:
    """ "70–100 % and 5–40 %": the shares of the area of an image that its crops have."""
    return " and ".join(f"{100 * low:g}–{100 * high:g} %" for low, high in scales)


def study_runs(params: Params) -> list[Planned]:
    """All runs of all studies. A training that two studies share appears in both and is trained once."""
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
    return planned + initialisation_runs(params) + size_runs(params)


def initialisation_runs(params: Params) -> list[Planned]:
    """Runs of Table I without sharpening and crops, with its seeds, beside TConv with the right fan-in.

    PyTorch takes 4 C as the fan-in of a transposed convolution (see `Network.initialize`). If TConv with
    the right fan-in is level with Upsample, then what differs between the two is a matter of initial weights.
    No run if Table I lacks one of the two.
    """
    if not {"tconv", "upsample"} <= set(params.ablation.arch):
        return []
    table1 = ablation_runs(params)
    return [
        Planned(
            {"study": f"{INITIALISATION}, {words}", "variant": variant, "seed": one.row["seed"]},
            one.run.model_copy(update={"init": change["init"]}),
        )
        for (loss, optimizer), words in INITIALISED.items()
        for variant, change in INITIALISATIONS.items()
        for one in table1
        if _is(one, STUDIED | {"loss": loss, "optimizer": optimizer, "arch": change["arch"]})
    ]


def _is(planned: Planned, row: dict[str, object]) -> bool:
    return row.items() <= planned.row.items()


def size_runs(params: Params) -> list[Planned]:
    """The studies of image sizes: each size without and with sharpening."""
    options = params.beyond
    return [
        Planned(
            {"study": f"{SIZE} {size}", "variant": variant, "seed": seed},
            network(params, seed, epochs=options.sizes.epochs, tau_sharp=tau, resample=False),
            size_name(size),
        )
        for size in options.sizes.pixels
        if size_name(size) in set_options(params)
        for variant, tau in ((PLAIN, 0.0), (SHARPENED, params.training.tau_sharp))
        for seed in options.seeds
    ]


def size_name(size: int) -> str:
    """The name of the pair set of images of `size` pixels a side, such as "32px"."""
    return f"{size}px"


def set_options(params: Params) -> dict[str, Params]:
    """The parameters of the pair sets of notebook 07 besides the scale's own, by name.

    The sets "fresh" (of the study of noise draws) and, with `best.resample`, "best" keep the blocks behind
    their pairs for new noisy versions. There is none with source ee559. Every set takes its photographs from
    the three parts of the scale's own set, and "fresh" and "best" have its validation and test pairs.
    """
    pairs, best, sizes = params.pairs, params.best, params.beyond.sizes
    if pairs.source == "ee559":
        return {}
    # In the ratio of the scale's own set, which decides the photographs of each; 0 would leave all of them to
    # validation.
    test = max(1, round(pairs.test * sizes.validation / pairs.validation)) if pairs.test else 0
    small = {"block": sizes.block, "train": sizes.train, "validation": sizes.validation, "test": test}
    changes: dict[str, dict[str, object]] = {
        size_name(size): small | {"size": size, "resample": False} for size in sizes.pixels
    }
    if NOISE_DRAWS in variants(params):
        changes["fresh"] = {"resample": True}
    changes["best"] = {"train": best.train, "train_crop": "mixed"}
    changes["best"] |= {"resample": best.resample, "permute_channels": best.permute_channels}
    return {
        name: params.model_copy(update={"pairs": pairs.model_copy(update=change)})
        for name, change in changes.items()
    }


def set_folder(params: Params, name: str) -> Path:
    """The folder of a pair set of notebook 07; "" is the scale's own set."""
    return params.pairs_folder.with_name(f"{params.scale}-beyond") / name if name else params.pairs_folder


def ensure_sets(params: Params, pairs: PairSet) -> dict[str, PairSet]:
    """The pair sets of notebook 07 by name, made if they are missing; "" is `pairs`, the scale's own set.

    They lie in data/pairs/<scale>-beyond/, which stays empty with source ee559.
    """
    set_folder(params, "any").parent.mkdir(parents=True, exist_ok=True)
    options = set_options(params)
    return {"": pairs} | {name: ensure_pairs(one, set_folder(params, name)) for name, one in options.items()}


def of_variant(studies: Experiment, study: str, variant: str) -> list[Result]:
    """The finished runs of a variant, one for each seed."""
    return [
        result
        for one, result in zip(studies.planned, studies.finished, strict=True)
        if _is(one, {"study": study, "variant": variant})
    ]


def read_models(studies: Experiment) -> list[Result]:
    """The runs whose models notebook 07 reads: short runs that predict with flips, see `best.budget`."""
    return of_variant(studies, "network", BEST_NETWORK) or of_variant(studies, "recipe", ONE_CYCLE)


def study_effects(table: pd.DataFrame) -> pd.DataFrame:
    """beyond_effects.csv: each variant against the first one of its study, psnr_mean in dB.

    The study of initialisation also compares TConv with the right fan-in and Upsample. The differences are
    paired by seed, and the interval is Student's t over seeds: it is NaN for fewer than three.
    Columns: study, what, estimate, low, high, seeds, basis.
    """
    rows = []
    for study, part in table.groupby("study", sort=False):
        values = part.pivot(index="seed", columns="variant", values="psnr_mean")
        first, *others = dict.fromkeys(part["variant"])
        contrasts = [(name, first) for name in others]
        contrasts += [(FAN_IN, UPSAMPLE)] * ({FAN_IN, UPSAMPLE} <= set(values))
        for name, reference in contrasts:
            found = effects.single((values[name] - values[reference]).to_numpy())
            rows.append({"study": study, "what": f"{name} − {reference}"} | vars(found))
    return pd.DataFrame(rows, columns=["study", "what", *DIFFERENCE])


def of_studies(found: pd.DataFrame, *studies: str) -> pd.DataFrame:
    """The rows of `study_effects` whose study begins with one of `studies`; several are named in `what`."""
    rows = found[found["study"].str.startswith(studies)]
    return rows.assign(what=rows["study"] + ": " + rows["what"]) if rows["study"].nunique() > 1 else rows


def initialisation_answer(found: pd.DataFrame) -> str:
    """Is TConv's difference from Upsample its initialisation? A sentence for each answer of such studies.

    `found` is that of `study_effects`.
    """
    rows = found[found["study"].str.startswith(INITIALISATION)]
    answers: dict[str, list[str]] = {}
    for study, part in rows.groupby("study", sort=False):
        settings = study.removeprefix(f"{INITIALISATION}, ")
        answers.setdefault(_explained(part.set_index("what")), []).append(settings)
    return " ".join(f"With {', and with '.join(those)}, {answer}." for answer, those in answers.items())


def _explained(contrasts: pd.DataFrame) -> str:
    before, after, moved = (
        contrasts.loc[f"{a} − {b}"] for a, b in ((UPSAMPLE, LIBRARY), (FAN_IN, UPSAMPLE), (FAN_IN, LIBRARY))
    )
    if pd.isna([before["low"], after["low"]]).any():
        seeds = effects.basis(int(before["seeds"]))
        return f"{seeds} cannot tell if the initialisation explains how TConv differs from Upsample"
    if before["low"] <= 0 <= before["high"] or abs(before["estimate"]) < MARGIN:
        return (
            "no relevant difference between TConv and Upsample is established that the initialisation could "
            "explain"
        )
    if effects.within_margin(after["low"], after["high"]):
        return (
            "the initialisation explains how TConv differs from Upsample: with the right fan-in it differs "
            f"by less than {MARGIN} dB"
        )
    if after["low"] <= 0 <= after["high"] or abs(after["estimate"]) < MARGIN:
        return (
            "the initialisation may explain how TConv differs from Upsample: with the right fan-in no "
            "difference that matters is established"
        )
    if (before["estimate"] > 0) == (after["estimate"] > 0):  # the two subtract in opposite directions
        return "the right fan-in reverses the difference between TConv and Upsample"
    if moved["low"] > 0 if before["estimate"] > 0 else moved["high"] < 0:
        return "the initialisation explains a part of how TConv differs from Upsample"
    return (
        "the initialisation does not explain how TConv differs from Upsample: with the right fan-in there is "
        "a difference of the same sign"
    )


def own_size(table: pd.DataFrame) -> pd.DataFrame:
    """The runs on images of the scale's own size, each once; the others have other validation images."""
    return table[~table["study"].str.startswith(SIZE)].drop_duplicates("run")


def sizes(studies: Experiment, sets: dict[str, PairSet]) -> pd.DataFrame:
    """sizes.csv: the noisy input, a Gaussian blur and the networks on images of each size, means over seeds.

    Columns: size (pixels), method, psnr_full (dB) and sharpness, the gradient energy of the output over that
    of the clean images: below 1 the output is blurrier than they are.
    """
    rows = []
    for name, pairs in sets.items():
        size = pairs.validation["clean"].shape[-1]
        if name != size_name(size):
            continue
        noisy, clean = (pairs.validation[version].numpy() for version in ("noisy_1", "clean"))
        sharp = gradient_energy(clean).sum()
        classical = {baselines.NOISY: noisy, "Gaussian blur": baselines.tuned_blur(noisy, pairs)}
        measured = {
            method: [{"mse": mse_per_image(images, clean), "gradient_energy": gradient_energy(images)}]
            for method, images in classical.items()
        }
        for variant in (PLAIN, SHARPENED):
            trained = of_variant(studies, f"{SIZE} {size}", variant)
            measured[f"network, {variant}"] = [result.errors for result in trained]
        for method, found in measured.items():
            psnr = np.mean([psnr_full(one["mse"]) for one in found])
            sharpness = np.mean([one["gradient_energy"].sum() for one in found]) / sharp
            rows.append({"size": size, "method": method, "psnr_full": psnr, "sharpness": sharpness})
    return pd.DataFrame(rows, columns=["size", "method", "psnr_full", "sharpness"])
