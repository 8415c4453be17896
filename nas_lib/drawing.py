"""The drawing of one cell: nodes in a row, an arc per edge."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from nas_lib import marks
from nas_lib.marks import tips
from nas_lib.spaces import NB201


def cell(arch: str, title: str = "") -> alt.LayerChart:
    """One cell as a graph, data flowing from left to right.

    An edge is coloured and dashed by its operation, faint where nothing passes from input to output,
    absent for ``none``. Raises ValueError if ``arch`` is no cell.
    """
    ops = NB201.parse(arch)
    on = np.where(NB201.live(ops), 1.0, 0.25)
    arcs = [_arc(source, target, NB201.ops[op], strength)
            for (target, source), op, strength in zip(NB201.edges, ops, on, strict=True)]
    path = pd.concat(arcs).query("op != 'none'")
    at = {"x": alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-0.2, 3.2])),
          "y": alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.85, 1.3]))}
    colours, dashes = zip(*marks.OPS.values(), strict=True)
    base = alt.Chart(path).encode(
        **at, opacity=alt.Opacity("strength:Q", scale=None), tooltip=tips("edge", "op"),
        color=alt.Color("op:N", title=None, scale=alt.Scale(domain=list(marks.OPS), range=colours),
                        legend=alt.Legend(orient="bottom", symbolSize=250, symbolOpacity=1)))
    lines = base.mark_line(strokeWidth=2.5).encode(detail="edge:N", order="step:O", strokeDash=alt.StrokeDash(
        "op:N", title=None, scale=alt.Scale(domain=list(marks.OPS), range=dashes)))
    heads = base.transform_filter("datum.step == 14").mark_point(
        shape="triangle-right", filled=True, size=90).encode(angle=alt.Angle("turn:Q", scale=None))
    nodes = alt.Chart(pd.DataFrame({"x": range(4), "y": 0, "name": ["in", "1", "2", "out"]})).encode(**at)
    names = nodes.mark_text(color="white", fontSize=11).encode(text="name:N")
    discs = nodes.mark_circle(size=620, color="#5a6270", opacity=1)
    return alt.layer(lines, heads, discs, names).properties(
        width=230, height=150, title=alt.Title(title, fontSize=11),
        description=f"Cell {arch}. {title}".strip())


def _arc(source, target, op, strength, steps=25):
    """Points of an edge between two nodes on a line; the six arcs are laid out so that no two cross."""
    t = np.linspace(0, 1, steps)
    height = {(0, 2): 0.55, (1, 3): -0.65, (0, 3): 1.15}.get((source, target), 0.0)
    x, y = source + (target - source) * t, height * np.sin(np.pi * t)
    # Direction in pixels (230 x 150 for a domain of 3.4 x 2.15), clockwise because screens count y down.
    turn = np.degrees(np.arctan2(-np.gradient(y) * 150 / 2.15, np.gradient(x) * 230 / 3.4))
    return pd.DataFrame({"x": x, "y": y, "turn": turn, "step": range(steps), "op": op,
                         "strength": strength, "edge": f"{target} ← {source}"}).round(3)
