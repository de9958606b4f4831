"""The network: layers, counts, initialisation, sharpening, clamp, and the denoiser that uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from n2nlib import Denoiser, UserError
from n2nlib.model import Network, UNet, UnsharpMask, mirrored, save_network

PUBLISHED = {"upsample": 991_203, "tconv": 1_148_307}


@pytest.mark.parametrize(("arch", "count"), PUBLISHED.items())
def test_published_parameter_counts(arch: str, count: int) -> None:
    assert sum(p.numel() for p in Network(48, arch, tau_sharp=1.0).parameters()) == count


@pytest.mark.parametrize(("arch", "gflop"), [("upsample", 1.07), ("tconv", 1.14)])
def test_published_operation_counts(arch: str, gflop: float) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        Network(48, arch)(torch.zeros(1, 3, 32, 32))
    assert 3 * counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.005)


def test_published_layers() -> None:
    shapes = [(c.in_channels, c.out_channels) for c in UNet(48).modules() if isinstance(c, torch.nn.Conv2d)]
    encoder = [(3, 48)] + 6 * [(48, 48)]
    decoder = [(96, 96), (96, 96)] + 3 * [(144, 96), (96, 96)] + [(99, 64), (64, 32), (32, 3)]
    assert shapes == encoder + decoder
    ups = [(c.in_channels, c.out_channels, c.kernel_size, c.stride) for c in UNet(48, "tconv").modules() if isinstance(c, torch.nn.ConvTranspose2d)]
    assert ups == [(48, 48, (2, 2), (2, 2))] + 4 * [(96, 96, (2, 2), (2, 2))]


@pytest.mark.parametrize("arch", PUBLISHED)
@pytest.mark.parametrize("size", [32, 64, 96])
def test_shape_and_range(arch: str, size: int) -> None:
    network = Network(4, arch, tau_sharp=2.0)
    network.initialize(torch.Generator().manual_seed(1))
    output = network(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2)) * 255)
    assert output.shape == (2, 3, size, size)
    assert output.min() >= 0
    assert output.max() <= 255


def test_kaiming_initialisation() -> None:
    network = Network(48, "tconv")
    network.initialize(torch.Generator().manual_seed(0))
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            fan_in = layer.weight[0].numel()
            assert layer.bias.abs().max() == 0
            if layer.weight.numel() > 5000:
                assert layer.weight.var().item() == pytest.approx(2 / fan_in, rel=0.1)
                assert layer.weight.mean().item() == pytest.approx(0, abs=0.01)


def test_unsharp_mask_against_the_formula(rng: np.random.Generator) -> None:
    image, tau, sigma = rng.uniform(0, 255, (1, 3, 9, 7)), 1.7, 0.8
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
    kernel = np.outer(taps, taps) / np.outer(taps, taps).sum()
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    blurred = sum(kernel[dy, dx] * padded[:, :, dy : dy + 9, dx : dx + 7] for dy in range(3) for dx in range(3))
    expected = np.maximum(image + tau * (image - blurred), 0)
    np.testing.assert_allclose(UnsharpMask(tau)(torch.tensor(image, dtype=torch.float32)).numpy(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("size", [(2, 2), (5, 9), (32, 32)])
def test_mirrored_is_reflect_padding(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 3, size[0] + 2, size[1] + 2, dtype=torch.float64)
    both = mirrored(x), torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(*both)
    torch.testing.assert_close(*(torch.autograd.grad((padded * weights).sum(), x) for padded in both))


def test_clamp_is_two_relus() -> None:
    network = Network(4)
    network.unet = torch.nn.Identity()
    x = torch.tensor([-50.0, -0.0, 0.0, 12.5, 255.0, 255.5, 1000.0]).requires_grad_()
    y = network(x)
    assert y.tolist() == [0, 0, 0, 12.5, 255, 255, 255]
    y.sum().backward()
    assert x.grad.tolist()[3:5] == [1, 1]
    assert x.grad[[0, 5, 6]].abs().max() == 0


def test_residual_and_normalized_start_from_the_input() -> None:
    x = torch.rand(1, 3, 32, 32) * 200 + 20
    network = Network(4, residual=True, normalized=True)
    torch.nn.init.zeros_(network.unet.last.weight)
    torch.nn.init.zeros_(network.unet.last.bias)
    torch.testing.assert_close(network(x), x)
    network = Network(4, normalized=True)
    torch.nn.init.zeros_(network.unet.last.weight)
    torch.nn.init.zeros_(network.unet.last.bias)
    torch.testing.assert_close(network(x), torch.full_like(x, 127.5))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = Network(4, "tconv", tau_sharp=1.0)
    network.initialize(torch.Generator().manual_seed(3))
    path = tmp_path_factory.mktemp("model") / "final.safetensors"
    save_network(network, path)
    return path


@settings(max_examples=25, deadline=None)
@given(n=st.integers(0, 5), height=st.integers(1, 70), width=st.integers(1, 70), kind=st.sampled_from(["uint8", "float32", "float64", "float16"]))
def test_denoiser_takes_any_size_and_type(model_file: Path, n: int, height: int, width: int, kind: str) -> None:
    images = np.random.default_rng(n).integers(0, 256, (n, 3, height, width)).astype(kind)
    output = Denoiser.load(model_file).predict(images)
    assert isinstance(output, np.ndarray)
    assert output.shape == images.shape
    assert output.dtype == np.float32
    assert output.size == 0 or (output.min() >= 0 and output.max() <= 255)


def test_denoiser_is_the_network_and_does_not_depend_on_its_batches(model_file: Path) -> None:
    images = torch.rand(7, 3, 64, 32) * 255
    denoiser = Denoiser.load(str(model_file))
    with torch.no_grad():
        expected = denoiser.network(images)
    torch.testing.assert_close(denoiser.predict(images), expected, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(denoiser.predict(images, batch_pixels=1), expected, rtol=1e-4, atol=1e-2)


def test_tiles_of_a_large_image_are_the_whole(model_file: Path) -> None:
    images = torch.rand(1, 3, 700, 1100, generator=torch.Generator().manual_seed(1)) * 255
    denoiser = Denoiser.load(model_file)
    whole = denoiser.predict(images, batch_pixels=10**9)
    torch.testing.assert_close(denoiser.predict(images, batch_pixels=500**2), whole, rtol=1e-4, atol=1e-2)


def test_flips_average_the_four_flipped_predictions(model_file: Path, tmp_path: Path) -> None:
    plain = Denoiser.load(model_file)
    save_network(plain.network, tmp_path / "flips.safetensors", flips=True)
    images = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(2)) * 255
    expected = sum(plain.predict(images.flip(way)).flip(way) for way in ([], [2], [3], [2, 3])) / 4
    found = Denoiser.load(tmp_path / "flips.safetensors").predict(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)
    assert (found - plain.predict(images)).abs().max() > 1


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 32, 32, 3)])
def test_denoiser_refuses_other_shapes(model_file: Path, shape: tuple) -> None:
    with pytest.raises(ValueError, match="allowed: N x 3 x H x W"):
        Denoiser.load(model_file).predict(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("content", [None, b"", b"not a model", "truncated"])
def test_denoiser_refuses_other_files(model_file: Path, tmp_path: Path, content: object) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(model_file.read_bytes()[:-100] if content == "truncated" else content)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Denoiser.load(path)
