"""Drawings that explain the network: its layers and sizes, what sharpening does, what the clamp does."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from n2nlib.report.figures import PAGE, to_picture
from n2nlib.train.network import PEAK, Network, UnsharpMask


def cost(width: int, arch: str, size: int = 32) -> dict[str, float]:
    """Parameters, and operations (two a multiply-add, GFLOP) of one forward pass and of forward plus backward (3 x) of one image."""
    network = Network(width, arch)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    forward = counter.get_total_flops() / 1e9
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "forward_gflop": forward,
        "forward_backward_gflop": 3 * forward,
    }


def _box(axis: Axes, x: float, y: float, channels: int, side: int, color: str) -> None:
    height, half = 0.22 + 0.68 * np.log2(side + 1) / np.log2(33), 0.12 + channels / 700
    axis.add_patch(
        plt.Rectangle(
            (x - half, y - height / 2), 2 * half, height, facecolor=color, edgecolor="white", linewidth=0.8
        )
    )
    axis.text(x, y + height / 2 + 0.05, str(channels), ha="center", va="bottom", fontsize=7.5)


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], color: str = "0.35", style: str = "-"
) -> None:
    axis.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>",
            "color": color,
            "lw": 0.8,
            "ls": style,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 6,
        },
    )


def architecture(width: int, size: int = 32) -> Figure:
    """The U-Net as drawn from the layers of `Network(width)` itself: channels over each layer, image side at the left of each level."""
    unet = Network(width).unet
    convolutions = [layer for layer in unet.modules() if isinstance(layer, torch.nn.Conv2d)]
    channels = [layer.out_channels for layer in convolutions]
    figure, axis = plt.subplots(figsize=(PAGE, 3.6))
    levels, drop = len(unet.encoder), 1.35
    row = {level: -drop * level for level in range(levels + 1)}
    x, skips = 0.0, {0: (0.0, row[0])}
    _box(axis, x, row[0], 3, size, "C5")
    place, taken = (x, row[0]), 0
    for level in range(levels):
        for _ in range(2 if level == 0 else 1):
            x += 0.62
            _box(axis, x, row[level], channels[taken], size >> level, "C0")
            _arrow(axis, (place[0] + 0.2, place[1]), (x - 0.22, row[level]))
            place, taken = (x, row[level]), taken + 1
        if level:
            skips[level] = place
        x += 0.42
        _arrow(axis, (place[0], place[1] - 0.5), (x - 0.2, row[level + 1] + 0.6), "C1")
        place = (x, row[level + 1])
        _box(axis, x, row[level + 1], channels[taken - 1], size >> (level + 1), "C4")
    x += 0.62
    _box(axis, x, row[levels], channels[taken], size >> levels, "C0")
    _arrow(axis, (place[0] + 0.2, place[1]), (x - 0.22, row[levels]))
    place, taken = (x, row[levels]), taken + 1
    for level in reversed(range(levels)):
        x += 0.75
        joined = convolutions[taken].in_channels
        _arrow(axis, (place[0], place[1] + 0.6), (x - 0.1, row[level] - 0.45), "C2")
        _box(axis, x, row[level], joined, size >> level, "0.55")
        source = skips[level]
        _arrow(axis, (source[0] + 0.25, row[level]), (x - 0.32, row[level]), "0.6", ":")
        place = (x, row[level])
        for _ in range(2):
            x += 0.66
            _box(axis, x, row[level], channels[taken], size >> level, "C0")
            _arrow(axis, (place[0] + 0.28, place[1]), (x - 0.28, row[level]))
            place, taken = (x, row[level]), taken + 1
    x += 0.7
    _box(axis, x, row[0], channels[-1], size, "C5")
    _arrow(axis, (place[0] + 0.25, place[1]), (x - 0.2, row[0]))
    axis.text(x + 0.25, row[0], "ReLU, sharpen,\nclamp to [0, 255]", fontsize=7.5, va="center")
    for level in range(levels + 1):
        axis.text(-0.55, row[level], f"{size >> level}²", fontsize=7, va="center", ha="right", color="0.35")
    legend = {
        "image": "C5",
        "3×3 convolution, LeakyReLU(0.1)": "C0",
        "2×2 max pooling": "C4",
        "upsampled and skip, concatenated": "0.55",
    }
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in legend.values()]
    axis.legend(handles, legend.keys(), loc="lower right", fontsize=7.5)
    axis.set(xlim=(-1.1, x + 2.0), ylim=(row[levels] - 0.7, 1.0))
    axis.axis("off")
    return figure


def sharpening(image: np.ndarray, factors: tuple[float, ...] = (0.0, 1.0, 2.0)) -> Figure:
    """`image` (3 x S x S in [0, 255]) after unsharp masking with each factor, and a row of its pixels before and after."""
    figure, axes = plt.subplots(
        1, len(factors) + 1, figsize=(PAGE, 1.9), width_ratios=[1] * len(factors) + [1.7]
    )
    tensor = torch.as_tensor(image, dtype=torch.float32)[None]
    row = image.shape[1] // 2
    for number, factor in enumerate(factors):
        result = UnsharpMask(factor)(tensor)[0].numpy()
        axes[number].imshow(to_picture(result))
        axes[number].set(xticks=[], yticks=[], title=f"τ = {factor:g}" + (" (input)" if factor == 0 else ""))
        axes[number].axhline(row, color="white", linewidth=0.6, linestyle=":")
        axes[-1].plot(result[1, row], label=f"τ = {factor:g}", color=f"C{number}")
    axes[-1].axhline(PEAK, color="black", linewidth=0.6, linestyle="--")
    axes[-1].set(xlabel="pixel of the dotted row", ylabel="green, grey levels", title="Edges overshoot")
    axes[-1].legend()
    return figure


def clamp() -> Figure:
    """The two-ReLU clamp and its gradient, over what the last convolution may give."""
    x = torch.linspace(-100, 355, 456, requires_grad=True)
    positive = torch.relu(x)
    y = positive - torch.relu(positive - PEAK)
    y.sum().backward()
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE, 1.8))
    left.plot(x.detach(), y.detach())
    left.set(
        xlabel="last convolution (grey levels)",
        ylabel="output (grey levels)",
        title="ReLU(x) − ReLU(ReLU(x) − 255)",
    )
    right.plot(x.detach(), x.grad, color="C1")
    right.set(
        xlabel="last convolution (grey levels)", ylabel="gradient", title="No gradient outside [0, 255]"
    )
    return figure
