"""Images as tensors on one device, with the parts, halves and transforms a search uses.

The embedded data set ``digits`` needs no download: scikit-learn's 1,797 handwritten digits (8x8, real
scans; Alpaydin & Kaynak, UCI 1998), each at a random place of a larger canvas under Gaussian noise.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Labelled = tuple[Tensor, Tensor]        # images [n, C, H, W], labels [n]


@dataclass(frozen=True)
class Data:
    """A data set resident on ``device``.

    ``parts`` are "train", "valid", "test": stored images and labels. ``transform(x, generator)`` turns
    stored images into network inputs ``[B, *shape]`` with fresh randomness, on their own device.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]                     # C, H, W of a network input
    parts: dict[str, Labelled]
    transform: Callable[[Tensor, torch.Generator], Tensor]
    config: dict                                    # what defines it, as plain values
    device: torch.device
    _fixed: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def halves(self) -> tuple[Labelled, Labelled]:
        """The two halves of the training part in stored order: for the weights, for alpha."""
        return self._part("train half"), self._part("valid half")

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Network inputs from stored images, random anew at every call."""
        return self.transform(x, generator)

    def fixed(self, part: str, copies: int = 1) -> Labelled:
        """Inputs for evaluation: the same for every caller, ``copies`` random views of each image.

        ``part``: "train", "valid", "test", "train half" or "valid half".
        """
        key = (part, copies)
        if key not in self._fixed:
            x, y = self._part(part)
            generator = torch.Generator(self.device).manual_seed(2026)
            x, y = x.repeat(copies, 1, 1, 1), y.repeat(copies)
            self._fixed[key] = self.transform(x, generator), y
        return self._fixed[key]

    def _part(self, part: str) -> Labelled:
        if part in self.parts:
            return self.parts[part]
        x, y = self.parts["train"]
        half = len(y) // 2
        cut = {"train half": slice(0, half), "valid half": slice(half, None)}[part]
        return x[cut], y[cut]


def digits(device="cpu", side=12, noise=1.0, fold=2) -> Data:
    """Digits on a ``side x side`` canvas, ``noise`` in units of the standardised pixels' deviation.

    1,024 digits to train with, 257 to validate, 516 to test, cut once at random (seed 0). ``fold`` f
    turns every f x f block of pixels into f^2 channels (lossless): the input is
    ``[f^2, side/f, side/f]``.
    """
    # The file alone: importing scikit-learn to read it would take longer than a small run's ranking.
    home = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    table = torch.from_numpy(np.loadtxt(Path(home) / "datasets/data/digits.csv.gz", delimiter=","))
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    x, y = table[:, :64].float().view(-1, 1, 8, 8) / 16, table[:, 64].long()
    # Mean and deviation over the canvas, digits placed anywhere: the surround is 0.
    inked = 64 / side**2
    mean = x[:1024].mean() * inked
    std = (x[:1024].square().mean() * inked - mean**2).sqrt()
    cuts = {"train": slice(0, 1024), "valid": slice(1024, 1281), "test": slice(1281, None)}
    device = torch.device(device)
    parts = {k: (x[c].to(device), y[c].to(device)) for k, c in cuts.items()}

    def transform(x: Tensor, generator: torch.Generator) -> Tensor:
        canvas = (_place(x, side, generator) - mean) / std
        canvas += noise * torch.randn(canvas.shape, generator=generator, device=x.device)
        return F.pixel_unshuffle(canvas, fold) if fold > 1 else canvas

    shape = (fold**2, side // fold, side // fold)
    config = {"name": "digits", "side": side, "noise": noise, "fold": fold}
    return Data("digits", 10, shape, parts, transform, config, device)


def _place(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Each image ``[B, 1, 8, 8]`` at a uniformly random place of an empty canvas ``[B, 1, S, S]``."""
    margin = side - x.shape[-1]
    padded = F.pad(x, (margin,) * 4)[:, 0]                               # B, 8+2m, 8+2m
    corner = torch.randint(margin + 1, (2, len(x), 1), generator=generator, device=x.device)
    rows, columns = corner + torch.arange(side, device=x.device)         # B, S each
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]][:, None]


SOURCES = {"digits": digits}


def load(name: str, device="cpu", **options) -> Data:
    """The data set ``name`` on ``device``. Raises ValueError for an unknown name."""
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}: {', '.join(SOURCES)}")
    return SOURCES[name](device, **options)
