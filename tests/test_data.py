"""The embedded images: where they land, what is fixed and what is drawn anew."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

import tiny
from nas_lib import data

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
    with pytest.raises(ValueError, match="unknown data set 'mnist': digits"):
        data.load("mnist")
