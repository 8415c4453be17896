"""Both sides of a timing do the same work. How long it takes is no test's business."""

import pytest
import xarray as xr

from nas_lib import cost_figures, growth, performance, plan


def test_sides_take_turns():
    calls = []
    seconds = performance.paired({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3 and seconds.dims == ("side", "round") and seconds.shape == (2, 2)
    assert (seconds >= 0).all() and seconds.side.values.tolist() == ["a", "b"]


@pytest.mark.parametrize("method", ["darts", "gdas"])
@pytest.mark.parametrize("channels, side", [(4, 6), (4, 24)])           # compiled, and not
def test_a_step_is_the_same_either_way(method, channels, side):
    seconds = performance.training_step(method, channels, 1, side, batch=8, rounds=2)
    assert seconds.attrs["agreement"] < 1e-4 and (seconds > 0).all() and seconds.attrs["multiplies"] > 1e5
    assert ("bfloat16" in seconds.side) == (channels * side**2 > 2048)


@pytest.mark.parametrize("rule", ["batch", "recalibrate", "running"])
def test_scores_are_the_same_either_way(rule):
    seconds = performance.ranking_pass(4, 1, 6, images=16, few=2, block=4, rounds=1, rule=rule, blocks=1)
    assert seconds.attrs["agreement"] < 1e-4 and seconds.shape == (3, 1)


def test_the_other_timings_run():
    chosen = performance.selection(2, 1, 6, candidates=2, images=8, batch=8, rounds=1)
    assert chosen.shape == (3, 3, 1) and chosen.attrs["multiplies"] > 1e4
    assert performance.attainable(2, 1, 8, batch=4, rounds=1) > 0


def test_the_units_of_the_plan_are_timed():
    found = growth.on_device(2, 1, sides=(8, 6), batch=8, counts=(1,), rounds=2, device="cpu")
    assert found.seconds.dims == ("side", "unit", "round") and found.seconds.shape == (2, len(found.unit), 2)
    assert found.unit.values.tolist() == list(plan.units(2, 1, 8, 8)) and (found.seconds > 0).all()
    assert found.rate.shape == (3, 1, 2) and (found.rate > 0).all() and found.launch > 0


def test_images_are_timed_beside_steps():
    seconds = growth.augmentation([(2, 1, 8)], batch=8, rounds=2).seconds
    assert seconds.dims == ("shape", "work") and seconds.shape == (1, 3) and (seconds > 0).all()


def test_memory_is_that_of_the_work_alone():
    """Measured in processes of their own, and above what the loaded library takes; 16 MiB of maps at the least."""
    size = {"channels": 16, "cells": 1, "side": 32, "batch": 64, "images": 256}
    found = growth.memory(size, sides=("plain",))
    assert found.dims == ("work", "side") and (found > 16 * 2**20).all() and (found < 8 * 2**30).all()


def test_processes_rank_side_by_side():
    found = growth.processes((1, 2), rounds=2, base={"channels": 2, "side": 6, "images": 16})
    assert found.dims == ("processes", "round") and found.shape == (2, 2) and (found > 0).all()
    assert growth._rate([(1.0, 3.0), (1.5, 5.0)], 8) == 2 * growth.REPEATS * 8 / 4
    steps = growth.processes((1,), rounds=1, base={"channels": 2, "side": 6, "batch": 4}, work="step of rsps")
    assert steps.shape == (1, 1) and (steps > 0).all()


def test_networks_from_scratch_are_timed_three_ways():
    found = growth.populations((2,), seeds=2, rounds=1, archs=1)
    assert found.seconds.sizes == {"channels": 1, "way": 3, "round": 1} and (found.seconds > 0).all()


def test_charts_of_cost_show_medians_and_extremes():
    seconds = xr.DataArray([[[4.0, 6.0, 5.0]], [[1.0, 2.0, 1.0]]], dims=("side", "work", "round"), coords={"side": ["plain", "ours"], "work": ["w"]})
    spec = cost_figures.speed(performance.ratios(seconds.expand_dims(shape=["s"])).sel(side="ours", drop=True)).to_dict()
    (row,) = next(rows for rows in spec["datasets"].values() if "ratio" in rows[0])
    assert (row["ratio"], row["low"], row["high"]) == (4, 3, 5)
    grown = xr.DataArray([[[0.001, 0.003, 0.002]], [[float("nan")] * 3]], dims=("point", "work", "round"), coords={
        "work": ["w"], "axis": ("point", ["cells", "batch"]), "value": ("point", [2, 4])})
    spec = cost_figures.growth(grown, "8 channels").to_dict()
    (row,) = next(iter(spec["datasets"].values()))
    assert (row["axis"], row["value"], row["ms"], row["low"], row["high"]) == ("cells", 2, 2, 1, 3) and "n = 3" in spec["title"]["subtitle"]
