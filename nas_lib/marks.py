"""What the figures share: one colour and dash per method, means with their spread, grids, tooltips.

Colours come from Okabe & Ito's set for colour-blind readers, lightened where dark pages need it; a dash
or a shape always says the same as the colour.
"""

from __future__ import annotations

import itertools

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nas_lib.metrics import mean_std

SOLID, DASH, DOT, DASHDOT = [1, 0], [7, 3], [2, 2], [9, 2, 2, 2]
GREY, BLUE, ORANGE, RED, GREEN, PINK = "#8f959e", "#3d8fd1", "#e69f00", "#d55e00", "#009e73", "#cc79a7"
METHODS = {  # an informed or auxiliary variant is the dashed sister of its method
    "none": (GREY, SOLID), "none+": (GREY, DASH), "rsps": (BLUE, SOLID), "rsps2": (BLUE, DOT),
    "rsps+": (BLUE, DASH), "darts": (RED, SOLID), "darts-": (RED, DASH), "gdas": (GREEN, SOLID), "snas": (PINK, SOLID),
    "dirichlet": (ORANGE, SOLID),
}
SPARE = [("#9467bd", SOLID), ("#8c6d31", SOLID), ("#17a2b8", SOLID), ("#9467bd", DASH), ("#8c6d31", DASH)]
OPS = {"skip_connect": (BLUE, DASH), "nor_conv_1x1": (ORANGE, SOLID), "nor_conv_3x3": (RED, SOLID),
       "avg_pool_3x3": (GREEN, DASHDOT)}
DIFFERENCES = {  # reliance on the law in blues, on the shared weights in oranges
    "N_I-N_U": ("law, on untrained weights (N_I − N_U)", "#8cc4ee", "circle"),
    "R_I-R_U": ("law, on trained weights (R_I − R_U)", "#2f7fc1", "square"),
    "R_U-N_U": ("weights, under the uniform law (R_U − N_U)", "#f2b36b", "triangle-up"),
    "R_I-N_I": ("weights, under the informed law (R_I − N_I)", RED, "diamond"),
}


def method_scales(names) -> tuple[alt.Scale, alt.Scale]:
    """Colour and dash scale of Stage-1 methods; one that is not in ``METHODS`` takes a spare pair."""
    spare = itertools.cycle(SPARE)
    pairs = [METHODS.get(str(n)) or next(spare) for n in names]
    names = [str(n) for n in names]
    return (alt.Scale(domain=names, range=[c for c, _ in pairs]),
            alt.Scale(domain=names, range=[d for _, d in pairs]))


def spread(x: xr.DataArray) -> pd.DataFrame:
    """Long table of mean, std, low, high (mean -+ population std) and n over ``seed``.

    A single run has n = 1.
    """
    stats = mean_std(x if "seed" in x.dims else x.expand_dims("seed"))
    stats = stats.assign(low=stats["mean"] - stats["std"], high=stats["mean"] + stats["std"])
    return stats.to_dataframe().reset_index().dropna(subset=["mean"]).round(5)


def n_text(counts) -> str:
    """ "n = 3 seeds", or a range where runs are missing."""
    counts = [int(c) for c in np.ravel(counts) if c > 0] or [0]
    low, high = min(counts), max(counts)
    return f"n = {low} seed{'s' * (low != 1)}" if low == high else f"n = {low} to {high} seeds"


def tidy(x):
    """``x`` without its ``dataset`` dimension, and with Stage-1 methods in the order of ``METHODS``.

    Raises ValueError if there is more than one data set.
    """
    if "dataset" in x.dims:
        if x.sizes["dataset"] != 1:
            raise ValueError("a figure or table shows one data set: choose it with .sel(dataset=...)")
        x = x.isel(dataset=0, drop=True)
    if "stage1" in x.dims:
        known = list(METHODS)
        names = x.stage1.values.tolist()
        x = x.sel(stage1=sorted(names, key=lambda n: known.index(n) if n in known else len(known)))
    return x


def told_apart(names) -> dict:
    """Stroke and fill of marks by Stage-1 method: of two with one colour, that whose lines are dashed is hollow."""
    colour, dash = method_scales(names)
    fill = [c if d == SOLID else "transparent" for c, d in zip(colour.range, dash.range, strict=True)]
    legend = alt.Legend(orient="bottom", symbolOpacity=1, columns=5)
    return {"stroke": alt.Stroke("stage1:N", title="Stage 1", scale=colour, legend=legend),
            "fill": alt.Fill("stage1:N", title="Stage 1", legend=legend,
                             scale=alt.Scale(domain=colour.domain, range=fill))}


def tips(*fields: str) -> list[alt.Tooltip]:
    """Tooltips from "name", "name.2f" (number format) or "name.2f=title"."""
    made = []
    for field in fields:
        field, _, title = field.partition("=")
        name, _, digits = field.partition(".")
        options = {"format": f".{digits}"} if digits else {}
        made.append(alt.Tooltip(f"{name}:{'Q' if digits else 'N'}", title=title or name, **options))
    return made


def banded(table: pd.DataFrame, names, x: alt.X, y: str, zero: bool = True) -> tuple[alt.Chart, alt.Chart]:
    """Band (low to high) and line (mean) of every Stage-1 method in ``names``; ``y`` is the axis title."""
    colour, dash = method_scales(names)
    legend = alt.Legend(orient="bottom", symbolType="stroke", symbolSize=300, symbolOpacity=1)
    axis = alt.Y("low:Q", title=y, scale=alt.Scale(zero=zero))
    base = alt.Chart(table).encode(
        x=x, color=alt.Color("stage1:N", title="Stage 1", scale=colour, legend=legend))
    band = base.mark_area(opacity=0.18).encode(y=axis, y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(
        y="mean:Q", strokeDash=alt.StrokeDash("stage1:N", title="Stage 1", scale=dash),
        tooltip=tips("stage1", f"{x.to_dict()['field']}.4~g", "mean.3f", "std.3f", "n"))
    return band, line


def grid(x, y, bins: int) -> pd.DataFrame:
    """How many points fall into each cell of a bins x bins grid: rows x0, x1, y0, y1, count.

    ``x`` and ``y`` have one shape; pairs with a NaN and empty cells are left out.
    """
    keep = np.isfinite(x) & np.isfinite(y)
    return filled(*np.histogram2d(np.asarray(x)[keep], np.asarray(y)[keep], bins=bins))


def filled(count: np.ndarray, ex: np.ndarray, ey: np.ndarray) -> pd.DataFrame:
    """The cells of a histogram ``count [x, y]`` with these edges that are not empty, as ``grid`` has them."""
    i, j = np.nonzero(count)
    table = {"x0": ex[i], "x1": ex[i + 1], "y0": ey[j], "y1": ey[j + 1], "count": count[i, j]}
    return pd.DataFrame(table).round(2)


def heat(table: pd.DataFrame | alt.Chart, x: str, y: str, width: int, height: int) -> alt.Chart:
    """Heat map of a ``grid``, or of a chart that computes one; ``x`` and ``y`` are the axis titles."""
    scale = alt.Scale(zero=False, nice=False)
    base = table if isinstance(table, alt.Chart) else alt.Chart(table)
    return base.mark_rect().encode(
        x=alt.X("x0:Q", title=x, scale=scale), x2="x1:Q", y=alt.Y("y0:Q", title=y, scale=scale), y2="y1:Q",
        color=alt.Color("count:Q", scale=alt.Scale(type="log", scheme="viridis"), title="architectures",
                        legend=alt.Legend(tickCount=4, format="d")),
        tooltip=tips(f"x0.1f={x}", f"y0.1f={y}", "count.0f=architectures"),
    ).properties(width=width, height=height)
