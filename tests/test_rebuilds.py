"""Rebuilds that go another way at scale smoke: without notebooks, killed, as experiments, on a full disk.

All tests share one rebuild, and each leaves it as it was. DVC and papermill are the real ones.
"""

from __future__ import annotations

import csv
import io
import os
import random
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import Project


@pytest.fixture(scope="module")
def project(smoke_project: Project) -> Project:
    return smoke_project


def _forget_runs(project: Project) -> None:
    shutil.rmtree(project.folder / "data" / "runs")


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
    row_more = "fine_tuning.tau_sharp=[0.0,1.0,2.0,0.5]"
    changes = ["-S", "fine_tuning.final_epochs=3", "-S", row_more, "-S", "scale=mine", "-n", "short"]
    with project.restored("reports/smoke", "reports/metrics.json", "data/runs", "data/pairs"):
        output = project.succeed("dvc", "exp", "run", *changes, "discussion")
        assert re.findall(r"(\w+): \d+ runs, (\d+) on disk; (\d+) to train", output) == [
            ("fine_tuning", "36", "12"),  # the row more
            ("fine_tuning", "0", "2"),  # the final model and its twin
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
    assert "beyond: nothing to train" in output
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
    assert "ablation: nothing to train, runs on disk: 32." in logs
    assert "fine_tuning: 2 runs, 0 on disk; 2 to train" in logs  # the final model and its twin
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
