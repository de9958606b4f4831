"""Drawings that explain the method: the noise, the network, and the layers after its last convolution."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from n2nlib.pairs.corruption import block_mean, draw, squashed_blocks
from n2nlib.report.figures import BLUE, GREEN, GREY, ORANGE, PAGE, PINK, described, show_picture, to_picture
from n2nlib.train.network import PEAK, Network, UNet, UnsharpMask

KINDS = {
    "image": (GREY, "image"),
    "convolution": (BLUE, "3 × 3 convolution"),
    "pooling": (PINK, "2 × 2 max pooling"),
    "concatenation": (GREEN, "upsampled, joined with the skip"),
}  # colour and name of each box
OPERATIONS = {
    "max_pool2d_with_indices": "pooling",
    "upsample_nearest2d": "upsampling",
    "cat": "concatenation",
}
ARROW = {"arrowstyle": "-|>", "lw": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}


def costs(width: int, size: int = 32) -> pd.DataFrame:
    """network_costs.csv: both variants of the U-Net, one row each.

    Columns: width (channels), arch, parameters (weights and biases), forward_gflop and forward_backward_gflop
    (10^9 operations for an image of `size` x `size` pixels, two per multiply-add). Forward plus backward
    counts as three forward passes.
    """
    rows = []
    for arch in ("tconv", "upsample"):
        network = Network(width, arch)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, size, size))
        forward = counter.get_total_flops() / 1e9
        parameters = sum(parameter.numel() for parameter in network.parameters())
        rows.append({"width": width, "arch": arch, "parameters": parameters, "forward_gflop": forward})
    return pd.DataFrame(rows).assign(forward_backward_gflop=lambda table: 3 * table["forward_gflop"])


@dataclass(frozen=True)
class Operation:
    """One operation of a forward pass; `sources` are the positions of the steps whose outputs it takes."""

    kind: str  # "image", "convolution", "pooling", "upsampling" or "concatenation"
    channels: int  # of its output
    side: int  # of its output, pixels
    sources: tuple[int, ...]


class _Recorder(TorchDispatchMode):
    """Records the steps of a forward pass as they are computed, whatever modules they stand in."""

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        self.made = [image]  # keeping the outputs keeps their identities distinct
        self.steps = [Operation("image", *image.shape[1:3], ())]

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        kind = OPERATIONS.get(name)
        if name == "convolution":
            kind = "upsampling" if args[6] else "convolution"  # args[6] says whether it is transposed
        if kind:
            tensors = args[0] if name == "cat" else args[:1]
            sources = (next(i for i, made in enumerate(self.made) if made is one) for one in tensors)
            output = result[0] if isinstance(result, tuple) else result
            self.steps.append(Operation(kind, *output.shape[1:3], tuple(sources)))
            self.made.append(output)
        return result


def trace(width: int, arch: str = "upsample", size: int = 32) -> list[Operation]:
    """The convolutions, poolings, upsamplings and concatenations of `UNet(width, arch)`, in order."""
    unet, image = UNet(width, arch), torch.zeros(1, 3, size, size)
    with torch.no_grad(), _Recorder(image) as recorder:
        unet(image)
    return recorder.steps


def _arrow(axis: Axes, *points: tuple[float, float], color: str = "0.3") -> None:
    """A line through `points` (data coordinates) that ends in an arrowhead."""
    axis.plot(*zip(*points, strict=True), color=color, lw=0.8, solid_joinstyle="miter")
    axis.annotate("", points[-1], points[-2], arrowprops=ARROW | {"color": color})


def architecture(width: int, size: int = 32) -> Figure:
    """The U-Net as `trace` finds it: channels in each box, one row for each image size (all inches)."""
    steps = trace(width, size=size)
    pitch, row, left = (PAGE - 1.1) / sum(step.kind == "convolution" for step in steps), 0.5, 0.8
    box, x = 0.8 * pitch, left
    levels = {side: -row * np.log2(size / side) for side in {step.side for step in steps}}
    at: list[tuple[float, float, float]] = []  # centre and half the height of the box of each step
    for step in steps:
        x += pitch * (step.kind == "convolution")  # others are drawn below or above the step before
        # An upsampling is drawn as the arrow from its source into the concatenation that follows.
        here = (x, levels[step.side], 0.085 + 0.02 * np.log2(step.side))
        at.append(at[step.sources[0]] if step.kind == "upsampling" else here)
    low = min(levels.values())
    figure, axis = plt.subplots(figsize=(PAGE, 0.65 - low))
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    axis.set(xlim=(0, PAGE), ylim=(low - 0.25, 0.4))
    axis.axis("off")
    for step, (x, y, height) in zip(steps, at, strict=True):
        if step.kind == "upsampling":
            continue
        for x0, y0, reach in (at[source] for source in step.sources):
            if x0 == x:  # up or down to the next row
                sign = np.sign(y - y0)
                _arrow(axis, (x, y0 + sign * reach), (x, y - sign * height))
            elif step.kind == "concatenation":
                top, over, start, end = y + height, y + height + 0.07, x0 + box / 3, x - box / 3
                _arrow(axis, (start, top), (start, over), (end, over), (end, top), color="0.6")
            else:
                _arrow(axis, (x0 + box / 2, y), (x - box / 2, y))
        corner = (x - box / 2, y - height)
        axis.add_patch(Rectangle(corner, box, 2 * height, facecolor=KINDS[step.kind][0]))
        axis.text(x, y, step.channels, ha="center", va="center", color="white")
    words = "then ReLU,\nsharpening and\nclamp to [0, 255]"
    axis.text(x + box / 2, y - height - 0.06, words, ha="right", va="top", linespacing=1.1)
    for side, y in levels.items():
        axis.text(left - box / 2 - 0.1, y, f"{side} × {side}", ha="right", va="center")
    handles = [Rectangle((0, 0), 1, 1, color=color, label=label) for color, label in KINDS.values()]
    axis.legend(handles=handles, loc="lower right", labelspacing=0.3)
    return described(
        figure,
        f"The U-Net of width {width} as a diagram: {size} × {size} pixels are pooled down to "
        f"{min(levels)} × {min(levels)} and upsampled again; the skips leave the image itself and the "
        "output of each pooling but the last.",
    )


def noise(photograph: np.ndarray, size: int = 32, block: int = 7, seed: int = 0) -> Figure:
    """How a photograph (uint8 H x W x 3) becomes a noisy pair: photograph, one block of it, pixels, images.

    The block is the one with the largest contrast. The noisy versions are those that `draw` makes of the
    whole photograph; the pixels that it chose in the block are outlined.
    """
    blocks = squashed_blocks(photograph, size, block)
    row, column = np.unravel_index(blocks.std(axis=2).sum(axis=-1).argmax(), (size, size))
    places = np.broadcast_to(np.arange(block**2)[:, None], blocks.shape)  # of each pixel in its block
    images, chosen = {}, {}
    for version in (1, 2):
        name = f"noisy {version}: one pixel"
        images[name] = draw(blocks, np.random.default_rng([seed, version]))
        chosen[name] = draw(places, np.random.default_rng([seed, version]))[row, column, 0]
    images["clean: mean"] = block_mean(blocks)
    side = size * block
    squashed = blocks.reshape(size, size, block, block, 3).swapaxes(1, 2).reshape(side, side, 3)

    figure, axes = plt.subplot_mosaic([["photo", "block", *images]], figsize=(PAGE, 1.5))
    figure.get_layout_engine().set(w_pad=0.03, wspace=0.06)
    show_picture(axes["photo"], squashed, f"photograph, {side} × {side}")
    show_picture(axes["block"], blocks[row, column].reshape(block, block, 3), f"one block, {block} × {block}")
    left, top = column * block - 0.5, row * block - 0.5
    axes["photo"].add_patch(Rectangle((left, top), block, block, fill=False, ec="white", lw=1))
    between = {"coordsA": "data", "axesA": axes["photo"], "coordsB": "axes fraction", "axesB": axes["block"]}
    for corner in (0, 1):
        ends = (left + block, top + corner * block), (0, 1 - corner)
        figure.add_artist(ConnectionPatch(*ends, **between, color=GREY, lw=0.6))
    for (name, picture), color in zip(images.items(), (BLUE, ORANGE, GREEN), strict=True):
        outline = {"fill": False, "ec": color, "lw": 1.6}
        show_picture(axes[name], picture, name)
        axes[name].add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **outline))
        if name in chosen:
            y, x = divmod(int(chosen[name]), block)
            axes["block"].add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **outline))
    return described(
        figure,
        f"A photograph, one block of {block} × {block} of its pixels, and three images of {size} × {size} "
        "pixels: in the two noisy ones each pixel is one drawn at random from its block, in the clean one it "
        "is the mean of its block.",
    )


def output_layers(image: np.ndarray, tau: float = 1.0) -> Figure:
    """Sharpening and clamp: `image` (3 x S x S in [0, 255]) before and after, one row of it, and the clamp.

    The row is the one whose green sharpening pushes farthest out of [0, 255], borders of the image aside; it
    is drawn before the clamp.
    """
    figure, axes = plt.subplots(1, 4, figsize=(PAGE, 1.65), width_ratios=[1, 1, 1.6, 1.6])
    before, after, profile, clamp = axes
    plain = torch.as_tensor(np.asarray(image), dtype=torch.float32)
    mask = UnsharpMask()(plain[None], tau)[0]
    border = plain.shape[1] // 8
    outside = (mask - mask.clamp(0, PEAK))[1].abs().sum(dim=1)
    row = border + int(outside[border:-border].argmax())
    for axis, picture, title in ((before, plain, "output"), (after, mask, f"sharpened, τ = {tau:g}")):
        show_picture(axis, to_picture(picture.numpy()), title)
        for color, dots in (("black", "-"), ("white", ":")):  # visible on any picture
            axis.axhline(row, color=color, lw=1, ls=dots)
    for rows, color, label in ((plain, GREY, "output"), (mask, ORANGE, "sharpened")):
        profile.plot(rows[1, row], color=color, label=label)
    for level in (0, PEAK):
        profile.axhline(level, color=GREY, ls="--", lw=0.8)
    profile.set(xlabel="pixel of the dotted row", ylabel="green (grey levels)", title="Edges overshoot")
    x = torch.linspace(-100, 355, 456, requires_grad=True)
    y = Network(3).finish(torch.relu(x), 0.0)
    y.sum().backward()
    clamp.plot(x.detach(), y.detach(), color=GREY, label="output")
    clamp.plot(x.detach(), 100 * x.grad, color=BLUE, label="100 × gradient")
    clamp.set(xlabel="last convolution (grey levels)", ylabel="output (grey levels)")
    clamp.set_title("The clamp has no gradient outside")
    profile.legend(loc="center right")
    clamp.legend(loc="upper left")
    return described(
        figure,
        f"A picture before and after unsharp masking with factor {tau:g}, a row of its pixels before and "
        "after, and the clamp to [0, 255] with its gradient, which is zero outside that range.",
    )
