"""One run: its loop, optimiser, annealing, validation at every epoch's end, checkpoint and resume.

A run depends on its parameters, the pair set and this code alone: weights, order and augmentation have generators of their own, seeded
from `run.seed`, so that on one machine with one thread the numbers repeat exactly, also after an interruption.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from n2nlib import augment
from n2nlib.evaluation import mse_per_image, psnr_full, psnr_per_image
from n2nlib.files import read_safetensors, replacing
from n2nlib.model import Network
from n2nlib.pairs import PairSet
from n2nlib.sections import RunParams

LOSSES = {"l1": F.l1_loss, "mse": F.mse_loss}  # means over pixels in grey levels of [0, 255]
PREDICT_BATCH = 200


def learning_rate(run: RunParams, epoch: int, done: float = 0.0) -> float:
    """The rate in epoch `epoch` (from 0) of which the share `done` is over.

    "steps": ten times smaller after every epochs / (k + 1) epochs (section III-B). "one_cycle": up to `run.learning_rate` in the first 30 % of
    the training and down to nothing after, both as half a cosine (Smith and Topin 2018, with the constants of torch's OneCycleLR).
    """
    if run.schedule == "steps":
        return run.learning_rate * 0.1 ** (epoch * (run.annealing_steps + 1) // run.epochs)
    progress, peak, start, end = (epoch + done) / run.epochs, run.learning_rate, run.learning_rate / 25, run.learning_rate / 25e4
    a, b, along = (start, peak, progress / 0.3) if progress < 0.3 else (peak, end, (progress - 0.3) / 0.7)
    return b + (a - b) * (1 + math.cos(math.pi * along)) / 2


@dataclass
class Trained:
    """A run's state: of one that goes on, or finished. `history` has a row an epoch, `validation_mse` each image's error after it."""

    network: Network
    average: AveragedModel | None  # the exponential average of the weights, where the run keeps one
    optimizer: torch.optim.Optimizer
    order: torch.Generator  # draws the order of the pairs, on the CPU
    augmentation: torch.Generator  # draws flips, crops and noise, on the device
    history: list[dict[str, float]] = field(default_factory=list)
    validation_mse: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def product(self) -> Network:
        """The network that is validated and stored: the one with averaged weights where there is one."""
        return self.average.module if self.average else self.network

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
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[run.optimizer]
    optimizer = kind(network.parameters(), lr=run.learning_rate, fused=True)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(run.averaging)) if run.averaging else None
    return Trained(network, average, optimizer, order, torch.Generator(device).manual_seed(seeds[2]))


def augmented(run: RunParams, images: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Input and target (float B x 3 x S x S) after flips, crops and noise; a clean target gets no noise."""
    images = augment.flip(images, run.flips, generator)
    if run.crops:
        images = augment.crop(images, list(run.crops), generator)
    if run.target == "clean":
        return *augment.add_noise(images[:1], run.sigma_n, False, generator), images[1]
    return augment.add_noise(images, run.sigma_n, run.shared_noise, generator)


def train_epoch(run: RunParams, state: Trained, inputs: Tensor, targets: Tensor, blocks: Tensor | None = None) -> float:
    """One pass over the pairs (uint8 N x 3 x S x S, on the device); returns the mean loss of its batches.

    With `blocks` (uint8 N x cell x 3 x S x S) noisy versions are drawn anew from them.
    """
    device, loss_of = inputs.device, LOSSES[run.loss]
    state.network.train()
    order = torch.randperm(len(inputs), generator=state.order).to(device)
    total = torch.zeros((), device=device, dtype=torch.float64)
    batches = order.split(run.batch_size)
    for number, batch in enumerate(batches):
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(run, len(state.history), number / len(batches))
        pair = (inputs[batch], targets[batch]) if blocks is None else _fresh(run, blocks[batch.to(blocks.device)], targets[batch], state.augmentation)
        images = augmented(run, (pair[0].float(), pair[1].float()), state.augmentation)
        noisy, target = (image.contiguous(memory_format=torch.channels_last) for image in images)
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=_reduced(run, device)):
            predicted = state.network(noisy)
        loss = loss_of(predicted, target)
        loss.backward()
        state.optimizer.step()
        if state.average:
            state.average.update_parameters(state.network)
        total += loss.detach()
    return float(total) / len(batches)


def _fresh(run: RunParams, blocks: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of newly drawn pairs; a clean target stays."""
    blocks = blocks.to(target.device)
    noisy = augment.redraw(blocks, generator)
    return noisy, target if run.target == "clean" else augment.redraw(blocks, generator)


@torch.no_grad()
def predict(run: RunParams, network: Network, images: Tensor) -> np.ndarray:
    """The network's output for uint8 N x 3 x S x S on its device: float32 in [0, 255], in memory."""
    network.eval()
    parts = []
    for part in images.split(PREDICT_BATCH):
        part = part.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=_reduced(run, images.device)):
            parts.append(network(part).cpu())
    return torch.cat(parts).numpy()


def _reduced(run: RunParams, device: torch.device) -> bool:
    return run.precision == "bfloat16" and device.type == "cuda"


def train(run: RunParams, pairs: PairSet, device: torch.device, checkpoint: Path, on_epoch: Callable[[Trained], None] = lambda state: None) -> Trained:
    """Train `run` to its end, from `checkpoint` where there is one; `on_epoch` is called after every epoch.

    A run whose loss is no longer finite ends there, diverged. The checkpoint is left for the caller to remove once the run is stored.
    """
    torch.set_flush_denormal(True)  # dying activations would otherwise cost the CPU a hundred times their worth
    inputs = pairs.train["noisy_1"].to(device)
    targets = pairs.target(run.target).to(device)
    blocks = pairs.blocks() if run.resample else None  # mapped: a batch at a time goes to the device
    noisy, clean = pairs.validation["noisy_1"].to(device), pairs.validation["clean"].numpy()
    state = restore(checkpoint, run, device) or begin(run, device)
    while len(state.history) < run.epochs and not state.diverged:
        started = time.monotonic()
        loss = train_epoch(run, state, inputs, targets, blocks)
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
    tensors |= {f"optimizer/{number}/{name}": value for number, values in optimizer.items() for name, value in values.items()}
    tensors |= {"generator/order": state.order.get_state(), "generator/augmentation": state.augmentation.get_state()}
    tensors["validation_mse"] = torch.from_numpy(np.stack(state.validation_mse))
    with replacing(path) as temporary:
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        save_file(contiguous, temporary, metadata={"history": json.dumps(state.history), "seconds": str(state.seconds)})


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
                module.load_state_dict({name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)})
        parameters = list(state.network.parameters())
        optimizer = state.optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, number, key = name.split("/")
                like = parameters[int(number)]  # the fused optimisers go through memory in order, so layouts must agree
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
