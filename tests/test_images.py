"""Images from files: every format made small, the published files where they are, and files that must be refused."""

import dataclasses
import hashlib
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from nas_lib import images, pictures
from nas_lib.images import ImageError

REAL = os.environ.get("NAS_DATA")
TRAIN, TEST = {"train": None, "test": None}, {"test": None}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("NAS_DATA", str(tmp_path))
    return tmp_path


def made(n, classes=10, side=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, side, side), np.uint8), rng.integers(0, classes, n)


def write(file, content: bytes):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def batch(x, y, key="labels", protocol=2) -> bytes:
    return pickle.dumps({"data": x.reshape(len(x), -1), key: y.tolist(), "filenames": ["a"]}, protocol)


def python2(x, y) -> bytes:
    """The batch as Python 2 wrote it, where bytes are text and names are short strings."""
    data = x.tobytes()
    labels = b"".join(b"K" + bytes([v]) for v in y)
    shape = b"M" + struct.pack("<H", len(x)) + b"M" + struct.pack("<H", data.__len__() // len(x)) + b"\x86"
    array = (b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R(K\x01" + shape
             + b"cnumpy\ndtype\nq\x03U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
             + struct.pack("<i", len(data)) + data + b"tb")
    return b"\x80\x02}q\x00(U\x06labels](" + labels + b"eU\x04data" + array + b"u."


def cifar10(folder, n=4):
    files = {}
    for k, name in enumerate([*images.FACTS["cifar10"].train, "test_batch"]):
        files[name] = made(n, seed=k)
        content = python2(*files[name]) if k == 1 else batch(*files[name], protocol=2 + k % 3)
        write(folder / "cifar-10-batches-py" / name, content)
    return files


def joined(parts):
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def same(found, x, y):
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_array_equal(found[1], y)
    assert found[0].dtype == np.uint8 and found[1].dtype == np.int64 and found[0].flags.c_contiguous


def published(monkeypatch, name, **changed):
    facts = dataclasses.replace(images.FACTS[name], **changed)
    monkeypatch.setitem(images.FACTS, name, facts)


def coded(file, x, y):
    """The inverse of what the library decodes, written plainly."""
    x = x.astype(int).transpose(1, 0, 2, 3)
    x = np.stack([x[0] - x[1], x[1], x[2] - x[1]])
    for axis in (2, 3):
        x = np.diff(x, axis=axis, prepend=0)
    np.savez(file, coded=(x % 256).astype(np.uint8), labels=y.astype(np.uint8))


@pytest.mark.filterwarnings("ignore:cifar10")
def test_cifar10_is_in_the_order_of_its_files_whatever_python_wrote_it(folder):
    files = cifar10(folder)
    found = images.read("cifar10", TRAIN, verify=False)
    same(found["train"], *joined([files[f"data_batch_{k}"] for k in range(1, 6)]))
    same(found["test"], *files["test_batch"])


def test_what_is_not_needed_is_not_read(folder):
    files = cifar10(folder)
    (folder / "cifar-10-batches-py/data_batch_3").write_bytes(b"")
    found = images.read("cifar10", {"train": 6}, verify=False)
    assert found.keys() == {"train"}
    same(found["train"], *(v[:6] for v in joined([files["data_batch_1"], files["data_batch_2"]])))


def test_cifar100_has_fine_labels(folder, monkeypatch):
    published(monkeypatch, "cifar100", images={"train": 5, "test": 5})
    for k, name in enumerate(("train", "test")):
        write(folder / "cifar-100-python" / name, batch(*made(5, 100, seed=k), "fine_labels"))
    found = images.read("cifar100", TRAIN, verify=False)
    same(found["train"], *made(5, 100, seed=0))
    same(found["test"], *made(5, 100, seed=1))


def test_svhn_calls_the_zero_ten(folder, monkeypatch):
    from scipy.io import savemat

    x, y = made(30)
    assert 0 in y
    savemat(folder / "test_32x32.mat", {"X": x.transpose(2, 3, 1, 0), "y": np.where(y == 0, 10, y)[:, None]})
    published(monkeypatch, "svhn", images={"test": 30})
    same(images.read("svhn", TEST, verify=False)["test"], x, y)


def test_imagenet16_keeps_the_first_120_classes(folder, monkeypatch):
    published(monkeypatch, "ImageNet16-120", images={"train": 0, "test": 0})
    names, files = [*images.FACTS["ImageNet16-120"].train], []
    for k, name in enumerate(names):
        files.append(made(20, 1000, 16, k))
        files[-1][1][:3] = 119, 120, 0
        write(folder / "ImageNet16" / name, batch(files[-1][0], files[-1][1] + 1, protocol=3))
    assert names[-1] == "train_data_batch_10"
    x, y = joined(files)
    same(images.read("ImageNet16-120", {"train": None}, verify=False)["train"], x[y < 120], y[y < 120])


def test_npz_parts_are_decoded(folder):
    parts = [made(5, seed=k) for k in range(3)]
    for name, part in zip(("train_1", "train_4", "test"), parts, strict=True):
        coded(folder / f"cifar10_{name}.npz", *part)
    with pytest.warns(UserWarning, match="10 of 50,000 train images"):
        same(images.read("cifar10", {"train": None}, verify=False)["train"], *joined(parts[:2]))
    same(images.read("cifar10", {"test": 3}, verify=False)["test"], *(v[:3] for v in parts[2]))
    with pytest.raises(ImageError, match="11 train images are asked for and 10"):
        images.read("cifar10", {"train": 11}, verify=False)
    with pytest.raises(ImageError, match="SHA-256.*verify=False"):
        images.read("cifar10", {"train": 3})


def test_a_file_is_known_by_its_checksum(folder, monkeypatch):
    content = batch(*made(4))
    write(folder / "cifar-10-batches-py/test_batch", content)
    with pytest.raises(ImageError, match="test_batch is cut or damaged.*40351d587109b95175f43aff81a1287e.*again"):
        images.read("cifar10", {"test": 4})
    published(monkeypatch, "cifar10", test={"test_batch": hashlib.md5(content).hexdigest()})
    same(images.read("cifar10", {"test": 4})["test"], *made(4))


def test_what_is_missing_is_named(folder):
    with pytest.raises(ImageError, match=f"{folder}.*cifar10_train.*download=True.*NAS_DATA"):
        images.read("cifar10", TRAIN)
    with pytest.raises(ImageError, match="ImageNet16/train_data_batch_1, or name"):
        images.read("ImageNet16-120", TRAIN)
    with pytest.raises(ImageError, match="cannot be downloaded: get the downsampled ImageNet"):
        images.read("ImageNet16-120", TRAIN, download=True)
    cifar10(folder)
    (folder / "cifar-10-batches-py/test_batch").unlink()
    with pytest.raises(ImageError, match="test_batch is missing"):
        images.read("cifar10", {"test": 1}, verify=False)


def test_torchvision_downloads(folder, monkeypatch):
    def download(root, download):
        assert download
        cifar10(root)

    def fail(root, download):
        raise OSError("no route to host")

    def torchvision(**datasets):
        monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(datasets=types.SimpleNamespace(**datasets)))

    torchvision(CIFAR10=fail)
    with pytest.raises(ImageError, match=f"no route to host.*{folder} by hand"):
        images.read("cifar10", {"test": 4}, download=True)
    torchvision(CIFAR10=download)
    same(images.read("cifar10", {"test": 4}, download=True, verify=False)["test"], *made(4, seed=5))


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def hostile() -> dict[str, bytes]:
    x, y = made(4)
    good = batch(x, y)
    flat = x.reshape(4, -1)
    return {
        "a call": pickle.dumps({"data": Planted(), "labels": []}),
        "a call by name": b"cposix\nmkdir\n(S'planted'\ntR.",
        "a call into numpy": b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00a\x85R.",
        "a nest to hash": b"\x80\x02})" + 300_000 * b"\x85" + b"K\x00s.",
        "memory for a memo": b"\x80\x02}r\xff\xff\xff\x7f.",
        "memory for bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"a.",
        "objects": pickle.dumps({"data": np.array([None, {}]), "labels": [0, 1]}, 2),
        "text": b"These are no images.",
        "nothing": b"",
        "a list": pickle.dumps([1, 2]),
        "no data": pickle.dumps({"labels": [1]}),
        "small images": batch(x[:, :, :9, :9], y),
        "floats": batch(x.astype(np.float32), y),
        "too few labels": batch(x, y[:2]),
        "label 10": batch(x, np.array([0, 1, 2, 10])),
        "label -1": batch(x, np.array([0, 1, 2, -1])),
        "labels in lists": pickle.dumps({"data": flat, "labels": [[0], [1], [2], [3]]}, 2),
        "another size": good.replace(struct.pack("<H", 3072), struct.pack("<H", 3000)),
    } | {f"cut at {n}": good[:n] for n in (1, 10, 100, 1000, len(good) - 1)}


@pytest.mark.parametrize("content", [pytest.param(v, id=k) for k, v in hostile().items()])
def test_a_bad_batch_is_refused_and_nothing_called(folder, monkeypatch, content):
    monkeypatch.chdir(folder)
    write(folder / "cifar-10-batches-py/test_batch", content)
    with pytest.raises(ImageError, match="test_batch.*(again|must)"):
        images.read("cifar10", {"test": 1}, verify=False)
    assert not (folder / "planted").exists()


@pytest.mark.parametrize("change", [
    {"X": np.zeros((32, 32, 3, 4), np.float32)}, {"X": np.zeros((32, 32, 4), np.uint8)}, {"y": np.arange(4)},
    {"y": np.arange(8, 12)}, {"y": np.arange(1, 4)}, {"X": np.zeros((16, 16, 3, 4), np.uint8)}])
def test_a_bad_matlab_file_is_refused(folder, change):
    from scipy.io import savemat

    savemat(folder / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.arange(1, 5)} | change)
    with pytest.raises(ImageError, match="test_32x32.mat"):
        images.read("svhn", {"test": 1}, verify=False)
    content = (folder / "test_32x32.mat").read_bytes()
    (folder / "test_32x32.mat").write_bytes(content[:len(content) // 2])
    with pytest.raises(ImageError, match="cut, damaged or of another format"):
        images.read("svhn", {"test": 1}, verify=False)


@pytest.mark.parametrize("arrays", [
    {"labels": np.arange(4)}, {"coded": np.zeros((3, 4, 32, 32), np.uint8)},
    {"coded": np.zeros((3, 4, 32, 32)), "labels": np.arange(4)},
    {"coded": np.zeros((3, 4, 16, 16), np.uint8), "labels": np.arange(4)},
    {"coded": np.zeros((3, 4, 32, 32), np.uint8), "labels": np.arange(8, 12)},
    {"coded": np.array([None, {}]), "labels": np.arange(2)}])
def test_a_bad_npz_part_is_refused(folder, arrays):
    np.savez(folder / "cifar10_test.npz", **arrays)
    with pytest.raises(ImageError, match="cifar10_test.npz"):
        images.read("cifar10", {"test": 1}, verify=False)
    content = (folder / "cifar10_test.npz").read_bytes()
    (folder / "cifar10_test.npz").write_bytes(content[:-40])
    with pytest.raises(ImageError, match="cut, damaged or of another format"):
        images.read("cifar10", {"test": 1}, verify=False)


def test_an_npz_part_that_grows_is_refused_unread(folder):
    with zipfile.ZipFile(folder / "cifar10_test.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("coded.npy", "w", force_zip64=True) as member:
            for _ in range(25):
                member.write(bytes(10_000_000))
    assert (folder / "cifar10_test.npz").stat().st_size < 1_000_000
    with pytest.raises(ImageError, match="too large"):
        images.read("cifar10", {"test": 1}, verify=False)


def test_shrinking_is_the_mean_over_blocks_with_halves_up():
    x, _ = made(3, side=12)
    for side, block in ((12, 1), (6, 2), (4, 3), (1, 12)):
        mean = x.reshape(3, 3, side, block, side, block).mean((3, 5))
        np.testing.assert_array_equal(images.shrink(x, side), np.floor(mean + 0.5))
    assert images.shrink(np.array([[[[0, 1], [1, 0]]]], np.uint8), 1).item() == 1
    for side in (5, 24):
        with pytest.raises(ImageError, match="it must divide the images' side, 12"):
            images.shrink(x, side)


def paint(file, colour, size=(8, 8)):
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def test_a_folder_of_pictures(folder):
    for k, name in enumerate(("cat", "dog")):
        for n in range(20):
            paint(folder / f"own/train/{name}/{n}.png", (k, n, 7))
        paint(folder / f"own/val/{name}/deep/a.PNG", (k, 0, 8))
    paint(folder / "own/test/dog/a.bmp", (1, 0, 9))
    for name in ("cat/notes.txt", "cat/._1.png"):
        (folder / "own/train" / name).write_text("no picture")
    paint(folder / "own/train/.thumbnails/1.png", (1, 2, 3))
    found, classes = pictures.read(None, folder=folder / "own")
    assert classes == 2 and {k: x.shape for k, (x, _) in found.items()} == {
        "train": (40, 3, 8, 8), "valid": (2, 3, 8, 8), "test": (1, 3, 8, 8)}
    for part, last in (("train", 7), ("valid", 8), ("test", 9)):
        x, y = found[part]
        assert (x[:, 0] == y[:, None, None]).all() and (x[:, 2] == last).all()
    x, y = found["train"]
    order = sorted((f"{c}/{n}.png" for c in ("cat", "dog") for n in range(20)),
                   key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert [f"{('cat', 'dog')[k]}/{n}.png" for k, n in zip(y, x[:, 1, 0, 0], strict=True)] == order
    assert set(y[:20]) == set(y[20:]) == {0, 1}


def test_pictures_of_any_size_are_fitted_to_a_side(folder):
    paint(folder / "train/a/1.png", (10, 20, 30), (12, 8))
    paint(folder / "train/b/1.png", (40, 50, 60), (8, 9))
    with pytest.raises(ImageError, match="give the option side"):
        pictures.read(None, folder=folder)
    (x, y), = pictures.read(4, folder=folder)[0].values()
    assert sorted(zip(y.tolist(), x[:, :, 2, 2].tolist(), strict=True)) == [(0, [10, 20, 30]), (1, [40, 50, 60])]
    from PIL import Image

    pixels = 4 * np.random.default_rng(0).integers(0, 60, (8, 12), np.uint8)
    Image.fromarray(pixels).save(folder / "train/a/1.png")
    (x, y), = pictures.read(2, folder=folder)[0].values()
    centre = pixels[:, 2:10].reshape(2, 4, 2, 4).mean((1, 3))
    np.testing.assert_allclose(x[y == 0], np.broadcast_to(centre, (1, 3, 2, 2)), atol=1)


def test_bad_folders_are_refused(folder):
    with pytest.raises(ImageError, match="train: put the training pictures there, one folder for each class"):
        pictures.read(None, folder=folder)
    with pytest.raises(ImageError, match="either the option folder or the option file"):
        pictures.read(None)
    paint(folder / "train/a/1.png", (1, 2, 3))
    (folder / "train/b").mkdir()
    with pytest.raises(ImageError, match="no pictures in .*train/b"):
        pictures.read(None, folder=folder)
    paint(folder / "train/b/1.png", (1, 2, 3))
    paint(folder / "test/c/1.png", (1, 2, 3))
    with pytest.raises(ImageError, match="test/c is no class of the training pictures: there are a, b"):
        pictures.read(None, folder=folder)
    (folder / "test/c").rename(folder / "test/b")
    (folder / "test/b/1.png").write_bytes((folder / "train/b/1.png").read_bytes()[:40])
    with pytest.raises(ImageError, match="test/b/1.png is cut, damaged"):
        pictures.read(None, folder=folder)


@pytest.mark.parametrize("form, shape", [("n, C, H, W", (3, 8, 8)), ("n, H, W, C", (3, 8, 8)), ("n, H, W", (1, 8, 8))])
def test_a_file_of_arrays(folder, form, shape):
    (x, y), (xt, yt) = made(9, 5, 8), made(4, 5, 8, 1)
    y[0] = 4
    if shape[0] == 1:
        x, xt = x[:, :1], xt[:, :1]
    stored = {"n, C, H, W": lambda v: v, "n, H, W, C": lambda v: v.transpose(0, 2, 3, 1),
              "n, H, W": lambda v: v[:, 0]}[form]
    np.savez(folder / "own.npz", x_train=stored(x), y_train=y.astype(np.int32), x_test=stored(xt), y_test=yt)
    found, classes = pictures.read(None, file=folder / "own.npz")
    assert classes == 5 and found.keys() == {"train", "test"}
    same(found["train"], x, y)
    same(found["test"], xt, yt)


@pytest.mark.parametrize("change, message", [
    ({"y_train": np.sort(made(9)[1])}, "shuffle the training images"), ({"y_train": np.zeros(9, int), "y_test": np.zeros(4, int)}, "shuffle"),
    ({"y_train": np.arange(9.0)}, "integers from 0"), ({"y_train": -made(9)[1]}, "has labels"),
    ({"y_test": made(4)[1] + 10}, "has labels"), ({"x_test": np.zeros((4, 3, 8, 9), np.uint8)}, "square"),
    ({"x_test": np.zeros((4, 5, 8, 8), np.uint8)}, "1 or 3 channels"), ({"x_test": np.zeros((4, 3, 8, 8))}, "uint8"),
    ({"x_train": np.array([None] * 9)}, "cut, damaged or of another format"), ({"y_test": made(3)[1]}, "one label to")])
def test_bad_arrays_are_refused(folder, change, message):
    x, y = made(9, 10, 8)
    np.savez(folder / "own.npz", **{"x_train": x, "y_train": y, "x_test": x[:4], "y_test": y[:4]} | change)
    with pytest.raises(ImageError, match=message):
        pictures.read(None, file=folder / "own.npz")


def test_a_file_of_other_arrays_is_refused(folder):
    np.savez(folder / "own.npz", images=made(4)[0])
    with pytest.raises(ImageError, match="no array x_train, but images"):
        pictures.read(None, file=folder / "own.npz")
    with pytest.raises(ImageError, match="missing"):
        pictures.read(None, file=folder / "other.npz")


@pytest.mark.skipif(not REAL, reason="NAS_DATA names no folder with CIFAR")
def test_the_published_cifar10(monkeypatch):
    monkeypatch.setenv("NAS_DATA", REAL)
    x, y = images.read("cifar10", {"train": 10_000})["train"]
    assert y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    facts = images.FACTS["cifar10"]
    scale = 255 * np.array(facts.std)
    standard = (x.mean((0, 2, 3)) - 255 * np.array(facts.mean)) / scale
    np.testing.assert_allclose(standard, 0, atol=0.02)
    np.testing.assert_allclose(x.std((0, 2, 3)) / scale, 1, atol=0.02)
    smaller = images.shrink(x, 16).std((0, 2, 3)) / scale
    assert ((0.95 < smaller) & (smaller < 0.99)).all()      # what the published constants leave at half the side
