"""From supernets of several spaces to the tables of the case study: what runs, what is joined, what is marked."""

import re

import numpy as np
import pytest
import xarray as xr
import yaml

from nas_lib import evaluate, experiments, published, results, tables
from nas_lib.final import cells_of
from nas_lib.metrics import mean_std
from nas_lib.spaces import S2
from test_workflow import CAMPAIGNS, dry

CELL = "k0 s1 k0 s2 k0 k1 k0 s1 / s0 s1 k0 k1 k0 s1 s2 s3"


@pytest.mark.parametrize("name", ["case-study-paper", "case-study-cpu", "case-study-untrained", "darts-paper", "darts-cpu"])
def test_every_entry_is_a_job(name, tmp_path):
    said = yaml.safe_load((CAMPAIGNS / f"{name}.yaml").read_text())
    data = said["data"] if isinstance(said["data"], list) else [said["data"]]
    seeds = {d: len(said.get("seeds_of", {}).get(d, said["seeds"])) for d in data}
    runs = len(said["stage1"]) * sum(seeds.values())
    pairs = sum(not (s == "prune" and m in said.get("fixed", [])) for m in said["stage1"] for s in said["stage2"])
    trained = pairs * sum(n for d, n in seeds.items() if d[0] == "s")
    jobs = dry("--configfile", f"notebooks/campaigns/{name}.yaml", tmp_path=tmp_path)
    assert jobs.pop("final", 0) == trained
    assert jobs == {"stage1": runs, "stage2": runs, "summary": len(data), "all": 1, "total": 2 * runs + trained + len(data) + 1}


@pytest.mark.parametrize("campaign, entry, trained", [
    ("darts-paper", "final-s0-cifar10-darts--jacob_cov-s11", 1), ("darts-cpu", "final-s0-cifar10-snas-perturb-s0", 1),
    ("case-study-paper", "final-s3-cifar10-blank--perturb-s2", 1), ("case-study-paper", "stage2-cifar10-blank-s3", 0)])
def test_one_entry_by_its_file(campaign, entry, trained, tmp_path):
    """The errors of NAS-Bench-201 are looked up as soon as Stage 2 has chosen."""
    one = f"results/{campaign}/{entry}.nc"
    jobs = dry("--configfile", f"notebooks/campaigns/{campaign}.yaml", "--", one, tmp_path=tmp_path)
    assert jobs == {"stage1": 1, "stage2": 1, "total": 2 + trained} | ({"final": 1} if trained else {})


def test_the_two_sides_of_one_switch_differ_in_nothing_else():
    trained, untrained = (yaml.safe_load((CAMPAIGNS / f"case-study-{n}.yaml").read_text()) for n in ("cpu", "untrained"))
    assert untrained["parameters"] == trained["parameters"] | {"flags": {"untrained_cells": True}}
    for key in ("seeds", "seeds_of", "settings", "candidates", "ranking", "stage2"):
        assert untrained[key] == trained[key]
    assert untrained["own"].items() <= trained["own"].items() and set(untrained["data"]) <= set(trained["data"])


def test_what_published_size_means():
    """Section 9 of the specification: the settings in which the two halves of the paper differ."""
    case, darts = (yaml.safe_load((CAMPAIGNS / f"{n}-paper.yaml").read_text()) for n in ("case-study", "darts"))
    own, size = case["own"], darts["parameters"]
    for space in ("s1", "s2", "s3", "s4"):
        small = case["parameters"] | own[f"{space}-cifar10"]
        assert [small[k] for k in ("channels", "cells", "epochs", "lr", "alpha_lr")] == [16, 8, 50, 0.025, 3e-4]
        assert own[f"{space}-cifar10 blank-"] == {"hyper": {"beta": "constant"}}
    assert [size[k] for k in ("channels", "cells", "epochs", "lr", "lr_min", "partial", "alpha_lr")] == [
        36, 20, 50, 0.1, 0, 2, 6e-4]
    assert case["seeds"] == [1, 2, 3] and darts["seeds"] == [10, 11, 12]
    assert not case["final"]["recipe"] and not darts["final"]["recipe"] and case["settings"] == darts["settings"]


@pytest.mark.parametrize("name", ["case-study-cpu", "darts-cpu"])
def test_every_entry_of_the_book_is_there(name):
    """Where alpha was fixed, prune has nothing to choose by; all else was run, trained or looked up."""
    said = yaml.safe_load((CAMPAIGNS / f"{name}.yaml").read_text())
    error = evaluate.test_errors(evaluate.load_summaries(name))
    data = said["data"] if isinstance(said["data"], list) else [said["data"]]
    assert error.sizes["space"] == len(data)
    assert set(error.stage1.values) == set(said["stage1"]) and set(error.stage2.values) == set(said["stage2"])
    empty = error.isnull().all("seed").to_series()
    assert {(one, two) for _, one, two in empty[empty].index} <= {(m, "prune") for m in said.get("fixed", [])}


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """One real path at the smallest size: an untrained supernet of S2, two choices, and their final trainings."""
    tmp = tmp_path_factory.mktemp("s2")
    setup = experiments.Setup(method="none", space="s2", channels=1, cells=3, batch=500, cache=str(tmp / "cache"))
    two = tmp / "stage2-s2-digits-none-s0.nc"
    results.write(experiments.stage2(setup, two, ["params", "random", "prune"], 5), two)
    recipe = {"channels": 1, "cells": 3, "epochs": 1, "batch": 500, "lr": 0.1, "auxiliary": 0, "cutout": 0}
    return two, [experiments.final(setup, tmp / "x.nc", f"{two} {s}", [0], recipe) for s in ("params", "random")]


def test_what_stage_2_chose_is_trained_and_joined(chosen):
    two, finals = chosen
    found = evaluate.trained(results.load([two]), finals)
    assert found["last"].dims == ("stage1", "stage2", "seed", "train_seed") and found.dataset == "s2-digits"
    for run in finals:
        cell = found.sel(stage2=run.stage2.item()).squeeze()
        assert cell.genotype == run.attrs["genotype"] and cell["last"] == run["last"].item() >= cell.best
    assert "1 channel" in found.scale and "1 epochs" in found.final
    error = evaluate.test_errors([found])
    assert error.space.values.tolist() == ["s2"] and error.sel(stage2="random").item() == finals[1]["last"].item()


def test_a_method_that_chose_nothing_says_so(chosen):
    with pytest.raises(ValueError, match="prune chose nothing in .*needs architecture parameters"):
        cells_of(S2, f"{chosen[0]} prune")
    with pytest.raises(ValueError, match="valid chose nothing"):
        cells_of(S2, f"{chosen[0]} valid")


def test_looked_up_and_trained_errors_stand_in_one_table():
    looked = xr.Dataset({"accuracy": (("stage1", "stage2", "seed"), [[[90.0], [80.0]]])}, coords={
        "stage1": ["darts"], "stage2": ["prune", "perturb"], "seed": [1], "dataset": "cifar10"})
    values = xr.DataArray([[[[40.0, 44.0]]]], dims=("stage1", "stage2", "seed", "train_seed"))
    made = xr.Dataset({"last": values, "best": values - 5}, coords={
        "stage1": ["darts"], "stage2": ["perturb"], "seed": [1], "dataset": "s1-cifar10"})
    error = evaluate.test_errors([looked, made]).squeeze()
    np.testing.assert_array_equal(error.sel(space="nb201", stage2=["prune", "perturb"]), [10, 20])
    np.testing.assert_array_equal(error.sel(space="s1", stage2=["prune", "perturb"]), [np.nan, 42])
    assert evaluate.test_errors([looked, made], "best").sel(space="s1", stage2="perturb").item() == 37
    more = xr.concat([made.assign_coords(stage2=[name]) for name in ("mine", "perturb", "prune", "valid")], "stage2")
    assert evaluate.test_errors([more]).stage2.values.tolist() == ["prune", "valid", "perturb", "mine"]


def made(space, last, genotype="k0 s1 k0 s1 k0 s1 k0 s1 / k0 s1 k0 s1 k0 s1 k0 s1", seed=1):
    """A summary of trained cells: ``last`` [train_seed] of one pair."""
    values = xr.DataArray(np.reshape(last, (1, 1, 1, -1)), dims=("stage1", "stage2", "seed", "train_seed"))
    return xr.Dataset({"last": values, "genotype": values.isel(train_seed=0) * 0}, attrs={
        "scale": "Small.", "training": "Short.", "final": "Tiny.", "protocol": "corrected"}, coords={
        "stage1": ["darts"], "stage2": ["perturb"], "seed": [seed], "dataset": f"{space}-cifar10"}).assign(
        genotype=(("stage1", "stage2", "seed"), [[[genotype]]]))


def test_what_training_seeds_alone_do_to_a_difference():
    """Pooled variance (2 + 8) / 2 of single trainings; of two means over two each it is that of one."""
    assert evaluate.noise([made("s1", [60.0, 62.0]), made("s2", [64.0, 60.0])]) == pytest.approx(5**0.5)
    assert np.isnan(evaluate.noise([made("s1", [60.0])]))


def test_trained_cells_by_name():
    summaries = [made("s2", [64.0, 60.0]), made("s1", [50.0], "")]
    assert evaluate.chosen(summaries) == {"S2: darts with perturb, seed 1: 62.0 %": summaries[0].genotype.item()}


def test_scales_of_rows_made_alike_share_a_line():
    said = repr(tables.scales([made("s1", [60.0]), made("s2", [60.0]), made("s3", [60.0], seed=2)])).splitlines()
    assert said[2:] == ["> - S1, S2: seed 1. Small. Short. Tiny. Protocol: corrected.",
                        "> - S3: seed 2. Small. Short. Tiny. Protocol: corrected."]


def test_two_sides_of_a_switch_stand_next_to_each_other():
    error = xr.DataArray([[[[6.0, 8.0], [5.0, 5.0]]]], dims=("space", "stage1", "stage2", "seed"), coords={
        "space": ["digits"], "stage1": ["darts-"], "stage2": ["prune", "perturb"], "seed": [1, 2]})
    style = tables.switched({"off": error, "on": error + xr.DataArray([1.0, -1.0], dims="stage2")})
    assert style.data.columns.tolist() == [("DARTS-", stage2, side) for stage2 in ("max α", "perturb") for side in ("off", "on")]
    assert style.data.values.tolist() == [["7.00 ± 1.00", "8.00 ± 1.00", "5.00 ± 0.00", "4.00 ± 0.00"]]
    assert marks(style)[0] == {(0, 0), (0, 3)} and "n = 2 seeds" in style.caption


def marks(style):
    """Entries of a table by row: which are bold, and which italic."""
    html = style.to_html()
    rule = {re.sub("-", " ", name): set(re.findall(r"row(\d+)_col(\d+)", "".join(
        heads for heads, body in re.findall(r"([^{}]*)\{([^}]*)\}", html) if name in body))) for name in ("bold", "italic")}
    return [{(int(r), int(c)) for r, c in rule[name]} for name in ("bold", "italic")]


def test_bold_is_best_of_the_row_and_italic_best_of_the_other_half():
    bold, italic = marks(tables.case_study(mean_std(published.case_study().expand_dims("seed")), "printed"))
    assert bold == {(0, 2), (1, 3), (2, 4), (3, 1), (4, 2)}
    assert italic == {(0, 4), (1, 2), (2, 2), (3, 4), (4, 5)}


def test_equals_share_the_mark_and_single_values_have_no_deviation():
    stats = mean_std(xr.full_like(published.case_study(), 5.0).expand_dims("seed"))
    style = tables.case_study(stats, "equal")
    assert marks(style) == [{(r, c) for r in range(5) for c in range(6)}, set()]
    assert "±" not in style.data.to_string() and "single values" in style.caption
