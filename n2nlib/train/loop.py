"""One training: its steps, learning rate, validation, checkpoint and resume.

A training depends on its parameters, its pair set and this code alone. Weights, order and augmentation have
generators of their own, seeded from `run.seed`, so that on one machine with one thread the numbers repeat
exactly, also after an interruption.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from n2nlib.files import read_safetensors, replacing
from n2nlib.metrics import psnr_full
from n2nlib.pairs.pair_set import PairSet
from n2nlib.train import augment
from n2nlib.train.cuda_graph import Replayed, compiled
from n2nlib.train.evaluate import errors
from n2nlib.train.identity import RunParams
from n2nlib.train.network import Network, layer_dtype

# Means over pixels and channels of values in [0, 255]: L1 in grey levels, the others in squared ones. Huber's
# loss is half the squared error below `delta` grey levels and grows linearly beyond; it is not in the report.
LOSSES = {"l1": F.l1_loss, "mse": F.mse_loss, "huber": partial(F.huber_loss, delta=32.0)}
COMPILE_FROM = 100_000  # images of a training from which half a minute of compiling pays on a GPU


def learning_rate(run: RunParams, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) out of `steps`.

    "steps" makes the rate ten times smaller after every 1 / (k + 1) of the training, where k is
    `run.annealing_steps` (section III-B of the report). "one_cycle" rises from 1/25 of `run.learning_rate` to
    all of it in the first 30 % of the training and falls to 1/250,000 of it after, both as half a cosine
    (Smith and Topin 2019, with the constants of torch's OneCycleLR). With `run.warmup` the rate is also
    multiplied by a factor that grows linearly to 1 over that share of the steps.
    """
    peak = run.learning_rate
    if run.schedule == "steps":
        rate = peak * 0.1 ** (step * (run.annealing_steps + 1) // steps)
    else:
        done, start, end = step / steps, peak / 25, peak / 25e4
        a, b, along = (start, peak, done / 0.3) if done < 0.3 else (peak, end, (done - 0.3) / 0.7)
        rate = b + (a - b) * (1 + math.cos(math.pi * along)) / 2
    return rate * min(1.0, (step + 1) / (run.warmup * steps)) if run.warmup else rate


@dataclass
class TrainingState:
    """State of a run, in progress or finished.

    `history` has a row per epoch. `curve` maps a validated epoch (from 1) to the errors of each validation
    image after it: `mse` and `mse_report`, see `evaluate.errors`.
    """

    network: Network
    average: Network | None  # the exponential average of the weights, if the run keeps one
    optimizer: torch.optim.Optimizer
    order: torch.Generator  # draws the order of the training items, on the CPU
    augmentation: torch.Generator  # draws flips, crops and noise, on the device
    history: list[dict[str, float]] = field(default_factory=list)
    curve: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    seconds: float = 0.0  # spent on training and validation, over all sessions of the run

    @property
    def evaluation_network(self) -> Network:
        """The network that is validated and stored: with averaged weights if the run averages them."""
        return self.average or self.network

    @property
    def diverged(self) -> bool:
        """Whether the loss of the last epoch is infinite or NaN."""
        return bool(self.history) and not math.isfinite(self.history[-1]["train_loss"])


def begin(run: RunParams, device: torch.device) -> TrainingState:
    """The state of `run` before its first epoch, on `device`.

    Adam has the defaults of torch but for the rate, and SGD has no momentum.
    """
    seeds = np.random.SeedSequence([run.seed, 5]).generate_state(3, np.uint32).tolist()
    weights, order = (torch.Generator().manual_seed(seed) for seed in seeds[:2])
    network = Network(run.width, run.arch, run.tau_sharp, run.residual, run.normalized)
    network.initialize(weights, run.init)
    network = network.to(device, memory_format=torch.channels_last)
    network.unet.dtype = layer_dtype(run.precision, device)
    options: dict[str, object] = {"lr": run.learning_rate, "fused": True}
    if device.type == "cuda":  # a CUDA graph reads what changes between steps from the memory of the GPU
        options["lr"] = torch.tensor(run.learning_rate, device=device)
        options |= {"capturable": True} if run.optimizer == "adam" else {}
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[run.optimizer]
    optimizer = kind(network.parameters(), **options)
    average = copy.deepcopy(network) if run.averaging else None
    augmentation = torch.Generator(device).manual_seed(seeds[2])
    return TrainingState(network, average, optimizer, order, augmentation)


class Step:
    """One training step: `step(items)` for the items of a batch.

    An item is a pair; with crops it is one kind of crop of a pair, so that an epoch holds one crop of each
    kind of every pair, and a batch has as many images with crops as without. `inputs` and `targets` are uint8
    N x 3 x S x S on the device. With `blocks` (uint8 N x pixels of a block x 3 x S x S) noisy versions are
    drawn anew from them. `total` collects the losses (float64, on the device).
    """

    def __init__(
        self,
        run: RunParams,
        state: TrainingState,
        inputs: Tensor,
        targets: Tensor,
        blocks: Tensor | None = None,
    ) -> None:
        self.run, self.state, self.inputs, self.targets, self.blocks = run, state, inputs, targets, blocks
        self.pairs = len(inputs)
        self.items = self.pairs * max(1, len(run.crops))
        self.scales = torch.tensor(run.crops, device=inputs.device) if run.crops else None
        self.total = torch.zeros((), device=inputs.device, dtype=torch.float64)
        self.first = not state.history
        pays = inputs.is_cuda and run.epochs * self.items >= COMPILE_FROM
        self.layers = compiled(state.network.unet.layers) if pays else None
        self.take = Replayed(self, state.augmentation) if inputs.is_cuda else self

    def __call__(self, items: Tensor) -> None:
        run, state = self.run, self.state
        noisy, target = self.images(items)
        state.optimizer.zero_grad(set_to_none=True)
        # The last, smaller batch of an epoch is not worth compiling for.
        state.network.unet.compiled = self.layers if len(items) == run.batch_size else None
        loss = LOSSES[run.loss](state.network(noisy), target)
        loss.backward()
        state.optimizer.step()
        if state.average:
            self._update_average()
        self.total += loss.detach()

    def images(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Input and target of a batch after augmentation, float B x 3 x S x S. Clean targets get no noise."""
        run, generator = self.run, self.state.augmentation
        chosen = items % self.pairs
        noisy, target = self.inputs[chosen], self.targets[chosen]
        if self.blocks is not None:
            blocks = self.blocks[chosen]
            noisy = augment.redraw(blocks, generator)
            target = target if run.target == "clean" else augment.redraw(blocks, generator)
        images = augment.flip((noisy.float(), target.float()), run.flips, generator)
        if self.scales is not None:
            images = augment.crop(images, self.scales[items // self.pairs], generator)
        if run.target == "clean":
            images = *augment.add_noise(images[:1], run.sigma_n, False, generator), images[1]
        else:
            images = augment.add_noise(images, run.sigma_n, run.shared_noise, generator)
        return tuple(image.contiguous(memory_format=torch.channels_last) for image in images)

    @torch.no_grad()
    def _update_average(self) -> None:
        """The exponential average starts as the weights after the first step, which no graph records."""
        averages = list(self.state.average.parameters())
        weights = [tensor.detach() for tensor in self.state.network.parameters()]
        if self.first:
            torch._foreach_copy_(averages, weights)
        else:
            get_ema_multi_avg_fn(self.run.averaging)(averages, weights, None)
        self.first = False


def train_epoch(step: Step) -> float:
    """One pass over the items of `step` in an order drawn anew; returns the mean loss of its batches."""
    run, state, device = step.run, step.state, step.inputs.device
    state.network.train()
    batches = torch.randperm(step.items, generator=state.order).to(device).split(run.batch_size)
    step.total.zero_()
    before, steps = len(state.history) * len(batches), run.epochs * len(batches)
    for number, items in enumerate(batches):
        _set_rate(state.optimizer, learning_rate(run, before + number, steps))
        step.take(items)
    return float(step.total) / len(batches)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def train(
    run: RunParams,
    pairs: PairSet,
    device: torch.device,
    checkpoint: Path,
    on_epoch: Callable[[TrainingState], None] = lambda state: None,
) -> TrainingState:
    """Train `run` to its end, from `checkpoint` if there is one; `on_epoch` is called after every epoch.

    A run whose loss is no longer finite ends there, diverged. The caller removes the checkpoint once the run
    is stored. Raises `UserError` if `pairs` lacks the targets or the blocks of `run`, or if the disk is full.
    """
    torch.set_flush_denormal(True)  # vanishing activations would otherwise slow the CPU down a hundredfold
    inputs = pairs.train["noisy_1"].to(device)
    targets = pairs.target(run.target).to(device)
    blocks = pairs.blocks().to(device) if run.resample else None  # memory-mapped on the CPU
    noisy, clean = pairs.validation["noisy_1"].to(device), pairs.validation["clean"].numpy()
    state = restore(checkpoint, run, device) or begin(run, device)
    step = Step(run, state, inputs, targets, blocks)
    while len(state.history) < run.epochs and not state.diverged:
        started, epoch = time.monotonic(), len(state.history) + 1
        steps = -(-step.items // run.batch_size)
        rate = learning_rate(run, (epoch - 1) * steps, run.epochs * steps)
        row = {"epoch": epoch, "images": epoch * step.items, "learning_rate": rate}
        row["train_loss"] = train_epoch(step)
        if run.validate_every_epoch or epoch == run.epochs or not math.isfinite(row["train_loss"]):
            state.curve[epoch] = errors(state.evaluation_network, noisy, clean)
            row["psnr_full"] = psnr_full(state.curve[epoch]["mse"])
            row["report_full"] = psnr_full(state.curve[epoch]["mse_report"])
        state.history.append(row)
        state.seconds += time.monotonic() - started
        save(state, checkpoint)
        on_epoch(state)
    return state


def save(state: TrainingState, path: Path) -> None:
    """Write all that the next epoch depends on, whole or not at all."""
    optimizer = state.optimizer.state_dict()["state"]
    tensors = {f"network/{name}": tensor for name, tensor in state.network.state_dict().items()}
    if state.average:
        tensors |= {f"average/{name}": tensor for name, tensor in state.average.state_dict().items()}
    tensors |= {
        f"optimizer/{number}/{name}": value
        for number, values in optimizer.items()
        for name, value in values.items()
        if value is not None
    }
    tensors |= {"generator/order": state.order.get_state()}
    tensors |= {"generator/augmentation": state.augmentation.get_state()}
    tensors |= {
        f"curve/{epoch}/{name}": torch.from_numpy(values)
        for epoch, measured in state.curve.items()
        for name, values in measured.items()
    }
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"history": json.dumps(state.history), "seconds": str(state.seconds)}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata=metadata)


def restore(path: Path, run: RunParams, device: torch.device) -> TrainingState | None:
    """The state that `save` wrote; None if there is none or the file is damaged, and the run starts again."""
    if not path.exists():
        return None
    state = begin(run, device)
    try:
        tensors, metadata = read_safetensors(path)
        state.history, state.seconds = json.loads(metadata["history"]), float(metadata["seconds"])
        for part, module in (("network/", state.network), ("average/", state.average)):
            if module is not None:
                held = {
                    name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)
                }
                module.load_state_dict(held)
        parameters = list(state.network.parameters())
        optimizer = state.optimizer.state_dict()
        for name, tensor in tensors.items():
            kind, *keys = name.split("/")
            if kind == "optimizer":
                like = parameters[int(keys[0])]  # fused optimisers go through memory in order: same layout
                value = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
                optimizer["state"].setdefault(int(keys[0]), {})[keys[1]] = value
            elif kind == "curve":
                state.curve.setdefault(int(keys[0]), {})[keys[1]] = tensor.numpy().copy()
        state.optimizer.load_state_dict(optimizer)
        state.order.set_state(tensors["generator/order"])
        state.augmentation.set_state(tensors["generator/augmentation"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        print(f"{path.name}: damaged checkpoint ({error}); its run starts again", flush=True)
        return None
    return state
