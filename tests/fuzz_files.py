"""Readers of truth tables and of images, with a good file for each, for ``fuzz``."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import os
import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

import made_bench
from fuzz_subjects import (
    Planted,
    Subject,
    altered,
    arrays,
    in_bz2,
    in_gzip,
    in_result,
    in_zip,
    pickled,
    saved,
)
from nas_lib import benchmark, official, results
from nas_lib import images as published
from nas_lib import pictures as own
from nas_lib.official_table import ACCURACIES
from nas_lib.spaces import NB201
from test_images import coded, made, python2


def _legacy(value) -> bytes:
    """As torch wrote files before 1.6."""
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def _sound(table) -> None:
    for name in ACCURACIES:
        v = table[name].values
        assert table.sizes["arch"] == len(NB201) and not ((v < 0) | (v > 100)).any(), "an accuracy that is none"


def tables(home: Path) -> list[Subject]:
    """Truth tables in every format."""
    content = made_bench.content((5,), seeds=(777,))
    folder = made_bench.write_folder(content, home / "nats")
    made_bench.write_old(content, home / "made.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        official.convert(home / "made.pth", home / "table.nc")
    head, names = b"arch,c10_test,c100_test,in16_test,c10_valid\n", [str(n).encode() for n in NB201.strings[:40]]
    csv = head + b"".join(n + b",90.5,70.25,40.0,91\n" for n in names)
    lines = [b"x,1,2,3,4\n", names[0] + b",101,2,3,4\n", names[0] + b",a,b,c,d\n", b"," * 10**6, names[0] + b"," + b"9" * 10**6,
             2 * (names[0] + b",1,1,1,1\n"), b"", names[0] + b",nan,inf,-inf,1\n", names[0] + b",1\n"]
    embedded = (results.root() / "nas_lib/embedded/digits.nc").read_bytes()

    def of(name, write, sealed=None):
        def crafted(rng):
            with contextlib.suppress(Exception):        # what cannot be written cannot be read either
                return write(altered(rng, content))
            return b"unwritten"
        return Subject(f"truth, {name}", write(content), lambda f: _sound(official.convert(f / name)), name, crafted, sealed,
                       share=0.7)

    def digits(f):
        benchmark._embedded.cache_clear()
        assert benchmark._embedded(f, "digits").sizes["arch"] == len(NB201)

    def vouch(path, data):
        path.with_suffix(".sha256").write_text(hashlib.sha256(data).hexdigest())

    return [of("old.pth", _legacy), of("new.pth", saved, in_zip),
            of("nats.pickle.pbz2", lambda v: bz2.compress(pickled(v, 4), 1), in_bz2),
            Subject("truth, folder of NATS-Bench", {p.name: p.read_bytes() for p in folder.iterdir()},
                    lambda f: _sound(official.convert(f)), sealed=in_bz2, share=0.5),
            Subject("truth, CSV", csv, lambda f: _sound(official.convert(f / "a.csv")), "a.csv",
                    lambda rng: head + lines[rng.integers(len(lines))], share=0.7),
            Subject("truth, CSV packed", gzip.compress(csv, 1), lambda f: _sound(official.convert(f / "a.csv.gz")), "a.csv.gz",
                    sealed=in_gzip, share=0.5),
            Subject("truth, converted", (home / "table.nc").read_bytes(), lambda f: _sound(official.convert(f / "t.nc")), "t.nc",
                    sealed=in_result, share=0.7),
            Subject("truth, embedded", embedded, digits, "digits.nc", share=0.6, seal=vouch)]


def images(home: Path) -> list[Subject]:
    """Batches and parts of the published data sets."""
    (x, y), (x16, y16), matlab, part = made(4), made(4, 120, 16), io.BytesIO(), io.BytesIO()
    savemat(matlab, {"X": x.transpose(2, 3, 1, 0), "y": np.where(y == 0, 10, y)[:, None]}, do_compression=True)
    coded(part, x, y)
    flat = {"data": x.reshape(4, -1), "labels": y.tolist(), "filenames": ["a"]}
    flat16 = {"data": x16.reshape(4, -1), "labels": (y16 + 1).tolist(), "mean": x16[0].ravel().astype(float)}
    mine = {"x_train": x, "y_train": np.array([1, 0, 2, 1]), "x_test": x[:2], "y_test": np.array([0, 2])}

    def of(name, side):
        def read(folder):
            facts = {name: replace(published.FACTS[name], images={"test": 0})}
            with patch.dict(os.environ, NAS_DATA=str(folder)), patch.dict(published.FACTS, facts):
                a, b = published.read(name, {"test": None}, verify=False)["test"]
            assert a.dtype == np.uint8 and a.shape[1:] == (3, side, side) and len(a) == len(b), "no images"
            assert len(b) == 0 or 0 <= b.min() <= b.max() < facts[name].classes, "no labels"
        return read

    def matrices(rng):
        out = io.BytesIO()
        with contextlib.suppress(Exception):
            savemat(out, altered(rng, {"X": x.transpose(2, 3, 1, 0), "y": np.arange(1, 5)}, plant=False))
        return out.getvalue()

    def packed(values):
        def make(rng):
            changed = altered(rng, values)
            with contextlib.suppress(Exception):
                return arrays(**{k[:200] or "x": np.array(v, dtype=object) if isinstance(v, Planted | dict) else v
                                 for k, v in changed.items()})
            return b"unwritten"
        return make

    def ours(folder):
        found, classes = own.read(None, file=folder / "own.npz")
        for a, b in found.values():
            assert a.dtype == np.uint8 and a.ndim == 4 and len(a) == len(b) and b.max(initial=0) < classes, "no images"

    batch = "cifar-10-batches-py/test_batch"
    return [Subject("images, CIFAR-10", pickled(flat), of("cifar10", 32), batch,
                    lambda rng: pickled(altered(rng, flat), int(rng.integers(2, 5)))),
            Subject("images, CIFAR-10 of Python 2", python2(x, y), of("cifar10", 32), batch),
            Subject("images, ImageNet16-120", pickled(flat16, 3), of("ImageNet16-120", 16), "ImageNet16/val_data",
                    lambda rng: pickled(altered(rng, flat16), 3)),
            Subject("images, SVHN", matlab.getvalue(), of("svhn", 32), "test_32x32.mat", matrices),
            Subject("images, parts", part.getvalue(), of("cifar10", 32), "cifar10_test.npz",
                    packed({"coded": np.zeros((3, 4, 32, 32), np.uint8), "labels": y}), in_zip),
            Subject("images, own arrays", arrays(**mine), ours, "own.npz", packed(mine), in_zip)]


def pictures(home: Path) -> list[Subject]:
    """Folders of pictures, of every format."""
    def painted(ending):
        out, colours = io.BytesIO(), made(1, side=8)[0][0].transpose(1, 2, 0)
        Image.fromarray(colours).save(out, {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(ending, ending))
        return {f"{part}/{name}/1.{ending}": out.getvalue() for part in ("train", "test") for name in "ab"}

    def read(folder):
        found, classes = own.read(None, folder=folder)
        assert classes == len(list((folder / "train").iterdir())) and len(found["train"][1]) >= 2, "no pictures"

    return [Subject(f"pictures, {ending}", painted(ending), read, share=0.4) for ending in ("png", "jpg", "bmp", "tif", "webp", "ppm")]
