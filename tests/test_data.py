"""Data sets: where the embedded digits land, how photographs are kept, what is fixed and what is drawn anew."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from nas_lib import data, images, methods
from nas_lib.ranking import rank
from nas_lib.training import train

DIGITS = data.digits(noise=0.0, fold=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_parts_and_shapes():
    assert {k: len(y) for k, (x, y) in DIGITS.parts.items()} == {"train": 1024, "valid": 257, "test": 516}
    assert all(x.shape == (len(y), 1, 8, 8) for x, y in DIGITS.parts.values())
    assert DIGITS.shape == DIGITS.augment(DIGITS.parts["test"][0][:3], generator()).shape[1:] == (1, 12, 12)
    assert all(set(y.tolist()) == set(range(10)) for _, y in DIGITS.parts.values())


def test_every_digit_is_in_one_part_with_its_label():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    expected = sorted((*i, y) for i, y in zip(images.tolist(), labels.tolist(), strict=True))
    found = [(*i, n) for x, y in DIGITS.parts.values()
             for i, n in zip((16 * x).flatten(1).tolist(), y.tolist(), strict=True)]
    assert sorted(found) == expected


def test_halves_are_the_training_part_cut_in_two():
    (a, p), (b, q) = DIGITS.halves()
    x, y = DIGITS.parts["train"]
    assert len(p) == len(q) == 512
    assert torch.equal(torch.cat([a, b]), x) and torch.equal(torch.cat([p, q]), y)
    odd = tiny.changed(DIGITS, parts={"train": (x[:7], y[:7])})
    assert [len(labels) for _, labels in odd.halves()] == [3, 4]


def test_every_digit_is_placed_whole_anywhere_on_the_canvas():
    x = torch.rand(1, 1, 8, 8, generator=generator()).clamp(min=0.1).expand(600, -1, -1, -1)
    placed = data._place(x, 12, generator())
    seen = set()
    for canvas in placed[:, 0]:
        rows, columns = canvas.any(1).nonzero()[:, 0], canvas.any(0).nonzero()[:, 0]
        top, left = int(rows[0]), int(columns[0])
        expected = torch.zeros(12, 12)
        expected[top:top + 8, left:left + 8] = x[0, 0]
        assert torch.equal(canvas, expected)
        seen.add((top, left))
    assert seen == {(i, j) for i in range(5) for j in range(5)}


def test_inputs_are_standardised():
    x, _ = DIGITS.parts["train"]
    views = DIGITS.augment(x, generator())
    assert abs(views.mean()) < 1e-4 and abs(views.std() - 1) < 1e-3
    noisy = data.digits(noise=0.5, fold=1).augment(x, generator())
    torch.testing.assert_close((noisy - views).std().item(), 0.5, rtol=0.01, atol=0)
    assert abs((noisy - views).mean()) < 0.01


def test_augmentation_is_new_at_every_look_and_repeatable():
    x = DIGITS.parts["test"][0][:20]
    g = generator()
    first, second = DIGITS.augment(x, g), DIGITS.augment(x, g)
    assert not torch.equal(first, second)
    assert torch.equal(first, DIGITS.augment(x, generator()))


@pytest.mark.parametrize("fold", [2, 3])
def test_folding_loses_nothing(fold):
    x = DIGITS.parts["test"][0][:20]
    plain, folded = data.digits(fold=1), data.digits(fold=fold)
    found = folded.augment(x, generator())
    assert found.shape[1:] == folded.shape == (fold**2, 12 // fold, 12 // fold)
    assert torch.equal(F.pixel_shuffle(found, fold), plain.augment(x, generator()))


@pytest.mark.parametrize("part", ["train", "valid", "test", "train half", "valid half"])
def test_fixed_views_are_the_same_for_every_caller(part):
    torch.manual_seed(1)
    x, y = data.digits().fixed(part, 2)
    torch.manual_seed(2)
    other = data.digits()
    other.fixed("test", 1)
    again, labels = other.fixed(part, 2)
    assert torch.equal(x, again) and torch.equal(y, labels)
    assert other.fixed(part, 2)[0] is again
    stored = other._part(part)[1]
    assert torch.equal(y, stored.repeat(2)) and not torch.equal(x[:len(stored)], x[len(stored):])


def test_a_changed_copy_has_views_of_its_own():
    plain = tiny.data()
    plain.fixed("test")
    doubled = dataclasses.replace(plain, transform=lambda x, g: 2 * plain.transform(x, g))
    assert torch.equal(doubled.fixed("test")[0], 2 * plain.fixed("test")[0])


def test_data_sets_go_by_name():
    options = {"side": 16, "noise": 0.5, "fold": 4}
    assert data.load("digits", **options).config == {"name": "digits"} | options
    with pytest.raises(ValueError, match="'mnist': digits, cifar10, cifar100, svhn, ImageNet16-120, images"):
        data.load("mnist")


X = np.random.default_rng(0).integers(0, 256, (30, 3, 16, 16), np.uint8)
Y = np.arange(30) * 7 % 10


@pytest.fixture
def cifar10(monkeypatch):
    """Pictures in the place of CIFAR-10; what was asked for is noted."""
    asked = []

    def read(name, wanted, verify=True):
        asked.append((name, wanted, verify))
        parts = {"train": (X[:24], Y[:24]), "test": (X[24:], Y[24:])}
        return {k: tuple(v[:n] for v in parts[k]) for k, n in wanted.items()}

    monkeypatch.setattr(images, "read", read)
    return asked


def own(folder, **arrays):
    np.savez(folder / "own.npz", **{"x_train": X[:24], "y_train": Y[:24]} | arrays)
    return folder / "own.npz"


def test_photographs_are_bytes_and_all_training_images_are_for_the_search(cifar10):
    d = data.load("cifar10")
    assert cifar10 == [("cifar10", {"train": None, "test": None}, True)]
    assert d.classes == 10 and d.shape == (3, 16, 16) and d.parts.keys() == {"train", "test"}
    for (x, y), part in zip(d.parts.values(), (slice(24), slice(24, None)), strict=True):
        assert x.dtype == torch.uint8 and torch.equal(x, torch.from_numpy(X[part])) and y.tolist() == Y[part].tolist()
    assert [y.tolist() for _, y in d.halves()] == [Y[:12].tolist(), Y[12:24].tolist()]
    assert {k: d.config[k] for k in ("name", "side", "train", "test", "pad", "flip", "cutout")} == {
        "name": "cifar10", "side": 16, "train": 24, "test": 6, "pad": 2, "flip": True, "cutout": 0}


def test_options_keep_the_first_images(cifar10):
    d = data.load("cifar10", train=10, valid=4, test=3, side=8, pad=0, flip=False, cutout=2, verify=False)
    assert cifar10 == [("cifar10", {"train": 14, "test": 3}, False)]
    small = torch.from_numpy(images.shrink(X, 8))
    for part, cut in (("train", slice(10)), ("valid", slice(10, 14)), ("test", slice(24, 27))):
        assert torch.equal(d.parts[part][0], small[cut]) and d.parts[part][1].tolist() == Y[cut].tolist()
    assert (d.transform.pad, d.transform.flip, d.transform.cutout) == (0, False, 2)
    d = data.load("cifar10", valid=5, test=0)
    assert {k: len(y) for k, (_, y) in d.parts.items()} == {"train": 19, "valid": 5} and d.config["valid"] == 5
    with pytest.raises(ValueError, match="cifar10 has no part 'test': there are train, valid, train half, valid half"):
        d.fixed("test")


@pytest.mark.parametrize("options, message", [
    ({"side": 5}, "must divide"), ({"side": 0}, "a whole number from 1"), ({"train": 1}, "a whole number from 2"),
    ({"train": 2.0}, "a whole number"), ({"flip": 1}, "True or False"), ({"augment": None}, "True or False"),
    ({"pad": -1}, "a whole number from 0"), ({"cutout": None}, "a whole number"), ({"valid": 23}, "at least 2"),
    ({"train": 20, "valid": 5}, "valid = 5: there are 4"), ({"test": 7}, "test = 7: there are 6")])
def test_impossible_options_are_refused(cifar10, options, message):
    with pytest.raises(ValueError, match=message):
        data.load("cifar10", **options)


def test_unknown_options_are_type_errors(tmp_path):
    for name in ("cifar10", "images"):
        with pytest.raises(TypeError, match="noise"):
            data.load(name, noise=1)
    with pytest.raises(ValueError, match="train = 25: there are 24"):
        data.load("images", file=own(tmp_path), train=25)
    with pytest.raises(ValueError, match="there are no test images"):
        data.load("images", file=own(tmp_path), test=1)
    with pytest.raises(ValueError, match="images of different shapes, .3, 8, 8., .3, 16, 16."):
        data.load("images", file=own(tmp_path, x_test=X[:2, :, :8, :8], y_test=Y[:2]))
    with pytest.raises(ValueError, match="a channel of the training images has the same value everywhere"):
        data.load("images", file=own(tmp_path, x_train=X[:24] * np.array([1, 1, 0], np.uint8)[:, None, None]))


def test_evaluation_sees_photographs_as_they_are_and_once(cifar10):
    d = data.load("cifar10", augment=True)
    facts = images.FACTS["cifar10"]
    mean, std = (np.array(v)[:, None, None] for v in (facts.mean, facts.std))
    x, y = d.fixed("valid half", 3)
    np.testing.assert_allclose(x, (X[12:24] / 255 - mean) / std, atol=1e-5)
    assert y.tolist() == Y[12:24].tolist() and d.fixed("valid half")[0] is x
    stored = d.halves()[1][0]
    looks = [d.augment(stored, generator(k)) for k in (0, 0, 1)]
    assert torch.equal(looks[0], looks[1]) and not torch.equal(looks[0], looks[2]) and not torch.equal(looks[0], x)
    assert torch.equal(data.load("cifar10", augment=False, cutout=8).augment(stored, generator()), x)


def test_own_images_are_normalised_by_their_training_part(tmp_path):
    d = data.load("images", file=own(tmp_path, x_valid=X[24:], y_valid=Y[24:]), train=20, valid=4)
    assert {k: len(y) for k, (_, y) in d.parts.items()} == {"train": 20, "valid": 4} and d.classes == 10
    x, _ = d.fixed("train")
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(d.parts["valid"][0], X[24:28])


def test_what_is_seen_decides_the_configuration(tmp_path, cifar10):
    first = data.load("cifar10").config
    assert data.load("cifar10", pad=2).config == first
    for options in ({"train": 23}, {"valid": 2}, {"side": 8}, {"pad": 1}, {"flip": False}, {"cutout": 4},
                    {"augment": False}):
        assert data.load("cifar10", **options).config != first
    digests = [data.load("images", file=own(tmp_path, **change)).config["digest"] for change in (
        {}, {}, {"y_train": Y[1:25]}, {"x_train": X[1:25]})]
    assert digests[0] == digests[1] and len({*digests}) == 3


def test_a_supernet_trains_and_is_ranked_on_photographs(cifar10):
    d = data.load("cifar10")
    trained = train("darts", methods.stage1("darts"), tiny.SPACE, d, tiny.BUDGET, 0, progress=False)
    assert trained.config["data"] == d.config and np.isfinite(trained.history["train_loss"]).all()
    scores = rank(trained.supernet, *d.fixed("valid half"), "batch", progress=False)
    assert scores.score.shape == (len(tiny.SPACE),) and scores.score.std() > 0


def test_the_first_fixed_images_are_the_same_as_among_all():
    d = data.digits()
    for part, copies in (("valid half", 1), ("test", 2)):
        whole, first = d.fixed(part, copies), d.fixed(part, copies, first=7)
        assert all(torch.equal(a[:7], b) for a, b in zip(whole, first, strict=True))
