"""Figures about the paper itself: its tables against ours, pairs by their score, the methods it reviews.

As in ``figures``: errors and accuracies in percent, spreads are population standard deviations over seeds, n stands in
the subtitle, and every chart carries a description.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nas_lib import marks
from nas_lib.marks import n_text, spread, tidy, tips
from nas_lib.pairs import agreement, interval
from nas_lib.published import STAGE2


def against_published(accuracy: xr.DataArray, published: xr.Dataset) -> alt.HConcatChart:
    """Our test error of every pair against the printed one, one panel per data set of the paper.

    ``accuracy`` (stage1, stage2, seed) in percent; ``published``: ``mean``, ``std``, ``n`` (dataset, stage1, stage2) of
    errors. Both axes are logarithmic: a few entries are far above the others.
    """
    ours = 100 - tidy(accuracy)
    names = [n for n in ours.stage1.values.tolist() if n in published.stage1.values]
    own = spread(ours.sel(stage1=names)).set_index(["stage1", "stage2"])
    panels, said = [], []
    for dataset in published.dataset.values:
        printed = published[["mean", "std"]].sel(dataset=dataset, drop=True)
        found = agreement(ours, printed["mean"])
        rho = f"ρ = {interval(found)}"
        side = printed.to_dataframe().rename(columns={"mean": "printed", "std": "printed_std"})
        table = own.join(side, how="inner").reset_index()
        gap = table["printed_std"].fillna(0.0)                # one column of Table 5 lost its deviations
        table = table.assign(left=(table["printed"] - gap).clip(lower=1), right=table["printed"] + gap).round(4)
        panels.append(_panel(table, names, first=not panels).properties(title=alt.Title(str(dataset), subtitle=rho)))
        said.append(f"{dataset}: {rho}")
    return alt.hconcat(*panels, spacing=24).properties(
        title=alt.Title("Do our pairs come in the printed order?", subtitle=[
            f"mean and ± population std, ours over {n_text(own['n'])}, printed over {n_text(published['n'])}",
            "ρ: Spearman over pairs; in brackets 95 % bootstrap over pairs and our seeds"]),
        description=f"Our test error of every pair against the printed one. {'; '.join(said)}.")


def _panel(table, names, first):
    look = marks.told_apart(names)
    scale = alt.Scale(type="log", nice=False, padding=12)
    axis = alt.Axis(tickCount=5, format="~g", grid=False)
    x = alt.X("printed:Q", title="printed test error (%, log scale)", scale=scale, axis=axis)
    y = alt.Y("mean:Q", title="our test error (%, log scale)" if first else None, scale=scale, axis=axis)
    legend = alt.Legend(orient="bottom", symbolOpacity=1, columns=5)
    base = alt.Chart(table).encode(tooltip=tips("stage1", "stage2", "printed.2f=printed (%)", "printed_std.2f=its std",
                                                "mean.2f=ours (%)", "std.2f=our std", "n"))
    rules = base.mark_rule(opacity=0.35).encode(stroke=look["stroke"])
    points = base.mark_point(size=55, opacity=1, strokeWidth=1.6).encode(
        x=x, y=y, **look,
        shape=alt.Shape("stage2:N", title="Stage 2", legend=legend, sort=STAGE2))
    flat = rules.encode(x=alt.X("left:Q", scale=scale), x2="right:Q", y=y)
    steep = rules.encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q")
    return alt.layer(flat, steep, points).properties(width=185, height=215)


def pairs_by_score(score: xr.DataArray, stats: xr.Dataset, title: str) -> alt.LayerChart:
    """Pairs in the order of their score, worst first: test accuracy on the left axis, score on the right.

    ``score`` (stage1, stage2), low is good; ``stats``: ``mean``, ``std``, ``n`` (stage1, stage2) of the test error in
    percent.
    """
    table = xr.merge([score.rename("score"), stats[["mean", "std"]]], join="inner", compat="no_conflicts")
    rows = table.to_dataframe().reset_index().dropna(subset=["score", "mean"])
    rows = rows.sort_values(["score", "stage1", "stage2"], ascending=[False, True, True])
    gap = rows["std"].fillna(0.0)
    rows = rows.assign(pair=rows["stage1"] + " + " + rows["stage2"], accuracy=100 - rows["mean"],
                       low=100 - rows["mean"] - gap, high=100 - rows["mean"] + gap).round(4)
    rho = float(agreement(score, stats["mean"]).rho)
    x = alt.X("pair:N", title="Stage 1 + Stage 2", sort=rows["pair"].tolist(), axis=alt.Axis(labelAngle=-50, grid=False))
    tip = tips("pair", "accuracy.2f=accuracy (%)", "std.2f", "score.1f")
    left = alt.Y("accuracy:Q", scale=alt.Scale(zero=False),
                 title="test accuracy (%)", axis=alt.Axis(titleColor=marks.BLUE, labelColor=marks.BLUE, grid=True))
    base = alt.Chart(rows).encode(x=x, tooltip=tip)
    whiskers = base.mark_rule(color=marks.BLUE, opacity=0.45).encode(
        y=alt.Y("low:Q", scale=alt.Scale(zero=False)), y2="high:Q")
    points = base.mark_point(filled=True, size=60, opacity=1, color=marks.BLUE).encode(y=left)
    right = alt.Y("score:Q", scale=alt.Scale(type="log"), title="score (log scale, low is good)",
                  axis=alt.Axis(titleColor=marks.RED, labelColor=marks.RED, orient="right", grid=False, tickCount=4))
    steps = base.mark_line(color=marks.RED, interpolate="step", strokeDash=marks.DASH).encode(y=right)
    return alt.layer(alt.layer(whiskers, points), steps).resolve_scale(y="independent").properties(
        width=620, height=240,
        title=alt.Title(title, subtitle=[
            f"points: mean accuracy, whiskers: ± population std over {n_text(stats['n'])}; dashed: score",
            f"{len(rows)} pairs, worst score first; Spearman of score and error {rho:.2f}"]),
        description=f"Test accuracy and score of {len(rows)} pairs of Stage 1 and Stage 2 in the order of the score, "
                    f"from {rows['pair'].iloc[0]} to {rows['pair'].iloc[-1]}; Spearman of score and error {rho:.2f}.")


def review_bars(counts: pd.Series) -> alt.LayerChart:
    """Number of reviewed methods per kind of Stage 2, ``counts`` indexed by the kind."""
    table = counts.rename("methods").rename_axis("selection").reset_index()
    y = alt.Y("selection:N", title="Stage 2", sort=table["selection"].tolist())
    base = alt.Chart(table).encode(y=y, x=alt.X("methods:Q", title="number of methods", axis=alt.Axis(grid=False)),
                                   tooltip=tips("selection", "methods.0f=methods"))
    n = int(np.sum(table["methods"]))
    said = ", ".join(f"{m} {s.lower()}" for s, m in zip(table["selection"], table["methods"], strict=True))
    return alt.layer(base.mark_bar(color=marks.BLUE, cornerRadius=1.5),
                     base.mark_text(align="left", dx=5).encode(text="methods:Q")).properties(
        width=470, height=150,
        title=alt.Title("How do published methods select?", subtitle=f"{n} methods of the paper's review (Table 4)"),
        description=f"Number of reviewed methods per kind of Stage 2: {said}.")


def two_ways(values: xr.DataArray, axis: str, title: str) -> alt.LayerChart:
    """One measure computed in two ways: ``values`` (case, way, seed), the corrected way first; ``axis`` with its unit.

    A line joins the two means of a case, whiskers are population standard deviations, small marks single seeds.
    """
    case, way = (d for d in values.dims if d != "seed")
    table, ways = spread(values), values[way].values.tolist()
    seeds = values.to_dataset(name="value").to_dataframe().reset_index().dropna().round(4)
    y = alt.Y(f"{case}:N", title=None, sort=values[case].values.tolist(), axis=alt.Axis(labelLimit=0))
    colour = alt.Scale(domain=ways, range=[marks.BLUE, marks.RED])
    look = {"color": alt.Color(f"{way}:N", title=way, scale=colour, legend=alt.Legend(orient="bottom", symbolOpacity=1)),
            "shape": alt.Shape(f"{way}:N", title=way, scale=alt.Scale(domain=ways, range=["circle", "diamond"]))}
    base = alt.Chart(table).encode(y=y)
    x = alt.X("mean:Q", title=axis, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    joined = base.mark_line(color=marks.GREY, strokeWidth=1).encode(x=x, detail=f"{case}:N")
    whiskers = base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q"), x2="high:Q", color=look["color"])
    singles = alt.Chart(seeds).mark_point(size=14, opacity=0.5).encode(x="value:Q", y=y, **look)
    means = base.mark_point(size=70, filled=True, opacity=1).encode(
        x=x, **look, tooltip=tips(case, way, "mean.3f", "std.3f", "n"))
    return alt.layer(joined, singles, whiskers, means).properties(
        width=260, height=alt.Step(26),
        title=alt.Title(title, subtitle=[f"mean and ± population std over {n_text(table['n'])}", "small: single seeds"]),
        description=f"{title} {axis} by {case}, computed in two ways: {' and '.join(map(str, ways))}.")
