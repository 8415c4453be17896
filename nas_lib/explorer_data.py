"""What the explorer shows: runs, laws over their training and regions of the space, packed for a browser.

Scores travel as texts, some characters in base 36 to an architecture, in the order of the number whose digits in base 5 are its
operations, so that the browser can read the operations off the number.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from nas_lib import benchmark, metrics, results
from nas_lib.marks import tidy
from nas_lib.spaces import NB201

DIGITS = np.array(list("0123456789abcdefghijklmnopqrstuvwxyz"))
OPS, LINKS = len(NB201.ops), len(NB201.edges)
EDGES = [f"{t} ← {s}" for t, s in NB201.edges]
EPOCHS = 31     # of a training's course at most; more could not be told apart
LOWEST = 0.03   # share of the truth that is drawn at one value: a few cells that cannot learn would squeeze the rest


def load(campaign: str, first: str) -> tuple[dict[str, xr.Dataset], dict[str, xr.DataArray]]:
    """The joined Stage-1 runs of a campaign, and the truth, of every data set on which it scored all architectures.

    The data set ``first`` comes first. Raises ValueError if there is none.
    """
    summaries = map(results.read, results.kept(campaign, "summary-*.nc"))
    names = sorted((s.dataset.item() for s in summaries if "best" in s), key=lambda n: (n != first, n))
    joined = {n: results.runs(campaign, 1, n) for n in names}
    scored = {n: one for n, one in joined.items() if "score" in one}
    if not scored:
        raise ValueError(f"campaign {campaign} has no scores to explore: run it with images that score the space")
    return scored, {n: benchmark.truth(n) for n in scored}


def shares(archs) -> xr.DataArray:
    """Share of every operation on every edge among ``archs [n, edge]``, ``(edge, op)``; in the whole space each is 1/O."""
    counts = (np.asarray(archs)[..., None] == np.arange(OPS)).mean(0)
    return xr.DataArray(counts, dims=("edge", "op"), coords={"edge": EDGES, "op": list(NB201.ops)})


def best_of(score: xr.DataArray, truth: xr.DataArray, region: dict, count: int = 8) -> pd.DataFrame:
    """The truly best cells of a ``region``, ``{"shown": [low, high], "score": [low, high]}``; an empty one is the whole space."""
    table = pd.DataFrame({"cell": truth.arch.values, "true (%)": truth.values, "shared weights (%)": score.values})
    shown = {"shown": np.maximum(truth, truth.quantile(LOWEST)).values, "score": score.values}
    for name, (low, high) in region.items():
        table = table[(shown[name][table.index] >= low) & (shown[name][table.index] <= high)]
    return table.nlargest(count, "true (%)").round(2)


def runs(scored: dict[str, xr.Dataset], truths: dict[str, xr.DataArray]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every scored run (a row of dataset, stage1, seed, packed score, law), and the truth of every data set.

    ``scored`` holds the joined Stage-1 runs of each data set, ``truths`` its true accuracies (arch) in percent. ``law`` is
    the probability of each operation on each edge, edge by edge; None where a law does not factorise.
    """
    rows, cells = [], []
    for name, one in scored.items():
        truth, one = tidy(truths[name]), tidy(one)
        rank = pd.Series(-truth.values).rank(method="min")
        cells.append({"dataset": name, "truth": packed(truth, 0.01, 3), "rank": packed(rank, 1, 3),
                      "floor": round(truth.quantile(LOWEST).item(), 2)})
        for method in one.stage1.values.tolist():
            for seed in one.seed.values.tolist():
                run = one.sel(stage1=method, seed=seed)
                if run.score.isnull().any():
                    continue
                law = run.probs.transpose("edge", "op").values.ravel() if "probs" in run else np.array([np.nan])
                rows.append({"dataset": name, "stage1": method, "seed": seed, "score": packed(run.score, 0.1, 2),
                             "law": law.round(4).tolist() if np.isfinite(law).all() else None})
    return pd.DataFrame(rows), pd.DataFrame(cells)


def course(stage1: dict[str, xr.Dataset], truths: dict[str, xr.DataArray]) -> pd.DataFrame:
    """The law of every run that has one, over its training: lists over ``epoch``, a row per run.

    ``probs``: those of all operations on all edges, edge by edge; ``best``: probability of drawing one of the first group of
    25, the truly best; ``expected``: expected true accuracy (%). At most 31 epochs, evenly chosen. The law is that of
    independent edges with these probabilities.
    """
    rows = []
    for name, one in stage1.items():
        truth = tidy(truths[name])
        for (method, seed), run in tidy(one).probs_history.stack(run=("stage1", "seed")).groupby("run"):
            run = run.squeeze("run").dropna("epoch")
            run = run.isel(epoch=np.unique(np.linspace(0, run.sizes["epoch"] - 1, EPOCHS).astype(int))) if run.size else run
            if not run.size or not (abs(run - 1 / OPS) > 1e-3).any():
                continue
            logs = run.transpose("epoch", "edge", "op")
            logs = xr.DataArray(NB201.log_prob(logs / logs.sum("op")), dims=("epoch", "arch"), coords={"arch": NB201.strings})
            mass = metrics.sampling_mass(logs, truth).isel(threshold=0)
            rows.append({"dataset": name, "stage1": method, "seed": int(seed), "epoch": (run.epoch.values + 1).tolist(),
                         "best": mass.values.round(4).tolist(),
                         "expected": metrics.expected_accuracy(logs, truth).values.round(2).tolist(),
                         "probs": run.transpose("edge", "op", "epoch").values.reshape(LINKS * OPS, -1).round(3).tolist()})
    return pd.DataFrame(rows)


def order() -> np.ndarray:
    """Benchmark index of the architecture that has each number: its operations are the digits in base 5, ``[arch]``."""
    return NB201.index(np.arange(len(NB201))[:, None] // OPS ** np.arange(LINKS)[::-1] % OPS)


def packed(values, unit: float, digits: int) -> str:
    """``values [arch]``, in benchmark order, in whole ``unit``s: a fixed number of base-36 digits to each.

    Raises ValueError for a value that does not fit, or is missing.
    """
    number = np.rint(np.asarray(values, dtype=float)[order()] / unit)
    if not (0 <= number.min() and number.max() < 36**digits):
        raise ValueError(f"values from {np.min(values)} to {np.max(values)} do not fit {digits} digits in units of {unit}")
    return "".join(DIGITS[number.astype(int)[:, None] // 36 ** np.arange(digits)[::-1] % 36].ravel())


def unpacked(field: str, unit: float, digits: int) -> str:
    """The expression that undoes ``packed`` for ``datum.i``."""
    return f"parseInt(substring(datum.{field}, {digits} * datum.i, {digits} * datum.i + {digits}), 36) * {unit}"
