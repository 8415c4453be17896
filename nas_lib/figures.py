"""Figures: a Dataset in, an Altair chart out, one function per figure.

Means run over ``seed``; bands and whiskers are population standard deviations, and n stands in the
subtitle. Accuracies and errors in percent. Every chart carries a description for screen readers.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nas_lib import marks
from nas_lib.drawing import cell, chooser  # noqa: F401  drawn by its own module, called from here
from nas_lib.marks import banded, filled, grid, heat, n_text, spread, tidy, tips
from nas_lib.metrics import spearman


def curves(evaluation: xr.Dataset, stage1: list[str] | None = None) -> alt.HConcatChart:
    """Stage 1 alone: do scores and laws find the best architectures, against what counts as best.

    ``evaluation(stage1, seed, threshold)`` with ``top_identification``, ``sampling_mass``, ``random`` and the
    coordinate ``error(threshold)``; ``stage1`` picks and orders methods. The right panel drops the laws that
    lie on the baseline: a uniform sampler has nothing to show.
    """
    data = tidy(evaluation)
    data = data.sel(stage1=stage1) if stage1 else data
    names = data.stage1.values.tolist()
    lawful = (abs(data.sampling_mass - data.random) > 1e-3).any(("seed", "threshold"))
    left = _curves(data.top_identification, data.random, names, "top-architecture-identification rate")
    mass = data.sampling_mass[{"stage1": lawful.values}]
    right = _curves(mass, data.random, names, "sampling-probability mass")
    return alt.hconcat(
        left.properties(title="Found by shared-weight accuracy"),
        right.properties(title="Found by sampling"), spacing=30).properties(
        title=alt.Title("Do the best architectures surface?", subtitle="mean and ± population std over "
                        f"{n_text(data.top_identification.count('seed'))}; dotted: random choice"),
        description="Top-architecture-identification rate and sampling-probability mass against the "
                    f"test-error threshold, for {', '.join(names)} and random choice.")


def _curves(values, random, names, axis):
    x = alt.X("error:Q", title="test-error threshold (%, log scale)",
              axis=alt.Axis(tickCount=6, grid=False), scale=alt.Scale(type="log", nice=False))
    band, line = banded(spread(values), names, x, axis)
    chance = random.to_dataset(name="mean").to_dataframe().reset_index().round(5)
    dotted = alt.Chart(chance).mark_line(strokeDash=marks.DOT, color=marks.GREY).encode(
        x=x, y="mean:Q", tooltip=tips("error.2f=error (%)", "mean.3f=random choice"))
    return alt.layer(band, dotted, line).properties(width=290, height=260)


def reliance_bars(reliance: xr.DataArray) -> alt.LayerChart:
    """Stage 2 alone: gain in test accuracy from a better law or from trained weights.

    ``reliance(difference, stage2, seed)`` in points.
    """
    data = tidy(reliance)
    keys = [k for k in marks.DIFFERENCES if k in data.difference.values]
    labels, colours, shapes = zip(*(marks.DIFFERENCES[k] for k in keys), strict=True)
    table = spread(data)
    seeds = data.to_dataset(name="gain").to_dataframe().reset_index().dropna().round(4)
    for t in (table, seeds):
        t["pair"] = t["difference"].map(dict(zip(keys, labels, strict=True)))
    at = {"x": alt.X("stage2:N", title="Stage 2", axis=alt.Axis(labelAngle=0),
                     sort=data.stage2.values.tolist()),
          "xOffset": alt.XOffset("pair:N", scale=alt.Scale(domain=labels, paddingInner=0.15))}
    legend = alt.Legend(orient="bottom", columns=2, labelLimit=0, symbolOpacity=1, symbolStrokeWidth=0)
    title = "gain from a better …"  # colour and shape say the same, so they share one legend
    base = alt.Chart(table).encode(**at)
    bars = base.mark_bar(cornerRadius=1.5).encode(
        y=alt.Y("mean:Q", title="gain in test accuracy (points)"),
        color=alt.Color("pair:N", title=title, legend=legend, scale=alt.Scale(domain=labels, range=colours)),
        tooltip=tips("stage2", "difference", "mean.2f", "std.2f", "n"))
    whiskers = base.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high:Q")
    singles = alt.Chart(seeds).mark_point(size=28, strokeWidth=1.2, color="#7d848e").encode(
        **at, y="gain:Q", tooltip=tips("stage2", "difference", "seed", "gain.2f"),
        shape=alt.Shape("pair:N", title=title, legend=legend, scale=alt.Scale(domain=labels, range=shapes)))
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule().encode(y="y:Q")
    return alt.layer(bars, zero, whiskers, singles).properties(
        width=620, height=300,
        title=alt.Title("What does a selection method live on?", subtitle="bars: mean; whiskers: "
                        f"± population std; marks: single seeds; {n_text(table['n'])}"),
        description="Gain in test accuracy from an informed law and from trained weights, for the Stage-2 "
                    f"methods {', '.join(data.stage2.values.tolist())}.")


def score_vs_truth(where: xr.Dataset) -> alt.FacetChart:
    """Shared-weight accuracy against true accuracy, counted on a grid: see ``evaluate.score_map`` for ``where``."""
    where = tidy(where[["count", "score_range", "truth_range", "spearman"]])
    where = where.isel(stage1=(where["count"].sum(("score_bin", "truth_bin")) > 0).values)
    rho, parts = where.spearman.mean("seed"), {}
    for name in where.stage1.values:
        one = where.sel(stage1=name)
        label = f"{name} · ρ = {float(rho.sel(stage1=name).round(2)) + 0.0:.2f}"  # no "-0.00"
        ends = [np.linspace(*one[v].values, one.sizes["truth_bin"] + 1) for v in ("truth_range", "score_range")]
        parts[label] = filled(one["count"].values.T, *ends)
    table = pd.concat(parts, names=["panel"]).reset_index()
    counts = n_text(where.spearman.count("seed"))
    return heat(table, "true test accuracy (%)", "shared-weight accuracy (%)", 185, 165).facet(
        facet=alt.Facet("panel:N", title=None, sort=list(parts)), columns=3, spacing=22).resolve_scale(
        y="independent").properties(
        title=alt.Title("Does shared-weight accuracy predict true accuracy?",
                        subtitle=f"colour: architectures, all seeds; ρ: mean Spearman correlation, {counts}"),
        description=f"Heat maps of shared-weight against true accuracy. {'; '.join(parts)}.")


def accuracy_distribution(truth: xr.DataArray, step: float = 1.0) -> alt.LayerChart:
    """Histogram of the true test accuracies ``truth(arch)`` in bins of ``step`` points, and their median."""
    values = tidy(truth).values
    edges = np.arange(np.floor(values.min()), values.max() + step, step)
    count, _ = np.histogram(values, edges)
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "count": count}).query("count > 0")
    bars = alt.Chart(table).mark_bar(color=marks.BLUE, binSpacing=1).encode(
        x=alt.X("low:Q", title="test accuracy (%)", bin="binned", axis=alt.Axis(tickCount=10, grid=False)),
        x2="high",
        y=alt.Y("count:Q", title="architectures", scale=alt.Scale(type="symlog", constant=10),
                axis=alt.Axis(values=[0, 10, 30, 100, 300, 1000, 3000, 10000])),
        tooltip=tips("low.1f=from (%)", "high.1f=to (%)", "count.0f=architectures"))
    median = float(np.median(values))
    rule = alt.Chart(pd.DataFrame({"x": [median]})).mark_rule(strokeDash=marks.DASH).encode(x="x:Q")
    return alt.layer(bars, rule).properties(
        width=620, height=220,
        title=alt.Title("How good are the architectures?",
                        subtitle=f"{len(values):,} architectures; dashed: median {median:.1f} %"),
        description=f"Histogram of the true test accuracy of {len(values)} architectures, "
                    f"median {median:.1f} percent.")


def seed_agreement(bench: xr.Dataset, bins: int = 40) -> alt.Chart:
    """Mean test accuracy over half of the training seeds against the other half.

    ``bench.test(arch, train_seed)``; give one architecture of each kind, or copies count as agreement. While
    there is one seed only, its validation accuracy stands against its test accuracy.
    """
    test = tidy(bench.test)
    half = test.sizes["train_seed"] // 2
    a, b = (test.isel(train_seed=s).mean("train_seed") for s in (slice(half), slice(half, None)))
    sides, first, second = f"{half} against {test.sizes['train_seed'] - half} seeds", "first seeds", "other seeds"
    if not half:
        a, b = tidy(bench.valid).isel(train_seed=0), test.isel(train_seed=0)
        sides, first, second = "one seed: other images, not another seed", "validation images", "test images"
    floor = np.quantile(np.minimum(a, b), 0.03)
    what = f"{test.sizes['arch']:,} architectures, {sides}, Spearman {float(spearman(a, b)):.3f}"
    table = grid(np.maximum(a, floor), np.maximum(b, floor), bins)
    chart = heat(table, f"{first}: accuracy (%)", f"{second}: accuracy (%)", 340, 300)
    return chart.properties(
        title=alt.Title("Do training seeds agree?",
                        subtitle=[what, "the lowest 3 % share the first row and column"]),
        description=f"Half-split agreement of training seeds: {what}.")


def training(history: xr.Dataset) -> alt.HConcatChart:
    """Loss and accuracies over epochs: ``train_loss``, ``train_accuracy``, ``valid_accuracy``
    ``([stage1,] [seed,] epoch)``."""
    history = tidy(history if "stage1" in history.dims else history.expand_dims("stage1"))
    trained = history.train_loss.notnull().any([d for d in history.train_loss.dims if d != "stage1"])
    history = history.isel(stage1=trained.values)
    history = history.assign_coords(epoch=np.arange(1, history.sizes["epoch"] + 1))
    names = [str(n) for n in history.stage1.values]
    panels = []
    for var, axis in {"train_loss": "training loss (nats)", "train_accuracy": "training accuracy (%)",
                      "valid_accuracy": "validation accuracy (%)"}.items():
        x = alt.X("epoch:Q", axis=alt.Axis(tickMinStep=1, grid=False), scale=alt.Scale(zero=False))
        band, line = banded(spread(history[var]), names, x, axis, zero=False)
        panels.append(alt.layer(band, line).properties(width=175, height=180))
    counts = n_text(history.train_loss.count("seed") if "seed" in history.dims else 1)
    return alt.hconcat(*panels, spacing=22).properties(
        title=alt.Title("Training", subtitle=f"mean and ± population std over {counts}"),
        description=f"Loss and accuracies over epochs of {', '.join(names)}.")


def law(probs: xr.DataArray) -> alt.FacetChart:
    """Heat map of the law handed over: mean over seeds of ``probs([stage1,] [seed,] edge, op)``.

    Methods with a uniform law are left out, unless there are no others.
    """
    probs = tidy(probs if "stage1" in probs.dims else probs.expand_dims("stage1"))
    tilted = (abs(probs - 1 / probs.sizes["op"]) > 0.01).any([d for d in probs.dims if d != "stage1"])
    probs = probs.isel(stage1=tilted.values) if tilted.any() else probs
    table = spread(probs)
    base = alt.Chart(table).encode(
        x=alt.X("op:N", title="operation", sort=probs.op.values.tolist(), axis=alt.Axis(labelAngle=-40)),
        y=alt.Y("edge:N", title="edge (target ← source)", sort=probs.edge.values.tolist(),
                axis=alt.Axis(labelExpr="replace(datum.label, '<-', ' ← ')")))
    tiles = base.mark_rect(stroke="white", strokeOpacity=0.25).encode(
        color=alt.Color("mean:Q", title="probability", scale=alt.Scale(scheme="viridis", domain=[0, 1])),
        tooltip=tips("stage1", "edge", "op", "mean.3f", "std.3f", "n"))
    words = base.mark_text(fontSize=10).encode(
        text=alt.Text("mean:Q", format=".2f"),
        color=alt.condition("datum.mean > 0.6", alt.value("#1a1a1a"), alt.value("white")))
    return alt.layer(tiles, words).properties(width=185, height=165).facet(
        facet=alt.Facet("stage1:N", title=None, sort=probs.stage1.values.tolist()), columns=3).properties(
        title=alt.Title("Which operation, edge by edge?",
                        subtitle=f"mean probability over {n_text(table['n'])}"),
        description="Probability of each operation on each edge under the law that Stage 1 hands over.")


def paired_errors(corrected: xr.DataArray, published: xr.DataArray) -> alt.LayerChart:
    """Test error of every pair of stages under the two protocols; accuracies ``(stage1, stage2, seed)`` in percent.

    Whiskers are population standard deviations over seeds; on the dotted line nothing changes. Both axes are the same,
    and logarithmic: a few pairs err far more than the others.
    """
    sides = {"x": 100 - tidy(published), "y": 100 - tidy(corrected)}
    tables = {k: spread(v).set_index(["stage1", "stage2"]).add_prefix(f"{k}_") for k, v in sides.items()}
    table = tables["x"].join(tables["y"], how="inner").reset_index()
    lows, highs = ["x_low", "y_low"], ["x_high", "y_high"]
    table[lows] = table[lows].clip(lower=0.1)                       # a logarithm ends where a deviation may not
    ends = [table[lows].min(axis=None) * 0.95, table[highs].max(axis=None) * 1.05]
    names = [n for n in tidy(corrected).stage1.values.tolist() if n in set(table["stage1"])]
    look = marks.told_apart(names)
    axis = {"scale": alt.Scale(type="log", nice=False, domain=ends), "axis": alt.Axis(tickCount=6, format="~g")}
    base = alt.Chart(table).encode(tooltip=tips("stage1", "stage2", "x_mean.2f=published (%)", "x_n=published, seeds",
                                                "y_mean.2f=corrected (%)", "y_n=corrected, seeds"))
    rules = base.mark_rule(opacity=0.45).encode(stroke=look["stroke"])
    x = alt.X("x_mean:Q", title="test error under the published protocol (%, log scale)", **axis)
    y = alt.Y("y_mean:Q", title="test error under the corrected protocol (%, log scale)", **axis)
    points = base.mark_point(size=70, opacity=1, strokeWidth=1.6).encode(
        x=x, y=y, **look, shape=alt.Shape("stage2:N", title="Stage 2", sort=corrected.stage2.values.tolist(),
                                          legend=alt.Legend(orient="bottom", columns=5)))
    flat = rules.encode(x=alt.X("x_low:Q", **axis), x2="x_high:Q", y=y)
    steep = rules.encode(x=x, y=alt.Y("y_low:Q", **axis), y2="y_high:Q")
    same = alt.Chart(pd.DataFrame({"v": ends})).mark_line(strokeDash=marks.DOT, color=marks.GREY).encode(
        x=alt.X("v:Q", **axis), y=alt.Y("v:Q", **axis))
    counts = n_text([*table["x_n"], *table["y_n"]])
    return alt.layer(same, flat, steep, points).properties(
        width=420, height=420,
        title=alt.Title("Does the protocol change the result?",
                        subtitle=f"mean and ± population std over {counts}; dotted: no change"),
        description=f"Test error of {len(table)} pairs of Stage 1 and Stage 2 under the published and the corrected "
                    "protocol.")


def forest(mean: xr.DataArray, bounds: xr.DataArray, axis: str, title: str, subtitle: str) -> alt.FacetChart:
    """``mean`` (stage1, stage2) with its interval ``bounds`` (stage1, stage2, bound), a panel for each Stage 2.

    ``axis`` with its unit; a dotted line stands at 0 where an interval comes near it.
    """
    mean, bounds = tidy(mean), tidy(bounds)
    names, panels = mean.stage1.values.tolist(), mean.stage2.values.tolist()
    table = xr.Dataset({"mean": mean, "low": bounds.sel(bound="low", drop=True), "high": bounds.sel(bound="high", drop=True)})
    table = table.to_dataframe().reset_index().dropna(subset=["mean"]).round(3)
    colour = marks.method_scales(names)[0]
    base = alt.Chart(table).encode(
        y=alt.Y("stage1:N", title="Stage 1", sort=names), color=alt.Color("stage1:N", scale=colour, legend=None),
        tooltip=tips("stage1", "stage2", "mean.2f", "low.2f", "high.2f"))
    rules = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=axis, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)), x2="high:Q")
    points = base.mark_point(filled=True, size=50, opacity=1).encode(x="mean:Q")
    layers = [rules, points]
    if table["low"].min() < 0:
        layers.insert(0, alt.Chart(table).mark_rule(strokeDash=marks.DOT, aria=False).encode(x=alt.datum(0)))
    return alt.layer(*layers).properties(width=165, height=alt.Step(20)).facet(
        facet=alt.Facet("stage2:N", title=None, sort=panels), columns=3, spacing=18).properties(
        title=alt.Title(title, subtitle=subtitle),
        description=f"{title} {axis} of {', '.join(names)}, in a panel for each of {', '.join(panels)}, with intervals.")


def best_cells(truth: xr.DataArray, count: int = 6) -> alt.ConcatChart:
    """The ``count`` best cells of ``truth(arch)``, drawn, best first."""
    best = tidy(truth)
    best = best.sortby(best, ascending=False)[:count]
    drawn = [cell(str(a), f"{v:.2f} %") for a, v in zip(best.arch.values, best.values, strict=True)]
    return alt.concat(*drawn, columns=3, spacing=14).properties(
        description=f"The {count} best cells, from {best.values[0]:.2f} to {best.values[-1]:.2f} percent.")
