"""A run: its parameters, what identifies it, and its folder.

A run is identified by its parameters, its pair set and the code that trains, compared by meaning. Its folder
data/runs/<stage>/<run>/ holds

    run.json              what was trained, with what, where and for how long
    history.csv           one row per epoch, see HISTORY
    curve.safetensors     the errors of each validation image after each validated epoch
    measured.safetensors  what `evaluate.measure` measures on the finished run, with an identity of its own
    model.safetensors     the network

A folder is made under another name and then renamed: a run is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from n2nlib import metrics
from n2nlib.files import ROOT, UserError, file_digest, full_disk_explained, relative, replacing, write_json
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Params
from n2nlib.train.evaluate import measure
from n2nlib.train.identity import RunParams, identity, measuring_code, run_name, training_code
from n2nlib.train.network import Network, load_network, save_network

RUNS = ROOT / "data" / "runs"
MODEL, CURVE, MEASURED = "model.safetensors", "curve.safetensors", "measured.safetensors"


@dataclass(frozen=True)
class Planned:
    """A row of a table before it is trained: the columns that describe it, and the run behind it."""

    row: dict[str, object]
    run: RunParams
    pairs: str = ""  # the pair set that it trains on, if a sweep has several


@dataclass(frozen=True)
class Result:
    """A finished run, as read from its folder."""

    folder: Path
    about: dict[str, Any]  # run.json
    errors: dict[str, np.ndarray]  # what `evaluate.measure` returns
    curve: dict[int, dict[str, np.ndarray]]  # epoch -> mse and mse_report of each validation image after it

    @property
    def name(self) -> str:
        return self.about["run"]

    @property
    def diverged(self) -> bool:
        return self.about["status"] == "diverged"

    @property
    def history(self) -> pd.DataFrame:
        """A row per epoch: epoch, images, learning_rate, train_loss, psnr_full, report_full (dB, NaN if not
        validated)."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def model(self) -> Path:
        """The file of its network. Raises `UserError` if it was not kept."""
        if MODEL not in self.about["files"]:
            raise UserError(
                f"{relative(self.folder)}: its model was not kept (python -m n2nlib train --slim); "
                "remove the folder to train it again"
            )
        return self.folder / MODEL

    def metrics(self, params: Params) -> dict[str, float]:
        """What tables show of a run after its last epoch, all in dB but ssim.

        Validation as trained: psnr_mean and psnr_std over subsets, psnr_full, psnr_per_image, psnr_hvs_m,
        ssim; with the report's evaluation: report_mean, report_std, report_full, and peak_change, see
        `metrics.peak_change`. Test set (NaN without one): test_full, test_per_image, test_report_full.
        """
        summary = metrics.summarize(self.errors["mse"], params.evaluation, params.seed)
        mean, std = metrics.subset_psnr(self.errors["mse_report"], params.evaluation, params.seed)
        summary |= {"report_mean": mean, "report_std": std}
        summary["report_full"] = metrics.psnr_full(self.errors["mse_report"])
        highest = self.errors["highest_report"]
        summary["peak_change"] = metrics.peak_change(highest, params.evaluation, params.seed)
        summary |= {name: float(self.errors[name].mean()) for name in ("psnr_hvs_m", "ssim")}
        nothing = np.array([np.nan])
        test, report = (self.errors.get(name, nothing) for name in ("test_mse", "test_mse_report"))
        summary |= {"test_full": metrics.psnr_full(test), "test_per_image": metrics.psnr_per_image(test)}
        return summary | {"test_report_full": metrics.psnr_full(report)}


def find(stage: Path, run: RunParams, pairs_hash: str) -> Result | None:
    """The finished and measured run in the folder `stage`, or in that of another stage that trained it, too.

    None if it is not there, damaged, or measured by other code: `measure_again` then measures it.
    """
    found = (_read(folder, run, pairs_hash) for folder in _folders(stage, run_name(run, pairs_hash)))
    return next((result for result in found if result), None)


def _folders(stage: Path, name: str) -> list[Path]:
    """Where a run is on disk: in the folder of its stage, or in that of another one."""
    return sorted(stage.parent.glob(f"[!.]*/{name}"), key=lambda folder: (folder.parent != stage, folder))


def _read(folder: Path, run: RunParams, pairs_hash: str) -> Result | None:
    try:
        about = _about(folder, run, pairs_hash)
        measured = folder / MEASURED
        if about["measured"] != {"code": measuring_code(), "sha256": file_digest(measured)}:
            return None
        curve: dict[int, dict[str, np.ndarray]] = {}
        for key, values in load_file(folder / CURVE).items():
            epoch, name = key.split("/")
            curve.setdefault(int(epoch), {})[name] = values
        return Result(folder, about, load_file(measured), curve)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def _about(folder: Path, run: RunParams, pairs_hash: str) -> dict[str, Any]:
    """run.json. Raises ValueError if it is another run, or if a file is not what run.json says."""
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if about["identity"] != identity(run, pairs_hash):
        raise ValueError("another run")
    if any(file_digest(folder / name) != expected for name, expected in about["files"].items()):
        raise ValueError("damaged")
    return about


def with_model(stage: Path, run: RunParams, pairs_hash: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders that hold the whole run with its model, and their run.json: it need not be trained."""
    for folder in _folders(stage, run_name(run, pairs_hash)):
        try:
            about = _about(folder, run, pairs_hash)
            kept = MODEL in about["files"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if kept:
            yield folder, about


def measure_again(stage: Path, run: RunParams, pairs: PairSet, device: torch.device) -> Result | None:
    """Measure a finished run that other code measured; None if there is no whole run with its model here."""
    for folder, about in with_model(stage, run, pairs.hash):
        try:
            network, _ = load_network(folder / MODEL)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
            continue
        measured = _measure(folder, network.to(device), pairs, device)
        write_json(folder / "run.json", about | {"measured": measured})
        return find(stage, run, pairs.hash)
    return None


def _measure(folder: Path, network: Network, pairs: PairSet, device: torch.device) -> dict[str, str]:
    """Write the measurements of a run; returns what identifies them."""
    with replacing(folder / MEASURED) as temporary:
        save_file(measure(network, pairs.validation, pairs.test, device), temporary)
    return {"code": measuring_code(), "sha256": file_digest(folder / MEASURED)}


def forget_model(result: Result) -> None:
    """Remove the model of a run, which is nearly all of its size; its numbers stay and it counts as whole."""
    files = {name: expected for name, expected in result.about["files"].items() if name != MODEL}
    write_json(result.folder / "run.json", result.about | {"files": files})
    (result.folder / MODEL).unlink(missing_ok=True)


def checkpoint_of(stage: Path, run: RunParams, pairs_hash: str) -> Path:
    """Where the unfinished run keeps its state."""
    return stage.parent / ".checkpoints" / f"{run_name(run, pairs_hash)}.safetensors"


def store(stage: Path, run: RunParams, pairs: PairSet, state: Any, device: torch.device) -> Result:
    """Write the folder of a run from its `loop.TrainingState` and read it back.

    Raises `UserError` if the disk is full, or if the folder changed while it was written.
    """
    folder = stage / run_name(run, pairs.hash)
    workshop = stage.parent / ".checkpoints"
    stage.mkdir(parents=True, exist_ok=True)
    workshop.mkdir(exist_ok=True)
    with full_disk_explained(folder), tempfile.TemporaryDirectory(prefix="storing-", dir=workshop) as name:
        made = Path(name) / folder.name
        made.mkdir()
        frame = pd.DataFrame(state.history, columns=HISTORY)
        frame.to_csv(made / "history.csv", index=False, float_format="%.9g")
        curve = {f"{epoch}/{name}": x for epoch, found in state.curve.items() for name, x in found.items()}
        save_file(curve, made / CURVE)
        save_network(state.evaluation_network, made / MODEL)
        about = {
            "run": folder.name,
            "identity": identity(run, pairs.hash),
            "status": "diverged" if state.diverged else "finished",
            "parameters": run.model_dump(mode="json"),
            "pairs": pairs.hash,
            "code": training_code(run),
            "measured": _measure(made, state.evaluation_network, pairs, device),
            "images": int(state.history[-1]["images"]),
            "seconds": round(state.seconds, 2),
            "machine": machine(device),
            "precision": str(state.network.unet.dtype).removeprefix("torch."),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "files": {name: file_digest(made / name) for name in ("history.csv", CURVE, MODEL)},
        }
        write_json(made / "run.json", about)
        if not _read(folder, run, pairs.hash):  # another process may have been faster: the same bytes
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been found
            made.replace(folder)
    result = find(stage, run, pairs.hash)
    if result is None:
        raise UserError(f"{relative(folder)}: changed on disk while it was written; start again")
    return result


HISTORY = ["epoch", "images", "learning_rate", "train_loss", "psnr_full", "report_full"]


def machine(device: torch.device) -> str:
    """The processor or GPU that trains, by its name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    return f"{name}, {os.cpu_count()} cores"
