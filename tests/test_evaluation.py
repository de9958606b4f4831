"""PSNR, SSIM and PSNR-HVS-M against other libraries, the subset protocol, and the two evaluations."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from psnr_hvsm import bt601ycbcr, psnr_hvs_hvsm
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from n2nlib import metrics
from n2nlib.metrics import mse_per_image, psnr, psnr_full, psnr_per_image, subset_psnr, summarize
from n2nlib.params import Evaluation
from n2nlib.train import evaluate
from n2nlib.train.network import Network

images = hnp.arrays(np.uint8, (3, 3, 8, 8))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@settings(max_examples=50, deadline=None)
@given(images, images)
def test_psnr_is_scikit_images(a: np.ndarray, b: np.ndarray) -> None:
    mse = mse_per_image(a, b)
    if not mse.all():
        return
    assert psnr_full(mse) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255))
    each = [peak_signal_noise_ratio(y, x, data_range=255) for x, y in zip(a, b, strict=True)]
    assert psnr_per_image(mse) == pytest.approx(np.mean(each))


def test_psnr_closed_forms() -> None:
    clean = np.zeros((2, 3, 4, 4), np.uint8)
    assert psnr_full(mse_per_image(clean + 255, clean)) == 0
    assert psnr_full(mse_per_image(clean + 1, clean)) == pytest.approx(20 * math.log10(255))
    assert psnr(0.0) == math.inf
    assert psnr_per_image(mse_per_image(clean, clean)) == math.inf


def test_an_image_without_error_does_not_make_the_mean_per_image_infinite() -> None:
    assert psnr_per_image(np.array([0.0, 1.0, 100.0])) == pytest.approx(20 * math.log10(255) - 10)


def test_nan_counts_as_black() -> None:
    clean = np.full((1, 3, 4, 4), 100, np.uint8)
    assert mse_per_image(np.full((1, 3, 4, 4), np.nan), clean) == 100**2
    assert mse_per_image(np.full((1, 3, 4, 4), np.inf), clean) == 155**2
    assert mse_per_image(np.full((1, 3, 4, 4), -np.inf), clean) == 100**2


def test_batches_are_put_together_in_order(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rng.integers(0, 256, (2, 7, 3, 16, 16)).astype(np.uint8)
    whole = mse_per_image(a, b), metrics.ssim(a, b), metrics.psnr_hvs_m(a, b)
    monkeypatch.setattr(metrics, "BATCH", 3)
    parts = mse_per_image(a, b), metrics.ssim(a, b), metrics.psnr_hvs_m(a, b)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other)
    np.testing.assert_allclose(whole[0], ((a.astype(float) - b) ** 2).mean(axis=(1, 2, 3)))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        mse_per_image(np.zeros((1, 3, 4, 4)), np.zeros((2, 3, 4, 4)))


def test_subsets_are_drawn_with_replacement(rng: np.random.Generator) -> None:
    mse = rng.gamma(2, 100, 1000)
    protocol = Evaluation(repeats=4000)
    mean, std = subset_psnr(mse, protocol, 0)
    # Independent draws: variance s^2 / (n / 2). Without replacement it would be half of that.
    relative = mse.std() / mse.mean() / math.sqrt(500)
    assert std == pytest.approx(10 / math.log(10) * relative, rel=0.05)
    # log is concave: the mean over subsets lies below the global value by half the relative variance.
    assert mean - psnr_full(mse) == pytest.approx(5 / math.log(10) * relative**2, abs=4 * std / 4000**0.5)


def test_subsets_against_every_possible_subset() -> None:
    """Of five images there are 25 equally likely subsets of two with replacement."""
    mse = np.array([3.0, 10.0, 40.0, 200.0, 1000.0])
    all_subsets = np.array([psnr((a + b) / 2) for a, b in product(mse, mse)])
    mean, std = subset_psnr(mse, Evaluation(repeats=40_000), 0)
    assert mean == pytest.approx(all_subsets.mean(), abs=4 * all_subsets.std() / 40_000**0.5)
    assert std == pytest.approx(all_subsets.std(), rel=0.02)


def test_subsets_follow_the_protocol(rng: np.random.Generator) -> None:
    mse, protocol = rng.gamma(2, 100, 1000), Evaluation(repeats=100)
    found = subset_psnr(mse, protocol, 0)
    assert found == subset_psnr(mse, protocol, 0)
    assert found != subset_psnr(mse, protocol, 1)
    # All networks are evaluated on the same subsets: a constant factor is a constant shift.
    half = subset_psnr(mse / 10, protocol, 0)
    assert half == pytest.approx((found[0] + 10, found[1]))
    assert summarize(mse, protocol, 0) == pytest.approx(
        {
            "psnr_mean": found[0],
            "psnr_std": found[1],
            "psnr_full": psnr_full(mse),
            "psnr_per_image": psnr_per_image(mse),
        }
    )
    assert math.isfinite(subset_psnr(mse[:1], protocol, 0)[0])


def test_ssim_is_scikit_images(rng: np.random.Generator) -> None:
    clean = gaussian_filter(rng.uniform(0, 255, (5, 3, 32, 32)), (0, 0, 1, 1))
    noisy = clean + rng.normal(0, 10, clean.shape) * np.arange(5)[:, None, None, None]
    options = {"channel_axis": 0, "data_range": 255, "gaussian_weights": True, "use_sample_covariance": False}
    each = [structural_similarity(x, y, **options) for x, y in zip(noisy, clean, strict=True)]
    assert metrics.ssim(noisy, clean) == pytest.approx(np.array(each), abs=1e-6)
    assert metrics.ssim(noisy, clean)[0] == pytest.approx(1)
    assert (np.diff(metrics.ssim(noisy, clean)) < 0).all()


def test_psnr_hvs_m_is_the_packages_for_each_image(rng: np.random.Generator) -> None:
    clean = rng.integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    noisy = np.clip(clean + rng.normal(0, 8, clean.shape) * np.arange(4)[:, None, None, None], 0, 255)
    found = metrics.psnr_hvs_m(noisy, clean)
    luma = [[bt601ycbcr(image.transpose(1, 2, 0).astype(float))[0] for image in of] for of in (noisy, clean)]
    each = [psnr_hvs_hvsm(x, y)[1] for x, y in list(zip(*luma, strict=True))[1:]]
    assert found[1:] == pytest.approx(np.array(each), abs=1e-6)
    assert found[0] == 100
    assert (np.diff(found) < 0).all()


def test_a_blur_is_less_sharp_and_noise_sharper(rng: np.random.Generator) -> None:
    clean = rng.integers(0, 256, (3, 3, 32, 32)).astype(np.float64)
    energy = metrics.gradient_energy(clean)
    neighbours = (clean[0, :, 1:], clean[0, :, :-1]), (clean[0, :, :, 1:], clean[0, :, :, :-1])
    by_hand = sum(((a.astype(float) - b) ** 2).sum() for a, b in neighbours)
    assert energy[0] == pytest.approx(by_hand)
    assert metrics.gradient_energy(clean / 2) == pytest.approx(energy / 4)
    assert (metrics.gradient_energy(gaussian_filter(clean, (0, 0, 1, 1))) < energy / 2).all()
    smooth = gaussian_filter(clean, (0, 0, 2, 2))
    noisy = smooth + rng.normal(0, 10, clean.shape)
    assert (metrics.gradient_energy(noisy) > metrics.gradient_energy(smooth)).all()


def _network(tau_sharp: float, arch: str = "upsample") -> Network:
    network = Network(4, arch, tau_sharp)
    network.initialize(torch.Generator().manual_seed(4))
    with torch.no_grad():
        network.unet.last.bias += 0 if arch == "gated" else 100  # so that few outputs are zero
    return network


@pytest.fixture(scope="module")
def noisy() -> torch.Tensor:
    shape = (45, 3, 32, 32)  # two batches on a CPU and a smaller one
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("arch", ["upsample", "tconv", "gated"])
def test_both_evaluations_are_what_networks_with_these_factors_predict(
    noisy: torch.Tensor, arch: str
) -> None:
    networks = {tau: _network(tau, arch) for tau in (0.0, 1.0, 2.0)}
    found = {tau: evaluate.predict(network, noisy) for tau, network in networks.items()}
    for tau, (trained, report) in found.items():
        with torch.no_grad():
            parts = [networks[tau](part.float()) for part in noisy.split(evaluate.CPU_BATCH)]
        np.testing.assert_allclose(trained, torch.cat(parts).numpy(), rtol=1e-4, atol=1e-2)
        # The report sharpened with 1, whatever the training had; this has the bits of a network with 1.
        assert np.array_equal(report, found[1.0][0])
    assert np.array_equal(*found[1.0])
    differences = [np.abs(found[tau][0] - found[1.0][0]).max() for tau in (0.0, 2.0)]
    assert min(differences) > 1


def test_both_evaluations_take_one_pass(noisy: torch.Tensor) -> None:
    network, passes = _network(2.0), []
    network.unet.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    evaluate.predict(network, noisy)
    assert passes == [20, 20, 5]
    assert evaluate.predict(network, noisy, both=False)[1] is None


def test_errors_and_measures_are_those_of_both_predictions(noisy: torch.Tensor) -> None:
    network, clean = _network(2.0), noisy.flip(0)
    trained, report = evaluate.predict(network, noisy)
    validation = {"noisy_1": noisy, "clean": clean}
    test = {name: images[:7] for name, images in validation.items()}
    measured = evaluate.measure(network, validation, test, CPU)
    expected = {
        "mse": mse_per_image(trained, clean.numpy()),
        "mse_report": mse_per_image(report, clean.numpy()),
        "highest_report": report.max(axis=(1, 2, 3)),
        "psnr_hvs_m": metrics.psnr_hvs_m(trained, clean.numpy()),
        "ssim": metrics.ssim(trained, clean.numpy()),
        "gradient_energy": metrics.gradient_energy(trained),
        "zeros": (trained == 0).mean(axis=(0, 2, 3)),
        "test_mse": mse_per_image(trained[:7], test["clean"].numpy()),
        "test_mse_report": mse_per_image(report[:7], test["clean"].numpy()),
    }
    assert set(measured) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(measured[name], values, rtol=1e-5, err_msg=name)
    assert (expected["mse"] != expected["mse_report"]).all()
    without = evaluate.measure(network, validation, {}, CPU)
    assert set(without) == {name for name in expected if not name.startswith("test_")}
    found = evaluate.errors(network, noisy, clean.numpy())
    assert {name: values.tolist() for name, values in found.items()} == {
        name: measured[name].tolist() for name in ("mse", "mse_report")
    }


def test_a_dead_channel_is_all_zeros(noisy: torch.Tensor) -> None:
    network = _network(0.0)
    with torch.no_grad():
        network.unet.last.bias[1] = -1e6  # its ReLU passes nothing
    zeros = evaluate.measure(network, {"noisy_1": noisy, "clean": noisy}, {}, CPU)["zeros"]
    assert zeros[1] == 1
    assert max(zeros[0], zeros[2]) < 0.9


@pytest.mark.parametrize(("value", "expected"), [(math.nan, 0.0), (math.inf, 255.0), (-math.inf, 0.0)])
def test_a_diverged_network_still_gets_finite_predictions(
    noisy: torch.Tensor, value: float, expected: float
) -> None:
    network = _network(0.0)
    network.finish = lambda plain, tau: torch.full_like(plain, value)
    for predicted in evaluate.predict(network, noisy):
        assert (predicted == expected).all()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
    del network.finish
    assert all(
        np.isfinite(values).all() for values in evaluate.errors(network, noisy, noisy.numpy()).values()
    )


def test_predictions_are_computed_in_float32_whatever_the_training(noisy: torch.Tensor) -> None:
    network = _network(0.0)
    expected, _ = evaluate.predict(network, noisy)
    network.unet.dtype = torch.bfloat16
    found, _ = evaluate.predict(network, noisy)
    assert found.tobytes() == expected.tobytes()
    assert network.unet.dtype == torch.bfloat16  # so that training continues as it began


def test_the_peak_of_the_reports_code_in_closed_form() -> None:
    """The peak is the highest prediction of a subset, so it matters only if that stays below 255."""
    protocol = Evaluation(repeats=50)
    assert metrics.peak_change(np.full(20, 255.0), protocol, 0) == 0
    assert metrics.peak_change(np.full(20, 25.5), protocol, 0) == pytest.approx(20)
    one_bright = np.array([255.0] + 19 * [25.5])
    assert metrics.peak_change(one_bright, protocol, 0) == pytest.approx(20)  # some subsets are without it
    assert metrics.peak_change(np.zeros(20), protocol, 0) == pytest.approx(20 * np.log10(255))
