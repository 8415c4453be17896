"""Figures of what things cost: how much faster than the plain form, and how time grows with size."""

from __future__ import annotations

import altair as alt
import pandas as pd
import xarray as xr

from nas_lib import marks
from nas_lib.marks import tidy, tips


def speed(ratios: xr.Dataset) -> alt.LayerChart:
    """How many times faster than the plain form: ``ratio``, ``low``, ``high`` ``(work, shape)``; the line is 1."""
    table = tidy(ratios).to_dataframe().reset_index().round(3)
    base = alt.Chart(table).encode(
        y=alt.Y("work:N", title=None, sort=None), yOffset=alt.YOffset("shape:N", sort=None),
        tooltip=tips("work", "shape", "ratio.2f=times faster", "low.2f=least", "high.2f=greatest"))
    bars = base.mark_bar(height={"band": 0.8}).encode(
        x=alt.X("ratio:Q", title="times faster than the plain form (log)", scale=alt.Scale(type="log", nice=False, padding=6),
                axis=alt.Axis(values=[1, 2, 4, 8, 16, 32, 64, 128], format="d")), x2=alt.datum(1),
        color=alt.Color("shape:N", title="supernet and images", sort=None, legend=alt.Legend(orient="bottom")))
    whiskers = base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q"), x2="high:Q")
    one = alt.Chart(pd.DataFrame({"x": [1]})).mark_rule(strokeDash=marks.DOT).encode(x="x:Q")
    return alt.layer(bars, whiskers, one).properties(
        width=520, height=alt.Step(16),
        title=alt.Title("How much faster?", subtitle="median over rounds, whiskers: least and greatest"),
        description=f"Ratios of the plain form's time to ours, from {table['ratio'].min():.1f} to {table['ratio'].max():.1f}.")


def growth(seconds: xr.DataArray, base: str) -> alt.FacetChart:
    """How the time of work grows with one size at a time, ``seconds (point, work, round)`` of ``growth.growth``.

    Points are medians over rounds, bars go from the least to the greatest; both axes are logarithmic, so that a straight line of
    slope 1 is proportional growth. ``base`` names the other sizes.
    """
    ms = 1000 * seconds
    table = xr.Dataset({"ms": ms.median("round"), "low": ms.min("round"), "high": ms.max("round")})
    table = table.to_dataframe().reset_index().dropna(subset=["ms"]).round(3)
    scale = alt.Scale(type="log", base=2, nice=False, padding=12)
    mark = alt.Chart(table).encode(
        x=alt.X("value:Q", title="size (log)", scale=scale, axis=alt.Axis(tickCount=4, format="d")),
        color=alt.Color("work:N", title=None, legend=alt.Legend(orient="bottom")))
    axis = alt.Y("ms:Q", title="time (ms, log)", scale=alt.Scale(type="log"), axis=alt.Axis(values=[1, 10, 100, 1000, 10000], format="d"))
    line = mark.mark_line(point=True).encode(y=axis, tooltip=tips("work", "axis", "value.0f", "ms.1f", "low.1f", "high.1f"))
    bars = mark.mark_rule().encode(y="low:Q", y2="high:Q")
    sizes = list(dict.fromkeys(seconds.axis.values.tolist()))
    return alt.layer(bars, line).properties(width=150, height=120).facet(
        facet=alt.Facet("axis:N", title=None, sort=sizes), columns=3, spacing=18).resolve_scale(x="independent").properties(
        title=alt.Title("How does the time grow?", subtitle=f"one size differs from {base}; n = {ms.sizes['round']} rounds"),
        description=f"Milliseconds of {' and '.join(map(str, seconds.work.values))} against {', '.join(sizes)}.")
