"""Stored results are made again and compared; what was changed is found."""

import json

import numpy as np
import pytest

from nas_lib import results, verify
from nas_lib.experiments import Setup, stage1, stage2

TINY = {"channels": 1, "epochs": 1, "batch": 512}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Both stages of one tiny run, below a root of their own."""
    root = tmp_path_factory.mktemp("root")
    setup = Setup(method="gdas", cache=str(root / "cache"), **TINY)
    for n, run in ((1, stage1(setup, root / "x.nc", images=4)),
                   (2, stage2(setup, root / "x.nc", select=["valid", "prune"], candidates=4))):
        results.write(run, root / f"results/mine/stage{n}-digits-gdas-s0.nc")
    return root


@pytest.fixture
def paths(campaign, monkeypatch):
    monkeypatch.setattr(results, "where", lambda path: campaign / path)
    return verify.sample("mine", 9)


def test_a_run_comes_out_again(paths):
    assert [p.name[:6] for p in paths] == ["stage2", "stage1"] and verify.sample("mine", 1) == paths[:1]
    found, origins = verify.table(paths)
    assert not found.different.any() and verify.verdict(found, paths).startswith("**All ")
    assert {"score", "choice", "input images", "input supernet", "input truth"} <= set(found.variable)
    assert found.set_index("variable").loc["score", "values"] == 15625 and origins.empty


def test_what_was_changed_is_found(paths):
    stored = results.read(paths[1])
    new = stored.copy(deep=True)
    new.score[7] += 0.5
    new.attrs["inputs"] = json.dumps(json.loads(stored.attrs["inputs"]) | {"images": "other"})
    new.attrs["provenance"] = json.dumps(json.loads(stored.attrs["provenance"]) | {"torch": "9.9"})
    found = verify.compare(stored, new)
    assert found.loc["score", "different"] == 1 and found.loc["score", "largest difference"] == pytest.approx(0.5)
    assert found.loc["input images", "different"] == 1 and found.different.sum() == 2
    assert verify.compare(stored, new.drop_vars("rank_loss")).loc["rank_loss", "different"] == 15625
    assert verify.origins(stored, new).index.tolist() == ["torch"]
    assert "2 of " in verify.verdict(found.reset_index(), paths)


def test_a_result_that_does_not_say_what_was_asked(paths, campaign):
    results.write(results.read(paths[0]).drop_attrs(), campaign / "old.nc")
    with pytest.raises(results.ResultError, match="made by an older version: make it again"):
        verify.again(campaign / "old.nc")
    with pytest.raises(results.ResultError, match="no results of 'other'"):
        verify.sample("other", 1)


def test_a_digest_knows_types_and_shapes():
    from nas_lib.outcomes import digest

    a = np.arange(6.0)
    assert digest(a) == digest(a[::1].copy()) and len({digest(a), digest(a.reshape(2, 3)), digest(a.astype("f4")), digest(a, a)}) == 4
