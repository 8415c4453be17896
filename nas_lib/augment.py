"""Crop, flip, normalise and cutout of image batches on their own device.

Images are kept as bytes and become network inputs a batch at a time, by the law of torchvision's
``RandomCrop(side, padding) -> RandomHorizontalFlip -> ToTensor -> Normalize`` and the cutout of DeVries & Taylor
(arXiv:1708.04552, section 3.2, in the form of DARTS' code). The places are drawn by ``Augment``; the functions take
them as given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def cut(x: Tensor, pad: int, corner: Tensor, mirrored: Tensor) -> Tensor:
    """From images ``[B, C, H, W]`` inside ``pad`` zeros on every side, windows ``[B, C, H, W]``.

    ``corner [2, B]``: row and column, from 0 to 2 pad, where each window starts; those ``mirrored [B]`` are turned left
    to right.
    """
    height, width = x.shape[2:]
    rows = corner[0, :, None] + torch.arange(height, device=x.device)                       # B, H
    columns = corner[1, :, None] + torch.arange(width, device=x.device)                     # B, W
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    place = (rows * (width + 2 * pad))[:, :, None] + columns[:, None, :]                    # B, H, W
    place = place.flatten(1)[:, None].expand(-1, x.shape[1], -1)                            # B, C, HW
    return F.pad(x, (pad,) * 4).flatten(2).gather(2, place).view(x.shape)


def normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """``(x / 255 - mean) / std`` of bytes ``[B, C, H, W]``, per channel ``[C, 1, 1]``, in float32."""
    return x.float().div_(255).sub_(mean).div_(std)


def cutout(x: Tensor, length: int, centre: Tensor) -> Tensor:
    """``x [B, C, H, W]`` with zeros, in place, in a square around ``centre [2, B]`` as far as it lies inside.

    The square has rows and columns from ``centre - length // 2`` up to, but without, ``centre + length // 2``.
    """
    rows, columns = (centre[k, :, None] - torch.arange(x.shape[2 + k], device=x.device) for k in (0, 1))
    reach = length // 2
    inside = [(away > -reach) & (away <= reach) for away in (rows, columns)]            # B, H; B, W
    return x.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


@dataclass(frozen=True, eq=False)
class Augment:
    """Network inputs from stored bytes: ``augment(x, generator)`` at random, ``augment.plain(x)`` as they are.

    Whether an image is mirrored before or after its window is cut makes no difference to the law: mirroring maps the
    window at column j of one to that at column 2 pad - j of the other, and j is uniform.
    """

    mean: Tensor        # [C, 1, 1], on the images' device, as shares of 255
    std: Tensor
    pad: int = 0        # 0: no crop
    flip: bool = False  # mirror every second image on average
    cutout: int = 0     # side of the square that is blanked, 0: none

    def plain(self, x: Tensor) -> Tensor:
        return normalise(x, self.mean, self.std)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Places and mirrorings are independent and uniform, of ``generator``, which is on the images' device."""
        def draw(end, *size):
            return torch.randint(end, (*size, len(x)), generator=generator, device=x.device)

        if self.pad or self.flip:
            x = cut(x, self.pad, draw(2 * self.pad + 1, 2), draw(1 + self.flip).bool())
        x = self.plain(x)
        if self.cutout:
            x = cutout(x, self.cutout, torch.stack([draw(side) for side in x.shape[2:]]))
        return x
