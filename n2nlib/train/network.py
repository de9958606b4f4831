"""The network: the U-Net of Lehtinen et al. (2018) as the paper uses it, unsharp masking, the output clamp; and `Denoiser`, to use one.

Layers, widths and initialisation follow sections II-A and II-B of the paper and its published code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from n2nlib.files import replacing

PEAK = 255.0


DEPTH = 5  # poolings: image sides must be multiples of 2**5


ALIGNED = 8  # channels: a GPU's matrix units take a 16-bit image whose channels are a multiple of it


BLUR_SIGMA = 0.8  # torchvision's default for a 3x3 Gaussian kernel


class Conv(nn.Conv2d):
    """3x3, "same" padding. On a GPU in the dtype of its input, with channels of zeros at both ends up to a multiple of `ALIGNED`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x)
        weight, bias, more = self.weight.to(x.dtype), self.bias.to(x.dtype), -self.out_channels % ALIGNED
        weight, bias = (
            F.pad(weight, (0, 0, 0, 0, 0, x.shape[1] - self.in_channels, 0, more)),
            F.pad(bias, (0, more)),
        )
        return F.conv2d(x, weight, bias, padding=1)[:, : self.out_channels]


class UpConv(nn.ConvTranspose2d):
    """2x2, stride 2, computed in the dtype of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), stride=2)


class Nearest(nn.Upsample):
    """Every pixel becomes 2x2. On a GPU as a copy of a view, whose gradient is a sum in a fixed order; the library's adds them as they come."""

    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x)
        count, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None]
        return (
            pixels.expand(count, height, 2, width, 2, channels)
            .reshape(count, 2 * height, 2 * width, channels)
            .permute(0, 3, 1, 2)
        )


def _conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(Conv(channels_in, channels_out), nn.LeakyReLU(0.1, inplace=True))


class UNet(nn.Module):
    """Float B x 3 x H x W in [0, 255] -> the same shape, unbounded; H and W multiples of 32.

    `width` 48 is the published network: 991,203 parameters with `arch` "upsample" (nearest neighbour), 1,148,307 with "tconv"
    (transposed 2x2 convolutions that keep the channel count). `residual` predicts what to add to the input, `normalized` feeds the layers
    [-0.5, 0.5] instead of [0, 255]: two changes that the paper does not have.
    """

    def __init__(
        self, width: int = 48, arch: str = "upsample", residual: bool = False, normalized: bool = False
    ) -> None:
        super().__init__()
        self.residual, self.normalized = residual, normalized
        self.encoder = nn.ModuleList([nn.Sequential(_conv(3, width), _conv(width, width))])
        self.encoder.extend(_conv(width, width) for _ in range(DEPTH - 1))
        self.bottom = _conv(width, width)
        wide = 2 * width
        below = [width] + (DEPTH - 1) * [wide]  # channels that come up from the level below
        sizes = (
            [(width + width, wide, wide)]
            + 3 * [(wide + width, wide, wide)]
            + [(wide + 3, width * 4 // 3, width * 2 // 3)]
        )
        self.decoder = nn.ModuleList(nn.Sequential(_conv(a, b), _conv(b, c)) for a, b, c in sizes)
        self.up = nn.ModuleList(UpConv(channels) if arch == "tconv" else Nearest() for channels in below)
        self.last = Conv(sizes[-1][-1], 3)
        self.dtype = torch.float32  # of the layers; bfloat16 for a GPU's matrix units
        self.compiled: Callable[[Tensor], Tensor] | None = None  # takes the place of `layers` in training

    def forward(self, image: Tensor) -> Tensor:
        x = image / PEAK - 0.5 if self.normalized else image
        x = (self.compiled if self.compiled and self.training else self.layers)(x)
        if self.normalized:
            x = x * PEAK if self.residual else (x + 0.5) * PEAK
        return image + x if self.residual else x

    def layers(self, x: Tensor) -> Tensor:
        """From the scaled input to the last convolution's output, both of the input's dtype."""
        given, x = x.dtype, x.to(self.dtype)
        if x.is_cuda:
            x = F.pad(x, (0, 0, 0, 0, 0, ALIGNED - 3))
        skips = [x]
        for level, layer in enumerate(self.encoder):
            x = F.max_pool2d(layer(x), 2)
            if level < DEPTH - 1:
                skips.append(x)
        x = self.bottom(x)
        for up, layer in zip(self.up, self.decoder, strict=True):
            x = layer(torch.cat([up(x), skips.pop()], 1))
        return self.last(x).to(given)


def mirrored(x: Tensor) -> Tensor:
    """One pixel more on each side, as F.pad(x, (1, 1, 1, 1), mode="reflect"); its gradient is a sum in a fixed order on a GPU too."""
    x = torch.cat([x[..., 1:2, :], x, x[..., -2:-1, :]], -2)
    return torch.cat([x[..., 1:2], x, x[..., -2:-1]], -1)


class UnsharpMask(nn.Module):
    """Equation (1): ReLU(x + tau * (x - blur(x))), blur a 3x3 Gaussian of sigma 0.8 with reflected borders. B x 3 x H x W, any range."""

    def __init__(self, tau: float) -> None:
        super().__init__()
        self.tau = tau
        taps = torch.exp(-(torch.tensor([-1.0, 0.0, 1.0]) ** 2) / (2 * BLUR_SIGMA**2))
        taps = taps / taps.sum()
        self.register_buffer("kernel", torch.outer(taps, taps).expand(3, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = mirrored(x) if x.is_cuda else F.pad(x, (1, 1, 1, 1), mode="reflect")
        blurred = F.conv2d(padded, self.kernel, groups=3)
        return F.relu(x + self.tau * (x - blurred))


class Network(nn.Module):
    """What is trained: U-Net, ReLU, unsharp masking if `tau_sharp` > 0, then x - ReLU(x - 255). Output float32 in [0, 255]."""

    def __init__(
        self,
        width: int = 48,
        arch: str = "upsample",
        tau_sharp: float = 0.0,
        residual: bool = False,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.config = {
            "width": width,
            "arch": arch,
            "tau_sharp": tau_sharp,
            "residual": residual,
            "normalized": normalized,
        }
        self.unet = UNet(width, arch, residual, normalized)
        self.sharpen = UnsharpMask(tau_sharp) if tau_sharp > 0 else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        x = self.sharpen(F.relu(self.unet(image)))
        return x - F.relu(x - PEAK)

    def initialize(self, generator: torch.Generator) -> None:
        """Kaiming normal weights (variance 2 / fan-in, He et al. 2015), zero biases, on every (transposed) convolution."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)


def save_network(network: Network, path: Path, flips: bool = False) -> None:
    """Weights as safetensors, the network's configuration in the file's metadata; whole or not at all.

    `flips`: whoever loads the file predicts with the mean over the four flips of an image.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as temporary:
        # one entry: safetensors writes several in no fixed order
        save_file(tensors, temporary, metadata={"network": json.dumps(network.config | {"flips": flips})})
