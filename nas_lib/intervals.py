"""How sure is a number: Stage 2 drawn again, intervals over seeds and draws, differences seed by seed. No torch, no files.

Seeds are few. A percentile interval over three of them is too narrow (``coverage`` says by how much), so it says where a
difference is certainly not shown, rather than where it is.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from nas_lib.sampling import draw


def replay(score, log_prob, truth, n: int = 100, draws: int = 1000, seed: int = 0) -> xr.DataArray:
    """Test accuracy of the best by ``score`` among ``n`` candidates drawn from the law, again and again.

    ``-> [..., draw]``: Stage 2 replayed from stored scores. The first drawn wins among equals, a missing score is
    passed over (NaN where a draw has no score at all). All runs are drawn with the same random numbers.
    """
    def selected(s, logs, t):
        drawn = draw(logs, draws * n, seed).reshape(draws, n)
        best = np.take_along_axis(drawn, np.argmax(np.where(np.isnan(s), -np.inf, s)[drawn], 1)[:, None], 1)[:, 0]
        return np.where(np.isnan(s[drawn]).all(1), np.nan, t[best])
    runs = xr.apply_ufunc(selected, *(a.astype(float) for a in (score, log_prob, truth)), join="exact",
                          vectorize=True, input_core_dims=[["arch"]] * 3, output_core_dims=[["draw"]])
    return runs.assign_coords(draw=range(draws)).rename("replayed_accuracy")


def confidence(x, dim: str = "seed", level: float = 0.95, resamples: int = 2000, seed: int = 0) -> xr.DataArray:
    """Bootstrap interval ``[..., bound]`` (low, high) of the mean over ``dim``, by percentiles.

    Missing values are left out of every mean. With a handful of seeds it is too narrow: give n beside it.
    """
    def interval(values):
        n, known = values.shape[-1], ~np.isnan(values)
        times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).T   # n, resample
        total, count = np.where(known, values, 0.0) @ times, known @ times
        return _percentiles(np.where(count > 0, total / np.maximum(count, 1), np.nan), level)
    result = xr.apply_ufunc(interval, x.astype(float), input_core_dims=[[dim]], output_core_dims=[["bound"]])
    return result.assign_coords(bound=["low", "high"]).rename("confidence")


def redraw(score, accuracy, draws: int = 1000, seed: int = 0) -> xr.DataArray:
    """Accuracy of the best by ``score`` when as many candidates are drawn, again and again, from the candidates there were.

    ``score [..., candidate]`` and ``accuracy [..., candidate]`` -> ``[..., draw]``: the bootstrap over candidates. The first
    of the candidates wins among equals; NaN where a score is missing. All runs use the same random numbers.
    """
    def selected(s, a):
        n = s.shape[-1]
        drawn = np.sort(np.random.default_rng(seed).integers(n, size=(draws, n)), -1)       # the first stays first
        best = np.take_along_axis(drawn, np.argmax(s[drawn], -1)[:, None], -1)[:, 0]
        return np.where(np.isnan(s).any(), np.nan, a[best])
    found = xr.apply_ufunc(selected, score.astype(float), accuracy.astype(float), join="exact", vectorize=True,
                           input_core_dims=[["candidate"]] * 2, output_core_dims=[["draw"]])
    return found.assign_coords(draw=range(draws)).rename("redrawn_accuracy")


def interval(x, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> xr.DataArray:
    """Bootstrap interval ``[..., bound]`` of the mean over ``seed`` where each seed has one draw of ``x [..., seed, draw]``.

    A resample draws seeds with replacement and for each of them one draw: what the mean of a table could as well have been.
    Missing runs are left out. All of ``[...]`` share the random numbers.
    """
    def bounds(values):
        n, m = values.shape[-2:]
        rng = np.random.default_rng(seed)
        seeds, draws = rng.integers(n, size=(resamples, n)), rng.integers(m, size=(resamples, n))
        return _percentiles(_mean(values[..., seeds, draws]), level)
    found = xr.apply_ufunc(bounds, x.astype(float), input_core_dims=[["seed", "draw"]], output_core_dims=[["bound"]])
    return found.assign_coords(bound=["low", "high"]).rename("interval")


def paired(x, reference: str, dim: str) -> xr.DataArray:
    """``x`` less its value at ``reference`` of ``dim``, seed by seed, without the reference itself."""
    return (x - x.sel({dim: reference}, drop=True)).drop_sel({dim: reference}).rename("difference")


def coverage(n: int, level: float = 0.95, trials: int = 2000, seed: int = 0) -> float:
    """How often ``confidence`` over ``n`` normal values holds their true mean; it should be ``level``."""
    values = xr.DataArray(np.random.default_rng(seed).normal(size=(trials, n)), dims=("trial", "seed"))
    found = confidence(values, level=level, seed=seed)
    return float(((found.sel(bound="low") <= 0) & (found.sel(bound="high") >= 0)).mean())


def _percentiles(again, level):
    """The middle ``level`` of the last axis, ``[..., 2]``; NaN where nothing is known."""
    known = np.isfinite(again).any(-1)
    tails = np.nanpercentile(np.where(known[..., None], again, 0.0), [50 * (1 - level), 50 * (1 + level)], axis=-1)
    return np.where(known[..., None], np.moveaxis(tails, 0, -1), np.nan)


def _mean(values):
    """Mean over the last axis of what is known; NaN where that is nothing."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(-1) / np.maximum(count, 1), np.nan)
