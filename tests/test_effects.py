"""Effects by hand and against SciPy, failures, the authors' networks, and what sharpening does to spectra."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from n2nlib import __main__
from n2nlib.experiments import authors, effects, paper_runs, published, sharpening
from n2nlib.experiments.effects import effect
from n2nlib.files import UserError
from n2nlib.pairs import pair_set
from n2nlib.report import wording
from n2nlib.train.network import Network

ON_REPORT = {  # mean of the differences in Table I, its standard error between pairs, pairs with a gain
    "arch": (-0.137, 0.10, 6),
    "sharpen": (1.18, 0.24, 15),
    "loss": (0.81, None, 14),
    "optimizer": (0.33, None, 11),
    "crops": (-0.52, None, 5),
}


def _table(values: dict[tuple[str, str, int], float]) -> pd.DataFrame:
    """A table of runs from (arch, loss, seed) -> psnr_mean."""
    rows = [(*key, value) for key, value in values.items()]
    return pd.DataFrame(rows, columns=["arch", "loss", "seed", "psnr_mean"])


def _seeds(gains: dict[int, list[float]]) -> pd.DataFrame:
    """Runs whose gain of arch a over b at each seed is given for one loss after the other."""
    values = {}
    for seed, row in gains.items():
        for loss, gain in zip(("l1", "mse", "huber"), row, strict=False):
            values[("a", loss, seed)], values[("b", loss, seed)] = 20 + gain, 20.0
    return _table(values)


def test_with_three_seeds_the_effect_is_the_mean_over_seeds_of_the_median_over_pairs() -> None:
    found = effect(_seeds({0: [1, 2, 9], 1: [3, 4, -9], 2: [5, 6, 7]}), "arch", "a", "b")
    by_hand = stats.ttest_1samp([2, 3, 6], 0).confidence_interval(0.95)
    assert found.estimate == pytest.approx(11 / 3)
    assert (found.low, found.high) == pytest.approx(tuple(by_hand))
    assert (found.seeds, found.pairs, found.better, found.basis) == (3, 3, 3, "seeds")


@pytest.mark.parametrize(("seeds", "basis"), [(1, "one seed"), (2, "two seeds")])
def test_with_fewer_seeds_it_is_the_median_over_pairs(seeds: int, basis: str) -> None:
    found = effect(_seeds({seed: [1, 2, 9] for seed in range(seeds)}), "arch", "a", "b")
    assert (found.estimate, found.basis) == (2, basis)
    assert math.isnan(found.low)  # three pairs have no 95 % interval
    assert math.isnan(found.high)


def test_a_failed_run_moves_an_effect_little_and_stays_in_it() -> None:
    table = published.table1()
    before = effect(table, "sharpen", True, False)
    best = table["psnr_mean"].idxmax()
    failed = effect(
        table.assign(psnr_mean=table["psnr_mean"].where(table.index != best, 5.0)), "sharpen", True, False
    )
    assert failed.pairs == before.pairs == 16
    assert abs(failed.estimate - before.estimate) < 0.15
    assert failed.low == pytest.approx(before.low, abs=0.15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=6, max_size=40))
def test_the_sign_interval_is_scipys(values: list[float]) -> None:
    median, low, high = effects.sign_interval(np.array(values))
    expected = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert (low, high) == (expected.low, expected.high)
    assert median == np.median(values)


def test_settings_that_differ_in_sigma_n_alone_count_once() -> None:
    rows = [
        (sigma, steps, rate, 20 + steps * rate + (9 if sigma == 10 and steps else 0))
        for sigma in (1, 5, 10)
        for steps in (0, 1)
        for rate in (1, 2)
    ]
    table = pd.DataFrame(rows, columns=["sigma_n", "annealing_steps", "lr0", "psnr_mean"])
    annealing = effect(table, "annealing_steps", 1, 0)
    assert (annealing.pairs, annealing.estimate) == (2, 1.5)  # 1 and 2; the odd sigma_n has no weight
    assert effect(table, "sigma_n", 10, 5).pairs == 4


def test_what_cannot_be_paired_is_refused() -> None:
    table = _seeds({0: [1, 2, 9]})
    with pytest.raises(ValueError, match="differ in arch alone"):
        effect(table, "arch", "a", "c")


def test_an_interaction_by_hand() -> None:
    gains = {True: [[-3, -2], [-3, -4], [-1, -2]], False: [[0, -1], [0, 0], [1, 1]]}
    rows = []
    for sharpen, seeds in gains.items():
        for seed, losses in enumerate(seeds):
            for loss, gain in enumerate(losses):
                rows += [(crops, sharpen, loss, seed, 20.0 + gain * crops) for crops in (True, False)]
    table = pd.DataFrame(rows, columns=["crops", "sharpen", "loss", "seed", "psnr_mean"])
    found = effects.interaction(table, "crops", "sharpen")
    # fours: -3 and -1, -3 and -4, -2 and -3
    assert found.estimate == pytest.approx(np.mean([-2, -3.5, -2.5]))
    assert (found.pairs, found.seeds, found.better) == (2, 3, 0)
    assert effects.interaction(table[table["sharpen"]], "crops", "sharpen") is None


def test_established_pairs_need_evidence_and_size() -> None:
    three = np.array([[0.2, 0.21, 0.19], [0.01, 0.011, 0.009], [0.3, -0.3, 0.9], [-0.5, -0.5, -0.52]])
    assert tuple(map(int, effects.established(three))) == (1, 1)
    for few in (three[:, :1], three[:, :2]):  # what chance does to one run is then unknown
        assert tuple(map(int, effects.established(few))) == (0, 0)


def test_the_comparison_of_two_settings_has_the_standard_error_of_the_delta_method() -> None:
    rng = np.random.default_rng(0)
    a = rng.gamma(2, 100, (1, 1000))
    b = a * rng.uniform(0.9, 1.3, (1, 1000))
    found = effects.compare(a, b)
    relative = (a[0] / a.mean() - b[0] / b.mean()).std(ddof=1) / math.sqrt(1000)
    assert found.estimate == pytest.approx(10 * math.log10(b.mean() / a.mean()))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 10 / math.log(10) * relative, rel=0.1)


def test_images_of_one_photograph_are_drawn_together() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):  # 25 photographs, each in 8 images that gain alike
        gains = np.tile(rng.normal(0, 0.5, 25), 8)[None]
        found = effects.compare(np.full((1, 200), 100.0), 100 * 10 ** (gains / 10), photographs=25)
        covered += found.low <= 0.014 <= found.high  # the mean of the error is 0.014 dB above the mean gain
    assert 175 <= covered <= 199  # with images as the unit it would be about 100


def test_seeds_widen_the_comparison_of_two_settings() -> None:
    mse = np.random.default_rng(0).gamma(2, 100, (1, 500))
    gains = np.array([0.1, 0.2, 0.3, 0.0])[:, None]
    found = effects.compare(
        mse.repeat(4, 0), mse * 10 ** (gains / 10)
    )  # alike in every image but for the gain
    expected = stats.ttest_1samp(gains[:, 0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-6)
    assert found.basis == "seeds"
    assert effects.compare(mse, mse).high == 0
    classical = effects.compare(mse.repeat(4, 0) * 10 ** (-gains / 10), mse[0])  # one array for all seeds
    assert (classical.estimate, classical.seeds) == (pytest.approx(0.15), 4)


@pytest.mark.parametrize("factor", ON_REPORT)
def test_the_reports_table_says_what_is_known_of_it(factor: str) -> None:
    mean, error, better = ON_REPORT[factor]
    _, a, b = effects.TABLE1[factor]
    found = effects.differences(published.table1(), factor, a, b)[0]
    assert found.mean() == pytest.approx(mean, abs=0.006)
    assert error is None or found.sem() == pytest.approx(error, abs=0.006)
    assert effect(published.table1(), factor, a, b).better == better


def test_effects_of_both_evaluations_stand_beside_the_reports() -> None:
    table1 = published.table1().assign(report_mean=lambda table: table["psnr_mean"])
    table1["psnr_mean"] += table1["sharpen"].map(
        {True: 0.0, False: 1.2}
    )  # as trained, sharpening gains nothing
    found = effects.effects_table(table1, published.table3())
    assert list(found.columns) == effects.EFFECT_COLUMNS
    sharpening = found[found["factor"] == "sharpen"].set_index("source")["estimate"]
    assert sharpening["the report"] == pytest.approx(1.135)
    assert sharpening["ours, with the report's evaluation"] == pytest.approx(1.135)
    assert sharpening["ours, as trained"] == pytest.approx(1.135 - 1.2)
    printed = found[(found["factor"] == "sharpen") & (found["source"] == "the report")].iloc[0]
    assert (printed["smallest"], printed["largest"]) == pytest.approx((-0.57, 2.83))
    assert set(found["factor"]) == {*effects.TABLE1, *effects.TABLE3}
    both = effects.interactions_table(table1)
    assert len(both) == 3 * len(effects.INTERACTIONS)
    assert (both["pairs"] == 8).all()


def test_a_factor_of_zero_is_no_weaker_sharpening() -> None:
    table = published.table3()
    more = pd.concat([table, table[table["tau_sharp"] == 1].assign(tau_sharp=0, psnr_mean=0.0)])
    assert effects.contrast_of(more, "tau_sharp")[1:] == (2, 1)
    assert effects.contrast_of(table[table["tau_sharp"] == 1], "tau_sharp") is None


def test_annealing_is_compared_with_none() -> None:
    table = published.table3()
    assert effects.contrast_of(table, "annealing_steps")[1:] == (1, 0)
    assert effects.contrast_of(table[table["annealing_steps"] > 0], "annealing_steps") is None


def test_two_runs_of_one_seed_are_refused_beside_copies_of_a_setting() -> None:
    table = published.table3()
    with pytest.raises(ValueError, match="two runs of one seed"):
        effects.effect(pd.concat([table, table]), "lr0", 0.001, 0.0001)


def test_failures_by_hand() -> None:
    table = published.table1().assign(psnr_full=23.0)
    table.loc[(table["arch"] == "upsample") & (table["loss"] == "l1"), "psnr_full"] = 5.0
    found = effects.failures(table, published.NOISY_PSNR).set_index(["factor", "level"])
    assert tuple(found.loc[("arch", "upsample"), ["failed", "runs", "share"]]) == (8, 16, 0.5)
    none = found.loc[("arch", "tconv")]
    assert (none["failed"], none["low"]) == (0, 0)
    assert none["high"] == pytest.approx(1 - 0.025 ** (1 / 16))  # Clopper and Pearson without a failure
    assert len(found) == 10


def test_training_lengths_are_compared_at_equal_images() -> None:
    rows = []
    for crops in (False, True):
        for arch in ("tconv", "upsample"):
            for epoch in range(1, 3 if crops else 5):
                images = 100 * epoch * (2 if crops else 1)
                psnr = 20 + images / 100 + (0.5 if crops else 0) + (images / 1000 if arch == "tconv" else 0)
                rows.append((crops, arch, 0, epoch, images, psnr))
    progress = pd.DataFrame(rows, columns=["crops", "arch", "seed", "epoch", "images", "psnr_full"])
    found = effects.by_length(progress, "laptop").set_index(["images", "factor"])["estimate"]
    assert set(found.index) == {(200, "arch"), (200, "crops"), (400, "arch"), (400, "crops")}
    assert found[400, "arch"] == pytest.approx(0.4)
    assert found[200, "crops"] == pytest.approx(0.5)
    diverged = (progress["arch"] == "tconv") & ~progress["crops"] & (progress["images"] > 300)
    cut = effects.by_length(progress[~diverged], "laptop").set_index(["images", "factor"])["estimate"]
    assert set(cut.index) == set(found.index)
    assert cut[400, "arch"] == pytest.approx(
        (0.4 + (0.4 - 1.1)) / 2
    )  # it stays at 300 images: 23.3, not 24.4


def test_rank_agreement_is_kendalls_tau() -> None:
    a, b = pd.Series([1.0, 2, 3, 4, 5, 6]), pd.Series([1.0, 2, 3, 4, 6, 5])
    tau, low, high = effects.rank_agreement(a, b)
    assert tau == pytest.approx(13 / 15)  # one of 15 pairs is discordant
    assert low < tau <= high


@pytest.mark.filterwarnings("error")
def test_what_ranks_nothing_has_no_rank_agreement() -> None:
    rising = pd.Series(np.arange(30.0))
    assert np.isnan(effects.rank_agreement(rising, pd.Series(np.full(30, 0.8)))).all()
    assert np.isnan(effects.rank_agreement(rising[:1], rising[:1])).all()
    odd = pd.Series([0.8] * 29 + [0.9])  # one resample of three is without the run that differs
    tau, low, high = effects.rank_agreement(rising, odd)
    assert tau == pytest.approx(29 / math.sqrt(29 * 435))  # tau-b: 29 pairs differ in both, 435 in one
    assert np.isnan([low, high]).all()
    tied = pd.Series(np.repeat(np.arange(6.0), 5))
    tau, low, high = effects.rank_agreement(rising, tied)
    assert low < tau < high <= 1


def test_settings_are_ranked_by_their_mean_over_seeds() -> None:
    table = _table({("a", "l1", 0): 20, ("a", "l1", 1): 24, ("b", "l1", 0): 23, ("b", "l1", 1): 23})
    table = pd.concat([table, _table({("c", "l1", 0): 22})], ignore_index=True)
    found = paper_runs.by_setting(table, ["arch", "loss"])
    assert list(found["arch"]) == ["a", "b", "c"]
    assert list(found["psnr_mean"]) == [22, 23, 22]
    assert list(found["rank"]) == [2, 1, 3]  # of equals the first
    assert list(found["seeds"]) == [2, 2, 1]
    assert list(found["seed_std"][:2]) == pytest.approx([math.sqrt(8), 0])
    assert math.isnan(found["seed_std"][2])


# How the report's numbers were computed


def _authors(day: str, arch: str = "tconv") -> effects.Effect:
    table = published.authors_evaluations().query("arch == @arch and epochs == 20")
    return effect(table, "sharpen", True, False, f"psnr_2022_{day}")


def test_sharpening_gains_nothing_as_trained_and_a_decibel_as_the_report_evaluated() -> None:
    as_trained, as_report = _authors("04_20"), _authors("05_11")
    assert (as_trained.pairs, as_report.pairs) == (8, 8)
    assert as_trained.estimate == pytest.approx(-0.02, abs=0.01)
    assert (as_trained.low, as_trained.high) == (
        pytest.approx(-0.20, abs=0.005),
        pytest.approx(0.05, abs=0.005),
    )
    assert as_report.estimate == pytest.approx(1.17, abs=0.01)
    assert as_report.estimate == pytest.approx(
        effect(published.table1(), "sharpen", True, False).estimate, abs=0.05
    )


def test_the_same_weights_lost_three_decibels_between_two_evaluations() -> None:
    table = published.authors_evaluations()
    row = table.query("loss == 'l1' and optimizer == 'adam' and not sharpen and not crops and epochs == 20")
    row = row[row["arch"] == "tconv"].iloc[0]
    assert row["same_weights_04_27_05_11"]
    assert row["psnr_2022_04_27"] - row["psnr_2022_05_11"] == pytest.approx(2.99, abs=0.01)
    both = table.dropna(subset=["psnr_2022_04_27", "psnr_2022_05_11"])
    change = both["psnr_2022_05_11"] - both["psnr_2022_04_27"]
    assert change[both["sharpen"]].abs().max() < 0.04
    assert change[~both["sharpen"]].max() < -0.2


def test_tconv_without_crops_is_within_a_third_of_a_decibel_of_that_evaluation() -> None:
    keys = ["loss", "optimizer", "sharpen", "crops", "arch"]
    table = published.authors_evaluations().query("epochs == 20 and arch == 'tconv' and not crops")
    both = table.merge(published.table1(), on=keys)
    assert len(both) == 8
    assert (both["psnr_2022_05_11"] - both["psnr_mean"]).abs().max() < 0.32


def test_our_evaluation_of_their_networks_agrees_with_theirs() -> None:
    keys = ["loss", "optimizer", "sharpen", "crops", "arch", "epochs"]
    networks = published.authors_networks()
    both = networks.merge(published.authors_evaluations(), on=keys)
    assert len(both) == len(networks) == 16
    for ours, theirs in (("psnr_full", "psnr_2022_04_27"), ("report_full", "psnr_2022_05_11")):
        assert (both[ours] - both[theirs]).abs().mean() < 0.25  # other images of the same kind
        assert stats.kendalltau(both[ours], both[theirs]).statistic > 0.85
    sharpened = networks[networks["sharpen"]]
    assert (sharpened["psnr_full"] == sharpened["report_full"]).all()
    baseline = networks.query("loss == 'l1' and optimizer == 'adam' and not sharpen and not crops").iloc[0]
    assert tuple(baseline[["psnr_full", "report_full"]].round(2)) == (23.49, 20.65)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=2, max_size=9))
def test_tau_of_a_resample_is_scipys(runs: list[tuple[int, int, int]]) -> None:
    a, b, times = np.array(runs).T
    assume(times.sum() >= 2)
    expected = stats.kendalltau(np.repeat(a, times), np.repeat(b, times)).statistic
    np.testing.assert_allclose(effects._tau_b(np.array([a, b], float), times[None])[0], expected, atol=1e-12)


def test_agreement_with_the_reports_own_table_is_perfect() -> None:
    found = authors.agreement(published.table1().assign(report_mean=20.0))
    found = found[found["source"] == wording.TRAINED].set_index(["reference", "arch"])
    own = found.loc[("the report's Table I", "all")]
    assert tuple(own[["cells", "tau", "mean_abs_diff"]]) == pytest.approx((32, 1, 0))
    trained = found.loc[("the authors, 2022-04-20, as trained", "tconv")]
    as_report = found.loc[("the authors, 2022-05-11, with the report's evaluation", "tconv")]
    assert as_report["tau"] > trained["tau"]
    assert found.loc[("the authors' networks, evaluated by us, as trained", "tconv"), "cells"] == 0


def _networks(value: str, **networks: float) -> pd.DataFrame:
    """Rows of a table about networks of Table I: l1_adam_tconv=dB, neither sharpened nor on crops."""
    keys = ["loss", "optimizer", "arch"]
    rows = [dict(zip(keys, name.split("_"), strict=True)) | {value: db} for name, db in networks.items()]
    return pd.DataFrame(rows).assign(sharpen=False, crops=False, epochs=20)


def test_each_value_stands_beside_its_network_and_what_is_missing_stays_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = _networks("psnr_mean", l1_adam_tconv=21, l1_adam_upsample=22, mse_adam_tconv=23)
    evaluated = _networks("psnr_2022_04_20", mse_adam_tconv=9, l1_adam_tconv=8, l1_sgd_tconv=7)
    evaluated = evaluated.assign(psnr_2022_04_27=[33, 31, 34], psnr_2022_05_11=[43, math.nan, 44])
    longer = evaluated.assign(epochs=60, psnr_2022_04_27=99)
    ours_of_theirs = _networks("psnr_full", l1_adam_upsample=52).assign(report_full=62)
    ours = _networks("psnr_mean", mse_adam_tconv=70, huber_adam_tconv=0, l1_adam_tconv=80)
    ours = pd.concat([ours.assign(report_mean=90.0), *[ours.assign(psnr_mean=74, report_mean=96)] * 3])
    tables = {"table1": printed.drop(columns="epochs"), "authors_networks": ours_of_theirs}
    tables |= {"authors_evaluations": pd.concat([evaluated, longer])}
    for name, table in tables.items():
        monkeypatch.setattr(published, name, lambda table=table: table)
    found = authors.side_by_side(ours)
    measured = ["printed", "authors_trained", "authors_report", "theirs_trained", "theirs_report"]
    measured += ["ours_trained", "ours_report"]
    assert list(found.columns) == [*paper_runs.ABLATION, *measured]
    assert set(measured) <= set(wording.HEADERS)
    expected = {
        ("l1", "adam", "tconv"): [21, 31, None, None, None, 75.5, 94.5],
        ("l1", "adam", "upsample"): [22, None, None, 52, 62, None, None],
        ("l1", "sgd", "tconv"): [None, 34, 44, None, None, None, None],  # printed nowhere, yet kept
        ("mse", "adam", "tconv"): [23, 33, 43, None, None, 73, 94.5],
    }
    rows = found.set_index(["loss", "optimizer", "arch"])[measured]
    assert list(rows.index) == list(expected)
    np.testing.assert_array_equal(rows, np.array([*expected.values()], float))


def test_all_networks_of_table1_stand_side_by_side() -> None:
    found = authors.side_by_side(published.table1().assign(report_mean=20.0))
    assert len(found) == 32
    assert (found["printed"] == found["ours_trained"]).all()
    cells = found.groupby("arch")[["authors_trained", "authors_report", "theirs_trained"]].count()
    assert list(cells.loc["tconv"]) == [15, 16, 0]
    assert list(cells.loc["upsample"]) == [16, 16, 16]
    baseline = found.query("loss == 'l1' and optimizer == 'adam' and not sharpen and not crops")
    values = baseline.set_index("arch").drop(columns=[*paper_runs.ABLATION[:-1], "ours_trained"])
    assert list(values.loc["upsample"].round(2)) == [20.74, 23.34, 20.41, 23.49, 20.65, 20]
    assert list(values.loc["tconv"].dropna().round(2)) == [20.82, 23.64, 20.65, 20]


def test_both_evaluations_that_stand_side_by_side_are_of_the_same_weights() -> None:
    table = published.authors_evaluations().query("epochs == 20").dropna(subset=["psnr_2022_04_27"])
    assert table["same_weights_04_27_05_11"].astype(bool).all()
    assert len(table) == 31


# The authors' files


def _state(arch: str) -> tuple[Network, dict[str, torch.Tensor]]:
    """A network of the report's size, and its weights under the authors' names."""
    network = Network(published.WIDTH, arch)
    network.initialize(torch.Generator().manual_seed(0))
    ours = network.state_dict()
    names = authors.layers(arch).items()
    return network.eval(), {
        f"{a}.{part}": ours[f"{b}.{part}"] for a, b in names for part in ("weight", "bias")
    }


@pytest.fixture(scope="module")
def images() -> SimpleNamespace:
    """Stands for a pair set of four images without a test set."""
    clean = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return SimpleNamespace(validation={"noisy_1": clean.flip(3), "clean": clean}, test={})


@pytest.mark.parametrize("arch", ["upsample", "tconv"])
def test_the_authors_weights_make_the_same_network(
    arch: str, tmp_path: Path, images: SimpleNamespace
) -> None:
    network, state = _state(arch)
    assert len(state) == len(network.state_dict())
    folder = tmp_path / "MSE_SGD_yes_sharp_no_crops_60epochs"
    folder.mkdir()
    torch.save(state, folder / "bestmodel.pth")
    torch.save(state, tmp_path / "L1_Adam_no_sharp_yes_crops_20epochs.pth")
    torch.save(state, tmp_path / "bestmodel.pth")  # names no setting
    read = authors.read_network(tmp_path / "L1_Adam_no_sharp_yes_crops_20epochs.pth", False)
    noisy = images.validation["noisy_1"].float()
    assert torch.allclose(read(noisy), network(noisy), atol=0.05)
    found = authors.evaluate_networks(tmp_path, images).set_index("optimizer")
    assert list(found["arch"]) == [arch, arch]
    assert tuple(found.loc["sgd", ["loss", "sharpen", "crops", "epochs"]]) == ("mse", True, False, 60)
    assert found.loc["sgd", "psnr_full"] == found.loc["sgd", "report_full"]
    assert found.loc["adam", "psnr_full"] != found.loc["adam", "report_full"]


def test_the_table_of_their_networks_is_written_as_it_is_committed(tmp_path: Path) -> None:
    authors.write_networks(published.authors_networks(), tmp_path / "again.csv")
    committed = Path(published.__file__).with_name("authors_networks.csv")
    assert (tmp_path / "again.csv").read_bytes() == committed.read_bytes()


@pytest.mark.parametrize("named", [True, False])
def test_report_weights_says_what_it_wrote_and_whose_pairs_it_measured(
    named: bool,
    tmp_path: Path,
    images: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(_state("upsample")[1], tmp_path / "L1_Adam_no_sharp_yes_crops_20epochs.pth")
    card = {"noisy_psnr_db": {"validation": {"global": 12.3}}, "counts": {"validation": 4}}
    scale = SimpleNamespace(scale="small", pairs=SimpleNamespace(source="folder"))
    pairs = SimpleNamespace(**vars(images), card=card)
    monkeypatch.setattr(pair_set, "ensure_pairs", lambda params: pairs)
    monkeypatch.setattr(__main__, "load_params", lambda: scale)
    written = tmp_path / "written.csv"
    command = ["n2nlib", "report-weights", str(tmp_path), *(["-o", str(written)] if named else [])]
    monkeypatch.setattr("sys.argv", command)
    assert __main__.main() == 0
    said = capsys.readouterr().out
    assert "the 4 validation pairs of scale small (source folder, noisy input 12.30 dB)" in said
    assert list(tmp_path.glob("*.csv")) == [written] * named
    if named:
        assert f"{written} now holds this table" in said
        table = pd.read_csv(written)
        assert list(table.columns) == list(published.authors_networks().columns)
        assert list(table["loss"]) == ["l1"]
    monkeypatch.setattr("sys.argv", [*command[:3], "-o", str(tmp_path)])
    assert __main__.main() == 1
    assert "is a folder" in capsys.readouterr().err


class _Hostile:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("was-run"),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a network",
        pickle.dumps(_Hostile(), 2),
        pickle.dumps({"enc_conv0.weight": 1}, 2),
        [torch.zeros(3)],
        {"enc_conv0.weight": torch.zeros(48, 3, 3, 3)},
        {"more.weight": torch.zeros(1)},
        {"enc_conv0.weight": torch.full((48, 3, 3, 3), math.nan)},
        {name: tensor.int() for name, tensor in _state("upsample")[1].items()},
    ],
    ids=["empty", "text", "code", "numbers", "list", "partial", "more layers", "nan", "integers"],
)
def test_other_files_are_refused_by_name(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "L1_Adam_no_sharp_no_crops_20epochs.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=r"20epochs\.pth"):
        authors.read_network(path, False)
    assert not Path("was-run").exists()


def test_a_folder_without_networks_is_refused(tmp_path: Path, images: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="no file named like"):
        authors.evaluate_networks(tmp_path, images)


# What sharpening does


def test_the_spectrum_of_a_wave_is_at_its_frequency_and_of_noise_is_flat() -> None:
    x = np.arange(32)
    wave = np.broadcast_to(np.sqrt(2) * np.cos(2 * np.pi * 5 * x / 32), (1, 1, 32, 32))
    found = sharpening.spectrum(wave)
    assert found.idxmax() == 5 / 32
    assert found.drop(5 / 32).max() < 1e-12
    noise = np.random.default_rng(0).normal(0, 2, (400, 3, 32, 32))
    assert list(sharpening.spectrum(noise)) == pytest.approx([4 / 32**2] * 16, rel=0.1)


def test_sharpening_amplifies_high_frequencies_of_an_output() -> None:
    network, _ = _state("upsample")
    rng = np.random.default_rng(0)
    noisy = torch.from_numpy(rng.integers(0, 256, (4, 3, 32, 32)).astype(np.uint8))
    pairs = SimpleNamespace(validation={"noisy_1": noisy, "clean": noisy})
    network.plain = lambda image: 100 + image / 10  # far from the clamp: the filter alone is at work
    images = sharpening.outputs(network, pairs)
    found = sharpening.spectra(images).pivot_table("power", "frequency", "which")
    gain = found["sharpened output"] / found["output"]
    assert len(gain) == 16
    assert gain.iloc[0] == pytest.approx(1, abs=0.1)
    assert gain.iloc[-1] > 2
    summary = sharpening.summary(images).set_index("which")
    assert summary.loc["output", "error_energy"] == 1
    assert summary.loc["sharpened output", "sharpness"] > 2 * summary.loc["output", "sharpness"]
