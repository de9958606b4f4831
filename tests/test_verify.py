"""Verification: identical, within the spread, different."""

from __future__ import annotations

import pandas as pd
import pytest

from n2nlib import verify
from n2nlib.verify import compare


def _table(**changes: object) -> pd.DataFrame:
    row = {"loss": "mse", "seed": 0, "psnr_mean": 23.0, "psnr_std": 0.1, "psnr_full": 23.0, "psnr_per_image": 24.0, "run": "a"}
    return pd.DataFrame([row | changes, row | {"loss": "l1"}])


@pytest.mark.parametrize(
    ("changes", "identical", "within", "different"),
    [
        ({}, 8, 0, 0),
        ({"run": "another"}, 8, 0, 0),
        ({"psnr_mean": 23.27}, 7, 1, 0),  # 1.96 * sqrt(2) * 0.1 = 0.277
        ({"psnr_mean": 23.29}, 7, 0, 1),
        ({"psnr_std": 0.115}, 7, 1, 0),
        ({"psnr_std": 0.15}, 7, 0, 1),
        ({"loss": "l2"}, 4, 0, 2),  # a row too many, a row too few
        ({"psnr_full": float("nan")}, 7, 0, 1),
    ],
)
def test_cells(changes: dict, identical: int, within: int, different: int) -> None:
    found = compare("t", _table(), _table(**changes))
    assert (found.identical, found.within, len(found.different)) == (identical, within, different)


def test_the_spread_of_seeds_widens_the_tolerance() -> None:
    several = pd.concat([_table(), _table().assign(seed=1, psnr_mean=23.4)])
    changed = several.copy()
    changed["psnr_mean"] += 0.5
    assert len(compare("t", several, changed).different) == 0
    changed["psnr_mean"] += 0.6
    assert len(compare("t", several, changed).different) == 4


def test_a_setting_that_died_at_one_seed_does_not_let_all_others_pass() -> None:
    alive = pd.concat([_table(loss=loss).head(1) for loss in ("mse", "l1", "huber")])
    seeds = pd.concat([alive, alive.assign(seed=1, psnr_mean=[8.0, 23.1, 23.1])])
    assert len(compare("t", seeds, seeds.assign(psnr_mean=seeds["psnr_mean"] + 1)).different) == len(seeds)


def test_a_verdict_that_flips_differs() -> None:
    claim = pd.DataFrame([{"claim": "c", "statement": "s", "published": 1.0, "ours": 0.5, "ci_low": 0.1, "ci_high": 0.9, "verdict": "reproduced"}])
    assert compare("claims", claim, claim.assign(ours=0.8)).within == 1
    assert len(compare("claims", claim, claim.assign(verdict="inconclusive")).different) == 1


def test_the_committed_results_are_the_same_as_themselves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    tables = {name: verify.committed_table("laptop", name) for name in verify.COLUMNS}
    monkeypatch.setattr(verify, "verify", lambda scale: [compare(name, table, table.copy()) for name, table in tables.items()])
    assert verify.print_verification("laptop")
    assert "The same." in capsys.readouterr().out
    tables["table1_ablation"].loc[0, "psnr_full"] += 3
    monkeypatch.setattr(
        verify, "verify", lambda scale: [compare("table1_ablation", verify.committed_table("laptop", "table1_ablation"), tables["table1_ablation"])]
    )
    assert not verify.print_verification("laptop")
    assert "psnr_full" in capsys.readouterr().out


def test_a_scale_without_committed_results() -> None:
    with pytest.raises(verify.UserError, match="nothing to compare"):
        verify.print_verification("smoke")
