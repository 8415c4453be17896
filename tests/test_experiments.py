"""Joining the parts: everything is checked before training, and what belongs together finds itself."""

import numpy as np
import pytest
import yaml

from nas_lib import checkpoint, experiments, results
from nas_lib.benchmark import BenchmarkError
from nas_lib.experiments import ParameterError, Setup, check_parameters, shard, stage1, stage2
from nas_lib.methods import UnknownMethod
from nas_lib.spaces.published_cells import CELLS

TINY = {"channels": 1, "cells": 1, "epochs": 1, "batch": 512}


@pytest.fixture
def never(monkeypatch):
    """No test with this may come as far as training."""
    def trained(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(experiments, "train", trained)
    monkeypatch.setattr(experiments, "train_shard", trained)


@pytest.mark.parametrize("wrong, error, says", [
    ({"method": "dart"}, UnknownMethod, "built-in"),
    ({"method": "no/such.py"}, UnknownMethod, "no file"),
    ({"hyper": {"tau": 1}}, UnknownMethod, "tau_max"),
    ({"data": "cifar11"}, ValueError, "digits"),
    ({"options": {"size": 3}}, ParameterError, "size"),
    ({"device": "abacus"}, ParameterError, "cpu"),
    ({"seed": "three"}, ParameterError, "seed = 'three': it must be int"),
    ({"epochs": 1.5}, ParameterError, "epochs"),
    ({"batch": 0}, ParameterError, "batch = 0: it must be from 1 to"),
    ({"protocol": "published"}, ParameterError, "there are corrected, paper"),
    ({"flags": {"bn": "batch"}}, ParameterError, "there are clip_alpha.* rank_bn"),
    ({"flags": {"rank_bn": "none"}}, ParameterError, "one of running, batch, recalibrate"),
    ({"space": "s5"}, ParameterError, "there are nb201, s0, s1"),
    ({"space": "s1"}, ParameterError, "s1 needs 3, a normal cell and two reduction cells"),
    ({"space": "s1", "cells": 3, "method": "rsps+"}, ParameterError, "there is no table of s1"),
    ({"precision": "half"}, ParameterError, "precision = 'half': it can be float32, bfloat16"),
    ({"partial": 0}, ParameterError, "partial = 0: it must be from 1 to"),
])
def test_wrong_setup(never, tmp_path, wrong, error, says):
    with pytest.raises(error, match=says):
        stage1(Setup(**{"cache": str(tmp_path)} | wrong), tmp_path / "x.nc")


@pytest.mark.parametrize("images", [10**6, -1])
def test_wrong_ranking(never, tmp_path, images):
    with pytest.raises(ParameterError, match="1 views have 512 images"):
        stage1(Setup(cache=str(tmp_path)), tmp_path / "x.nc", images=images)


@pytest.mark.parametrize("wrong, says", [
    ({"part": 2, "parts": 2}, "part = 2 of 2: .* numbered from 0"), ({"part": -2}, "give -1 for all"), ({"parts": 0}, "at least 1"), ({"parts": 2}, "in one piece")])
def test_wrong_parts(never, tmp_path, wrong, says):
    with pytest.raises(ParameterError, match=says):
        stage1(Setup(protocol="paper", cache=str(tmp_path), **TINY), tmp_path / "1.nc", **wrong)


@pytest.mark.parametrize("wrong", [{"top": 0}, {"top": True}, {"precision": "half"}, {"correct": 1}, {"images": 3}])
def test_wrong_scoring(never, tmp_path, wrong):
    with pytest.raises(ParameterError, match="scoring: .* it can have precision"):
        stage1(Setup(cache=str(tmp_path), **TINY), tmp_path / "1.nc", scoring=wrong)


def test_wrong_selection(never, tmp_path):
    setup = Setup(cache=str(tmp_path))
    with pytest.raises(UnknownMethod, match="synflow"):
        stage2(setup, tmp_path / "x.nc", select=["sinflow"])
    with pytest.raises(ParameterError, match="at least one"):
        stage2(setup, tmp_path / "x.nc", select=[])
    with pytest.raises(ParameterError, match="settings of valid: selected are prune"):
        stage2(setup, tmp_path / "x.nc", select=["prune"], settings={"valid": {}})
    with pytest.raises(UnknownMethod, match="unknown option depth"):
        stage2(setup, tmp_path / "x.nc", select=["perturb"], settings={"perturb": {"depth": 1}})


def test_wrong_shard(never, tmp_path):
    setup = Setup(cache=str(tmp_path))
    with pytest.raises(ParameterError, match="shard = 4 of 4: .* numbered from 0"):
        shard(4, 4, [0], tmp_path / "x.nc", setup, {})
    with pytest.raises(ParameterError, match="weight_decay"):
        shard(0, 4, [0], tmp_path / "x.nc", setup, {"decay": 1})


def test_result_that_cannot_be_written(never, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(results.ResultError, match="choose another"):
        stage1(Setup(cache=str(tmp_path)), tmp_path / "file/x.nc")
    with pytest.raises(results.ResultError, match="choose another"):
        stage1(Setup(cache=str(tmp_path / "file")), tmp_path / "x.nc")


def test_a_space_too_large_to_score(never, tmp_path):
    with pytest.raises(ParameterError, match=r"s0 has 1e\+18 architectures, too many to score them all; set images to 0"):
        stage1(Setup(space="s0", cells=3, cache=str(tmp_path)), tmp_path / "x.nc", images=200)


@pytest.mark.parametrize("wrong, says", [
    ({"setup": Setup()}, "its architectures are in the benchmark"), ({"cell": "darts 1"}, "published cells of s1: darts, "),
    ({"seeds": []}, "name at least one"), ({"seeds": [1, 1]}, "each once"), ({"recipe": {"steps": 1}}, "it has channels, "),
    ({"recipe": {"cells": 1}}, "cells = 1 is out of range"), ({"recipe": {"cutout": 8}}, "options of digits: there is no cutout")])
def test_wrong_final_training(monkeypatch, tmp_path, wrong, says):
    monkeypatch.setattr(experiments, "train_final", lambda *_: pytest.fail("training began"))
    good = {"setup": Setup(space="s1", cache=str(tmp_path)), "cell": "darts", "recipe": {"cutout": 0}}
    with pytest.raises(ParameterError, match=says):
        experiments.final(out=tmp_path / "x.nc", **good | wrong)


def test_damaged_truth(never, tmp_path, monkeypatch):
    def damaged(*_):
        raise BenchmarkError("damaged")

    monkeypatch.setattr(experiments.benchmark, "truth", damaged)
    for run in (lambda: stage1(Setup(method="rsps+", cache=str(tmp_path)), tmp_path / "x.nc"),
                lambda: stage2(Setup(method="rsps", cache=str(tmp_path)), tmp_path / "x.nc")):
        with pytest.raises(BenchmarkError):
            run()


def test_injected_parameters():
    cells = ["", "a: int = 1  # one\nb = 2", "# Parameters\na = 3\n", "import x"]
    check_parameters(cells)
    check_parameters(["", "a: int = 1", "c = 2"])           # typed by hand: nobody's business
    with pytest.raises(ParameterError, match="unknown parameter c; this notebook has a, b"):
        check_parameters([*cells[:2], "# Parameters\na = 3\nc = 4\n"])
    for wrong in ("True", "'3'", "None", "1.5", "[3]", "float('nan')"):
        with pytest.raises(ParameterError, match="a = .*: it must be int"):
            check_parameters([*cells[:2], f"# Parameters\na = {wrong}\n"])
    check_parameters(["", "a: int = None\nb: float = 0.1", "# Parameters\na = None\nb = 2"])


def test_parts_of_a_ranking_are_joined_and_not_done_again(tmp_path, monkeypatch):
    def run(name="1.nc", **parts):
        return stage1(Setup(method="rsps", cache=str(tmp_path / "cache"), **TINY), tmp_path / name, 4, **parts)

    whole = run()
    assert [list(run(part=k, parts=2).data_vars.keys() & {"score", "rank_loss"}) for k in (1, 0)] == [[], []]
    monkeypatch.setattr("nas_lib.ranking.accuracy", None)
    joined = run(parts=2)
    assert joined.score.identical(whole.score) and joined.rank_loss.identical(whole.rank_loss)
    assert joined.attrs.keys() == whole.attrs.keys()


def test_second_stage_reuses_the_supernet(tmp_path):
    setup = Setup(method="darts", cache=str(tmp_path / "cache"), **TINY)
    one = stage1(setup, tmp_path / "1.nc", images=0)
    weights = next((tmp_path / "cache").rglob("state.pt"))
    stamp = weights.stat().st_mtime_ns
    two = stage2(setup, tmp_path / "2.nc", select=["prune"], candidates=3)
    assert weights.stat().st_mtime_ns == stamp and len(list((tmp_path / "cache").iterdir())) == 1
    assert two.choice.item() == experiments.NB201.index(one.probs.argmax("op").values)
    assert two.accuracy.item() == pytest.approx(
        experiments.benchmark.truth("digits").values[two.choice.item()])
    kept = results.read(results.write(one, tmp_path / "1.nc"))
    assert "score" not in kept and kept.attrs["scale"].startswith("Supernets of 1 channel and 1 cell")


def test_method_that_does_not_apply_is_missing(tmp_path, capsys):
    two = stage2(Setup(method="none+", cache=str(tmp_path), channels=1), tmp_path / "2.nc",
                 select=["prune", "synflow"], candidates=5)
    assert np.isnan(two.choice.sel(stage2="prune")) and two.choice.sel(stage2="synflow") >= 0
    assert list(two.attrs["not_applicable"]) == ["prune"]
    assert "prune does not apply" in capsys.readouterr().out
    results.write(two, tmp_path / "2.nc")


def test_changed_method_file_never_meets_old_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.py"
    text = (results.root() / "nas_lib/stage1/none.py").read_text()
    for comment in ("# one\n", "# two\n"):
        file.write_text(text + comment)
        run = stage1(Setup(method="mine.py", cache=str(tmp_path / "cache"), channels=1), "x.nc", images=0)
        assert run.stage1 == "mine"
    assert len(list((tmp_path / "cache").glob("nb201-digits-mine-s0-*"))) == 2


def test_shard(tmp_path):
    setup = Setup(cache=str(tmp_path))
    table = shard(3, 2630, [5, 6], tmp_path / "s.nc", setup, {"steps": 2, "copies": 1})
    assert table.test.sizes == {"network": 2, "train_seed": 2}
    assert table.params.sizes == {"network": 2}
    again = shard(3, 2630, [5, 6], tmp_path / "s.nc", setup, {"steps": 2, "copies": 1})
    assert again.equals(table)          # seconds too: read, not trained
    results.write(table, tmp_path / "s.nc")


def test_the_protocol_decides_and_is_recorded(tmp_path, monkeypatch):
    """Published values of a method are defaults under "paper", one flag changes one thing."""
    seen = []

    def remember(name, method, *_, **__):
        seen.append((method, _[-1]))
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "train", remember)
    for setup in ({}, {"protocol": "paper"}, {"protocol": "paper", "hyper": {"beta": "late"}},
                  {"flags": {"clip_alpha": True}}):
        with pytest.raises(KeyboardInterrupt):
            stage1(Setup(method="darts-", cache=str(tmp_path), **setup), tmp_path / "x.nc")
    assert [m.beta for m, _ in seen] == ["linear", "constant", "late", "linear"]
    assert [p.rank_bn for _, p in seen] == ["batch", "running", "running", "batch"]
    assert [p.clip_alpha for _, p in seen] == [False, True, True, True]


def test_on_the_spaces_of_darts_alpha_is_never_in_the_clipped_norm():
    assert Setup(protocol="paper").rules.clip_alpha and not Setup(protocol="paper", space="s1").rules.clip_alpha
    assert Setup(protocol="paper", space="s1", flags={"clip_alpha": True}).rules.clip_alpha
    assert Setup(protocol="paper", space="s1").rules.valid_bn == "running"


def test_both_stages_on_pairs_of_cells(tmp_path):
    setup = Setup(space="s2", method="darts", cache=str(tmp_path / "cache"), channels=2, cells=3, epochs=1, batch=512)
    one = stage1(setup, tmp_path / "1.nc")
    two = stage2(setup, tmp_path / "2.nc", select=["prune", "synflow", "oracle"], candidates=3)
    assert [f.name.startswith("s2-digits-darts-s0-") for f in (tmp_path / "cache").iterdir()] == [True]
    paths = [results.write(run, tmp_path / f"{n}.nc") for n, run in enumerate((one, two), 1)]
    one, two = (results.load([p]).squeeze(["dataset", "stage1", "seed"]) for p in paths)
    assert one.dataset == two.dataset == "s2-digits" and "score" not in one and "arch" not in one.coords
    assert one.alpha.sizes == one.probs.sizes == {"edge": 28, "op": 2} and one.sizes["epoch"] == 1
    assert "published runs: 16 and 8" in one.attrs["scale"] and "per stage" not in one.attrs["scale"]
    prune, synflow, oracle = two.choice.values
    assert prune == one.attrs["genotype"] and synflow in two.candidates and oracle == ""
    assert "accuracy" not in two and two.candidate_score.sel(stage2="synflow").notnull().all()


def test_a_final_training_goes_on_and_says_what_it_is(tmp_path, monkeypatch):
    import tiny

    recipe = {"channels": 2, "cells": 3, "epochs": 2, "batch": 512, "auxiliary": 0, "cutout": 0}

    def run(place):
        setup = Setup(space="s1", cache=str(tmp_path / place))
        return experiments.final(setup, tmp_path / "x.nc", "dartsm_pt", [3, 5], recipe)

    whole = run("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 3)       # one seed, and half of the other
        run("stopped")
    assert run("stopped").drop_vars("seconds").equals(whole.drop_vars("seconds"))
    assert whole.error.sizes == {"train_seed": 2, "epoch": 2} and whole.params.ndim == 0
    kept = results.read(results.write(whole, tmp_path / "x.nc"))
    assert kept.attrs["genotype"] == CELLS["s1"]["dartsm_pt"] and kept.train_seed.values.tolist() == [3, 5]
    assert '"cells": 3' in kept.attrs["config"] and kept.dataset == "s1-digits"


def test_results_carry_their_protocol(tmp_path):
    setup = Setup(method="none", cache=str(tmp_path), channels=1, protocol="paper", flags={"shared_draw": False})
    one = stage1(setup, tmp_path / "1.nc", images=0)
    assert one.attrs["protocol"] == "paper with shared_draw=False"


@pytest.mark.parametrize("shared", [True, False])
def test_draws_of_different_methods(tmp_path, shared):
    """Both laws are uniform: with one seed for all they draw the same candidates (D16)."""
    drawn = [stage2(Setup(method=m, cache=str(tmp_path), channels=1, epochs=1, batch=512,
                          flags={"shared_draw": shared}), tmp_path / "2.nc", select=["random"], candidates=20)
             for m in ("none", "rsps")]
    assert np.array_equal(*(run.candidates for run in drawn)) == shared


def test_an_oracle_sees_the_truth_and_takes_the_best_candidate(tmp_path):
    two = stage2(Setup(method="none", cache=str(tmp_path), channels=1), tmp_path / "2.nc", select=["oracle"],
                 candidates=30)
    assert two.accuracy.item() == two.candidate_accuracy.max()


def test_a_selection_that_takes_long_goes_on_where_it_was(tmp_path, monkeypatch):
    """Stopped in its tuning and called again, perturb ends as if never stopped."""
    import tiny

    how = {"select": ["perturb"], "candidates": 3, "settings": {"perturb": {"epochs": 3}}}
    setups = [Setup(method="darts", cache=str(tmp_path / name), **TINY) for name in ("whole", "stopped")]
    whole = stage2(setups[0], tmp_path / "1.nc", **how)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 3)       # the training's one epoch, and two of three here
        stage2(setups[1], tmp_path / "2.nc", **how)
    stored = []
    monkeypatch.setattr(checkpoint, "save", lambda *_: stored.append(1))
    assert stage2(setups[1], tmp_path / "2.nc", **how).choice.item() == whole.choice.item()
    assert len(stored) == 1             # the third epoch only


def test_the_papers_campaign_takes_its_steps(tmp_path):
    """At its full size, on made-up photographs."""
    rng, said = np.random.default_rng(0), yaml.safe_load((results.root() / "notebooks/campaigns/paper.yaml").read_text())
    np.savez(tmp_path / "my.npz", x_train=rng.integers(0, 256, (140, 3, 32, 32), dtype=np.uint8),
             y_train=rng.integers(0, 10, 140))
    own = {"device": "cpu", "epochs": 1, "options": {"file": str(tmp_path / "my.npz")}, "cache": str(tmp_path)}
    setup = Setup(method="rsps", data="images", seed=said["seeds"][0], **said["parameters"] | own)
    run = stage1(setup, tmp_path / "x.nc", images=0)
    assert run.sizes["epoch"] == 1 and 1 < run.train_loss.item() < 4
    assert run.attrs["scale"].startswith("Supernets of 16 channels and 5 cells")
