"""Augmentation against closed forms and torch's own interpolation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from n2nlib import augment


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", [(0.7, 1.0), (0.05, 0.4), (0.2, 0.3)])
@pytest.mark.parametrize("size", [32, 64])
def test_crop_areas_and_places(scale: tuple[float, float], size: int) -> None:
    boxes = augment.crop_boxes(20_000, size, scale, _generator(), torch.device("cpu"))
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


def test_an_impossible_scale_falls_back_to_the_centred_square() -> None:
    boxes = augment.crop_boxes(5, 32, (0.9999, 0.99995), _generator(), torch.device("cpu"))
    assert boxes.tolist() == [[0, 0, 32, 32]] * 5


def test_crops_are_cut_and_resized_as_torch_does() -> None:
    images = torch.rand(40, 3, 32, 32, generator=_generator()) * 255
    boxes = augment.crop_boxes(40, 32, (0.05, 0.4), _generator(1), images.device)
    made = augment.resize_boxes(images, boxes)
    for image, box, result in zip(images, boxes.int().tolist(), made, strict=True):
        top, left, height, width = box
        cut = image[None, :, top : top + height, left : left + width]
        expected = interpolate(cut, size=(32, 32), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-2)


def test_a_pair_is_cropped_alike_and_the_batch_grows_by_the_number_of_scales() -> None:
    image = torch.rand(6, 3, 32, 32, generator=_generator()) * 255
    first, second = augment.crop((image, image.clone()), [(0.7, 1.0), (0.05, 0.4)], _generator(2))
    assert first.shape == (12, 3, 32, 32)
    assert torch.equal(first, second)


@settings(max_examples=20, deadline=None)
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
