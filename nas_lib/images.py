"""Photographs read from files into arrays of bytes, each file checked before it is used.

Published data sets are looked for in the folder named by the environment variable NAS_DATA, else in results/data: in
the files of their authors (where torchvision puts them), CIFAR also as the ``.npz`` parts of ``_coded``. Files of the
authors are known by their MD5, parts by the SHA-256 of their pixels; ``verify=False`` admits others of that format.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from nas_lib import pickled, results

Labelled = tuple[np.ndarray, np.ndarray]        # images uint8 [n, C, H, W], labels int64 [n]
LIMIT = 200_000_000     # bytes of a decoded .npz part: 50,000 CIFAR images and their labels are 154 million


class ImageError(ValueError):
    """Images that are not there or cannot be used; the message names the remedy."""


@dataclass(frozen=True)
class Facts:
    """What is publicly known of a data set: normalisation as shares of 255, file names with their checksums."""

    classes: int
    side: int
    images: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    folder: str                             # of the authors' files, inside the data folder
    train: dict[str, str]                   # file: MD5
    test: dict[str, str]
    labels: str = "labels"                  # key of a pickled batch
    torchvision: str | None = None          # the class that downloads it
    coded: dict[str, str] = field(default_factory=dict)     # .npz part: SHA-256 of its pixels


# Constants of algorithms, section 0 (DARTS' code); SVHN: those of RobustDARTS' code. MD5: torchvision, AutoDL-Projects.
FACTS = {
    "cifar10": Facts(
        10, 32, {"train": 50_000, "test": 10_000},
        (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768), "cifar-10-batches-py",
        {"data_batch_1": "c99cafc152244af753f735de768cd75f", "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
         "data_batch_3": "54ebc095f3ab1f0389bbae665268c751", "data_batch_4": "634d18415352ddfa80567beed471001a",
         "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb"},
        {"test_batch": "40351d587109b95175f43aff81a1287e"}, torchvision="CIFAR10", coded={
            "cifar10_train_1.npz": "a50e8b48728e1667d682a807155c375279d5ae321fb12242c02e3104a6bc8b21",
            "cifar10_train_2.npz": "0b825e5592c3b72ea18d6ec2ff5f5b19d33e41a75f5039054a9bb87be3cf69a0",
            "cifar10_train_3.npz": "c6ee1dd4601a69ec085d8ebf53ee6441775491a6839a0a9ae8fa198e88a3a429",
            "cifar10_train_4.npz": "1f6b6c799cff375a9f8fae2fac909d51ee09f38a6a60eebb9e8fec6f47ddc48f",
            "cifar10_train_5.npz": "58e3bbf713e28357476a351d3a05d056372f94c681d04ca9d62a076fdf2a643b",
            "cifar10_test.npz": "5813c33c01866fd2ba81f750a19c587a5f62c7b47147e3766e5b95a7402441d3"}),
    "cifar100": Facts(
        100, 32, {"train": 50_000, "test": 10_000}, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762),
        "cifar-100-python", {"train": "16019d7e3df5f24257cddd939b257f8d"}, {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        labels="fine_labels", torchvision="CIFAR100", coded={
            "cifar100_train_1.npz": "600e57d689f6555e9beae1c947657d41a97aac79585b7a294ab30d3a7125dbfd",
            "cifar100_train_2.npz": "1ceaae625311995ce3faf743c06268d60c3af5648b736993625079f79fece0e7",
            "cifar100_test.npz": "a5387574668dd143dad922e015aa18037c523644aae95db4a95ab385e444659a"}),
    "svhn": Facts(
        10, 32, {"train": 73_257, "test": 26_032}, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), ".",
        {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373"}, {"test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
        torchvision="SVHN"),
    "ImageNet16-120": Facts(
        120, 16, {"train": 151_700, "test": 6_000},
        (122.68 / 255, 116.66 / 255, 104.01 / 255), (63.22 / 255, 61.26 / 255, 65.09 / 255), "ImageNet16",
        {f"train_data_batch_{k}": md5 for k, md5 in enumerate((
            "27846dcaa50de8e21a7d1a35f30f0e91", "c7254a054e0e795c69120a5727050e3f", "4333d3df2e5ffb114b05d2ffc19b1e87",
            "1620cdf193304f4a92677b695d70d10f", "348b3c2fdbb3940c4e9e834affd3b18d", "6e765307c242a1b3d7d5ef9139b48945",
            "564926d8cbf8fc4818ba23d2faac7564", "f4755871f718ccb653440b9dd0ebac66", "bb6dd660c38c58552125b1a92f86b5d4",
            "8f03f34ac4b42271a294f91bf480f29b"), 1)},
        {"val_data": "3410e3017fdaefba8d5073aaa65e4bd6"}),
}


def read(name: str, wanted: dict[str, int | None], download=False, verify=True) -> dict[str, Labelled]:
    """Parts "train" and "test" of a published data set, in the order of its files.

    ``wanted``: how many images of each part, the first ones; None: all, with a warning if some are not there. What is
    not needed is not read. Raises ImageError.
    """
    facts, folder = FACTS[name], results.where(os.environ.get("NAS_DATA") or "results/data")
    if download:
        _download(name, facts, folder)
    files = {part: _files(name, facts, folder, part, verify) for part in wanted}
    return {part: _gather(name, part, files[part], wanted[part], folder) for part in wanted}


def _files(name: str, facts: Facts, folder: Path, part: str, verify: bool) -> list[Callable[[], Labelled]]:
    """A reader for every file of a part: of the authors' files if there are any, else of the ``.npz`` parts.

    A reader gets the checksum that the file must have, or "" where any will do.
    """
    home, read_one = folder / facts.folder, _matlab if name == "svhn" else _batch
    if any((home / f).exists() for f in (*facts.train, *facts.test)):
        return [partial(read_one, home / f, facts, md5 if verify else "") for f, md5 in getattr(facts, part).items()]
    coded = [f for f in facts.coded if f.startswith(f"{name}_{part}") and (folder / f).exists()]
    if not coded:
        where = home / next(iter(getattr(facts, part)))
        also = f" or {folder / f'{name}_{part}*.npz'}" if facts.coded else ""
        download = ", load with the option download=True" if facts.torchvision else ""
        raise ImageError(f"no {part} images of {name}: put its files into {folder}, so that there is {where}{also}"
                         f"{download}, or name another folder by the environment variable NAS_DATA")
    return [partial(_coded, folder / f, facts, facts.coded[f] if verify else "") for f in coded]


def _gather(name: str, part: str, files: list, wanted: int | None, folder: Path) -> Labelled:
    found, there, published = [], 0, FACTS[name].images[part]
    for read_one in files:
        if wanted is None or there < wanted:
            found.append(read_one())
            there += len(found[-1][1])
    if wanted is None and there < published:
        warnings.warn(f"{name}: {there:,} of {published:,} {part} images are in {folder}; {part}={there} says that "
                      "this is meant", stacklevel=2)
    if (wanted or 0) > there:
        raise ImageError(f"{name}: {wanted:,} {part} images are asked for and {there:,} are in {folder}: ask for fewer")
    x, y = (np.concatenate(arrays)[:wanted] for arrays in zip(*found, strict=True))
    return x, y


def _download(name: str, facts: Facts, folder: Path) -> None:
    if facts.torchvision is None:
        raise ImageError(f"{name} cannot be downloaded: get the downsampled ImageNet, 16x16, from image-net.org and put "
                         f"its batches into {folder / facts.folder}")
    from torchvision import datasets  # slow to import, and needed for nothing else

    parts = [{"split": part} for part in ("train", "test")] if name == "svhn" else [{}]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in parts:
            getattr(datasets, facts.torchvision)(folder, **part, download=True)
    except Exception as error:              # of the network, the disk, the archive
        raise ImageError(f"{name} cannot be downloaded ({error}): put its files into {folder} by hand, or name another "
                         "folder by the environment variable NAS_DATA") from error


@contextmanager
def reading(file: Path):
    """One error for whatever damaged content leads to."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{file} is missing: get it again, or delete the other files of the data set") from error
    except Exception as error:
        raise ImageError(f"{file} is cut, damaged or of another format ({error}): delete it and get it again") from error


def _content(file: Path, md5: str) -> bytes:
    content = file.read_bytes()
    if md5 and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise ImageError(f"{file} is cut or damaged, its MD5 is {found} and not {md5}: delete it and get it again; if it "
                         "is one of your own making, verify=False reads it all the same")
    return content


def _batch(file: Path, facts: Facts, md5: str) -> Labelled:
    """A pickled batch: ``data`` [n, C * H * W] and a list of labels."""
    with reading(file):
        content = _content(file, md5)
        if not md5:
            pickled.check(content)
        x, y = pickled.load(content, "data", facts.labels)
        x = x.reshape(-1, 3, facts.side, facts.side)
        y = np.fromiter((int(label) for label in y), np.int64)
        if facts.classes == 120:            # of the thousand classes of ImageNet, numbered from 1, the first
            check(x, y - 1, 1000, file)
            x, y = x[y <= 120], y[y <= 120] - 1
        return check(x, y, facts.classes, file)


def _matlab(file: Path, facts: Facts, md5: str) -> Labelled:
    """SVHN: ``X`` [H, W, C, n] and ``y`` [n, 1], where 10 stands for the digit 0."""
    from scipy.io import loadmat  # slow to import

    with reading(file):
        content = _content(file, md5)
        if not md5:
            _check_matlab(content)
        table = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        x, y = table["X"].transpose(3, 2, 0, 1), table["y"].astype(np.int64).ravel()
        check(x, y - 1, 10, file, facts.side)
        return np.ascontiguousarray(x), y % 10


def _check_matlab(content: bytes) -> None:
    """Refuse a file whose compressed elements would fill the memory."""
    at, total = 128, 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II" if content[126:128] == b"IM" else ">II", content, at)
        unpacked, rest = zlib.decompressobj(), content[at + 8:at + 8 + size] if kind == 15 else b""
        while rest and total <= 2 * LIMIT:
            total += len(unpacked.decompress(rest, 1 << 20))
            rest = unpacked.unconsumed_tail
        at += 8 + size
    if total > 2 * LIMIT:
        raise ValueError("it would unpack to too much")


def _coded(file: Path, facts: Facts, sha256: str) -> Labelled:
    """An ``.npz`` part: ``coded`` [C, n, H, W], the pixels' differences, and ``labels`` [n].

    Blue and red less green, then each row and each column less the one before, modulo 256.
    """
    with reading(file), zipfile.ZipFile(file) as archive:
        if sum(member.file_size for member in archive.infolist()) > LIMIT:
            raise ImageError(f"{file} is no part of a data set, it is too large: delete it and get it again")
        with np.load(file) as arrays:
            coded, y = arrays["coded"], arrays["labels"].astype(np.int64)
        check(coded.swapaxes(0, 1), y, facts.classes, file, facts.side)
        x = np.cumsum(np.cumsum(coded, axis=2, dtype=np.uint8), axis=3, dtype=np.uint8)
        x[0] += x[1]
        x[2] += x[1]
        x = np.ascontiguousarray(x.swapaxes(0, 1))
        if sha256 and (found := hashlib.sha256(x).hexdigest()) != sha256:
            raise ImageError(f"{file} holds other images, the SHA-256 of its pixels is {found} and not {sha256}: delete "
                             "it and get it again; if it is one of your own making, verify=False reads it all the same")
        return x, y


def check(x: np.ndarray, y: np.ndarray, classes: int, file: Path, side: int | None = None) -> Labelled:
    """``x``, ``y`` as they are, if they are images, of this side, and labels."""
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape[2:] != (side or x.shape[-1],) * 2:
        raise ImageError(f"{file} holds {x.dtype} {x.shape}: images must be uint8 with 1 or 3 channels, and "
                         f"{f'{side} x {side}' if side else 'square'}")
    if y.shape != x.shape[:1]:
        raise ImageError(f"{file} holds {len(x)} images and labels {y.shape}: there must be one label to an image")
    if len(y) and not 0 <= y.min() <= y.max() < classes:
        raise ImageError(f"{file} has labels {y.min()} to {y.max()}, not among {classes} classes: correct it, or get it "
                         "again")
    return x, y


def shrink(x: np.ndarray, side: int) -> np.ndarray:
    """Images ``[n, C, S, S]`` as ``[n, C, side, side]``: means over whole blocks, rounded to nearest, halves up."""
    block, rest = divmod(x.shape[-1], side)
    if rest or not block:
        raise ImageError(f"side = {side}: it must divide the images' side, {x.shape[-1]}")
    total = np.full((*x.shape[:2], side, side), block**2 // 2, np.uint32)
    for i in range(block):
        for j in range(block):
            total += x[:, :, i::block, j::block]
    total //= block**2
    return total.astype(np.uint8)
