"""Both evaluations joined: what a campaign leaves behind."""

import numpy as np
import pytest
import xarray as xr

from nas_lib import evaluate, results


@pytest.fixture(scope="module")
def joined(runs, choices, bench):
    """Runs of both stages as ``results.load`` returns them, and the truth."""
    one = runs.assign(log_prob=xr.zeros_like(runs.score) - np.log(runs.sizes["arch"])).expand_dims(dataset=["d"])
    two = xr.Dataset({"accuracy": choices.accuracy, "ties": xr.ones_like(choices.accuracy)})
    one.attrs = runs.attrs | {"protocol": "paper"}
    return one, two.expand_dims(dataset=["d"]), bench.test.mean("train_seed").assign_attrs(classes=10)


def test_a_summary_holds_both_evaluations(joined, choices):
    one, two, truth = joined
    made = evaluate.summary(one, two, truth)
    stage1 = evaluate.evaluate_stage1(one.squeeze("dataset"), truth)
    for name in stage1:
        np.testing.assert_array_equal(made[name], stage1[name])
    np.testing.assert_array_equal(made.accuracy, choices.accuracy)
    np.testing.assert_allclose(made.reliance, choices.reliance)
    assert made.attrs["protocol"] == "paper" and made.attrs["bn"] == "batch" and "arch" not in made.dims


def test_a_law_kept_in_single_precision_is_summed_in_double(joined):
    one, _, truth = joined
    law = np.random.default_rng(0).dirichlet(np.ones(one.sizes["arch"]))
    kept = one.squeeze("dataset").assign(log_prob=one.log_prob.squeeze("dataset") * 0 + np.log(law)).astype(np.float32)
    again, exact = (evaluate.evaluate_stage1(k, truth) for k in (kept, kept.astype(float)))
    for name in ("sampling_mass", "expected_accuracy", "entropy"):
        assert again[name].dtype == np.float64
        np.testing.assert_array_equal(again[name], exact[name])


def test_without_the_four_baselines_there_is_no_reliance(joined):
    one, two, truth = joined
    some = ["darts", "gdas"]
    assert "reliance" not in evaluate.summary(one.sel(stage1=some), two.sel(stage1=some), truth)


def test_without_any_scores_the_rest_is_measured(joined):
    one, two, truth = joined
    made = evaluate.summary(one.drop_vars("score"), two, truth)
    assert made.spearman.isnull().all() and made["count"].sum() == 0
    np.testing.assert_array_equal(made.expected_accuracy, evaluate.summary(one, two, truth).expected_accuracy)


def test_several_data_sets_are_refused(joined):
    one, two, truth = joined
    with pytest.raises(ValueError, match="length greater than one"):
        evaluate.summary(xr.concat([one, one.assign_coords(dataset=["e"])], "dataset"), two, truth)


def test_own_summary_before_the_kept_one(joined, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "root", lambda: tmp_path)
    with pytest.raises(results.ResultError, match="no result at .*mine/summary-digits.nc"):
        evaluate.load_summary("mine")
    made = evaluate.summary(*joined)
    results.write(made.assign_attrs(scale="kept"), tmp_path / "book/reference/mine/summary-digits.nc")
    assert evaluate.load_summary("mine").attrs["scale"] == "kept"
    results.write(made.assign_attrs(scale="own"), tmp_path / "results/mine/summary-digits.nc")
    assert evaluate.load_summary("mine").attrs["scale"] == "own"


def test_where_architectures_lie_between_score_and_truth():
    truth = xr.DataArray(np.r_[0.0, np.arange(1.0, 100.0)], dims="arch")
    score = xr.DataArray([[2 * truth.values, 100 - truth.values], [np.full(100, np.nan)] * 2],
                         dims=("stage1", "seed", "arch"), coords={"stage1": ["a", "b"], "seed": [0, 1]})
    found = evaluate.score_map(score, truth, bins=4)
    lowest = truth.quantile(0.03).item()
    assert found.truth_range.values.tolist() == [lowest, 99.0]
    assert found.score_range.sel(stage1="a").values.tolist() == [0.0, 198.0]
    assert found["count"].sum(("score_bin", "truth_bin")).values.tolist() == [200, 0]
    by_hand = [[0] * 4 for _ in range(4)]
    for t in range(100):
        for s in (2 * t, 100 - t):
            column = min(int((max(t, lowest) - lowest) / (99 - lowest) * 4), 3)
            by_hand[min(int(s / 198 * 4), 3)][column] += 1
    assert found["count"].sel(stage1="a").values.tolist() == by_hand
    assert found.spearman.sel(stage1="a").values.round(6).tolist() == [1.0, -1.0]
    one = evaluate.score_map(score.sel(stage1="a", seed=0), truth, bins=4)
    assert one["count"].sum() == 100 and one.stage1.values.tolist() == ["a"]
