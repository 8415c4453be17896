"""The paper's claims: the published verdicts, and that each turns when the numbers do."""

import numpy as np
import pytest
import xarray as xr

from nas_lib import claims, pairs, published
from nas_lib.metrics import reliance


@pytest.fixture(scope="module")
def printed():
    return claims.table(claims.of_published())


@pytest.fixture
def summary():
    """What ``evaluate.summary`` returns for a campaign in which the claims hold, by construction."""
    names = ["none", "none+", "rsps", "rsps+", *published.STAGE1]
    skill = {"darts": 0.0, "darts-": 0.3, "gdas": 0.3, "snas": 0.8, "dirichlet": 0.9}
    rng = np.random.default_rng(0)
    level = np.array([skill.get(n, 0.5) for n in names])[:, None, None]
    gain = np.array([0, 1, 2, 3, 4])
    size = (len(names), 5, 3)
    accuracy = 70 + 10 * level + gain[:, None] * (1 + np.arange(len(names)))[:, None, None] / 3 + 0.01 * rng.random(size)
    measure = np.broadcast_to(level[..., 0], (len(names), 3)) + 0.01 * rng.random((len(names), 3))
    found = xr.Dataset(
        {"accuracy": (("stage1", "stage2", "seed"), accuracy), "spearman": (("stage1", "seed"), measure),
         "expected_accuracy": (("stage1", "seed"), measure),
         "sampling_mass": (("stage1", "seed", "threshold"), np.repeat(measure[..., None], 24, -1))},
        coords={"stage1": names, "stage2": published.STAGE2, "seed": [0, 1, 2], "dataset": "digits"})
    return found.assign(reliance=reliance(found.accuracy))


def test_published_verdicts(printed):
    assert printed.index.tolist() == list(claims.CLAIMS)
    assert printed.verdict.to_dict() == {
        "C1": "holds in part", "C2": "holds", "C3": "holds", "C4": "not computable", "C5": "not computable",
        "C6": "holds", "C7": "holds", "C8": "holds", "C9": "holds"}


def test_published_numbers(printed):
    said = printed.number
    assert said.C1.startswith("better in 3 of 5 spaces") and "S3 +0.01" in said.C1 and "S1 -0.11" in said.C1
    assert "S1: darts- with prune" in said.C2 and said.C2.count("perturb") == 4
    assert "NAS-Bench-201, cifar10: 3 of 5 (darts, darts-, gdas)" in said.C3
    assert "ImageNet16-120: 4 of 5 (darts, darts-, snas, gdas)" in said.C3      # dirichlet: a tie is no improvement
    assert "cifar100: dirichlet with synflow" in said.C6 and said.C6.count(" with ") == 4
    assert "valid +5.33 ± 1.54" in said.C7 and "perturb" not in said.C7
    assert said.C9 == "15 of 21 rows"


def test_a_campaign_in_which_they_hold(summary):
    evidence = claims.of_summary(summary)
    found, ordered = claims.table(evidence), pairs.agreement(evidence.score, evidence.scored)
    assert found.verdict[["C3", "C4", "C5", "C7"]].tolist() == ["holds"] * 4
    assert found.verdict.C8 == ("holds" if ordered.low > 0 else "undecided" if ordered.high > 0 else "fails")
    assert f"error: {ordered.rho:.2f}," in found.number.C8 and "20 pairs" in found.number.C8
    assert "5 of 5" in found.number.C3
    assert found.verdict[["C1", "C2", "C6", "C9"]].tolist() == ["not computable"] * 4
    assert "blank-" in found.number.C1 and "second data set" in found.number.C6


def test_verdicts_turn_with_the_numbers(summary):
    best_prune = summary.assign(accuracy=summary.accuracy.where(summary.stage2 != "prune", 99.0))
    assert claims.table(claims.of_summary(best_prune)).verdict.C3 == "fails"
    other = {"darts": "dirichlet", "dirichlet": "darts"}
    names = [other.get(n, n) for n in summary.stage1.values]
    swapped = claims.table(claims.of_summary(summary.assign_coords(stage1=names)))
    assert swapped.verdict[["C4", "C5"]].tolist() == ["fails", "holds in part"]


def test_two_data_sets(summary):
    other = summary.assign_coords(dataset="letters")
    other["accuracy"] = other.accuracy.where(other.stage2 != "valid", 99.0)
    found = claims.table(claims.of_summary(summary, [other]))
    assert found.verdict.C6 == "holds" and "letters" in found.number.C6 and "letters: 5 of 5" in found.number.C3
    assert claims.table(claims.of_summary(summary, [summary.assign_coords(dataset="copies")])).verdict.C6 == "fails"


def test_the_case_study_of_a_campaign(summary):
    fixed = summary.sel(stage1=["darts", "darts-"]).assign_coords(stage1=["blank", "blank-"])
    fixed["accuracy"] = (fixed.accuracy - 1.0).where(fixed.stage2 != "prune", 99.9)     # by an alpha that was fixed
    found = claims.table(claims.of_summary(xr.concat([summary, fixed], "stage1", data_vars="minimal")))
    assert found.verdict[["C1", "C2"]].tolist() == ["holds", "holds"]
    assert found.number.C1 == "better in 1 of 1 spaces; points gained: NAS-Bench-201 +1.00"


def test_a_campaign_without_a_method_says_so(summary):
    part = summary.sel(stage1=["darts", "snas"], stage2=["valid", "perturb"]).drop_vars("reliance")
    found = claims.table(claims.of_summary(part))
    assert found.verdict.tolist() == ["not computable"] * 9
    assert found.number.C4 == "not run: it needs Stage 1 darts-, gdas, dirichlet"
    assert "prune" in found.number.C3 and "four standard supernets" in found.number.C8


def test_facts():
    found = claims.facts()
    assert found.agrees.tolist() == ["yes"] * 4 + ["no"] and found.index[-1] == "number of reviewed methods"
    assert found.printed.iloc[0] == "40.16 ± 7.83" and found.recomputed.iloc[1].count(",") == 9


def test_some_claims_of_joined_tables():
    errors = {name: xr.DataArray([[[9.0, 7.0], [6.0, 4.0]], [[5.0, 5.0], [7.0, 7.0]]], dims=("stage1", "stage2", "seed"),
                                 coords={"stage1": ["darts", "gdas"], "stage2": ["prune", name], "seed": [0, 1]})
              for name in ("valid", "perturb")}
    joined = claims.joined(errors)
    assert joined["mean"].sel(table="valid", stage1="darts", stage2="prune") == 8.0 and joined["std"].max() == 1.0
    found = claims.table(claims.Evidence("made", errors=joined), ["C3", "C6"])
    assert found.index.tolist() == ["C3", "C6"] and found.verdict.tolist() == ["fails", "holds"]
    assert "valid: 1 of 2 (darts)" in found.number.C3 and "perturb: darts with perturb" in found.number.C6


def test_spaces_by_data_sets():
    assert [claims.space_of(d) for d in ("cifar10", "s3-cifar10", "digits", "s0-digits")] == ["nb201", "s3", "digits", "s0"]
