"""PSNR against scikit-image and closed forms, the subset protocol against its definition, paired statistics against the paper."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio

from n2nlib import measures, published
from n2nlib.evaluation import mse_per_image, psnr, psnr_full, psnr_per_image, subset_psnr
from n2nlib.sections import Evaluation
from n2nlib.statistics import effect, interaction, seed_spread, table1_effects

images = hnp.arrays(np.uint8, (3, 3, 8, 8))


@settings(max_examples=50, deadline=None)
@given(images, images)
def test_psnr_is_scikit_images(a: np.ndarray, b: np.ndarray) -> None:
    mse = mse_per_image(a, b)
    if not mse.all():
        return
    assert psnr_full(mse) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255))
    each = [peak_signal_noise_ratio(y, x, data_range=255) for x, y in zip(a, b, strict=True)]
    assert psnr_per_image(mse) == pytest.approx(np.mean(each))


def test_psnr_closed_forms() -> None:
    clean = np.zeros((2, 3, 4, 4), np.uint8)
    assert psnr_full(mse_per_image(clean + 255, clean)) == 0
    assert psnr_full(mse_per_image(clean + 1, clean)) == pytest.approx(20 * math.log10(255))
    assert psnr(0.0) == math.inf
    assert psnr_per_image(mse_per_image(clean, clean)) == math.inf


def test_what_is_no_number_counts_as_black() -> None:
    clean = np.full((1, 3, 4, 4), 100, np.uint8)
    broken = np.full((1, 3, 4, 4), np.nan)
    assert mse_per_image(broken, clean) == 100**2
    assert mse_per_image(np.full((1, 3, 4, 4), np.inf), clean) == 155**2


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        mse_per_image(np.zeros((1, 3, 4, 4)), np.zeros((2, 3, 4, 4)))


def test_subsets_follow_the_protocol(rng: np.random.Generator) -> None:
    mse = rng.gamma(2, 100, 1000)
    protocol = Evaluation(repeats=100, subset=500)
    mean, std = subset_psnr(mse, protocol, 0)
    assert mean == pytest.approx(psnr_full(mse), abs=0.03)
    # the mean of half of a finite population, drawn without replacement, has variance s^2 / n * (1 - n / N)
    relative = mse.std(ddof=1) / math.sqrt(500) * math.sqrt(0.5) / mse.mean()
    assert std == pytest.approx(10 / math.log(10) * relative, rel=0.25)
    assert subset_psnr(mse, protocol, 0) == (mean, std)
    assert subset_psnr(mse, protocol, 1) != (mean, std)
    assert subset_psnr(mse, Evaluation(repeats=5, subset=1000), 0)[1] == pytest.approx(0, abs=1e-9)
    assert subset_psnr(mse, Evaluation(repeats=5, subset=1001), 0) == subset_psnr(mse, Evaluation(repeats=5, subset=500), 0)


@pytest.mark.parametrize(
    ("what", "mean", "error", "agree"),
    [
        ("TConv − Upsample", -0.137, 0.10, None),
        ("sharpening", 1.18, 0.24, 15),
        ("MSE − L1", 0.81, None, 14),
        ("Adam − SGD", 0.33, None, 11),
        ("crops", -0.52, None, 11),
    ],
)
def test_the_published_table_says_what_facts_say(what: str, mean: float, error: float | None, agree: int | None) -> None:
    rows = table1_effects(published.table1(), published.table1())
    row = rows[(rows["what"] == what) & (rows["source"] == "published")].iloc[0]
    assert row["mean"] == pytest.approx(mean, abs=0.006)
    assert row["pairs"] == 16
    assert row["evaluation_error"] == pytest.approx(0.04, abs=0.005)
    if error:
        assert row["standard_error"] == pytest.approx(error, abs=0.006)
    if agree:
        assert row["same_sign"] == agree


def test_the_published_range_of_sharpening() -> None:
    sharpening = effect(published.table1(), "sharpen", True, False)
    assert (round(sharpening.smallest, 2), round(sharpening.largest, 2)) == (-0.57, 2.83)


def test_a_paired_effect_by_hand() -> None:
    table = pd.DataFrame(
        {"arch": ["a", "b"] * 3, "loss": [0, 0, 1, 1, 2, 2], "psnr_mean": [1.0, 0.0, 4.0, 2.0, 5.0, 2.0], "psnr_std": [0.3] * 6, "run": list("uvwxyz")}
    )
    found = effect(table, "arch", "a", "b")
    assert (found.mean, found.pairs, found.same_sign, found.smallest, found.largest) == (2, 3, 3, 1, 3)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)  # Student's t, two degrees of freedom
    assert found.evaluation_error == pytest.approx(0.3 * math.sqrt(6) / 3)
    with pytest.raises(ValueError, match="differ in arch"):
        effect(table, "arch", "a", "c")


def test_seeds_of_a_setting_are_averaged_before_pairs_are_counted() -> None:
    rows = [("a", loss, seed, value) for loss, seed, value in ((0, 0, 1.0), (0, 1, 3.0), (1, 0, 4.0), (1, 1, 6.0))]
    rows += [("b", loss, seed, 0.0) for loss in (0, 1) for seed in (0, 1)]
    table = pd.DataFrame(rows, columns=["arch", "loss", "seed", "psnr_mean"]).assign(psnr_std=0.1)
    found = effect(table, "arch", "a", "b")
    assert (found.mean, found.pairs, found.smallest, found.largest) == (3.5, 2, 2, 5)
    only_seeds = table[table["loss"] == 0].drop(columns="loss")
    assert effect(only_seeds, "arch", "a", "b").pairs == 2


def test_an_interaction_by_hand() -> None:
    values = {(True, True): [1.0, 2.0], (False, True): [4.0, 4.0], (True, False): [5.0, 5.0], (False, False): [5.0, 6.0]}
    rows = [(crops, sharpen, loss, value) for (crops, sharpen), two in values.items() for loss, value in enumerate(two)]
    table = pd.DataFrame(rows, columns=["crops", "sharpen", "loss", "psnr_mean"]).assign(psnr_std=0.1)
    found = interaction(table, ("crops", True, False), ("sharpen", True, False))
    # crops change -3 and -2 with sharpening, 0 and -1 without: -3 and -1
    assert (found.mean, found.pairs, found.smallest, found.largest) == (-2, 2, -3, -1)


def test_a_blur_is_less_sharp_and_noise_sharper() -> None:
    clean = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32)).astype(np.float64)
    energy = measures.gradient_energy(clean)
    neighbours = (clean[0, :, 1:], clean[0, :, :-1]), (clean[0, :, :, 1:], clean[0, :, :, :-1])
    by_hand = sum(((a.astype(float) - b) ** 2).sum() for a, b in neighbours)
    assert energy[0] == pytest.approx(by_hand)
    assert measures.gradient_energy(clean / 2) == pytest.approx(energy / 4)
    assert (measures.gradient_energy(gaussian_filter(clean, (0, 0, 1, 1))) < energy / 2).all()


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_spread_is_that_of_normal_seeds_and_deaf_to_a_dead_one(seeds: int) -> None:
    psnr = np.random.default_rng(0).normal(23, 0.3, (2000, seeds))
    psnr[0, 0] = 7.0
    assert seed_spread(pd.Series(psnr.std(axis=1, ddof=1)), seeds) == pytest.approx(0.3, rel=0.05)
    assert seed_spread(pd.Series([np.nan, np.nan]), seeds) == 0
