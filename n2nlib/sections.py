"""The sections of params.yaml and the parameters of one run, as frozen, typed, validated objects."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


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
    path: str | None  # folder: photographs, or a folder that has train/ and val/; ee559: the folder of the two files
    validation_path: str | None  # folder: the validation photographs; null: path/val, else a held-out fraction
    holdout: Fraction  # folder without validation photographs: the share of its photographs that is held out
    train: Count
    validation: Annotated[int, Field(ge=2)]
    train_crop: Literal["whole", "square"]
    validation_crop: Literal["whole", "square"]
    min_crop: Annotated[Float, Field(gt=0, le=1)]  # the smallest random square, as a share of the photograph's shorter side
    size: Annotated[int, Field(ge=32, le=512)]  # pixels; five poolings halve it
    block: Annotated[int, Field(ge=1, le=16)]  # pixels of the photograph behind one pixel of a pair
    resample: bool  # true: new noisy versions of each training image in every epoch, from its blocks

    @model_validator(mode="after")
    def _check(self) -> Pairs:
        if self.size % 32:
            raise ValueError(f"pairs.size = {self.size}: five poolings halve the image; allowed: multiples of 32")
        if self.source == "folder" and self.path is None:
            raise ValueError("pairs.path = null: source folder needs the folder's path")
        if self.source == "ee559" and self.resample:
            raise ValueError("pairs.resample = true: the course's files hold no blocks to draw from; allowed: false")
        return self


class Model(Section):
    """The network's size; 48 is the published width."""

    width: Annotated[int, Field(ge=2, le=512)]


CropScale = Annotated[tuple[Positive, Positive], Field(description="(smallest, largest) share of the image's area")]


class Training(Section):
    """What all trainings share (section II of the paper; facts the text leaves out stand in params.yaml's comments)."""

    batch_size: Count
    sigma_n: NonNegative  # standard deviation of the added Gaussian noise, in grey levels of [0, 255]
    flips: Literal["image", "batch", "none"]  # batch: one draw a batch, as in the published code
    shared_noise: bool  # true: the same Gaussian noise on input and target, as in the published code
    tau_sharp: Positive  # sharpening factor of equation (1) where a model sharpens
    global_crop: CropScale
    local_crop: CropScale
    precision: Literal["float32", "bfloat16"]  # of the convolutions on a GPU; the CPU always computes in float32

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

    pixels: Annotated[tuple[Annotated[int, Field(ge=32, le=512, multiple_of=32)], ...], _LISTED, AfterValidator(_distinct)]
    block: Annotated[int, Field(ge=1, le=16)]
    train: Count
    validation: Annotated[int, Field(ge=2)]
    epochs: Count


class Beyond(Section):
    """Notebook 07: the paper's future work, and the best model that can be had with a stated budget."""

    seeds: Annotated[tuple[Seed, ...], _LISTED, AfterValidator(_distinct)]
    epochs: Count  # of every run but those of the sizes and the best model; with several crops an image fewer, for the same images
    learning_rate: Positive  # Adam, MSE
    crops: Annotated[tuple[Annotated[tuple[CropScale, ...], _LISTED], ...], AfterValidator(_distinct)]  # of each variant one crop an image for each scale
    sigma_n: Annotated[tuple[Positive, ...], AfterValidator(_distinct)]  # where shared and independent noise are compared
    averaging: Annotated[Float, Field(ge=0, lt=1)]  # decay of the exponential average of the weights, a step; 0: not tried
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
                raise ValueError(f"{given}: {len(scales)} crops an image do not divide beyond.epochs = {self.epochs}")
        return self


class Evaluation(Section):
    """The paper's protocol: mean and standard deviation of the PSNR over `repeats` random subsets of `subset` images."""

    repeats: Annotated[int, Field(ge=2)]
    subset: Count


class Sweep(Section):
    """Where the runs are trained: a local Dask cluster, or the scheduler at an address."""

    scheduler: str | None  # tcp://host:8786; the environment variable N2N_SCHEDULER wins
    workers: Count | None  # of the local cluster; null: one a core, or one a GPU


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
    averaging: Annotated[Float, Field(ge=0, lt=1)] = 0.0  # decay of the exponential average of the weights, a step; 0: none
    epochs: Count
    batch_size: Count
    sigma_n: NonNegative
    flips: Literal["image", "batch", "none"]
    shared_noise: bool
    resample: bool = False  # new noisy versions every epoch
    crops: tuple[CropScale, ...]  # one crop an image for each; none: the whole image
    precision: Literal["float32", "bfloat16"]
