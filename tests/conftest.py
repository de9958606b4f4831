"""Shared by the tests: small parameters, small pair sets, copies of the project to run for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from n2nlib import runs
from n2nlib.files import ROOT
from n2nlib.pairs import PairSet, build_pairs, load_pairs
from n2nlib.params import Params, load_params
from n2nlib.sections import RunParams

SMOKE = ROOT / "params" / "smoke.yaml"


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


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def a_run(**changes: object) -> RunParams:
    """A small run; `changes` on top."""
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


class Project:
    """A copy of the project in a temporary folder, with a git history of its own, to run commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
            subprocess.run([*git, *command], cwd=folder, check=True)

    @property
    def environment(self) -> dict[str, str]:
        scripts = str(Path(sys.executable).parent)
        return os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(self.folder), "PYTHONUNBUFFERED": "1"}

    def run(self, *command: str, cwd: Path | None = None, timeout: float = 600) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

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

    def tables(self, scale: str = "smoke") -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self.folder / "reports" / scale / "tables").glob("*.csv"))}

    def stored_runs(self) -> dict[str, int]:
        """run.json of every finished run, with the time it was written."""
        found = (self.folder / "data" / "runs").glob("[!.]*/*/run.json")
        return {f"{path.parent.parent.name}/{path.parent.name}": path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="session")
def smoke_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project whose scale smoke was rebuilt, once for all tests; who changes it works on a copy of it or puts it back."""
    copy = Project(tmp_path_factory.mktemp("project"))
    for command in ([sys.executable, "-m", "n2nlib", "scale", "smoke"], ["dvc", "repro"]):
        done = copy.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    return copy
