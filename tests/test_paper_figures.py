"""Charts and tables about the paper: they show the numbers given, say n, and name the files that exist."""

import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from nas_lib import metrics, pairs, paper_figures, published, tables
from nas_lib.results import root


@pytest.fixture(scope="module")
def accuracy():
    rng = np.random.default_rng(0)
    return xr.DataArray(60 + 8 * rng.random((6, 5, 3)), dims=("stage1", "stage2", "seed"), coords={
        "stage1": [*published.STAGE1, "rsps"], "stage2": published.STAGE2, "seed": [0, 1, 2]})


@pytest.fixture(scope="module")
def printed():
    return published.errors().sel(space="nb201", drop=True)


def rows(spec, key):
    return [r for table in spec["datasets"].values() for r in table if key in r]


def test_against_published(accuracy, printed):
    spec = paper_figures.against_published(accuracy, printed).to_dict()
    shown = rows(spec, "printed")
    assert len(shown) == 75 and "n = 3 seeds" in json.dumps(spec["title"])
    for panel, dataset in zip(spec["hconcat"], printed.dataset.values, strict=True):
        rho = pairs.agreement(100 - accuracy, printed["mean"].sel(dataset=dataset)).rho.item()
        assert panel["title"]["text"] == dataset and panel["title"]["subtitle"].startswith(f"ρ = {rho:.2f}")
    one = next(r for r in shown if (r["stage1"], r["stage2"], r["printed"]) == ("darts", "prune", 40.16))
    assert one["mean"] == pytest.approx(100 - accuracy.sel(stage1="darts", stage2="prune").mean().item(), abs=1e-3)
    assert (one["left"], one["right"]) == pytest.approx((32.33, 47.99))
    assert all(r["left"] == r["right"] for r in shown if np.isnan(r["printed_std"] or np.nan))


def test_pairs_come_worst_first(accuracy):
    stats = metrics.mean_std(100 - accuracy.isel(stage1=slice(2)))
    score = stats["mean"].copy(data=np.arange(10.0).reshape(2, 5) + 1)
    score[0, 1] = np.nan
    spec = paper_figures.pairs_by_score(score, stats, "Pairs").to_dict()
    table = next(t for t in spec["datasets"].values() if "pair" in t[0])
    assert [r["score"] for r in table] == [10, 9, 8, 7, 6, 5, 4, 3, 1]
    assert table[-1]["pair"] == "darts + prune"
    assert table[-1]["accuracy"] == pytest.approx(accuracy[0, 0].mean().item(), abs=1e-3)
    text = json.dumps(spec["title"])
    assert "n = 3 seeds" in text and f"error {pairs.agreement(score, stats['mean']).rho:.2f}" in text
    order = {json.dumps(x) for x in [json.loads(json.dumps(spec))["layer"][1]["encoding"]["x"]["sort"]]}
    assert order == {json.dumps([r["pair"] for r in table])}


def test_review_bars():
    spec = paper_figures.review_bars(published.review_counts()).to_dict()
    assert {r["selection"]: r["methods"] for r in rows(spec, "methods")} == published.review_counts().to_dict()
    assert "21 methods" in spec["title"]["subtitle"] and "15 arch prune" in spec["description"]


def test_review_names_files_that_exist():
    frame = tables.review(published.review(), ran=["darts-", "perturb", "dirichlet"]).data
    files = {name: file for name, file in frame.file.items() if file}
    assert {"DARTS": "stage1/darts.py", "DARTS-": "stage1/darts_minus.py", "DrNAS": "stage1/dirichlet.py",
            "DARTS-PT": "stage2/perturb.py", "SDARTS": "stage1/sdarts_rs.py"}.items() <= files.items()
    assert not {"P-DARTS", "R-DARTS", "DSNAS", "ENAS"} & files.keys()
    assert all((root() / "nas_lib" / file).is_file() for file in files.values())
    assert frame.index[frame.run == "yes"].tolist() == ["DARTS-", "DrNAS", "DARTS-PT"]


def test_printed_table(printed):
    page = tables.errors(printed.sel(dataset="cifar10"), "CIFAR-10").to_html()
    assert "40.16 ± 7.83" in page and "n = 3 seeds" in page
    assert page.split("font-weight: bold")[0].count("_row") == 5
    lost = tables.errors(printed.sel(dataset="cifar100"), "CIFAR-100").data
    assert lost.synflow["darts"] == "33.24" and lost.valid["darts"] == "36.41 ± 3.19"


def test_agreements(accuracy, printed):
    error = 100 - accuracy
    page = tables.agreements({"itself": error.mean("seed")}, {"ours": error.mean("seed"), "theirs": printed["mean"][0]})
    assert page.data.loc["itself", "ours"] == "1.00 (1.00 to 1.00)" and "n = 25 or 30 pairs" in page.caption


def test_no_torch():
    code = ("import sys, nas_lib.paper_figures, nas_lib.claims, nas_lib.pairs, nas_lib.published; "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
