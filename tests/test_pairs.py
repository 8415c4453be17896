"""The score of a pair, by hand; its agreement with errors, against SciPy and known cases."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from nas_lib import pairs


def named(dim, **values):
    return xr.DataArray(list(values.values()), dims=dim, coords={dim: list(values)})


def table(values, names=("stage1", "stage2")):
    values = np.asarray(values, float)
    labels = {d: [f"{d[-1]}{i}" for i in range(n)] for d, n in zip(names, values.shape, strict=False)}
    return xr.DataArray(values, dims=names, coords=labels)


def test_ranks():
    x = named("stage1", a=0.2, b=0.9, c=0.2, d=np.nan, e=0.5)
    assert pairs.ranks(x, "stage1").values.tolist() == pytest.approx([3.5, 1, 3.5, np.nan, 2], nan_ok=True)


def test_score_by_hand():
    """Ranks of p: 1 and 2, of q: 2 and 1, of s: 1 and 3, of t: 2 and 1, of u: 3 and 2."""
    one = xr.Dataset({"alpha": named("stage1", p=0.8, q=0.3), "beta": named("stage1", p=0.1, q=0.7)})
    two = xr.Dataset({"alpha": named("stage2", s=9.0, t=5.0, u=-1.0), "beta": named("stage2", s=-2.0, t=4.0, u=3.0)})
    assert pairs.score(one, two).values.tolist() == [
        [1 * 1 * 2 * 2, 1 * 2 * 2 * 2, 1 * 3 * 2 * 1],
        [2 * 2 * 1 * 3, 2 * 1 * 1 * 1, 2 * 2 * 1 * 2]]


def test_good_at_one_beats_mediocre_at_both():
    """The reason the paper gives for the product: 1 and 5 come before 3 and 3, the second stage suiting either."""
    values = {"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0}
    one = xr.Dataset({"alpha": named("stage1", **values), "beta": named("stage1", a=1.0, b=4.0, c=3.0, d=2.0, e=5.0)})
    same = xr.Dataset({"alpha": named("stage2", **values), "beta": named("stage2", a=1.0, b=4.0, c=3.0, d=2.0, e=5.0)})
    score = pairs.score(one, same)
    assert score.sel(stage1="a", stage2="a") == 5 < score.sel(stage1="c", stage2="c") == 9


def test_data_sets_are_ranked_each_by_itself():
    one = xr.Dataset({k: xr.DataArray([[1.0, 2.0], [4.0, 3.0]], dims=("dataset", "stage1"),
                                      coords={"stage1": ["p", "q"]}) for k in ("alpha", "beta")})
    two = xr.Dataset({k: named("stage2", s=2.0, t=1.0) for k in ("alpha", "beta")})
    both = pairs.score(one, two)
    for i in (0, 1):
        xr.testing.assert_allclose(both.isel(dataset=i), pairs.score(one.isel(dataset=i), two))


def test_unknown_measure_leaves_the_pair_out():
    one = xr.Dataset({"alpha": named("stage1", p=0.8, q=0.3), "beta": named("stage1", p=np.nan, q=0.7)})
    two = xr.Dataset({k: named("stage2", s=2.0, t=1.0) for k in ("alpha", "beta")})
    score = pairs.score(one, two)
    assert score.sel(stage1="p").isnull().all() and score.sel(stage1="q").notnull().all()


def test_stage1_measures(evaluation):
    for law, alpha in {"mass": evaluation.sampling_mass.mean(("threshold", "seed")),
                       "strictest": evaluation.sampling_mass.isel(threshold=0).mean("seed"),
                       "expected_accuracy": evaluation.expected_accuracy.mean("seed")}.items():
        found = pairs.stage1_measures(evaluation, law, "kendall")
        np.testing.assert_allclose(found.alpha, alpha)
        np.testing.assert_allclose(found.beta, evaluation.kendall.mean("seed"))
    with pytest.raises(ValueError, match="unknown choice 'area'"):
        pairs.stage1_measures(evaluation, law="area")


def test_stage2_measures(choices):
    mean = choices.accuracy.mean("seed")
    r_i, r_u, n_u = (mean.sel(stage1=n) for n in ("rsps+", "rsps", "none"))
    found = pairs.stage2_measures(choices.accuracy)
    np.testing.assert_allclose(found.alpha, r_i - r_u)
    np.testing.assert_allclose(found.beta, r_u - n_u)
    found = pairs.stage2_measures(choices.accuracy.drop_sel(stage1="none"), "baselines")
    np.testing.assert_allclose(found.alpha, r_u)
    np.testing.assert_allclose(found.beta, r_i)
    with pytest.raises(ValueError, match="needs none, rsps2 too"):
        pairs.stage2_measures(choices.accuracy.drop_sel(stage1="none"), uniform="rsps2")


def test_all_readings(evaluation, choices):
    found = pairs.variants(evaluation, choices.accuracy)
    assert len(found) == 6
    one = pairs.stage1_measures(evaluation, "strictest")
    xr.testing.assert_identical(found["strictest, baselines"],
                                pairs.score(one, pairs.stage2_measures(choices.accuracy, "baselines")))


def test_agreement_is_spearman_over_shared_pairs():
    rng = np.random.default_rng(0)
    a, b = table(rng.normal(size=(4, 5))), table(rng.normal(size=(4, 5)))
    b[1, 2] = np.nan
    found = pairs.agreement(a.isel(stage1=slice(3)), b.isel(stage2=slice(None, None, -1)))
    x, y = a.values[:3].ravel(), b.values[:3].ravel()
    keep = ~np.isnan(y)
    assert found.n == 14 and found.rho.item() == pytest.approx(spearmanr(x[keep], y[keep]).statistic)
    again = pairs.agreement(a.isel(stage1=[2, 0, 1]), b)
    assert [again[k].item() for k in ("rho", "low", "high")] == [found[k].item() for k in ("rho", "low", "high")]


def test_interval():
    rng = np.random.default_rng(1)
    a = table(rng.normal(size=(5, 5)))
    assert pairs.interval(xr.Dataset({"rho": 0.776, "low": -0.5, "high": 1.0})) == "0.78 (-0.50 to 1.00)"
    same, other = pairs.agreement(a, 3 * a + 1), pairs.agreement(a, table(rng.normal(size=(5, 5))))
    assert same.low == pytest.approx(1) and same.high == pytest.approx(1)
    assert other.low < 0 < other.high and other.low < other.rho < other.high


def test_seeds_widen_the_interval():
    """Two seeds that reverse each other around one clear order: resampled, they must reach both ends."""
    rng = np.random.default_rng(2)
    order, noise = rng.normal(size=(5, 5)), rng.normal(size=(5, 5))
    seeds = table(np.stack([order + 5 * noise, order - 5 * noise], -1), ("stage1", "stage2", "seed"))
    plain, wide = pairs.agreement(table(order), seeds.mean("seed")), pairs.agreement(table(order), seeds)
    assert plain.rho == pytest.approx(1) and wide.rho == pytest.approx(1)
    assert plain.low == pytest.approx(1) and wide.low < 0.5


def test_too_few_pairs():
    with pytest.raises(ValueError, match="share 2 pairs"):
        pairs.agreement(table(np.ones((1, 2))), table(np.ones((3, 2))))
