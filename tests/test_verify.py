"""Verification: identical, within tolerance, or different; over every committed table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Project

from n2nlib import files
from n2nlib.files import ROOT, UserError
from n2nlib.report import verify
from n2nlib.report.wording import COLUMNS

ROW = {"loss": "mse", "seed": 0, "psnr_mean": 23.0, "psnr_std": 0.1, "ssim": 0.8, "failed": 2, "run": "a"}


def _text(*rows: dict) -> pd.DataFrame:
    return verify._read(pd.DataFrame(rows).to_csv(index=False))


@pytest.mark.parametrize(("now", "within"), [(0.93, 1), (0.97, 0)])
def test_sharpness_may_move_like_the_errors_that_it_comes_from(now: float, within: int) -> None:
    before, after = (_text({"size": 32, "sharpness": value}) for value in (0.9, now))
    assert verify.compare_tables("t", before, after, decibels=0.28).within == within  # 6.4 %


def test_fewer_subsets_allow_more_and_what_is_transcribed_may_not_move() -> None:
    wider = _text(ROW | {"psnr_std": 0.16})
    assert len(verify.compare_tables("t", _text(ROW), wider, 0.28).different) == 1
    assert verify.compare_tables("t", _text(ROW), wider, 0.28, subsets=10).within == 1
    claim = {"claim": "c", "published": 1.0}
    moved = verify.compare_tables("claims", _text(claim), _text(claim | {"published": 1.01}), 0.3)
    assert len(moved.different) == 1


@pytest.mark.parametrize(
    ("changes", "identical", "within", "different"),
    [
        ({}, 8, 0, 0),
        ({"run": "another"}, 8, 0, 0),
        ({"psnr_mean": 23.27}, 7, 1, 0),
        ({"psnr_mean": 23.29}, 7, 0, 1),
        ({"psnr_mean": float("nan")}, 7, 0, 1),
        ({"psnr_std": 0.115}, 7, 1, 0),  # 1.96 sqrt(2) / sqrt(2 * 99) = 20 % between two standard deviations
        ({"psnr_std": 0.125}, 7, 0, 1),
        ({"ssim": 0.812}, 7, 1, 0),  # 0.28 dB are 6.4 % of the error, here of 1 - 0.8
        ({"ssim": 0.814}, 7, 0, 1),
        ({"failed": 3}, 7, 0, 1),  # counts and words have no tolerance
        ({"loss": "l2"}, 4, 0, 2),  # a row too many, a row too few
    ],
)
def test_a_cell_is_identical_within_its_tolerance_or_different(
    changes: dict, identical: int, within: int, different: int
) -> None:
    other = ROW | {"loss": "l1"}
    found = verify.compare_tables("t", _text(ROW, other), _text(ROW | changes, other), decibels=0.28)
    assert (found.identical, found.within, len(found.different)) == (identical, within, different)


def test_an_estimate_may_move_by_half_its_interval() -> None:
    effect = {"factor": "arch", "source": "ours", "estimate": 0.3, "low": 0.1, "high": 0.5, "basis": "seeds"}
    for change, different in (({"estimate": 0.49}, 0), ({"estimate": 0.51}, 1), ({"basis": "one seed"}, 1)):
        found = verify.compare_tables("effects", _text(effect), _text(effect | change), decibels=0.0)
        assert len(found.different) == different
    agreement = {"reference": "r", "tau": 0.3, "low": 0.1, "high": 0.9, "mean_abs_diff": 0.2}
    for change, different in (({"tau": 0.6}, 0), ({"mean_abs_diff": 0.3}, 1)):  # whose interval it is
        found = verify.compare_tables("agreement", _text(agreement), _text(agreement | change), decibels=0.0)
        assert len(found.different) == different
    claim = {"claim": "c", "ours": 0.5, "ci_low": 0.1, "ci_high": 0.9, "verdict": "reproduced"}
    assert verify.compare_tables("claims", _text(claim), _text(claim | {"ours": 0.8}), 0.0).within == 1
    flipped = verify.compare_tables("claims", _text(claim), _text(claim | {"verdict": "inconclusive"}), 0.0)
    assert flipped.different == ["c: verdict was reproduced, is inconclusive"]


def test_rows_without_a_setting_are_compared_in_order() -> None:
    runs = [{"run": name, "psnr_full": value} for name, value in (("a", 20.0), ("b", 24.0))]
    renamed = [row | {"run": "new"} for row in runs]
    assert verify.compare_tables("measures", _text(*runs), _text(*renamed), 0.1).identical == 2
    assert len(verify.compare_tables("measures", _text(*runs), _text(*reversed(renamed)), 0.1).different) == 2


def test_other_columns_differ() -> None:
    found = verify.compare_tables("t", _text(ROW), _text(ROW | {"epochs": 3}), 0.1)
    assert found.different == ["columns: epochs"]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_tolerance_covers_two_trainings_of_one_setting(rng: np.random.Generator, seeds: int) -> None:
    setting = {"loss": "l1", "optimizer": "sgd", "sharpen": True, "crops": False}
    rows = [
        setting | {"arch": f"{number}", "seed": seed, "psnr_mean": 23 + 0.2 * rng.normal(), "psnr_std": 0.02}
        for number in range(2000)
        for seed in range(seeds)
    ]
    table = pd.DataFrame(rows)
    allowed = verify.spread(table)
    gaps = np.abs(0.2 * rng.normal(size=20_000) - 0.2 * rng.normal(size=20_000))
    assert 0.935 < (gaps < allowed).mean() < 0.965  # few seeds, too, make it neither too small nor too large
    table.loc[table["seed"] == 0, "psnr_mean"] -= 15.0 * (table["arch"].astype(int) < 200)
    assert verify.spread(table) < 1.3 * allowed  # settings with a failed run do not let everything pass
    assert verify.spread(table[table["seed"] == 1]) == pytest.approx(1.96 * 2**0.5 * 0.02, rel=1e-3)


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tables of reports/laptop, committed in a repository of their own."""
    for path in (ROOT / "reports" / "laptop").glob("*/*.csv"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "results"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    for module in (verify, files):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path / "reports" / "laptop"


def test_a_changed_cell_of_any_committed_table_is_found(
    committed: Path, capsys: pytest.CaptureFixture
) -> None:
    compared, _, seeds = verify.verify("laptop")
    assert seeds == 1
    files = sorted(committed.glob("*/*.csv"))
    assert [one.table for one in compared] == [f"{path.parent.name}/{path.stem}" for path in files]
    assert verify.print_verification("laptop")
    for path in files:
        table = verify._read(path.read_text())
        for column in (name for name in table if name != "run"):
            changed = table.copy()
            changed.loc[0, column] = f"9{changed.loc[0, column]}"
            assert verify.compare_tables("t", table, changed, decibels=0.3).different, (
                f"{path.name}: {column}"
            )
        changed.to_csv(path, index=False)
    assert all(one.different for one in verify.verify("laptop")[0])
    assert not verify.print_verification("laptop")
    said = capsys.readouterr().out
    assert "Different: more than the spread of the evaluation" in said
    assert "This scale has one seed" in said


def test_a_scale_without_results_and_a_missing_table_are_named(committed: Path) -> None:
    with pytest.raises(UserError, match="no results of this scale"):
        verify.verify("smoke")
    (committed / "03_ablation" / "table1_ablation.csv").unlink()
    with pytest.raises(UserError, match=r"table1_ablation.csv: missing; run notebook 03_ablation"):
        verify.verify("laptop")


def test_a_rebuild_is_what_it_committed(smoke_project: Project) -> None:
    tables = {path: pd.read_csv(path) for path in smoke_project.reports().glob("*/*.csv")}
    unknown = {
        f"{path.name}: {name}" for path, table in tables.items() for name in table if name not in COLUMNS
    }
    assert not unknown
    smoke_project.git("add", "-f", "reports/smoke")  # which is ignored
    smoke_project.git("commit", "--allow-empty", "-qm", "results")
    path = smoke_project.reports() / "07_beyond" / "sizes.csv"
    before = path.read_text()
    try:
        assert f"All {len(tables)} tables are identical" in smoke_project.n2n("verify")
        path.write_text(before.replace("noisy input,", "noisy input,9", 1))
        done = smoke_project.run(sys.executable, "-m", "n2nlib", "verify")
    finally:
        path.write_text(before)
        smoke_project.git("reset", "-q", "HEAD~1")
    assert done.returncode == 1
    assert "07_beyond/sizes: 32, noisy input: psnr_full was" in done.stdout
