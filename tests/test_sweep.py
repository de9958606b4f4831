"""Many runs on real Dask: nothing twice, workers that are killed, an external scheduler, failures, candidates found and not typed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import SMOKE, Project, a_run

from n2nlib import experiments, published
from n2nlib.experiments import Planned
from n2nlib.files import UserError
from n2nlib.pairs import PairSet
from n2nlib.params import Params, load_params
from n2nlib.sweep import duration, pick_device, train_all


def test_the_papers_lists(params: Params) -> None:
    table1 = experiments.ablation_runs(params)
    assert len(table1) == 32
    keys = experiments.ABLATION
    assert {tuple(one.row[key] for key in keys) for one in table1} == set(map(tuple, published.table1()[keys].to_numpy().tolist()))
    assert {one.run.epochs for one in table1 if one.run.crops} == {params.ablation.crops_epochs}
    assert {one.run.epochs for one in table1 if not one.run.crops} == {params.ablation.epochs}
    candidates = experiments.top_candidates(published.table1(), 3)
    pd.testing.assert_frame_equal(candidates, published.table2())
    assert len(experiments.curve_runs(params, candidates)) == 3
    table3 = experiments.fine_tuning_runs(params, candidates.iloc[1])
    assert len(table3) == 36
    assert {one.run.arch for one in table3} == {"tconv"}
    assert {one.run.sigma_n for one in table3} == set(params.fine_tuning.sigma_n)
    final = experiments.final_run(params, candidates.iloc[1], published.table3())
    assert (final.row["sigma_n"], final.row["tau_sharp"], final.row["lr0"], final.row["annealing_steps"]) == (1, 1, 0.001, 0)


def test_the_candidate_is_the_best_after_the_short_cycle() -> None:
    candidates = published.table2()
    values = {1: [20, 21, 22, 25], 2: [20, 22, 23, 24], 3: [23, 21, 20, 19]}
    curves = pd.DataFrame([{"candidate": c, "epoch": e + 1, "psnr_mean": v} for c, line in values.items() for e, v in enumerate(line)])
    assert [experiments.choose_candidate(curves, candidates, epochs)["candidate"] for epochs in (1, 3, 4, 99)] == [3, 2, 1, 1]
    with_crops = candidates.assign(crops=[False, False, True])
    assert experiments.choose_candidate(curves, with_crops, 2)["candidate"] == 3  # read after one epoch of twice the images


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(UserError, match="device = 'cuda'"):
        pick_device("cuda")


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.4, 60, 200, 3600, 7500)] == ["0 s", "59 s", "1 min 00 s", "3 min 20 s", "1 h 00 min", "2 h 05 min"]


def _planned(count: int, **changes: object) -> list[Planned]:
    return [Planned({"seed": seed}, a_run(seed=seed, **changes)) for seed in range(count)]


def test_a_repeated_sweep_trains_only_what_is_missing(pair_set: PairSet, params: Params, runs_folder: Path, capsys: pytest.CaptureFixture) -> None:
    first = train_all("t", _planned(2), pair_set, params)
    output = capsys.readouterr().out
    assert "2 to train" in output
    assert "[2/2]" in output
    assert "\r" not in output
    written = [(result.folder / "run.json").stat().st_mtime_ns for result in first]
    second = train_all("t", _planned(3), pair_set, params)
    output = capsys.readouterr().out
    assert "3 runs, 2 on disk; 1 to train" in output
    assert [(result.folder / "run.json").stat().st_mtime_ns for result in second[:2]] == written
    assert [result.about["parameters"]["seed"] for result in second] == [0, 1, 2]


def test_a_diverged_run_does_not_stop_the_others(pair_set: PairSet, params: Params, runs_folder: Path, capsys: pytest.CaptureFixture) -> None:
    planned = [Planned({}, a_run(optimizer="sgd", learning_rate=1e12)), *_planned(1)]
    assert [result.diverged for result in train_all("t", planned, pair_set, params)] == [True, False]
    assert "DIVERGED" in capsys.readouterr().out


def test_no_scheduler_at_the_address(pair_set: PairSet, params: Params, runs_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N2N_SCHEDULER", "tcp://127.0.0.1:1")
    monkeypatch.setattr("n2nlib.sweep.CONNECT", 1)
    with pytest.raises(UserError, match="no Dask scheduler answers"):
        train_all("t", _planned(1), pair_set, params)


SWEEP = """
import sys
from n2nlib import experiments, sweep
from n2nlib.pairs import ensure_pairs
from n2nlib.params import load_params
if __name__ == "__main__":
    params = load_params(overrides={"pairs": {"train": 320}, "ablation": {"epochs": 6, "crops_epochs": 3, "loss": ["mse"], "optimizer": ["adam"]}})
    results = sweep.train_all("ablation", experiments.ablation_runs(params), ensure_pairs(params), params)
    for result in results:
        print("RESULT", result.about["run"], repr(result.metrics(params)), result.about["files"])
"""


def _results(output: str) -> list[str]:
    return sorted(re.findall(r"^RESULT .*$", output, re.M))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the sweep of SWEEP gives when nothing happens to it."""
    project = _project(tmp_path_factory.mktemp("whole"))
    done = project.run(sys.executable, "sweep_for_test.py")
    assert done.returncode == 0, done.stderr
    assert len(_results(done.stdout)) == 8
    return _results(done.stdout)


def _project(folder: Path) -> Project:
    project = Project(folder)
    (folder / "params.yaml").write_text(SMOKE.read_text())
    (folder / "sweep_for_test.py").write_text(SWEEP)
    return project


def test_an_external_scheduler_with_a_worker_killed_in_the_middle(tmp_path: Path, expected: list[str]) -> None:
    project = _project(tmp_path)
    port = 18786 + os.getpid() % 1000
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    cluster = [project.start(*dask), project.start(*worker), project.start(*worker)]
    try:
        killer = threading.Thread(target=_kill_when_training, args=(project, cluster[1]))
        killer.start()
        project_environment = project.environment | {"N2N_SCHEDULER": address}
        done = subprocess.run([sys.executable, "sweep_for_test.py"], cwd=tmp_path, env=project_environment, capture_output=True, text=True, timeout=300)
        killer.join()
        assert done.returncode == 0, done.stderr
        assert cluster[1].wait(10) == -signal.SIGKILL
        assert _results(done.stdout) == expected
    finally:
        for process in cluster:
            process.kill()


def _kill_when_training(project: Project, process: subprocess.Popen) -> None:
    """SIGKILL as soon as a checkpoint shows that runs are under way."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(project.folder.glob("data/runs/.checkpoints/*.safetensors")):
        time.sleep(0.05)
    process.kill()


def test_a_killed_worker_of_the_local_cluster_is_replaced(tmp_path: Path, expected: list[str]) -> None:
    project = _project(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "sweep_for_test.py"], cwd=tmp_path, env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.glob("data/runs/.checkpoints/*.safetensors")):
        time.sleep(0.05)
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in " ".join(child.cmdline())]
    max(workers, key=lambda child: child.memory_info().rss).kill()
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert _results(output) == expected


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_ended_leaves_no_process_and_goes_on(tmp_path: Path, expected: list[str], how: signal.Signals) -> None:
    project = _project(tmp_path)
    process = project.start(sys.executable, "sweep_for_test.py")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(project.stored_runs()) < 3:
        time.sleep(0.02)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(how)
    process.wait(20)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    before = project.stored_runs()
    done = project.run(sys.executable, "sweep_for_test.py")
    assert done.returncode == 0, done.stderr
    assert _results(done.stdout) == expected
    after = project.stored_runs()
    assert {name: after[name] for name in before} == before


def test_params_of_every_scale_give_seventy_one_runs() -> None:
    for path in SMOKE.parent.glob("*.yaml"):
        params = load_params(path)
        candidates = published.table2()
        counts = [len(experiments.ablation_runs(params)), len(experiments.curve_runs(params, candidates))]
        counts.append(len(experiments.fine_tuning_runs(params, candidates.iloc[0])))
        assert counts == [32 * len(params.ablation.seeds), 3 * len(params.curves.seeds), 36 * len(params.fine_tuning.seeds)]
