"""Every figure is a valid chart that says what it shows, with n and the spread over seeds."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from nas_lib import charts, evaluate, figures, marks, tables
from nas_lib.spaces import NB201

BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|"


@pytest.fixture(scope="module")
def drawn(evaluation, choices, bench, runs) -> dict:
    """Specification of every figure, by name; ``to_dict`` validates it."""
    truth = bench.test.mean("train_seed")
    made = {
        "curves": figures.curves(evaluation),
        "reliance_bars": figures.reliance_bars(choices.reliance),
        "score_vs_truth": figures.score_vs_truth(evaluate.score_map(runs.score, truth)),
        "accuracy_distribution": figures.accuracy_distribution(truth),
        "seed_agreement": figures.seed_agreement(bench),
        "training": figures.training(runs),
        "law": figures.law(runs.probs),
        "cell": figures.cell(BEST, "best"),
    }
    return {name: chart.to_dict() for name, chart in made.items()}


def rows(spec: dict, key: str) -> list[dict]:
    """All data rows of a specification that have ``key``."""
    return [r for table in spec["datasets"].values() for r in table if key in r]


def test_described_and_small(drawn):
    for name, spec in drawn.items():
        assert len(spec["description"]) > 20, name
        assert spec["title"]["text"], name
        assert len(json.dumps(spec)) < 600_000, f"{name} is too large for a page"


@pytest.mark.parametrize("name", ["curves", "reliance_bars", "score_vs_truth", "training", "law"])
def test_n_is_stated(drawn, name):
    assert "n = 3 seeds" in json.dumps(drawn[name]["title"])


@pytest.mark.parametrize("name", ["curves", "reliance_bars", "training", "law"])
def test_spread_is_the_population_deviation(drawn, name):
    for row in rows(drawn[name], "std"):
        assert row["n"] == 3
        assert row["high"] - row["low"] == pytest.approx(2 * row["std"], abs=1e-4)


def test_curves_show_the_values_given(drawn, evaluation):
    want = evaluation.top_identification.sel(stage1="gdas")
    shown = [r["mean"] for r in rows(drawn["curves"], "std") if r["stage1"] == "gdas"][:24]
    np.testing.assert_allclose(shown, want.mean("seed"), atol=1e-5)


def test_laws_on_the_baseline_are_not_drawn(drawn, evaluation):
    names = [{r["stage1"] for r in t if "stage1" in r} for t in drawn["curves"]["datasets"].values()]
    names = [n for n in names if n]
    assert set(evaluation.stage1.values) in names
    assert {"none+", "rsps+", "darts", "gdas"} in names


def test_curves_of_some_methods(evaluation):
    spec = figures.curves(evaluation, stage1=["gdas", "darts"]).to_dict()
    assert {r["stage1"] for r in rows(spec, "stage1")} == {"gdas", "darts"}


def test_colour_belongs_to_the_method():
    together, _ = marks.method_scales(["darts", "gdas", "mine"])
    alone, _ = marks.method_scales(["gdas"])
    assert together.range[1] == alone.range[0] == marks.METHODS["gdas"][0]
    assert len({(colour, *dash) for colour, dash in marks.METHODS.values()}) == len(marks.METHODS)
    assert together.range[2] not in {colour for colour, _ in marks.METHODS.values()}


def test_missing_runs_lower_n(evaluation):
    holes = evaluation.copy(deep=True)
    holes.top_identification.loc[{"stage1": "gdas", "seed": 2}] = np.nan
    assert "n = 2 to 3 seeds" in figures.curves(holes).to_dict()["title"]["subtitle"]


def test_single_run(runs, bench):
    one = runs.isel(seed=0).sel(stage1="gdas")
    for chart in (figures.training(one), figures.law(one.probs)):
        assert "n = 1 seed" in chart.to_dict()["title"]["subtitle"]


def test_one_dataset_at_a_time(evaluation):
    two = evaluation.expand_dims(dataset=["digits", "letters"])
    with pytest.raises(ValueError, match="choose it"):
        figures.curves(two)
    assert figures.curves(two.sel(dataset=["digits"])).to_dict()


def test_cell_draws_each_edge(drawn):
    ops = {r["edge"]: (r["op"], r["strength"]) for r in rows(drawn["cell"], "edge")}
    conv, skip = "nor_conv_3x3", "skip_connect"
    assert ops == {"1 ← 0": (conv, 1.0), "2 ← 0": (conv, 0.25), "2 ← 1": (conv, 0.25),
                   "3 ← 0": (skip, 1.0), "3 ← 1": (conv, 1.0)}


def test_empty_cell_and_wrong_cell():
    assert not rows(figures.cell(NB201.string([0] * 6)).to_dict(), "edge")
    with pytest.raises(ValueError, match="not an architecture"):
        figures.cell("|conv~0|")


def test_combinations_table(choices):
    page = tables.combinations(choices.accuracy).to_html()
    error = 100 - choices.accuracy
    assert "n = 3 seeds" in page
    for name in choices.stage1.values:
        mean, std = error.sel(stage1=name).mean("seed"), error.sel(stage1=name).std("seed")
        best = int(mean.argmin("stage2"))
        assert f"{float(mean[best]):.2f} ± {float(std[best]):.2f}" in page
    bold = page.split("font-weight: bold")[0]
    assert bold.count("_row") == choices.sizes["stage1"]


def test_other_tables(choices, evaluation, bench, runs):
    assert "R_I: trained, informed law" in tables.baselines(choices.accuracy).to_html()
    constant = evaluation.copy(deep=True)
    constant.spearman.loc[{"stage1": "none"}] = np.nan
    assert "–" in tables.stage1_summary(constant).to_html()
    assert "NAS-Bench-201, cifar10" in tables.quality(bench).to_html()
    plain = tables.numbers(pd.DataFrame({"n": [1234.56, np.nan], "text": ["a", "b"]}, ["x", "x"]), "Sizes").to_html()
    assert all(f">{text}<" in plain for text in ("1,234.6", "–", "a", "Sizes"))
    assert "A made-up run." in tables.scale(runs.assign_coords(dataset="digits"))._repr_markdown_()


def test_render_gives_specification_picture_and_words(drawn):
    bundle = charts.render(drawn["cell"])
    assert bundle[charts.MIME] == drawn["cell"]
    assert bundle["image/png"].startswith("iVBOR")
    assert "Cell |nor_conv_3x3~0|" in bundle["text/plain"]


def test_modes(monkeypatch):
    monkeypatch.delenv("NAS_CHARTS", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert charts.default_mode() == "book"
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/explore.ipynb")
    assert charts.default_mode() == "live"
    monkeypatch.setenv("NAS_CHARTS", "book")
    assert charts.default_mode() == "book"
    with pytest.raises(ValueError, match="use one of book, live"):
        charts.enable("paper")


def test_no_torch():
    code = "import sys, nas_lib.figures, nas_lib.tables, nas_lib.charts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_two_protocols_side_by_side(evaluation, choices):
    """Means and spreads of both protocols, pair by pair; pairs that one of them lacks are left out."""
    published = choices.accuracy.sel(stage1=["darts", "gdas"], seed=[0]) - 1
    spec = figures.paired_errors(choices.accuracy, published).to_dict()
    rows = next(rows for rows in spec["datasets"].values() if "x_mean" in rows[0])
    assert {(r["stage1"], r["stage2"]) for r in rows} == {(a, b) for a in ("darts", "gdas")
                                                          for b in choices.stage2.values}
    for r in rows:
        errors = 100 - choices.accuracy.sel(stage1=r["stage1"], stage2=r["stage2"])
        assert r["y_mean"] == pytest.approx(errors.mean().item(), abs=1e-4) and r["y_n"] == 3
        assert r["x_mean"] == pytest.approx(errors.sel(seed=0).item() + 1, abs=1e-4) and r["x_low"] == r["x_high"]
    assert "n = 1 to 3 seeds" in spec["title"]["subtitle"]
    wide = choices.accuracy.copy(data=np.broadcast_to([100.0, 100.0, 1.0], choices.accuracy.shape))    # std above the mean
    spec = figures.paired_errors(choices.accuracy, wide).to_dict()
    rows = next(rows for rows in spec["datasets"].values() if "x_mean" in rows[0])
    domains = [layer["encoding"][axis]["scale"]["domain"] for layer in spec["layer"] for axis in "xy"]
    assert {r["x_low"] for r in rows} == {0.1} and all(d == domains[0] and 0 < d[0] <= 0.1 for d in domains)
    table = tables.protocols(evaluation, evaluation.sel(seed=[0]))
    assert table.data.shape == (evaluation.sizes["stage1"], 6) and "n = 1 seed published" in table.caption
