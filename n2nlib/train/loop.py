"""One run: its loop, optimiser, annealing, validation at every epoch's end, checkpoint and resume.

A run depends on its parameters, the pair set and this code alone: weights, order and augmentation have generators of their own, seeded
from `run.seed`, so that on one machine with one thread the numbers repeat exactly, also after an interruption.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from n2nlib.files import read_safetensors, replacing
from n2nlib.metrics import mse_per_image, psnr_full, psnr_per_image
from n2nlib.pairs.pair_set import PairSet
from n2nlib.train import augment
from n2nlib.train.cuda_graph import Replayed, compiled
from n2nlib.train.network import Network

if TYPE_CHECKING:
    from n2nlib.train.runs import RunParams

LOSSES = {"l1": F.l1_loss, "mse": F.mse_loss}  # means over pixels in grey levels of [0, 255]


PREDICT_BATCH = 200


COMPILE_FROM = 100_000  # images of a run, from which half a minute of compiling pays on a GPU


def learning_rate(run: RunParams, epoch: int, done: float = 0.0) -> float:
    """The rate in epoch `epoch` (from 0) of which the share `done` is over.

    "steps": ten times smaller after every epochs / (k + 1) epochs (section III-B). "one_cycle": up to `run.learning_rate` in the first 30 % of
    the training and down to nothing after, both as half a cosine (Smith and Topin 2018, with the constants of torch's OneCycleLR).
    """
    if run.schedule == "steps":
        return run.learning_rate * 0.1 ** (epoch * (run.annealing_steps + 1) // run.epochs)
    progress, peak, start, end = (
        (epoch + done) / run.epochs,
        run.learning_rate,
        run.learning_rate / 25,
        run.learning_rate / 25e4,
    )
    a, b, along = (start, peak, progress / 0.3) if progress < 0.3 else (peak, end, (progress - 0.3) / 0.7)
    return b + (a - b) * (1 + math.cos(math.pi * along)) / 2


@dataclass
class Trained:
    """A run's state: of one that goes on, or finished. `history` has a row an epoch, `validation_mse` each image's error after it."""

    network: Network
    average: Network | None  # the exponential average of the weights, where the run keeps one
    optimizer: torch.optim.Optimizer
    order: torch.Generator  # draws the order of the pairs, on the CPU
    augmentation: torch.Generator  # draws flips, crops and noise, on the device
    history: list[dict[str, float]] = field(default_factory=list)
    validation_mse: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def product(self) -> Network:
        """The network that is validated and stored: the one with averaged weights where there is one."""
        return self.average or self.network

    @property
    def diverged(self) -> bool:
        """The last epoch's loss was infinite or no number."""
        return bool(self.history) and not math.isfinite(self.history[-1]["train_loss"])


def begin(run: RunParams, device: torch.device) -> Trained:
    """The state of `run` before its first epoch."""
    seeds = np.random.SeedSequence([run.seed, 5]).generate_state(3, np.uint32).tolist()
    weights, order = (torch.Generator().manual_seed(seed) for seed in seeds[:2])
    network = Network(run.width, run.arch, run.tau_sharp, run.residual, run.normalized)
    network.initialize(weights)
    network = network.to(device, memory_format=torch.channels_last)
    if run.precision == "bfloat16" and device.type == "cuda":
        network.unet.dtype = torch.bfloat16
    options: dict[str, object] = {"lr": run.learning_rate, "fused": True}
    if (
        device.type == "cuda"
    ):  # as a CUDA graph needs it: what changes between steps is read from the GPU's memory
        options["lr"] = torch.tensor(run.learning_rate, device=device)
        options |= {"capturable": True} if run.optimizer == "adam" else {}
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[run.optimizer]
    optimizer = kind(network.parameters(), **options)
    average = copy.deepcopy(network) if run.averaging else None
    return Trained(network, average, optimizer, order, torch.Generator(device).manual_seed(seeds[2]))


def augmented(
    run: RunParams, images: tuple[Tensor, Tensor], generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Input and target (float B x 3 x S x S) after flips, crops and noise; a clean target gets no noise."""
    images = augment.flip(images, run.flips, generator)
    if run.crops:
        images = augment.crop(images, list(run.crops), generator)
    if run.target == "clean":
        return *augment.add_noise(images[:1], run.sigma_n, False, generator), images[1]
    return augment.add_noise(images, run.sigma_n, run.shared_noise, generator)


class Step:
    """One training step on the pairs of a run (uint8 N x 3 x S x S, on the device): `step(indices)` of the batch's pairs.

    With `blocks` (uint8 N x cell x 3 x S x S) noisy versions are drawn anew from them. `total` collects the losses (float64, on the device).
    """

    def __init__(
        self, run: RunParams, state: Trained, inputs: Tensor, targets: Tensor, blocks: Tensor | None = None
    ) -> None:
        self.run, self.state, self.inputs, self.targets, self.blocks = run, state, inputs, targets, blocks
        self.total = torch.zeros((), device=inputs.device, dtype=torch.float64)
        self.first = not state.history
        pays = inputs.is_cuda and run.epochs * len(inputs) >= COMPILE_FROM
        self.layers = compiled(state.network.unet.layers) if pays else None
        self.take = Replayed(self, state.augmentation) if inputs.is_cuda else self

    def __call__(self, batch: Tensor) -> None:
        run, state = self.run, self.state
        pair = (self.inputs[batch], self.targets[batch])
        if self.blocks is not None:
            pair = _fresh(run, self.blocks[batch], pair[1], state.augmentation)
        images = augmented(run, (pair[0].float(), pair[1].float()), state.augmentation)
        noisy, target = (image.contiguous(memory_format=torch.channels_last) for image in images)
        state.optimizer.zero_grad(set_to_none=True)
        state.network.unet.compiled = (
            self.layers if len(batch) == run.batch_size else None
        )  # a last, smaller batch is not worth compiling for
        loss = LOSSES[run.loss](state.network(noisy), target)
        loss.backward()
        state.optimizer.step()
        if state.average:
            self._update_average()
        self.total += loss.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        """The exponential average begins as the weights after the first step of the run, which no graph holds."""
        averages, weights = (
            list(self.state.average.parameters()),
            [tensor.detach() for tensor in self.state.network.parameters()],
        )
        if self.first:
            torch._foreach_copy_(averages, weights)
        else:
            get_ema_multi_avg_fn(self.run.averaging)(averages, weights, None)
        self.first = False


def train_epoch(step: Step) -> float:
    """One pass over the pairs of `step`, in an order drawn anew; returns the mean loss of its batches."""
    run, state, device = step.run, step.state, step.inputs.device
    state.network.train()
    batches = torch.randperm(len(step.inputs), generator=state.order).to(device).split(run.batch_size)
    step.total.zero_()
    for number, batch in enumerate(batches):
        _set_rate(state.optimizer, learning_rate(run, len(state.history), number / len(batches)))
        step.take(batch)
    return float(step.total) / len(batches)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _fresh(
    run: RunParams, blocks: Tensor, target: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A batch of newly drawn pairs; a clean target stays."""
    noisy = augment.redraw(blocks, generator)
    return noisy, target if run.target == "clean" else augment.redraw(blocks, generator)


@torch.no_grad()
def predict(run: RunParams, network: Network, images: Tensor) -> np.ndarray:
    """The network's output for uint8 N x 3 x S x S on its device: float32 in [0, 255], in memory."""
    network.eval()
    parts = []
    for part in images.split(PREDICT_BATCH):
        part = part.float().contiguous(memory_format=torch.channels_last)
        parts.append(network(part).cpu())
    return torch.cat(parts).numpy()


def train(
    run: RunParams,
    pairs: PairSet,
    device: torch.device,
    checkpoint: Path,
    on_epoch: Callable[[Trained], None] = lambda state: None,
) -> Trained:
    """Train `run` to its end, from `checkpoint` where there is one; `on_epoch` is called after every epoch.

    A run whose loss is no longer finite ends there, diverged. The checkpoint is left for the caller to remove once the run is stored.
    """
    torch.set_flush_denormal(
        True
    )  # dying activations would otherwise cost the CPU a hundred times their worth
    inputs = pairs.train["noisy_1"].to(device)
    targets = pairs.target(run.target).to(device)
    blocks = (
        pairs.blocks().to(device) if run.resample else None
    )  # on the CPU mapped: a batch at a time is read
    noisy, clean = pairs.validation["noisy_1"].to(device), pairs.validation["clean"].numpy()
    state = restore(checkpoint, run, device) or begin(run, device)
    step = Step(run, state, inputs, targets, blocks)
    while len(state.history) < run.epochs and not state.diverged:
        started = time.monotonic()
        loss = train_epoch(step)
        mse = mse_per_image(predict(run, state.product, noisy), clean)
        epoch = len(state.history)
        state.history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": learning_rate(run, epoch),
                "train_loss": loss,
                "psnr_full": psnr_full(mse),
                "psnr_per_image": psnr_per_image(mse),
            }
        )
        state.validation_mse.append(mse)
        state.seconds += time.monotonic() - started
        save(state, checkpoint)
        on_epoch(state)
    return state


def save(state: Trained, path: Path) -> None:
    """Write all that the next epoch depends on: weights, optimiser, generators, history. Whole or not at all."""
    optimizer = state.optimizer.state_dict()["state"]
    tensors = {f"network/{name}": tensor for name, tensor in state.network.state_dict().items()}
    if state.average:
        tensors |= {f"average/{name}": tensor for name, tensor in state.average.state_dict().items()}
    tensors |= {
        f"optimizer/{number}/{name}": value
        for number, values in optimizer.items()
        for name, value in values.items()
    }
    tensors |= {
        "generator/order": state.order.get_state(),
        "generator/augmentation": state.augmentation.get_state(),
    }
    tensors["validation_mse"] = torch.from_numpy(np.stack(state.validation_mse))
    with replacing(path) as temporary:
        contiguous = {
            name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items() if tensor is not None
        }
        save_file(
            contiguous,
            temporary,
            metadata={"history": json.dumps(state.history), "seconds": str(state.seconds)},
        )


def restore(path: Path, run: RunParams, device: torch.device) -> Trained | None:
    """The state that `save` wrote, or None if there is none or the file is damaged: the run then starts again."""
    if not path.exists():
        return None
    state = begin(run, device)
    try:
        tensors, metadata = read_safetensors(path)
        state.history, state.seconds = json.loads(metadata["history"]), float(metadata["seconds"])
        for part, module in (("network/", state.network), ("average/", state.average)):
            if module is not None:
                module.load_state_dict(
                    {
                        name.removeprefix(part): tensor
                        for name, tensor in tensors.items()
                        if name.startswith(part)
                    }
                )
        parameters = list(state.network.parameters())
        optimizer = state.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, number, key = name.split("/")
                like = parameters[
                    int(number)
                ]  # the fused optimisers go through memory in order, so layouts must agree
                value = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
                optimizer["state"].setdefault(int(number), {})[key] = value
        state.optimizer.load_state_dict(optimizer)
        state.order.set_state(tensors["generator/order"])
        state.augmentation.set_state(tensors["generator/augmentation"])
        state.validation_mse = list(tensors["validation_mse"].numpy())
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        print(f"{path.name}: damaged checkpoint ({error}); its run starts again", flush=True)
        return None
    return state
