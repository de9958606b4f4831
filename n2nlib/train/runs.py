"""The sections of params.yaml and the parameters of one run, as frozen, typed, validated objects."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from n2nlib.files import ROOT, UserError, digest, file_digest, full_disk, relative, write_json
from n2nlib.metrics import PEAK, gradient_energy, psnr_hvs_m, ssim, summarize
from n2nlib.pairs.pair_set import PairSet
from n2nlib.params import (
    Arch,
    Count,
    CropScale,
    Float,
    Loss,
    NonNegative,
    Optimizer,
    Params,
    Positive,
    Section,
    Seed,
)
from n2nlib.train.loop import Trained, predict, train
from n2nlib.train.network import save_network


class RunParams(Section):
    """Everything about one training that can change its numbers, but the pairs and the code."""

    seed: Seed
    width: Count
    arch: Arch
    residual: bool = False
    normalized: bool = False
    tau_sharp: NonNegative  # 0: no sharpening
    target: Literal["noisy", "clean"] = "noisy"
    loss: Loss
    optimizer: Optimizer
    learning_rate: Positive
    schedule: Literal["steps", "one_cycle"] = "steps"
    annealing_steps: Annotated[int, Field(ge=0)]  # of schedule "steps"
    averaging: Annotated[Float, Field(ge=0, lt=1)] = (
        0.0  # decay of the exponential average of the weights, a step; 0: none
    )
    epochs: Count
    batch_size: Count
    sigma_n: NonNegative
    flips: Literal["image", "batch", "none"]
    shared_noise: bool
    resample: bool = False  # new noisy versions every epoch
    crops: tuple[CropScale, ...]  # one crop an image for each; none: the whole image
    precision: Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Planned:
    """A row of a table before it is trained: the columns that describe it, and the run behind it."""

    row: dict[str, object]
    run: RunParams
    pairs: str = ""  # the pair set that it trains on, where a sweep has several


RUNS = ROOT / "data" / "runs"


MODEL = "model.safetensors"


TRAINING_MODULES = ("augment.py", "cuda_graph.py", "network.py", "loop.py")


@cache
def code_hash() -> str:
    """SHA-256 of the modules whose code can change a run's numbers."""
    return digest({name: file_digest(Path(__file__).with_name(name)) for name in TRAINING_MODULES})


def identity(run: RunParams, pairs_hash: str) -> str:
    """SHA-256 of all that can change the run's numbers."""
    return digest({"parameters": run.model_dump(mode="json"), "pairs": pairs_hash, "code": code_hash()})


def run_name(run: RunParams, pairs_hash: str) -> str:
    """A name that a person can read and no other run has: it ends in the first 12 digits of the identity."""
    words = [run.arch, run.loss, run.optimizer]
    words += [f"sharp{run.tau_sharp:g}"] if run.tau_sharp else []
    words += ["crops"] if run.crops else []
    words += [word for word in ("residual", "normalized", "resample") if getattr(run, word)] + (
        ["clean"] if run.target == "clean" else []
    )
    words += (
        ["shared"] * run.shared_noise
        + ["onecycle"] * (run.schedule == "one_cycle")
        + [f"average{run.averaging:g}"] * bool(run.averaging)
    )
    words += [
        f"sigma{run.sigma_n:g}",
        f"lr{run.learning_rate:g}",
        f"k{run.annealing_steps}",
        f"e{run.epochs}",
        f"s{run.seed}",
    ]
    return "-".join([*words, identity(run, pairs_hash)[:12]])


def images_of(run: RunParams, pairs_count: int) -> int:
    """How many images a whole training of `run` puts through the network, forward and back."""
    return run.epochs * pairs_count * max(1, len(run.crops))


@dataclass(frozen=True)
class Result:
    """A finished run, as read from its folder."""

    folder: Path
    about: dict  # run.json
    validation: dict[
        str, np.ndarray
    ]  # float64: mse, epochs x validation images; of the last epoch's outputs what `_measured` gives

    @property
    def diverged(self) -> bool:
        return self.about["status"] == "diverged"

    @property
    def history(self) -> pd.DataFrame:
        """A row an epoch: epoch, learning_rate, train_loss, psnr_full, psnr_per_image (dB)."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def model(self) -> Path:
        """The file of its network. Raises `UserError` if it was not kept."""
        if MODEL not in self.about["files"]:
            raise UserError(
                f"{relative(self.folder)}: its model was not kept (python -m n2nlib train --slim); remove the folder to train it again"
            )
        return self.folder / MODEL

    def metrics(self, params: Params) -> dict[str, float]:
        """The four PSNR columns (dB) after the last epoch, under the evaluation of `params`."""
        return summarize(self.validation["mse"][-1], params.evaluation, params.seed)

    @property
    def measures(self) -> dict[str, float]:
        """psnr_hvs_m (dB) and ssim after the last epoch, means over the validation images."""
        return {name: float(self.validation[name].mean()) for name in ("psnr_hvs_m", "ssim")}


def find(stage: Path, run: RunParams, pairs_hash: str) -> Result | None:
    """The finished run in the folder `stage`, or None if it is not there, not whole or not what its run.json says: it is then trained again."""
    folder = stage / run_name(run, pairs_hash)
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if about["identity"] != identity(run, pairs_hash):
            return None
        if any(file_digest(folder / name) != expected for name, expected in about["files"].items()):
            return None
        return Result(folder, about, load_file(folder / "validation.safetensors"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget_model(result: Result) -> None:
    """Remove a run's model, which is nearly all of its size; its numbers stay. A run without its model is whole: nothing trains it again."""
    files = {name: expected for name, expected in result.about["files"].items() if name != MODEL}
    write_json(result.folder / "run.json", result.about | {"files": files})
    (result.folder / MODEL).unlink(missing_ok=True)


def train_and_store(
    stage: Path,
    run: RunParams,
    pairs: PairSet,
    params: Params,
    device: torch.device,
    on_epoch=lambda state: None,
) -> Result:
    """The finished run in the folder `stage`: found there, or trained now (from its checkpoint if there is one) and stored."""
    found = find(stage, run, pairs.hash)
    if found:
        return found
    folder = stage / run_name(run, pairs.hash)
    checkpoint = stage.parent / ".checkpoints" / f"{folder.name}.safetensors"
    state = train(run, pairs, device, checkpoint, on_epoch)
    try:
        _store(folder, run, pairs, params, state, device)
    except (OSError, SafetensorError) as error:
        raise (full_disk(folder, error) or error) from error
    checkpoint.unlink(missing_ok=True)
    result = find(stage, run, pairs.hash)
    if result is None:
        raise UserError(f"{relative(folder)}: changed on disk while it was written; start again")
    return result


def _store(
    folder: Path, run: RunParams, pairs: PairSet, params: Params, state: Trained, device: torch.device
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    workshop = folder.parent.parent / ".checkpoints"
    workshop.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="storing-", dir=workshop) as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        validation = {"mse": np.stack(state.validation_mse)} | _measured(run, state, pairs, device)
        pd.DataFrame(state.history).to_csv(made / "history.csv", index=False, float_format="%.9g")
        save_file(validation, made / "validation.safetensors")
        save_network(state.product, made / MODEL)
        about = {
            "run": folder.name,
            "identity": identity(run, pairs.hash),
            "status": "diverged" if state.diverged else "finished",
            "parameters": run.model_dump(mode="json"),
            "pairs": pairs.hash,
            "code": code_hash(),
            "images": images_of(run, len(pairs.train["noisy_1"])),
            "seconds": round(state.seconds, 2),
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else platform.processor() or platform.machine(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "files": {
                name: file_digest(made / name) for name in ("history.csv", "validation.safetensors", MODEL)
            },
        }
        write_json(made / "run.json", about)
        result = Result(made, about, validation)
        write_json(made / "metrics.json", result.metrics(params) | result.measures)
        if find(folder.parent, run, pairs.hash):  # another process was faster: the same bytes
            return
        shutil.rmtree(folder, ignore_errors=True)  # not whole, or it would have been found
        made.replace(folder)


def _measured(run: RunParams, state: Trained, pairs: PairSet, device: torch.device) -> dict[str, np.ndarray]:
    """Of each validation image's output PSNR-HVS-M (dB), SSIM and gradient energy, of each channel the share of zeros; float64.

    A network that diverged counts as in `mse_per_image`.
    """
    denoised = predict(run, state.product, pairs.validation["noisy_1"].to(device))
    denoised, clean = (
        np.nan_to_num(denoised, nan=0.0, posinf=PEAK, neginf=0.0),
        pairs.validation["clean"].numpy(),
    )
    zeros = (denoised == 0).mean(axis=(0, 2, 3))
    return {
        "psnr_hvs_m": psnr_hvs_m(denoised, clean),
        "ssim": ssim(denoised, clean),
        "gradient_energy": gradient_energy(denoised),
        "zeros": zeros,
    }
