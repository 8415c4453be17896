"""What the paper claims, as numbers with a verdict computed from tables, its own or a campaign's.

Verdicts are "holds", "holds in part", "fails", "undecided" where an interval spans both, and "not computable": then the
number says what is missing. ``facts`` are the relations among the published numbers that can be recomputed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from nas_lib import pairs, published
from nas_lib.metrics import mean_std

CLAIMS = {
    "C1": "perturb selects better where alpha is trained, if Stage 1 is darts-",
    "C2": "perturb, in one of its variants, is best in every space but S1",
    "C3": "another Stage 2 than prune improves most Stage-1 methods",
    "C4": "snas and dirichlet are far better than the rest, by shared weights and by sampling",
    "C5": "darts is poor at both; darts- samples about as well as gdas",
    "C6": "no pair is best across data sets and spaces",
    "C7": "Stage-2 methods differ in what they rely on",
    "C8": "the score of a pair orders pairs usefully, if imperfectly",
    "C9": "of 20 reviewed methods by far the most prune",
}
SPACES = {"nb201": "NAS-Bench-201", "digits": "NAS-Bench-201, digits", "s0": "S0", "s1": "S1", "s2": "S2", "s3": "S3", "s4": "S4"}


def space_of(dataset: str) -> str:
    """The space of a run by its data set: ``s1-cifar10`` is s1; NAS-Bench-201 is nb201 on CIFAR-10, else the data set."""
    return "nb201" if dataset == "cifar10" else dataset.partition("-")[0]


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by; None where it was not measured.

    errors: ``mean``, ``std`` (table, stage1, stage2) in percent, one entry of ``table`` per data set and space;
    case_study: errors (space, stage1, stage2) with ``blank`` and ``blank-``; stage1: ``alpha``, ``beta`` (stage1) and
    their ``_std``; reliance: (difference, stage2, seed) in points; score: (stage1, stage2) and scored: the errors
    it is compared with; review: Table 4. ``name`` says where all this comes from.
    """

    name: str
    errors: xr.Dataset | None = None
    case_study: xr.DataArray | None = None
    stage1: xr.Dataset | None = None
    reliance: xr.DataArray | None = None
    score: xr.DataArray | None = None
    scored: xr.DataArray | None = None
    review: pd.DataFrame | None = None


def of_published(dataset: str = "cifar10") -> Evidence:
    """The paper's tables, and its recovered baselines on ``dataset``; the score takes Stage 1 as the text orders it."""
    printed, recovered = published.errors(), published.recovered().accuracy.sel(dataset=dataset)
    flat = printed[["mean", "std"]].stack(table=("space", "dataset")).dropna("table", how="all")
    names = [f"{SPACES[s]}, {d}" for s, d in flat.table.values]
    flat = flat.drop_vars(["table", "space", "dataset"]).assign_coords(table=names)
    return Evidence(
        "the published numbers", errors=flat, case_study=published.case_study(), review=published.review(),
        reliance=published.reliance().sel(dataset=dataset).drop_sel(stage2="perturb"),    # 0 by construction (D8)
        scored=printed["mean"].sel(space="nb201", dataset=dataset),
        score=pairs.score(published.ranks_in_words(),
                          pairs.stage2_measures(recovered, "baselines", uniform="rsps2")))


def of_summary(summary: xr.Dataset, others: list[xr.Dataset] = (), space: str = "nb201") -> Evidence:
    """What a campaign measured (``evaluate.summary``) on one data set, and on ``others``; as much of it as was run."""
    have = summary.stage1.values.tolist()
    error = _real_errors(summary)
    tried = error.sel(stage2=[n for n in published.STAGE2[1:] if n in error.stage2.values])
    every = joined({f"{SPACES[space]}, {one.dataset.item()}": _real_errors(one) for one in (summary, *others)})
    stage1 = summary.sel(stage1=error.stage1)
    each = xr.Dataset({"alpha": stage1.sampling_mass.mean("threshold", skipna=False), "beta": stage1.spearman})
    fixed = [n for n in ("darts", "blank", "darts-", "blank-") if n in have]
    case = (100 - summary.accuracy.sel(stage1=fixed)).mean("seed").expand_dims(space=[space])
    score = None
    if "reliance" in summary:
        score = pairs.score(pairs.stage1_measures(stage1), pairs.stage2_measures(
            summary.accuracy.sel(stage2=tried.stage2)))
    return Evidence("this campaign", errors=every,
                    case_study=case if {"blank", "blank-"} <= set(fixed) else None,
                    stage1=each.mean("seed").merge(each.std("seed").rename(alpha="alpha_std", beta="beta_std")),
                    reliance=summary.get("reliance"), score=score, scored=tried)


def joined(errors: dict[str, xr.DataArray]) -> xr.Dataset:
    """Tables of errors (stage1, stage2, seed), by their names, as ``Evidence.errors``."""
    tables = [mean_std(error)[["mean", "std"]].drop_vars("dataset", errors="ignore") for error in errors.values()]
    return xr.concat(tables, xr.Variable("table", list(errors)), join="outer")


def _real_errors(summary):
    """Test errors of the paper's five Stage-1 methods, as far as they were run."""
    names = [n for n in published.STAGE1 if n in summary.stage1.values]
    return 100 - summary.accuracy.sel(stage1=names)


def table(evidence: Evidence, keys=tuple(CLAIMS)) -> pd.DataFrame:
    """The claims ``keys``, one row each: the claim, its verdict, the number behind it and what this was computed from."""
    judges = {"C1": _trained_alpha, "C2": _perturb_best, "C3": _swap, "C4": _two_lead, "C5": _darts_last,
              "C6": _one_pair, "C7": _differ, "C8": _ordered, "C9": _prune}
    rows = {key: judges[key](evidence) for key in keys}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["verdict", "number", "from"])
    frame.insert(0, "claim", pd.Series(CLAIMS))
    return frame


def _verdict(count: int, of: int) -> str:
    return "holds" if count == of else "fails" if count == 0 else "holds in part"


def _missing(what: str) -> tuple[str, str, str]:
    return "not computable", what, "–"


def _trained_alpha(e):
    if e.case_study is None:
        return _missing("not run: it needs Stage 1 blank- with perturb")
    on = e.case_study.sel(stage2="perturb")
    gain = (on.sel(stage1="blank-") - on.sel(stage1="darts-")).to_series().dropna()
    said = ", ".join(f"{SPACES[s]} {g:+.2f}" for s, g in gain.items())
    better = int((gain > 0).sum())
    return (_verdict(better, len(gain)), f"better in {better} of {len(gain)} spaces; points gained: {said}",
            f"case study, {e.name}")


def _perturb_best(e):
    if e.case_study is None:
        return _missing("not run: it needs Stage 1 blank and blank- with perturb")
    errors = e.case_study.transpose("space", "stage1", "stage2")
    best = {s: errors.sel(space=s, drop=True).to_series().reindex(published.CASE_COLUMNS).idxmin()
            for s in errors.space.values}               # prune has no meaning where alpha was fixed
    as_said = sum((stage2 == "perturb") == (s != "s1") for s, (_, stage2) in best.items())
    said = "; ".join(f"{SPACES[s]}: {' with '.join(pair)}" for s, pair in best.items())
    return _verdict(as_said, len(best)), f"best in {said}", f"case study, {e.name}"


def _swap(e):
    if "prune" not in e.errors.stage2:
        return _missing("not run: it needs Stage 2 prune")
    prune, other = e.errors["mean"].sel(stage2="prune"), e.errors["mean"].drop_sel(stage2="prune").min("stage2")
    better = {t: [n for n in e.errors.stage1.values if (other < prune).sel(table=t, stage1=n)]
              for t in e.errors.table.values}
    most = sum(len(names) > e.errors.sizes["stage1"] / 2 for names in better.values())
    said = "; ".join(f"{t}: {len(names)} of {e.errors.sizes['stage1']}" + (f" ({', '.join(names)})" if names else "")
                     for t, names in better.items())
    return _verdict(most, len(better)), said, f"tables of pairs, {e.name}"


def _two_lead(e):
    if lacking := _no_measures(e):
        return lacking
    leaders = [set(e.stage1[k].to_series().nlargest(2).index) == {"snas", "dirichlet"} for k in ("alpha", "beta")]
    return _verdict(sum(leaders), 2), _measures(e.stage1, ["snas", "dirichlet"]), f"Stage 1 alone, {e.name}"


def _darts_last(e):
    if lacking := _no_measures(e):
        return lacking
    last = [e.stage1[k].to_series().idxmin() == "darts" for k in ("alpha", "beta")]
    a, b = (e.stage1.sel(stage1=n) for n in ("darts-", "gdas"))
    alike = bool(abs(a.alpha - b.alpha) <= a.alpha_std + b.alpha_std)
    return (_verdict(sum(last) + alike, 3), _measures(e.stage1, ["darts", "darts-", "gdas"]),
            f"Stage 1 alone, {e.name}")


def _no_measures(e):
    if e.stage1 is None:
        return _missing("the curves of Figures 1, 4 and 7 are printed as pictures only")
    lacking = [n for n in published.STAGE1 if n not in e.stage1.stage1.values]
    return _missing(f"not run: it needs Stage 1 {', '.join(lacking)}") if lacking else None


def _measures(stage1, names):
    """The two measures of the methods ``names``, and the best of the others."""
    said = [f"{n} {_pm(stage1, 'alpha', n)} and {_pm(stage1, 'beta', n)}" for n in names]
    rest = stage1.drop_sel(stage1=names)
    return (f"mean sampling mass and Spearman: {', '.join(said)}; others up to {rest.alpha.max():.2f} and "
            f"{rest.beta.max():.2f}")


def _pm(stage1, name, method):
    one = stage1.sel(stage1=method)
    return f"{one[name]:.2f} ± {one[f'{name}_std']:.2f}"


def _one_pair(e):
    if e.errors.sizes["table"] < 2:
        return _missing("not run: it needs a second data set or space")
    means = e.errors["mean"]
    best = {t: " with ".join(means.sel(table=t, drop=True).to_series().idxmin()) for t in means.table.values}
    return ("holds" if len(set(best.values())) > 1 else "fails", "; ".join(f"{t}: {b}" for t, b in best.items()),
            f"tables of pairs, {e.name}")


def _differ(e):
    if e.reliance is None:
        return _missing("not run: it needs the four standard supernets")
    stats, wide, said = mean_std(e.reliance), 0, []
    for d in e.reliance.difference.values:
        mean, std = (stats[k].sel(difference=d, drop=True).to_series() for k in ("mean", "std"))
        ends = mean.idxmin(), mean.idxmax()
        wide += mean[ends[1]] - mean[ends[0]] > std[ends[0]] + std[ends[1]]
        said.append(f"{d}: " + " to ".join(f"{n} {mean[n]:+.2f} ± {std[n]:.2f}" for n in ends))
    return _verdict(int(wide), len(said)), "; ".join(said), f"reliance, {e.name}"


def _ordered(e):
    if e.score is None:
        return _missing("not run: it needs the four standard supernets")
    found = pairs.agreement(e.score, e.scored)
    verdict = "holds" if found.low > 0 else "fails" if found.high <= 0 else "undecided"
    said = f"{found.rho:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f}, {int(found.n)} pairs"
    return verdict, f"Spearman of score and error: {said}", f"scores and table of pairs, {e.name}"


def _prune(e):
    if e.review is None:
        return _missing("a count of published methods; nothing to run")
    pruned = (e.review["selection"] == "Arch prune").sum()
    return ("holds" if pruned > len(e.review) / 2 else "fails", f"{pruned} of {len(e.review)} rows", "Table 4")


def facts() -> pd.DataFrame:
    """Relations among the published numbers: what is printed, what it must be, and whether the two agree."""
    printed = published.errors()
    first = printed.sel(space="nb201", dataset="cifar10", stage1="darts", stage2="prune")
    seeds = mean_std(published.seeds_of_darts_prune())
    starred = printed["mean"].where(printed.bold).stack(cell=printed["mean"].dims).dropna("cell")
    least = printed["mean"].min("stage2").where(printed.bold.any("stage2"))
    cells = published.single_cells().itertuples(index=False)
    prune = printed["mean"].sel(space="nb201", stage2="prune")
    single = [(prune.sel(dataset=d, stage1=s).item(), 100 - a) for s, d, a in cells]
    change = mean_std(published.reliance().sel(stage2="perturb", difference="R_I-R_U"))
    rows = [
        ("Table 2, darts with prune, from its three seeds (population deviation)",
         f"{first['mean']:.2f} ± {first['std']:.2f}", f"{seeds['mean']:.2f} ± {seeds['std']:.2f}"),
        ("Tables 2 and 3: the bold error is the least of its row", _list(starred.values), _list(least.values.ravel())),
        ("prune with deviation 0: the error of the single cell that DrNAS's README lists",
         _list(e for e, _ in single), _list(e for _, e in single)),
        ("perturb draws no candidates, so on one supernet R_I − R_U is 0 (D7, D8): CIFAR-10, CIFAR-100", "0.0, 0.0",
         _list(change["mean"].values, 1)),
        ("number of reviewed methods", "20", str(len(published.review()))),
    ]
    frame = pd.DataFrame(rows, columns=["fact", "printed", "recomputed"]).set_index("fact").rename_axis(None)
    return frame.assign(agrees=np.where(frame.printed == frame.recomputed, "yes", "no"))


def _list(values, digits: int = 2) -> str:
    known = [v for v in values if not np.isnan(v)]
    return ", ".join(f"{abs(v) if round(v, digits) == 0 else v:.{digits}f}" for v in sorted(known))
