"""The whole pipeline at scale smoke, in a copy of the project, with the real DVC and papermill: what it leaves, what it repeats, how it fails."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import Project

from n2nlib.tables import COLUMNS

NOTEBOOKS = ["01_data", "02_architecture", "03_ablation", "04_candidate_curves", "05_fine_tuning", "06_discussion", "07_beyond"]


@pytest.fixture(scope="module")
def project(smoke_project: Project) -> Project:
    """The rebuilt project, which these tests edit; each leaves it as it was."""
    return smoke_project


def _repro(project: Project) -> str:
    done = project.run("dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _edit(project: Project, name: str, old: str, new: str) -> None:
    path = project.folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_trained_without_notebooks_and_without_models_they_draw_the_same(project: Project, tmp_path: Path) -> None:
    before, runs = project.tables(), project.folder / "data" / "runs"
    changed = {runs: tmp_path / "runs", project.folder / "reports" / "smoke": tmp_path / "smoke"}
    for folder, copy in changed.items():
        shutil.copytree(folder, copy)
    try:
        victims = [sorted((runs / stage).iterdir())[0] for stage in ("ablation", "fine_tuning", "beyond")]
        for victim in victims:
            shutil.rmtree(victim)
        done = project.run(sys.executable, "-m", "n2nlib", "train", "--slim")
        assert done.returncode == 0, done.stdout + done.stderr
        assert all((victim / "run.json").is_file() for victim in victims)
        kept = [path.parent.parent.name for path in runs.glob("*/*/model.safetensors")]
        assert {stage: kept.count(stage) for stage in ("curves", "fine_tuning", "beyond")} == {"curves": 0, "fine_tuning": 1, "beyond": 4}
        assert kept.count("ablation") <= 5
        for notebook in ("03_ablation", "05_fine_tuning", "07_beyond"):
            done = project.run(sys.executable, "-m", "n2nlib", "run", notebook)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "to train (" not in done.stdout
        assert project.tables() == before
    finally:
        for folder, copy in changed.items():
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)


def test_it_leaves_what_the_readme_promises(project: Project) -> None:
    reports = project.folder / "reports" / "smoke"
    for name, columns in COLUMNS.items():
        assert list(pd.read_csv(reports / "tables" / f"{name}.csv").columns) == columns
    assert len(pd.read_csv(reports / "tables" / "table1_ablation.csv")) == 32
    assert len(pd.read_csv(reports / "tables" / "table2_candidates.csv")) == 3
    assert len(pd.read_csv(reports / "tables" / "table3_fine_tuning.csv")) == 36
    for name in (
        "fig1_examples",
        "fig2_curves",
        "ablation",
        "fine_tuning",
        "data_pairs",
        "data_noise",
        "network",
        "sharpening",
        "clamp",
        "interactions",
        "measures",
        "beyond_effects",
    ):
        for suffix in ("svg", "png", "json"):
            assert (reports / "figures" / f"{name}.{suffix}").stat().st_size > 100
    for name in NOTEBOOKS:
        executed = nbformat.read(reports / "notebooks" / f"{name}.ipynb", as_version=4)
        assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
        page = (reports / "notebooks" / f"{name}.html").read_text()
        assert "<details>" in page
        assert "http://" not in page.replace("http://www.w3.org", "")
    index = (reports / "index.html").read_text()
    assert re.findall(r'href="notebooks/(\w+)\.html"', index) == NOTEBOOKS
    assert all((reports / picture).is_file() for picture in re.findall(r'src="([^"]+)"', index))
    metrics = json.loads((reports / "metrics.json").read_text())
    assert metrics["final_psnr_full"] > 0
    for model in ("final", "best"):
        about = json.loads((reports / "model" / f"{model}.json").read_text())
        assert (reports / "model" / f"{model}.safetensors").is_file()
        assert about["metrics"]["psnr_hvs_m"] > 0
    references = pd.read_csv(reports / "tables" / "references.csv")
    assert list(references.columns) == COLUMNS["baselines"]
    assert references["method"].str.contains("clean targets").sum() == 1
    measured = pd.concat([pd.read_csv(reports / "tables" / f"measures_{name}.csv") for name in ("ablation", "curves", "fine_tuning")])
    assert len(measured) == 32 + 3 + 36
    assert measured[["psnr_hvs_m", "ssim"]].notna().all().all()


def test_every_number_names_its_runs(project: Project) -> None:
    reports, stored = project.folder / "reports" / "smoke", project.stored_runs()
    table = pd.read_csv(reports / "tables" / "table1_ablation.csv")
    assert {f"ablation/{run}" for run in table["run"]} <= set(stored)
    sidecar = json.loads((reports / "tables" / "table1_ablation.json").read_text())
    assert set(sidecar["runs"]) == set(table["run"])
    assert re.fullmatch(r"[0-9a-f]{12}", sidecar["commit"])  # of the copy, whose tree differs in parameters and results alone
    for row in table.head(3).to_dict("records"):
        metrics = json.loads((project.folder / "data" / "runs" / "ablation" / row["run"] / "metrics.json").read_text())
        assert row["psnr_full"] == pytest.approx(metrics["psnr_full"], abs=1e-4)


def test_the_candidates_are_those_of_our_table(project: Project) -> None:
    tables = project.folder / "reports" / "smoke" / "tables"
    table1, table2 = (pd.read_csv(tables / name) for name in ("table1_ablation.csv", "table2_candidates.csv"))
    best = table1.sort_values("psnr_mean", ascending=False).head(3)
    keys = ["arch", "loss", "optimizer", "sharpen", "crops"]
    assert set(map(tuple, best[keys].to_numpy().tolist())) == set(map(tuple, table2[keys].to_numpy().tolist()))


def test_an_unchanged_tree_has_nothing_to_do(project: Project) -> None:
    assert "Data and pipelines are up to date" in _repro(project)


@pytest.mark.parametrize("command", [["params", "diff"], ["metrics", "show"], ["plots", "show"], ["dag"]])
def test_dvcs_own_views_work(project: Project, command: list[str]) -> None:
    done = project.run("dvc", *command)
    assert done.returncode == 0, done.stderr
    if command[0] == "metrics":
        assert "final_psnr_full" in done.stdout


def test_editing_a_figure_trains_nothing(project: Project) -> None:
    before, tables = project.stored_runs(), project.tables()
    _edit(project, "n2nlib/n2n.mplstyle", "lines.linewidth: 1.4", "lines.linewidth: 1.5")
    output = _repro(project)
    assert "nothing to train" in output
    assert "to train (" not in output
    assert project.stored_runs() == before
    assert project.tables() == tables


def test_a_row_more_trains_one_run_and_leaves_the_pairs(project: Project) -> None:
    before = project.stored_runs()
    _edit(project, "params.yaml", "  tau_sharp: [1.0, 2.0]", "  tau_sharp: [1.0, 2.0, 0.5]")
    output = _repro(project)
    assert "Stage 'ablation' didn't change" in output
    assert "54 runs, 36 on disk; 18 to train" in output
    after = project.stored_runs()
    assert {name: after[name] for name in before} == before
    _edit(project, "params.yaml", "  tau_sharp: [1.0, 2.0, 0.5]", "  tau_sharp: [1.0, 2.0]")
    _repro(project)


def test_the_ablations_parameters_rerun_03_and_not_01(project: Project) -> None:
    _edit(project, "params.yaml", "  annealing_steps: 1       # k", "  annealing_steps: 0       # k")
    status = json.loads(project.run("dvc", "status", "--json").stdout)
    assert "ablation" in status
    assert "data" not in status
    assert "architecture" not in status
    _edit(project, "params.yaml", "  annealing_steps: 0       # k", "  annealing_steps: 1       # k")


def test_a_damaged_run_is_trained_again_and_no_other(project: Project) -> None:
    before, tables = project.stored_runs(), project.tables()
    victim = pd.read_csv(project.folder / "reports/smoke/tables/table1_ablation.csv")["run"].iloc[5]
    (project.folder / "data/runs/ablation" / victim / "model.safetensors").unlink()
    assert "32 runs, 31 on disk; 1 to train" in _repro(project)
    after = project.stored_runs()
    assert [name for name in before if after[name] != before[name]] == [f"ablation/{victim}"]
    assert project.tables() == tables


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_papermill_takes_a_partial_file_from_either_folder(project: Project, folder: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"scale: mine-{'root' if folder == '.' else 'notebooks'}\nablation:\n  loss: [mse]\n  optimizer: [adam]\n  crops: [false]\n")
    notebook = "notebooks/03_ablation.ipynb" if folder == "." else "03_ablation.ipynb"
    done = project.run("papermill", notebook, str(tmp_path / "out.ipynb"), "-f", str(mine), "-k", "python3", cwd=project.folder / folder)
    assert done.returncode == 0, done.stderr
    assert "Passed unknown parameter" not in done.stderr
    table = pd.read_csv(project.folder / "reports" / ("mine-root" if folder == "." else "mine-notebooks") / "tables" / "table1_ablation.csv")
    assert len(table) == 4
    theirs = pd.read_csv(project.folder / "reports/smoke/tables/table1_ablation.csv")
    assert set(table["psnr_full"]) <= set(theirs["psnr_full"])  # the same runs, trained or found


def test_papermill_with_a_mistake_says_so_before_any_work(project: Project, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("ablatoin:\n  epochs: 3\n")
    done = project.run("papermill", "notebooks/03_ablation.ipynb", str(tmp_path / "out.ipynb"), "-f", str(mine))
    assert done.returncode != 0
    assert "ablatoin" in done.stderr
    assert "did you mean ablation" in done.stderr
    assert "to train" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  epochs: 2\n", "  epochs: 0\n", "ablation.epochs = 0"),
        ("\nablation: ", "\nablatoin: ", "ablatoin"),
        ("  source: bundled ", "  source: flickr ", "pairs.source = 'flickr'"),
    ],
)
def test_a_mistake_in_params_ends_in_one_message(project: Project, old: str, new: str, words: str) -> None:
    _edit(project, "params.yaml", old, new)
    try:
        done = project.run("dvc", "repro")
        output = done.stdout + done.stderr
        assert done.returncode != 0
        assert words in output
        assert "Traceback" not in output
        assert "Running stage 'data'" not in output
    finally:
        _edit(project, "params.yaml", new, old)


@pytest.mark.parametrize(
    ("command", "words"),
    [(["run", "09_nothing"], "01_data"), (["scale", "enormous"], "workstation"), (["check", "nothing.yaml"], "nothing.yaml")],
)
def test_the_command_line_has_messages_and_no_tracebacks(project: Project, command: list[str], words: str) -> None:
    done = project.run(sys.executable, "-m", "n2nlib", *command)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_two_rebuilds_at_once_are_refused_or_safe(project: Project) -> None:
    tables = project.tables()
    _forget(project)
    first = project.start("dvc", "repro", "--force")
    time.sleep(6)
    second = project.run("dvc", "repro", "--force")
    assert first.wait(300) == 0
    assert second.returncode == 0 or "another process" in second.stderr or "lock" in second.stderr.lower()
    _repro(project)
    assert project.tables() == tables


def test_a_rebuild_that_is_killed_goes_on_to_the_same_tables(project: Project) -> None:
    tables = project.tables()
    _forget(project)
    moments = random.Random(11)
    for _ in range(3):
        process = project.start("dvc", "repro")
        time.sleep(moments.uniform(6, 20))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        time.sleep(3)  # the kernel and its workers see within a second that they are orphans
        before = project.stored_runs()
        time.sleep(2)
        assert project.stored_runs() == before
    finished = project.stored_runs()
    _repro(project)
    last = project.stored_runs()
    assert {name: last[name] for name in finished} == finished
    assert project.tables() == tables


def _forget(project: Project) -> None:
    """As before the first rebuild, but for the pairs."""
    shutil.rmtree(project.folder / "data" / "runs")
    for name in ("tables", "figures"):
        shutil.rmtree(project.folder / "reports" / "smoke" / name)
