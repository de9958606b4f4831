"""Do Noise2Noise's assumptions hold for a pair set? Measured, with a verdict in words.

Lehtinen et al. (2018): a network trained towards a second noisy version learns the clean image if the noise has mean zero given the image and
is independent between the versions. Whiteness, channel correlation and growth with contrast are not needed; they describe the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

BINS = 16  # of grey level


LARGEST_MEAN = 1.0  # grey levels: a mean beyond this (and beyond chance) at some level breaks the assumption


LARGEST_CORRELATION = 0.05


LARGEST_WITHOUT_CLEAN = 0.25  # then it rests on training and validation being alike


SAMPLE = 2000  # images measured at most


@dataclass(frozen=True)
class Assumption:
    """One measured property: its value, what is expected, whether Noise2Noise needs it and whether it holds."""

    name: str
    value: float
    expected: str
    needed: bool
    holds: bool
    words: str


def _error(noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return noisy[:SAMPLE].astype(np.float64) - clean[:SAMPLE]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    scale = np.sqrt((a**2).mean() * (b**2).mean())
    return float((a * b).mean() / scale) if scale > 0 else 0.0


def mean_by_level(noisy: np.ndarray, clean: np.ndarray) -> pd.DataFrame:
    """The noise's mean at each grey level: columns level (of the clean image, middle of its bin), mean, error (standard error), pixels.

    The standard error counts images, not pixels, as independent.
    """
    error, group = _error(noisy, clean), clean[:SAMPLE].astype(int) * BINS // 256
    rows = []
    for level in range(BINS):
        mask = group == level
        counts, sums = mask.sum(axis=(1, 2, 3)), (error * mask).sum(axis=(1, 2, 3))
        total = counts.sum()
        if total < 100 or (counts > 0).sum() < 5:
            continue
        mean = sums.sum() / total
        residual = sums - mean * counts
        images = (counts > 0).sum()
        rows.append(
            {
                "level": (level + 0.5) * 256 / BINS,
                "mean": mean,
                "error": np.sqrt((residual**2).sum() * images / (images - 1)) / total,
                "pixels": total,
            }
        )
    return pd.DataFrame(rows, columns=["level", "mean", "error", "pixels"])


def spread_by_contrast(noisy: np.ndarray, clean: np.ndarray, groups: int = 8) -> pd.DataFrame:
    """The noise's standard deviation by local contrast (standard deviation of the clean image's 3 x 3 neighbourhood), in equal groups."""
    clean = clean[:SAMPLE].astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(clean, (3, 3), axis=(2, 3))
    contrast = windows.std(axis=(4, 5)).ravel()
    error = _error(noisy, clean)[:, :, 1:-1, 1:-1].ravel()
    edges = np.quantile(contrast, np.linspace(0, 1, groups + 1)[1:-1])
    frame = pd.DataFrame(
        {"group": np.searchsorted(edges, contrast), "contrast": contrast, "square": error**2}
    )
    means = frame.groupby("group").mean()
    return pd.DataFrame({"contrast": means["contrast"], "std": np.sqrt(means["square"])}).reset_index(
        drop=True
    )


def version_correlation(train: Mapping[str, np.ndarray], validation: Mapping[str, np.ndarray]) -> float:
    """Correlation between the noise of the two versions: 0 for independent, 1 for shared noise.

    From the clean image where there is one; else from var(a - b) = 2 (1 - r) var(noise), the noise's variance taken from validation.
    """
    first, second = train["noisy_1"], train["noisy_2"]
    if "clean" in train:
        return _correlation(_error(first, train["clean"]), _error(second, train["clean"]))
    variance = (_error(validation["noisy_1"], validation["clean"]) ** 2).mean()
    return float(1 - (_error(first, second) ** 2).mean() / (2 * variance)) if variance else 0.0


def assumptions(train: Mapping[str, np.ndarray], validation: Mapping[str, np.ndarray]) -> list[Assumption]:
    """Measure a pair set (version -> uint8 N x 3 x S x S): what Noise2Noise needs first, then what describes the noise."""
    noisy, clean = validation["noisy_1"], validation["clean"]
    error = _error(noisy, clean)
    by_level = mean_by_level(noisy, clean)
    beyond = by_level[
        (by_level["mean"].abs() > LARGEST_MEAN) & (by_level["mean"].abs() > 4 * by_level["error"])
    ]
    worst = by_level.loc[by_level["mean"].abs().idxmax()] if len(by_level) else None
    found = (
        "too few pixels to say"
        if worst is None
        else f"furthest from zero: {worst['mean']:+.2f} ± {worst['error']:.2f} at grey level {worst['level']:.0f}"
    )
    if len(beyond):
        found += "; noise that was clipped to [0, 255] looks like this"
    value = 0.0 if worst is None else float(worst["mean"])
    measured = [
        Assumption("mean zero at every grey level", value, "0 grey levels", True, beyond.empty, found)
    ]

    shared = version_correlation(train, validation)
    limit = LARGEST_CORRELATION if "clean" in train else LARGEST_WITHOUT_CLEAN
    words = f"correlation {shared:+.3f} between the noise of the two versions"
    words += "; the versions share noise" if shared > limit else ""
    measured.append(
        Assumption("independent between the versions", shared, "0", True, abs(shared) <= limit, words)
    )

    neighbours = [
        _correlation(error[..., 1:], error[..., :-1]),
        _correlation(error[..., 1:, :], error[..., :-1, :]),
    ]
    white = max(neighbours, key=abs)
    words = f"correlation {neighbours[0]:+.3f} with the pixel beside, {neighbours[1]:+.3f} with the one below"
    measured.append(
        Assumption("spatially white", white, "0", False, abs(white) <= LARGEST_CORRELATION, words)
    )

    channels = [_correlation(error[:, a], error[:, b]) for a, b in ((0, 1), (1, 2), (0, 2))]
    words = f"red and green {channels[0]:.2f}, green and blue {channels[1]:.2f}, red and blue {channels[2]:.2f}; 0.77 to 0.90 on the course's images"
    measured.append(
        Assumption(
            "correlated across channels",
            float(np.mean(channels)),
            "0.77 to 0.90",
            False,
            min(channels) > 0.5,
            words,
        )
    )

    growth = spread_by_contrast(noisy, clean)["std"]
    ratio = float(growth.iloc[-1] / max(growth.iloc[0], 1e-9))
    words = f"standard deviation {growth.iloc[0]:.1f} where the image is flattest, {growth.iloc[-1]:.1f} where it is busiest"
    measured.append(Assumption("grows with local contrast", ratio, "above 1", False, ratio > 1.5, words))
    return measured


def verdict(measured: list[Assumption]) -> str:
    """One sentence: may Noise2Noise be expected to learn the clean image from this set?"""
    broken = [one for one in measured if one.needed and not one.holds]
    if broken:
        return (
            "BROKEN: "
            + "; ".join(f"{one.name}: {one.words}" for one in broken)
            + ". A network trained on these pairs learns something else than clean."
        )
    return "Both assumptions of Noise2Noise hold: the noise has mean zero at every grey level and is independent between the versions."
