"""Result files: complete or absent, readable again, joined by name."""

import errno
import json
import os
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

import nas_lib
from nas_lib import results

ARCHS = np.array([f"|skip~0|+|conv~{i}|" for i in range(5)])


def run(stage1="gdas", seed=0, dataset="digits", epochs=2, law=True, **attrs):
    """A small Stage-1 result; every value says which run it is from."""
    value = 10 * seed + len(stage1)
    out = xr.Dataset(
        {"score": ("arch", np.arange(5, dtype="float32") + value), "train_seconds": 1.5 * value,
         "choice": ("stage2", np.array([value, value + 1])),
         "train_loss": ("epoch", np.full(epochs, value / 8))},
        coords={"arch": ARCHS, "stage2": ["prune", "valid"], "epoch": np.arange(epochs),
                "dataset": dataset, "stage1": stage1, "seed": seed}, attrs=attrs)
    if law:
        out["probs"] = ("edge", "op"), np.full((2, 3), 1 / 3)
    return out


@pytest.fixture
def save(tmp_path):
    """Write runs to numbered files."""
    def write(*datasets):
        return [results.write(d, tmp_path / f"{i}.nc") for i, d in enumerate(datasets)]
    return write


# --- names -------------------------------------------------------------------------------------

def test_paths_start_at_the_repository_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    top = results.root()
    assert (top / "nas_lib" / "__init__.py").samefile(nas_lib.__file__)
    assert results.where("results/a.nc") == top / "results" / "a.nc"
    assert results.where(tmp_path / "a.nc") == tmp_path / "a.nc"
    assert results.run_path("quick", 1, "digits", "rsps+", 3) == top / "results/quick/stage1-digits-rsps+-s3.nc"
    assert results.run_path("quick", 2, "a", "some/mine.py", 0) == top / "results/quick/stage2-a-mine-s0.nc"


@pytest.mark.parametrize("name", ["..", "../up", "", "/root", "a\0b", "x" * 300])
def test_a_name_cannot_lead_elsewhere(name):
    for make in (lambda: results.run_path(name, 1, "digits", "gdas", 0), lambda: results.path("quick", name)):
        with pytest.raises(results.ResultError, match="choose a short one without slashes"):
            make()


@pytest.mark.parametrize("values, expected", [
    (["a", "ü€x"], ["a", "ü€x"]), (["", ""], ["", ""]), (np.array(["ab", np.nan, None], object), ["ab", "", ""]),
    (np.array([np.nan, ""], object), ["", ""]), (np.array([b"ab", b"c"]), [b"ab", b"c"]), ([True, False], [True, False])],
    ids=["unicode", "empty", "missing", "all missing", "bytes", "flags"])
def test_texts_and_flags_come_back(tmp_path, values, expected):
    file = results.write(xr.Dataset({"v": ("x", values)}), tmp_path / "r.nc")
    assert results.read(file).v.values.tolist() == expected


def test_own_runs_before_those_that_the_book_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "root", lambda: tmp_path)
    with pytest.raises(ValueError, match="no results"):
        results.runs("mine", 1, "digits")
    for folder, seeds in (("book/reference", (0, 1)), ("results", (2,))):
        for data in ("digits", "digits2"):
            for seed in seeds:
                run = xr.Dataset({"x": 1.0}, {"dataset": data, "stage1": "darts-", "seed": seed})
                results.write(run, tmp_path / folder / "mine" / f"stage1-{data}-darts--s{seed}.nc")
        assert results.runs("mine", 1, "digits").seed.values.tolist() == list(seeds)


def test_config_hash_is_stable():
    one = {"seed": 0, "method": "gdas", "lr": 0.025, "layers": (1, 2), "hyper": {"a": None, "b": True}}
    two = {k: one[k] for k in reversed(one)} | {"layers": [1, 2], "seed": np.int64(0)}
    assert results.config_hash(one) == results.config_hash(two) == "15f53904"
    assert results.config_hash(one | {"seed": 1}) != results.config_hash(one)
    with pytest.raises(TypeError, match="cannot be stored"):
        results.config_hash({"method": object()})


# --- one file --------------------------------------------------------------------------------------

def test_round_trip(save):
    out = run(config=json.dumps({"epochs": 2}), images=256)
    out["known"] = "arch", np.array([True, False, True, True, False])
    out["score"][2] = np.nan
    back = results.read(save(out)[0])
    xr.testing.assert_identical(back, out)
    assert all(back[v].dtype == out[v].dtype for v in out.variables)
    again = results.read(save(back)[0])
    xr.testing.assert_identical(again, out)


def test_attributes_that_netcdf_refuses(save):
    out = run(config={"lr": 0.1, "seeds": [0, 1], "aux": None}, resumed=True, flag=np.False_, device=None,
              images=np.int64(3), scale="small", list=[1, 2])
    out["score"].attrs = {"range": (0, 100), "unit": None}
    before = dict(out.attrs)
    back = results.read(save(out)[0])
    assert json.loads(back.attrs["config"]) == {"lr": 0.1, "seeds": [0, 1], "aux": None}
    assert (back.attrs["resumed"], back.attrs["flag"], back.attrs["images"]) == (1, 0, 3)
    assert "device" not in back.attrs and back.attrs["scale"] == "small" and back.attrs["list"] == "[1, 2]"
    assert back["score"].attrs == {"range": "[0, 100]"}
    assert out.attrs == before and out["score"].attrs["unit"] is None  # the caller's copy is left alone


def test_equal_runs_give_equal_files_and_texts_are_compressed(tmp_path, save):
    one, two = save(run(seed=1), run(seed=1))
    assert one.read_bytes() == two.read_bytes()
    names = np.array([f"|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|{i}" for i in range(5000)])
    big = results.write(xr.Dataset(coords={"arch": names}), tmp_path / "big.nc")
    assert big.stat().st_size < 100_000
    np.testing.assert_array_equal(results.read(big)["arch"], names)


def test_permissions_follow_the_umask_and_no_scrap_stays(tmp_path):
    old = os.umask(0o027)
    try:
        file = results.write(run(), tmp_path / "deep" / "er" / "a.nc")
    finally:
        os.umask(old)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert os.listdir(file.parent) == ["a.nc"]


@pytest.mark.parametrize("number, remedy", [(errno.ENOSPC, "free some space"), (errno.EACCES, "writable")])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_names_the_remedy_and_keeps_the_old_file(save, monkeypatch, number, remedy, step):
    file = save(run(seed=1))[0]
    old = file.read_bytes()

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(results.os, step, fail)
    with pytest.raises(results.ResultError, match=remedy) as caught:
        save(run(seed=2))
    assert str(file) in str(caught.value)
    assert file.read_bytes() == old and os.listdir(file.parent) == [file.name]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "results").write_text("in the way")
    with pytest.raises(results.ResultError, match="make its folder writable, or choose another"):
        results.write(run(), tmp_path / "results" / "quick" / "a.nc")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(results.ResultError, match="make its folder writable, or choose another"):
        results.write(run(), tmp_path / "a.nc")


def test_a_missing_file_names_the_remedy(tmp_path):
    with pytest.raises(results.ResultError, match="no result at .*none.nc: make it with `snakemake"):
        results.read(tmp_path / "none.nc")
    with pytest.raises(results.ResultError, match="cannot read"):
        results.read(tmp_path)


@pytest.mark.filterwarnings("error")
def test_a_cut_or_foreign_file_is_one_clear_error(tmp_path, save):
    whole = save(run())[0].read_bytes()
    bad = tmp_path / "bad.nc"
    cuts = [whole[: len(whole) * i // 12] for i in range(12)]
    for content in (*cuts, b"no netCDF", whole[:200] + b"\0" * 400 + whole[600:]):
        bad.write_bytes(content)
        with pytest.raises(results.ResultError, match="bad.nc is cut, damaged or no netCDF file: delete it"):
            results.read(bad)


# --- joined runs ---------------------------------------------------------------------------------------

def test_join_by_name(save):
    files = save(*(run(m, s) for m in ("rsps", "darts", "gdas+") for s in (2, 0)))
    joined = results.load(files)
    assert joined["score"].dims == ("dataset", "stage1", "seed", "arch")
    assert joined["probs"].dims == ("dataset", "stage1", "seed", "edge", "op")
    assert joined["stage1"].values.tolist() == ["rsps", "darts", "gdas+"]  # as given
    assert joined["seed"].values.tolist() == [0, 2] and joined["dataset"].values.tolist() == ["digits"]
    assert joined["choice"].dtype.kind == "i" and joined["score"].dtype == "float32"
    for m in ("rsps", "darts", "gdas+"):
        for s in (0, 2):
            one = joined.sel(dataset="digits", stage1=m, seed=s)
            for name in ("score", "choice", "train_seconds", "train_loss"):
                np.testing.assert_array_equal(one[name], run(m, s)[name])


def test_missing_runs_and_variables_are_nan(save):
    joined = results.load(save(run("darts", 0), run("rsps", 0, epochs=3, law=False),
                               run("rsps", 1, law=False)))
    hole = joined.sel(stage1="darts", seed=1, dataset="digits")
    assert hole["score"].isnull().all() and hole["choice"].isnull().all()
    assert joined["choice"].dtype.kind == "f"
    assert joined["probs"].sel(stage1="rsps").isnull().all()
    assert joined["probs"].sel(stage1="darts", seed=0).notnull().all()
    loss = joined["train_loss"].sel(dataset="digits", seed=0)
    assert loss.sel(stage1="rsps").notnull().sum() == 3 and loss.sel(stage1="darts").notnull().sum() == 2


def test_attributes_of_a_join(save):
    joined = results.load(save(run("darts", 0, bn="batch", config={"seed": 0}, images=3),
                               run("darts", 1, bn="batch", config={"seed": 1}, images=4),
                               run("rsps", 1, bn="batch", config={"seed": 1})))
    assert joined.attrs == {"bn": "batch"}
    assert json.loads(joined["config"].sel(stage1="darts", seed=1).item()) == {"seed": 1}
    assert joined["config"].sel(stage1="rsps", seed=0).item() == ""
    assert joined["images"].sel(dataset="digits").values.tolist() == [["3", "4"], ["", ""]]
    xr.testing.assert_identical(results.read(save(joined)[0]), joined)


def test_joins_that_cannot_be(tmp_path, save):
    with pytest.raises(ValueError, match="no results to join"):
        results.load([])
    with pytest.raises(ValueError, match=r"0.nc and .*1.nc hold the same run \('digits', 'gdas', 0\)"):
        results.load(save(run(), run()))
    with pytest.raises(results.ResultError, match="not one run: it lacks stage1, seed"):
        results.load([results.write(xr.Dataset(coords={"dataset": "digits"}), tmp_path / "truth.nc")])


# --- origin ------------------------------------------------------------------------------------------

def test_provenance(save):
    origin = results.provenance(time.time() - 2, "cpu")
    assert {"python", "numpy", "xarray", "platform", "cpu", "device", "start", "seconds"} <= set(origin)
    assert origin["device"] == "cpu" and 2 <= origin["seconds"] < 10
    assert origin["start"].endswith("+00:00") and all(v not in (None, "") for v in origin.values())
    assert json.loads(results.read(save(run(provenance=origin))[0]).attrs["provenance"]) == origin


def test_provenance_without_git_or_a_clone(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "root", lambda: tmp_path)
    assert "commit" not in results.provenance(time.time(), "cpu")
    (tmp_path / ".git").mkdir()
    assert "commit" not in results.provenance(time.time(), "cpu")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "commit" not in results.provenance(time.time(), "cpu")


def test_spaces_metrics_and_results_do_without_torch():
    code = ("import sys, nas_lib.spaces, nas_lib.metrics, nas_lib.results as r; r.provenance(0, 'cpu'); "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=results.root(), check=False).returncode == 0


def test_what_runs_say_differently_is_said_by_method():
    texts = np.array([[["long"], ["short"], [""], ["short"]]])
    runs = xr.Dataset({"scale": (("dataset", "stage1", "seed"), texts)},
                      {"dataset": ["d"], "stage1": ["rsps", "darts", "none", "gdas"], "seed": [0]}, {"bn": "batch"})
    assert results.said(runs, "scale") == results.said(runs.squeeze(), "scale") == "short `rsps`: long"
    assert results.said(runs, "bn") == "batch" and results.said(runs, "protocol") == ""


def test_the_origin_names_the_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU called {device}")
    assert results.provenance(0.0, "cuda:1")["gpu"] == "a GPU called cuda:1" and "gpu" not in results.provenance(0.0, "cpu")
