"""The networks: layers, counts, initialisation, sharpening, clamp, how far they see, and their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from n2nlib.denoiser import FIELD
from n2nlib.train.gated import BLOCKS, GatedBlock, GatedUNet, Norm
from n2nlib.train.network import (
    DEPTH,
    Network,
    UNet,
    UnsharpMask,
    _mirrored,
    layer_dtype,
    load_network,
    save_network,
)

PUBLISHED = {"upsample": 991_203, "tconv": 1_148_307}
ARCHS = [*PUBLISHED, "gated"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _initialized(*arguments: object, seed: int = 1, init: str = "library", **options: object) -> Network:
    network = Network(*arguments, **options)
    network.initialize(torch.Generator().manual_seed(seed), init)
    return network


def _images(*shape: int, seed: int = 2) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 255


def _layers(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize(("arch", "count"), PUBLISHED.items())
def test_published_parameter_counts(arch: str, count: int) -> None:
    assert sum(p.numel() for p in Network(48, arch, tau_sharp=1.0).parameters()) == count


@pytest.mark.parametrize(("arch", "gflop"), [("upsample", 1.07), ("tconv", 1.14)])
def test_published_operation_counts(arch: str, gflop: float) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Network(48, arch)(torch.zeros(1, 3, 32, 32))
    assert 3 * counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.005)


def test_published_layers() -> None:
    shapes = [(c.in_channels, c.out_channels) for c in _layers(UNet(48), nn.Conv2d)]
    encoder = [(3, 48)] + 6 * [(48, 48)]
    decoder = [(96, 96), (96, 96)] + 3 * [(144, 96), (96, 96)] + [(99, 64), (64, 32), (32, 3)]
    assert shapes == encoder + decoder
    ups = [
        (c.in_channels, c.out_channels, c.kernel_size, c.stride)
        for c in _layers(UNet(48, "tconv"), nn.ConvTranspose2d)
    ]
    assert ups == [(48, 48, (2, 2), (2, 2))] + 4 * [(96, 96, (2, 2), (2, 2))]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [(32, 32), (64, 32), (32, 96)])
def test_shape_and_range(arch: str, size: tuple[int, int]) -> None:
    output = _initialized(4, arch, tau_sharp=2.0)(_images(2, 3, *size))
    assert output.shape == (2, 3, *size)
    assert output.min() >= 0
    assert output.max() <= 255


@pytest.mark.parametrize("arch", ["tconv", "gated"])
def test_kaiming_initialisation(arch: str) -> None:
    network = _initialized(48 if arch == "tconv" else 64, arch, seed=0)
    blocks = _layers(network, GatedBlock)
    started = {id(mix) for block in blocks for mix in (block.mix, block.mix_again)}
    checked = 0
    for layer in _layers(network, nn.Conv2d | nn.ConvTranspose2d):
        assert layer.bias.abs().max() == 0
        if layer.weight.numel() > 5000 and id(layer) not in started:
            fan_in = layer.weight[0].numel()
            assert layer.weight.var().item() == pytest.approx(2 / fan_in, rel=0.1)
            assert layer.weight.mean().item() == pytest.approx(0, abs=0.01)
            checked += 1
    assert checked > 10


def test_fan_in_gives_transposed_convolutions_four_times_the_variance() -> None:
    library, fan_in = (_initialized(48, "tconv", init=init) for init in ("library", "fan_in"))
    pairs = zip(library.unet.modules(), fan_in.unet.modules(), strict=True)
    for ours, theirs in pairs:
        if isinstance(ours, nn.ConvTranspose2d):
            assert theirs.weight.var().item() == pytest.approx(2 / theirs.in_channels, rel=0.1)
            torch.testing.assert_close(theirs.weight, 2 * ours.weight)
        elif isinstance(ours, nn.Conv2d):
            assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize(("init", "gain"), [("library", 0.5), ("fan_in", 2.0)])
def test_each_output_of_a_transposed_convolution_has_as_many_inputs_as_channels(
    init: str, gain: float
) -> None:
    """Kaiming's rule intends that the variance of the output is twice the mean square of the input."""
    for layer in _layers(_initialized(48, "tconv", init=init), nn.ConvTranspose2d):
        x = torch.randn(4, layer.in_channels, 16, 16, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            assert layer(x).var().item() == pytest.approx(gain, rel=0.1)


def test_unsharp_mask_against_the_formula(rng: np.random.Generator) -> None:
    image, tau, sigma = rng.uniform(0, 255, (1, 3, 9, 7)), 1.7, 0.8
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    kernel = np.outer(taps, taps) / np.outer(taps, taps).sum()
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    shifted = (padded[:, :, dy : dy + 9, dx : dx + 7] for dy in range(3) for dx in range(3))
    blurred = sum(weight * part for weight, part in zip(kernel.ravel(), shifted, strict=True))
    expected = np.maximum(image + tau * (image - blurred), 0)
    found = UnsharpMask()(torch.tensor(image, dtype=torch.float32), tau).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [(2, 2), (5, 9), (32, 32)])
def test_mirrored_is_reflect_padding(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 3, size[0] + 2, size[1] + 2, dtype=torch.float64)
    both = _mirrored(x), nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(*both)
    torch.testing.assert_close(*(torch.autograd.grad((padded * weights).sum(), x) for padded in both))


def test_clamp_is_two_relus() -> None:
    network = Network(4)
    network.unet = nn.Identity()
    x = torch.tensor([-50.0, -0.0, 0.0, 12.5, 255.0, 255.5, 1000.0]).requires_grad_()
    y = network(x)
    assert y.tolist() == [0, 0, 0, 12.5, 255, 255, 255]
    y.sum().backward()
    assert x.grad.tolist()[3:5] == [1, 1]
    assert x.grad[[0, 5, 6]].abs().max() == 0


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.0])
def test_a_network_is_its_plain_output_finished_with_its_factor(tau: float) -> None:
    network, images = _initialized(4, tau_sharp=tau), _images(2, 3, 32, 32)
    with torch.no_grad():
        plain = network.plain(images)
        assert plain.min() >= 0
        sharpened = UnsharpMask()(plain, tau) if tau else plain
        assert torch.equal(network.finish(plain, tau), sharpened.clamp(max=255))
        assert torch.equal(network(images), network.finish(plain, tau))


def test_residual_and_normalized_start_from_the_input() -> None:
    x = torch.rand(1, 3, 32, 32) * 200 + 20
    for residual, expected in ((True, x), (False, torch.full_like(x, 127.5))):
        network = Network(4, residual=residual, normalized=True)
        nn.init.zeros_(network.unet.last.weight)
        nn.init.zeros_(network.unet.last.bias)
        torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("width", [4, 16, 32])
def test_the_gated_network_has_the_parameters_of_its_blocks(width: int) -> None:
    def block(channels: int) -> int:
        """Twice a norm, 1x1 to twice the channels and, after the gate, 1x1 back; once 3x3 of channels."""
        wide = 2 * channels
        return 2 * (2 * channels + channels * wide + wide + channels**2 + channels) + 9 * wide + wide

    at_full, at_half, at_quarter = BLOCKS
    count = 2 * at_full * block(width) + 2 * at_half * block(2 * width) + at_quarter * block(4 * width)
    for channels in (width, 2 * width):  # down: 2x2 to twice the channels; up: 1x1 and a pixel shuffle
        count += 8 * channels**2 + 2 * channels
        count += 8 * channels**2 + 4 * channels
    count += 27 * width + width + 27 * width + 3
    assert sum(p.numel() for p in Network(width, "gated", 0.0).parameters()) == count


def test_norm_is_that_of_each_pixel() -> None:
    x, norm = _images(2, 8, 3, 5), Norm(8)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 9.0))
        norm.bias.fill_(0.5)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    expected = (x - mean) / torch.sqrt(variance + norm.eps) * norm.weight[:, None, None] + 0.5
    torch.testing.assert_close(norm(x), expected)
    assert norm(x.bfloat16()).dtype == torch.bfloat16


def test_gated_blocks_start_as_the_identity() -> None:
    network, images = _initialized(8, "gated"), _images(2, 3, 64, 64)
    with torch.no_grad():
        for block in _layers(network, GatedBlock):
            x = torch.randn(1, block.mix.in_channels, 8, 8, generator=torch.Generator().manual_seed(1))
            assert torch.equal(block(x), x)
        assert torch.equal(network(images), images)  # the layers predict what to add to it: nothing yet


def test_gated_blocks_learn_from_the_second_step() -> None:
    network, images = _initialized(4, "gated"), _images(2, 3, 32, 32)
    network(images).square().mean().backward()
    with torch.no_grad():
        network.unet.last.weight -= 1e-6 * network.unet.last.weight.grad  # all else has no gradient yet
    network(images).square().mean().backward()
    for block in _layers(network, GatedBlock):
        assert block.mix.weight.grad.abs().max() > 0
        assert block.mix_again.weight.grad.abs().max() > 0


@pytest.mark.parametrize("arch", ARCHS)
def test_no_output_depends_on_an_input_farther_away_than_reach(
    arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of single pixels in float64, with positive weights, so that nothing cancels."""
    # A maximum passes the gradient to one of four pixels, which may each be the largest; a mean to all four.
    monkeypatch.setattr(nn.functional, "max_pool2d", nn.functional.avg_pool2d)
    network = (GatedUNet(2) if arch == "gated" else UNet(2, arch)).double()
    network.dtype = torch.float64
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) / 2 / parameter[0].numel())
    image = torch.zeros(1, 3, 512, 512, dtype=torch.float64, requires_grad=True)
    output = network(image)[0].sum(0)
    assert output.isfinite().all()
    distances = set()
    for row, column in ((224, 224), (255, 231), (239, 240)):  # first, last and middle pixel of a pooled one
        (gradient,) = torch.autograd.grad(output[row, column], image, retain_graph=True)
        rows, columns = gradient[0].abs().sum(0).nonzero().T
        distances.add(max((rows - row).abs().max(), (columns - column).abs().max()).item())
    assert min(distances) > (20 if arch == "gated" else 100)
    assert max(distances) + 1 < FIELD  # sharpening sees one pixel more
    assert FIELD % 2**DEPTH == 0


@pytest.mark.parametrize(
    "options",
    [
        {"arch": "tconv", "tau_sharp": 2.0},
        {"arch": "upsample", "tau_sharp": 0.0, "residual": True, "normalized": True},
        {"arch": "gated", "tau_sharp": 0.0},
    ],
)
@pytest.mark.parametrize("flips", [False, True])
def test_a_model_file_gives_the_network_back(tmp_path: Path, options: dict, flips: bool) -> None:
    network, images = _initialized(4, **options), _images(1, 3, 32, 32)
    save_network(network, tmp_path / "model.safetensors", flips)
    save_network(network, tmp_path / "again.safetensors", flips)
    again, with_flips = load_network(tmp_path / "model.safetensors")
    assert (again.config, with_flips, again.training) == (network.config, flips, False)
    with torch.no_grad():
        torch.testing.assert_close(again(images), network(images), rtol=1e-3, atol=1e-2)
    first, second = (path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert first == second


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", None])
def test_bfloat16_is_used_where_the_processor_has_it(
    capability: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {capability: True} if capability else {"avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    expected = torch.bfloat16 if capability else torch.float32
    assert layer_dtype("bfloat16", torch.device("cpu")) == expected
    assert layer_dtype("bfloat16", torch.device("cuda")) == torch.bfloat16
    assert layer_dtype("float32", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("arch", ARCHS)
def test_layers_in_bfloat16_are_rounded_versions_of_those_in_float32(arch: str) -> None:
    """bfloat16 keeps 8 bits, so gradients through many layers differ by a tenth of their size."""
    network, images = _initialized(8, arch, tau_sharp=1.0), _images(2, 3, 32, 32)
    with torch.no_grad():
        network.unet.last.weight.normal_(std=0.05, generator=torch.Generator().manual_seed(3))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        network.unet.dtype = dtype
        network.zero_grad()
        output = network(images)
        output.square().mean().backward()
        gradients = torch.cat([one.grad.flatten() for one in network.parameters() if one.grad is not None])
        assert output.dtype == torch.float32
        found.append((output.detach(), gradients))
    for exact, rounded in zip(*found, strict=True):
        assert 0 < (exact - rounded).norm() < 0.2 * exact.norm()
