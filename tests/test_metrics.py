"""Metrics by hand, against literal loops, and vectorised against one run at a time."""

import itertools
import math
import os
from bisect import bisect_right

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from nas_lib import metrics

RNG = np.random.default_rng(0)
REAL = os.environ.get("NAS_DATA")


def arch(*values):
    return xr.DataArray(np.array(values, dtype=float), dims="arch")


def runs(values, *dims):
    return xr.DataArray(np.asarray(values), dims=dims)


def tied(n, levels, shape=()):
    """Accuracies on a coarse grid, so that many architectures share a value."""
    return RNG.integers(0, levels, size=(*shape, n)) * (100.0 / levels)


# --- the published definition, as a loop ---------------------------------------------------

def loop_groups(err, groups=25):
    size = len(err) // groups
    t = [sorted(err)[size * k] for k in range(1, groups)]
    return [bisect_right(t, e) for e in err], t


def loop_top_identification(score, truth, groups=25):
    g, t = loop_groups(100 - truth, groups)
    h, _ = loop_groups(100 - score, groups)
    rates = []
    for k in range(groups - 1):
        best = [i for i in range(len(g)) if g[i] <= k]
        hits = [i for i in best if h[i] <= k]
        rates.append(len(hits) / len(best) if best else math.nan)
    return np.array(rates), np.array(t)


@pytest.mark.parametrize("levels", [3, 7, 40, 10_000])
def test_published_rule_equals_the_literal_loop(levels):
    score, truth = tied(100, levels), tied(100, max(levels, 40))
    rates, t = loop_top_identification(score, truth)
    result = metrics.top_identification(arch(*score), arch(*truth), ties="worse")
    np.testing.assert_allclose(result, rates)
    np.testing.assert_allclose(result["error"], t)
    np.testing.assert_array_equal(metrics.groups(arch(*score)), loop_groups(score)[0])
    np.testing.assert_allclose(metrics.thresholds(arch(*score)), loop_groups(score)[1])


@pytest.mark.skipif(not REAL, reason="NAS_DATA names no folder with the results of NAS-Bench-201")
@pytest.mark.parametrize("dataset", ["cifar10", "ImageNet16-120"])
def test_curves_on_the_real_table_equal_the_literal_loops(dataset):
    """Scores of 1,000 images, hence with ties, and a law that prefers good cells."""
    from nas_lib import benchmark

    truth = benchmark.truth(dataset).drop_vars(["arch", "dataset", "split"], errors="ignore")
    n = len(truth)
    score = np.round(truth.values + RNG.normal(0, 5, n), 1)
    law = np.log(RNG.dirichlet(np.ones(n))) + truth.values / 10
    law -= np.log(np.exp(law).sum())
    rates, t = loop_top_identification(score, truth.values)
    result = metrics.top_identification(arch(*score), truth, ties="worse")
    np.testing.assert_allclose(result, rates)
    np.testing.assert_allclose(result["error"], t)
    g, _ = loop_groups(100 - truth.values)
    mass = [sum(p for p, group in zip(np.exp(law), g, strict=True) if group <= k) for k in range(24)]
    np.testing.assert_allclose(metrics.sampling_mass(arch(*law), truth), mass)


def test_mass_and_baseline_equal_the_literal_loop():
    truth, p = tied(75, 40), RNG.dirichlet(np.ones(75))
    g, t = loop_groups(100 - truth)
    mass = metrics.sampling_mass(arch(*np.log(p)), arch(*truth))
    baseline = metrics.random_baseline(arch(*truth))
    for k in range(24):
        assert mass[k].item() == pytest.approx(sum(p[i] for i in range(75) if g[i] <= k))
        assert baseline[k].item() == pytest.approx(sum(x <= k for x in g) / 75)
    np.testing.assert_allclose(mass["error"], t)
    np.testing.assert_allclose(baseline["error"], t)


# --- groups and ties by hand -----------------------------------------------------------------

def test_groups_by_hand():
    err = arch(10, 20, 20, 30, 40, 50, 50, 60)  # four groups of two; thresholds 20, 40, 50
    np.testing.assert_array_equal(metrics.thresholds(err, 4), [20, 40, 50])
    np.testing.assert_array_equal(metrics.groups(err, 4), [0, 1, 1, 1, 2, 3, 3, 3])
    drawn = metrics.groups(err, 4, ties="random", seed=1)
    assert sorted(drawn.values) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(drawn.values[1:3]) == [0, 1] and sorted(drawn.values[5:7]) == [2, 3]
    xr.testing.assert_identical(drawn, metrics.groups(err, 4, ties="random", seed=1))


def test_top_identification_by_hand():
    truth = arch(80, 70, 60, 50, 40, 30, 20, 10)
    score = arch(8, 5, 7, 6, 4, 3, 1, 2)  # best two by score: 0 and 2
    for ties in ("worse", "random"):
        rate = metrics.top_identification(score, truth, ties=ties, groups=4)
        np.testing.assert_allclose(rate, [1 / 2, 4 / 4, 6 / 6])
        np.testing.assert_array_equal(rate["error"], [40, 60, 80])
        np.testing.assert_array_equal(rate["threshold"], [0, 1, 2])


def test_a_tie_in_the_prediction_counts_as_its_chance_of_being_chosen():
    truth = arch(80, 70, 60, 50, 40, 30, 20, 10)
    score = arch(5, 4, 4, 4, 1, 1, 1, 1)  # one place left in the top two for three tied cells
    rate = metrics.top_identification(score, truth, groups=4)
    np.testing.assert_allclose(rate, [(1 + 1 / 3) / 2, 1, (4 + 2 * 2 / 4) / 6])
    published = metrics.top_identification(score, truth, ties="worse", groups=4)
    np.testing.assert_allclose(published, [1 / 2, 1, 4 / 6])


def test_random_ties_are_the_mean_over_all_orders():
    truth, score = arch(*range(60, 0, -10)), arch(1, 1, 2, 0, 1, 0)
    orders = runs(list(itertools.permutations(range(6))), "order", "arch")
    rates = metrics.top_identification(score + orders / 100, truth, ties="worse", groups=3)
    np.testing.assert_allclose(metrics.top_identification(score, truth, groups=3), rates.mean("order"))


def test_random_ties_agree_with_drawn_groups():
    truth, score = arch(*range(50)), arch(*tied(50, 4))
    g = metrics.groups(100 - truth, 10)
    drawn = []
    for seed in range(200):
        h = metrics.groups(-score, 10, ties="random", seed=seed)
        drawn.append([((g <= k) & (h <= k)).sum().item() / (g <= k).sum().item() for k in range(9)])
    expected = metrics.top_identification(score, truth, groups=10)
    np.testing.assert_allclose(expected, np.mean(drawn, 0), atol=0.05)


def test_constant_prediction():
    truth, constant = arch(*tied(100, 60)), arch(*[10.0] * 100)
    assert (metrics.groups(constant) == 24).all()
    assert (metrics.top_identification(constant, truth, ties="worse") == 0).all()
    np.testing.assert_allclose(metrics.top_identification(constant, truth), metrics.random_baseline(truth))


def test_perfect_prediction_is_one_even_where_the_truth_is_tied():
    truth = arch(*tied(100, 40))
    for ties in ("worse", "random"):
        rate = metrics.top_identification(truth, truth, ties=ties)
        assert (rate.dropna("threshold") == 1).all() and rate.notnull().sum() > 10


def test_an_empty_true_group_is_nan():
    truth = arch(9, 9, 9, 1, 1, 1)  # three share the best value, a group holds two
    rate = metrics.top_identification(arch(1, 2, 3, 4, 5, 6), truth, groups=3)
    assert math.isnan(rate[0]) and rate[1] == 0


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at least 25 architectures"):
        metrics.thresholds(arch(1, 2, 3))
    for call in (lambda x: metrics.groups(x, 2, ties="best"),
                 lambda x: metrics.top_identification(x, x, ties="best", groups=2)):
        with pytest.raises(ValueError, match="unknown tie rule 'best'"):
            call(arch(1, 2, 3))
    other = arch(1, 2).assign_coords(arch=["a", "b"])
    with pytest.raises(ValueError, match="arch"):
        metrics.spearman(other, other[::-1])


# --- vectorised over everything but arch -----------------------------------------------------

PAIRED = {
    "top_worse": lambda s, t: metrics.top_identification(s, t, ties="worse", groups=10),
    "top_random": lambda s, t: metrics.top_identification(s, t, groups=10),
    "mass": lambda s, t: metrics.sampling_mass(np.log(s / s.sum("arch")), t, groups=10),
    "spearman": metrics.spearman,
    "kendall": metrics.kendall,
    "expected": lambda s, t: metrics.expected_accuracy(np.log(s / s.sum("arch")), t),
    "precision": lambda s, t: metrics.precision_at(s, t, 7),
    "best_rank": lambda s, t: metrics.best_rank_at(s, t, 7),
    "distinct": lambda s, t: metrics.distinct(s),
    "chance": lambda s, t: metrics.chance_share(s, 10.0),
    "ties": lambda s, t: metrics.ties_at_best(s),
    "groups": lambda s, t: metrics.groups(s, 10, ties="random"),
    "entropy": lambda s, t: metrics.entropy(np.log(s / s.sum("arch"))),
}


@pytest.mark.parametrize("name", PAIRED)
def test_all_runs_at_once_equal_one_at_a_time(name):
    score = runs(tied(60, 30, (2, 2, 3)) + 1, "dataset", "stage1", "seed", "arch")
    truth = runs(tied(60, 50, (2,)), "dataset", "arch")
    whole = PAIRED[name](score, truth)
    for d, m, s in itertools.product(range(2), range(2), range(3)):
        one = PAIRED[name](score[d, m, s], truth[d])
        np.testing.assert_allclose(whole.isel(dataset=d, stage1=m, seed=s), one)
        if "error" in one.coords:
            assert whole["error"].dims == ("dataset", "threshold")
            np.testing.assert_array_equal(whole["error"].isel(dataset=d), one["error"])


def test_float32_scores_give_the_same_as_float64():
    score, truth = arch(*tied(50, 9)).astype("float32"), arch(*tied(50, 40))
    for rate in (PAIRED["top_random"], PAIRED["top_worse"], metrics.spearman):
        np.testing.assert_array_equal(rate(score, truth), rate(score.astype(float), truth))


# --- laws --------------------------------------------------------------------------------------

def test_mass_of_all_groups_is_one():
    truth, p = arch(*tied(50, 40)), arch(*RNG.dirichlet(np.ones(50)))
    last = p.where(metrics.groups(100 - truth) == 24).sum()
    assert metrics.sampling_mass(np.log(p), truth)[-1].item() + last.item() == pytest.approx(1)


def test_laws_by_hand():
    truth = arch(90, 80, 70, 60)
    with np.errstate(divide="ignore"):
        logs = np.log(runs([[0.25] * 4, [1, 0, 0, 0], [0.5, 0, 0, 0.5]], "law", "arch"))
    mass = metrics.sampling_mass(logs, truth, 4)
    np.testing.assert_allclose(mass, [[0.25, 0.5, 0.75], [1, 1, 1], [0.5] * 3])
    np.testing.assert_allclose(metrics.random_baseline(truth, 4), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(metrics.expected_accuracy(logs, truth), [75, 90, 75])
    np.testing.assert_allclose(metrics.entropy(logs), [math.log(4), 0, math.log(2)], atol=1e-12)


# --- correlations and health ---------------------------------------------------------------------

def test_correlations_by_hand():
    a, b = arch(1, 2, 3, 4), arch(1, 3, 2, 4)
    assert metrics.spearman(a, b).item() == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert metrics.kendall(a, b).item() == pytest.approx((5 - 1) / 6)
    fine = arch(1.02, 2.13, 2.08, 4)            # 2.13 and 2.08 are both 2.1: their order does not count
    assert metrics.kendall(b, fine).item() == pytest.approx(1)
    assert metrics.sparse_kendall(b, fine).item() == pytest.approx(5 / np.sqrt(6 * 5))
    assert metrics.spearman(a, -a).item() == metrics.kendall(a, -a).item() == pytest.approx(-1)


def test_correlations_equal_scipy_with_ties_and_use_what_both_know():
    x, y = tied(80, 6), tied(80, 9)
    x[3], y[5], y[6] = np.nan, np.nan, np.nan
    known = ~(np.isnan(x) | np.isnan(y))
    assert metrics.spearman(arch(*x), arch(*y)).item() == pytest.approx(
        stats.spearmanr(x[known], y[known]).statistic)
    assert metrics.kendall(arch(*x), arch(*y)).item() == pytest.approx(
        stats.kendalltau(x[known], y[known]).statistic)


@pytest.mark.filterwarnings("error")
def test_constant_or_missing_vectors_have_no_correlation():
    truth = arch(1, 2, 3, 4)
    for score in (arch(5, 5, 5, 5), arch(*[np.nan] * 4), arch(1, *[np.nan] * 3)):
        assert math.isnan(metrics.spearman(score, truth)) and math.isnan(metrics.kendall(score, truth))


def test_health_by_hand():
    score = runs([[10, 10, 9.5, 50], [10, 10, 10, 10], [np.nan] * 4, [np.nan, 30, 30, 11]], "seed", "arch")
    np.testing.assert_array_equal(metrics.distinct(score), [3, 1, np.nan, 2])
    np.testing.assert_allclose(metrics.chance_share(score, 10.0), [3 / 4, 1, np.nan, 1 / 3])
    np.testing.assert_allclose(metrics.chance_share(score, 10.0, within=0.1), [2 / 4, 1, np.nan, 0])
    np.testing.assert_array_equal(metrics.ties_at_best(score), [1, 4, np.nan, 2])


@pytest.mark.filterwarnings("error")
def test_a_run_with_a_missing_architecture_has_no_curve_and_leaves_the_others_alone():
    truth, score = arch(*range(50)), runs(tied(50, 20, (2,)), "seed", "arch")
    score[1, 4] = np.nan
    for ties in ("worse", "random"):
        rate = metrics.top_identification(score, truth, ties=ties)
        assert rate[0].notnull().all() and rate[1].isnull().all()
    mass = metrics.sampling_mass(-score, truth)
    assert mass[0].notnull().all() and mass[1].isnull().all()
    for measure in (metrics.groups(score), metrics.precision_at(score, truth, 3), metrics.entropy(-score),
                    metrics.best_rank_at(score, truth, 3), metrics.expected_accuracy(-score, truth)):
        assert measure[0].notnull().all() and measure[1].isnull().all()
    assert metrics.top_identification(truth, score[1]).isnull().all()
    assert metrics.regret(90.0, score[1]).isnull()


# --- selections -----------------------------------------------------------------------------------

def test_reliance_by_hand():
    accuracy = xr.DataArray(
        [[[80.0, 81]], [[88, 87]], [[84, 86]], [[89, 85]], [[1, 1]]], dims=("stage1", "stage2", "seed"),
        coords={"stage1": ["none", "none+", "rsps", "rsps+", "darts"], "stage2": ["valid"], "seed": [0, 1]})
    gain = metrics.reliance(accuracy)
    assert gain.dims == ("difference", "stage2", "seed") and "stage1" not in gain.coords
    expected = {"N_I-N_U": [8, 6], "R_I-R_U": [5, -1], "R_U-N_U": [4, 5], "R_I-N_I": [1, -2]}
    for name, values in expected.items():
        np.testing.assert_array_equal(gain.sel(difference=name, stage2="valid"), values)
    published = metrics.reliance(accuracy, uniform="darts")         # another supernet in the place of R_U
    np.testing.assert_array_equal(published.sel(difference="R_U-N_U", stage2="valid"), [-79, -80])
    np.testing.assert_array_equal(published.sel(difference="N_I-N_U", stage2="valid"), [8, 6])
    with pytest.raises(ValueError, match=r"run none, rsps\+ too"):
        metrics.reliance(accuracy.sel(stage1=["none+", "rsps", "darts"]))


def test_regret_and_top_k_by_hand():
    truth, score = arch(90, 80, 70, 60, 50), arch(2, 5, 4, 1, 3)
    np.testing.assert_array_equal(metrics.regret(runs([90, 70], "seed"), truth), [0, 20])
    assert metrics.precision_at(score, truth, 2).item() == 1 / 2  # chosen: second and third
    assert metrics.best_rank_at(score, truth, 2).item() == 2 / 5
    assert metrics.best_rank_at(score, truth, 4).item() == 1 / 5


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_top_k_measures_are_the_mean_over_the_orders_of_tied_scores(k):
    truth, score = arch(10, 40, 40, 20, 60, 50), np.array([2, 1, 1, 2, 1, 0])
    rank = np.array([6, 3, 3, 5, 1, 2])
    hits, best = [], []
    for noise in itertools.permutations(range(6)):
        top = np.argsort(-(score + np.array(noise) / 100))[:k]
        hits.append(np.isin(top, np.flatnonzero(rank <= k)).mean())
        best.append(rank[top].min() / 6)
    assert metrics.precision_at(arch(*score), truth, k).item() == pytest.approx(np.mean(hits))
    assert metrics.best_rank_at(arch(*score), truth, k).item() == pytest.approx(np.mean(best))


def test_best_rank_of_a_constant_score_in_a_large_space():
    n, k = 15_625, 625  # the smallest of k places drawn from n is (n + 1) / (k + 1) on average
    rank = metrics.best_rank_at(arch(*[1.0] * n), arch(*range(n)), k)
    assert rank.item() == pytest.approx((n + 1) / (k + 1) / n, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_mean_std():
    x = runs([[45.70, 45.70, 29.08], [1, np.nan, 3], [np.nan] * 3], "stage1", "seed")
    s = metrics.mean_std(x)
    np.testing.assert_allclose(s["mean"], [40.16, 2, np.nan])
    np.testing.assert_allclose(s["std"], [7.8347, 1, np.nan], atol=1e-4)  # divided by n, not n - 1
    np.testing.assert_array_equal(s["n"], [3, 2, 0])
