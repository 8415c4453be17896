"""Tables: a Dataset in, a styled table out, one function per table.

Every mean is over ``seed``, with the population standard deviation and n. The tables show in JupyterLab and,
light or dark, in the book.
"""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pandas as pd
import xarray as xr
from pandas.io.formats.style import Styler

from nas_lib.claims import SPACES
from nas_lib.intervals import confidence
from nas_lib.marks import n_text, tidy
from nas_lib.metrics import mean_std, spearman
from nas_lib.notes import Note, not_run, scale, scales, source  # noqa: F401  what pages say between tables
from nas_lib.pairs import agreement, interval
from nas_lib.results import where
from nas_lib.spaces import NB201

BASELINES = {"none": "N_U: untrained, uniform law", "none+": "N_I: untrained, informed law",
             "rsps": "R_U: trained, uniform law", "rsps+": "R_I: trained, informed law"}
CASE_STUDY = {  # Stage 1 and Stage 2: columns of the case study; blank is DARTS, blank- DARTS- with its alpha fixed
    ("darts", "prune"): ("DARTS", "max α"), ("darts", "perturb"): ("DARTS", "perturb"),
    ("blank", "perturb"): ("DARTS", "perturb, α fixed"), ("darts-", "prune"): ("DARTS-", "max α"),
    ("darts-", "perturb"): ("DARTS-", "perturb"), ("blank-", "perturb"): ("DARTS-", "perturb, α fixed")}
SUMMARY = {  # variable of the evaluation: (column heading, decimals)
    "spearman": ("Spearman", 2), "kendall": ("Kendall", 2), "distinct": ("distinct scores", 0),
    "chance_share": ("share at chance", 2), "ties": ("ties at best", 0),
    "expected_accuracy": ("expected accuracy (%)", 2), "entropy": ("entropy (nats)", 2)}


def combinations(accuracy: xr.DataArray) -> Styler:
    """Test error of what every pair of stages selects, ``accuracy(stage1, stage2, seed)`` in percent.

    Rows Stage 1, columns Stage 2; the best mean of each row is bold.
    """
    stats = mean_std(100 - tidy(accuracy)).transpose("stage1", "stage2")
    best = (stats["mean"] == stats["mean"].min("stage2")).values
    return _styled(_cells(_several(stats)), f"Test error (%){_over(stats)}; bold: best Stage 2 of a row", best)


def errors(stats: xr.Dataset, named: str) -> Styler:
    """A printed table of test errors, ``mean``, ``std`` and ``n`` (stage1, stage2) in percent; ``named`` names it."""
    data = tidy(stats[["mean", "std", "n"]].transpose("stage1", "stage2"))
    best = (data["mean"] == data["mean"].min("stage2")).values
    return _styled(_cells(_several(data)), f"{named}. Test error (%){_over(data)}; bold: best Stage 2 of a row", best)


def case_study(stats: xr.Dataset, named: str) -> Styler:
    """Table 1 of the paper: test errors ``mean``, ``std``, ``n`` (space, stage1, stage2) in percent, a row per space.

    Of each row the best is bold and the best of the other variant, with or without auxiliary skip, italic.
    """
    pairs = [p for p in CASE_STUDY if p[0] in stats.stage1.values]
    cells = [_several(stats).sel(stage1=a, stage2=b) for a, b in pairs]
    heads = pd.MultiIndex.from_tuples([CASE_STUDY[p] for p in pairs])
    rows = [SPACES.get(s, s) for s in stats.space.values]
    table = pd.DataFrame(np.transpose([_column(c, 2) for c in cells]), rows, heads)
    mean = pd.DataFrame(np.transpose([c["mean"].values for c in cells]), rows, heads)
    side = mean.T.groupby(level=0).transform("min").T
    bold, italic = mean.eq(mean.min(axis=1), axis=0), mean.eq(side) & side.gt(mean.min(axis=1), axis=0)
    style = _styled(table, f"{named}. Test error (%){_over(stats)}; bold: best of a row, italic: best of the other variant",
                    bold.values)
    return style.apply(lambda _: np.where(italic, "font-style: italic", ""), axis=None)


def switched(sides: dict[str, xr.DataArray]) -> Styler:
    """The same pairs under one switch: test errors (space, stage1, stage2, seed) in percent of each side, next to each other.

    Bold is the better side.
    """
    stats = {side: _several(mean_std(error)) for side, error in sides.items()}
    first = next(iter(stats.values()))
    pairs = [p for p in CASE_STUDY if p[0] in first.stage1.values]
    cells = {(*CASE_STUDY[a, b], side): s.sel(stage1=a, stage2=b) for a, b in pairs for side, s in stats.items()}
    rows = [SPACES.get(s, s) for s in first.space.values]
    table = pd.DataFrame({head: _column(c, 2) for head, c in cells.items()}, rows)
    mean = pd.DataFrame({head: c["mean"].values for head, c in cells.items()}, rows)
    best = mean.T.groupby(level=[0, 1], sort=False).transform("min").T
    return _styled(table, f"Test error (%){_over(first)}; bold: the better side", mean.eq(best).values)


def _several(stats: xr.Dataset) -> xr.Dataset:
    """Without a deviation where there is but one value."""
    return stats.assign(std=stats["std"].where(stats["n"] > 1))


def _over(stats: xr.Dataset) -> str:
    return f": mean ± population std over {n_text(stats['n'])}" if stats["n"].max() > 1 else ", single values"


def means(stats: xr.Dataset, caption: str) -> Styler:
    """``mean`` and ``std`` over any two dimensions, those of ``mean`` in their order."""
    return _styled(_cells(stats), caption)


def side_by_side(columns: dict[tuple[str, str], xr.DataArray], caption: str) -> Styler:
    """Means over seeds of values (stage2, seed), a column each under two headings; Stage-2 methods that all have."""
    stats = {head: mean_std(tidy(x.reset_coords(drop=True))) for head, x in columns.items()}
    common = [s for s in next(iter(stats.values())).stage2.values if all(s in x.stage2.values for x in stats.values())]
    cells = {head: _column(_several(x.sel(stage2=common)), 2) for head, x in stats.items()}
    counts = ", ".join(f"{n_text(x['n'])} {' '.join(head)}" for head, x in stats.items())
    return _styled(pd.DataFrame(cells, index=common), f"{caption}; mean ± population std over {counts}")


def estimates(values: dict[str, tuple[xr.DataArray, int]], caption: str) -> Styler:
    """Means over ``seed`` with their 95 % bootstrap interval: ``values`` (stage1, seed) and decimals, by heading."""
    data = {heading: (tidy(x), digits) for heading, (x, digits) in values.items()}
    columns = {heading: _between(x.mean("seed"), confidence(x), digits) for heading, (x, digits) in data.items()}
    rows = next(iter(data.values()))[0].stage1.values
    return _styled(pd.DataFrame(columns, index=rows).rename_axis(columns="Stage 1"), caption)


def bounded(mean: xr.DataArray, bounds: xr.DataArray, caption: str, digits: int = 2) -> Styler:
    """``mean`` over two dimensions with its interval ``bounds`` (..., bound)."""
    rows, columns = mean.dims
    table = {str(c): _between(*(v.sel({columns: c}) for v in (mean, bounds)), digits) for c in mean[columns].values}
    return _styled(pd.DataFrame(table, index=mean[rows].values).rename_axis(
        columns={"stage1": "Stage 1", "stage2": "Stage 2"}.get(rows, rows)), caption)


def baselines(accuracy: xr.DataArray) -> Styler:
    """Test accuracy of every Stage 2 on the four standard supernets, ``accuracy(stage1, stage2, seed)``."""
    data = tidy(accuracy)
    names = [n for n in BASELINES if n in data.stage1.values]
    stats = mean_std(data.sel(stage1=names)).transpose("stage2", "stage1")
    best = (stats["mean"] == stats["mean"].max("stage1")).values
    table = _cells(_several(stats)).rename(columns=BASELINES)
    return _styled(table, f"Test accuracy (%){_over(stats)}; bold: best supernet of a row", best)


def stage1_summary(evaluation: xr.Dataset) -> Styler:
    """Per Stage-1 method: how its scores rank and what its law expects, ``evaluation(stage1, seed)``."""
    data = tidy(evaluation)
    columns = {}
    for name, (heading, digits) in SUMMARY.items():
        columns[heading] = _column(_several(mean_std(data[name])), digits)
    table = pd.DataFrame(columns, index=data.stage1.values).rename_axis(columns="Stage 1")
    return _styled(table, f"Mean ± population std over {n_text(data['distinct'].count('seed'))}; "
                   "correlations: shared-weight with true accuracy, – where a constant score has none")


def quality(bench: xr.Dataset) -> Styler:
    """What a truth table is worth: size, agreement of its training seeds, agreement with NAS-Bench-201.

    ``bench.test(arch, train_seed)`` and the attribute ``nb201_spearman``, JSON text {data set: correlation}.
    """
    first = np.unique(NB201.classes("function"))
    test = tidy(bench.test).isel(arch=first)
    half = test.sizes["train_seed"] // 2
    halves = (test.isel(train_seed=s).mean("train_seed") for s in (slice(half), slice(half, None)))
    split = f"{float(spearman(*halves)):.3f}" if half else "not measured: one seed"
    rows = {"architectures": f"{bench.sizes['arch']:,}", "of them different networks": f"{len(first):,}",
            "training seeds of each": f"{test.sizes['train_seed']}",
            f"Spearman, {half} seeds against {test.sizes['train_seed'] - half}": split}
    for name, rho in json.loads(bench.attrs.get("nb201_spearman", "{}")).items():
        rows[f"Spearman with NAS-Bench-201, {name}"] = f"{rho:.3f}"
    return _styled(pd.DataFrame({"value": rows}),
                   "The truth table; seeds are compared on different networks only")


def protocols(corrected: xr.Dataset, published: xr.Dataset) -> Styler:
    """Health of shared-weight accuracy under the two protocols, ``(stage1, seed)``: one row per Stage 1."""
    sides = {"published": tidy(published), "corrected": tidy(corrected)}
    shown = [n for n in sides["corrected"].stage1.values.tolist() if n in sides["published"].stage1.values
             and all(data.distinct.sel(stage1=n).notnull().any() for data in sides.values())]
    columns = {f"{SUMMARY[name][0]}, {side}": _column(_several(mean_std(data[name].sel(stage1=shown))), SUMMARY[name][1])
               for name in ("spearman", "distinct", "chance_share") for side, data in sides.items()}
    table = pd.DataFrame(columns, index=shown).rename_axis(columns="Stage 1")
    counts = ", ".join(f"{n_text(data.distinct.sel(stage1=shown).count('seed'))} {side}" for side, data in sides.items())
    return _styled(table, f"Mean ± population std over {counts}; Spearman: shared-weight with true accuracy")


def ties(ties: xr.DataArray) -> Styler:
    """How many candidates share the best score, ``ties(stage1, stage2, seed)``; 1 is a clear winner."""
    stats = mean_std(tidy(ties)).transpose("stage1", "stage2")
    return _styled(_cells(stats, 1), "Candidates that share the best score: mean ± population std over "
                   f"{n_text(stats['n'])}")


def origin(data: xr.Dataset) -> Styler:
    """The attributes of a result or truth table: how, when and with what it was made."""
    rows = {}
    for name, value in data.attrs.items():
        try:
            value = json.loads(value)
        except (TypeError, ValueError):
            pass
        inner = value if isinstance(value, dict) else {"": value}
        rows |= {f"{name} {key}".replace("_", " ").strip(): str(v) for key, v in inner.items()}
    style = _styled(pd.DataFrame({"value": rows}), "Origin")
    return style.set_properties(**{"white-space": "normal", "text-align": "left", "min-width": "12em"})


def words(frame: pd.DataFrame, caption: str) -> Styler:
    """A table of sentences rather than numbers: it wraps, and long columns get room."""
    long = [c for c in frame if frame[c].str.len().max() > 20]
    style = _styled(frame, caption).set_properties(**{"white-space": "normal", "text-align": "left",
                                                      "vertical-align": "top"})
    style = style.set_properties(subset=long, **{"min-width": "11em"})
    return style.set_table_styles([{"selector": "th", "props": "white-space: normal; text-align: left; "
                                    "vertical-align: top"}], overwrite=False)


def numbers(frame: pd.DataFrame, caption: str, digits: int = 1) -> Styler:
    """A table of numbers as they are, with ``digits`` decimals."""
    return _styled(frame, caption).format(precision=digits, na_rep="–", thousands=",")


def agreements(scores: dict[str, xr.DataArray], errors: dict[str, xr.DataArray]) -> Styler:
    """How each score of pairs (rows) agrees with each table of errors (columns), ``pairs.agreement`` of every two."""
    found = {e: {s: agreement(score, error) for s, score in scores.items()} for e, error in errors.items()}
    text = {e: {s: interval(a) for s, a in column.items()} for e, column in found.items()}
    counts = sorted({int(a.n) for column in found.values() for a in column.values()})
    return words(pd.DataFrame(text), f"Spearman of score and test error over n = {' or '.join(map(str, counts))} "
                   "pairs, 95 % bootstrap interval over pairs and, where known, seeds; 1: the score orders as the errors")


def review(methods: pd.DataFrame, ran: list[str]) -> Styler:
    """The paper's review (``published.review``) with the file that holds each method here, found in the folders.

    ``ran`` names the methods of both stages that a campaign has run.
    """
    frame = methods.set_index("algorithm").rename(columns={"selection": "Stage 2", "reference": "year"})
    files = [_file_of(name) for name in frame.index]
    stems = [f.rpartition("/")[2].removesuffix(".py").replace("_minus", "-").replace("_", "-") for f in files]
    frame = frame.rename_axis(None).assign(file=files, run=["yes" if s in ran else "" for s in stems])
    return words(frame, f"{len(frame)} methods, as printed in Table 4 of the paper; files are those of nas_lib, which "
                 f"holds {len(frame[frame.file != ''])} of them; run: in this campaign")


def _file_of(algorithm: str) -> str:
    """The file of a method: named after it, or after a variant of it, or opening with its name; "" if there is none."""
    stem = re.sub(r"-$", "_minus", algorithm).replace("-", "_").lower()
    files = [f for stage in ("stage1", "stage2") for f in sorted((where("nas_lib") / stage).glob("[a-z]*.py"))]
    opening = re.compile(rf"(?<![\w-]){re.escape(algorithm)}(?![\w-])")
    for fits in (lambda f: f.stem == stem, lambda f: f.stem.startswith(stem + "_"),
                 lambda f: opening.search(f.read_text("utf8").partition("\n")[0])):
        if found := [f for f in files if fits(f)]:
            return f"{found[0].parent.name}/{found[0].name}"
    return ""


def _column(stats, digits):
    known = np.isfinite(stats["mean"].values)
    mean = np.round(stats["mean"].values, digits) + 0.0  # no "-0.00"
    spread = [f" ± {s:,.{digits}f}" if np.isfinite(s) else "" for s in stats["std"].values]
    return [f"{m:,.{digits}f}{s}" if k else "–" for m, s, k in zip(mean, spread, known, strict=True)]


def _between(mean, bounds, digits):
    known = np.isfinite(mean.values)
    low, high = (np.round(bounds.sel(bound=b).values, digits) + 0.0 for b in ("low", "high"))
    return [f"{m:,.{digits}f} [{a:,.{digits}f}, {b:,.{digits}f}]" if k else "–"
            for m, a, b, k in zip(np.round(mean.values, digits) + 0.0, low, high, known, strict=True)]


def _cells(stats, digits: int = 2) -> pd.DataFrame:
    rows, columns = stats["mean"].dims
    table = {str(c): _column(stats.sel({columns: c}), digits) for c in stats[columns].values}
    titles = {"stage1": "Stage 1", "stage2": "Stage 2"}
    return pd.DataFrame(table, index=stats[rows].values).rename_axis(columns=titles.get(rows, rows))


def _styled(table: pd.DataFrame, caption: str, bold: np.ndarray | None = None) -> Styler:
    # The class "dataframe" keeps the book's dark theme from painting the table light grey. The name of
    # the table's own style rules comes from its contents, so that two builds are identical.
    style = table.style.set_uuid(hashlib.sha256((caption + table.to_csv()).encode()).hexdigest()[:8])
    style = style.set_table_attributes('class="dataframe nas-table"').set_caption(caption)
    style = style.set_table_styles([
        {"selector": "caption", "props": "caption-side: bottom; text-align: left; padding-top: 0.5em"},
        {"selector": "td", "props": "font-variant-numeric: tabular-nums"}])
    if bold is not None:
        style = style.apply(lambda _: np.where(bold, "font-weight: bold", ""), axis=None)
    return style
