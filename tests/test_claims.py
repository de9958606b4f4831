"""The rules behind verdicts, on cases worked by hand, and the claims on the paper's own tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from n2nlib import claims, published, tables
from n2nlib.claims import INCONCLUSIVE, NOT_REPRODUCED, NOT_TESTED, REPRODUCED
from n2nlib.statistics import Effect


def _effect(low: float, high: float, agree: int = 16, pairs: int = 16) -> Effect:
    mean = (low + high) / 2
    return Effect(mean, (high - low) / 4, low, high, pairs, agree, low, high, 0.04)


UNKNOWN = _effect(math.nan, math.nan, 1, 1)


@pytest.mark.parametrize(
    ("rule", "effect", "verdict"),
    [
        (claims.direction(1), _effect(0.1, 0.5), REPRODUCED),
        (claims.direction(1), _effect(-0.1, 0.5), INCONCLUSIVE),
        (claims.direction(1), _effect(-0.5, -0.1), NOT_REPRODUCED),
        (claims.direction(-1), _effect(-0.5, -0.1), REPRODUCED),
        (claims.direction(-1), _effect(0.1, 0.5), NOT_REPRODUCED),
        (claims.direction(1), UNKNOWN, INCONCLUSIVE),
        (claims.consistent(1), _effect(0.1, 0.5, agree=15), REPRODUCED),
        (claims.consistent(1), _effect(0.1, 0.5, agree=14), NOT_REPRODUCED),
        (claims.consistent(1), _effect(-0.1, 0.5, agree=15), INCONCLUSIVE),
        (claims.no_advantage, _effect(-0.3, 0.1), REPRODUCED),
        (claims.no_advantage, _effect(-0.3, 0.2), INCONCLUSIVE),
        (claims.no_advantage, _effect(0.05, 0.2), NOT_REPRODUCED),
        (claims.no_advantage, UNKNOWN, INCONCLUSIVE),
        (claims.mixed, _effect(-0.9, -0.1, agree=11), REPRODUCED),
        (claims.mixed, _effect(-0.9, -0.1, agree=15), NOT_REPRODUCED),
        (claims.mixed, _effect(-0.9, 0.1, agree=15), INCONCLUSIVE),
        (claims.similar, _effect(-0.2, 0.2), REPRODUCED),
        (claims.similar, _effect(0.3, 0.5), NOT_REPRODUCED),
        (claims.similar, _effect(0.1, 0.5), INCONCLUSIVE),
        (claims.not_worse, _effect(-0.3, 0.2), REPRODUCED),
        (claims.not_worse, _effect(-0.9, -0.3), NOT_REPRODUCED),
        (claims.not_worse, _effect(-0.5, 0.1), INCONCLUSIVE),
    ],
)
def test_rules(rule: object, effect: Effect, verdict: str) -> None:
    assert rule(effect) == verdict


def test_the_papers_own_tables_under_the_same_rules() -> None:
    own = claims.on_its_own_tables(claims.Results(published.table1(), published.table3(), final_psnr=published.FINAL_PSNR))
    assert own["sharpening_better"] == REPRODUCED
    assert own["sharpening_consistent"] == REPRODUCED  # 15 of 16
    assert own["mse_consistent"] == NOT_REPRODUCED  # 14 of 16
    assert own["tconv_worse"] == INCONCLUSIVE  # the interval of -0.137 holds zero
    assert own["adam_better"] == INCONCLUSIVE
    assert own["crops_mixed"] == REPRODUCED
    assert "adam_faster" not in own  # Fig. 2 is no table


def test_several_seeds_widen_the_interval_of_single_settings() -> None:
    table1 = published.table1()
    rng = np.random.default_rng(0)
    seeds = pd.concat([table1.assign(seed=seed, psnr_mean=table1["psnr_mean"] + rng.normal(0, 0.3, len(table1))) for seed in range(40)])

    def weighed(table1: pd.DataFrame) -> pd.Series:
        results = claims.Results(table1, published.table3())
        return claims.weigh(results, results, comparable=False).set_index("claim").loc["better_than_original"]

    one, many, two = weighed(table1.assign(seed=0)), weighed(seeds), weighed(seeds[seeds["seed"] < 2])
    half = {name: (row["ci_high"] - row["ci_low"]) / 2 / 1.96 for name, row in {"one": one, "many": many, "two": two}.items()}
    evaluation = math.hypot(0.14, 0.11)  # of the baseline and of the best: MSE, Adam, sharpening, Upsample
    assert half["one"] == pytest.approx(evaluation, abs=1e-3)
    assert half["many"] == pytest.approx(math.hypot(evaluation, 0.3 * math.sqrt(2 / 40)), rel=0.05)
    assert half["two"] > 1.2 * half["many"]


def test_every_claim_has_a_row_and_nothing_is_measured_from_nothing() -> None:
    theirs = claims.Results(published.table1(), published.table3(), final_psnr=published.FINAL_PSNR)
    table = claims.weigh(theirs, theirs, comparable=True)
    assert len(table) == len(claims.CLAIMS) + 1 >= 12
    assert table["claim"].is_unique
    tested = table["verdict"] != NOT_TESTED
    assert table.loc[tested & (table["claim"] != "final_psnr"), ["ours", "ci_low", "ci_high"]].notna().all().all()
    assert table.loc[~tested, "ours"].isna().all()
    assert table.set_index("claim").loc["final_psnr", "verdict"] == REPRODUCED
    only_adam = claims.Results(published.table1().query("optimizer == 'adam'"), published.table3())
    assert claims.weigh(only_adam, theirs, comparable=False).set_index("claim").loc["adam_better", "verdict"] == NOT_TESTED


def test_a_dead_run_is_taken_out_and_what_changes_is_said() -> None:
    theirs = claims.Results(published.table1(), published.table3(), final_psnr=published.FINAL_PSNR)
    table1 = published.table1()
    dead = table1.index == table1["psnr_mean"].idxmax()  # the best run, sharpened, as if it had died
    table1.loc[dead, "psnr_mean"] = 5.0
    ours = claims.Results(table1, published.table3(), final_psnr=published.FINAL_PSNR)
    weighed = claims.weigh(ours, theirs, comparable=True)
    assert weighed.set_index("claim")["verdict"]["sharpening_better"] == INCONCLUSIVE
    alive = claims.weigh(claims.without_dead(ours, pd.Series(dead)), theirs, comparable=True)
    said = claims.changes(weighed, alive, dead.sum())
    assert "Without the 1 run of Table I whose output died" in said
    assert "sharpening better: reproduced instead of inconclusive" in said
    assert claims.changes(weighed, weighed, 0) == ""


def test_the_best_setting_is_the_best_over_seeds_not_the_luckiest_run() -> None:
    first = published.table1().assign(seed=0)
    second = first.assign(seed=1)
    lucky = first.index == first.query("arch == 'upsample' and loss == 'mse' and optimizer == 'adam' and sharpen and crops").index[0]
    first.loc[lucky, "psnr_mean"], second.loc[lucky, "psnr_mean"] = 30.0, 10.0  # 20 dB in the mean: no setting's best
    both = claims.Results(pd.concat([first, second], ignore_index=True), published.table3())
    one = claims.Results(published.table1(), published.table3())
    for table in (claims.weigh(results, one, comparable=False).set_index("claim") for results in (both, one)):
        assert table.loc["better_than_original", "ours"] == pytest.approx(table.loc["better_than_original", "published"])
        assert table.loc["optimal_network", "ours"] == pytest.approx(table.loc["optimal_network", "published"])


def test_what_dead_runs_share() -> None:
    table1 = published.table1()
    assert tables.shared_by(table1.query("loss == 'l1' and arch == 'tconv'")) == "all TConv, L1"
    assert tables.shared_by(table1) == "nothing in common"
