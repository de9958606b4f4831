"""The network: the U-Net of Lehtinen et al. (2018) as the report uses it, unsharp mask and output clamp.

Layers, widths and initialisation follow sections II-A and II-B of the report and its published code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from n2nlib.files import read_safetensors, replacing
from n2nlib.metrics import PEAK

DEPTH = 5  # poolings, so image sides must be multiples of 2**5
ALIGNED = 8  # the matrix units of a GPU need 16-bit images whose channel count is a multiple of this
BLUR_SIGMA = 0.8  # torchvision's default for a 3x3 Gaussian kernel


def layer_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What layers compute in: bfloat16 if `precision` says so and the processor has it, else float32.

    A GPU has it, and so does a CPU with the AVX-512 or AMX instructions for bfloat16. Without them a CPU
    would emulate it, which is slower than float32.
    """
    capabilities = torch.cpu.get_capabilities()
    has = device.type == "cuda" or capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if precision == "bfloat16" and has else torch.float32


class Conv(nn.Conv2d):
    """3x3 convolution with "same" padding (zeros), in the dtype of its input.

    On a GPU it computes output channels in multiples of `ALIGNED` and drops the surplus. Its input may have
    more channels than `in_channels` there: they are the zeros that `UNet.layers` adds, with zero weights.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if not x.is_cuda:
            return F.conv2d(x, weight, bias, padding=1)
        more = -self.out_channels % ALIGNED
        weight = F.pad(weight, (0, 0, 0, 0, 0, x.shape[1] - self.in_channels, 0, more))
        return F.conv2d(x, weight, F.pad(bias, (0, more)), padding=1)[:, : self.out_channels]


class UpConv(nn.ConvTranspose2d):
    """2x2 transposed convolution of stride 2 that keeps the channel count, in the dtype of its input."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), stride=2)


class Nearest(nn.Upsample):
    """Nearest-neighbour upsampling by two.

    On a GPU it copies an expanded view, because the gradient of torch's own kernel adds in no fixed order.
    """

    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda:
            return super().forward(x)
        count, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(count, height, 2, width, 2, channels)
        return pixels.reshape(count, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def _conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(Conv(channels_in, channels_out), nn.LeakyReLU(0.1, inplace=True))


class UNet(nn.Module):
    """Float B x 3 x H x W in [0, 255] -> the same shape, unbounded; H and W are multiples of 32.

    Width 48 is the published network: 991,203 parameters with `arch` "upsample" (nearest neighbour) and
    1,148,307 with "tconv" (transposed 2x2 convolutions that keep the channel count). The report has neither
    `residual` (the layers predict what to add to the input) nor `normalized` (the layers see [-0.5, 0.5]
    instead of [0, 255]).
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
        sizes = [(wide, wide, wide)] + 3 * [(wide + width, wide, wide)]
        sizes += [(wide + 3, width * 4 // 3, width * 2 // 3)]
        self.decoder = nn.ModuleList(nn.Sequential(_conv(a, b), _conv(b, c)) for a, b, c in sizes)
        below = [width] + (DEPTH - 1) * [wide]  # channels that come up from the level below
        self.up = nn.ModuleList(UpConv(channels) if arch == "tconv" else Nearest() for channels in below)
        self.last = Conv(sizes[-1][-1], 3)
        self.dtype = torch.float32  # of the layers, see `layer_dtype`
        self.compiled: Callable[[Tensor], Tensor] | None = None  # replaces `layers` in training

    def forward(self, image: Tensor) -> Tensor:
        x = image / PEAK - 0.5 if self.normalized else image
        x = (self.compiled if self.compiled and self.training else self.layers)(x)
        if self.normalized:
            x = x * PEAK if self.residual else (x + 0.5) * PEAK
        return image + x if self.residual else x

    def layers(self, x: Tensor) -> Tensor:
        """Scaled input -> output of the last convolution, both in the dtype of the input."""
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


def _mirrored(x: Tensor) -> Tensor:
    """Reflect one pixel at each border, with a gradient that adds in a fixed order on a GPU too."""
    x = torch.cat([x[..., 1:2, :], x, x[..., -2:-1, :]], -2)
    return torch.cat([x[..., 1:2], x, x[..., -2:-1]], -1)


class UnsharpMask(nn.Module):
    """Equation (1): ReLU(x + tau (x - blur(x))), with a 3x3 Gaussian blur of sigma 0.8 and reflected borders.

    Takes B x 3 x H x W of any range and the sharpening factor tau.
    """

    def __init__(self) -> None:
        super().__init__()
        taps = torch.exp(-(torch.tensor([-1.0, 0.0, 1.0]) ** 2) / (2 * BLUR_SIGMA**2))
        taps = taps / taps.sum()
        self.register_buffer("kernel", torch.outer(taps, taps).expand(3, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor, tau: float) -> Tensor:
        padded = _mirrored(x) if x.is_cuda else F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.relu(x + tau * (x - F.conv2d(padded, self.kernel, groups=3)))


class Network(nn.Module):
    """What is trained: U-Net, ReLU, unsharp masking if `tau_sharp` > 0, then x - ReLU(x - 255).

    Float B x 3 x H x W in [0, 255] -> float32 of the same shape in [0, 255]; H and W are multiples of 32.
    `arch` is "upsample", "tconv" (see `UNet`) or "gated" (see `GatedUNet`, which is always residual and
    normalized). Infinity before the clamp is NaN after it.
    """

    def __init__(
        self,
        width: int = 48,
        arch: str = "upsample",
        tau_sharp: float = 0.0,
        residual: bool = False,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.config = {"width": width, "arch": arch, "tau_sharp": tau_sharp}
        self.config |= {"residual": residual, "normalized": normalized}
        if arch == "gated":
            from n2nlib.train.gated import GatedUNet

            self.unet: nn.Module = GatedUNet(width)
        else:
            self.unet = UNet(width, arch, residual, normalized)
        self.tau_sharp = tau_sharp
        self.sharpen = UnsharpMask()

    def forward(self, image: Tensor) -> Tensor:
        return self.finish(self.plain(image), self.tau_sharp)

    def plain(self, image: Tensor) -> Tensor:
        """The output before sharpening: at least 0, not yet bounded by 255."""
        return F.relu(self.unet(image))

    def finish(self, plain: Tensor, tau: float) -> Tensor:
        """Sharpen an output of `plain` with factor `tau` (0: not at all) and clamp it to [0, 255]."""
        x = self.sharpen(plain, tau) if tau > 0 else plain
        return x - F.relu(x - PEAK)

    def initialize(self, generator: torch.Generator, init: str = "library") -> None:
        """Draw Kaiming normal weights (He et al. 2015) and set biases to zero, in every convolution.

        The gain is that of ReLU, sqrt(2), though the layers of the U-Net are leaky.

        `init` "library" is what the report did: torch takes 4 C as the fan-in of a transposed 2x2 convolution
        of stride 2. Each of its outputs has only C inputs, which "fan_in" takes instead: four times the
        variance.
        """
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d) and init == "fan_in":
                nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_channels), generator=generator)
            elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
            else:
                continue
            nn.init.zeros_(layer.bias)
        if hasattr(self.unet, "start"):
            self.unet.start()


def save_network(network: Network, path: Path, flips: bool = False) -> None:
    """Write the weights as safetensors, with the network's configuration as metadata; whole or not at all.

    With `flips`, whoever loads the file predicts the mean over the four flips of an image.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    # The metadata has one entry, because safetensors writes several entries in no fixed order.
    metadata = {"network": json.dumps(network.config | {"flips": flips})}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_network(path: Path) -> tuple[Network, bool]:
    """The network of a model file in evaluation mode, and whether it predicts the mean over four flips.

    Raises OSError, SafetensorError, KeyError, TypeError, ValueError or RuntimeError if it is another file.
    """
    tensors, metadata = read_safetensors(path)
    config = json.loads(metadata["network"])
    flips = config.pop("flips", False)
    network = Network(**config)
    network.load_state_dict(tensors)
    return network.eval().to(memory_format=torch.channels_last), flips
