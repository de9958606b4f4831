"""Notebooks run by hand with the real papermill, in a copy of the project that scale smoke was rebuilt in."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import Project


@pytest.fixture(scope="module")
def project(smoke_project: Project) -> Project:
    return smoke_project


def _papermill(project: Project, notebook: str, folder: str, given: str, scratch: Path) -> str:
    """Run papermill by hand from a folder of the project with a file of parameters; returns what it says."""
    (scratch / "mine.yaml").write_text(given)
    source = os.path.relpath(f"notebooks/{notebook}.ipynb", folder)
    command = ["papermill", source, str(scratch / "out.ipynb"), "-f", str(scratch / "mine.yaml")]
    done = project.run(*command, cwd=project.folder / folder)
    assert done.returncode == 0, done.stderr
    assert "Passed unknown parameter" not in done.stderr
    return (scratch / "out.ipynb").read_text()


def test_papermill_takes_a_part_of_the_parameters_from_any_folder(project: Project, tmp_path: Path) -> None:
    given = "scale: mine\nablation:\n  loss: [mse]\n  optimizer: [adam]\n  crops: [false]\n"
    with project.restored("data/runs", "data/pairs"):
        output = _papermill(project, "03_ablation", "notebooks", given, tmp_path)  # and none before it
        # The pairs and settings are the same, so the runs are, too.
        assert "ablation: nothing to train, runs on disk: 4." in output
        table = pd.read_csv(project.reports("mine") / "03_ablation/table1_ablation.csv")
    shutil.rmtree(project.reports("mine"))
    theirs = pd.read_csv(project.reports() / "03_ablation/table1_ablation.csv").set_index("run")
    assert len(table) == 4
    assert (table["psnr_full"] == theirs.loc[table["run"], "psnr_full"].to_numpy()).all()
    noisy = pd.read_csv(project.reports() / "01_data/baselines.csv")["psnr_full"][0]
    assert re.search(rf">noisy input</td>.{{0,700}}>{noisy:.2f}</td>", output, re.DOTALL)


def test_papermill_with_a_misspelt_key_says_so_before_any_work(project: Project, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("ablatoin:\n  epochs: 3\n")
    output, given = str(tmp_path / "out.ipynb"), str(tmp_path / "mine.yaml")
    done = project.run("papermill", "notebooks/03_ablation.ipynb", output, "-f", given)
    assert done.returncode != 0
    assert "ablatoin" in done.stderr
    assert "did you mean ablation" in done.stderr
    assert "to train" not in done.stderr + done.stdout
