"""The best model for a stated budget, its twin on clean targets, and what both are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from n2nlib import metrics
from n2nlib.denoiser import Denoiser
from n2nlib.experiments import beyond, effects
from n2nlib.experiments.results import Experiment
from n2nlib.files import read_json, write_text
from n2nlib.pairs import baselines
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.train.network import load_network
from n2nlib.train.runs import Planned, Result

FINAL, BEST = "final model", "best model"
TWIN = "{}, trained on clean targets"
OF_TEST = {"psnr_full": "test_full", "psnr_per_image": "test_per_image"}  # measure -> name on the test set
OF_TEST |= {"psnr_hvs_m": "test_psnr_hvs_m", "ssim": "test_ssim"}
PHOTOGRAPHS = {  # of a source, in words
    "bundled": "the colour photographs that come with scikit-image, scikit-learn and matplotlib",
    "imagenette": "photographs of ImageNet (the subset Imagenette by fast.ai)",
    "folder": "a folder of photographs",
    "ee559": "the images of the EPFL course EE-559 (2022), which are not redistributable",
}


def photographs_in_words(params: Params) -> str:
    """What the photographs of the pairs are, in words."""
    return params.pairs.photographs or PHOTOGRAPHS[params.pairs.source]


def best_runs(params: Params) -> list[Planned]:
    """The long run of section `best` and, with `best.twin`, the same run towards clean targets.

    They train on the pair set "best", or on the scale's own with source ee559, which has no clean targets.
    """
    options, course = params.best, params.pairs.source == "ee559"
    pairs_count = params.pairs.train if course else options.train
    seed = params.beyond.seeds[0]
    recipe = beyond.one_cycle(options.learning_rate) | options.model_dump(
        include={"arch", "width", "loss", "batch_size", "sigma_n", "averaging", "precision"}
    )
    recipe |= {"resample": options.resample and not course}
    recipe |= {"epochs": max(1, round(options.images / pairs_count))}
    run = beyond.network(params, seed, **recipe)
    best = Planned({"model": BEST, "seed": seed}, run, "" if course else "best")
    if course or not options.twin:
        return [best]
    twin = run.model_copy(update={"target": "clean"})
    return [best, Planned({"model": TWIN.format(BEST), "seed": seed}, twin, best.pairs)]


def denoiser(result: Result, flips: bool) -> Denoiser:
    """The network of a run, which predicts with or without the mean over the four flips of an image."""
    return Denoiser(load_network(result.model)[0], flips)


def evaluate_model(result: Result, pairs: PairSet, params: Params, flips: bool) -> dict[str, float]:
    """The metrics of a run's network with or without flips, dB except ssim and test_ssim.

    On validation: psnr_mean, psnr_std, psnr_full, psnr_per_image, psnr_hvs_m, ssim. On the test set (NaN
    without one): test_full, test_per_image, test_psnr_hvs_m, test_ssim.
    """
    model = denoiser(result, flips)

    def measured(images: Mapping[str, Tensor]) -> dict[str, float]:
        clean, denoised = images["clean"].numpy(), model.predict(images["noisy_1"].numpy())
        mse = metrics.mse_per_image(denoised, clean)
        found = metrics.summarize(mse, params.evaluation, params.seed)
        return found | metrics.perceptual(denoised, clean)

    test = measured(pairs.test) if pairs.test else dict.fromkeys(OF_TEST, np.nan)
    return measured(pairs.validation) | {name: test[measure] for measure, name in OF_TEST.items()}


def evaluations(best: Experiment, pairs: PairSet, params: Params) -> pd.DataFrame:
    """The best model and its twin, without and with flips: model, passes and what `evaluate_model` gives."""
    return pd.DataFrame(
        [
            {"model": one.row["model"], "passes": 4 if flips else 1}
            | evaluate_model(result, pairs, params, flips)
            for one, result in zip(best.planned, best.finished, strict=True)
            for flips in (False, True)
        ]
    )


def references(
    pairs: PairSet, models: Mapping[str, Sequence[Denoiser]], classical: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Classical methods and `models` on the test set, or on validation without one: (table, differences).

    `models` maps names to denoisers, one for each seed; the twin of a model is named `TWIN.format(name)`. The
    table has the columns split, seeds and those of baselines.csv, which are means over seeds. The differences
    compare each model with `classical`, the classical method that is the best one on validation, and with its
    twin: what, photographs, estimate, low, high (dB), seeds and basis. The intervals are those of
    `effects.compare`.
    """
    split = "test" if pairs.test else "validation"
    noisy, clean = (getattr(pairs, split)[version].numpy() for version in ("noisy_1", "clean"))
    photographs = pairs.photographs(split)
    denoised = {name: [method(noisy)] for name, method in baselines.tuned(pairs).items()}
    denoised |= {name: [model.predict(noisy) for model in seeds] for name, seeds in models.items()}
    rows, errors, compared = [], {}, []
    for name, seeds in denoised.items():
        measured = pd.DataFrame([baselines.baseline_row(name, found, clean) for found in seeds])
        means = measured.drop(columns="method").mean().to_dict()
        rows.append({"split": split, "method": name, "seeds": len(seeds)} | means)
        errors[name] = np.stack([metrics.mse_per_image(found, clean) for found in seeds])
    for name, other in product(models, (classical, TWIN)):
        if (reference := other.format(name)) in errors:
            effect = effects.compare(errors[name], errors[reference], photographs)
            about = {"what": f"{name} − {reference}", "photographs": photographs}
            compared.append(about | vars(effect))
    return pd.DataFrame(rows), pd.DataFrame(compared, columns=["what", "photographs", *effects.DIFFERENCE])


def budget(studies: Experiment, best: Experiment, pairs: PairSet, params: Params) -> pd.DataFrame:
    """budget.csv: from the report's network to the best model, step by step, on the validation images.

    All steps but the last are short runs of notebook 07, one for each seed. Columns: model; psnr_mean,
    psnr_full and psnr_per_image (dB, means over seeds); the gain of psnr_full over the row above (dB) with
    its interval (low, high) over images and, with three or more seeds, over seeds; basis; passes per
    prediction; images that one run sees.
    """
    flips = params.best.flips
    steps = [
        (name, beyond.of_variant(studies, study, variant), False)
        for name, study, variant in (
            ("the report's network", "connection", "as published"),
            ("with a residual connection and scaled values", "connection", "both"),
            ("with a one-cycle rate", "recipe", beyond.ONE_CYCLE),
            (f"with the {beyond.BEST_NETWORK}", "network", beyond.BEST_NETWORK),
        )
    ]
    steps.append(("with the mean over four flips", beyond.read_models(studies) if flips else [], True))
    steps.append(("with the long run of the best model", best.finished[:1], flips))
    rows: list[dict[str, object]] = []
    before: np.ndarray | None = None
    for name, results, with_flips in (step for step in steps if step[1]):
        mse = np.stack([_errors(result, pairs, with_flips) for result in results])
        measured = pd.DataFrame([metrics.summarize(one, params.evaluation, params.seed) for one in mse])
        row = {"model": name} | measured.drop(columns="psnr_std").mean().to_dict()
        row |= {"gain": np.nan, "low": np.nan, "high": np.nan}
        if before is not None:  # the long run has one seed, and is compared with the run of every seed
            found = effects.compare(mse, before, pairs.photographs("validation"))
            row |= {"gain": found.estimate, "low": found.low, "high": found.high}
        row |= {"basis": effects.basis(len(mse)), "passes": 4 if with_flips else 1}
        row["images"] = np.mean([result.about["images"] for result in results])
        rows.append(row)
        before = mse
    return pd.DataFrame(rows)


def _errors(result: Result, pairs: PairSet, flips: bool) -> np.ndarray:
    """Mean squared error of each validation image, float64 N."""
    if not flips:
        return result.errors["mse"]
    denoised = denoiser(result, flips).predict(pairs.validation["noisy_1"].numpy())
    return metrics.mse_per_image(denoised, pairs.validation["clean"].numpy())


def measures(runs: Mapping[str, pd.DataFrame], classical: pd.DataFrame) -> pd.DataFrame:
    """Runs of several kinds and the classical methods: kind, psnr_full, psnr_hvs_m (dB), ssim and failed.

    `classical` is baselines.csv. Its first row, the noisy input, tells which runs failed and is left out.
    """
    frames = [frame.assign(kind=kind) for kind, frame in runs.items()]
    frame = pd.concat([*frames, classical[1:].assign(kind="classical methods")], ignore_index=True)
    failed = effects.failed(frame, classical["psnr_full"].iloc[0])
    return frame[["kind", "psnr_full", "psnr_hvs_m", "ssim"]].assign(failed=failed)


def selection(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Would PSNR-HVS-M or SSIM have ranked `runs` differently from PSNR, and chosen another one?

    `runs` maps kinds to tables with a row for each run: psnr_full, psnr_hvs_m (dB), ssim. One row for each
    kind and measure: runs_of, runs, measure, Kendall's tau with its bootstrap interval over runs (tau, low,
    high), and the PSNR that its choice gives away (cost, dB; 0 if it chooses the same run).
    """
    rows = []
    for (runs_of, table), measure in product(runs.items(), ("psnr_hvs_m", "ssim")):
        tau, low, high = effects.rank_agreement(table["psnr_full"], table[measure])
        cost = table["psnr_full"].max() - table.loc[table[measure].idxmax(), "psnr_full"]
        rows.append({"runs_of": runs_of, "runs": len(table), "measure": measure})
        rows[-1] |= {"tau": tau, "low": low, "high": high, "cost": cost}
    return pd.DataFrame(rows)


CARD = """# Denoiser for pixelated photographs

This network ({arch}, width {width}, {megabytes:.1f} MB) removes the noise of images in which each pixel was
drawn at random from a block of a photograph. It was trained with Noise2Noise, on pairs of noisy images,
without any clean one. It is the best model of scale {scale}. A prediction takes {passes}.

    python -m n2nlib denoise noisy.png -o denoised.png --model best.safetensors

## What it is for
- RGB images in which each pixel was drawn at random from a block of a photograph, as described above.
- Comparison with other denoisers on such images.

## What it is not for
- Other noise: raw files of a sensor, JPEG artefacts, blur, or noise that neighbouring pixels share.
- Decisions that rest on single pixels, such as medical or forensic ones: it fills in what is probable.

## Training
- Photographs: {source}. {pairs:,} pairs of {size} x {size} pixels were made from {photographs} of them.
- {images:,} images seen in {hours:.2f} hours of one process ({machine}): Adam, one-cycle rate
  up to {learning_rate:g}, batches of {batch_size}, loss {loss}. best.json has all parameters.
- If the table below says "test", no choice was made on its photographs.

## Numbers
| Images: {split} | PSNR (dB) | PSNR per image (dB) | SSIM |
|---|---|---|---|
{rows}

PSNR is taken over all pixels of all images unless it says "per image", with a data range of 255.

## Licence
The weights are under the MIT licence, like the code. The photographs keep their own licences and are not part
of the model.
"""


def write_card(params: Params, pairs: PairSet) -> Path:
    """Write best.md, the model card of best.safetensors, with the numbers of best.json and references.csv.

    `pairs` is the pair set that the model was trained on. Raises `UserError` if best.json is missing, and
    FileNotFoundError without references.csv or best.safetensors.
    """
    folder, card = params.reports / "07_beyond", pairs.card
    about, table = read_json(folder / "best.json"), pd.read_csv(folder / "references.csv")
    rows = [
        f"| {row.method} | {row.psnr_full:.2f} | {row.psnr_per_image:.2f} | {row.ssim:.3f} |"
        for row in table.itertuples()
    ]
    text = CARD.format(
        **about["parameters"] | about,  # all that best.json says of the run and its model
        megabytes=(folder / "best.safetensors").stat().st_size / 1e6,
        passes="four passes: it is the mean over the four flips of the image"
        if about["flips"]
        else "one pass",
        photographs=f"{card['photographs']['train']:,}",
        source=photographs_in_words(params),
        pairs=card["counts"]["train"],
        size=pairs.train["noisy_1"].shape[-1],
        hours=about["seconds"] / 3600,
        split=table["split"].iloc[0],
        rows="\n".join(rows),
    )
    write_text(folder / "best.md", text)
    return folder / "best.md"
