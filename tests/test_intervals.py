"""Intervals and repeated draws: against literal loops, and against what theory says."""

import math

import numpy as np
import pytest
import xarray as xr

from nas_lib import intervals, sampling

RNG = np.random.default_rng(0)


def arch(*values):
    return xr.DataArray(np.array(values, dtype=float), dims="arch")


def runs(values, *dims):
    return xr.DataArray(np.asarray(values), dims=dims)


def tied(n, levels, shape=()):
    """Accuracies on a coarse grid, so that many architectures share a value."""
    return RNG.integers(0, levels, size=(*shape, n)) * (100.0 / levels)


def test_replay_is_a_loop_over_draws():
    """Against ``draw`` and a literal search for the first best; ties and missing scores among the candidates."""
    score, truth, p = RNG.integers(0, 4, 30).astype(float), RNG.permutation(30).astype(float), RNG.dirichlet(np.ones(30))
    score[:5] = np.nan
    found = intervals.replay(arch(*score), arch(*np.log(p)), arch(*truth), n=4, draws=200, seed=7)
    drawn, expected = sampling.draw(np.log(p), 800, seed=7).reshape(200, 4), []
    for candidates in drawn:
        known = [i for i in candidates if not math.isnan(score[i])]
        expected.append(truth[max(known, key=lambda i: score[i])] if known else math.nan)
    assert found.dims == ("draw",)
    np.testing.assert_array_equal(found, expected)


def test_replay_of_many_runs_uses_the_same_numbers_for_each():
    score, logs, truth = tied(50, 7, (2, 3)), np.log(RNG.dirichlet(np.ones(50), 2)), RNG.permutation(50).astype(float)
    both = intervals.replay(runs(score, "stage1", "seed", "arch"), runs(logs, "stage1", "arch"), arch(*truth), 5, 40)
    assert both.dims == ("stage1", "seed", "draw")
    one = intervals.replay(arch(*score[1, 2]), arch(*logs[1]), arch(*truth), 5, 40)
    np.testing.assert_array_equal(both[1, 2], one)
    perfect = intervals.replay(arch(*truth), arch(*logs[1]), arch(*truth), 5, 2000).mean()
    p = np.exp(logs[1])[np.argsort(truth)]
    assert perfect == pytest.approx(np.diff(np.cumsum(p) ** 5, prepend=0) @ np.arange(50), abs=0.5)


def test_confidence_is_the_bootstrap_of_the_mean():
    x = RNG.normal(3, 2, (2, 400))
    bounds = intervals.confidence(runs(x, "stage1", "seed"))
    half = 1.96 * x.std(1) / math.sqrt(400)
    np.testing.assert_allclose(bounds, np.stack([x.mean(1) - half, x.mean(1) + half], 1), atol=0.03)
    narrow = intervals.confidence(runs(x, "stage1", "seed"), level=0.5)
    np.testing.assert_allclose(narrow.diff("bound")[:, 0] / bounds.diff("bound")[:, 0], 0.6745 / 1.96, rtol=0.1)
    x[1, 10:] = np.nan
    known = intervals.confidence(runs(x[1, :10], "seed"))
    np.testing.assert_allclose(intervals.confidence(runs(x, "stage1", "seed"))[1], known, atol=0.25)
    assert intervals.confidence(runs([5.0, 5.0], "seed")).sel(bound="low") == 5


def test_redraw_is_a_loop_over_resamples_of_the_candidates():
    score, accuracy = RNG.integers(0, 5, 20).astype(float), RNG.permutation(20).astype(float)
    found = intervals.redraw(runs(score, "candidate"), runs(accuracy, "candidate"), draws=50, seed=3)
    drawn = np.random.default_rng(3).integers(20, size=(50, 20))
    for resample, value in zip(drawn, found.values, strict=True):
        best = max(score[i] for i in resample)
        first = min(i for i in resample if score[i] == best)    # the candidates keep their order
        assert value == accuracy[first]
    score[4] = math.nan
    assert intervals.redraw(runs(score, "candidate"), runs(accuracy, "candidate"), draws=5).isnull().all()


def test_redraw_selects_the_kth_best_as_often_as_it_should():
    n = 30
    found = intervals.redraw(runs(np.arange(n), "candidate"), runs(np.arange(n), "candidate"), draws=20_000)
    for k in range(3):
        expected = ((n - k) / n) ** n - ((n - k - 1) / n) ** n
        assert float((found == n - 1 - k).mean()) == pytest.approx(expected, abs=0.01)


def test_interval_is_a_loop_over_seeds_and_draws():
    x = RNG.normal(size=(2, 3, 7))
    found = intervals.interval(runs(x, "stage1", "seed", "draw"), resamples=400, seed=5)
    rng = np.random.default_rng(5)
    seeds, draws = rng.integers(3, size=(400, 3)), rng.integers(7, size=(400, 3))
    for m in range(2):
        means = [sum(x[m, s, d] for s, d in zip(*pair, strict=True)) / 3 for pair in zip(seeds, draws, strict=True)]
        np.testing.assert_allclose(found[m], np.percentile(means, [2.5, 97.5]))


@pytest.mark.filterwarnings("error")
def test_interval_leaves_out_what_is_missing():
    x = RNG.normal(size=(2, 3, 7))
    x[0], x[1, 2] = math.nan, math.nan
    found = intervals.interval(runs(x, "stage1", "seed", "draw"))
    assert found[0].isnull().all() and found[1].notnull().all()
    assert (abs(found[1]) <= abs(x[1, :2]).max()).all()


def test_a_constant_has_an_interval_without_width():
    found = intervals.interval(runs(np.full((3, 5), 2.5), "seed", "draw"))
    np.testing.assert_array_equal(found, [2.5, 2.5])


def test_paired_differences_by_hand():
    x = xr.DataArray([[1.0, 2], [4, 3]], dims=("stage2", "seed"), coords={"stage2": ["prune", "valid"]})
    found = intervals.paired(x, "prune", "stage2")
    assert found.stage2.values.tolist() == ["valid"]
    np.testing.assert_array_equal(found, [[3, 1]])


def test_coverage_of_small_samples():
    """Of the resamples of three, one in 27 holds one value only, so the interval reaches to the extremes: it holds the mean
    unless all three lie on one side of it, or nearly so."""
    three, many = intervals.coverage(3), intervals.coverage(60)
    assert 0.68 < three <= 0.77          # 1 - 2 / 8 = 0.75 for the range of three values
    assert many == pytest.approx(0.95, abs=0.02)
