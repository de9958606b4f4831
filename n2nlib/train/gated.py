"""The network of the best model: a U-Net of gated blocks that predicts what to add to its input.

It is not in the report. A block multiplies one half of its channels by the other (the simple gate of Chen et
al. 2022, "Simple Baselines for Image Restoration") and adds the result to its input, so a deep network learns
from the first step. Only its depthwise convolution is 3x3, so it costs a third of two dense 3x3 ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from n2nlib.metrics import PEAK

BLOCKS = (2, 2, 4)  # at full, half and quarter resolution; again on the way up


class Norm(nn.LayerNorm):
    """Layer normalisation of each pixel over its channels, B x C x H x W, in the dtype of its input.

    Without it the products of the gates grow from block to block, and a training may diverge.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):  # which would compute in float32
            pixels = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, weight, bias, self.eps)
        return pixels.permute(0, 3, 1, 2)


class GatedBlock(nn.Module):
    """x + mix(a * b) twice, where a and b are the halves of a wider x. B x C x H x W of any range.

    The first time x is normalised, widened by a 1x1 convolution and filtered by a 3x3 depthwise convolution;
    the second time it is normalised and widened. That is the block of NAFNet (Chen et al. 2022) without its
    channel attention, which would make an output depend on the whole image, and without the learned scales of
    its two sums, which start at zero: here `GatedUNet.start` sets the weights of `mix` to zero instead.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm, self.norm_again = Norm(channels), Norm(channels)
        self.expand = nn.Conv2d(channels, wide, 1)
        self.filter = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.expand_again = nn.Conv2d(channels, wide, 1)
        self.mix_again = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.filter(self.expand(self.norm(x))).chunk(2, 1)
        x = x + self.mix(a * b)
        a, b = self.expand_again(self.norm_again(x)).chunk(2, 1)
        return x + self.mix_again(a * b)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(GatedBlock(channels) for _ in range(count)))


class GatedUNet(nn.Module):
    """Float B x 3 x H x W in [0, 255] -> the same shape, unbounded; H and W are multiples of 4.

    `width` is the channel count at full resolution; it doubles at each of the two lower resolutions.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(len(BLOCKS))]
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(c, n) for c, n in zip(sizes, BLOCKS, strict=True))
        self.down = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in sizes[:-1])
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1), nn.PixelShuffle(2)) for c in reversed(sizes[:-1])
        )
        self.decoder = nn.ModuleList(
            _blocks(c, n) for c, n in zip(reversed(sizes[:-1]), reversed(BLOCKS[:-1]), strict=True)
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.dtype = torch.float32  # of the layers, see `network.layer_dtype`
        self.compiled: Callable[[Tensor], Tensor] | None = None  # replaces `layers` in training

    def forward(self, image: Tensor) -> Tensor:
        layers = self.compiled if self.compiled and self.training else self.layers
        return image + PEAK * layers(image / PEAK - 0.5)

    def layers(self, x: Tensor) -> Tensor:
        """Scaled input -> what to add to it, both in the dtype of the input."""
        given = x.dtype
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            x = self.first(x)
            skips = []
            for blocks, down in zip(self.encoder[:-1], self.down, strict=True):
                x = blocks(x)
                skips.append(x)
                x = down(x)
            x = self.encoder[-1](x)
            for up, blocks in zip(self.up, self.decoder, strict=True):
                x = blocks(up(x) + skips.pop())
            return self.last(x).to(given)

    def start(self) -> None:
        """Make every block the identity and the last layer zero, so training starts at the input.

        The biases must be zero already, as `Network.initialize` leaves them.
        """
        for layer in self.modules():
            if isinstance(layer, GatedBlock):
                nn.init.zeros_(layer.mix.weight)
                nn.init.zeros_(layer.mix_again.weight)
        nn.init.zeros_(self.last.weight)
