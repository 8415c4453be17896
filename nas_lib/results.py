"""Results on disk: one netCDF file per run, complete or absent, and the runs joined into one Dataset.

    results.write(run, results.run_path("quick", 1, "digits", "gdas", seed=0))
    runs = results.runs("quick", 1, "digits")
    runs["score"]                                         # [dataset, stage1, seed, arch]

Relative paths start at the repository root, so that a notebook finds its results wherever it is run.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import secrets
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

KEYS = ("dataset", "stage1", "seed")
MARK = b"\nsha256 "
LIMIT = 1 << 28     # bytes of a result in memory: far more than any has
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ResultError(OSError):
    """A result that cannot be written or read; the message names the remedy."""


def root() -> Path:
    """The repository's folder."""
    return Path(__file__).resolve().parents[1]


def where(path) -> Path:
    """``path`` as an absolute one; a relative path starts at the repository root."""
    return root() / Path(path).expanduser()


def run_path(campaign: str, stage: int, dataset: str, method: str, seed: int) -> Path:
    """Where a run is kept: ``results/<campaign>/stage<stage>-<dataset>-<method>-s<seed>.nc``.

    A method given as a file, ``mine.py``, goes by the name ``mine``. Raises ResultError as ``path``.
    """
    name = Path(method).stem if method.endswith(".py") else method
    return path(campaign, f"stage{stage}-{dataset}-{name}-s{seed}.nc")


def path(campaign: str, name: str) -> Path:
    """``results/<campaign>/<name>``. Raises ResultError where a name would lead elsewhere."""
    for part in (campaign, name):
        if part in ("", ".", "..") or {"/", "\\", "\0"} & set(part) or len(os.fsencode(part)) > 250:
            raise ResultError(f"{part!r:.200} cannot be a name below results: choose a short one without slashes")
    return root() / "results" / campaign / name


def kept(campaign: str, pattern: str) -> list[Path]:
    """Results of a campaign that fit ``pattern``: those in ``results/``, or else those that the book keeps."""
    own = sorted(where(f"results/{campaign}").glob(pattern))
    return own or sorted(where(f"book/reference/{campaign}").glob(pattern))


def read_kept(campaign: str, name: str) -> xr.Dataset:
    """The result ``name`` of a campaign, where ``kept`` finds it. Raises as ``read``, naming its place in ``results/``."""
    return read(next(iter(kept(campaign, name)), where(f"results/{campaign}/{name}")))


def runs(campaign: str, stage: int, dataset: str) -> xr.Dataset:
    """All runs of a stage on one data set, joined: ``[stage1, seed, ...]``. Raises as ``load``."""
    return load(kept(campaign, f"stage{stage}-{dataset}-*.nc")).sel(dataset=dataset)


def write(dataset: xr.Dataset, path) -> Path:
    """Write a run, compressed, under its final name in one step; whatever stops it leaves the old file.

    In attributes dicts and lists become JSON text, booleans 0 or 1, and None is left out. Raises
    ResultError when the folder cannot be written or the disk is full.
    """
    target = where(path)
    # Encoded in memory first: what goes wrong from here on is the disk's doing and has a plain errno.
    content = bytes(_portable(dataset).to_netcdf(engine="h5netcdf", encoding=_encoding(dataset)))
    content += MARK + hashlib.sha256(content).hexdigest().encode()      # HDF5 does not look beyond its end
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:  # unlike mkstemp, this follows the umask
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        remedy = ("the disk, or your share of it, is full: free some space" if error.errno in FULL
                  else "make its folder writable, or choose another")
        raise ResultError(f"cannot write {target} ({error.strerror}): {remedy}, then run again; "
                          "finished runs are kept") from error
    return target


def read(path) -> xr.Dataset:
    """A run as written, in memory and with its file closed. Raises ResultError if it is not one."""
    source = where(path)
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise ResultError(f"no result at {source}: make it with "
                          "`snakemake --profile notebooks/profiles/local`, or check the name") from None
    except OSError as error:
        raise ResultError(f"cannot read {source} ({error.strerror}): check the path and its "
                          "permissions") from error
    try:
        check(content)
        dataset = xr.load_dataset(io.BytesIO(content), engine="h5netcdf")
    except Exception as error:  # a damaged file raises anything, from OSError to KeyError
        raise ResultError(f"{source} is cut, damaged or no netCDF file: delete it and make it "
                          "again") from error
    return _texts(dataset.drop_encoding())  # how it lay on disk must not leak into the next write


def check(content: bytes) -> None:
    """Raise an error for a netCDF file that is not as ``write`` left it, or would fill the memory."""
    end = len(content) - len(MARK) - 64
    if content[end:-64] == MARK and hashlib.sha256(content[:end]).hexdigest().encode() != content[-64:]:
        raise ValueError("its bytes are not those that were written")
    sizes = []

    def look(name, link):
        item = file[name] if isinstance(link, h5py.HardLink) else None
        if item is None or isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise ValueError("it wants to read other files")
        if isinstance(item, h5py.Dataset):          # texts may all be the same long one
            sizes.append(item.size * (len(content) if item.dtype.kind == "O" else item.dtype.itemsize))

    with h5py.File(io.BytesIO(content)) as file:    # where this fails, h5netcdf would also print noise
        file.visititems_links(look)
    if sum(sizes) > LIMIT:
        raise ValueError("it would unpack to too much")


def load(paths) -> xr.Dataset:
    """Runs joined along named dimensions: ``[dataset, stage1, seed, ...]``.

    Missing runs, and variables that a run lacks, are NaN (texts: empty). Attributes in which all runs
    agree stay attributes, the others become text variables along the runs. Methods keep the order of
    ``paths``, seeds are sorted. Raises ValueError for no path or two files of one run, ResultError as
    ``read``.
    """
    paths = [Path(p) for p in paths]
    if not paths:
        raise ValueError("no results to join: run the campaign first, or check its name")
    found = {}
    for p in paths:
        run = read(p)
        absent = [k for k in KEYS if k not in run.coords]
        if absent:
            raise ResultError(f"{p} is not one run: it lacks {', '.join(absent)}; leave it out, or make it again")
        key = tuple(run[k].item() for k in KEYS)
        if key in found:
            raise ValueError(f"{found[key][0]} and {p} hold the same run {key}: join one of them, and the "
                             "two stages separately")
        found[key] = p, run.assign_coords({k: ("run", [v]) for k, v in zip(KEYS, key, strict=True)})
    order = {k: list(dict.fromkeys(key[i] for key in found)) for i, k in enumerate(KEYS)}
    try:
        order["seed"].sort()
        joined = xr.concat(_lift([run for _, run in found.values()]), dim="run", data_vars="all",
                           coords="different", compat="equals", join="outer", combine_attrs="drop_conflicts")
        joined = joined.set_index(run=list(KEYS)).unstack("run").sel(order)
    except (ValueError, TypeError, LookupError) as error:
        raise ResultError(f"{paths[0]} and {len(paths) - 1} others do not go together ({error}): delete those of another kind "
                          "and make them again") from error
    return _texts(joined).transpose(*KEYS, ...)


def said(runs: xr.Dataset, name: str) -> str:
    """An attribute of joined runs as one text: where methods differ, what most say, then the others by name."""
    if name not in runs:
        return str(runs.attrs.get(name, ""))
    table = runs[name].to_dataframe().reset_index()
    methods = table[table[name] != ""].groupby(name, sort=False).stage1.unique()
    first, *others = methods.index[methods.map(len).argsort()[::-1]]
    return " ".join([str(first), *(f"{', '.join(f'`{m}`' for m in methods[t])}: {t}" for t in others)])


def provenance(started: float, device) -> dict:
    """Origin of a result, for the attribute ``provenance``; ``started`` is ``time.time()`` at the start."""
    found = {
        "nas_lib": _version("nas-lib"), "commit": _commit(), "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "numpy", "xarray")},
        "platform": platform.platform(), "cpu": _cpu(), "device": str(device),
        "start": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
    }
    if str(device).startswith("cuda"):
        import torch  # takes long, and is there already

        found["gpu"] = torch.cuda.get_device_name(device)
    return {k: v for k, v in found.items() if v is not None}


def config_hash(config: dict) -> str:
    """Eight hex digits that name a configuration, whatever the order of its keys."""
    return hashlib.sha256(_json(config, sort_keys=True).encode()).hexdigest()[:8]


def _portable(dataset):
    """A copy whose attributes netCDF accepts."""
    dataset = dataset.copy()
    for holder in (dataset, *(dataset[name] for name in dataset.variables)):
        holder.attrs = {k: _attribute(v) for k, v in holder.attrs.items() if v is not None}
    return dataset


def _attribute(value):
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value if isinstance(value, str | int | float | np.number | np.ndarray) else _json(value)


def _texts(dataset):
    """Texts, which come back as objects, as fixed-width strings; a missing one is empty."""
    loose = {name: v.where(v.notnull(), "").astype(str)
             for name, v in dataset.variables.items() if v.dtype.kind in "OT"}
    return dataset.assign({k: v for k, v in loose.items() if k in dataset.data_vars}).assign_coords(
        {k: v for k, v in loose.items() if k in dataset.coords})


def _encoding(dataset):
    """Compression for arrays, as close as zlib can and in one piece."""
    return {name: {"zlib": True, "complevel": 9} | _whole(v) for name, v in dataset.variables.items() if v.size > 1}


def _whole(v):
    """A chunk that holds all of ``v``; texts lie on disk as characters, since variable-length text is not compressed."""
    if v.dtype.kind in "UOT":                       # with one dimension more, as long as the longest text
        width = max((len(t.encode()) for t in v.values.flat if isinstance(t, str)), default=0)
        return {"dtype": "S1", "chunksizes": (*v.shape, max(width, 1))}
    return {"chunksizes": v.shape} if v.dtype.kind in "biuf" else {}


def _lift(runs):
    """Turn the attributes in which runs differ into text variables."""
    def text(run, name):
        value = run.attrs.get(name, "")
        return value if isinstance(value, str) else _json(value)

    names = {k for run in runs for k in run.attrs if k not in run.variables}
    differ = sorted(k for k in names if len({text(run, k) for run in runs}) > 1)
    return [run.assign({k: text(run, k) for k in differ}).drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in run.attrs.items() if k not in differ}) for run in runs]


def _json(value, **options):
    return json.dumps(value, default=_plain, **options)


def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{value!r} cannot be stored: use numbers, text, lists and dicts of these")


def _version(distribution):
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit():
    """The commit, marked if files have changed since; None outside a clone or without git."""
    if not (root() / ".git").exists():  # else git would answer for a repository further up
        return None
    try:
        return subprocess.run(
            ["git", "-C", str(root()), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
