"""The whole pipeline at scale smoke, in a copy of the project, with the real DVC and papermill.

All tests share one rebuild, and each leaves it as it was.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import NOTEBOOKS, Project

from n2nlib.params import load_params, sections_of

PSNR = ["psnr_mean", "psnr_std", "psnr_full", "psnr_per_image", "report_mean", "report_std"]
COLUMNS = {
    "01_data/baselines": ["method", "psnr_full", "psnr_per_image", "psnr_hvs_m", "ssim"],
    "03_ablation/table1_ablation": ["loss", "optimizer", "sharpen", "crops", "arch", "seed", *PSNR, "run"],
    "04_candidate_curves/curves": ["candidate", "seed", "epoch", "psnr_mean", "psnr_std", "train_loss"],
    "05_fine_tuning/table3_fine_tuning": [
        "sigma_n",
        "tau_sharp",
        "lr0",
        "annealing_steps",
        "seed",
        *PSNR,
        "run",
    ],
    "06_discussion/claims": ["claim", "statement", "published", "ours", "ci_low", "ci_high", "verdict"],
}
LISTED = ["network_costs", "table2_candidates", "effects", "failures", "interactions", "beyond", "references"]
FIGURES = ["03_ablation/fig1_examples", "04_candidate_curves/fig2_curves"]


@pytest.fixture(scope="module")
def project(smoke_project: Project) -> Project:
    return smoke_project


def _forget_runs(project: Project) -> None:
    shutil.rmtree(project.folder / "data" / "runs")


def test_it_leaves_what_the_readme_promises(project: Project) -> None:
    reports = project.reports()
    for name, columns in COLUMNS.items():
        found = list(pd.read_csv(reports / f"{name}.csv").columns)
        assert found[: len(columns)] == columns
        assert found == columns or name == "06_discussion/claims"  # which may say more
    for name in LISTED:
        assert len(list(reports.glob(f"*/{name}.csv"))) == 1, name
    assert len(pd.read_csv(reports / "03_ablation/table1_ablation.csv")) == 32
    assert len(pd.read_csv(reports / "05_fine_tuning/table3_fine_tuning.csv")) == 36
    for name in FIGURES:
        assert all((reports / f"{name}.{suffix}").stat().st_size > 100 for suffix in ("svg", "png"))
    for model in ("05_fine_tuning/final", "07_beyond/best"):
        about = json.loads((reports / f"{model}.json").read_text())
        assert (reports / f"{model}.safetensors").is_file()
        assert about["metrics"]["psnr_full"] > 0
    assert (reports / "paper.pdf").read_bytes().startswith(b"%PDF")
    assert {path.name for path in reports.iterdir() if path.is_dir()} == set(NOTEBOOKS)
    assert json.loads((project.folder / "reports" / "metrics.json").read_text()) == project.metrics()
    measured = pd.concat(pd.read_csv(path) for path in reports.glob("*/measures.csv"))
    assert len(measured) == 32 + 36
    assert measured[["psnr_hvs_m", "ssim"]].notna().all().all()


def test_stages_declare_every_folder_that_they_leave(project: Project) -> None:
    stages = yaml.safe_load((project.folder / "dvc.yaml").read_text())["stages"]
    outs = {path for stage in stages.values() for out in stage["outs"] for path in out}
    runs = {f"data/runs/{path.name}" for path in (project.folder / "data/runs").glob("[!.]*")}
    pairs = {
        f"data/pairs/{path.name}".replace("smoke", "${scale}")
        for path in (project.folder / "data/pairs").iterdir()
    }
    assert runs | pairs == {path for path in outs if path.startswith("data/")}
    changed = project.git("status", "--porcelain").split()
    assert not changed


def test_executed_copies_show_what_they_ran_with(project: Project) -> None:
    params = load_params(project.folder / "params.yaml")
    for name in NOTEBOOKS:
        path = project.reports() / name / f"{name}.ipynb"
        executed = nbformat.read(path, as_version=4)
        nbformat.validate(executed)
        assert executed.metadata.papermill.parameters == params.used(sections_of(name))
        assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
        text = path.read_text() + path.with_suffix(".html").read_text()
        for machine in (str(project.folder), str(Path.home()) + os.sep, "/tmp/"):
            assert machine not in text
        assert "No description has been provided for this image" not in text
        assert "Warning" not in text


def test_pages_and_index_need_nothing_from_elsewhere(project: Project) -> None:
    index = (project.reports() / "index.html").read_text()
    assert re.findall(r'<h3><a href="\w+/(\w+)\.html"', index) == NOTEBOOKS
    assert 'href="paper.pdf"' in index
    assert index.count("<img") == 1 + len(NOTEBOOKS)
    for page in (project.reports() / "index.html", *project.reports().glob("*/*.html")):
        text = page.read_text()
        assert all("alt=" in image for image in re.findall(r"<img[^>]*>", text))
        assert 'alt=""' not in text
        loaded = re.findall(r'(?:src|href)="([^"#]+)"', re.sub(r'src="data:[^"]*"', "", text))
        linked = [path for path in loaded if not path.startswith("https://")]
        assert all((page.parent / path).exists() for path in linked)
        assert not re.search(r'(src=|<link[^>]*href=)"https?://', text)


def test_every_number_names_its_runs(project: Project) -> None:
    reports, stored = project.reports(), project.stored_runs()
    table = pd.read_csv(reports / "03_ablation/table1_ablation.csv")
    assert {f"ablation/{run}" for run in table["run"]} <= set(stored)
    provenance = json.loads((reports / "03_ablation/provenance.json").read_text())
    assert set(provenance["files"]["table1_ablation.csv"]) == set(table["run"])
    first = project.git("rev-list", "--max-parents=0", "HEAD").strip()
    assert provenance["commit"] == first[:12]  # the tree differed in parameters and results alone
    for row in table.head(3).to_dict("records"):
        stored_metrics = project.folder / "data/runs/ablation" / row["run"] / "metrics.json"
        assert row["psnr_full"] == pytest.approx(
            json.loads(stored_metrics.read_text())["psnr_full"], abs=1e-4
        )


def test_the_candidates_are_those_of_our_table(project: Project) -> None:
    table1 = pd.read_csv(project.reports() / "03_ablation/table1_ablation.csv")
    table2 = pd.read_csv(
        project.reports() / "04_candidate_curves/table2_candidates.csv", dtype={"candidate": str}
    )
    ours = table2[table2["candidate"].str.isalpha()]
    best = table1.sort_values("psnr_mean", ascending=False).head(3)
    keys = ["arch", "loss", "optimizer", "sharpen", "crops"]
    assert sorted(best[keys].to_numpy().tolist()) == sorted(ours[keys].to_numpy().tolist())


def test_an_unchanged_tree_has_nothing_to_do_and_says_so_at_once(project: Project) -> None:
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        assert "Data and pipelines are up to date" in project.succeed("dvc", "repro")
        seconds.append(time.monotonic() - start)
    assert min(seconds) < 3


@pytest.mark.parametrize("command", ["params diff", "metrics show", "plots show", "dag", "exp show --csv"])
def test_dvcs_own_views_work(project: Project, command: str) -> None:
    output = project.succeed("dvc", *command.split())
    if command in ("metrics show", "exp show --csv"):
        assert "final_psnr_full" in output
    shutil.rmtree(project.folder / "dvc_plots", ignore_errors=True)


def test_a_figures_style_trains_nothing_and_a_damaged_run_is_trained_again(project: Project) -> None:
    before, tables = project.stored_runs(), project.tables()
    victim = pd.read_csv(project.reports() / "03_ablation/table1_ablation.csv")["run"].iloc[5]
    style = (project.folder / "n2nlib/report/n2n.mplstyle").read_text()
    with project.restored("reports/smoke", "data/runs", "n2nlib/report/n2n.mplstyle"):
        figure = (project.reports() / "03_ablation/fig1_examples.svg").read_bytes()
        (project.folder / "n2nlib/report/n2n.mplstyle").write_text(f"{style}\nfigure.facecolor: eeeeee\n")
        (project.folder / "data/runs/ablation" / victim / "model.safetensors").unlink()
        output = project.succeed("dvc", "repro")
        assert re.findall(r"(\w+): \d+ runs, (\d+) on disk; (\d+) to train", output) == [
            ("ablation", "31", "1")
        ]
        assert "nothing to train" in output
        after = project.stored_runs()
        assert [name for name in before if after[name] != before[name]] == [f"ablation/{victim}"]
        assert project.tables() == tables
        assert (project.reports() / "03_ablation/fig1_examples.svg").read_bytes() != figure


def test_a_row_more_trains_its_runs_and_leaves_the_rest(project: Project) -> None:
    before = project.stored_runs()
    with project.restored("reports/smoke", "data/runs"):
        project.edit("params.yaml", "  tau_sharp: [0.0, 1.0, 2.0]", "  tau_sharp: [0.0, 1.0, 2.0, 0.5]")
        output = project.succeed("dvc", "repro", "fine_tuning")
        assert "Stage 'ablation' didn't change" in output
        assert "48 runs, 36 on disk; 12 to train" in output
        after = project.stored_runs()
        assert {name: after[name] for name in before} == before


def test_the_ablations_parameters_repeat_03_and_neither_01_nor_02(project: Project) -> None:
    with project.restored():
        project.edit("params.yaml", "  annealing_steps: 1 ", "  annealing_steps: 0 ")
        status = json.loads(project.succeed("dvc", "status", "--json"))
        assert "ablation" in status
        assert not {"data", "architecture"} & set(status)
    with project.restored():
        project.edit("params.yaml", "  workers:", "  workers: 1")
        assert json.loads(project.succeed("dvc", "status", "--json")) == {}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("  epochs: 2\n", "  epochs: 0\n", "ablation.epochs = 0"),
        ("  source: bundled ", "  source: flickr ", "pairs.source = 'flickr'"),
        ("\nablation: ", "\nablatoin: ", "ablation"),
    ],
)
def test_a_mistake_in_params_ends_in_one_message_before_any_work(
    project: Project, old: str, new: str, words: str
) -> None:
    with project.restored("reports/smoke"):
        project.edit("params.yaml", old, new)
        done = project.run("dvc", "repro")
        output = done.stdout + done.stderr
        assert done.returncode != 0
        assert words in output
        assert "Traceback" not in output
        assert "== notebooks/" not in output
        check = project.run(sys.executable, "-m", "n2nlib", "check")
        assert check.returncode == 1
        assert new.strip().split(":")[0] in check.stderr
        assert "Traceback" not in check.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run 09_nothing", "01_data"),
        ("scale enormous", "workstation"),
        ("check nothing.yaml", "nothing.yaml"),
    ],
)
def test_the_command_line_has_messages_and_no_tracebacks(project: Project, command: str, words: str) -> None:
    done = project.run(sys.executable, "-m", "n2nlib", *command.split())
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_trained_without_notebooks_they_draw_the_same(project: Project) -> None:
    tables, runs = project.tables(), project.stored_runs()
    final = (project.reports() / "05_fine_tuning/final.safetensors").read_bytes()
    with project.restored("reports/smoke", "data/runs"):
        _forget_runs(project)
        project.n2n("train", "--slim")
        assert set(project.stored_runs()) == set(runs)
        kept = [path.parts[-3] for path in (project.folder / "data/runs").glob("*/*/model.safetensors")]
        assert (kept.count("curves"), kept.count("fine_tuning")) == (0, 2)  # final, twin
        assert 0 < kept.count("ablation") < 10
        notebooks = ("03_ablation", "04_candidate_curves", "05_fine_tuning", "06_discussion", "07_beyond")
        for notebook in notebooks:
            shutil.rmtree(project.reports() / notebook)
        for notebook in notebooks:
            output = project.n2n("run", notebook)
            assert "to train (" not in output
        assert project.tables() == tables
        assert (project.reports() / "05_fine_tuning/final.safetensors").read_bytes() == final


def test_a_killed_stage_resumes_to_the_same_tables(project: Project) -> None:
    tables = project.tables()
    with project.restored("reports/smoke", "data/runs"):
        _forget_runs(project)
        shutil.rmtree(project.reports() / "03_ablation")
        process = project.start("dvc", "repro", "ablation")
        deadline = time.monotonic() + 120
        while not project.stored_runs() and time.monotonic() < deadline:
            time.sleep(0.2)
        project.kill_after(process, 0.5)
        finished = project.stored_runs()
        assert 0 < len(finished) < 32
        output = project.succeed("dvc", "repro", "ablation")
        assert f"32 runs, {len(finished)} on disk; {32 - len(finished)} to train" in output
        last = project.stored_runs()
        assert {name: last[name] for name in finished} == finished
        assert project.tables() == tables


def _experiments(project: Project) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(project.succeed("dvc", "exp", "show", "--csv")))
    return {row["Experiment"] or row["rev"]: row for row in rows}


def test_an_experiment_keeps_runs_and_is_compared(project: Project) -> None:
    before = project.stored_runs()
    head = project.git("rev-parse", "--abbrev-ref", "HEAD").strip()
    changes = ["-S", "fine_tuning.final_epochs=3", "-S", "scale=mine", "-n", "short"]
    with project.restored("reports/smoke", "reports/metrics.json", "data/runs", "data/pairs"):
        output = project.succeed("dvc", "exp", "run", *changes, "discussion")
        assert re.findall(r"(\w+): \d+ runs, (\d+) on disk; (\d+) to train", output) == [
            ("fine_tuning", "0", "2")  # the final model and its twin
        ]
        after = project.stored_runs()
        assert {name: after[name] for name in before} == before
        experiments = _experiments(project)
        for name, scale in (("short", "mine"), (head, "smoke")):
            row, metrics = experiments[name], project.metrics(scale)
            assert row["scale"] == scale
            assert float(row["final_psnr_full"]) == pytest.approx(metrics["final_psnr_full"], abs=1e-6)
            assert "!" not in row.values()
        assert project.metrics("mine")["final_psnr_full"] != project.metrics("smoke")["final_psnr_full"]
        saved = project.git("for-each-ref", "--format=%(objectname)", "refs/exps/**/short").split()
        assert len(saved) == 1  # beside it DVC keeps references of its own
        listed = project.git("ls-tree", "-r", "--name-only", saved[0])
        assert "reports/mine/05_fine_tuning/table3_fine_tuning.csv" in listed
    project.succeed("dvc", "exp", "remove", "-A")
    shutil.rmtree(project.reports("mine"))
    project.git("reset", "-q")


@pytest.mark.long
def test_an_experiment_in_a_folder_of_its_own_finds_the_runs(project: Project) -> None:
    before = project.stored_runs()
    output = project.succeed(
        "dvc", "exp", "run", "--temp", "-C", "data/runs", "-S", "ablation.annealing_steps=0", "-n", "temp"
    )
    assert "ablation: 32 runs, 0 on disk; 32 to train" in output
    assert "beyond: all" in output
    assert project.stored_runs() == before
    project.succeed(
        "dvc", "exp", "run", "--queue", "-C", "data/runs", "-S", "fine_tuning.final_epochs=3", "-n", "queued"
    )
    project.succeed("dvc", "queue", "start")
    for _ in range(300):
        if "Success" in (status := project.succeed("dvc", "queue", "status")) or "Failed" in status:
            break
        time.sleep(2)
    logs = project.succeed("dvc", "queue", "logs", "queued")
    assert "ablation: all 32 runs are on disk" in logs
    assert "fine_tuning: 1 runs, 0 on disk; 1 to train" in logs
    experiments = _experiments(project)
    assert all(float(experiments[name]["final_psnr_full"]) > 0 for name in ("temp", "queued"))
    project.succeed("dvc", "exp", "remove", "-A")


@pytest.mark.long
def test_two_rebuilds_at_once_are_refused_or_safe(project: Project) -> None:
    tables = project.tables()
    with project.restored("reports/smoke", "data/runs"):
        _forget_runs(project)
        first = project.start("dvc", "repro", "--force")
        time.sleep(6)
        second = project.run("dvc", "repro", "--force")
        assert first.wait(600) == 0
        assert second.returncode == 0 or "lock" in second.stderr.lower() or "another process" in second.stderr
        project.succeed("dvc", "repro")
        assert project.tables() == tables


@pytest.mark.long
@pytest.mark.parametrize("draw", range(3))
def test_a_rebuild_that_is_killed_again_and_again_ends_in_the_same_tables(
    project: Project, draw: int
) -> None:
    tables, moments = project.tables(), random.Random(draw)
    with project.restored("reports/smoke", "reports/metrics.json", "data/runs", "data/pairs"):
        _forget_runs(project)
        shutil.rmtree(project.folder / "data" / "pairs")
        shutil.rmtree(project.reports())
        for _ in range(6):
            before = project.stored_runs()
            project.kill_after(project.start("dvc", "repro"), moments.uniform(2, 25))
            after = project.stored_runs()
            assert {name: after[name] for name in before} == before
        project.succeed("dvc", "repro")
        assert project.tables() == tables
        assert not list((project.folder / "data/runs/.checkpoints").glob("*"))


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_message_and_nothing_finished_is_lost(project: Project) -> None:
    tables, disk = project.tables(), project.folder / "data" / "runs"
    with project.restored("reports/smoke", "data/runs"):
        _forget_runs(project)
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("no small disk can be mounted here")
        try:
            done = project.run(sys.executable, "-m", "n2nlib", "run", "03_ablation")
            assert done.returncode == 1
            assert "the disk is full" in done.stderr
            assert "Traceback" not in done.stdout + done.stderr
            finished = project.stored_runs()
            assert finished
            subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
            project.n2n("run", "03_ablation")
            last = project.stored_runs()
            assert {name: last[name] for name in finished} == finished
            assert project.tables() == tables
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
