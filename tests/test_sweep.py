"""Many runs on real Dask: nothing twice, killed workers, an external scheduler, failures; what is trained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import torch
from conftest import SMOKE, Cluster, a_run
from distributed import Client

from n2nlib.experiments import paper_runs, published
from n2nlib.files import ROOT, UserError, read_json
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params, load_params
from n2nlib.train import sweep
from n2nlib.train.runs import Planned, Result
from n2nlib.train.sweep import Progress, default_workers, duration, pick_device, train_all, train_and_store

CPU = torch.device("cpu")
KEYS = paper_runs.ABLATION


def _settings(table: pd.DataFrame) -> list[tuple]:
    return list(map(tuple, table[KEYS].to_numpy().tolist()))


def test_table_i_is_the_reports_with_our_numbers(params: Params) -> None:
    planned = paper_runs.ablation_runs(params)
    assert len(planned) == 32 * len(params.ablation.seeds)
    assert {tuple(one.row[key] for key in KEYS) for one in planned} == set(_settings(published.table1()))
    for one in planned:
        run, setting, options = one.run, one.row, params.ablation
        assert run.epochs == (options.crops_epochs if setting["crops"] else options.epochs)
        assert run.crops == ((params.training.global_crop, params.training.local_crop) * setting["crops"])
        assert run.tau_sharp == params.training.tau_sharp * setting["sharpen"]
        rates = getattr(options.learning_rates, setting["optimizer"])
        assert run.learning_rate == getattr(rates, setting["loss"])
        assert (run.arch, run.loss, run.optimizer) == tuple(
            setting[key] for key in ("arch", "loss", "optimizer")
        )
        assert (run.warmup, run.batch_size) == (params.training.warmup, params.training.batch_size)
        assert (run.residual, run.normalized, run.target, run.init) == (False, False, "noisy", "library")
        assert (run.schedule, run.averaging, run.seed) == ("steps", 0, setting["seed"])


def test_candidates_are_found_and_not_typed() -> None:
    table1 = published.table1()
    report = published.table2().astype({"candidate": str})
    found = paper_runs.top_candidates(table1, 3)
    assert list(found["candidate"]) == ["A", "B", "C"]
    assert _settings(found) == _settings(report)
    two_seeds = pd.concat([table1.assign(psnr_mean=table1["psnr_mean"] + more) for more in (0, 1)])
    pd.testing.assert_frame_equal(paper_runs.top_candidates(two_seeds, 3), found)
    turned = paper_runs.top_candidates(table1.assign(psnr_mean=-table1["psnr_mean"]), 2)
    worst = table1.sort_values("psnr_mean").head(2)
    assert _settings(turned) == _settings(worst)


def test_curves_are_trained_for_both_lists(params: Params) -> None:
    ours = paper_runs.top_candidates(published.table1().iloc[::-1], 3)
    candidates = paper_runs.candidate_lists(ours)
    planned = paper_runs.curve_runs(params, candidates)
    assert "".join(one.row["candidate"] for one in planned) == "ABC123"
    for one, candidate in zip(planned, candidates.to_dict("records"), strict=True):
        assert one.run.arch == candidate["arch"]
        assert bool(one.run.crops) == candidate["crops"]
        assert one.run.validate_every_epoch


def test_table_iii_and_the_final_model(params: Params) -> None:
    candidate = published.table2().iloc[1]
    planned, options = paper_runs.fine_tuning_runs(params, candidate), params.fine_tuning
    rates = options.learning_rate.adam
    grid = [options.sigma_n, options.tau_sharp, rates, options.annealing_steps, options.seeds]
    rows = {tuple(one.row.values()) for one in planned}
    assert len(rows) == len(planned) == len(pd.MultiIndex.from_product(grid))
    assert rows == set(pd.MultiIndex.from_product(grid))
    for one in planned:
        run = one.run
        assert (run.sigma_n, run.tau_sharp, run.learning_rate, run.annealing_steps, run.seed) == tuple(
            one.row.values()
        )
        assert (run.arch, run.loss, run.epochs) == ("tconv", candidate["loss"], options.epochs)
        assert not run.validate_every_epoch
    final = paper_runs.final_runs(params, candidate, published.table3())[0]
    assert tuple(final.row[key] for key in paper_runs.FINE_TUNING) == (1, 1, 0.001, 0)
    assert final.run.epochs == options.final_epochs
    assert (final.run.sigma_n, final.run.tau_sharp, final.run.learning_rate) == (1, 1, 0.001)
    twin = paper_runs.clean_twin(final)
    assert twin.run == final.run.model_copy(update={"target": "clean"})
    cropped = paper_runs.final_runs(params, candidate.to_dict() | {"crops": True}, published.table3())[0]
    assert cropped.run.epochs == max(1, options.final_epochs // 2)


def test_the_final_model_has_the_best_mean_over_seeds(params: Params) -> None:
    table3 = pd.concat([published.table3().assign(seed=seed) for seed in (0, 1)], ignore_index=True)
    lucky = table3.index[(table3["tau_sharp"] == 2) & (table3["seed"] == 0)][0]
    best = table3["psnr_mean"].max()
    table3.loc[lucky, "psnr_mean"] = best + 1  # and its other seed lies more than 1 dB below the best
    other = (table3[paper_runs.FINE_TUNING] == table3.loc[lucky, paper_runs.FINE_TUNING]).all(axis=1)
    table3.loc[other & (table3["seed"] == 1), "psnr_mean"] = best - 2
    seeds = {"fine_tuning": params.fine_tuning.model_copy(update={"seeds": (0, 7)})}
    finals = paper_runs.final_runs(params.model_copy(update=seeds), published.table2().iloc[1], table3)
    assert [one.run.seed for one in finals] == [0, 7]
    final = finals[0]
    assert tuple(final.row[key] for key in paper_runs.FINE_TUNING) == (1, 1, 0.001, 0)


def test_the_candidate_is_the_best_after_the_short_cycle() -> None:
    candidates = published.table2()
    values = {1: [20, 21, 22, 25], 2: [20, 22, 23, 24], 3: [23, 21, 20, 19]}
    curves = pd.DataFrame(
        [
            {"candidate": candidate, "seed": 0, "epoch": epoch, "psnr_mean": value}
            for candidate, line in values.items()
            for epoch, value in enumerate(line, 1)
        ]
    )
    chosen = [
        paper_runs.choose_candidate(curves, candidates, epochs)["candidate"] for epochs in (1, 3, 4, 99)
    ]
    assert chosen == [3, 2, 1, 1]
    with_crops = candidates.assign(crops=[False, False, True])
    # A candidate with crops is read after one epoch of twice the images.
    assert paper_runs.choose_candidate(curves, with_crops, 2)["candidate"] == 3
    ours = candidates[candidates["candidate"] != 3]
    assert paper_runs.choose_candidate(curves, ours, 1)["candidate"] == 1  # whatever else has a curve
    diverged = pd.DataFrame([{"candidate": 1, "seed": 1, "epoch": 1, "psnr_mean": 5.0}])
    both = pd.concat([curves, diverged])  # a run that ended early counts with where it ended
    assert paper_runs.choose_candidate(both, ours, 99)["candidate"] == 2


@pytest.mark.parametrize("path", sorted(SMOKE.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_scale_trains_whole_tables(path: Path) -> None:
    params = load_params(path)
    candidates = paper_runs.candidate_lists(paper_runs.top_candidates(published.table1(), 3))
    assert len(paper_runs.ablation_runs(params)) == 32 * len(params.ablation.seeds)
    assert len(paper_runs.curve_runs(params, candidates)) == len(candidates) * len(params.curves.seeds)
    options = params.fine_tuning
    for optimizer in ("adam", "sgd"):
        candidate = candidates.iloc[0].to_dict() | {"optimizer": optimizer}
        rates = len(getattr(options.learning_rate, optimizer))
        count = len(options.sigma_n) * len(options.tau_sharp) * rates * len(options.annealing_steps)
        assert len(paper_runs.fine_tuning_runs(params, candidate)) == count * len(options.seeds)


@pytest.mark.parametrize("path", sorted(SMOKE.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_rows_with_and_without_crops_see_as_many_images(path: Path) -> None:
    """At a whole number of batches an epoch they then take as many steps, too."""
    params = load_params(path)
    for section in (params.ablation, params.curves):
        assert section.epochs == 2 * section.crops_epochs


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(UserError, match="device = 'cuda'"):
        pick_device("cuda")


def test_a_worker_refuses_another_pair_set(pair_set: PairSet) -> None:
    with pytest.raises(UserError, match="not the pair set that this sweep was started with"):
        sweep._pairs(str(pair_set.folder), "another hash")


def test_larger_images_count_by_their_area(params: Params) -> None:
    pairs = SimpleNamespace(train={"noisy_1": torch.empty(10, 3, 64, 64)})
    assert sweep._work(a_run(epochs=3), pairs, params) == 4 * 3 * 10


def test_a_duration_has_at_most_two_units() -> None:
    texts = ["0 s", "59 s", "1 min 00 s", "3 min 20 s", "1 h 00 min", "2 h 05 min"]
    assert [duration(seconds) for seconds in (0, 59.4, 60, 200, 3600, 7500)] == texts


def test_progress_tells_the_time_that_is_left(capsys: pytest.CaptureFixture) -> None:
    progress = Progress(12, 2, 1000)
    progress.started -= 10
    progress.on_event((0.0, {"run": "a", "epoch": 1, "images": 250}))
    progress.finished += 1
    progress.line("a run")
    assert capsys.readouterr().out == "[ 3/12] a run | 25 images/s, 30 s left\n"
    progress.on_event((0.0, {"run": "a", "epoch": 2, "images": 250}))
    progress.on_event((0.0, {"run": "b", "epoch": 1, "images": 500}))
    progress.line("a run")
    assert capsys.readouterr().out == "[ 3/12] a run | 100 images/s, nearly done\n"
    progress.finished = 12
    progress.line("a run")
    assert capsys.readouterr().out == "[12/12] a run | 100 images/s, done\n"


def test_what_was_seen_before_an_interruption_takes_no_time(capsys: pytest.CaptureFixture) -> None:
    progress = Progress(2, 1, 1000)
    progress.started -= 10
    progress.on_event((0.0, {"run": "a", "epoch": 8, "images": 100}))
    progress.line("training")
    assert capsys.readouterr().out == "[1/2] training | 10 images/s, 20 s left\n"
    progress.on_event((0.0, {"run": "a", "epoch": 9, "images": 100}))
    progress.line("training")
    assert capsys.readouterr().out == "[1/2] training | 20 images/s, 5 s left\n"


def test_no_speed_is_told_before_any_image_was_seen(capsys: pytest.CaptureFixture) -> None:
    Progress(12, 2, 1000).line("training")
    assert capsys.readouterr().out == "[ 2/12] training\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot limit the cores")
def test_as_many_workers_as_asked_for_or_cores(params: Params) -> None:
    asked = params.model_copy(update={"sweep": params.sweep.model_copy(update={"workers": 5})})
    assert default_workers(asked) == 5
    on_cpu = params.model_copy(update={"device": "cpu"})
    allowed = os.sched_getaffinity(0)
    assert default_workers(on_cpu) <= len(allowed)  # fewer if the container may use only a part of their time
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert default_workers(on_cpu) == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler with one worker, for the tests that are about neither."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        started.start_worker("0")
        yield started
    finally:
        started.stop()


@pytest.fixture
def on_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("N2N_SCHEDULER", cluster.address)
    return cluster


def _planned(count: int, **changes: object) -> list[Planned]:
    return [Planned({"seed": seed}, a_run(seed=seed, **changes)) for seed in range(count)]


@pytest.mark.usefixtures("on_cluster")
def test_a_repeated_sweep_trains_only_what_is_missing(
    pair_set: PairSet, params: Params, runs_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    nobody = params.sweep.model_copy(update={"scheduler": "tcp://127.0.0.1:1"})
    params = params.model_copy(update={"sweep": nobody})  # the variable of the environment takes precedence
    first = train_all("t", _planned(2), pair_set, params)
    output = capsys.readouterr().out
    assert "2 to train" in output
    assert "[2/2]" in output
    assert "\r" not in output
    written = [(result.folder / "run.json").stat().st_mtime_ns for result in first]
    twice = [*_planned(3), *_planned(1)]
    second = train_all("t", twice, pair_set, params)
    output = capsys.readouterr().out
    assert "3 runs, 2 on disk; 1 to train" in output
    assert [(result.folder / "run.json").stat().st_mtime_ns for result in second[:2]] == written
    assert [result.about["parameters"]["seed"] for result in second] == [0, 1, 2, 0]
    train_all("t", twice, pair_set, params)
    assert "nothing to train, runs on disk: 3" in capsys.readouterr().out
    elsewhere = train_all("other", _planned(3), pair_set, params)
    assert [result.folder for result in elsewhere] == [result.folder for result in second[:3]]
    assert list((runs_folder / "other").iterdir()) == []  # an output of DVC, so it must be there


@pytest.mark.usefixtures("on_cluster")
def test_runs_that_are_only_measured_again_are_told_apart(
    pair_set: PairSet, params: Params, runs_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    first = train_all("t", _planned(3, epochs=1), pair_set, params)
    for result in first[:2]:
        (result.folder / "measured.safetensors").unlink()
    (first[2].folder / "model.safetensors").write_bytes(b"damaged")
    capsys.readouterr()
    train_all("t", _planned(4, epochs=1), pair_set, params)
    heading, *lines = capsys.readouterr().out.splitlines()
    images = 2 * params.pairs.train
    assert f"4 runs, 2 on disk; 2 to train ({images} images), 2 to measure again on 1 process." in heading
    assert sum("dB measured again" in line for line in lines) == 2
    (first[0].folder / "measured.safetensors").unlink()
    train_all("t", _planned(1, epochs=1), pair_set, params)
    heading, line = capsys.readouterr().out.splitlines()
    assert heading == "t: 1 runs, 1 on disk; 1 to measure again on 1 process."
    assert "images/s" not in line


@pytest.mark.usefixtures("on_cluster")
def test_a_worker_gives_what_this_process_gives(pair_set: PairSet, params: Params, runs_folder: Path) -> None:
    planned = _planned(1, arch="tconv", averaging=0.9, crops=((0.7, 1.0), (0.05, 0.4)))
    (found,) = train_all("t", planned, pair_set, params)
    torch.set_num_threads(1)
    here = train_and_store(runs_folder / "here" / "t", planned[0].run, pair_set, CPU)
    assert found.about["files"] == here.about["files"]
    assert found.about["measured"] == here.about["measured"]


@pytest.mark.usefixtures("on_cluster")
def test_neither_a_diverged_nor_a_failed_run_stops_the_others(
    pair_set: PairSet, params: Params, runs_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    diverged = Planned({}, a_run(optimizer="sgd", learning_rate=1e12))
    failing = Planned({}, a_run(resample=True, epochs=9))  # of pairs without blocks; the longest comes first
    with pytest.raises(UserError, match="no blocks were kept"):
        train_all("t", [failing, diverged, *_planned(1)], pair_set, params)
    output = capsys.readouterr().out
    assert "FAILED" in output
    assert "DIVERGED" in output
    assert "Traceback" not in output
    found = train_all("t", [diverged, *_planned(1)], pair_set, params)
    assert [result.diverged for result in found] == [True, False]
    assert "nothing to train, runs on disk: 2" in capsys.readouterr().out


@pytest.mark.usefixtures("on_cluster")
def test_several_pair_sets_in_one_sweep(
    pair_set: PairSet, params: Params, runs_folder: Path, tmp_path: Path
) -> None:
    from n2nlib.pairs.pair_set import build_pairs, load_pairs

    build_pairs(params.model_copy(update={"seed": 1}), tmp_path / "other", say=lambda text: None)
    sets = {"": pair_set, "other": load_pairs(tmp_path / "other")}
    planned = [Planned({}, a_run(epochs=1), name) for name in ("other", "")]
    found = train_all("t", planned, sets, params)
    assert [result.about["pairs"] for result in found] == [sets["other"].hash, pair_set.hash]


def test_no_scheduler_at_the_address(
    pair_set: PairSet, params: Params, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("N2N_SCHEDULER", raising=False)
    nobody = params.sweep.model_copy(update={"scheduler": "tcp://127.0.0.1:1"})
    params = params.model_copy(update={"sweep": nobody})
    monkeypatch.setattr(sweep, "CONNECT", 1)
    said = r"sweep\.scheduler = 'tcp://127\.0\.0\.1:1': no Dask scheduler answers"
    with pytest.raises(UserError, match=said):
        train_all("t", _planned(1), pair_set, params)


# A script as a user may write it: without a `__main__` guard.
SCRIPT = """
import sys
from pathlib import Path

from n2nlib.pairs.pair_set import load_pairs
from n2nlib.params import load_params
from n2nlib.train import runs, sweep

print("STARTED", flush=True)
smoke, pairs, *planned = sys.argv[1:]
runs.RUNS = Path("runs").resolve()
planned = [runs.Planned({}, runs.RunParams.model_validate_json(one)) for one in planned]
params = load_params(smoke, {"sweep": {"workers": 1}})
results = sweep.train_all("t", planned, load_pairs(Path(pairs)), params)
print("DONE", len(results), Path(__file__).name, __name__)
"""
LONG = {"epochs": 20, "width": 6, "batch_size": 8}  # about a second
MANY = 8  # long runs: two workers cannot finish them while a sweep ends


@pytest.fixture(scope="module")
def expected(pair_set: PairSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """What the long runs give when nothing happens to them, by their names."""
    torch.set_num_threads(1)
    stage = tmp_path_factory.mktemp("whole") / "t"
    results = [train_and_store(stage, one.run, pair_set, CPU) for one in _planned(MANY, **LONG)]
    return {result.name: result for result in results}


def _wait_for(happens: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)


def _stored(root: Path) -> dict[str, int]:
    """run.json of every stored run, by the name of the run, with the time it was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in root.glob("t/*/run.json")}


def _in_training(root: Path) -> set[str]:
    """The names of the runs that have a checkpoint and are not stored."""
    return {path.stem for path in root.glob(".checkpoints/*.safetensors")} - _stored(root).keys()


def _check(root: Path, names: list[str], expected: dict[str, Result]) -> None:
    """The runs on disk have the bytes of `expected`."""
    assert sorted(_stored(root)) == sorted(names)
    for name in names:
        about = read_json(root / "t" / name / "run.json")
        assert about["files"] == expected[name].about["files"]
        assert about["measured"] == expected[name].about["measured"]
    assert not list(root.glob(".checkpoints/*"))


def _start_script(folder: Path, pairs: PairSet, planned: list[Planned]) -> subprocess.Popen:
    """SCRIPT in `folder`, as the leader of a process group of its own."""
    (folder / "my_sweep.py").write_text(SCRIPT)
    runs = [one.run.model_dump_json() for one in planned]
    return subprocess.Popen(
        [sys.executable, "my_sweep.py", str(SMOKE), str(pairs.folder), *runs],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "N2N_SCHEDULER": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_in_a_script_without_a_main_guard_a_killed_worker_is_replaced(
    pair_set: PairSet, tmp_path: Path, expected: dict[str, Result]
) -> None:
    names = list(expected)[:2]
    process = _start_script(tmp_path, pair_set, _planned(2, **LONG))
    _wait_for(lambda: _in_training(tmp_path / "runs"))
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    max(workers, key=lambda child: child.memory_info().rss).kill()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("STARTED") == 1  # no worker runs the script again
    assert "DONE 2 my_sweep.py __main__" in output
    _check(tmp_path / "runs", names, expected)


@pytest.mark.usefixtures("on_cluster")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_ended_leaves_no_process_and_resumes(
    pair_set: PairSet,
    params: Params,
    runs_folder: Path,
    tmp_path: Path,
    expected: dict[str, Result],
    how: signal.Signals,
) -> None:
    process = _start_script(tmp_path, pair_set, _planned(MANY, **LONG))
    _wait_for(lambda: _stored(runs_folder) and _in_training(runs_folder))
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(how)
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
    before = _stored(runs_folder)
    assert 1 <= len(before) < MANY
    train_all("t", _planned(MANY, **LONG), pair_set, params)
    _check(runs_folder, list(expected), expected)
    after = _stored(runs_folder)
    assert {name: after[name] for name in before} == before


def test_an_external_scheduler_with_a_worker_killed_in_the_middle(
    pair_set: PairSet,
    params: Params,
    runs_folder: Path,
    expected: dict[str, Result],
    on_cluster: Cluster,
) -> None:
    victim = on_cluster.start_worker("victim")
    killed: list[str] = []

    def kill_when_training() -> None:
        with Client(on_cluster.address, set_as_default=False) as observer:

            def of_victim() -> set[str]:
                workers = observer.scheduler_info(n_workers=-1)["workers"]
                address = next(key for key, worker in workers.items() if worker["id"] == "victim")
                return {str(key).removeprefix("t/") for key in observer.processing()[address]}

            _wait_for(lambda: _in_training(runs_folder) & of_victim())
            killed.extend(of_victim())
            victim.kill()

    with Client(on_cluster.address, set_as_default=False) as observer:
        observer.wait_for_workers(2, timeout=60)
    killer = threading.Thread(target=kill_when_training)
    killer.start()
    train_all("t", _planned(2, **LONG), pair_set, params)
    killer.join()
    assert victim.wait(10) == -signal.SIGKILL
    names = list(expected)[:2]
    assert len(killed) == 1
    assert killed[0] in names
    _check(runs_folder, names, expected)
