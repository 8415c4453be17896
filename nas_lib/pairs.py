"""Does what is measured on each stage alone predict how a pair of stages does? (Appendix A.4 of the paper.)

A Stage-1 method has ``alpha``, how well its law samples, and ``beta``, how well its shared weights rank; a Stage-2
method has ``alpha`` and ``beta``, how much it lives on the one and on the other. Everywhere higher is better.
"""

from __future__ import annotations

import numpy as np
import scipy  # loads scipy.stats when it is first used, which takes a second
import xarray as xr

from nas_lib.metrics import SUPERNETS, spearman

LAWS = ("mass", "strictest", "expected_accuracy")
CORRELATIONS = ("spearman", "kendall")
READINGS = ("differences", "baselines")


def ranks(x: xr.DataArray, dim: str) -> xr.DataArray:
    """Ranks of ``x`` within ``dim``: 1 is the largest, equals share their mean rank, NaN stays NaN."""
    return xr.apply_ufunc(lambda v: scipy.stats.rankdata(-v, axis=-1, nan_policy="omit"), x.astype(float),
                          input_core_dims=[[dim]], output_core_dims=[[dim]])


def score(stage1: xr.Dataset, stage2: xr.Dataset) -> xr.DataArray:
    """``ra1 (|ra1 - ra2| + 1) rb1 (|rb1 - rb2| + 1)`` of every pair ``(stage1, stage2, ...)``; low is good.

    ra and rb are the ranks of ``alpha`` and ``beta`` (1 is best) among the methods given, of Stage 1 in ``stage1``
    and of Stage 2 in ``stage2`` (A.4). A pair is NaN where one of the four is unknown.
    """
    a1, b1 = (ranks(stage1[k], "stage1") for k in ("alpha", "beta"))
    a2, b2 = (ranks(stage2[k], "stage2") for k in ("alpha", "beta"))
    found = a1 * (abs(a1 - a2) + 1) * b1 * (abs(b1 - b2) + 1)
    return found.transpose("stage1", "stage2", ...).rename("pair_score")


def stage1_measures(evaluation: xr.Dataset, law: str = "mass", correlation: str = "spearman") -> xr.Dataset:
    """``alpha`` and ``beta`` (stage1) of what ``evaluate_stage1`` returns, means over ``seed``.

    ``law``, which the paper leaves open: "mass", the mean of the sampling mass over all thresholds; "strictest", the
    mass at the first threshold; "expected_accuracy". ``correlation`` of shared-weight with true accuracy: "spearman"
    or "kendall".
    """
    _one_of(law, LAWS), _one_of(correlation, CORRELATIONS)
    mass = evaluation.sampling_mass
    alpha = {"mass": mass.mean("threshold", skipna=False), "strictest": mass.isel(threshold=0, drop=True),
             "expected_accuracy": evaluation.expected_accuracy}[law]
    found = xr.Dataset({"alpha": alpha, "beta": evaluation[correlation]}).mean("seed")
    return found[["alpha", "beta"]].drop_vars("error", errors="ignore")


def stage2_measures(accuracy: xr.DataArray, reading: str = "differences",
                    uniform: str = SUPERNETS["R_U"]) -> xr.Dataset:
    """``alpha`` and ``beta`` (stage2), means over seeds, from accuracies (stage1, stage2, seed) on the standard supernets.

    The paper describes them twice. ``reading="differences"``: alpha = R_I - R_U, beta = R_U - N_U, the reliance on law
    and weights; "baselines": alpha = R_U, beta = R_I. ``uniform`` names the supernet that is R_U. Raises ValueError
    where a supernet is absent.
    """
    _one_of(reading, READINGS)
    name = SUPERNETS | {"R_U": uniform}
    needed = ["R_I", "R_U"] + ["N_U"] * (reading == "differences")
    absent = {name[k] for k in needed} - set(accuracy["stage1"].values.tolist())
    if absent:
        raise ValueError(f"the reading {reading!r} of a pair's score needs {', '.join(sorted(absent))} too")
    on = {k: accuracy.sel(stage1=name[k], drop=True) for k in needed}
    two = ({"alpha": on["R_I"] - on["R_U"], "beta": on["R_U"] - on["N_U"]} if reading == "differences"
           else {"alpha": on["R_U"], "beta": on["R_I"]})
    return xr.Dataset(two).mean("seed")


def variants(evaluation: xr.Dataset, accuracy: xr.DataArray) -> dict[str, xr.DataArray]:
    """The score under every reading of its definition: the paper leaves open which ``law`` and which ``reading``."""
    return {f"{law}, {reading}": score(stage1_measures(evaluation, law), stage2_measures(accuracy, reading))
            for reading in READINGS for law in LAWS}


def agreement(a: xr.DataArray, b: xr.DataArray, level: float = 0.95, resamples: int = 2000,
              seed: int = 0) -> xr.Dataset:
    """``rho``, Spearman's, over the pairs that two tables (stage1, stage2, [seed]) share, with a bootstrap interval.

    ``low`` and ``high`` are percentiles over resamples that draw pairs with replacement and, where a table has a
    dimension ``seed``, its seeds too, one draw for all its pairs; ``n`` counts the pairs. Resamples without an order
    are left out. Raises ValueError for fewer than three pairs.
    """
    known = [c.sortby(["stage1", "stage2"]).stack(pair=("stage1", "stage2"))      # the order must not matter
             for c in xr.align(a, b, join="inner", exclude={"seed"})]
    known = [(c if "seed" in c.dims else c.expand_dims("seed")).transpose("pair", "seed") for c in known]
    both = np.logical_and(*(c.notnull().any("seed").values for c in known))
    values, random = [c.values[both] for c in known], np.random.default_rng(seed)
    n = int(both.sum())
    if n < 3:
        raise ValueError(f"the two tables share {n} pairs: too few to compare their order")
    cells = random.integers(n, size=(resamples, n))
    again = []
    for v in values:                                        # pair, seed
        seeds = random.integers(v.shape[1], size=(resamples, v.shape[1]))
        drawn = v[cells[:, :, None], seeds[:, None, :]]      # resample, pair, seed
        again.append(xr.DataArray(_mean(drawn), dims=("resample", "pair")))
    plain = [xr.DataArray(_mean(v), dims="pair") for v in values]
    low, high = np.nanquantile(spearman(*again, dim="pair"), [(1 - level) / 2, (1 + level) / 2])
    return xr.Dataset({"rho": spearman(*plain, dim="pair"), "low": low, "high": high, "n": n})


def interval(found: xr.Dataset) -> str:
    """An ``agreement`` as text, "0.78 (0.52 to 0.88)"."""
    return f"{found.rho:.2f} ({found.low:.2f} to {found.high:.2f})"


def _mean(values):
    """Mean over the last axis of what is known."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(-1) / known.sum(-1)


def _one_of(given, known):
    if given not in known:
        raise ValueError(f"unknown choice {given!r}: one of {', '.join(known)}")
