"""Stored results made again, and compared number by number.

A result of either stage holds what was asked for it (attribute ``asked``); the same call is made again with a cache of its
own, so that nothing is taken from the first time.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from nas_lib import experiments, results
from nas_lib.parameters import Setup
from nas_lib.results import ResultError

CALLS = {1: experiments.stage1, 2: experiments.stage2}
CLOCKS = ("seconds",)       # ends of the names of variables that differ from run to run


def sample(campaign: str, number: int, seed: int = 0) -> list[Path]:
    """``number`` results of a campaign, of both stages in turn, drawn at random. Raises ResultError if there are none."""
    rng = np.random.default_rng(seed)
    stages = [rng.permutation(results.kept(campaign, f"stage{n}-*.nc")).tolist() for n in (2, 1)]
    found = [stage[k] for k in range(max(map(len, stages))) for stage in stages if k < len(stage)][:number]
    if not found:
        raise ResultError(f"no results of {campaign!r}: run the campaign first, or check its name")
    return found


def again(path: Path) -> xr.Dataset:
    """The result at ``path``, computed anew. Raises ResultError if it does not say what was asked."""
    run = results.read(path)
    if "asked" not in run.attrs:
        raise ResultError(f"{path} does not say what was asked for it, it was made by an older version: make it again")
    asked = json.loads(run.attrs["asked"])
    call = CALLS[asked.pop("stage")]
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(**asked.pop("setup") | {"cache": f"{folder}/cache"})
        # Written and read, as the stored one was.
        return results.read(results.write(call(setup, f"{folder}/run.nc", **asked), f"{folder}/run.nc"))


def compare(stored: xr.Dataset, new: xr.Dataset) -> pd.DataFrame:
    """Per variable and digest how many values there are, how many differ, and by how much at most; clocks are left out."""
    rows = {}
    for name in [v for v in stored.data_vars if not str(v).endswith(CLOCKS)]:
        a, b = stored[name].values, new[name].values if name in new else np.array([])
        if a.shape != b.shape:
            rows[name] = a.size, a.size, np.nan
        else:
            number = a.dtype.kind in "fiub"
            differ = (a != b) & ~(np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else a != b
            rows[name] = a.size, int(differ.sum()), np.abs(a[differ].astype(float) - b[differ]).max(initial=0) if number else np.nan
    texts = [json.loads(run.attrs.get("inputs", "{}")) for run in (stored, new)]
    rows |= {f"input {k}": (1, int(v != texts[1].get(k)), np.nan) for k, v in texts[0].items()}
    return pd.DataFrame(rows, index=["values", "different", "largest difference"]).T.astype({"values": int, "different": int})


def origins(stored: xr.Dataset, new: xr.Dataset) -> pd.DataFrame:
    """Where the two were made otherwise: versions, machine, commit; what they were given is in ``compare``."""
    both = pd.DataFrame({k: json.loads(run.attrs["provenance"]) for k, run in (("stored", stored), ("again", new))})
    return both[(both.stored != both.again) & ~both.index.isin(["start", "seconds"])]


def table(paths: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every run made again and compared: run, variable, values, different, largest difference; ``origins`` of the last one."""
    found = {}
    for path in paths:
        stored, new = results.read(path), again(path)
        found[path.stem] = compare(stored, new)
    return pd.concat(found, names=["run", "variable"]).reset_index(), origins(stored, new)


def verdict(found: pd.DataFrame, paths: list[Path]) -> str:
    """What a ``table`` says, in a sentence."""
    n, bad = int(found["values"].sum()), int(found["different"].sum())
    if not bad:
        return f"**All {n:,} stored values of {len(paths)} runs came out again, to the last bit.**"
    return (f"**{bad:,} of {n:,} stored values of {len(paths)} runs came out otherwise.** On another kind of processor, or with "
            "other versions of the libraries, sums are rounded differently; the origins below say what was different. With "
            "the same origins and inputs a difference is a fault: report it.")
