"""params.yaml as frozen, typed and validated objects.

`load_params` reads a file, `notebook_params` what papermill injected into a notebook. Every mistake is
reported in one message that names the file, the key, the value and what is allowed.
"""

from __future__ import annotations

import ast
import difflib
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from n2nlib.files import ROOT, UserError, digest, read_json, relative

T = TypeVar("T")


def _number(value: object) -> object:
    """PyYAML, with which papermill reads parameters, takes `1e-3` for text: turn it into its number."""
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("each value may appear once")
    return values


def _growing(scale: tuple[float, float]) -> tuple[float, float]:
    if not scale[0] < scale[1] <= 1:
        raise ValueError("allowed: 0 < smallest < largest <= 1")
    return scale


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
NonNegative = Annotated[Float, Field(ge=0)]
Positive = Annotated[Float, Field(gt=0)]
Fraction = Annotated[Float, Field(gt=0, lt=1)]
Share = Annotated[Float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Side = Annotated[int, Field(ge=32, le=512, multiple_of=32)]  # pixels; five poolings halve the image
Block = Annotated[int, Field(ge=2, le=16)]  # pixels; a block of one pixel has no noise
Width = Annotated[int, Field(ge=2, le=512)]  # channels; the last block of the U-Net has two thirds of them
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Arch = Literal["tconv", "upsample"]
AnyArch = Literal["tconv", "upsample", "gated"]  # gated: the network of the best model, not in the report
Loss = Literal["l1", "mse"]
AnyLoss = Literal["l1", "mse", "huber"]
Optimizer = Literal["adam", "sgd"]
Precision = Literal["float32", "bfloat16"]
Listed = Annotated[tuple[T, ...], Field(min_length=1), AfterValidator(_distinct)]
MaybeListed = Annotated[tuple[T, ...], AfterValidator(_distinct)]
CropScale = Annotated[tuple[Positive, Positive], AfterValidator(_growing)]  # smallest, largest share of area
Crops = Annotated[tuple[CropScale, ...], Field(min_length=1)]  # a scale for each crop of an image
MACHINE = {"device", "sweep"}  # parameters that say where runs are trained, which changes no number


class Section(BaseModel):
    """Frozen and strict: unknown keys and values of other types are errors (an integer passes as a float)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pairs(Section):
    """Where photographs come from and how they become noisy pairs (notebook 01)."""

    source: Literal["bundled", "folder", "imagenette", "ee559"]
    path: str | None  # folder: photographs, or train/ and val/ with them; ee559: the folder of the two files
    validation_path: str | None  # folder: the validation photographs; null: path/val, else a held-out share
    photographs: str | None  # what they are, in words, for our paper and the model card; null: by source
    holdout: Fraction  # folder without validation photographs: the share that is held out
    train: Count
    validation: Annotated[int, Field(ge=2)]
    test: Natural  # pairs of photographs on which nothing is chosen; 0: no test set
    train_crop: Literal["whole", "square", "mixed"]  # mixed: each photograph whole once, then random squares
    validation_crop: Literal["whole", "square"]  # of the validation and the test photographs
    min_crop: Annotated[Float, Field(gt=0, le=1)]  # smallest random square, share of the shorter side
    permute_channels: bool  # true: the channels of each training pair in a random order; not of course files
    size: Side
    block: Block  # one pixel of a pair stands for block x block pixels of the photograph
    resample: bool  # true: new noisy versions of each training image in every epoch, drawn from its blocks

    @model_validator(mode="after")
    def _check(self) -> Pairs:
        if self.source == "folder" and self.path is None:
            raise ValueError("pairs.path = null: source folder needs the path of the folder")
        for name, allowed in (("test", "0"), ("resample", "false")):
            given = json.dumps(getattr(self, name))
            if self.source == "ee559" and given != allowed:
                lacks = "the course has neither test images nor blocks"
                raise ValueError(f"pairs.{name} = {given}: {lacks}; allowed: {allowed}")
        return self


class Model(Section):
    """Size of the network; the published width is 48."""

    width: Width


class Training(Section):
    """What all runs share (section II of the report; params.yaml says what its text leaves out)."""

    batch_size: Count  # images per step, crops included
    warmup: Share  # share of the steps over which the rate grows linearly
    sigma_n: NonNegative  # standard deviation of the added Gaussian noise, grey levels of [0, 255]
    flips: Literal["image", "batch", "none"]  # batch: one draw per batch, as in the published code
    shared_noise: bool  # true: the same Gaussian noise on input and target, as in the published code
    tau_sharp: Positive  # sharpening factor of equation (1) for networks that sharpen
    global_crop: CropScale
    local_crop: CropScale
    precision: Precision  # of the layers; bfloat16 only where the processor has it, see `network.layer_dtype`


class LossRates(Section):
    """Initial learning rate for each loss."""

    l1: Positive
    mse: Positive


class Rates(Section):
    """Initial learning rate for each optimiser and loss."""

    adam: LossRates
    sgd: LossRates


class Ablation(Section):
    """Table I: every combination of the lists, with every seed."""

    seeds: Listed[Seed]
    loss: Listed[Loss]
    optimizer: Listed[Optimizer]
    sharpen: Listed[bool]
    crops: Listed[bool]
    arch: Listed[Arch]
    epochs: Count
    crops_epochs: Count  # with crops an epoch has two images of each pair
    annealing_steps: Natural  # k: the rate becomes ten times smaller after every 1 / (k + 1) of the training
    learning_rates: Rates


class Curves(Section):
    """Fig. 2: the best settings of Table I, trained for longer."""

    seeds: Listed[Seed]
    candidates: Annotated[int, Field(ge=1, le=26)]  # named A to Z
    epochs: Count
    crops_epochs: Count
    annealing_steps: Natural
    learning_rates: Rates


class FineTuningRates(Section):
    """Initial learning rates of Table III, by the optimiser of the chosen candidate."""

    adam: Listed[Positive]
    sgd: Listed[Positive]


class FineTuning(Section):
    """Table III: every combination of the lists for the chosen candidate, and the final model."""

    seeds: Listed[Seed]
    sigma_n: Listed[NonNegative]  # grey levels
    tau_sharp: Listed[NonNegative]  # 0: not sharpened; the report has no such rows
    learning_rate: FineTuningRates
    annealing_steps: Listed[Natural]
    epochs: Count
    final_epochs: Count  # of the final model


class Sizes(Section):
    """The study of image sizes. Its block is small, because 64 pixels with blocks of 7 take 448 per side."""

    pixels: Listed[Side]
    block: Block
    train: Count
    validation: Annotated[int, Field(ge=2)]
    epochs: Count


class Beyond(Section):
    """The studies of notebook 07."""

    seeds: Listed[Seed]
    epochs: Count  # not of the studies of sizes and of initialisation; with n crops per image 1/n of them
    learning_rate: Positive  # Adam, MSE
    peak_rate: Positive  # highest rate of the one-cycle schedule
    crops: MaybeListed[Crops]  # variants
    sigma_n: MaybeListed[Positive]  # where shared and independent noise are compared
    averaging: Share  # decay per step of averaged weights; 0: not tried
    sizes: Sizes

    @model_validator(mode="after")
    def _check(self) -> Beyond:
        for number, scales in enumerate(self.crops):
            if self.epochs % len(scales):
                given = f"beyond.crops.{number} = {[list(scale) for scale in scales]}"
                problem = f"{len(scales)} crops per image do not divide beyond.epochs = {self.epochs}"
                raise ValueError(f"{given}: {problem}")
        return self


class Best(Section):
    """The best model (notebook 07): one long run with a recipe of its own, one-cycle rate and Adam."""

    images: Count  # its budget: images of training, rounded to whole epochs
    train: Count  # pairs of its own pair set, of the same photographs
    resample: bool  # new noisy versions in every epoch
    permute_channels: bool  # of its training pairs, see section pairs
    arch: AnyArch
    width: Width
    loss: AnyLoss
    learning_rate: Positive  # highest rate of the one-cycle schedule
    batch_size: Count
    sigma_n: NonNegative
    averaging: Share
    precision: Precision
    flips: bool  # predict the mean over the four flips of an image
    twin: bool  # train a twin on clean targets, too


class Evaluation(Section):
    """The report's protocol: mean and standard deviation of the PSNR over random subsets, see `metrics`."""

    repeats: Annotated[int, Field(ge=2)]  # subsets, each of half as many images as the set, with replacement


class Sweep(Section):
    """Where runs are trained: on a local Dask cluster, or on the scheduler at an address."""

    scheduler: str | None  # tcp://host:8786; the environment variable N2N_SCHEDULER takes precedence
    workers: Count | None  # of the local cluster; null: one per core, or twelve per GPU


class Params(Section):
    """All parameters of one rebuild."""

    scale: Name  # of reports/<scale> and data/pairs/<scale>
    seed: Seed  # of the pairs and of the evaluation subsets; runs have seeds of their own
    device: Literal["auto", "cpu", "cuda"]
    pairs: Pairs
    model: Model
    training: Training
    ablation: Ablation
    curves: Curves
    fine_tuning: FineTuning
    beyond: Beyond
    best: Best
    evaluation: Evaluation
    sweep: Sweep

    @property
    def reports(self) -> Path:
        """The folder that a rebuild of this scale leaves behind."""
        return ROOT / "reports" / self.scale

    @property
    def pairs_folder(self) -> Path:
        """The folder of the pair set of this scale."""
        return ROOT / "data" / "pairs" / self.scale

    def used(self, sections: list[str]) -> dict[str, Any]:
        """The values of some sections as JSON."""
        return self.model_dump(mode="json", include=set(sections))

    def hash(self, sections: list[str] | None = None) -> str:
        """SHA-256 of the parameters in `sections` (default: all) that can change a number."""
        return digest(self.used(sorted(set(sections or type(self).model_fields) - MACHINE)))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{relative(path)}: cannot be read ({error})") from error
    try:
        value = YAML(typ="safe", pure=True).load(text)  # YAML 1.2; refuses duplicate keys
    except (YAMLError, ValueError) as error:  # ValueError: what looks like a date and is none, as 2022-13-45
        raise UserError(f"{relative(path)}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{relative(path)}: holds no parameters; allowed: the keys of params.yaml")
    return value


def _merged(base: Any, over: Any) -> Any:
    """`over` on top of `base`: dictionaries key by key, anything else replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: _merged(base.get(key), value) for key, value in over.items()}


def _has(tree: Any, keys: tuple) -> bool:
    """Does `tree` hold the value at the end of `keys`? Lists are given whole."""
    if not keys or not isinstance(tree, dict):
        return True
    return keys[0] in tree and _has(tree[keys[0]], keys[1:])


def _message(error: Any, source: str, overrides: dict[str, Any]) -> str:
    """One problem that pydantic found, for a person: file, key, value and what is allowed."""
    keys = tuple(error["loc"])
    named = ".".join(map(str, keys))
    given = _has(overrides, keys)  # a missing key is missing in the file, a missing end of a list is not
    where = "the given parameters" if given else source
    if error["type"] == "extra_forbidden":
        section: type[BaseModel] = Params
        for key in keys[:-1]:
            section = section.model_fields[key].annotation
        allowed = list(section.model_fields)
        near = difflib.get_close_matches(str(keys[-1]), allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where}: {named} = {error['input']!r}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{where}: {named}: missing; every key must have a value"
    if error["type"] == "value_error" and isinstance(error["input"], dict):  # a section's check names its key
        return f"{'the given parameters over ' if overrides else ''}{source}: {error['ctx']['error']}"
    allowed = error["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    return f"{where}: {named} = {error['input']!r}: {allowed}"


def load_params(path: Path | str | None = None, overrides: dict[str, Any] | None = None) -> Params:
    """The parameters of `path` (default: params.yaml), with `overrides` (any part of the tree) on top.

    Raises `UserError` with one line for each problem: file, key, value and what is allowed.
    """
    path = Path(path) if path is not None else ROOT / "params.yaml"
    overrides = overrides or {}
    tree = _merged(_read_yaml(path), overrides)
    try:
        text = json.dumps(tree, default=str)  # strict JSON: lists become tuples
        return Params.model_validate_json(text)
    except TypeError as error:  # a key that is a date or a list
        raise UserError(f"{relative(path)}: {error}") from error
    except ValidationError as error:
        problems = error.errors()  # a list whose elements are all wrong is called too short, too
        problems = [one for one in problems if one["type"] != "too_short" or not one["input"]]
        raise UserError("\n".join(_message(one, relative(path), overrides) for one in problems)) from None


@cache
def sections_of(notebook: str) -> list[str]:
    """The parameters that notebooks/<notebook>.ipynb lists in its parameters cell, in order.

    They are what papermill injects and what the stage of the notebook depends on. Raises `UserError` if the
    notebook is missing or damaged, or has no such cell.
    """
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    for cell in read_json(path)["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return list(_assigned("".join(cell["source"])))
    raise UserError(f"{relative(path)}: has no cell with the tag parameters")


def _assigned(source: str) -> dict[str, None]:
    """The names that `source` assigns, in order."""
    targets = [node.targets for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {target.id: None for one in targets for target in one if isinstance(target, ast.Name)}


def _lists_parameters(source: str) -> bool:
    names = _assigned(source)
    return bool(names) and names.keys() <= Params.model_fields.keys()


def notebook_params(namespace: dict[str, Any]) -> Params:
    """The parameters of a notebook: what papermill injected on top of params.yaml.

    `namespace` is the notebook's `globals()`. Plain values under the names of parameters count, whichever
    cell assigned them; None leaves the value of params.yaml. papermill injects a cell directly below the one
    that lists the parameters. Names that it assigns and that are no parameter are misspelt keys and refused;
    other names that a reader defines in cells of their own are left alone. Prints where results go if a value
    differs from params.yaml. Raises `UserError` as `load_params` does.
    """
    plain = bool | int | float | str | list | tuple | dict  # what YAML and papermill can give
    given = {key: namespace[key] for key in Params.model_fields if isinstance(namespace.get(key), plain)}
    injected = [
        cell
        for above, cell in pairwise(namespace.get("In", []))
        if cell.startswith("# Parameters\n") and _lists_parameters(above)
    ]
    for name in (name for cell in injected for name in _assigned(cell)):
        if name in namespace and name not in Params.model_fields:
            given[name] = namespace[name]
    params = load_params(overrides=given)
    if given and params != load_params():
        print(f"Some parameters differ from params.yaml; results go to {relative(params.reports)}.")
    return params
