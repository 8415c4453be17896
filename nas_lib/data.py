"""Images as tensors on one device, with the parts, halves and transforms a search uses.

The embedded data set ``digits`` needs no download: scikit-learn's 1,797 handwritten digits (8x8, real
scans; Alpaydin & Kaynak, UCI 1998), each at a random place of a larger canvas under Gaussian noise.
Photographs (CIFAR-10 and -100, SVHN, ImageNet16-120, your own) are bytes there, cropped, flipped and normalised
a batch at a time.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_lib import images, pictures
from nas_lib.augment import Augment
from nas_lib.images import ImageError

Labelled = tuple[Tensor, Tensor]        # images [n, C, H, W], labels [n]
MOST = 2**31                            # values of a part with all its views


@dataclass(frozen=True)
class Data:
    """A data set resident on ``device``.

    ``parts`` are "train", "valid", "test": stored images and labels. ``transform(x, generator)`` turns
    stored images into network inputs ``[B, *shape]`` with fresh randomness, on their own device; ``plain(x)``
    does so without any, for evaluation, and is None where the randomness is part of the task.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]                     # C, H, W of a network input
    parts: dict[str, Labelled]
    transform: Callable[[Tensor, torch.Generator], Tensor]
    config: dict                                    # what defines it, as plain values
    device: torch.device
    plain: Callable[[Tensor], Tensor] | None = None
    _fixed: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    def halves(self) -> tuple[Labelled, Labelled]:
        """The two halves of the training part in stored order: for the weights, for alpha."""
        return self._part("train half"), self._part("valid half")

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Network inputs from stored images, random anew at every call."""
        return self.transform(x, generator)

    def fixed(self, part: str, copies: int = 1, first: int | None = None) -> Labelled:
        """Inputs for evaluation: the same for every caller, ``copies`` random views of each image; the ``first`` ones.

        An image that has a plain view is there once, as that: further views would be the same. ``part``: "train",
        "valid", "test", "train half" or "valid half". Raises ValueError for a part that is not there.
        """
        key = (part, first) if self.plain else (part, copies)
        if key not in self._fixed:
            x, y = self._part(part)
            if copies * x.numel() > MOST:
                raise ImageError(f"{copies} views of {len(y)} images of {self.name} would fill the memory: ask for fewer")
            if self.plain:
                self._fixed[key] = self.plain(x[:first]), y[:first]
            else:
                generator = torch.Generator(self.device).manual_seed(2026)
                x, y = x.repeat(copies, 1, 1, 1), y.repeat(copies)
                self._fixed[key] = self.transform(x, generator), y
        x, y = self._fixed[key]
        return (x, y) if first is None else (x[:first], y[:first])

    def _part(self, part: str) -> Labelled:
        if part in self.parts:
            return self.parts[part]
        x, y = self.parts["train"]
        half = len(y) // 2
        cuts = {"train half": slice(0, half), "valid half": slice(half, None)}
        if part not in cuts:
            raise ValueError(f"{self.name} has no part {part!r}: there are {', '.join([*self.parts, *cuts])}; the "
                             f"option valid holds back so many of the training photographs")
        return x[cuts[part]], y[cuts[part]]


def digits(device="cpu", side=12, noise=1.0, fold=2) -> Data:
    """Digits on a ``side x side`` canvas, ``noise`` in units of the standardised pixels' deviation.

    1,024 digits to train with, 257 to validate, 516 to test, cut once at random (seed 0). ``fold`` f
    turns every f x f block of pixels into f^2 channels (lossless): the input is
    ``[f^2, side/f, side/f]``.
    """
    if not (type(side) is type(fold) is int and 8 <= side <= 1024 and fold > 0 and side % fold == 0 and 0 <= noise < 1e6):
        raise ImageError(f"digits have side = {side!r}, fold = {fold!r}, noise = {noise!r}: side must be a whole number of "
                         "pixels from 8, fold divide it, and noise be positive")
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


@dataclass(frozen=True)
class View:
    """Which photographs are kept, and how a network sees them. Raises ImageError for an impossible value."""

    side: int | None = None     # in pixels, by means over whole blocks; None: as stored
    train: int | None = None    # images to keep, the first ones in the order of the files; None: all
    valid: int | None = None    # likewise, of a validation part, else held back after the training images
    test: int | None = None
    augment: bool = True        # crop, flip and cutout while training; without, only normalise
    flip: bool = True           # not for what is not itself in a mirror
    pad: int | None = None      # zeros around an image before the crop; None: an eighth of the side, as published
    cutout: int = 0             # side of the square that is blanked in training, as in final trainings; 0: none

    def __post_init__(self):
        least = {"side": 1, "train": 2, "valid": 0, "test": 0, "pad": 0, "cutout": 0}
        for f in fields(self):
            value, low = getattr(self, f.name), least.get(f.name)
            whole = type(value) is int and value >= low if low is not None else type(value) is bool
            if not whole and (value is not None or f.default is not None):
                raise ImageError(f"{f.name} = {value!r}: it must be " + (
                    "True or False" if low is None else f"a whole number from {low}"))

    def changes(self, side: int) -> dict:
        """What is done at random to images of this side while training: options of ``Augment``."""
        if not self.augment:
            return {"pad": 0, "flip": False, "cutout": 0}
        return {"pad": side // 8 if self.pad is None else self.pad, "flip": self.flip, "cutout": self.cutout}


def photographs(name: str, device="cpu", **options) -> Data:
    """A published data set, or ``images`` of your own, as bytes on ``device``.

    ``options``: those of ``View``; ``download`` and ``verify`` of ``images.read``; ``folder`` or ``file`` of
    ``pictures.read`` for ``images``. Published constants normalise, also at another side (there the inputs' deviation
    is a little below 1); your own images are normalised by their training part. Without the option valid, or a
    validation part, all training images are for the search. Raises ImageError, a ValueError, with a remedy.
    """
    names = {f.name for f in fields(View)}
    view = View(**{k: v for k, v in options.items() if k in names})
    rest = {k: v for k, v in options.items() if k not in names}
    if name == "images":
        found, classes = pictures.read(view.side, **rest)
        parts = _kept(found, view)
        mean, std = _moments(parts["train"][0])
    else:
        held = None if view.train is None else view.train + (view.valid or 0)
        wanted = {part: n for part, n in (("train", held), ("test", view.test)) if n != 0}
        parts, facts = _kept(images.read(name, wanted, **rest), view), images.FACTS[name]
        classes, mean, std = facts.classes, facts.mean, facts.std
    shape, device = parts["train"][0].shape[1:], torch.device(device)
    changes = view.changes(shape[1])
    augment = Augment(*(torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1) for v in (mean, std)),
                      **changes)
    config = {"name": name, "side": shape[1], **{k: len(y) for k, (_, y) in parts.items()}, **changes,
              "digest": _digest(parts)}
    there = {k: (torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)) for k, (x, y) in parts.items()}
    return Data(name, classes, shape, there, augment, config, device, augment.plain)


def _kept(found: dict, view: View) -> dict:
    """The parts as ``view`` has them."""
    x, y = found["train"]
    own = "valid" in found
    train = len(y) - (0 if own else view.valid or 0) if view.train is None else view.train
    if not own and view.valid:
        found = found | {"valid": (x[train:], y[train:])}
    kept = {}
    for part, number in (("train", train), ("valid", view.valid), ("test", view.test)):
        if part in found and number != 0:
            x, y = found[part]
            if (number or 0) > len(y) or part == "train" and number < 2:
                raise ImageError(f"{part} = {number}: there are {len(y)} images for it, and a search needs at least 2")
            x, y = x[:number], y[:number]
            kept[part] = (x if view.side in (None, x.shape[-1]) else images.shrink(x, view.side)), y
        elif number:
            raise ImageError(f"{part} = {number}: there are no {part} images")
    if len(shapes := {x.shape[1:] for x, _ in kept.values()}) > 1:
        raise ImageError(f"the parts have images of different shapes, {', '.join(map(str, sorted(shapes)))}: make them "
                         "alike")
    return kept


def _moments(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and deviation of every channel of ``x [n, C, H, W]``, as shares of 255."""
    mean, std = (f(x, axis=(0, 2, 3), dtype=np.float64) / 255 for f in (np.mean, np.std))
    if not std.all():
        raise ImageError("a channel of the training images has the same value everywhere: they cannot be normalised")
    return mean.tolist(), std.tolist()


def _digest(parts: dict) -> str:
    """Twelve hex digits of the images and labels, so that changed files never meet an old supernet."""
    found = hashlib.sha256()
    for part, (x, y) in parts.items():
        found.update(f"{part}{x.shape}".encode())
        found.update(np.ascontiguousarray(x))
        found.update(np.ascontiguousarray(y))
    return found.hexdigest()[:12]


SOURCES = {"digits": digits} | {name: partial(photographs, name) for name in (*images.FACTS, "images")}
VIEW = [f.name for f in fields(View)]
OPTIONS = {name: [*VIEW, "download", "verify"] for name in images.FACTS} | {
    "digits": ["side", "noise", "fold"], "images": [*VIEW, "folder", "file"]}


def load(name: str, device="cpu", **options) -> Data:
    """The data set ``name`` on ``device``. Raises ImageError for an unknown name or images that cannot be used,
    TypeError for an unknown option."""
    if name not in SOURCES:
        raise ImageError(f"unknown data set {name!r:.200}: {', '.join(SOURCES)}")
    if unknown := [str(o) for o in options if o not in OPTIONS[name]]:
        raise TypeError(f"there is no {', '.join(unknown):.200}, but {', '.join(OPTIONS[name])}")
    return SOURCES[name](device, **options)
