"""The two evaluations: joined runs of one data set in, measures on named dimensions out.

Stage 1 is judged by its scores, its law and the truth alone, Stage 2 by what it gains on four standard
supernets. This is where the benchmark meets the runs.
"""

from __future__ import annotations

import xarray as xr

from nas_lib import metrics


def evaluate_stage1(runs: xr.Dataset, truth: xr.DataArray) -> xr.Dataset:
    """Measures of Stage 1 from ``runs`` (stage1, seed, arch) and ``truth`` (arch): see ``metrics``.

    ``top_identification`` and ``sampling_mass`` (stage1, seed, threshold), ``random`` (threshold); the others
    (stage1, seed). A run without scores has NaN in what depends on them.
    """
    score, law = runs["score"], runs["log_prob"]
    return xr.Dataset({
        "top_identification": metrics.top_identification(score, truth),
        "sampling_mass": metrics.sampling_mass(law, truth),
        "random": metrics.random_baseline(truth),
        "spearman": metrics.spearman(score, truth),
        "kendall": metrics.kendall(score, truth),
        "distinct": metrics.distinct(score),
        "chance_share": metrics.chance_share(score, 100 / truth.attrs["classes"]),
        "ties": metrics.ties_at_best(score),
        "expected_accuracy": metrics.expected_accuracy(law, truth),
        "entropy": metrics.entropy(law),
    })


def evaluate_stage2(runs: xr.Dataset) -> xr.Dataset:
    """``accuracy`` (stage1, stage2, seed) of what was selected, and ``reliance`` (difference, stage2, seed)."""
    return xr.Dataset({"accuracy": runs["accuracy"], "reliance": metrics.reliance(runs["accuracy"])})
