"""What is measured: pure functions on DataArrays with named dimensions. No torch, no files.

Each function reduces over ``arch`` and keeps the other dimensions (dataset, stage1, seed, ...).
``score`` is any prediction with larger = better, ``truth`` the test accuracy in percent, ``log_prob``
the law over architectures.

Missing values: a measure of the whole space is NaN where any architecture is missing; correlations and
the health of a score (distinct, chance_share, ties_at_best) use the architectures that are known.

Ties: those in the truth go to the worse group, as published. Those in the score follow ``ties``:
``"worse"`` is the published rule, under which few distinct values fall below random; ``"random"`` is the
expectation, in closed form, over all orders of the tied, so that a constant lands on the random baseline.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy  # loads scipy.stats when it is first used, which takes a second
import xarray as xr

GROUPS = 25
SUPERNETS = {"N_U": "none", "N_I": "none+", "R_U": "rsps", "R_I": "rsps+"}
DIFFERENCES = (("N_I", "N_U"), ("R_I", "R_U"), ("R_U", "N_U"), ("R_I", "N_I"))


def thresholds(err, groups: int = GROUPS) -> xr.DataArray:
    """Test-error thresholds ``t_{k+1} = sorted(err)[N (k+1) // groups]``, k = 0..groups-2.

    ``err [arch, ...]`` in percent -> ``[..., threshold]``. Raises ValueError if N < groups.
    """
    places = _bounds(err.sizes["arch"], groups)
    return _over_arch(lambda e: np.sort(e)[..., places] + _nan_if_any_missing(e), [err],
                      threshold=range(groups - 1)).rename("error")


def groups(err, groups: int = GROUPS, ties: str = "worse", seed: int = 0) -> xr.DataArray:
    """Group 0 (best) .. groups-1 of every architecture: ``g_i = #{k : t_k <= err_i}``.

    ``ties="worse"``: equal to a threshold means beyond it. ``ties="random"``: groups of one size, ties in
    an order drawn from ``seed``; one draw for all runs, so that no run depends on its company.
    """
    bounds = _bounds(err.sizes["arch"], groups)
    order = np.random.default_rng(seed).permutation(err.sizes["arch"])

    def assign(e):
        if _checked(ties) == "worse":
            rank = _ranks(e, "max")
        else:
            rank = np.empty(e.shape)
            rank[..., order] = _ranks(e[..., order], "first")
        return np.searchsorted(bounds, rank) + _nan_if_any_missing(e)
    return _over_arch(assign, [err], keep=True).rename("group")


def top_identification(score, truth, ties: str = "random", groups: int = GROUPS) -> xr.DataArray:
    """Share of the truly best architectures that are predicted to be among the best.

    ``TopID_k = #{i : g_i <= k and h_i <= k} / n_k``, ``n_k = #{i : g_i <= k}``; g are groups of the truth, h
    of the score: by its own thresholds with ``ties="worse"``, the n_k best by rank with ``"random"``.
    ``-> [..., threshold]``, k = 0..groups-2, with the coordinate ``error`` = t_{k+1} in percent.
    NaN where ties in the truth leave the group empty.
    """
    bounds, method = _bounds(score.sizes["arch"], groups), _checked(ties)

    def rate(s, e):
        best, low, high = _rank(e)[1], *_rank(-s)
        rates = []
        for bound in bounds:  # one threshold at a time: all at once would need 24 copies of the runs
            true = best <= bound
            n = true.sum(-1, keepdims=True)
            chosen = high <= bound if method == "worse" else _inside(low, high, n)
            rates.append(_ratio((true * chosen).sum(-1), n[..., 0]))
        return np.stack(np.broadcast_arrays(*rates), -1) + _nan_if_any_missing(s, e)
    return _per_threshold(rate, [score], truth, groups, "top_identification")


def sampling_mass(log_prob, truth, groups: int = GROUPS) -> xr.DataArray:
    """Probability that the law draws one of the truly best: ``Mass_k = sum_{i : g_i <= k} p_i``.

    ``-> [..., threshold]`` with the coordinate ``error``, as in ``top_identification``.
    """
    bounds = _bounds(log_prob.sizes["arch"], groups)

    def mass(logs, e):
        p, best = np.exp(logs), _rank(e)[1]
        return np.stack([(p * (best <= b)).sum(-1) for b in bounds], -1) + _nan_if_any_missing(logs, e)
    return _per_threshold(mass, [log_prob], truth, groups, "sampling_mass")


def random_baseline(truth, groups: int = GROUPS) -> xr.DataArray:
    """``Random_k = n_k / N``: both curves for a score or a law that knows nothing; ``[..., threshold]``."""
    uniform = xr.zeros_like(truth, dtype=float) - np.log(truth.sizes["arch"])
    return sampling_mass(uniform, truth, groups).rename("random")


def reliance(accuracy, uniform: str = SUPERNETS["R_U"]) -> xr.DataArray:
    """Gain in test accuracy, in points, from a better law or from trained weights; run by run.

    ``accuracy [stage1, ...]`` of the selected architectures on the supernets none (N_U), none+ (N_I),
    rsps (R_U), rsps+ (R_I) -> ``[difference, ...]``: N_I-N_U and R_I-R_U are the reliance on the law,
    R_U-N_U and R_I-N_I that on shared weights. ``uniform`` names the supernet that is R_U: the paper's text has
    rsps, its published list of results rsps2 (D7). Raises ValueError if one of the four is absent.
    """
    supernets = SUPERNETS | {"R_U": uniform}
    absent = set(supernets.values()) - set(accuracy["stage1"].values.tolist())
    if absent:
        raise ValueError(f"reliance needs {', '.join(supernets.values())}: run {', '.join(sorted(absent))} too")
    on = {k: accuracy.sel(stage1=v, drop=True) for k, v in supernets.items()}
    names = xr.Variable("difference", [f"{a}-{b}" for a, b in DIFFERENCES])
    return xr.concat([on[a] - on[b] for a, b in DIFFERENCES], dim=names).rename("reliance")


def spearman(a, b, dim: str = "arch") -> xr.DataArray:
    """Spearman's rho: Pearson correlation of average ranks. NaN, not 0, where one side is constant."""
    def rho(x, y):
        gap = np.where(np.isnan(x) | np.isnan(y), np.nan, 0.0)
        x, y = (_ranks(v + gap, "average") for v in (x, y))
        known = np.maximum((~np.isnan(x)).sum(-1, keepdims=True), 1)
        x, y = (np.nan_to_num(v - np.nansum(v, -1, keepdims=True) / known) for v in (x, y))
        return _ratio((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))
    return _over_arch(rho, [a, b], dim=dim).rename("spearman")


def kendall(a, b, dim: str = "arch") -> xr.DataArray:
    """Kendall's tau-b, which discounts ties. NaN, not 0, where one side is constant."""
    def tau(x, y):
        known = ~(np.isnan(x) | np.isnan(y))
        return scipy.stats.kendalltau(x[known], y[known]).statistic if known.sum() > 1 else np.nan
    return _over_arch(np.vectorize(tau, signature="(n),(n)->()"), [a, b], dim=dim).rename("kendall")


def sparse_kendall(score, truth, step: float = 0.1, dim: str = "arch") -> xr.DataArray:
    """Kendall's tau after rounding the truth to whole ``step``s, so that its noise orders nothing (Yu et al., 2020)."""
    return kendall(score, (truth / step).round(), dim).rename("sparse_kendall")


def distinct(score) -> xr.DataArray:
    """Number of distinct values of a score; 1 means that it cannot rank."""
    def count(s):
        s = np.sort(s)  # missing values come last
        steps = (s[..., 1:] > s[..., :-1]).sum(-1)
        return np.where(np.isnan(s[..., 0]), np.nan, steps + 1.0)
    return _over_arch(count, [score]).rename("distinct")


def chance_share(score, chance, within: float = 1.0) -> xr.DataArray:
    """Share of the architectures whose accuracy is within ``within`` points of ``chance`` (percent)."""
    return (abs(score - chance) <= within).where(score.notnull()).mean("arch").rename("chance_share")


def ties_at_best(score) -> xr.DataArray:
    """Number of architectures that share the best score: 1 is a clear winner."""
    best = score.max("arch")
    return (score == best).sum("arch").where(best.notnull()).rename("ties")


def regret(accuracy, truth) -> xr.DataArray:
    """Points lost to the best architecture: ``max(truth) - accuracy`` of the selected one."""
    return (truth.max("arch", skipna=False) - accuracy).rename("regret")


def expected_accuracy(log_prob, truth) -> xr.DataArray:
    """Mean test accuracy of an architecture drawn from the law, ``sum_i p_i truth_i``, in percent."""
    mean = _over_arch(lambda logs, t: (np.exp(logs) * t).sum(-1), [log_prob, truth])
    return mean.rename("expected_accuracy")


def entropy(log_prob) -> xr.DataArray:
    """``-sum_i p_i log p_i`` in nats, from 0 (one architecture) to log N (uniform)."""
    return _over_arch(lambda logs: scipy.special.entr(np.exp(logs)).sum(-1), [log_prob]).rename("entropy")


def precision_at(score, truth, k: int) -> xr.DataArray:
    """P@k: share of the predicted top k that is as good as the true k-th best (score ties: expectation)."""
    def share(s, t):
        hits = _inside(*_rank(-s), k) * (_rank(-t)[0] < k)
        return hits.sum(-1) / k + _nan_if_any_missing(s, t)[..., 0]
    return _over_arch(share, [score, truth]).rename("precision")


def best_rank_at(score, truth, k: int) -> xr.DataArray:
    """BR@k (Ning et al., 2021): best true rank, divided by N, among the predicted top k.

    Score ties: expectation over draws of the j places left from the b architectures tied for them, where
    c of these are all missed with probability C(b-c, j) / C(b, j).
    """
    def best(s, t):
        s, t = np.broadcast_arrays(s, t)
        order = np.argsort(-t, axis=-1, kind="stable")
        rank = np.take_along_axis(_rank(-t)[0], order, -1) + 1
        low, high = (np.take_along_axis(r, order, -1) for r in _rank(-s))
        tied = (low < k) & (high > k)
        b, j = tied.sum(-1, keepdims=True), k - (high <= k).sum(-1, keepdims=True)
        left, log = b - np.cumsum(tied, -1), scipy.special.gammaln
        with np.errstate(invalid="ignore"):  # only where an architecture is missing
            missed = np.exp(log(left + 1) - log(left - j + 1) - log(b + 1) + log(b - j + 1))
        missed = np.where(np.cumsum(high <= k, -1) > 0, 0.0, missed)
        first = -np.diff(missed, axis=-1, prepend=1.0)  # probability that the first hit is here
        return (first * rank).sum(-1) / s.shape[-1] + _nan_if_any_missing(s, t)[..., 0]
    return _over_arch(best, [score, truth]).rename("best_rank")


def mean_std(x, dim: str = "seed") -> xr.Dataset:
    """``mean``, population deviation ``std`` (ddof 0, as published) and count ``n`` of what is known."""
    return xr.Dataset({"mean": x.mean(dim), "std": x.std(dim, ddof=0), "n": x.count(dim)})


def _per_threshold(function, arrays, truth, groups, name):
    err = 100.0 - truth
    curve = _over_arch(function, [*arrays, err], threshold=range(groups - 1))
    return curve.assign_coords(error=thresholds(err, groups)).rename(name)


def _over_arch(function, arrays, dim="arch", keep=False, threshold=None):
    """Apply ``function`` to float64 arrays whose last axis is ``dim``; labels must agree exactly."""
    out = [dim] if keep else [] if threshold is None else ["threshold"]
    result = xr.apply_ufunc(function, *(a.astype(float) for a in arrays), join="exact",
                            input_core_dims=[[dim]] * len(arrays), output_core_dims=[out])
    return result if threshold is None else result.assign_coords(threshold=list(threshold))


def _bounds(n, groups):
    if n < groups:
        raise ValueError(f"{groups} groups need at least {groups} architectures, got {n}: set groups lower")
    return n * np.arange(1, groups) // groups


def _ranks(x, method):
    """Ranks from 1 within the last axis, ties by ``method``; what is missing stays so."""
    flat = pd.DataFrame(np.reshape(x, (-1, np.shape(x)[-1])).T)
    return flat.rank(method=method).to_numpy().T.reshape(np.shape(x))


def _rank(x):
    """How many values are smaller than each, and how many are not larger: ``(low, high) [..., arch]``."""
    return _ranks(x, "min") - 1, _ranks(x, "max")


def _inside(low, high, n):
    """Probability of being among the first n when ties are broken at random."""
    return np.clip((n - low) / (high - low), 0.0, 1.0)


def _ratio(a, b):
    return np.divide(a, b, out=np.full(np.broadcast_shapes(np.shape(a), np.shape(b)), np.nan), where=b != 0)


def _nan_if_any_missing(*arrays):
    """0, or NaN where one of the arrays misses an architecture; ``[..., 1]``."""
    return sum(np.where(np.isnan(a).any(-1, keepdims=True), np.nan, 0.0) for a in arrays)


def _checked(ties):
    if ties not in ("worse", "random"):
        raise ValueError(f"unknown tie rule {ties!r}: worse or random")
    return ties
