"""The truth tables: the embedded one and its guard, NAS-Bench-201 from a folder, sizes of networks by formula."""

import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import tiny  # noqa: F401
from nas_lib import benchmark, official, results
from nas_lib.benchmark import BenchmarkError
from nas_lib.results import read, write
from nas_lib.spaces import NB201

CLASSES = NB201.classes("function")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the embedded folder in place of the real one."""
    shutil.copytree(benchmark.FOLDER, tmp_path / "embedded")
    monkeypatch.setattr(benchmark, "FOLDER", tmp_path / "embedded")
    return tmp_path / "embedded"


def test_the_table_has_every_architecture():
    table = benchmark.load("digits")
    assert table.test.dims == table.valid.dims == ("arch", "train_seed")
    assert table.arch.values.tolist() == NB201.strings.tolist()
    assert all(table[v].dims == ("arch",) for v in ("params", "flops", "seconds"))
    assert all(((table[v] >= 0) & (table[v] <= 100)).all() for v in ("test", "valid"))
    assert (table.seconds > 0).all() and (table.params > 0).all() and (table.flops > 0).all()


def test_networks_that_are_the_same_share_their_row():
    table = benchmark.load("digits")
    for name in ("test", "valid", "params", "flops"):
        np.testing.assert_array_equal(table[name], table[name].values[CLASSES])


@pytest.mark.parametrize("split", ["test", "valid"])
def test_truth_is_the_mean_over_seeds_in_percent(split):
    truth = benchmark.truth("digits", split)
    assert truth.dims == ("arch",) and truth.name == "truth" and truth.dataset == "digits"
    np.testing.assert_allclose(truth, benchmark.load("digits")[split].values.mean(1), rtol=1e-5)


def test_truth_knows_two_splits():
    with pytest.raises(BenchmarkError, match="unknown split 'train': test or valid"):
        benchmark.truth("digits", "train")


def test_one_flipped_bit_is_found(folder):
    file = folder / "digits.nc"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BenchmarkError, match="damaged.*restore it with `git checkout"):
        benchmark.load("digits")


@pytest.mark.parametrize("left", [".sha256", ".nc"])
def test_a_missing_file_is_named_with_its_remedy(folder, left):
    (folder / f"digits{'.nc' if left == '.sha256' else '.sha256'}").unlink()
    with pytest.raises(BenchmarkError, match="digits"):
        benchmark.load("digits")


def test_an_unknown_table_names_what_there_is():
    with pytest.raises(BenchmarkError, match=r"no truth table 'svhn'; there is \['digits', 'cifar10', 'cifar100', "):
        benchmark.load("svhn")


def test_spread_gives_every_architecture_the_row_of_its_network():
    row = np.unique(CLASSES, return_inverse=True)[1]
    table = xr.Dataset({"test": (("network", "train_seed"), np.arange(5260 * 2).reshape(5260, 2)),
                        "row": ("arch", row.astype(np.int16))},
                       coords={"network": np.unique(CLASSES), "train_seed": [0, 1]})
    wide = benchmark.spread(table)
    assert set(wide.coords) == {"arch", "train_seed"}
    for i in (0, 7, 1651, 15_624):
        np.testing.assert_array_equal(wide.test.sel(arch=NB201.strings[i]),
                                      table.test.sel(network=CLASSES[i]))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data folder of one's own, and a repository in which what is converted is kept."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("NAS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(results, "root", lambda: tmp_path)
    return tmp_path


def csv(path, rows=slice(None), **columns):
    """A CSV file of made-up means over seeds; further ``columns`` are 1 percent plus a number."""
    n = np.arange(len(NB201)) / len(NB201)
    frame = {"arch": NB201.strings} | {f"{c}_{s}": 40 + 10 * k + 20 * n for k, c in enumerate(("c10", "c100", "in16"))
                                       for s in ("test", "valid")} | {k: v + n for k, v in columns.items()}
    pd.DataFrame(frame)[rows].to_csv(path, index=False)


def test_nasbench_from_a_csv_file(place):
    csv(place / "data/nasbench201.csv.gz", e12_c100_test=5, v10_c10_test=3, params_m=1, flops_m=2)
    n = np.arange(len(NB201)) / len(NB201)
    truth = benchmark.truth("cifar100")
    assert truth.dims == ("arch",) and truth.name == "truth" and truth.dataset == "cifar100"
    assert truth.attrs == {"classes": 100, "source": "nasbench201.csv.gz"}
    assert truth.arch.values.tolist() == NB201.strings.tolist()
    np.testing.assert_allclose(truth, 50 + 20 * n)
    np.testing.assert_allclose(benchmark.truth("cifar100", budget=12), 5 + n)
    np.testing.assert_allclose(benchmark.truth("cifar10", "v10"), 3 + n)
    np.testing.assert_allclose(benchmark.truth("ImageNet16-120", "ori_test"), 60 + 20 * n)
    table = benchmark.load("cifar10")
    assert table.test.dims == table.valid.dims == ("arch", "train_seed") and table.params.dims == ("arch",)
    assert table.train_seed.item() == "mean"
    np.testing.assert_allclose([table.params[0], table.flops[0]], [1e6, 2e6])


def test_what_a_source_does_not_have_is_an_error(place):
    csv(place / "data/nasbench201.csv")
    with pytest.raises(BenchmarkError, match="has no test accuracy on cifar10 after 12 epochs for 15625 architectures"):
        benchmark.truth("cifar10", budget=12)
    with pytest.raises(BenchmarkError, match="unknown split 'v10': test or valid or ori_test"):
        benchmark.truth("cifar10", "v10")
    with pytest.raises(BenchmarkError, match="budget = 100: NAS-Bench-201 has trainings of 12 and of 200 epochs"):
        benchmark.truth("cifar10", budget=100)
    csv(place / "data/nasbench201.csv", slice(9, None))
    with pytest.raises(BenchmarkError, match="for 9 architectures; another file may have"):
        benchmark.truth("cifar10")


@pytest.mark.parametrize("change", [{"c10_test": 100}, {"c10_valid": -50}, {"arch": "x"}, {"e12_in16_test": np.inf}], ids=str)
def test_a_wrong_csv_file(place, change):
    csv(place / "data/nasbench201.csv", **{k: v for k, v in change.items() if k != "arch"})
    if "arch" in change:
        text = (place / "data/nasbench201.csv").read_text()
        (place / "data/nasbench201.csv").write_text(text.replace(NB201.strings[3], NB201.strings[4]))
    with pytest.raises(BenchmarkError, match="nasbench201.csv is damaged"):
        benchmark.load("cifar10")


def test_a_source_is_converted_once_while_it_stays_the_same(place, monkeypatch):
    converted, convert = [], official.convert
    monkeypatch.setattr(official, "convert", lambda *a: converted.append(a[0].suffix) or convert(*a))
    source = place / "data/nasbench201.csv"
    csv(source)
    first = benchmark.truth("cifar10")
    benchmark.truth("cifar100", "valid")
    assert converted == [".csv"]
    benchmark._nasbench201.cache_clear()        # as in another process
    xr.testing.assert_identical(benchmark.truth("cifar10"), first)
    assert converted == [".csv", ".nc"] and len(list(place.glob("results/cache/nasbench201-*.nc"))) == 1
    csv(source, c10_test=30)
    assert benchmark.truth("cifar10")[0] == 30 and converted[2:] == [".csv"]


def test_two_processes_convert_once(place):
    csv(place / "data/nasbench201.csv")
    code = ("import sys; from pathlib import Path; from nas_lib import benchmark, official, results;"
            "results.root = lambda: Path(sys.argv[1]); real = official.convert;"
            "official.convert = lambda *a: print(a[0].suffix) or real(*a); benchmark.truth('cifar10')")
    runs = [subprocess.Popen([sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = sorted(run.communicate()[0] for run in runs)
    assert first.startswith(".csv\n") and "converted in" in first and "MB of memory" in first
    assert second == ".nc\n"


def test_a_table_converted_by_hand_comes_first(place):
    csv(place / "data/nasbench201.csv", c10_test=1)
    csv(place / "other.csv")
    official.convert(place / "other.csv", place / "data/nasbench201.nc")
    truth = benchmark.truth("cifar10")
    assert truth[0] == 40 and truth.source == "other.csv" and not (place / "results").exists()


def test_without_a_source_the_error_says_what_to_do(place):
    with pytest.raises(BenchmarkError, match=f"no table of NAS-Bench-201 in {place}/data .*NAS_DATA names another.*"
                                             "NAS-Bench-201-v1_1-096897.pth.*Google Drive.*README of the package"):
        benchmark.load("cifar10")


def shards(folder, count=3):
    """Files of a made-up campaign: every third network each, seeds 0 and 1 apart from seed 2."""
    files = []
    for k in range(count):
        for seeds in ([0, 1], [2]):
            networks = np.unique(CLASSES)[k::count]
            values = (("network", "train_seed"), networks[:, None] % 90 + np.array(seeds))
            per_network = {name: ("network", networks + 1) for name in ("seconds", "params", "flops")}
            table = xr.Dataset({"test": values, "valid": values} | per_network,
                               coords={"network": networks, "train_seed": seeds})
            files.append(write(table, folder / f"{k}-{seeds[0]}.nc"))
    return files


def test_shards_join_to_a_table_that_loads(tmp_path, folder):
    files = shards(tmp_path)
    benchmark.assemble(files, folder / "made.nc", note="made up")
    assert (folder / "made.sha256").read_text().split() == [
        hashlib.sha256((folder / "made.nc").read_bytes()).hexdigest(), "made.nc"]
    table = benchmark.load("made")
    np.testing.assert_allclose(table.test, CLASSES[:, None] % 90 + np.arange(3))
    assert table.attrs["note"] == "made up" and len(read(folder / "made.nc").network) == 5260


def test_missing_shards_are_counted(tmp_path):
    files = shards(tmp_path)
    with pytest.raises(BenchmarkError, match="leave out 1753 networks.*run the rest"):
        benchmark.assemble(files[:4], tmp_path / "made.nc")
    assert not (tmp_path / "made.nc").exists()


def test_sizes_of_the_published_networks():
    """C = 16, N = 5, CIFAR-10: 0.344 M weights and 47.10 M multiply-accumulates for 5744."""
    params, flops = benchmark.counts(NB201, NB201.archs[[5744, 1835]], 16, 5, 10, (3, 32, 32))
    np.testing.assert_allclose(params / 1e6, [0.073306 + 0.243040 + 0.028000, 0.073306], atol=5e-7)
    np.testing.assert_allclose(flops / 1e6, [7.783040 + 35.389440 + 3.932160, 7.783040], atol=5e-7)
