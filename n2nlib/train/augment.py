"""Augmentation as batched tensor code: flips, crops and Gaussian noise, alike for both images of a pair where geometry is concerned.

Images are float tensors B x 3 x S x S in [0, 255]; every draw comes from the generator that is given, on the images' device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

TRIES = 10  # as torchvision's RandomResizedCrop


RATIO = (3 / 4, 4 / 3)  # width over height, likewise


def redraw(blocks: Tensor, generator: torch.Generator) -> Tensor:
    """A noisy version of each image from its cells: uint8 B x cell x 3 x S x S -> B x 3 x S x S, one uniformly drawn pixel of each cell."""
    count, cell, _, height, width = blocks.shape
    chosen = torch.randint(cell, (count, 1, 1, height, width), generator=generator, device=blocks.device)
    return blocks.gather(1, chosen.expand(-1, -1, 3, -1, -1)).squeeze(1)


def flip(images: tuple[Tensor, ...], how: str, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Flip horizontally and vertically, each with probability 1/2: drawn for each image, once a "batch", or "none".

    All of `images` (B x C x S x S) are flipped alike.
    """
    if how == "none":
        return images
    count = len(images[0]) if how == "image" else 1
    draws = torch.rand(2, count, generator=generator, device=images[0].device) < 0.5
    for draw, axis in zip(draws, (3, 2), strict=True):
        chosen = draw.view(-1, 1, 1, 1)
        images = tuple(torch.where(chosen, image.flip(axis), image) for image in images)
    return images


def crop_boxes(
    count: int, size: int, scale: tuple[float, float], generator: torch.Generator, device: torch.device
) -> Tensor:
    """`count` boxes (top, left, height, width), float B x 4 of whole pixels, as torchvision's RandomResizedCrop draws them.

    Area uniform in `scale` times the image's area, log-uniform aspect ratio. A box whose rounded area leaves `scale` or that does not fit
    is drawn again; after ten tries it is the centred square of the middle area.
    """
    area = size * size
    wanted = torch.empty(count, TRIES, device=device).uniform_(*scale, generator=generator) * area
    ratio = (
        torch.empty(count, TRIES, device=device).uniform_(*map(math.log, RATIO), generator=generator).exp()
    )
    width, height = (wanted * ratio).sqrt().round(), (wanted / ratio).sqrt().round()
    covered = width * height
    fits = (width <= size) & (height <= size) & (covered >= scale[0] * area) & (covered <= scale[1] * area)
    first = fits.float().argmax(1, keepdim=True)  # the first that fits; 0 where none does
    height, width = height.gather(1, first), width.gather(1, first)
    square = round(math.sqrt((scale[0] + scale[1]) / 2) * size)
    none = ~fits.any(1, keepdim=True)
    height, width = torch.where(none, square, height), torch.where(none, square, width)
    place = torch.rand(count, 2, generator=generator, device=device)
    place = torch.where(none, 0.5, place)
    top = (place[:, :1] * (size - height + 1)).floor()
    left = (place[:, 1:] * (size - width + 1)).floor()
    return torch.cat([top, left, height, width], 1)


def resize_boxes(image: Tensor, boxes: Tensor) -> Tensor:
    """Cut each image's box (B x 4, see `crop_boxes`) and resize it bilinearly to the whole: B x C x S x S -> B x C x S x S.

    The same numbers as cropping first and `interpolate(mode="bilinear", align_corners=False)` after, for the whole batch at once.
    """
    size = image.shape[-1]
    steps = torch.arange(size, device=image.device) + 0.5
    axes = []
    for start, length in ((boxes[:, 1:2], boxes[:, 3:4]), (boxes[:, 0:1], boxes[:, 2:3])):
        inside = (
            (steps * length / size - 0.5).clamp(min=0).minimum(length - 1)
        )  # the crop's own border is repeated
        axes.append((2 * (start + inside) + 1) / size - 1)
    grid = torch.stack(
        [axes[0][:, None, :].expand(-1, size, -1), axes[1][:, :, None].expand(-1, -1, size)], -1
    )
    return grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop(
    images: tuple[Tensor, ...], scales: list[tuple[float, float]], generator: torch.Generator
) -> tuple[Tensor, ...]:
    """One random crop of each image for each of `scales`, alike in all of `images`: the batch grows len(scales) times."""
    size, device = images[0].shape[-1], images[0].device
    boxes = [crop_boxes(len(images[0]), size, scale, generator, device) for scale in scales]
    return tuple(torch.cat([resize_boxes(image, box) for box in boxes]) for image in images)


def add_noise(
    images: tuple[Tensor, ...], sigma: float, shared: bool, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Add Gaussian noise of standard deviation `sigma` (grey levels), unclipped so that its mean stays zero.

    Independent in each of `images`, as Noise2Noise assumes; `shared`: the same in all, as in the published code.
    """
    if sigma == 0:
        return images
    noise = [
        torch.randn(image.shape, generator=generator, device=image.device)
        for image in images[: 1 if shared else None]
    ]
    return tuple(image + sigma * noise[0 if shared else number] for number, image in enumerate(images))
