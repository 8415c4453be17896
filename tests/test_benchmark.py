"""The embedded truth table: its form, its guard, and sizes of networks by the formula."""

import hashlib
import shutil

import numpy as np
import pytest
import xarray as xr

import tiny  # noqa: F401
from nas_lib import benchmark
from nas_lib.benchmark import BenchmarkError
from nas_lib.results import read, write
from nas_lib.spaces import NB201

CLASSES = NB201.classes("function")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the embedded folder in place of the real one."""
    shutil.copytree(benchmark.FOLDER, tmp_path / "embedded")
    monkeypatch.setattr(benchmark, "FOLDER", tmp_path / "embedded")
    benchmark.load.cache_clear()
    yield tmp_path / "embedded"
    benchmark.load.cache_clear()


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
    with pytest.raises(BenchmarkError, match=r"no truth table 'cifar10'; there is \['digits'\]"):
        benchmark.load("cifar10")


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
