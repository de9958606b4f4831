"""What identifies a run: its parameters, its pair set and the code that trains, compared by meaning.

Comments, docstrings, imports, type hints, printed text and the place of a file have no meaning.
What is measured on a finished run has an identity of its own, see `measuring_code`.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any, Literal

from n2nlib import metrics
from n2nlib.files import digest
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
)

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
    sigma_n: NonNegative
    flips: Literal["image", "batch", "none"]
    shared_noise: bool
    resample: bool = False  # new noisy versions in every epoch
    crops: tuple[CropScale, ...]  # an epoch has one crop of each pair for each scale; none: whole images
    precision: Precision
    validate_every_epoch: bool = True  # False: after the last epoch only


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

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for number, one in enumerate(node.body):
            if isinstance(one, ast.AnnAssign) and one.value is None:  # a field of a dataclass
                node.body[number] = ast.Expr(one.target)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return self.generic_visit(ast.Assign([node.target], node.value))


def meaning(source: str) -> str:
    """The parsed source without comments, docstrings, imports, type hints and messages."""
    return repr(_plain(_Meaning().visit(ast.parse(source))))


def _plain(node: Any) -> Any:
    """A syntax tree as tuples, without empty fields, since versions of Python differ in these."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return type(node).__name__, *((name, _plain(value)) for name, value in fields)
    return [_plain(one) for one in node] if isinstance(node, list) else node


@cache
def code_identity(*groups: tuple[tuple[str, str], ...], folder: Path = Path(__file__).parent) -> str:
    """SHA-256 of the meaning of modules, given as (logical name, file) in groups."""
    files = {name: file for group in groups for name, file in group}
    return digest({name: meaning((folder / file).read_text("utf-8")) for name, file in files.items()})


def training_code(run: RunParams) -> str:
    """SHA-256 of the code that trains `run`."""
    groups = [TRAINING] + [GATED] * (run.arch == "gated")
    return code_identity(*(tuple(group.items()) for group in groups))


def measuring_code() -> str:
    """SHA-256 of the code that measures finished runs."""
    return code_identity(tuple(MEASURING.items()))


def identity(run: RunParams, pairs_hash: str) -> str:
    """SHA-256 of all that can change the numbers of a run: parameters, pairs and the code that trains."""
    parameters = run.model_dump(mode="json")
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
