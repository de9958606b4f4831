"""Augmentation as batched tensor code: flips, crops and Gaussian noise.

Flips and crops are alike for both images of a pair. Images are float tensors B x 3 x S x S in [0, 255]; every
draw comes from the generator that is given, on the device of the images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

TRIES = 10  # as in torchvision's RandomResizedCrop
RATIO = (3 / 4, 4 / 3)  # width over height, likewise


def redraw(blocks: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a new noisy version of each image: one uniformly drawn pixel of each block.

    uint8 B x pixels of a block x 3 x S x S -> uint8 B x 3 x S x S.
    """
    count, pixels, _, height, width = blocks.shape
    shape = (count, 1, 1, height, width)
    chosen = torch.randint(pixels, shape, generator=generator, device=blocks.device)
    return blocks.gather(1, chosen.expand(-1, -1, 3, -1, -1)).squeeze(1)


def flip(images: tuple[Tensor, ...], how: str, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Flip horizontally and vertically, each with probability 1/2, all of `images` alike.

    `how` is "image" (drawn for each image), "batch" (drawn once for the batch) or "none".
    """
    if how == "none":
        return images
    count = len(images[0]) if how == "image" else 1
    draws = torch.rand(2, count, generator=generator, device=images[0].device) < 0.5
    for draw, axis in zip(draws, (3, 2), strict=True):
        chosen = draw.view(-1, 1, 1, 1)
        images = tuple(torch.where(chosen, image.flip(axis), image) for image in images)
    return images


def crop_boxes(scales: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw one box (top, left, height, width) an image, nearly as torchvision's RandomResizedCrop does.

    `scales` is B x 2: the smallest and largest share of the area of a size x size image. The area is uniform
    between them and the aspect ratio is log-uniform in `RATIO`. A box that does not fit is drawn again. Two
    things are not torchvision's: a box whose rounded area leaves the range is drawn again, too, and after ten
    tries the box is the centred square of the middle area, not the whole image. Returns float B x 4 of whole
    pixels.
    """
    area, device, count = size * size, scales.device, len(scales)
    low, high = scales[:, :1], scales[:, 1:]
    draws = torch.rand(count, TRIES, generator=generator, device=device)
    wanted = (low + (high - low) * draws) * area
    ratio = (
        torch.empty(count, TRIES, device=device).uniform_(*map(math.log, RATIO), generator=generator).exp()
    )
    width, height = (wanted * ratio).sqrt().round(), (wanted / ratio).sqrt().round()
    covered = width * height
    fits = (width <= size) & (height <= size) & (covered >= low * area) & (covered <= high * area)
    first = fits.float().argmax(1, keepdim=True)  # the first that fits; 0 where none does
    height, width = height.gather(1, first), width.gather(1, first)
    square = (((low + high) / 2).sqrt() * size).round()
    none = ~fits.any(1, keepdim=True)
    height, width = torch.where(none, square, height), torch.where(none, square, width)
    place = torch.rand(count, 2, generator=generator, device=device)
    place = torch.where(none, 0.5, place)
    top = (place[:, :1] * (size - height + 1)).floor()
    left = (place[:, 1:] * (size - width + 1)).floor()
    return torch.cat([top, left, height, width], 1)


def resize_boxes(image: Tensor, boxes: Tensor) -> Tensor:
    """Cut the box of each image (see `crop_boxes`) and resize it bilinearly to the size of the image.

    Gives the numbers of a crop followed by `interpolate(mode="bilinear", align_corners=False)`, for the whole
    batch at once.
    """
    size = image.shape[-1]
    steps = torch.arange(size, device=image.device) + 0.5
    axes = []
    for start, length in ((boxes[:, 1:2], boxes[:, 3:4]), (boxes[:, 0:1], boxes[:, 2:3])):
        inside = (steps * length / size - 0.5).clamp(min=0).minimum(length - 1)  # repeats the crop's border
        axes.append((2 * (start + inside) + 1) / size - 1)
    x, y = axes[0][:, None, :].expand(-1, size, -1), axes[1][:, :, None].expand(-1, -1, size)
    return grid_sample(
        image, torch.stack([x, y], -1), mode="bilinear", padding_mode="border", align_corners=False
    )


def crop(images: tuple[Tensor, ...], scales: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Replace each image by a random crop of it, alike in all of `images`; `scales` as in `crop_boxes`."""
    boxes = crop_boxes(scales, images[0].shape[-1], generator)
    return tuple(resize_boxes(image, boxes) for image in images)


def add_noise(
    images: tuple[Tensor, ...], sigma: float, shared: bool, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Add Gaussian noise of standard deviation `sigma` (grey levels), unclipped so that its mean stays zero.

    The noise is independent in each of `images`, as Noise2Noise assumes. With `shared` it is the same in all
    of them, as in the report's code.
    """
    if sigma == 0:
        return images
    count = 1 if shared else len(images)
    noise = [torch.randn(image.shape, generator=generator, device=image.device) for image in images[:count]]
    return tuple(image + sigma * noise[0 if shared else number] for number, image in enumerate(images))
