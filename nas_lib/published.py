"""The numbers printed in "Picking up the pieces", and what its published result files add, as named arrays.

Test errors in percent, mean and population standard deviation over the search seeds 10, 11, 12. The blocks below are the
printed ones, row by row; a star is the paper's bold (in Table 3 read off the spacing of the print).
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import xarray as xr

STAGE1 = ["darts", "darts-", "snas", "gdas", "dirichlet"]
STAGE2 = ["prune", "valid", "synflow", "jacob_cov", "perturb"]
SEEDS = [10, 11, 12]
SOURCES = {("nb201", "cifar10"): "Table 2", ("s0", "cifar10"): "Table 3", ("nb201", "cifar100"): "Table 5",
           ("nb201", "ImageNet16-120"): "Table 6"}
BLOCKS = {"Table 2": """
    darts      40.16 ± 7.83   *9.07 ± 1.65    9.48 ± 2.33   10.03 ± 0.20   14.34 ± 3.66
    darts-      9.36 ± 2.17   11.90 ± 0.65   *6.29 ± 0.46    8.16 ± 2.03   10.17 ± 1.16
    snas       *5.92 ± 0.25    8.31 ± 3.36    6.36 ± 0.10    7.71 ± 0.27    7.24 ± 1.54
    gdas       12.55 ± 8.54   17.40 ± 4.39   *7.03 ± 0.20    9.30 ± 1.26    8.25 ± 1.46
    dirichlet  *5.64 ± 0.00    6.35 ± 0.08    6.04 ± 0.28    7.35 ± 0.75    5.88 ± 0.22
""", "Table 3": """
    darts       3.27 ± 0.44    3.48 ± 0.47    3.66 ± 0.59   *3.01 ± 0.23    3.25 ± 0.10
    darts-     *2.66 ± 0.15    2.98 ± 0.22    3.22 ± 0.43    3.11 ± 0.40    2.72 ± 0.25
    snas        3.10 ± 0.14    3.19 ± 0.31    3.61 ± 0.67    3.13 ± 0.35   *2.96 ± 0.32
    gdas        3.04 ± 0.39    4.01 ± 0.62    4.94 ± 0.29    3.17 ± 0.23   *2.90 ± 0.11
    dirichlet  *2.65 ± 0.06    3.36 ± 0.07    3.67 ± 0.66    3.21 ± 0.32    2.78 ± 0.05
""", "Table 5": """
    darts      61.03 ± 0.00   36.41 ± 3.19  33.24 ± 33.24   36.44 ± 1.15   44.13 ± 5.60
    darts-     32.46 ± 4.93   44.68 ± 7.47  28.51 ± 28.51   32.18 ± 2.46   35.11 ± 3.55
    snas       28.37 ± 1.33   36.95 ± 6.32  29.08 ± 29.08   32.47 ± 3.77   33.65 ± 3.35
    gdas       83.58 ± 8.80   52.97 ± 7.97  30.21 ± 30.21   36.20 ± 2.74   38.81 ± 4.05
    dirichlet  28.62 ± 1.57   30.03 ± 0.56  27.48 ± 27.48   34.44 ± 3.77   29.29 ± 2.43
""", "Table 6": """
    darts      81.59 ± 0.00   79.21 ± 5.36   57.41 ± 0.90   71.52 ± 4.47   65.04 ± 1.22
    darts-     77.03 ± 4.70   77.49 ± 5.21   54.68 ± 1.44   61.61 ± 5.11   64.65 ± 3.03
    snas       53.66 ± 0.00   53.44 ± 0.11   56.93 ± 2.31   54.64 ± 0.76   56.20 ± 2.97
    gdas       58.98 ± 0.00   69.26 ± 4.79   58.62 ± 0.82   63.39 ± 4.54   59.01 ± 2.13
    dirichlet  53.66 ± 0.00   54.68 ± 0.17   53.66 ± 0.00   56.15 ± 1.46   56.04 ± 3.07
"""}
CASE_COLUMNS = [("darts", "prune"), ("darts", "perturb"), ("blank", "perturb"),
                ("darts-", "prune"), ("darts-", "perturb"), ("blank-", "perturb")]
CASE_STUDY = """
    nb201   45.7  11.89   6.20   6.75   6.56   7.22
    s1      3.84    3.5   2.86   2.62   2.87   2.76
    s2      4.85   2.79   2.59   2.65   2.47   2.80
    s3      3.34   2.49   2.52   2.58   2.53   2.54
    s4       7.2   2.64   2.58   3.44   2.67   2.61
"""
RECOVERED = """
    cifar10  rsps+ | 94.29 94.01 94.01 | 93.79 94.36 93.48 | 92.98 92.75 93.47 | 93.71 90.36 90.44
    cifar10  rsps2 | 87.50 90.81 88.01 | 93.66 93.16 93.40 | 91.40 89.16 92.11 | 93.71 90.40 90.44
    cifar100 rsps+ | 73.51 72.42 73.22 | 73.51 73.51 73.51 | 71.56 72.75 73.51 | 67.40 58.58 70.66
    cifar100 rsps2 | 61.72 62.52 51.47 | 70.88 70.66 69.40 | 69.12 64.79 68.34 | 67.40 58.58 70.66
"""
CANDIDATES = """
    cifar10  rsps+ | 93.43 93.49 93.52
    cifar10  rsps2 | 88.19 88.11 86.43
    cifar100 rsps+ | 72.89 72.86 72.82
    cifar100 rsps2 | 62.20 62.77 61.06
"""
REVIEW = """
    DARTS | Arch prune | Suggests multiple trials for final arch | 2019
    DARTS- | Arch prune |  | 2021
    PC-DARTS | Arch prune | Combined prune on op, edge weights | 2020
    RSPS | Random search |  | 2019
    SNAS | Arch prune | Prune ops, no method for edge pruning | 2019
    GDAS | Arch prune |  | 2019a
    DrNAS | Arch prune |  | 2021b
    ProxylessNAS | Arch prune | Sample during training | 2019
    ENAS | Random search | Uses trained sampler | 2018
    OSNAS | Random search |  | 2018
    DARTS-PT | Perturbation |  | 2021
    P-DARTS | Arch prune | Progressive prune, alter search space | 2019
    SDARTS | Arch prune | Arch selection not directly addresssed | 2021
    R-DARTS | Arch prune | Final arch selected from multiple trials | 2020
    SETN | Random search | Uses trained sampler | 2019b
    BayesNAS | Arch prune | Entropy-based prune | 2019
    NASP | Arch prune | Proximal algorithm, applied during training | 2020
    SGAS | Arch prune | Progressive prune on multiple metrics | 2020
    NAOnet | Population search | Gradient based updates to population | 2018
    PARSEC | Arch prune | Sample during training | 2019
    DSNAS | Arch prune | Sample during training | 2020
"""


def errors() -> xr.Dataset:
    """Tables 2, 3, 5 and 6: ``mean``, ``std``, ``n``, ``bold`` (space, dataset, stage1, stage2), and ``source``.

    NaN where nothing is printed (s0 beyond CIFAR-10) and for the deviations of synflow in Table 5, a column that was
    lost: it repeats the means.
    """
    tables = [_table(BLOCKS[source]).expand_dims(space=[space], dataset=[dataset]).assign(
        source=(("space", "dataset"), [[source]])) for (space, dataset), source in SOURCES.items()]
    joined = xr.merge(tables, join="outer", compat="no_conflicts").reindex(
        space=["nb201", "s0"], dataset=["cifar10", "cifar100", "ImageNet16-120"])
    joined["std"] = joined["std"].where(joined["std"] != joined["mean"])
    count = len(SEEDS) * joined["mean"].notnull()
    return joined.assign(n=count, bold=joined["bold"] == 1, source=joined["source"].fillna("").astype(str))


def _table(block: str) -> xr.Dataset:
    """One printed table, exactly as printed."""
    cells = [re.findall(r"(\*?)(\d+\.\d+) ± (\d+\.\d+)", line) for line in block.strip().splitlines()]
    star, mean, std = np.moveaxis(np.array(cells), -1, 0)
    dims = ("stage1", "stage2")
    return xr.Dataset({"mean": (dims, mean.astype(float)), "std": (dims, std.astype(float)),
                       "bold": (dims, (star == "*").astype(float))}, coords={"stage1": STAGE1, "stage2": STAGE2})


def case_study() -> xr.DataArray:
    """Table 1, section 3: single errors over (space, stage1, stage2); ``blank`` and ``blank-`` have a fixed alpha.

    NaN for pairs that were not tried. The columns of ``darts`` and ``blank`` are those of the DARTS-PT paper (D24).
    """
    lines = [line.split() for line in CASE_STUDY.strip().splitlines()]
    pairs = pd.MultiIndex.from_tuples(CASE_COLUMNS, names=["stage1", "stage2"])
    table = pd.DataFrame([[float(v) for v in values] for _, *values in lines], columns=pairs,
                         index=pd.Index([name for name, *_ in lines], name="space"))
    found = table.stack(["stage1", "stage2"]).to_xarray()
    found = found.sel(stage1=["darts", "blank", "darts-", "blank-"], stage2=["prune", "perturb"])
    return found.rename("error").assign_attrs(source="Table 1", seeds="1, 2, 3; aggregation not stated")


def recovered() -> xr.Dataset:
    """From the published result files of the baselines, which the paper shows only as the bars of Figures 2 and 5.

    ``accuracy`` (dataset, stage1, stage2, seed): test accuracy in percent of what was selected on R_I (``rsps+``)
    and on R_U, which is ``rsps2`` there (D7); ``candidates`` (dataset, stage1, seed): mean of the 100 candidates.
    The supernets N_U and N_I, and all of ImageNet16-120, were not published.
    """
    dims, names = ("dataset", "stage1", "stage2", "seed"), STAGE2[1:]
    both = {"accuracy": (dims, RECOVERED, names), "candidates": (dims[:2] + dims[3:], CANDIDATES, [""])}
    found = {}
    for key, (over, block, columns) in both.items():
        values = [[part.split() for part in line.split("|")[1:]] for line in block.strip().splitlines()]
        shape = (2, 2, len(columns), 3) if "stage2" in over else (2, 2, 3)
        found[key] = (over, np.array(values, float).reshape(shape))
    return xr.Dataset(found, attrs={"source": "result files of the published code"}, coords={
        "dataset": ["cifar10", "cifar100"], "stage1": ["rsps+", "rsps2"], "stage2": names, "seed": SEEDS})


def reliance() -> xr.DataArray:
    """R_I - R_U in points (difference, dataset, stage2, seed): of the four differences the one that was published."""
    accuracy = recovered().accuracy
    gain = accuracy.sel(stage1="rsps+", drop=True) - accuracy.sel(stage1="rsps2", drop=True)
    return gain.expand_dims(difference=["R_I-R_U"]).rename("reliance")


def ranks_in_words() -> xr.Dataset:
    """How section 4.1 orders the Stage-1 methods, whose curves (Figure 1) are printed as pictures only.

    ``alpha``: sampling, ``beta``: shared weights; higher is better, equals are tied. snas and dirichlet "highly
    outperform the other algorithms" at both, darts "performs very poorly at both", darts- is "competitive" with
    gdas at sampling; that these two share the middle at ``beta`` as well is what this leaves.
    """
    level = {"darts": 0.0, "darts-": 1.0, "snas": 2.0, "gdas": 1.0, "dirichlet": 2.0}
    order = xr.DataArray([level[n] for n in STAGE1], dims="stage1", coords={"stage1": STAGE1})
    return xr.Dataset({"alpha": order, "beta": order}, attrs={"source": "section 4.1, in words"})


def single_cells() -> pd.DataFrame:
    """Entries of prune with deviation 0 whose cell is known: its accuracy as the README of DrNAS lists it."""
    rows = [("darts", "cifar100", 38.97), ("darts", "ImageNet16-120", 18.41), ("dirichlet", "cifar10", 94.36),
            ("dirichlet", "ImageNet16-120", 46.34)]
    return pd.DataFrame(rows, columns=["stage1", "dataset", "accuracy"])


def seeds_of_darts_prune() -> xr.DataArray:
    """The three errors behind Table 2's darts with prune, which tell a population deviation from a sample's."""
    return xr.DataArray([45.70, 45.70, 29.08], dims="seed", coords={"seed": SEEDS})


def review() -> pd.DataFrame:
    """Table 4, appendix A.1: the reviewed methods, as printed; letters after the year are those of the references."""
    rows = [[part.strip() for part in line.split("|")] for line in REVIEW.strip().splitlines()]
    return pd.DataFrame(rows, columns=["algorithm", "selection", "note", "reference"])


def review_counts() -> pd.Series:
    """Figure 3: number of reviewed methods per kind of selection, most first."""
    return review()["selection"].value_counts().rename("methods")
