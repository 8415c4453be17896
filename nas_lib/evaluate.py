"""The two evaluations: joined runs of one data set in, measures on named dimensions out.

Stage 1 is judged by its scores, its law and the truth alone, Stage 2 by what it gains on four standard
supernets. This is where the benchmark meets the runs.
"""

from __future__ import annotations

import time

import numpy as np
import xarray as xr

from nas_lib import metrics, published, results
from nas_lib.claims import SPACES, space_of

SHOWN = ("probs", "train_loss", "train_accuracy", "valid_accuracy")     # of Stage 1, as it is


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


def score_map(score: xr.DataArray, truth: xr.DataArray, bins: int = 30) -> xr.Dataset:
    """Where the architectures lie between score and truth: ``count (stage1, score_bin, truth_bin)``, all seeds.

    ``score ([stage1,] [seed,] arch)`` and ``truth (arch)`` in percent. Bins are of one width, from the lowest to the
    highest value: ``score_range (stage1, end)``, ``truth_range (end)``. The lowest 3 % of the truth share the first
    bin: a few cells that cannot learn would squeeze the rest. With ``spearman (stage1, seed)``.
    """
    for dim in ("seed", "stage1"):
        score = score if dim in score.dims else score.expand_dims(dim)
    x = np.maximum(truth, truth.quantile(0.03, "arch")).values
    ends, counts, ranges = [x.min(), x.max()], [], []
    for name in score.stage1.values:
        y = score.sel(stage1=name).transpose("seed", "arch").values
        known = np.isfinite(y)
        ranges.append([y[known].min(), y[known].max()] if known.any() else [np.nan, np.nan])
        pairs = y[known], np.broadcast_to(x, y.shape)[known]
        counts.append(np.histogram2d(*pairs, bins)[0] if known.any() else np.zeros((bins, bins)))
    return xr.Dataset({"count": (("stage1", "score_bin", "truth_bin"), np.int32(counts)),
                       "score_range": (("stage1", "end"), ranges), "truth_range": ("end", ends),
                       "spearman": metrics.spearman(score, truth)}, {"stage1": score.stage1})


def evaluate_stage2(runs: xr.Dataset) -> xr.Dataset:
    """``accuracy`` (stage1, stage2, seed) of what was selected, and ``reliance`` (difference, stage2, seed)."""
    return xr.Dataset({"accuracy": runs["accuracy"], "reliance": metrics.reliance(runs["accuracy"])})


def summary(stage1: xr.Dataset, stage2: xr.Dataset, truth: xr.DataArray) -> xr.Dataset:
    """Everything measured on one campaign, small enough to be kept beside the report; ``(stage1, stage2, seed)``.

    The joined runs of both stages on one data set in; out come ``evaluate_stage1``, the accuracies and ties of
    what was selected, the ``best`` of the space, ``score_map``, the laws and the course of the trainings, and, where the four baselines are
    among the runs, their reliance. Raises ValueError for several data sets.
    """
    started = time.time()
    one, two = (runs.squeeze("dataset") for runs in (stage1, stage2))
    if "score" not in one:
        one = one.assign(score=xr.full_like(one.log_prob, np.nan))
    measured = evaluate_stage1(one, truth).assign(accuracy=two.accuracy, choice_ties=two.ties)
    measured = measured.assign(score_map(one.score, truth)).assign(best=truth.max())
    measured = measured.assign({k: one[k] for k in SHOWN if k in one})
    if set(metrics.SUPERNETS.values()) <= set(two.stage1.values.tolist()):
        measured["reliance"] = metrics.reliance(two.accuracy)
    kept = {k: results.said(one, k) for k in ("scale", "training", "protocol", "bn", "images") if k in one or k in one.attrs}
    return measured.assign_attrs(kept, provenance=results.provenance(started, "cpu"))


def trained(stage2: xr.Dataset, finals: list[xr.Dataset]) -> xr.Dataset:
    """Test errors where cells must be trained to know them: ``last``, ``best`` (stage1, stage2, seed, train_seed).

    In percent, after the last epoch and at the best one; with ``genotype``, ``params`` and ``ties`` (stage1, stage2, seed). The joined
    runs of Stage 2 on one data set in, and one result of ``experiments.final`` for each choice.
    """
    started = time.time()
    keys = ["stage1", "stage2", "seed"]
    cells = xr.merge([run[["last", "best", "params"]].assign(genotype=run.genotype).expand_dims(keys) for run in finals],
                     join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
    cells = cells.assign(genotype=cells.genotype.fillna("").astype(str), ties=stage2.squeeze("dataset", drop=True).ties)
    kept = {k: results.said(stage2, k) for k in ("scale", "training", "protocol")}
    return cells.drop_attrs().assign_attrs(kept, final=finals[0].final, provenance=results.provenance(started, "cpu"))


def test_errors(summaries: list[xr.Dataset], which: str = "last") -> xr.DataArray:
    """Errors (space, stage1, stage2, seed) in percent of what was chosen, from a campaign's summaries of several spaces.

    Read off the truth table, or ``which`` error of the trained cells, the mean over training seeds; a space has its name
    from ``claims.space_of``. Methods of Stage 2 stand in the order of the printed tables, others behind them.
    """
    found = {}
    for summary in summaries:
        error = 100 - summary.accuracy if "accuracy" in summary else summary[which].mean("train_seed")
        found[space_of(summary.dataset.item())] = error.drop_vars("dataset")
    joined = xr.concat(found.values(), xr.Variable("space", list(found)), join="outer").rename("error")
    return joined.sel(stage2=sorted(joined.stage2.values, key=[*published.STAGE2, *joined.stage2.values].index))


def chosen(summaries: list[xr.Dataset]) -> dict[str, str]:
    """The trained cells of a campaign by space, stages, seed and mean last error, in the order of the tables."""
    found = {}
    for summary in summaries:
        space, last = SPACES[space_of(summary.dataset.item())], summary["last"].mean("train_seed")
        for (one, two, seed), text in summary.genotype.stack(run=last.dims).to_series().items():
            if text:
                error = last.sel(stage1=one, stage2=two, seed=seed).item()
                found[f"{space}: {one} with {two}, seed {seed}: {error:.1f} %"] = text
    return found


def noise(summaries: list[xr.Dataset]) -> float:
    """Standard deviation of the difference of two trained entries of a table, by training seeds alone, in points.

    An entry is the mean of k last errors; their variance s^2 is pooled over all cells: ``s sqrt(2 / k)``.
    """
    last = [s["last"].stack(cell=("stage1", "stage2", "seed")).dropna("cell") for s in summaries]
    variance = np.concatenate([one.var("train_seed", ddof=1).values for one in last])
    return float(np.sqrt(variance.mean() * 2 / last[0].sizes["train_seed"]))


def load_summary(campaign: str, dataset: str = "digits") -> xr.Dataset:
    """The summary of a campaign: that of its own runs, or else the one that the book keeps.

    Raises ResultError, naming what is missing, if there is neither.
    """
    return results.read_kept(campaign, f"summary-{dataset}.nc")


def load_summaries(campaign: str) -> list[xr.Dataset]:
    """All summaries of a campaign, NAS-Bench-201 first; where they are as ``load_summary`` says. Raises as that does."""
    paths = results.kept(campaign, "summary-*.nc")
    return [results.read(p) for p in paths] if paths else [load_summary(campaign, "*")]
