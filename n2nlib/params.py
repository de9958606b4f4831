"""The sections of params.yaml and the parameters of one run, as frozen, typed, validated objects."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

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

from n2nlib.files import ROOT, UserError, digest, relative


def _number(value: object) -> object:
    """YAML 1.1 reads `1e-3` as text: take such text as the number it means, and leave any other text to be refused."""
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]


NonNegative = Annotated[Float, Field(ge=0)]


Positive = Annotated[Float, Field(gt=0)]


Fraction = Annotated[Float, Field(gt=0, lt=1)]


Count = Annotated[int, Field(ge=1)]


Seed = Annotated[int, Field(ge=0, lt=2**32)]


Arch = Literal["tconv", "upsample"]


Loss = Literal["l1", "mse"]


Optimizer = Literal["adam", "sgd"]


def _distinct(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("every value may stand once")
    return values


_LISTED = Field(min_length=1)


class Section(BaseModel):
    """Frozen; an unknown key and a value of another type are errors (an integer is taken for a float)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pairs(Section):
    """Where photographs come from and how they become noisy pairs (notebook 01)."""

    source: Literal["bundled", "folder", "imagenette", "ee559"]
    path: (
        str | None
    )  # folder: photographs, or a folder that has train/ and val/; ee559: the folder of the two files
    validation_path: (
        str | None
    )  # folder: the validation photographs; null: path/val, else a held-out fraction
    holdout: Fraction  # folder without validation photographs: the share of its photographs that is held out
    train: Count
    validation: Annotated[int, Field(ge=2)]
    train_crop: Literal["whole", "square"]
    validation_crop: Literal["whole", "square"]
    min_crop: Annotated[
        Float, Field(gt=0, le=1)
    ]  # the smallest random square, as a share of the photograph's shorter side
    size: Annotated[int, Field(ge=32, le=512)]  # pixels; five poolings halve it
    block: Annotated[int, Field(ge=1, le=16)]  # pixels of the photograph behind one pixel of a pair
    resample: bool  # true: new noisy versions of each training image in every epoch, from its blocks

    @model_validator(mode="after")
    def _check(self) -> Pairs:
        if self.size % 32:
            raise ValueError(
                f"pairs.size = {self.size}: five poolings halve the image; allowed: multiples of 32"
            )
        if self.source == "folder" and self.path is None:
            raise ValueError("pairs.path = null: source folder needs the folder's path")
        if self.source == "ee559" and self.resample:
            raise ValueError(
                "pairs.resample = true: the course's files hold no blocks to draw from; allowed: false"
            )
        return self


class Model(Section):
    """The network's size; 48 is the published width."""

    width: Annotated[int, Field(ge=2, le=512)]


CropScale = Annotated[
    tuple[Positive, Positive], Field(description="(smallest, largest) share of the image's area")
]


class Training(Section):
    """What all trainings share (section II of the paper; facts the text leaves out stand in params.yaml's comments)."""

    batch_size: Count
    sigma_n: NonNegative  # standard deviation of the added Gaussian noise, in grey levels of [0, 255]
    flips: Literal["image", "batch", "none"]  # batch: one draw a batch, as in the published code
    shared_noise: bool  # true: the same Gaussian noise on input and target, as in the published code
    tau_sharp: Positive  # sharpening factor of equation (1) where a model sharpens
    global_crop: CropScale
    local_crop: CropScale
    precision: Literal[
        "float32", "bfloat16"
    ]  # of the convolutions on a GPU; the CPU always computes in float32

    @model_validator(mode="after")
    def _check(self) -> Training:
        for name in ("global_crop", "local_crop"):
            low, high = getattr(self, name)
            if not low < high <= 1:
                raise ValueError(f"training.{name} = [{low}, {high}]: allowed: 0 < smallest < largest <= 1")
        return self


class LossRates(Section):
    l1: Positive
    mse: Positive


class Rates(Section):
    """Initial learning rate of each optimiser with each loss."""

    adam: LossRates
    sgd: LossRates


class Ablation(Section):
    """Table I: every combination of the lists, each once a seed."""

    seeds: Annotated[tuple[Seed, ...], _LISTED, AfterValidator(_distinct)]
    loss: Annotated[tuple[Loss, ...], _LISTED, AfterValidator(_distinct)]
    optimizer: Annotated[tuple[Optimizer, ...], _LISTED, AfterValidator(_distinct)]
    sharpen: Annotated[tuple[bool, ...], _LISTED, AfterValidator(_distinct)]
    crops: Annotated[tuple[bool, ...], _LISTED, AfterValidator(_distinct)]
    arch: Annotated[tuple[Arch, ...], _LISTED, AfterValidator(_distinct)]
    epochs: Count
    crops_epochs: Count  # with crops every image is seen twice an epoch
    annealing_steps: Annotated[int, Field(ge=0)]
    learning_rates: Rates


class Curves(Section):
    """Figure 2: the best rows of Table I, trained for longer."""

    seeds: Annotated[tuple[Seed, ...], _LISTED, AfterValidator(_distinct)]
    candidates: Count
    epochs: Count
    crops_epochs: Count
    annealing_steps: Annotated[int, Field(ge=0)]
    learning_rates: Rates


class FineTuningRates(Section):
    """The initial learning rates tried, by the optimiser of the chosen candidate."""

    adam: Annotated[tuple[Positive, ...], _LISTED, AfterValidator(_distinct)]
    sgd: Annotated[tuple[Positive, ...], _LISTED, AfterValidator(_distinct)]


class FineTuning(Section):
    """Table III: every combination of the lists for the chosen candidate, and the final model."""

    seeds: Annotated[tuple[Seed, ...], _LISTED, AfterValidator(_distinct)]
    sigma_n: Annotated[tuple[NonNegative, ...], _LISTED, AfterValidator(_distinct)]
    tau_sharp: Annotated[tuple[NonNegative, ...], _LISTED, AfterValidator(_distinct)]
    learning_rate: FineTuningRates
    annealing_steps: Annotated[tuple[Annotated[int, Field(ge=0)], ...], _LISTED, AfterValidator(_distinct)]
    epochs: Count
    final_epochs: Count  # of the model that is saved; the same as epochs: the best run of Table III itself


class Sizes(Section):
    """The study of image sizes; its pairs have a block of their own, so that no photograph need be enlarged."""

    pixels: Annotated[
        tuple[Annotated[int, Field(ge=32, le=512, multiple_of=32)], ...], _LISTED, AfterValidator(_distinct)
    ]
    block: Annotated[int, Field(ge=1, le=16)]
    train: Count
    validation: Annotated[int, Field(ge=2)]
    epochs: Count


class Beyond(Section):
    """Notebook 07: the paper's future work, and the best model that can be had with a stated budget."""

    seeds: Annotated[tuple[Seed, ...], _LISTED, AfterValidator(_distinct)]
    epochs: Count  # of every run but those of the sizes and the best model; with several crops an image fewer, for the same images
    learning_rate: Positive  # Adam, MSE
    crops: Annotated[
        tuple[Annotated[tuple[CropScale, ...], _LISTED], ...], AfterValidator(_distinct)
    ]  # of each variant one crop an image for each scale
    sigma_n: Annotated[
        tuple[Positive, ...], AfterValidator(_distinct)
    ]  # where shared and independent noise are compared
    averaging: Annotated[
        Float, Field(ge=0, lt=1)
    ]  # decay of the exponential average of the weights, a step; 0: not tried
    sizes: Sizes
    best_epochs: Count
    best_learning_rate: Positive  # the peak, where the best recipe is one cycle

    @model_validator(mode="after")
    def _check(self) -> Beyond:
        for number, scales in enumerate(self.crops):
            given = f"beyond.crops.{number} = {[list(scale) for scale in scales]}"
            if not all(low < high <= 1 for low, high in scales):
                raise ValueError(f"{given}: allowed: 0 < smallest < largest <= 1")
            if self.epochs % len(scales):
                raise ValueError(
                    f"{given}: {len(scales)} crops an image do not divide beyond.epochs = {self.epochs}"
                )
        return self


class Evaluation(Section):
    """The paper's protocol: mean and standard deviation of the PSNR over `repeats` random subsets of `subset` images."""

    repeats: Annotated[int, Field(ge=2)]
    subset: Count


class Sweep(Section):
    """Where the runs are trained: a local Dask cluster, or the scheduler at an address."""

    scheduler: str | None  # tcp://host:8786; the environment variable N2N_SCHEDULER wins
    workers: Count | None  # of the local cluster; null: one a core, or one a GPU


class Params(Section):
    """All parameters of one rebuild."""

    scale: Annotated[
        str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    ]  # names reports/<scale> and data/pairs/<scale>
    seed: Seed  # of pairs and of evaluation subsets; the runs' seeds stand in their sections
    device: Literal["auto", "cpu", "cuda"]
    pairs: Pairs
    model: Model
    training: Training
    ablation: Ablation
    curves: Curves
    fine_tuning: FineTuning
    beyond: Beyond
    evaluation: Evaluation
    sweep: Sweep

    @model_validator(mode="after")
    def _check(self) -> Params:
        if self.evaluation.subset > self.pairs.validation:
            raise ValueError(
                f"evaluation.subset = {self.evaluation.subset}: larger than the validation set; allowed: 1 to pairs.validation = {self.pairs.validation}"
            )
        return self

    @property
    def reports(self) -> Path:
        """The folder that a rebuild of this scale leaves behind."""
        return ROOT / "reports" / self.scale

    @property
    def pairs_folder(self) -> Path:
        return ROOT / "data" / "pairs" / self.scale

    @property
    def hash(self) -> str:
        """SHA-256 of every parameter that can change a number: all but where the work is done."""
        return digest(self.model_dump(mode="json", exclude={"sweep", "device"}))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{relative(path)}: cannot be read ({error})") from error
    try:
        value = YAML(typ="safe", pure=True).load(text)  # YAML 1.2, refuses a key that stands twice
    except YAMLError as error:
        raise UserError(f"{relative(path)}: not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{relative(path)}: holds no parameters; allowed: the keys of params.yaml")
    return value


def _merged(base: Any, over: Any) -> Any:
    """`over` on top of `base`, dictionaries key by key, anything else replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: _merged(base.get(key), value) for key, value in over.items()}


def _has(tree: Any, keys: tuple) -> bool:
    for key in keys:
        if isinstance(key, int):  # an element of a list, which is given whole
            return True
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def _section(keys: tuple) -> type[BaseModel]:
    """The section that holds the key at the end of `keys`."""
    section: type[BaseModel] = Params
    for key in keys[:-1]:
        section = section.model_fields[key].annotation  # sections nest in sections alone
    return section


def _message(error: Any, source: str, overrides: dict[str, Any]) -> str:
    """One problem that pydantic found, for a person: file, key, value, what is allowed."""
    keys = tuple(error["loc"])
    named = ".".join(map(str, keys))
    where = (
        "the given parameters"
        if _has(overrides, keys[:1] if error["type"] == "missing" else keys)
        else source
    )
    if error["type"] == "extra_forbidden":
        allowed = list(_section(keys).model_fields)
        near = difflib.get_close_matches(str(keys[-1]), allowed, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{where}: {named} = {error['input']!r}: unknown key; {hint}allowed: {', '.join(allowed)}"
    if error["type"] == "missing":
        return f"{where}: {named}: missing; every key must have a value"
    if error["type"] == "value_error" and "=" in str(
        error["ctx"]["error"]
    ):  # raised by a section's own check, which names its key
        return f"{'the given parameters over ' if overrides else ''}{source}: {error['ctx']['error']}"
    allowed = error["msg"].removeprefix("Value error, ").replace("Input should be", "allowed:")
    return f"{where}: {named} = {error['input']!r}: {allowed}"


def load_params(path: Path | str | None = None, overrides: dict[str, Any] | None = None) -> Params:
    """The parameters of `path` (default: params.yaml), with `overrides` (a tree of any part of them) on top.

    Raises `UserError` with a line a problem: file, key, value and what is allowed.
    """
    path = Path(path) if path is not None else ROOT / "params.yaml"
    overrides = overrides or {}
    tree = _merged(_read_yaml(path), overrides)
    try:
        return Params.model_validate_json(
            json.dumps(tree, default=str)
        )  # strict JSON: lists become tuples, nothing else is bent
    except ValidationError as error:
        raise UserError(
            "\n".join(_message(one, relative(path), overrides) for one in error.errors())
        ) from None


_first_call = True


def notebook_params(namespace: dict[str, Any]) -> Params:
    """The parameters that papermill injected into a notebook (`globals()`); what it left out comes from params.yaml.

    The first call in a kernel, before anything else is defined, also refuses names that are no parameter: misspelt keys.
    Raises `UserError`.
    """
    global _first_call
    given = {key: namespace[key] for key in Params.model_fields if namespace.get(key) is not None}
    if _first_call:
        plain = (bool, int, float, str, list, dict)
        hidden = {"In", "Out"} | set(Params.model_fields)
        given |= {
            key: value
            for key, value in namespace.items()
            if isinstance(value, plain) and key not in hidden and not key.startswith("_")
        }
        _first_call = False
    params = load_params(overrides=given)
    if given and params != load_params():
        print(
            f"Parameters given to this notebook differ from params.yaml; results go to {relative(params.reports)}."
        )
    return params
