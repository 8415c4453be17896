"""What the pages on single methods show: their measurements, one small table per page, and the overview of all.

A page is a file ``book/methods/stage<n>_<name>.md``; it is the page of the methods whose files it names.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pandas as pd
import xarray as xr
from pandas.io.formats.style import Styler

from nas_lib import methods, tables
from nas_lib.marks import n_text, tidy
from nas_lib.metrics import mean_std
from nas_lib.results import where

STAGES = ("stage1", "stage2")
HEADINGS = {  # of a stage's measures
    "stage1": ["Spearman of shared-weight with true accuracy", "cells at chance (%)", "found of the truly best cells (%)",
               "probability of drawing one of the truly best (%)", "expected accuracy of a draw from the law (%)",
               "entropy of the law (nats)"],
    "stage2": ["reliance on the law, untrained weights: N_I − N_U (points)",
               "reliance on the law, trained weights: R_I − R_U (points)",
               "reliance on the weights, uniform law: R_U − N_U (points)",
               "reliance on the weights, informed law: R_I − N_I (points)",
               "test error, mean over Stage-1 methods that learn (%)", "candidates that share the best score"]}
MAIN = {  # of them in the overview: column, place, how it is written
    "stage1": (("weights", 0, "ρ = {:.2f}"), ("law", 4, "{:.2f} %")),
    "stage2": (("weights", 2, "{:+.2f} points"), ("law", 1, "{:+.2f} points"))}


def pages() -> dict[tuple[str, str], Path]:
    """The page of every method, by (stage, name). Raises ValueError for a method without a page."""
    texts = {p: p.read_text("utf8") for p in sorted(where("book/methods").glob("stage*.md"))}
    found = {}
    for stage in STAGES:
        for name in methods.names(stage):
            page = next((p for p, text in texts.items() if f"`{_file(stage, name)}`" in text), None)
            if page is None:
                raise ValueError(f"no page in book/methods names `{_file(stage, name)}`: write one")
            found[stage, name] = page
    return found


def measured(summary: xr.Dataset, stage: str) -> xr.Dataset:
    """``mean``, ``std`` and ``n`` (measure, method) over seeds, of the methods of a stage that a campaign has run."""
    if stage == "stage1":
        best = summary.isel(threshold=0, drop=True)
        values = [best.spearman, 100 * best.chance_share, 100 * best.top_identification, 100 * best.sampling_mass,
                  best.expected_accuracy, best.entropy]
    else:
        learned = [n for n in summary.stage1.values.tolist() if not n.startswith(("none", "rsps"))]
        pairs = summary[["accuracy", "choice_ties"]].sel(stage1=learned).mean("stage1")
        reliance = [summary.reliance.sel(difference=d, drop=True) for d in ("N_I-N_U", "R_I-R_U", "R_U-N_U", "R_I-N_I")]
        values = [*reliance, 100 - pairs.accuracy, pairs.choice_ties]
    together = xr.concat([v.drop_vars("error", errors="ignore") for v in values],
                         xr.Variable("measure", HEADINGS[stage]))
    return mean_std(tidy(together)).rename({stage: "method"}).transpose("measure", "method")


def measurements(summary: xr.Dataset) -> dict[str, Styler]:
    """A table for every page, by the name of its file: the measures of its methods, or how to measure them."""
    found, known = {}, {stage: measured(summary, stage) for stage in STAGES}
    for page in sorted(set(pages().values())):
        stage = page.stem.partition("_")[0]
        own = [name for (s, name), p in pages().items() if p == page and s == stage]
        ran = [name for name in known[stage].method.values.tolist() if name in own]
        found[page.stem] = _table(known[stage].sel({"method": ran}), summary) if ran else _command(stage, own[0])
    return found


def _table(stats: xr.Dataset, summary: xr.Dataset) -> Styler:
    return tables.means(stats, f"Measured alone, on {summary.dataset.item()}: mean ± population std over "
                        f"{n_text(stats['n'])}; –: not defined")


def _command(stage: str, name: str) -> Styler:
    given = f"-p method {name}" if stage == "stage1" else f"-y 'select: [{name}]'"
    command = f"<code>papermill notebooks/{stage}.ipynb out.ipynb {given}</code>"
    return tables.words(pd.DataFrame({"one run": {"command": command}}), "Not among the runs of this campaign")


def overview(summary: xr.Dataset) -> Styler:
    """All methods of both stages: what each is, its page, its file, and its two main measures where it was run."""
    rows, known = [], {stage: measured(summary, stage)["mean"] for stage in STAGES}
    for (stage, name), page in pages().items():
        said = ast.get_docstring(ast.parse(where(_file(stage, name)).read_text("utf8"))).partition("\n")[0]
        rows.append({"method": f'<a href="../methods/{page.name}">{name}</a>', "stage": stage[-1],
                     "what it is": said.partition("``")[0].rstrip(".,: "),
                     "file": f"<code>{_file(stage, name).removeprefix('nas_lib/')}</code>",
                     **{column: _main(known[stage], name, place, text) for column, place, text in MAIN[stage]}})
    return tables.words(pd.DataFrame(rows).set_index("method").rename_axis(None),
                        f"All methods, measured on {summary.dataset.item()}, mean over {n_text([summary.sizes['seed']])}; weights "
                        "and law of Stage 1: Spearman's ρ, and the expected accuracy of a draw; of Stage 2: its reliance on "
                        "them; –: not run here, or not defined; files are below nas_lib/")


def _main(known: xr.DataArray, name: str, place: int, text: str) -> str:
    value = known.sel({"method": name})[place].item() if name in known.method.values else float("nan")
    return text.format(value) if value == value else "–"


def _file(stage: str, name: str) -> str:
    return f"nas_lib/{stage}/{methods.files(stage)[name]}.py"
