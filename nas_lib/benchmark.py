"""Ground truth: what every architecture of a space reaches when it is trained from scratch.

    benchmark.truth()                                          # the embedded table, ``digits``
    benchmark.truth("cifar10", "valid", budget=12)             # NAS-Bench-201, from a file that you have

``digits`` ships with the package and is checked by its SHA-256; it is a netCDF file with one row per distinct
network, which ``spread`` spreads over all architectures. The tables of NAS-Bench-201 come from a file in the folder
of the environment variable NAS_DATA, or ``results/data``; see ``official`` for what can be read.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from filelock import FileLock

from nas_lib import official
from nas_lib.official import BenchmarkError
from nas_lib.official_table import ACCURACIES, BUDGETS, CLASSES
from nas_lib.results import config_hash, read, where, write
from nas_lib.spaces import NB201, Space

FOLDER = Path(__file__).parent / "embedded"
SOURCES = ("nasbench201.nc", *official.MD5, official.FOLDER, "nasbench201.csv.gz", "nasbench201.csv")   # best first


def load(name: str = "digits", budget: int = 200) -> xr.Dataset:
    """The truth table ``name``, one row per architecture in benchmark order.

    Variables: ``test``, ``valid`` (arch, train_seed) top-1 accuracy in percent; ``params``, ``flops`` (arch):
    weights and multiply-accumulates for one image; ``seconds`` (arch): time of one training. Of NAS-Bench-201
    (cifar10, cifar100, ImageNet16-120) those after ``budget`` epochs, 12 or 200, with ``ori_test`` and, from a CSV
    file, ``v10`` besides (see ``official_table``). Attribute ``classes``. Raises BenchmarkError.
    """
    if name not in CLASSES:
        return _embedded(FOLDER, name)
    if budget not in BUDGETS:
        raise BenchmarkError(f"budget = {budget}: NAS-Bench-201 has trainings of 12 and of 200 epochs")
    table = nasbench201().sel(dataset=name, budget=budget)
    if budget != 200:
        table = table.drop_vars("v10", errors="ignore")
    return table.drop_vars(("dataset", "budget")).assign_attrs(classes=CLASSES[name], budget=budget)


def nasbench201() -> xr.Dataset:
    """The whole table of NAS-Bench-201, (budget, dataset, arch, train_seed), converted at the first call.

    The result is kept in ``results/cache`` for as long as the file's size and time stay the same. Raises
    BenchmarkError.
    """
    folder = where(os.environ.get("NAS_DATA") or "results/data")
    source = next((folder / name for name in SOURCES if (folder / name).exists()), None)
    if source is None:
        raise BenchmarkError(f"no table of NAS-Bench-201 in {folder} (the environment variable NAS_DATA names another "
                             f"folder): put a file there under its own name, or nasbench201.csv.gz; {official.known()}")
    stat = source.stat()
    return _nasbench201(source, stat.st_size, stat.st_mtime_ns)


@lru_cache(1)
def _nasbench201(source, size, time):
    if source.suffix == ".nc":
        return official.convert(source)
    cached = where("results/cache") / f"nasbench201-{config_hash({'file': str(source), 'size': size, 'time': time})}.nc"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cached.with_suffix(".lock")):     # a second process waits for the first
        if not cached.exists():
            return official.convert(source, cached)
    return official.convert(cached)


@lru_cache
def _embedded(folder, name):
    file = folder / f"{name}.nc"
    checksum = file.with_suffix(".sha256")
    known = sorted(f.stem for f in folder.glob("*.nc"))
    if name not in known or not checksum.is_file():
        raise BenchmarkError(f"no truth table {name!r}; there is {known + list(CLASSES)}; those that ship, with their checksums, "
                             "come back with `git checkout -- nas_lib/embedded`")
    expected = checksum.read_text().split()[0]
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise BenchmarkError(f"{file} is damaged (SHA-256 {found[:12]}..., expected {expected[:12]}...): "
                             f"restore it with `git checkout -- nas_lib/embedded`")
    return spread(read(file))


def spread(table: xr.Dataset) -> xr.Dataset:
    """One row per architecture from one row per distinct network (``row(arch)`` says which)."""
    rows = table.drop_vars("row").isel(network=table["row"].astype(int).rename(arch="network"))
    return rows.drop_vars("network").rename(network="arch").assign_coords(arch=NB201.strings)


def truth(name: str = "digits", split: str = "test", budget: int = 200) -> xr.DataArray:
    """Mean accuracy over the training seeds that exist, in percent, ``(arch)``.

    ``split``: "test" or "valid"; of NAS-Bench-201 also "ori_test", accuracy on the whole official test set, which
    the published Stage-1 curves use, and, from a CSV file, "v10", test accuracy in the release 1.0 of its files.
    Attributes: ``classes``, the data set's number of classes, and, of NAS-Bench-201, ``source``. Raises
    BenchmarkError, also if an architecture has no such accuracy.
    """
    table = load(name, budget)
    known = [s for s in (*ACCURACIES, "v10") if s in table]
    if split not in known:
        raise BenchmarkError(f"unknown split {split!r}: {' or '.join(known)}")
    mean = table[split].mean([d for d in table[split].dims if d != "arch"]).rename("truth")
    absent = int(mean.isnull().sum())
    if absent:
        raise BenchmarkError(f"{table.attrs.get('source', name)} has no {split} accuracy on {name} after {budget} "
                             f"epochs for {absent} architectures; another file may have: {official.known()}")
    return mean.assign_coords(dataset=name).assign_attrs(
        {k: table.attrs[k] for k in ("source",) if k in table.attrs}, classes=int(table.attrs["classes"]))


def counts(space: Space, archs, channels: int, cells: int, classes: int,
           shape) -> tuple[np.ndarray, np.ndarray]:
    """Parameters and multiply-accumulates per image of stand-alone networks, two ``[arch]``.

    ``shape`` (C, H, W) of an image. Only live edges count; batch norm has two parameters per channel.
    """
    live = space.live(archs)
    ops = np.array([space.ops.index(o) if o in space.ops else -1 for o in ("nor_conv_1x1", "nor_conv_3x3")])
    number = [((np.asarray(archs) == o) & live).sum(-1) for o in ops]
    width, side = channels, shape[1]
    params = shape[0] * 9 * width + 2 * width
    flops = shape[0] * 9 * width * side**2
    for stage in range(3):
        if stage:
            side, old, width = -(-side // 2), width, 2 * width
            block = 9 * old * width + 9 * width**2 + old * width
            params, flops = params + block + 4 * width, flops + block * side**2
        for n, taps in zip(number, (1, 9), strict=True):
            params = params + cells * n * (taps * width**2 + 2 * width)
            flops = flops + cells * n * taps * width**2 * side**2
    return params + 2 * width + (width + 1) * classes, flops + width * classes


def agreement(truth: np.ndarray, nb201: Path) -> dict[str, float]:
    """Spearman correlation over all 15,625 cells with NAS-Bench-201's test accuracy, per data set.

    ``truth [arch]`` in benchmark order; ``nb201``: a CSV file in that order with the columns ``c10_test``,
    ``c100_test``, ``in16_test`` (test accuracy after 200 epochs).
    """
    from scipy.stats import spearmanr  # slow to import, and every run imports this module

    columns = {"cifar10": "c10_test", "cifar100": "c100_test", "ImageNet16-120": "in16_test"}
    table = pd.read_csv(nb201)
    return {name: float(spearmanr(truth, table[column]).statistic) for name, column in columns.items()}


def assemble(shards: list[Path], out: Path, nb201: Path | None = None, **attrs) -> xr.Dataset:
    """Join the shards of a truth campaign into one table, and write it with its checksum beside it.

    A shard holds ``test``, ``valid``, ``seconds`` over (network, train_seed), network being the index of the
    first architecture of its class. With ``nb201`` the table says how far it agrees with NAS-Bench-201 (see
    ``agreement``). Raises BenchmarkError naming what is missing.
    """
    groups: dict = {}
    parts = [read(s) for s in shards]
    attrs = {k: v for k, v in parts[0].attrs.items() if k in ("recipe", "data", "provenance")} | attrs
    for shard in parts:
        groups.setdefault(tuple(shard.train_seed.values.tolist()), []).append(shard)
    columns = [xr.concat(group, "network", data_vars="minimal", combine_attrs="drop_conflicts").sortby("network")
               for _, group in sorted(groups.items())]
    table = xr.merge([c[["params", "flops"]] for c in columns[:1]] + [
        xr.concat([c[["test", "valid"]] for c in columns], "train_seed"),
        xr.concat([c.seconds for c in columns], "group").min("group")], combine_attrs="drop_conflicts")
    first = NB201.classes("function")
    missing = np.setdiff1d(first, table["network"].values)
    if len(missing) or bool(table["test"].isnull().any()):
        raise BenchmarkError(f"the shards leave out {len(missing)} networks, or some of their seeds: "
                             "run the rest of the campaign first")
    row = np.searchsorted(table["network"].values, first).astype(np.int16)
    table = table.sortby("network").assign(row=("arch", row)).assign_attrs(attrs)
    if nb201 is not None:
        table.attrs["nb201_spearman"] = agreement(table.test.mean("train_seed").values[row], nb201)
    write(table, out)
    Path(out).with_suffix(".sha256").write_text(
        f"{hashlib.sha256(Path(out).read_bytes()).hexdigest()}  {Path(out).name}\n")
    return table
