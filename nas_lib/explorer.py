"""The explorer: all architectures of a campaign on a few linked charts that need no kernel.

A chart holds every run of a campaign, packed as ``explorer_data`` has it; what is picked, marked or pointed at is worked out by
the browser.
"""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from nas_lib import marks
from nas_lib.drawing import graph, skeleton
from nas_lib.explorer_data import EDGES, LINKS, OPS, best_of, unpacked
from nas_lib.marks import tidy, tips
from nas_lib.spaces import NB201


def space(runs: pd.DataFrame, cells: pd.DataFrame, first: str | None = None) -> alt.ConcatChart:
    """All architectures as predicted against true accuracy; a region's operations, and the cell under the pointer.

    ``runs`` and ``cells`` as ``explorer_data.runs`` gives them; ``first`` is the Stage 1 shown at the beginning.
    """
    pickers = _pickers(runs, first)
    every = _all(runs, cells, pickers)
    best = cells["rank"].iloc[0]
    best = min(range(len(NB201)), key=lambda i: best[3 * i:3 * i + 3])
    brush = alt.selection_interval(name="brush", encodings=["x", "y"])
    hover = alt.selection_point(name="hover", fields=["i"], on="@cells_marks:pointerover", clear=False, value=[{"i": best}])
    right = alt.vconcat(_cell(every, hover), _shares(every, brush), spacing=28).resolve_scale(
        color="independent", strokeDash="independent")
    return alt.concat(_scatter(every, hover, brush), right, columns=2, spacing=30).add_params(*pickers).resolve_scale(
        color="independent", strokeDash="independent", opacity="independent").properties(
        title=alt.Title("Every architecture, under every supernet", subtitle=[
            "drag: operations of a region; point: a cell", f"{len(NB201):,} cells; the lowest 3 % share the left edge"]),
        usermeta={"embedOptions": {"renderer": "canvas"}},
        description=f"Shared-weight against true accuracy of {len(NB201):,} architectures under the picked supernet, of "
                    f"{len(runs)}; beside it the drawing of one cell and the share of each operation on each edge.")


def laws(course: pd.DataFrame, first: str | None = None) -> alt.VConcatChart:
    """A law over its training: the probability of every operation on every edge, and where its draws would lie.

    ``course`` as ``explorer_data.course`` gives it; ``first`` is the Stage 1 shown at the beginning.
    """
    pickers = _pickers(course, first)
    run = alt.Chart(course).transform_filter(_picked(pickers))
    ops = marks.OPS | {"none": (marks.GREY, marks.DOT)}
    scales = {k: alt.Scale(domain=list(ops), range=[v[n] for v in ops.values()]) for n, k in enumerate(("color", "dash"))}
    legend = alt.Legend(orient="bottom", columns=3, symbolType="stroke", symbolSize=250)
    every = run.transform_calculate(k=f"sequence({LINKS * OPS})").transform_flatten(["k", "probs"]).transform_flatten(
        ["epoch", "probs"]).transform_calculate(
        edge=f"{EDGES}[floor(datum.k / {OPS})]", op=f"{list(NB201.ops)}[datum.k % {OPS}]")
    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(grid=False, tickCount=4, tickMinStep=1))
    lines = every.mark_line().encode(
        x=x, y=alt.Y("probs:Q", title="probability", axis=alt.Axis(tickCount=4)),
        color=alt.Color("op:N", title=None, scale=scales["color"], legend=legend),
        strokeDash=alt.StrokeDash("op:N", title=None, scale=scales["dash"], legend=legend),
        tooltip=tips("edge", "op", "epoch.0f", "probs.3f=probability")).properties(width=120, height=95).facet(
        facet=alt.Facet("edge:N", title=None, sort=EDGES), columns=3, spacing=14)
    draws = [run.transform_flatten(["epoch", field]).mark_line(color=marks.BLUE, point=alt.OverlayMarkDef(size=16)).encode(
        x=x, y=alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
        tooltip=tips("epoch.0f", f"{field}.3f={title}")).properties(width=180, height=110)
             for field, title in (("best", "drawn among the best 4 %"), ("expected", "expected true accuracy (%)"))]
    return alt.vconcat(lines, alt.hconcat(*draws, spacing=24), spacing=24).properties(
        params=[p.param for p in pickers],      # add_params names subcharts, which fails for a facet
        title=alt.Title("How does the law form?", subtitle="softmax of alpha, edge by edge, and what it would draw; one run"),
        description="Probability of every operation on every edge over the training of the picked run, with the probability "
                    "of drawing one of the truly best 4 percent and the expected accuracy of a draw.")


def rules(sides: dict[str, xr.Dataset], first: str | None = None) -> alt.FacetChart:
    """Shared-weight against true accuracy under several rules, side by side, as counts of architectures, all seeds.

    ``sides``: summaries (``evaluate.summary``) by the name of their rule; ``first`` is the Stage 1 shown at the beginning.
    """
    rows = [_counted(side, tidy(summary[["count", "score_range", "truth_range", "spearman"]]).sel(stage1=name))
            for side, summary in sides.items() for name in _common(sides)]
    picker = _picker("method", "Stage 1", sorted(_common(sides), key=lambda m: m != first))
    at = {f"{axis}{k}": f"datum.{axis}low + datum.{axis}step * (datum.{axis} + {k})" for axis in "xy" for k in (0, 1)}
    bins = alt.Chart(pd.DataFrame(rows)).transform_filter("datum.stage1 == method").transform_flatten(
        ["x", "y", "count"]).transform_calculate(**at)
    return marks.heat(bins, "true test accuracy (%)", "shared-weight accuracy (%)", 240, 210).facet(
        facet=alt.Facet("label:N", title=None), columns=2, spacing=24).resolve_scale(y="independent").add_params(
        picker).properties(
        title=alt.Title("Does the rule for batch norm decide?", subtitle="colour: architectures, all seeds; ρ: mean Spearman "
                        f"correlation, {marks.n_text([s.sizes['seed'] for s in sides.values()])}"),
        description=f"Heat maps of shared-weight against true accuracy under {' and '.join(sides)}, for the picked Stage 1.")


def linked(chart: alt.ConcatChart, stage1: dict[str, xr.Dataset], truths: dict[str, xr.DataArray], count: int = 8):
    """A widget for JupyterLab: the chart of ``space``, and below it the truly best cells of the marked region.

    The kernel answers every change of the region or of what is picked.
    """
    import ipywidgets

    live, said = alt.JupyterChart(chart), ipywidgets.HTML()
    first = {"data": next(iter(stage1))}

    def answer(_=None):
        picked = first | {p: getattr(live.params, p) for p in ("data", "method", "seed") if hasattr(live.params, p)}
        score = tidy(stage1[picked["data"]]).score.sel(stage1=picked["method"], seed=int(picked["seed"]))
        said.value = best_of(score, tidy(truths[picked["data"]]), live.selections.brush.value, count).to_html(index=False)

    live.selections.observe(answer, "brush")
    live.params.observe(answer)
    answer()
    return ipywidgets.VBox([live, said])


def _pickers(runs: pd.DataFrame, first: str | None = None) -> list[alt.Parameter]:
    """Drop-down lists for data set (if there are several), Stage 1 and seed."""
    methods = list(dict.fromkeys(runs["stage1"]))
    methods.sort(key=lambda m: m != first)
    pickers = [_picker("method", "Stage 1", methods), _picker("seed", "seed", sorted(set(runs["seed"])))]
    data = list(dict.fromkeys(runs["dataset"]))
    return [_picker("data", "data set", data), *pickers] if len(data) > 1 else pickers


def _picker(name: str, said: str, options: list) -> alt.Parameter:
    options = [o.item() if hasattr(o, "item") else o for o in options]
    return alt.param(name, value=options[0], bind=alt.binding_select(options=options, name=f"{said} "))


def _picked(pickers: list[alt.Parameter]) -> str:
    fields = {"data": "dataset", "method": "stage1", "seed": "seed"}
    return " && ".join(f"datum.{fields[p.name]} == {p.name}" for p in pickers)


def _all(runs: pd.DataFrame, cells: pd.DataFrame, pickers: list[alt.Parameter]) -> alt.Chart:
    """The architectures of the picked run, one row each: number ``i``, ``truth``, ``score``, ``rank``, ``law``.

    ``shown`` is the truth with its lowest 3 % raised to one value: a few cells that cannot learn would squeeze the rest."""
    return alt.Chart(runs).transform_filter(_picked(pickers)).transform_lookup(
        "dataset", alt.LookupData(cells, "dataset", ["truth", "rank", "floor"])).transform_calculate(
        i=f"sequence({len(NB201)})").transform_flatten(["i"]).transform_calculate(
        score=unpacked("score", 0.1, 2), truth=unpacked("truth", 0.01, 3), rank=unpacked("rank", 1, 3)).transform_calculate(shown="max(datum.truth, datum.floor)")


def _scatter(every: alt.Chart, hover, brush) -> alt.LayerChart:
    near = alt.Scale(zero=False, nice=False, padding=8)
    at = {"x": alt.X("shown:Q", title="true test accuracy (%)", scale=near),
          "y": alt.Y("score:Q", title="shared-weight accuracy (%)", scale=near)}
    points = every.mark_circle(size=14, opacity=0.22, color=marks.BLUE).encode(**at).properties(name="cells").add_params(
        hover, brush)
    ring = every.transform_filter(hover).mark_point(size=130, color=marks.RED, strokeWidth=2).encode(**at)
    return alt.layer(points, ring).properties(width=285, height=300)


def _shares(every: alt.Chart, brush) -> alt.LayerChart:
    """Share of every operation on every edge among the brushed architectures; in the whole space each has one in O."""
    table = every.transform_filter(brush).transform_calculate(e=f"sequence({LINKS})").transform_flatten(["e"]).transform_calculate(
        op=f"{list(NB201.ops)}[floor(datum.i / pow({OPS}, {LINKS - 1} - datum.e)) % {OPS}]",
        edge=f"{EDGES}[datum.e]").transform_aggregate(n="count()", groupby=["edge", "op"]).transform_joinaggregate(
        cells="sum(n)", groupby=["edge"]).transform_calculate(share="datum.n / datum.cells")
    base = table.encode(
        x=alt.X("op:N", title="operation", sort=list(NB201.ops), scale=alt.Scale(domain=list(NB201.ops)),
                axis=alt.Axis(labelAngle=-30)),
        y=alt.Y("edge:N", title="edge", sort=EDGES, scale=alt.Scale(domain=EDGES)))
    tiles = base.mark_rect().encode(
        color=alt.Color("share:Q", title="share", legend=None, scale=alt.Scale(
            domain=[0, 1 / OPS, 1], range=["#b35806", "#f1f1ee", "#2166ac"], interpolate="lab")),
        tooltip=tips("edge", "op", "share.1%", "n.0f=cells", "cells.0f=cells in the region"))
    words = base.mark_text(fontSize=11).encode(text=alt.Text("share:Q", format=".0%"), color=alt.condition(
        "datum.share > 0.6 || datum.share < 0.05", alt.value("white"), alt.value("#1a1a1a")))
    count = table.transform_aggregate(cells="max(cells)").transform_calculate(
        said="format(datum.cells, ',') + ' cells in the region'")
    said = count.mark_text(align="left", fontSize=11, dy=-8).encode(text="said:N", x=alt.value(0), y=alt.value(0))
    return alt.layer(tiles, words, said).properties(width=230, height=165)


def _cell(every: alt.Chart, hover) -> alt.VConcatChart:
    """The cell under the pointer as a graph, over its numbers."""
    number = "hover.i[0]"
    digit = f"floor({number} / pow({OPS}, {LINKS - 1} - {{e}})) % {OPS}"
    on = " + ".join(f"({digit.format(e=e)} > 0 ? {2**e} : 0)" for e in range(LINKS))
    live = [int(sum(2**e for e in range(LINKS) if flag[e])) for flag in NB201.live(
        (np.arange(2**LINKS)[:, None] >> np.arange(LINKS)) & 1)]
    arcs = alt.Chart(skeleton()).transform_calculate(op=f"{list(NB201.ops)}[{digit.format(e='datum.e')}]").transform_filter(
        "datum.op != 'none'").transform_calculate(
        strength=f"floor({live}[{on}] / pow(2, datum.e)) % 2 ? 1 : 0.25")
    law = " * ".join(f"datum.law[{OPS * e} + floor(datum.i / {OPS ** (LINKS - 1 - e)}) % {OPS}]" for e in range(LINKS))
    said = every.transform_filter(hover).transform_calculate(
        law=f"datum.law ? {law} : null").transform_calculate(
        text=f"'number ' + format(datum.rank, ',') + ' of {len(NB201):,} by true accuracy, ' + format(datum.truth, '.2f') + ' %\\n"
             "shared-weight accuracy ' + format(datum.score, '.1f') + ' %\\n"
             "drawn by its law ' + (datum.law == null ? '–' : format(datum.law * 1e4, '.2~f') + ' times in 10,000')")
    words = said.mark_text(align="left", baseline="top", lineBreak="\n", fontSize=11, lineHeight=15).encode(
        text="text:N", x=alt.value(0), y=alt.value(0)).properties(width=230, height=48)
    return alt.vconcat(graph(arcs), words, spacing=4)


def _common(sides: dict[str, xr.Dataset]) -> list[str]:
    """Stage-1 methods that were scored on every side."""
    scored = [s.stage1.values[(s["count"].sum(("score_bin", "truth_bin")) > 0).values].tolist() for s in map(tidy, sides.values())]
    return [name for name in scored[0] if all(name in names for names in scored)]


def _counted(side: str, one: xr.Dataset) -> dict:
    """The bins of one method that are not empty, as lists, with where they begin and how wide they are."""
    count = one["count"].transpose("truth_bin", "score_bin").values
    (xlow, xhigh), (ylow, yhigh) = one.truth_range.values, one.score_range.values
    rho, (x, y) = one.spearman.mean("seed").item(), np.nonzero(count)
    return {"stage1": one.stage1.item(), "label": f"{side} · " + ("no order" if np.isnan(rho) else f"ρ = {rho:.2f}"),
            "xlow": xlow, "xstep": (xhigh - xlow) / count.shape[0], "ylow": ylow, "ystep": (yhigh - ylow) / count.shape[1],
            "x": x.tolist(), "y": y.tolist(), "count": count[x, y].tolist()}
