"""Shared by the tests: small parameters, a small pair set, and copies of the project to run commands in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock

from n2nlib import __main__
from n2nlib.files import ROOT
from n2nlib.pairs.pair_set import PairSet, build_pairs, load_pairs
from n2nlib.params import Params, load_params
from n2nlib.train import runs
from n2nlib.train.runs import RunParams

hypothesis.settings.register_profile("no deadline", deadline=None)  # no test looks at a speed
hypothesis.settings.load_profile("no deadline")
torch.set_num_threads(1)  # tests run beside each other, and a worker process trains with one thread
SMOKE = ROOT / "params" / "smoke.yaml"
Main = Callable[..., tuple[int, str, str]]  # arguments -> exit status, output, errors
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


FIRST = ("test_pipeline.py", "test_sweep.py", "test_explore.py", "test_notebooks.py", "test_rebuilds.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, and the second one to need the rebuild comes when it is there."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def params() -> Params:
    """Scale smoke, as committed."""
    return load_params(SMOKE)


@pytest.fixture(scope="session")
def pair_set(params: Params, tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    folder = tmp_path_factory.mktemp("pairs")
    build_pairs(params, folder, say=lambda text: None)
    return load_pairs(folder)


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data/runs."""
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def subnormals() -> Iterator[None]:
    """Training in the test's own process makes it flush subnormal numbers, which hypothesis refuses."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Main:
    """Run the command line in this process: (exit status, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["n2nlib", *map(str, arguments)])
        status = __main__.main()
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def a_run(**changes: object) -> RunParams:
    """A small run with `changes`."""
    values = {
        "seed": 0,
        "width": 4,
        "arch": "upsample",
        "tau_sharp": 1.0,
        "loss": "mse",
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "annealing_steps": 1,
        "epochs": 3,
        "batch_size": 16,
        "sigma_n": 5.0,
        "flips": "image",
        "shared_noise": False,
        "crops": (),
        "precision": "float32",
    }
    return RunParams(**(values | changes))


def _copy(source: Path, target: Path) -> None:
    """Make `target` what `source` is, time stamps included."""
    if target.is_dir():
        shutil.rmtree(target)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


class Project:
    """A copy of the working tree in `folder`, with a git history of its own, to run commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def copy_of_the_tree(cls, folder: Path) -> Project:
        listing = ["git", "ls-files", "-co", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        project = cls(folder)
        project.git("init", "-q")
        project.git("config", "user.name", "test")
        project.git("config", "user.email", "test@example.org")
        project.commit()
        return project

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout

    def commit(self, *ignored: str) -> None:
        """Commit everything, and paths that .gitignore leaves out."""
        self.git("add", "-A")
        if ignored:
            self.git("add", "-f", *ignored)
        self.git("commit", "-qm", "state")

    @property
    def environment(self) -> dict[str, str]:
        """That of an activated environment whose n2nlib is the copy's."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        ours = {"PATH": path, "PYTHONPATH": str(self.folder), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        return os.environ | ours

    def run(
        self, *command: str, cwd: Path | None = None, **more_environment: str
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment | more_environment,
            capture_output=True,
            text=True,
            timeout=900,
            stdin=subprocess.DEVNULL,
        )

    def succeed(self, *command: str, cwd: Path | None = None, **more_environment: str) -> str:
        """Run a command that must succeed; returns its standard output."""
        done = self.run(*command, cwd=cwd, **more_environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def n2n(self, *arguments: str) -> str:
        return self.succeed(sys.executable, "-m", "n2nlib", *arguments)

    def start(self, *command: str) -> subprocess.Popen:
        """Start `command` as the leader of a process group of its own."""
        log = (self.folder / "started.log").open("a")
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill_after(self, process: subprocess.Popen, seconds: float) -> None:
        """Kill a started command with its process group and wait until all processes of it have ended."""
        time.sleep(seconds)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        _, alive = psutil.wait_procs(family, timeout=30)  # kernel and workers notice that they are orphans
        assert not alive

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    @contextmanager
    def restored(self, *paths: str) -> Iterator[None]:
        """Put files and folders back as they are now, and params.yaml and dvc.lock with them."""
        with tempfile.TemporaryDirectory() as scratch:
            copies = {
                path: Path(scratch) / str(number)
                for number, path in enumerate((*paths, "params.yaml", "dvc.lock"))
            }
            for path, copy in copies.items():
                _copy(self.folder / path, copy)
            try:
                yield
            finally:
                for path, copy in copies.items():
                    _copy(copy, self.folder / path)

    def reports(self, scale: str = "smoke") -> Path:
        return self.folder / "reports" / scale

    def tables(self, scale: str = "smoke") -> dict[str, str]:
        """The text of every result table, by "<notebook>/<table>.csv"."""
        found = sorted(self.reports(scale).glob("*/*.csv"))
        return {f"{path.parent.name}/{path.name}": path.read_text() for path in found}

    def stored_runs(self) -> dict[str, int]:
        """run.json of every finished run, by "<stage>/<run>", with the time it was written."""
        found = (self.folder / "data" / "runs").glob("[!.]*/*/run.json")
        return {f"{path.parent.parent.name}/{path.parent.name}": path.stat().st_mtime_ns for path in found}

    def metrics(self, scale: str = "smoke") -> dict[str, float]:
        return json.loads((self.reports(scale) / "06_discussion" / "metrics.json").read_text())


class Cluster:
    """A scheduler and its workers, each a process that Dask's own command line started.

    Their logs are in `folder`, and they import n2nlib from the folder `code`.
    """

    def __init__(self, folder: Path, code: Path = ROOT) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.code, self.address = folder, code, f"tcp://127.0.0.1:{port}"
        self.processes: list[subprocess.Popen] = []
        self.start("scheduler", "--host", "127.0.0.1", "--port", str(port))

    def start(self, kind: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options, "--no-dashboard"]
        environment = os.environ | {"PYTHONPATH": str(self.code), "OMP_NUM_THREADS": "1"}
        log = (self.folder / f"{kind}.log").open("a")
        process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def start_worker(self, name: str) -> subprocess.Popen:
        options = ["--nthreads", "1", "--no-nanny", "--preload", "n2nlib.train.sweep", "--name", name]
        return self.start("worker", self.address, *options)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def smoke_project(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Project:
    """A copy of the project whose scale smoke was rebuilt by DVC and committed, once for all tests.

    Each process of pytest gets a copy of its own. Whoever changes it puts it back.
    """
    base = tmp_path_factory.getbasetemp()
    built = (base if worker_id == "master" else base.parent) / "built"
    with FileLock(f"{built}.lock"):
        if not (built / "done").is_file():
            shutil.rmtree(built, ignore_errors=True)
            first = Project.copy_of_the_tree(built / "project")
            first.n2n("scale", "smoke")
            cluster = Cluster(built, first.folder)  # one for all sweeps
            try:
                for name in ("0", "1"):
                    cluster.start_worker(name)
                first.succeed("dvc", "repro", N2N_SCHEDULER=cluster.address)
            finally:
                cluster.stop()
            first.commit("reports/smoke")
            (built / "done").touch()
    folder = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(built / "project", folder, symlinks=True)
    return Project(folder)
