"""Does the noise of a pair set meet the assumptions of Noise2Noise (Lehtinen et al. 2018, section 2)?

A network trained with MSE towards a second noisy version learns the mean of the noisy values that are
possible given its input. That mean is the mean of the clean images that are possible given the input, which
is also what clean targets teach, if the noise has mean zero given the image and is independent between the
versions: these two assumptions are needed. With L1 a network learns the median of the noisy values. It aims
where clean targets would lead only if the median of the noise is zero, too, as it is for symmetric noise.
The noise of these pairs is skewed, so L1 aims at a slightly different image. Whiteness, the correlation of
the channels and growth with contrast are not needed; they describe the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

BINS = 16  # of the grey level
GROUPS = 8  # of the local contrast
SAMPLE = 2000  # images that are measured at most
LARGEST_MEAN = 1.0  # grey levels; a mean beyond this, and beyond chance, breaks the assumption
LARGEST_BALANCE = 0.05  # of P(noise > 0) - P(noise < 0), which is zero if and only if the median is
CHANCE = 4.0  # standard errors
LARGEST_CORRELATION = 0.05
LARGEST_WITHOUT_CLEAN = 0.25  # larger, since the estimate takes training and validation images to be alike


@dataclass(frozen=True)
class Assumption:
    """A measured property; `needed` says whether Noise2Noise needs it for training with MSE."""

    name: str
    needed: bool
    holds: bool | None  # None: too few images to tell
    words: str

    @property
    def broken(self) -> bool:
        """Is it needed, and does it not hold?"""
        return self.needed and self.holds is False


def _error(noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return noisy[:SAMPLE].astype(np.float64) - clean[:SAMPLE]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation about zero, not about the means: a mean that is not zero counts as dependence."""
    scale = np.sqrt((a**2).mean() * (b**2).mean())
    return float((a * b).mean() / scale) if scale > 0 else 0.0


def _mean(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Mean of `values` (N x 3 x S x S) where `mask` is true, and its standard error over images."""
    counts, sums = mask.sum(axis=(1, 2, 3)), (values * mask).sum(axis=(1, 2, 3))
    mean, images = sums.sum() / counts.sum(), (counts > 0).sum()
    residual = sums - mean * counts
    return mean, np.sqrt((residual**2).sum() * images / (images - 1)) / counts.sum()


def grouped_median(values: np.ndarray) -> float:
    """The median if each value, rounded to v, stands for the interval from v - 1/2 to v + 1/2.

    Most errors of these images are small integers, whose plain median would jump between 0 and 1.
    """
    whole = np.rint(values)
    middle = np.median(whole)
    below, equal = (whole < middle).mean(), (whole == middle).mean()
    return float(middle - 0.5 + (0.5 - below) / equal) if equal else float(middle)


def by_level(noisy: np.ndarray, clean: np.ndarray) -> pd.DataFrame:
    """The centre of the noise at each grey level of the clean image, from N x 3 x S x S in [0, 255].

    Columns: level (middle of its bin), mean, error (standard error of the mean), median (`grouped_median`),
    all in grey levels; balance = P(noise > 0) - P(noise < 0), and its standard error balance_error. Levels
    with fewer than 100 values or 5 images are left out.
    """
    error, group = _error(noisy, clean), clean[:SAMPLE].astype(int) * BINS // 256
    rows = []
    for level in range(BINS):
        mask = group == level
        if mask.sum() >= 100 and mask.any(axis=(1, 2, 3)).sum() >= 5:
            balance = _mean(np.sign(error), mask)
            middle = (level + 0.5) * 256 / BINS
            rows.append((middle, *_mean(error, mask), grouped_median(error[mask]), *balance))
    return pd.DataFrame(rows, columns=["level", "mean", "error", "median", "balance", "balance_error"])


def by_contrast(noisy: np.ndarray, clean: np.ndarray) -> pd.DataFrame:
    """The standard deviation of the noise by local contrast, from flat to busy: columns contrast and std.

    Takes N x 3 x S x S in [0, 255]. Both are in grey levels: contrast is the mean of a group, std the root of
    its mean square. There are `GROUPS` groups of equal size; ties can make them unequal, and fewer. Contrast
    is the standard deviation of 3 x 3 pixels of one channel of the clean image; the border is left out.
    """
    windows = np.lib.stride_tricks.sliding_window_view(clean[:SAMPLE].astype(np.float64), (3, 3), axis=(2, 3))
    contrast = windows.std(axis=(4, 5)).ravel()
    square = _error(noisy, clean)[:, :, 1:-1, 1:-1].ravel() ** 2
    edges = np.quantile(contrast, np.linspace(0, 1, GROUPS + 1)[1:-1])
    frame = pd.DataFrame({"contrast": contrast, "square": square})
    means = frame.groupby(np.searchsorted(edges, contrast)).mean().reset_index(drop=True)
    return pd.DataFrame({"contrast": means["contrast"], "std": np.sqrt(means["square"])})


def version_correlation(train: Mapping[str, np.ndarray], validation: Mapping[str, np.ndarray]) -> float:
    """Correlation of the noise of the two training versions: 0 for independent noise, 1 for shared noise.

    Without clean training images it follows from var(a - b) = 2 (1 - r) var(noise), with the variance of
    the validation images.
    """
    first, second = train["noisy_1"], train["noisy_2"]
    if "clean" in train:
        return _correlation(_error(first, train["clean"]), _error(second, train["clean"]))
    variance = (_error(validation["noisy_1"], validation["clean"]) ** 2).mean()
    return float(1 - (_error(first, second) ** 2).mean() / (2 * variance)) if variance else 0.0


def assumptions(train: Mapping[str, np.ndarray], validation: Mapping[str, np.ndarray]) -> list[Assumption]:
    """Measure a pair set (version -> uint8 N x 3 x S x S): what is needed first, then the others."""
    noisy, clean = validation["noisy_1"], validation["clean"]
    error, levels = _error(noisy, clean), by_level(noisy, clean)
    shared = version_correlation(train, validation)
    most = LARGEST_CORRELATION if "clean" in train else LARGEST_WITHOUT_CLEAN
    beside = _correlation(error[..., 1:], error[..., :-1])
    below = _correlation(error[..., 1:, :], error[..., :-1, :])
    white = max(beside, below, key=abs)
    red, green, blue = np.moveaxis(error, 1, 0)
    channels = [_correlation(red, green), _correlation(green, blue), _correlation(red, blue)]
    spread = by_contrast(noisy, clean)["std"]
    flat, busy = spread.iloc[0], spread.iloc[-1]

    independent = f"correlation {shared:+.3f} between the noise of the two versions"
    independent += "; the versions share noise" if shared > most else ""
    neighbours = f"correlation {beside:+.3f} with the pixel beside, {below:+.3f} with the pixel below"
    colours = "red and green {:.2f}, green and blue {:.2f}, red and blue {:.2f}; ".format(*channels)
    colours += "0.77 to 0.90 on images of the course"
    growth = f"standard deviation {flat:.1f} where the image is flattest, {busy:.1f} where it is busiest"
    return [
        _centre(levels, "mean", LARGEST_MEAN, "noise that was clipped to [0, 255] looks like this"),
        Assumption("independent between the versions", True, abs(shared) <= most, independent),
        _centre(levels, "median", LARGEST_BALANCE, "L1 targets the median, MSE the mean"),
        Assumption("spatially white", False, abs(white) <= LARGEST_CORRELATION, neighbours),
        Assumption("correlated across channels", False, min(channels) > 0.5, colours),
        Assumption("grows with local contrast", False, bool(busy > 1.5 * flat), growth),
    ]


def _centre(levels: pd.DataFrame, centre: str, limit: float, remark: str) -> Assumption:
    """Is the mean or the median zero at every grey level of `by_level`, up to `limit` and to chance?

    The median is tested by its balance, whose standard error is known.
    """
    tested, error = {"mean": ("mean", "error"), "median": ("balance", "balance_error")}[centre]
    distance = levels[tested].abs()
    far = bool(((distance > limit) & (distance > CHANCE * levels[error])).any())
    name, needed = f"{centre} zero at every grey level", centre == "mean"
    if levels.empty or (not far and CHANCE * levels[error].median() > limit):
        return Assumption(name, needed, None, "too few images to tell")
    worst = levels.loc[levels[centre].abs().idxmax()]
    chance = f" ± {worst['error']:.2f}" if centre == "mean" else ""
    words = f"furthest from zero: {worst[centre]:+.2f}{chance} at grey level {worst['level']:.0f}"
    return Assumption(name, needed, not far, f"{words}; {remark}" if far else words)


def verdict(measured: list[Assumption]) -> str:
    """May Noise2Noise be expected to learn the clean image from this set, with MSE and with L1?"""
    broken = [f"{one.name}: {one.words}" for one in measured if one.broken]
    if broken:
        return f"BROKEN: {'; '.join(broken)}. A network trained on these pairs does not learn clean images."
    if any(one.needed and one.holds is None for one in measured):
        return "There are too few images to tell if the assumptions of Noise2Noise hold."
    mean, median = (
        next(one for one in measured if one.name.startswith(centre)) for centre in ("mean", "median")
    )
    l1 = {
        True: "The median is zero, too, so L1 aims at the same image.",
        False: f"The median is not zero ({median.words}), so L1 aims at a different image where the noise is "
        "skewed.",
        None: "There are too few images to tell if the median is zero, at which L1 aims.",
    }
    return (
        "Both assumptions of Noise2Noise hold: the noise is independent between the versions, and at no grey "
        f"level does its mean differ from zero by more than {LARGEST_MEAN:g} grey level and more than chance "
        f"allows ({mean.words}). The MSE loss therefore has the same minimum as with clean targets. "
        f"{l1[median.holds]}"
    )
