"""A run: its parameters, what identifies it, and its folder.

A run is identified by its parameters, its pair set and the code that trains, compared by meaning. Its folder
data/runs/<stage>/<run>/ holds

    run.json              what was trained, with what, where and for how long
    history.csv           one row per epoch, see HISTORY
    curve.safetensors     the errors of each validation image after each validated epoch
    measured.safetensors  what `evaluate.measure` measures on the finished run, with an identity of its own
    metrics.json          the same in a few numbers, for people
    model.safetensors     the network

A folder is made under another name and then renamed: a run is there whole or not at all.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from n2nlib import metrics
from n2nlib.files import (
    ROOT,
    UserError,
    digest,
    file_digest,
    full_disk,
    relative,
    replacing,
    write_json,
)
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import Count, CropScale, Float, NonNegative, Optimizer, Params, Positive, Section, Seed
from n2nlib.train.evaluate import measure
from n2nlib.train.network import Network, load_network, save_network

RUNS = ROOT / "data" / "runs"
MODEL, CURVE, MEASURED = "model.safetensors", "curve.safetensors", "measured.safetensors"
# The modules whose code trains, and those that measure a finished run, under names that stay when files move.
TRAINING = {
    "augmentation": "augment.py",
    "graph": "cuda_graph.py",
    "loop": "loop.py",
    "network": "network.py",
}
GATED = {"gated": "gated.py"}
MEASURING = {"evaluation": "evaluate.py", "metrics": "../metrics.py"}


class RunParams(Section):
    """Everything about one training that can change its numbers, except its pairs and the code."""

    seed: Seed
    width: Count
    arch: Literal["tconv", "upsample", "gated"]  # gated: the network of the best model, not in the report
    init: Literal["library", "fan_in"] = "library"  # of transposed convolutions, see `Network.initialize`
    residual: bool = False
    normalized: bool = False
    tau_sharp: NonNegative  # 0: no sharpening
    target: Literal["noisy", "clean"] = "noisy"
    loss: Literal["l1", "mse", "huber"]
    optimizer: Optimizer
    learning_rate: Positive
    schedule: Literal["steps", "one_cycle"] = "steps"
    warmup: Annotated[Float, Field(ge=0, lt=1)] = 0.0  # share of the steps
    annealing_steps: Annotated[int, Field(ge=0)]  # of schedule "steps"
    averaging: Annotated[Float, Field(ge=0, lt=1)] = 0.0  # decay a step of averaged weights; 0: none
    epochs: Count
    batch_size: Count  # images a step, crops included
    sigma_n: NonNegative
    flips: Literal["image", "batch", "none"]
    shared_noise: bool
    resample: bool = False  # new noisy versions in every epoch
    crops: tuple[CropScale, ...]  # one crop of each pair an epoch for each; none: the whole image
    precision: Literal["float32", "bfloat16"]
    validate_every_epoch: bool = True  # False: after the last epoch only


@dataclass(frozen=True)
class Planned:
    """A row of a table before it is trained: the columns that describe it, and the run behind it."""

    row: dict[str, object]
    run: RunParams
    pairs: str = ""  # the pair set that it trains on, if a sweep has several


class _Meaning(ast.NodeTransformer):
    """Drop what computes nothing: docstrings, imports, type hints, printed text and the text of errors."""

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant):
            return None
        if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "print":
            return None
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:  # a field of a dataclass
            return ast.Expr(node.target)
        return self.generic_visit(ast.Assign([node.target], node.value))


def meaning(source: str) -> str:
    """The parsed source without comments, docstrings, imports, type hints and messages."""
    return ast.dump(_Meaning().visit(ast.parse(source)))


@cache
def code_identity(*groups: tuple[tuple[str, str], ...], folder: Path = Path(__file__).parent) -> str:
    """SHA-256 of the meaning of modules, given as (logical name, file) in groups."""
    files = {name: file for group in groups for name, file in group}
    return digest({name: meaning((folder / file).read_text("utf-8")) for name, file in files.items()})


def _code(run: RunParams) -> str:
    groups = [TRAINING] + [GATED] * (run.arch == "gated")
    return code_identity(*(tuple(group.items()) for group in groups))


def _measuring() -> str:
    return code_identity(tuple(MEASURING.items()))


def identity(run: RunParams, pairs_hash: str) -> str:
    """SHA-256 of all that can change the numbers of a run: parameters, pairs and the code that trains."""
    parameters = run.model_dump(mode="json")
    return digest({"parameters": parameters, "pairs": pairs_hash, "code": _code(run), "peak": metrics.PEAK})


def run_name(run: RunParams, pairs_hash: str) -> str:
    """A readable and unique name, which ends in the first 12 digits of the identity."""
    words = [run.arch, run.loss, run.optimizer]
    words += [f"sharp{run.tau_sharp:g}"] * bool(run.tau_sharp) + ["crops"] * bool(run.crops)
    words += [word for word in ("residual", "normalized", "resample") if getattr(run, word)]
    words += ["clean"] * (run.target == "clean") + ["shared"] * run.shared_noise
    words += ["fanin"] * (run.init == "fan_in") + ["onecycle"] * (run.schedule == "one_cycle")
    words += [f"average{run.averaging:g}"] * bool(run.averaging)
    words += [f"sigma{run.sigma_n:g}", f"lr{run.learning_rate:g}", f"k{run.annealing_steps}"]
    words += [f"b{run.batch_size}", f"e{run.epochs}", f"s{run.seed}"]
    return "-".join([*words, identity(run, pairs_hash)[:12]])


def images_of(run: RunParams, pairs_count: int) -> int:
    """How many images a whole training puts through the network, forward and back."""
    return run.epochs * pairs_count * max(1, len(run.crops))


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
        """A row an epoch: epoch, images, learning_rate, train_loss, psnr_full, report_full (dB, NaN if not
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
        """What tables show of a run after its last epoch, dB unless named.

        Validation as trained: psnr_mean and psnr_std over subsets, psnr_full, psnr_per_image, psnr_hvs_m,
        ssim; as the report evaluated: report_mean, report_std, report_full. Test set (NaN without one):
        test_full, test_per_image, test_report_full.
        """
        summary = metrics.summarize(self.errors["mse"], params.evaluation, params.seed)
        mean, std = metrics.subset_psnr(self.errors["mse_report"], params.evaluation, params.seed)
        summary |= {"report_mean": mean, "report_std": std}
        summary["report_full"] = metrics.psnr_full(self.errors["mse_report"])
        summary |= {name: float(self.errors[name].mean()) for name in ("psnr_hvs_m", "ssim")}
        test = self.errors.get("test_mse", np.array([np.nan]))
        summary["test_full"], summary["test_per_image"] = (
            metrics.psnr_full(test),
            metrics.psnr_per_image(test),
        )
        report = self.errors.get("test_mse_report", np.array([np.nan]))
        return summary | {"test_report_full": metrics.psnr_full(report)}


def find(stage: Path, run: RunParams, pairs_hash: str) -> Result | None:
    """The finished and measured run in the folder `stage`, or in that of another stage that trained it, too.

    None if it is not there, damaged, or measured by other code: `measure_again` then measures it.
    """
    name = run_name(run, pairs_hash)
    others = sorted(stage.parent.glob(f"[!.]*/{name}"))
    found = (_read(folder, run, pairs_hash) for folder in (stage / name, *others))
    return next((result for result in found if result), None)


def _read(folder: Path, run: RunParams, pairs_hash: str) -> Result | None:
    try:
        about = _about(folder, run, pairs_hash)
        measured = folder / MEASURED
        if about["measured"] != {"code": _measuring(), "sha256": file_digest(measured)}:
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


def measure_again(
    stage: Path, run: RunParams, pairs: PairSet, params: Params, device: torch.device
) -> Result | None:
    """Measure a finished run that other code measured; None if there is no whole run with its model here."""
    folder = stage / run_name(run, pairs.hash)
    try:
        about = _about(folder, run, pairs.hash)
        network, _ = load_network(folder / MODEL)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError):
        return None
    measured = _measure(folder, network.to(device), pairs, device)
    write_json(folder / "run.json", about | {"measured": measured})
    result = find(stage, run, pairs.hash)
    if result:
        write_json(folder / "metrics.json", result.metrics(params))
    return result


def _measure(folder: Path, network: Network, pairs: PairSet, device: torch.device) -> dict[str, str]:
    """Write the measurements of a run; returns what identifies them."""
    with replacing(folder / MEASURED) as temporary:
        save_file(measure(network, pairs.validation, pairs.test, device), temporary)
    return {"code": _measuring(), "sha256": file_digest(folder / MEASURED)}


def forget_model(result: Result) -> None:
    """Remove the model of a run, which is nearly all of its size; its numbers stay and it counts as whole."""
    files = {name: expected for name, expected in result.about["files"].items() if name != MODEL}
    write_json(result.folder / "run.json", result.about | {"files": files})
    (result.folder / MODEL).unlink(missing_ok=True)


def checkpoint_of(stage: Path, run: RunParams, pairs_hash: str) -> Path:
    """Where the unfinished run keeps its state."""
    return stage.parent / ".checkpoints" / f"{run_name(run, pairs_hash)}.safetensors"


def store(
    stage: Path, run: RunParams, pairs: PairSet, params: Params, state: Any, device: torch.device
) -> Result:
    """Write the folder of a run from its `loop.TrainingState` and read it back.

    Raises `UserError` if the disk is full, or if the folder changed while it was written.
    """
    folder = stage / run_name(run, pairs.hash)
    workshop = stage.parent / ".checkpoints"
    stage.mkdir(parents=True, exist_ok=True)
    workshop.mkdir(exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="storing-", dir=workshop) as temporary:
            made = Path(temporary) / folder.name
            made.mkdir()
            frame = pd.DataFrame(state.history, columns=HISTORY)
            frame.to_csv(made / "history.csv", index=False, float_format="%.9g")
            curve = {
                f"{epoch}/{name}": x for epoch, found in state.curve.items() for name, x in found.items()
            }
            save_file(curve, made / CURVE)
            save_network(state.evaluation_network, made / MODEL)
            about = {
                "run": folder.name,
                "identity": identity(run, pairs.hash),
                "status": "diverged" if state.diverged else "finished",
                "parameters": run.model_dump(mode="json"),
                "pairs": pairs.hash,
                "code": _code(run),
                "measured": _measure(made, state.evaluation_network, pairs, device),
                "images": images_of(run, len(pairs.train["noisy_1"])),
                "seconds": round(state.seconds, 2),
                "machine": machine(device),
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                },
                "files": {name: file_digest(made / name) for name in ("history.csv", CURVE, MODEL)},
            }
            write_json(made / "run.json", about)
            write_json(
                made / "metrics.json", Result(made, about, load_file(made / MEASURED), {}).metrics(params)
            )
            if not _read(folder, run, pairs.hash):  # another process may have been faster: the same bytes
                shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been found
                made.replace(folder)
    except (OSError, SafetensorError) as error:
        raise (full_disk(folder, error) or error) from error
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
