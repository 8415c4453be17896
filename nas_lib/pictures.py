"""Images of your own: a folder of picture files, or an ``.npz`` file of arrays."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np

from nas_lib import results
from nas_lib.images import LIMIT, ImageError, Labelled, check, reading

FORMATS = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
PIXELS = 1 << 26     # of a picture
PARTS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


def read(side: int | None, folder=None, file=None) -> tuple[dict[str, Labelled], int]:
    """Parts "train" and, where there are any, "valid" and "test", and the number of classes.

    ``folder`` has pictures as ``train/CLASS/NAME.png``, ``valid`` (or ``val``) and ``test`` likewise, all square and
    of one size; with ``side`` each is cut to its central square and resized by area. They are in the order of the
    SHA-256 of ``CLASS/NAME``, so that classes are mixed; hidden files do not count. ``file`` is an ``.npz`` with
    ``x_train`` uint8 ``[n, C, H, W]``, ``[n, H, W, C]`` or ``[n, H, W]`` and labels ``y_train [n]`` from 0, ``x_valid``,
    ``x_test`` likewise, all in the order of the file. Relative paths start at the repository root. Raises ImageError.
    """
    if (folder is None) == (file is None):
        raise ImageError("images of your own: give either the option folder or the option file")
    if file is not None:
        return _arrays(results.where(file))
    base = results.where(folder)
    there = {part: base / n for part, names in PARTS.items() for n in names if (base / n).is_dir()}
    inside = there["train"].iterdir() if "train" in there else ()
    classes = sorted(f.name for f in inside if f.is_dir() and f.name[0] != ".")
    if len(classes) < 2:
        raise ImageError(f"no folders of pictures in {base / 'train'}: put the training pictures there, one folder for "
                         "each class")
    return {part: _folder(f, classes, side) for part, f in there.items()}, len(classes)


def _folder(folder: Path, classes: list[str], side: int | None) -> Labelled:
    files = [f for f in folder.rglob("*") if f.suffix.lower() in FORMATS and f.is_file()
             and not any(name[0] == "." for name in f.relative_to(folder).parts)]
    files.sort(key=lambda f: hashlib.sha256(os.fsencode(f.relative_to(folder).as_posix())).digest())
    names = [f.relative_to(folder).parts[0] for f in files]
    if unknown := sorted({*names} - {*classes}):
        raise ImageError(f"{folder / unknown[0]} is no class of the training pictures: there are {', '.join(classes)}")
    if not files or folder.name == "train" and (unknown := sorted({*classes} - {*names})):
        raise ImageError(f"no pictures in {folder / unknown[0] if unknown else folder}: put some there ("
                         f"{', '.join(sorted(FORMATS))})")
    first = _picture(files[0], side)
    x = np.empty((len(files), *first.shape), np.uint8)
    for k, f in enumerate(files):
        image = _picture(f, side)
        if image.shape != first.shape or image.shape[0] != image.shape[1]:
            raise ImageError(f"{f} is {image.shape[1]} x {image.shape[0]}, {files[0]} is {first.shape[1]} x "
                             f"{first.shape[0]}: where they are not all square and of one size, give the option side")
        x[k] = image
    y = np.array([classes.index(n) for n in names])
    return check(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y, len(classes), folder)


def _picture(file: Path, side: int | None) -> np.ndarray:
    """Bytes ``[H, W, 3]``, RGB."""
    from PIL import Image, ImageOps  # it comes with torchvision

    with reading(file), Image.open(file) as image:
        if image.width * image.height > PIXELS:
            raise ImageError(f"{file} says that it is {image.width} x {image.height}: make it smaller")
        rgb = image.convert("RGB")
        return np.asarray(ImageOps.fit(rgb, (side, side), Image.Resampling.BOX) if side else rgb)


def _arrays(file: Path) -> tuple[dict[str, Labelled], int]:
    found, classes = {}, 0
    with reading(file), zipfile.ZipFile(file) as archive, np.load(file) as arrays:
        if sum(m.file_size for m in archive.infolist()) > max(LIMIT, 100 * file.stat().st_size):
            raise ImageError(f"{file} would unpack to more than a hundred times its size: images are not like that")
        if "x_train" not in arrays:
            raise ImageError(f"{file} has no array x_train, but {', '.join(arrays)}: name the arrays x_train, y_train, "
                             "x_test and y_test")
        for part in PARTS:
            if f"x_{part}" in arrays:
                x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
                if y.dtype.kind not in "iu":
                    raise ImageError(f"{file}: y_{part} is {y.dtype}, and labels must be integers from 0")
                x = x[:, None] if x.ndim == 3 else x
                if x.ndim == 4 and x.shape[1] not in (1, 3):
                    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
                classes = classes or int(y.max()) + 1
                found[part] = check(x, y.astype(np.int64), classes, file)
    y = found["train"][1]
    if classes < 2 or (np.diff(y) >= 0).all():
        raise ImageError(f"{file}: y_train has one class or is sorted, so that its two halves would have other classes: "
                         "shuffle the training images")
    return found, classes
