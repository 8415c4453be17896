"""The drawing of cells: nodes from left to right, an arc per edge."""

from __future__ import annotations

import json
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from nas_lib import marks
from nas_lib.marks import BLUE, DASH, DASHDOT, DOT, GREEN, GREY, ORANGE, PINK, RED, SOLID, tips
from nas_lib.spaces import NB201
from nas_lib.spaces.genotype import NODES, parse


@dataclass(frozen=True, eq=False)     # each is itself, so that it can be a key
class _Canvas:
    """Where a kind of cell has its nodes and arcs, and how its operations are drawn."""

    names: tuple[str, ...]          # of the nodes, as they stand in the picture
    numbers: tuple[str, ...]        # and in the tips
    x: tuple[float, ...]
    y: tuple[float, ...]
    bow: dict[tuple[int, int], float]   # (source, target) -> height of its arc over the straight line
    ops: dict[str, tuple[str, list]]
    domain: tuple[list[float], list[float]]
    width: int


STATES = ("k−2", "k−1", *map(str, range(NODES)))
ONE = _Canvas(names=("in", "1", "2", "out"), numbers=("0", "1", "2", "3"), x=(0, 1, 2, 3), y=(0, 0, 0, 0),
              bow={(0, 2): 0.55, (1, 3): -0.65, (0, 3): 1.15},      # no two of the six arcs cross
              ops=marks.OPS, domain=([-0.2, 3.2], [-0.85, 1.3]), width=230)
PAIR = _Canvas(names=STATES, numbers=STATES, x=(0, 0, 1, 2, 3, 4), y=(0.5, -0.5) * 3,
               bow={(0, 4): 0.5, (1, 5): -0.5, (0, 5): -0.15},      # what else would run through a node
               ops={"skip_connect": (BLUE, DASH), "sep_conv_3x3": (RED, SOLID), "sep_conv_5x5": (RED, DASH),
                    "dil_conv_3x3": (ORANGE, SOLID), "dil_conv_5x5": (ORANGE, DASH), "avg_pool_3x3": (GREEN, DASHDOT),
                    "max_pool_3x3": (PINK, DASHDOT), "noise": (GREY, DOT)},
               domain=([-0.25, 4.25], [-1.1, 1.1]), width=300)
HEIGHT = 150
POINTS = ("x", "y", "turn", "step")


def cell(arch, title: str = "") -> alt.LayerChart | alt.HConcatChart:
    """The cell written as ``arch`` as a graph, data flowing from left to right; of the DARTS spaces both cells.

    An edge is coloured and dashed by its operation, faint where nothing passes from input to output, absent for
    ``none``. The output of a cell of the DARTS spaces is that of all its numbered nodes; k−2 and k−1 are the cells
    before it. ``arch`` is a text of NAS-Bench-201, or a genotype or its text. Raises ValueError if it is none of them.
    """
    drawn = []
    for name, canvas, edges in _parts(arch):
        arcs = pd.concat([pd.DataFrame(_arc(canvas, *edge[:2])).assign(op=edge[2], strength=edge[3], edge=_name(canvas, edge))
                          for edge in edges]).query("op != 'none'")
        drawn.append(graph(alt.Chart(arcs), canvas, name))
    if len(drawn) == 1:
        return drawn[0].properties(title=alt.Title(title, fontSize=11), description=f"Cell {arch}. {title}".strip())
    return alt.hconcat(*drawn).properties(title=alt.Title(title, fontSize=11, anchor="middle"),
                                          description=f"Normal and reduction cell {parse(str(arch))}. {title}".strip())


def chooser(archs: dict[str, str], label: str = "cell: ") -> alt.HConcatChart:
    """One of several cells as ``cell`` draws it, its text above, chosen from a list of their names; the first at first.

    ``archs``: name -> text, all of one kind of space. An arc's points are there once for all cells that have the edge.
    """
    parts = [(name, *part) for name, arch in archs.items() for part in _parts(arch)]
    choice = alt.param(name="chosen", value=next(iter(archs)), bind=alt.binding_select(options=list(archs), name=label))
    drawn = []
    for part, canvas in dict.fromkeys((part, canvas) for _, part, canvas, _ in parts):
        mine = [(name, edge) for name, other, _, edges in parts if other == part for edge in edges]
        table = pd.DataFrame([{"name": name, "edge": _name(canvas, edge), "op": edge[2], "strength": edge[3]}
                              for name, edge in mine if edge[2] != "none"])
        arcs = {_name(canvas, edge): {k: v.tolist() for k, v in _arc(canvas, *edge[:2]).items()} for _, edge in mine}
        points = alt.LookupData(alt.InlineData([{"edge": k} | v for k, v in arcs.items()]), "edge", list(POINTS))
        chart = alt.Chart(table).transform_filter("datum.name == chosen").transform_lookup("edge", points)
        drawn.append(graph(chart.transform_flatten(list(POINTS)), canvas, part))
    texts = json.dumps({name: str(arch) for name, arch in archs.items()}, ensure_ascii=False)
    return alt.hconcat(*drawn).add_params(choice).properties(
        title=alt.Title(alt.expr(f"[chosen, {texts}[chosen]]"), fontSize=11, anchor="middle"),
        description=f"One of {len(archs)} cells, chosen from a list: {', '.join(archs)}.")


def _parts(arch) -> list[tuple]:
    """The graphs of an architecture: (title, canvas, edges), an edge (source, target, operation, strength)."""
    text = str(arch)
    if "|" in text:
        ops = NB201.parse(text)
        return [("", ONE, [(s, t, NB201.ops[op], on) for (t, s), op, on in
                           zip(NB201.edges, ops, np.where(NB201.live(ops), 1.0, 0.25), strict=True)])]
    cells = parse(text)
    return [(title, PAIR, [(source, 2 + k // 2, op, 1.0) for k, (op, source) in enumerate(pairs)])
            for title, pairs in (("normal cell", cells.normal), ("reduction cell", cells.reduce))]


def _name(canvas, edge) -> str:
    return f"{canvas.numbers[edge[1]]} ← {canvas.numbers[edge[0]]}"


def skeleton() -> pd.DataFrame:
    """Arcs of all edges of a cell of NAS-Bench-201, numbered ``e``, for a chart that finds their operations itself."""
    return pd.concat([pd.DataFrame(_arc(ONE, s, t)).assign(e=e, edge=_name(ONE, (s, t)))
                      for e, (t, s) in enumerate(NB201.edges)])


def graph(arcs: alt.Chart, canvas: _Canvas = ONE, title: str = "") -> alt.LayerChart:
    """A cell from its ``arcs``: points ``POINTS`` of each ``edge``, with its ``op`` and ``strength``, see ``_arc``."""
    at = {"x": alt.X("x:Q", axis=None, scale=alt.Scale(domain=canvas.domain[0])),
          "y": alt.Y("y:Q", axis=None, scale=alt.Scale(domain=canvas.domain[1]))}
    colours, dashes = zip(*canvas.ops.values(), strict=True)
    legend = alt.Legend(orient="bottom", columns=2 if canvas is ONE else 4, symbolSize=250, symbolOpacity=1)
    base = arcs.encode(
        **at, opacity=alt.Opacity("strength:Q", scale=None), tooltip=tips("edge", "op"),
        color=alt.Color("op:N", title=None, scale=alt.Scale(domain=list(canvas.ops), range=colours),
                        legend=legend))
    lines = base.mark_line(strokeWidth=2.5).encode(detail="edge:N", order="step:O", strokeDash=alt.StrokeDash(
        "op:N", title=None, scale=alt.Scale(domain=list(canvas.ops), range=dashes), legend=legend))
    heads = base.transform_filter("datum.step == 14").mark_point(
        shape="triangle-right", filled=True, size=90).encode(angle=alt.Angle("turn:Q", scale=None))
    nodes = alt.Chart(pd.DataFrame({"x": canvas.x, "y": canvas.y, "name": canvas.names})).encode(**at)
    names = nodes.mark_text(color="white", fontSize=11).encode(text="name:N")
    discs = nodes.mark_circle(size=620, color="#5a6270", opacity=1)
    drawn = alt.layer(lines, heads, discs, names).properties(width=canvas.width, height=HEIGHT)
    return drawn.properties(title=alt.Title(title, fontSize=11, fontWeight="normal")) if title else drawn


def _arc(canvas: _Canvas, source: int, target: int, steps: int = 25) -> dict[str, np.ndarray]:
    """Points of an edge between two nodes, ``POINTS [step]``: a line, and half a sine over it."""
    t = np.linspace(0, 1, steps)
    x, y = (v[source] + (v[target] - v[source]) * t for v in (canvas.x, canvas.y))
    y = y + canvas.bow.get((source, target), 0.0) * np.sin(np.pi * t)
    # Direction in pixels, clockwise because screens count y down.
    across, up = (side / np.ptp(ends) for side, ends in zip((canvas.width, HEIGHT), canvas.domain, strict=True))
    turn = np.degrees(np.arctan2(-np.gradient(y) * up, np.gradient(x) * across))
    return {"x": x.round(3), "y": y.round(3), "turn": turn.round(3), "step": np.arange(steps)}
