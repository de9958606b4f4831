"""What identifies a run: its parameters, its pair set and the code that trains, compared by meaning.

Comments, docstrings, imports, type hints, printed text and the place of a file have no meaning.
What is measured on a finished run has an identity of its own, see `measuring_code`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from n2nlib import metrics
from n2nlib.files import digest
from n2nlib.meaning import code_identity
from n2nlib.params import (
    AnyArch,
    AnyLoss,
    Count,
    CropScale,
    Natural,
    NonNegative,
    Optimizer,
    Positive,
    Precision,
    Section,
    Seed,
    Share,
    Width,
)

HERE = Path(__file__).parent
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
    """Everything about one training that can change its numbers, but its pairs, the code and the machine."""

    seed: Seed  # of weights, order and augmentation
    width: Width  # channels
    arch: AnyArch
    init: Literal["library", "fan_in"] = "library"  # of transposed convolutions, see `Network.initialize`
    residual: bool = False
    normalized: bool = False
    tau_sharp: NonNegative  # 0: no sharpening
    target: Literal["noisy", "clean"] = "noisy"
    loss: AnyLoss
    optimizer: Optimizer
    learning_rate: Positive
    schedule: Literal["steps", "one_cycle"] = "steps"
    warmup: Share = 0.0  # share of the steps
    annealing_steps: Natural  # of schedule "steps"
    averaging: Share = 0.0  # decay per step of averaged weights; 0: none
    epochs: Count
    batch_size: Count  # images per step, crops included
    sigma_n: NonNegative  # grey levels
    flips: Literal["image", "batch", "none"]  # see `augment.flip`
    shared_noise: bool  # see `augment.add_noise`
    resample: bool = False  # new noisy versions in every epoch
    crops: tuple[CropScale, ...]  # an epoch has one crop of each pair for each scale; none: whole images
    precision: Precision
    validate_every_epoch: bool = True  # False: after the last epoch only


def training_code(run: RunParams) -> str:
    """SHA-256 (hex) of the meaning of the code that trains `run`, see `meaning.code_identity`."""
    files = TRAINING | (GATED if run.arch == "gated" else {})
    return code_identity(tuple(files.items()), folder=HERE)


def measuring_code() -> str:
    """SHA-256 of the code that measures finished runs."""
    return code_identity(tuple(MEASURING.items()), folder=HERE)


def identity(run: RunParams, pairs_hash: str) -> str:
    """SHA-256 (hex) of what changes the numbers of a run on one machine: parameters, pairs, code that trains.

    Machine and versions do not count, nor does whether the processor has bfloat16: run.json records them.
    """
    parameters = run.model_dump(mode="json")
    # PEAK is part of the training, though its module only measures otherwise and is not in `TRAINING`.
    return digest(
        {"parameters": parameters, "pairs": pairs_hash, "code": training_code(run), "peak": metrics.PEAK}
    )


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
