"""The whole pipeline at scale smoke, in a copy of the project, with the real DVC and papermill.

All tests share one rebuild, and each leaves it as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import NOTEBOOKS, Project

from n2nlib.denoiser import Denoiser
from n2nlib.metrics import mse_per_image, psnr_full
from n2nlib.pairs.pair_set import load_pairs
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
    pairs = load_pairs(project.folder / "data/pairs/smoke")
    for model in ("05_fine_tuning/final", "07_beyond/best"):
        about = json.loads((reports / f"{model}.json").read_text())
        assert (reports / f"{model}.safetensors").is_file()
        denoiser = Denoiser.load(reports / f"{model}.safetensors")
        denoised = denoiser.predict(pairs.validation["noisy_1"].numpy())
        psnr = psnr_full(mse_per_image(denoised, pairs.validation["clean"].numpy()))
        assert about["metrics"]["psnr_full"] == pytest.approx(psnr, abs=5e-3)
    metrics, table1 = project.metrics(), pd.read_csv(reports / "03_ablation/table1_ablation.csv")
    noisy = pd.read_csv(reports / "01_data/baselines.csv")["psnr_full"][0]
    assert metrics["noisy_psnr_full"] == pytest.approx(noisy, abs=1e-4)
    assert metrics["table1_failed_runs"] == (table1["psnr_full"] < noisy).sum()
    assert metrics["table1_best_psnr_mean"] == pytest.approx(table1["psnr_mean"].max(), abs=1e-4)
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
    changed = set(project.git("diff", "--name-only", "HEAD~1", "HEAD").split())
    results = {name for name in changed if name.startswith("reports/smoke/")}
    assert changed - results == {"dvc.lock", "params.yaml", "reports/metrics.json"}


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
        history = pd.read_csv(project.folder / "data/runs/ablation" / row["run"] / "history.csv")
        assert row["psnr_full"] == pytest.approx(history["psnr_full"].iloc[-1], abs=1e-4)


def test_the_candidates_are_those_of_our_table(project: Project) -> None:
    table1 = pd.read_csv(project.reports() / "03_ablation/table1_ablation.csv")
    table2 = pd.read_csv(
        project.reports() / "04_candidate_curves/table2_candidates.csv", dtype={"candidate": str}
    )
    ours = table2[table2["candidate"].str.isalpha()]
    best = table1.sort_values("psnr_mean", ascending=False).head(3)
    keys = ["arch", "loss", "optimizer", "sharpen", "crops"]
    assert sorted(best[keys].to_numpy().tolist()) == sorted(ours[keys].to_numpy().tolist())


def test_an_unchanged_tree_has_nothing_to_do(project: Project) -> None:
    assert "Data and pipelines are up to date" in project.succeed("dvc", "repro")


@pytest.mark.parametrize(
    ("command", "words"),
    [("metrics show", "final_psnr_full"), ("plots show", "dvc_plots"), ("dag", "fine_tuning")],
)
def test_dvcs_own_views_work(project: Project, command: str, words: str) -> None:
    assert words in project.succeed("dvc", *command.split())
    shutil.rmtree(project.folder / "dvc_plots", ignore_errors=True)


def test_a_figures_style_trains_nothing_and_a_damaged_run_is_trained_again(project: Project) -> None:
    before, tables = project.stored_runs(), project.tables()
    victim = pd.read_csv(project.reports() / "03_ablation/table1_ablation.csv")["run"].iloc[5]
    style = (project.folder / "n2nlib/report/n2n.mplstyle").read_text()
    with project.restored("reports/smoke", "data/runs", "n2nlib/report/n2n.mplstyle"):
        figure = (project.reports() / "03_ablation/fig1_examples.svg").read_bytes()
        (project.folder / "n2nlib/report/n2n.mplstyle").write_text(f"{style}\nfigure.facecolor: eeeeee\n")
        (project.folder / "data/runs/ablation" / victim / "model.safetensors").unlink()
        output = project.succeed("dvc", "repro", "curves")  # 01, 03 and 04
        assert re.findall(r"(\w+): \d+ runs, (\d+) on disk; (\d+) to train", output) == [
            ("ablation", "31", "1")
        ]
        assert "nothing to train" in output
        after = project.stored_runs()
        assert [name for name in before if after[name] != before[name]] == [f"ablation/{victim}"]
        assert project.tables() == tables
        assert (project.reports() / "03_ablation/fig1_examples.svg").read_bytes() != figure


def test_a_changed_section_repeats_the_stages_that_use_it_alone(project: Project) -> None:
    with project.restored():
        project.edit("params.yaml", "  tau_sharp: [0.0, 1.0, 2.0]", "  tau_sharp: [0.0, 1.0, 2.0, 0.5]")
        status = json.loads(project.succeed("dvc", "status", "--json"))
        assert "fine_tuning" in status
        assert not {"data", "ablation", "curves"} & set(status)
    with project.restored():
        project.edit("params.yaml", "  annealing_steps: 1 ", "  annealing_steps: 0 ")
        assert "ablation.annealing_steps" in project.succeed("dvc", "params", "diff")
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
