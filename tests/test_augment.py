"""Augmentation against closed forms and torch's own interpolation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from n2nlib.train import augment

GLOBAL, LOCAL = (0.7, 1.0), (0.05, 0.4)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _boxes(count: int, size: int, scale: tuple[float, float], seed: int = 0) -> Tensor:
    return augment.crop_boxes(torch.tensor([scale]).expand(count, 2), size, _generator(seed))


@pytest.mark.parametrize("scale", [GLOBAL, LOCAL, (0.2, 0.3)])
@pytest.mark.parametrize("size", [32, 64])
def test_crop_areas_and_places(scale: tuple[float, float], size: int) -> None:
    boxes = _boxes(20_000, size, scale)
    top, left, height, width = boxes.T
    share = height * width / size**2
    assert share.min() >= scale[0]
    assert share.max() <= scale[1]
    assert share.mean() == pytest.approx(sum(scale) / 2, abs=0.06)  # the largest boxes fit least often
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= size
    assert (left + width).max() <= size
    assert (boxes == boxes.round()).all()
    ratio = width / height
    assert ratio.min() >= 0.6  # 3/4 and 4/3, up to the rounding of small boxes
    assert ratio.max() <= 1.6


def test_places_are_uniform() -> None:
    top, left, height, width = _boxes(20_000, 32, LOCAL).T
    for start, length in ((top, height), (left, width)):
        along = start / (32 - length)  # 0: at one border, 1: at the other
        assert along.mean().item() == pytest.approx(0.5, abs=0.01)
        assert along.min() == 0
        assert along.max() == 1
    assert torch.corrcoef(torch.stack([top + height / 2, left + width / 2]))[0, 1].abs() < 0.03


def test_an_impossible_scale_falls_back_to_the_centred_square() -> None:
    assert _boxes(5, 32, (0.9999, 0.99995)).tolist() == [[0, 0, 32, 32]] * 5


def test_every_image_has_a_scale_of_its_own() -> None:
    scales = torch.tensor([GLOBAL, LOCAL, (0.9999, 0.99995)] * 500)
    boxes = augment.crop_boxes(scales, 32, _generator())
    share = (boxes[:, 2] * boxes[:, 3] / 32**2).view(-1, 3)
    for column, (low, high) in enumerate((GLOBAL, LOCAL, (1, 1))):
        assert share[:, column].min() >= low
        assert share[:, column].max() <= high


def test_crops_are_cut_and_resized_as_torch_does() -> None:
    images = torch.rand(40, 3, 32, 32, generator=_generator()) * 255
    boxes = _boxes(40, 32, LOCAL, seed=1)
    made = augment.resize_boxes(images, boxes)
    for image, box, result in zip(images, boxes.int().tolist(), made, strict=True):
        top, left, height, width = box
        cut = image[None, :, top : top + height, left : left + width]
        expected = interpolate(cut, size=(32, 32), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-2)


def test_a_pair_is_cropped_alike_and_the_batch_keeps_its_size() -> None:
    image = torch.rand(6, 3, 32, 32, generator=_generator()) * 255
    scales = torch.tensor([GLOBAL, LOCAL]).repeat(3, 1)
    first, second = augment.crop((image, image.clone()), scales, _generator(2))
    assert first.shape == image.shape
    assert torch.equal(first, second)
    assert not torch.equal(first, image)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), how=st.sampled_from(["image", "batch", "none"]))
def test_flips_are_one_of_four_and_alike_in_a_pair(seed: int, how: str) -> None:
    image = torch.rand(8, 3, 4, 4, generator=_generator(seed))
    first, second = augment.flip((image, image + 1), how, _generator(seed))
    assert torch.equal(first + 1, second)
    kinds = []
    for before, after in zip(image, first, strict=True):
        variants = [before, before.flip(2), before.flip(1), before.flip(1, 2)]
        matching = [number for number, variant in enumerate(variants) if torch.equal(variant, after)]
        assert len(matching) == 1
        kinds += matching
    if how == "none":
        assert set(kinds) == {0}
    if how == "batch":
        assert len(set(kinds)) == 1


def test_per_image_flips_have_probability_one_half_each() -> None:
    image = torch.arange(4.0).view(1, 1, 2, 2).expand(4000, 1, 2, 2)
    (flipped,) = augment.flip((image,), "image", _generator())
    corner = flipped[:, 0, 0, 0]  # 0: as it was, 1: horizontally, 2: vertically, 3: both
    shares = torch.bincount(corner.long(), minlength=4) / 4000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.03)


def test_noise_is_independent_or_shared_with_the_sigma_asked_for() -> None:
    zero = torch.zeros(50, 3, 32, 32)
    first, second = augment.add_noise((zero, zero), 5.0, False, _generator())
    assert first.std().item() == pytest.approx(5, rel=0.01)
    assert first.mean().item() == pytest.approx(0, abs=0.05)
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs() < 0.01
    first, second = augment.add_noise((zero, zero + 1), 5.0, True, _generator())
    torch.testing.assert_close(first + 1, second)
    assert augment.add_noise((zero,), 0.0, False, _generator())[0] is zero


def test_noise_is_not_clipped() -> None:
    (noisy,) = augment.add_noise((torch.zeros(10, 3, 32, 32),), 5.0, False, _generator())
    assert noisy.min() < 0


def test_a_redrawn_pixel_is_any_of_its_block_with_all_its_channels() -> None:
    colours = torch.arange(9, dtype=torch.uint8)  # pixel n of each block has the channels n, n + 10, n + 20
    channels = torch.stack([colours, colours + 10, colours + 20], 1)
    blocks = channels[None, :, :, None, None].expand(40, 9, 3, 16, 16)
    drawn = augment.redraw(blocks, _generator())
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn[:, 1], drawn[:, 0] + 10)
    assert torch.equal(drawn[:, 2], drawn[:, 0] + 20)
    shares = torch.bincount(drawn[:, 0].flatten().long(), minlength=9) / drawn[:, 0].numel()
    torch.testing.assert_close(shares, torch.full((9,), 1 / 9), rtol=0, atol=0.015)
