"""NAS-Bench-201 from the files that users have, as one table (``official_table`` says what it holds).

    official.convert("NAS-Bench-201-v1_1-096897.pth", "results/data/nasbench201.nc")

Sources: the two releases of NAS-Bench-201 (Dong & Yang, ICLR 2020) and the topology part of NATS-Bench (Dong et
al., TPAMI 2021), as file or folder; an API object of either package; a CSV file of mean accuracies. Nothing that
a file names is run (``guarded``), and a large file is read in parts.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import re
import resource
import sys
import time
import warnings
import zipfile
import zlib
from functools import partial
from pathlib import Path

import h5py
import pandas as pd
import xarray as xr

from nas_lib import results
from nas_lib.official_table import ACCURACIES, KEYS, Row, Table, assemble, from_csv

# What is known of the MD5 sums; their ends stand in the files' names.
MD5 = {"NAS-Bench-201-v1_1-096897.pth": "55e847143ce1f7c2d89b676f6b096897",
       "NATS-tss-v1_0-3ffb9.pickle.pbz2": "3ffb9", "NAS-Bench-201-v1_0-e61699.pth": "e61699"}
ATTRIBUTES = ("source", "md5", "release", "verified", "missing")
FOLDER = "NATS-tss-v1_0-3ffb9-simple"
TEXT = 1 << 26                                              # longest text of a CSV file or an architecture, bytes
LINE = 1 << 14                                              # longest line of a CSV file


class BenchmarkError(ValueError):
    """A truth table is missing, damaged or unknown; the message names the remedy."""


def convert(source, out=None) -> xr.Dataset:
    """The table of ``source``, a path or an API object; written to ``out``, a netCDF file, if given.

    All 15,625 architectures in benchmark order. Attributes: ``source``, ``md5``, ``release``, ``verified`` (whether
    the MD5 sum is the one that the file's name promises), ``missing``; of a written table ``converted``, seconds and
    the most memory that it took, which is printed too. Raises BenchmarkError.
    """
    started = time.perf_counter()
    name = source if isinstance(source, str | Path) else f"the {type(source).__name__}"
    try:
        if hasattr(source, "arch2infos_dict"):
            table = _api(source)
        else:
            path = Path(source).expanduser()
            table = _folder(path) if path.is_dir() else _file(path)
    except BenchmarkError:
        raise
    except FileNotFoundError as error:
        raise BenchmarkError(f"there is no {error.filename}: check the name; {known()}") from None
    except (ValueError, OSError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError,
            zlib.error) as error:
        raise BenchmarkError(f"{name} is damaged, or no table of NAS-Bench-201 ({_text(error)}): get it again; "
                             f"{known()}") from error
    if out is not None:
        table = table.assign_attrs(converted=f"in {time.perf_counter() - started:.1f} s by a process that took "
                                             f"{_peak():.0f} MB of memory at most")
        print(f"{name}: converted {table.converted}")
        store(table, out)
    return table


def _peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def known() -> str:
    """What can be read, and where it is to be had."""
    files = [f"{name} (its MD5 sum ends in {md5[-6:]})" for name, md5 in MD5.items()]
    return (f"these can be read: {', '.join(files)}, from the authors' Google Drive, which the README of the package "
            f"nas-bench-201 or nats_bench links; the folder {FOLDER} of the latter; a CSV file with the columns arch, "
            "c10_test, c100_test, in16_test; a table once converted, .nc")


def verify(path: Path) -> tuple[str, bool]:
    """MD5 sum of a file, and whether its name promised it. Raises BenchmarkError if it promised another one."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    promised = re.search(r"-([0-9a-f]{5,6})\.(pth|pickle\.pbz2)$", path.name)
    expected = MD5.get(path.name, promised[1] if promised else None)
    if expected is not None and not found.endswith(expected):
        raise BenchmarkError(f"{path} is cut or damaged: its MD5 sum is {found}, expected one that ends in "
                             f"{expected}; get it again")
    return found, expected is not None


def _text(error):
    return f"{type(error).__name__} {error}" if isinstance(error, LookupError | TypeError | AttributeError) else error


def _file(path):
    with open(path, "rb") as file:
        head = file.read(4)
    if head == b"\x89HDF":
        return _converted(path)
    md5, verified = verify(path)
    if head[:1] == b"\x80" or head[:3] == b"BZh" or head == b"PK\x03\x04":
        opened = {b"B": bz2.open, b"P": _member}.get(head[:1], open)
        table, release = _pickled(partial(opened, path, "rb")), path.name.split("-v")[-1][:3].replace("_", ".")
        if not verified:
            warnings.warn(f"{path.name} was read but not verified: only under its official name, which ends in part "
                          "of its MD5 sum, can it be", stacklevel=3)
        return table.assign_attrs(source=path.name, md5=md5, release=release if verified else "unknown",
                                  verified=verified)
    with (gzip.open if head[:2] == b"\x1f\x8b" else open)(path, "rb") as file:
        text = file.read(TEXT + 1)
    if len(text) > TEXT or max(map(len, text.split(b"\n"))) > LINE:
        raise ValueError("it, or a line of it, is too long for a CSV file of 15,625 rows")
    table = from_csv(pd.read_csv(io.BytesIO(text)))
    return table.assign_attrs(source=path.name, md5=md5, release="CSV", verified=False)


def store(table: xr.Dataset, out) -> None:
    """Write a table; the architectures, always all and in benchmark order, are left out for quick reading."""
    results.write(table.drop_vars("arch"), out)


def _converted(path):
    """A table that ``store`` wrote. Reading its arrays alone takes a fifth of the time that xarray takes."""
    try:
        results.check(content := path.read_bytes())
        with h5py.File(io.BytesIO(content)) as file:
            names = (*ACCURACIES, "params", "flops", "seconds", *(["v10"] if "v10" in file else []))
            values = {name: file[name][...] for name in names}
            seeds, attrs = file["train_seed"][...], {k: file.attrs[k] for k in (*ATTRIBUTES, *({"converted"} & set(file.attrs)))}
    except Exception as error:  # a damaged file raises anything, from OSError to KeyError
        raise ValueError("it is a netCDF file of something else, or cut: if it was converted, delete it") from error
    if seeds.dtype.kind == "S":     # texts are stored as rows of characters
        seeds = [b"".join(row).decode() for row in seeds]
    return assemble(values, seeds).assign_attrs(attrs)


def _member(path, mode):
    """The pickle inside a file that a current torch wrote."""
    archive = zipfile.ZipFile(path)
    names = [n for n in archive.namelist() if n.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("it is an archive of something else")
    return archive.open(names[0])


def _pickled(opened):
    """``meta_archs[i]``; ``arch2infos[i]["full", "less", "200" or "12"]["all_results"][data set, seed]``."""
    from nas_lib.guarded import load  # numba takes long to import

    table = Table()
    content = load(opened, lambda part: table.add(part) if part.keys() & KEYS.keys() else part)
    names = content["meta_archs"]
    for i, found in content["arch2infos"].items():
        table.check(names[i], found if isinstance(found, Row) else table.add(found))
    return table.dataset()


def _folder(path):
    """``meta.pickle.pbz2`` and one file per architecture, ``000000.pickle.pbz2``."""
    from nas_lib.guarded import load

    def content(file):
        with bz2.open(file, "rb") as stream:
            return load(partial(io.BytesIO, stream.read(TEXT)))     # unpacked once though it is read twice

    table, names = Table(), content(path / "meta.pickle.pbz2")["meta_archs"]
    for file in sorted(path.glob("[0-9]*.pickle.pbz2")):
        try:
            table.check(names[int(file.name.split(".")[0])], table.add(content(file)))
        except (ValueError, OSError, EOFError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{file.name}: {_text(error)}") from error
    return table.dataset().assign_attrs(source=path.name, md5="", release="1.0", verified=False)


def _api(api):
    folder = getattr(api, "archive_dir", None)      # where NATS-Bench reads every architecture when it is asked
    if folder:
        return _folder(Path(folder))
    table = Table()
    for i, found in api.arch2infos_dict.items():
        table.check(api.meta_archs[i], table.add(found))
    return table.dataset().assign_attrs(source=api.filename or type(api).__name__, md5="",
                                        release=type(api).__name__, verified=False)
