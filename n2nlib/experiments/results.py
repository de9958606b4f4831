"""Finished runs -> tidy frames, and the networks and pictures that figures show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from n2nlib.denoiser import Denoiser
from n2nlib.experiments import published
from n2nlib.experiments.paper_runs import BASELINE, has_setting
from n2nlib.files import ROOT
from n2nlib.metrics import mse_per_image, subset_psnr
from n2nlib.pairs import baselines
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.train.runs import Planned, Result

DEAD = 0.5  # an output channel is dead if more than this share of its pixels is zero


@dataclass(frozen=True)
class Experiment:
    """Runs of one kind: what was planned, what came of it, and a table with one row per run or epoch."""

    planned: list[Planned]
    finished: list[Result]
    table: pd.DataFrame


def search_record(search: str, scale: str) -> pd.DataFrame | None:
    """What `benchmarks.<search>` recorded for a scale, one row per run or variant; None if it did not."""
    path = ROOT / "benchmarks" / "records" / f"{search}_{scale}.csv"
    return pd.read_csv(path) if path.is_file() else None


def collect(planned: list[Planned], finished: list[Result], params: Params) -> pd.DataFrame:
    """One row per run: its setting, all of `Result.metrics`, and images, dead, diverged and run (its name).

    `dead` counts output channels that are zero in more than half of all pixels: there the ReLU behind the
    last convolution passes no gradient.
    """
    rows = []
    for one, result in zip(planned, finished, strict=True):
        dead = int((result.errors["zeros"] > DEAD).sum())
        about = {"images": result.about["images"], "dead": dead, "diverged": result.diverged}
        rows.append(one.row | result.metrics(params) | about | {"run": result.name})
    return pd.DataFrame(rows)


def collect_curves(planned: list[Planned], finished: list[Result], params: Params) -> pd.DataFrame:
    """One row per candidate, seed and validated epoch.

    Columns: candidate, seed, epoch, images; psnr_mean and psnr_std as trained, report_mean with the report's
    evaluation (dB, over random subsets); train_loss (mean over the batches of the epoch).
    """
    rows = []
    for one, result in zip(planned, finished, strict=True):
        history = result.history.set_index("epoch")
        for epoch, errors in sorted(result.curve.items()):
            mean, std = subset_psnr(errors["mse"], params.evaluation, params.seed)
            report, _ = subset_psnr(errors["mse_report"], params.evaluation, params.seed)
            measured = {"psnr_mean": mean, "psnr_std": std, "report_mean": report}
            seen = {"epoch": epoch, "images": int(history["images"][epoch])}
            rows.append(one.row | seen | measured | {"train_loss": history["train_loss"][epoch]})
    return pd.DataFrame(rows)


def collect_progress(planned: list[Planned], finished: list[Result]) -> pd.DataFrame:
    """One row per run and validated epoch: its setting, epoch, images, psnr_full and report_full (dB)."""
    measured = ["epoch", "images", "psnr_full", "report_full"]
    frames = [
        pd.DataFrame([one.row]).merge(result.history.dropna(subset="psnr_full")[measured], how="cross")
        for one, result in zip(planned, finished, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def examples(table1: pd.DataFrame) -> dict[str, int]:
    """The runs that Fig. 1 shows: title -> row of `table1`.

    They are the report's baseline and candidates as far as they were trained, first seed, and our best: the
    single run with the highest psnr_mean, which may be one of them.
    """
    candidates = published.table2().to_dict("records")
    settings = {"baseline": BASELINE} | {f"candidate {one.pop('candidate')}": one for one in candidates}
    rows = {title: table1.index[has_setting(table1, setting)] for title, setting in settings.items()}
    shown = {title: int(found[0]) for title, found in rows.items() if len(found)}
    ours = int(table1["psnr_mean"].idxmax())
    return {title: row for title, row in shown.items() if row != ours} | {
        ", ".join([*(title for title, row in shown.items() if row == ours), "our best"]): ours
    }


def plain_run(table1: pd.DataFrame) -> int:
    """The row of the best network trained without sharpening, first seed; of any run without one."""
    rows = table1[~table1["sharpen"] & (table1["seed"] == table1["seed"].iloc[0])]
    return int((rows if len(rows) else table1)["psnr_full"].idxmax())


def pictures(
    shown: Mapping[str, Denoiser], pairs: PairSet, count: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Noisy images, blurred ones and what each of `shown` makes of them, and the clean ones.

    Title -> count x 3 x S x S. The validation images are ordered by their noise, and `count` of them taken at
    equal distances, without the extremes.
    """
    noisy, clean = (pairs.validation[version].numpy() for version in ("noisy_1", "clean"))
    by_noise = np.argsort(mse_per_image(noisy, clean), kind="stable")
    chosen = by_noise[np.arange(1, count + 1) * len(clean) // (count + 1)]
    noisy = noisy[chosen]
    made = {title: denoiser.predict(noisy) for title, denoiser in shown.items()}
    return {"noisy": noisy, "Gaussian blur": baselines.tuned_blur(noisy, pairs)} | made, clean[chosen]
