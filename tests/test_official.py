"""NAS-Bench-201 from made-up files in its formats: what is read, what is refused, and how much memory it takes."""

import bz2
import gzip
import io
import os
import pickle
import struct
import tracemalloc
import warnings
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from nas_201_api import NASBench201API

import made_bench
from nas_lib import guarded, official
from nas_lib.benchmark import counts
from nas_lib.official import BenchmarkError, convert
from nas_lib.official_table import CLASSES
from nas_lib.spaces import NB201

INDICES = (1, 3, 6111)
WRITERS = {"old.pth": made_bench.write_old, "new.pth": lambda c, p: made_bench.write_old(c, p, zipped=True),
           "nats.pickle.pbz2": made_bench.write_nats, "folder": made_bench.write_folder}
pytestmark = pytest.mark.filterwarnings("ignore:.*was read but not verified")


@pytest.fixture(scope="module")
def content():
    return made_bench.content(INDICES, np.float64)


@pytest.fixture(scope="module")
def table(content, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert(made_bench.write_old(content, tmp_path_factory.mktemp("made") / "old.pth"))


def small(keys=("less", "full")):
    return made_bench.content((5, 9), keys=keys, seeds=(777,))


def test_the_table_is_what_the_package_answers(content, table):
    api = NASBench201API(content, verbose=False)
    for i in INDICES:
        row = table.isel(arch=i)
        for name in CLASSES:
            for budget in (12, 200):
                def ask(data, name=name, i=i, budget=budget):
                    return api.get_more_info(i, data, hp=str(budget), is_random=False)

                info, cost = ask(name), api.get_cost_info(i, name, hp=str(budget))
                valid = ask("cifar10-valid" if name == "cifar10" else name)["valid-accuracy"]
                whole = info["test-accuracy"] if name == "cifar10" else info["valtest-accuracy"]
                there = row.sel(dataset=name, budget=budget)
                expected = {"test": info["test-accuracy"], "valid": valid, "ori_test": whole,
                            "seconds": info["train-all-time"]}
                for key, value in expected.items():
                    np.testing.assert_allclose(there[key].mean(), value, rtol=1e-12, err_msg=f"{key} {name} {budget}")
                np.testing.assert_allclose([there.params, there.flops], [1e6 * cost["params"], 1e6 * cost["flops"]])


def test_every_seed_has_its_own_place(content, table):
    run = content["arch2infos"][3]["full"]["all_results"]["cifar100", 999]
    cell = table.sel(budget=200, dataset="cifar100").isel(arch=3)
    assert cell.test.sel(train_seed=999).item() == run["eval_acc1es"]["x-test@199"]
    assert table.train_seed.values.tolist() == [111, 777, 888, 999]
    assert np.isnan(cell.test.sel(train_seed=111)) and np.isnan(table.test.isel(arch=1).sel(budget=200, train_seed=999)).all()
    assert table.attrs["missing"].startswith("15622 architectures after 12 epochs on cifar10;")


@pytest.mark.parametrize("name", ["new.pth", "nats.pickle.pbz2", "folder"])
def test_all_formats_give_the_same_table(content, table, tmp_path, name):
    keys = ("less", "full") if name == "new.pth" else ("12", "200")
    infos = {i: dict(zip(keys, found.values(), strict=True)) for i, found in content["arch2infos"].items()}
    found = convert(WRITERS[name](content | {"arch2infos": infos}, tmp_path / name))
    xr.testing.assert_equal(found, table)
    assert found.attrs["source"] == name and not found.attrs["verified"]


def test_objects_of_both_packages(content, table, tmp_path):
    xr.testing.assert_equal(convert(NASBench201API(content, verbose=False)), table)
    folder = made_bench.write_folder(content, tmp_path / "folder")
    lazy = SimpleNamespace(arch2infos_dict={}, archive_dir=str(folder))         # NATS-Bench with fast_mode=True
    xr.testing.assert_equal(convert(lazy), table)


def test_a_table_is_stored_and_read_back(table, tmp_path):
    official.store(table, tmp_path / "table.nc")
    found = convert(tmp_path / "table.nc")
    xr.testing.assert_equal(found, table)
    assert found.attrs == table.attrs
    assert xr.load_dataset(tmp_path / "table.nc").test.dims == table.test.dims      # others can read it too


def test_release_1_0_has_no_times_and_12_epochs_of_one_data_set_only(tmp_path):
    content = small()
    for found in content["arch2infos"].values():
        for info in found.values():
            for run in info["all_results"].values():
                run["train_times"] = None
        found["less"]["all_results"] = {k: r for k, r in found["less"]["all_results"].items() if k[0] == "cifar10-valid"}
    table = convert(made_bench.write_old(content, tmp_path / "a.pth")).isel(arch=[5, 9])
    assert table.seconds.isnull().all() and table.test.sel(budget=12).isnull().all()
    assert table.valid.sel(budget=12, dataset="cifar10", train_seed=777).notnull().all()
    assert table.test.sel(budget=200, train_seed=777).notnull().all()


def test_sizes_are_those_of_seed_888_where_runs_disagree(tmp_path):
    content = made_bench.content((5,), seeds=(777, 888))
    content["arch2infos"][5]["full"]["all_results"]["cifar10", 777]["params"] = 0.5
    table = convert(made_bench.write_old(content, tmp_path / "a.pth"))
    assert table.params.sel(dataset="cifar10")[5] == 1e6 * content["arch2infos"][5]["full"]["all_results"]["cifar10", 888]["params"]


def test_memory_is_that_of_one_architecture(tmp_path):
    path = made_bench.write_old(made_bench.content(range(18)), tmp_path / "a.pth")

    def peak(part):
        tracemalloc.start()
        guarded.load(lambda: open(path, "rb"), part)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    whole, parts = peak(lambda part: part), peak(lambda part: None)
    assert parts < 18e6 < 36e6 < whole


@pytest.mark.parametrize("name", ["NAS-Bench-201-v1_1-096897.pth", "NATS-tss-v1_0-3ffb9.pickle.pbz2"])
def test_another_file_under_an_official_name(tmp_path, name):
    made_bench.write_old(small(), tmp_path / name)
    with pytest.raises(BenchmarkError, match=f"MD5 sum is [0-9a-f]{{32}}, expected one that ends in {official.MD5[name]}"):
        convert(tmp_path / name)


def test_a_file_whose_name_ends_in_its_md5_is_verified(tmp_path):
    path = made_bench.write_old(small(), tmp_path / "a.pth")
    with pytest.warns(UserWarning, match="a.pth was read but not verified"):
        assert not convert(path).attrs["verified"]
    md5, _ = official.verify(path)
    table = convert(path.rename(tmp_path / f"NAS-Bench-201-v1_1-{md5[-6:]}.pth"))
    assert table.attrs["verified"] and table.attrs["md5"] == md5 and table.attrs["release"] == "1.1"


class Call:
    """What is unpickled as ``function(argument)``."""

    def __init__(self, function, argument):
        self.made = function, (argument,)

    def __reduce__(self):
        return self.made


class Planted:
    def __init__(self, path):
        os.unlink(path)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("function", [os.unlink, eval, Planted], ids=lambda f: f.__name__)
def test_a_planted_call_is_refused_and_not_run(tmp_path, name, function):
    target, content = tmp_path / "there", small()
    target.write_text("")
    call = Call(function, f"__import__('os').unlink({str(target)!r})" if function is eval else str(target))
    content["arch2infos"][9]["full"]["all_results"]["cifar10", 777]["params"] = call
    with pytest.raises(BenchmarkError, match="it asks for .*, which is not allowed in a table of numbers"):
        convert(WRITERS[name](content, tmp_path / name))
    assert target.exists()
    pickle.loads(pickle.dumps(call))
    assert not target.exists()              # so that the file would have done it


DEEP = 300_000
HOSTILE = {
    "nested tuples": ("nested too deeply", b"\x80\x02})" + b"\x85" * DEEP + b"K\x01s."),     # hash: a crash of Python
    "nested by number": ("nested too deeply", b"\x80\x02})q\x00" + b"".join(
        b"h%c\x85q%c" % (k, k + 1) for k in range(20)) + b"K\x01s."),
    "nested lists": ("nested too deeply", b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b"."),
    "nested marks": ("nested too deeply", b"\x80\x02" + b"(" * DEEP + b"t" * DEEP + b"."),
    "huge text": ("claims to be too long", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x."),
    "negative length": ("claims to be too long", b"\x80\x04\x8e" + b"\xff" * 8 + b"x."),
    "huge int": ("claims to be too long", b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x."),
    "huge frame": ("", b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N."),
    "endless part": ("part of one architecture is too long", b"\x80\x02]" + (b"X" + struct.pack("<i", 65_000) + bytes(65_000) + b"a") * 300 + b"."),
    "huge number": ("a value that it does not have", b"\x80\x02Nr\xff\xff\xff\xff."),
    "number of nothing": ("a value that it does not have", b"\x80\x02h\x07."),
    "nothing": ("incomplete", b"\x80\x02."),
    "two values": ("incomplete", b"\x80\x02NN."),
    "no mark": ("incomplete", b"\x80\x02}u."),
    "below a mark": ("incomplete", b"\x80\x02]}(s."),
    "its own persistent value": ("something else than plain values", b"\x80\x02NQ."),
    "new object": ("something else than plain values", b"\x80\x02cbuiltins\nset\n)\x81."),
    "state of a type": ("calls something", b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb."),
    "call of a number": ("calls something", b"\x80\x02K\x01)R."),
    "numpy object": ("no number", b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R."),
    "numpy of no size": ("make no sense", b"\x80\x03cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00"
                         b"f8K\x00K\x01\x87RC\x01x\x86R."),
    "no table": ("", pickle.dumps([1, 2, 3], 2)),
    "empty table": ("has no results", pickle.dumps({"meta_archs": [], "arch2infos": {}}, 2)),
    "results of nothing": ("has no results", pickle.dumps({"meta_archs": ["x"], "arch2infos": {0: {}}}, 2)),
    "something after its end": ("something follows", pickle.dumps(1, 2) + b"x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_error(tmp_path, name):
    reason, data = HOSTILE[name]
    for file, content in {"a.pth": data, "a.pickle.pbz2": bz2.compress(data)}.items():
        (tmp_path / file).write_bytes(content)
        with pytest.raises(BenchmarkError, match=rf"is damaged, or no table of NAS-Bench-201 \(.*{reason}"):
            convert(tmp_path / file)


@pytest.mark.parametrize("data", [b"", pickle.dumps({"a": 1}, 0), b"arch,c10_test\nx,y\n", b"\x00" * 999], ids=range(4))
def test_other_files(tmp_path, data):
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(BenchmarkError, match="is damaged, or no table of NAS-Bench-201"):
        convert(tmp_path / "a.pth")
    with pytest.raises(BenchmarkError, match="there is no .*b.pth: check the name; these can be read: NAS-Bench-201-v1_1"):
        convert(tmp_path / "b.pth")


def test_a_folder_that_is_not_complete(tmp_path):
    folder = made_bench.write_folder(small(("12", "200")), tmp_path / "folder")
    whole = (folder / "000009.pickle.pbz2").read_bytes()
    for content in (whole[:-5], whole[:100], b"", b"BZh9" + whole[:9], (folder / "000005.pickle.pbz2").read_bytes()):
        (folder / "000009.pickle.pbz2").write_bytes(content)
        with pytest.raises(BenchmarkError, match="folder is damaged, or no table of NAS-Bench-201 .000009.pickle.pbz2: "):
            convert(folder)
    (folder / "meta.pickle.pbz2").unlink()
    with pytest.raises(BenchmarkError, match="there is no .*meta.pickle.pbz2"):
        convert(folder)


def test_a_damaged_csv_archive(tmp_path):
    whole = bytearray(gzip.compress(b"arch,c10_test,c100_test,in16_test\n" * 999))
    whole[20] ^= 255
    (tmp_path / "a.csv.gz").write_bytes(whole)
    with pytest.raises(BenchmarkError, match="is damaged"):
        convert(tmp_path / "a.csv.gz")


def test_a_file_cut_anywhere(tmp_path):
    content = small()
    for name in ("old.pth", "new.pth", "nats.pickle.pbz2"):
        whole = WRITERS[name](content, tmp_path / name).read_bytes()
        for cut in [0, 1, 3, 14, 40, 200, *range(1000, len(whole), len(whole) // 4), *range(len(whole) - 8, len(whole))]:
            (tmp_path / name).write_bytes(whole[:cut])
            with pytest.raises(BenchmarkError, match="is damaged, or no table of NAS-Bench-201"):
                convert(tmp_path / name)


def test_random_and_flipped_bytes(tmp_path):
    """Random bytes are refused; a flipped bit is refused or changes a value, and never does more."""
    rng, path = np.random.default_rng(0), tmp_path / "a.pth"
    for first in (b"", b"\x80\x02", b"\x80\x04", b"BZh9", b"PK\x03\x04", b"\x1f\x8b", b"\x89HDF"):
        path.write_bytes(first + rng.bytes(5000))
        with pytest.raises(BenchmarkError):
            convert(path)
    whole = made_bench.write_old(made_bench.content((5,), seeds=(777,)), path).read_bytes()
    for at in rng.integers(len(whole) - 300_000, len(whole), 20):
        broken = bytearray(whole)
        broken[at] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            convert(path)
        except BenchmarkError:
            pass


@pytest.mark.parametrize("change,match", [
    (lambda info: info.update(arch_str="|none~0|"), "not one of NAS-Bench-201"),
    (lambda info: info.update(arch_str=str(NB201.strings[7])), "not one of NAS-Bench-201"),
    (lambda info: info["all_results"]["cifar10", 777].update(epochs=12), "results of 200 epochs is of another training"),
    (lambda info: info["all_results"]["cifar10", 777]["eval_acc1es"].update({"ori-test@199": 101.0}), "no percentage"),
    (lambda info: info["all_results"]["cifar10", 777]["eval_acc1es"].update({"ori-test@199": float("nan")}), "no percentage"),
    (lambda info: info["all_results"]["cifar10", 777].pop("epochs"), "make no sense"),
    (lambda info: info.update(all_results=[]), "make no sense"),
], ids=range(7))
def test_results_that_cannot_be_are_refused(tmp_path, change, match):
    content = small()
    change(content["arch2infos"][9]["full"])
    with pytest.raises(BenchmarkError, match=match):
        convert(made_bench.write_old(content, tmp_path / "a.pth"))


def test_results_under_the_number_of_another_architecture(tmp_path):
    content = small()
    content["arch2infos"] = dict(zip((9, 5), content["arch2infos"].values(), strict=True))
    with pytest.raises(BenchmarkError, match="has the results of another one"):
        convert(made_bench.write_old(content, tmp_path / "a.pth"))


def test_trained_weights_are_not_a_table(tmp_path):
    import torch

    content = small()
    content["arch2infos"][9]["full"]["all_results"]["cifar10", 777]["net_state_dict"] = {"w": torch.zeros(2)}
    for zipped in (False, True):
        with pytest.raises(BenchmarkError, match=r"something else than plain values \(weights"):
            convert(made_bench.write_old(content, tmp_path / "a.pth", zipped))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_reader_agrees_with_pickle(protocol):
    """Over random nests of plain values, shared between parts and across parts, in chunks of any size."""
    rng = np.random.default_rng(protocol)
    shared = ["text", (1, "two"), {"a": 1}, [1.5], {1, 2}, np.float64(0.1), b"bytes", OrderedDict(x=1)]

    def value(depth):
        kind = rng.integers(9 if depth else 5)
        plain = (None, int(rng.integers(-2**40, 2**40)), rng.random(), "x" * int(rng.integers(300)), shared[rng.integers(8)])
        if kind < 5:
            return plain[kind]
        items = [value(depth - 1) for _ in range(rng.integers(5))]
        return {5: list, 6: tuple, 7: lambda i: dict(enumerate(i)), 8: lambda i: OrderedDict(zip("abcde", i, strict=False))}[kind](items)

    def plain(x):
        if isinstance(x, dict):
            return {k: plain(v) for k, v in x.items()}
        return type(x)(map(plain, x)) if isinstance(x, list | tuple) else x

    for _ in range(30):
        made = {"first": value(2), "parts": {i: {"a": value(3), "b": shared[rng.integers(8)]} for i in range(5)}, "last": value(2)}
        data = pickle.dumps(made, protocol)
        guarded_chunk, guarded.CHUNK = guarded.CHUNK, int(rng.integers(1, 400))
        try:
            found = guarded.load(lambda data=data: io.BytesIO(data))
        finally:
            guarded.CHUNK = guarded_chunk
        assert found == plain(made)


def test_what_later_parts_look_up_is_kept():
    texts, shared = [], "x" * 50
    made = {"parts": {i: {"a": [shared, f"{i}" * 100], "b": 1} for i in range(2000)}, "last": shared}
    found = guarded.load(lambda: io.BytesIO(pickle.dumps(made, 2)), lambda part: texts.append(part["a"]) or len(texts))
    assert found["parts"] == {i: i + 1 for i in range(2000)}
    assert texts == [[shared, f"{i}" * 100] for i in range(2000)] and all(t[0] is found["last"] for t in texts)


def test_every_cut_of_a_small_file():
    for whole in (pickle.dumps({"a": {"b": {"c": [1.5, "d"]}}}, 4), made_bench.write_old({"a": {"b": {1: 2}}}, io.BytesIO()).getvalue()):
        guarded.load(lambda whole=whole: io.BytesIO(whole))
        for cut in range(len(whole)):
            with pytest.raises(guarded.RefusedError, match="it ends early"):
                guarded.load(lambda data=whole[:cut]: io.BytesIO(data))


def test_the_csv_table():
    folder = Path(os.environ.get("NAS_DATA", "-"))
    if not (folder / "nasbench201.csv.gz").is_file():
        pytest.skip("NAS_DATA names no folder with nasbench201.csv.gz")
    table = convert(folder / "nasbench201.csv.gz")
    best = table.sel(budget=200, train_seed="mean").test
    np.testing.assert_allclose(best.max("arch"), [94.3733, 73.5133, 47.3111])
    assert best.argmax("arch").values.tolist() == [6111, 9930, 857] and table.attrs["missing"] == ""
    np.testing.assert_allclose(table.isel(arch=0).test.sel(budget=12, train_seed="mean"), [69.55, 31.26, 17])
    np.testing.assert_allclose(table.isel(arch=0).ori_test.sel(budget=200, train_seed="mean")[1], (52.9133 + 52.7) / 2)
    live = NB201.live(NB201.archs) == (NB201.archs != 0)        # the benchmark's networks have dead layers too
    for name, side in {"cifar10": 32, "cifar100": 32, "ImageNet16-120": 16}.items():
        sizes = counts(NB201, NB201.archs, 16, 5, CLASSES[name], (3, side, side))
        for key, expected in zip(("params", "flops"), sizes, strict=True):
            np.testing.assert_array_equal(table[key].sel(dataset=name)[live.all(1)], expected[live.all(1)])
