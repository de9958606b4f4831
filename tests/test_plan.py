"""The plan: what is stale and why, how many runs, and that it changes nothing."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import Project

from n2nlib.plan import _makespan


def test_the_last_worker_counts() -> None:
    assert _makespan([3, 3, 3], 2) == 6
    assert _makespan([5, 1, 1, 1, 1, 1], 2) == 5
    assert _makespan([2, 2], 8) == 2


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    copy = Project(tmp_path_factory.mktemp("plan"))
    copy.run(sys.executable, "-m", "n2nlib", "scale", "smoke")
    return copy


def _rows(project: Project) -> tuple[dict[str, str], str]:
    done = project.run(sys.executable, "-m", "n2nlib", "plan")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if re.match(r"[a-z_]+ ", line)}
    return rows, done.stdout


def test_from_nothing_everything_would_be_trained(project: Project) -> None:
    before = sorted(path for path in project.folder.rglob("*") if ".dvc" not in path.parts and "__pycache__" not in path.parts)
    rows, output = _rows(project)
    assert "32/32" in rows["ablation"]
    assert "3/3" in rows["curves"]
    assert "37/37" in rows["fine_tuning"]  # the final model has epochs of its own at scale smoke
    assert "3,072" in rows["ablation"]  # 16 runs of 2 epochs and 16 of 1 epoch with two crops, 48 pairs each
    assert "61/61" in rows["beyond"]  # with the final model trained on clean targets; the best model is one of the studies here
    assert "In all 133 runs to train" in output
    assert sorted(path for path in project.folder.rglob("*") if ".dvc" not in path.parts and "__pycache__" not in path.parts) == before


def test_after_two_stages_the_rest_follows(project: Project) -> None:
    done = project.run("dvc", "repro", "ablation")
    assert done.returncode == 0, done.stdout + done.stderr
    rows, _ = _rows(project)
    assert "up to date" in rows["data"]
    assert "up to date" in rows["ablation"]
    assert "3/3" in rows["curves"]
    path = project.folder / "params.yaml"
    path.write_text(path.read_text().replace("  seeds: [0]\n  loss: [l1, mse]", "  seeds: [0, 1]\n  loss: [l1, mse]"))
    rows, _ = _rows(project)
    assert "32/64" in rows["ablation"]
    assert "params" in rows["ablation"]
    assert "37/37" in rows["fine_tuning"]
    model = Path(project.folder / "n2nlib" / "model.py")
    model.write_text(model.read_text() + "\n# edited\n")
    rows, _ = _rows(project)
    assert "64/64" in rows["ablation"]
    assert "model.py modified" in rows["ablation"]
