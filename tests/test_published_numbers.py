"""The published numbers are as printed, and agree with each other wherever they must."""

import numpy as np
import pytest

from nas_lib import published
from nas_lib.metrics import mean_std


@pytest.fixture(scope="module")
def errors():
    return published.errors()


@pytest.mark.parametrize("space, dataset, stage1, stage2, mean, std", [     # the corners and a middle of each table
    ("nb201", "cifar10", "darts", "prune", 40.16, 7.83), ("nb201", "cifar10", "dirichlet", "perturb", 5.88, 0.22),
    ("nb201", "cifar10", "snas", "valid", 8.31, 3.36), ("s0", "cifar10", "darts", "jacob_cov", 3.01, 0.23),
    ("s0", "cifar10", "gdas", "synflow", 4.94, 0.29), ("nb201", "cifar100", "gdas", "prune", 83.58, 8.80),
    ("nb201", "cifar100", "darts-", "valid", 44.68, 7.47), ("nb201", "ImageNet16-120", "darts", "perturb", 65.04, 1.22),
    ("nb201", "ImageNet16-120", "dirichlet", "jacob_cov", 56.15, 1.46)])
def test_as_printed(errors, space, dataset, stage1, stage2, mean, std):
    cell = errors.sel(space=space, dataset=dataset, stage1=stage1, stage2=stage2)
    assert (cell["mean"], cell["std"]) == (mean, std) and cell.n == 3


def test_every_table_is_whole(errors):
    printed = errors["mean"].notnull().sum(("stage1", "stage2"))
    assert printed.sel(space="nb201").values.tolist() == [25, 25, 25]
    assert printed.sel(space="s0").values.tolist() == [25, 0, 0]
    assert errors.source.values.tolist() == [["Table 2", "Table 5", "Table 6"], ["Table 3", "", ""]]


def test_bold_is_the_least_of_its_row(errors):
    marked = errors.bold.any("stage2")
    assert errors.bold.sum() == marked.sum() == 10
    least = errors["mean"] == errors["mean"].min("stage2")
    assert (least == errors.bold).all("stage2").where(marked, True).all()


def test_only_the_lost_column_has_no_deviations(errors):
    lost = errors["std"].isnull() & errors["mean"].notnull()
    assert lost.sum() == 5 and lost.sel(space="nb201", dataset="cifar100", stage2="synflow").all()
    raw = published._table(published.BLOCKS["Table 5"]).sel(stage2="synflow")
    assert (raw["mean"] == raw["std"]).all()


def test_deviations_are_those_of_the_population(errors):
    cell = errors.sel(space="nb201", dataset="cifar10", stage1="darts", stage2="prune")
    seeds = published.seeds_of_darts_prune()
    stats = mean_std(seeds)
    assert (stats["mean"].round(2), stats["std"].round(2)) == (cell["mean"], cell["std"])
    assert seeds.std(ddof=1).round(2) != cell["std"]


def test_one_cell_found_by_all_seeds(errors):
    for row in published.single_cells().itertuples():
        cell = errors.sel(space="nb201", dataset=row.dataset, stage1=row.stage1, stage2="prune")
        assert cell["mean"].item() == pytest.approx(100 - row.accuracy) and cell["std"] == 0


def test_case_study():
    case = published.case_study()
    assert case.sizes == {"space": 5, "stage1": 4, "stage2": 2} and case.notnull().sum() == 30
    np.testing.assert_array_equal(case.sel(space="nb201"), [[45.7, 11.89], [np.nan, 6.20], [6.75, 6.56], [np.nan, 7.22]])
    assert case.sel(space="s4", stage1="darts-").values.tolist() == [3.44, 2.67]
    gain = case.sel(stage2="perturb", stage1="blank-") - case.sel(stage2="perturb", stage1="darts-")
    assert gain.space[(gain > 0).values].values.tolist() == ["nb201", "s2", "s3"]
    assert gain.sel(space="s3").item() == pytest.approx(0.01)


def test_recovered_differences():
    stats = mean_std(published.reliance().sel(difference="R_I-R_U")).round(2)
    assert (stats["mean"] + 0.0).values.tolist() == [[5.33, 0.47, 2.18, -0.01], [14.48, 3.20, 5.19, 0.0]]
    assert stats["std"].values.tolist() == [[1.54, 0.52, 1.00, 0.02], [5.20, 0.65, 2.25, 0.0]]


def test_valid_on_r_u_chooses_no_better_than_the_mean_candidate():
    found = published.recovered().mean("seed").sel(stage1="rsps2")
    assert found.accuracy.sel(stage2="valid").round(2).values.tolist() == [88.77, 58.57]
    assert found.candidates.round(1).values.tolist() == [87.6, 62.0]


def test_review():
    methods, counts = published.review(), published.review_counts()
    assert len(methods) == methods.algorithm.nunique() == 21
    assert counts.to_dict() == {"Arch prune": 15, "Random search": 4, "Perturbation": 1, "Population search": 1}
    assert methods.set_index("algorithm").loc["SETN"].tolist() == ["Random search", "Uses trained sampler", "2019b"]
    assert methods.reference.str.fullmatch(r"20\d\d[ab]?").all() and (methods.note == "").sum() == 6
