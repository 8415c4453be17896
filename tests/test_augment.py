"""Crop, flip, normalise and cutout: every outcome against torchvision's, and the law by which they occur."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from nas_lib.augment import Augment, cut, cutout, normalise

MEAN, STD = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
CONSTANTS = [torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD)]
PLAIN = [torch.zeros(3, 1, 1), torch.ones(3, 1, 1)]


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def every(pad):
    """All corners ``[2, n]`` and mirrorings ``[n]``."""
    place = torch.arange(2 * pad + 1)
    rows, columns, mirrored = torch.cartesian_prod(place, place, torch.arange(2)).T
    return torch.stack([rows, columns]), mirrored.bool()


@pytest.mark.parametrize("side, pad", [(32, 4), (16, 2)])
def test_every_outcome_is_that_of_torchvision(side, pad):
    from torchvision.transforms import functional as published

    x = torch.randint(256, (3, side, side), dtype=torch.uint8, generator=generator())
    picture = published.to_pil_image(x)
    padded = published.pad(picture, pad)
    corner, mirrored = every(pad)
    found = normalise(cut(x.expand(len(mirrored), -1, -1, -1), pad, corner, mirrored), *CONSTANTS)

    def finish(cropped):
        return published.normalize(published.to_tensor(cropped), MEAN, STD)

    for y, (i, j), turned in zip(found, corner.T.tolist(), mirrored.tolist(), strict=True):
        cropped = published.crop(padded, i, j, side, side)
        assert torch.equal(y, finish(published.hflip(cropped) if turned else cropped))
        # The other order, flip before crop, has the same outcomes, each once.
        first = published.pad(published.hflip(picture) if turned else picture, pad)
        assert torch.equal(y, finish(published.crop(first, i, 2 * pad - j if turned else j, side, side)))


@pytest.mark.parametrize("pad, flip", [(1, True), (2, True), (2, False), (0, True)])
def test_places_and_mirrorings_are_independent_and_uniform(pad, flip):
    pixel = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(10_000, 3, 8, 8)
    found = 255 * Augment(*PLAIN, pad=pad, flip=flip)(pixel, generator())
    left, right = (found[:, 1, 4, c].round().long() - 1 for c in (3, 4))
    mirrored = (left > right).long()
    rows = torch.div(left, 8, rounding_mode="floor") - 4 + pad
    columns = torch.where(mirrored.bool(), right, left) % 8 - 3 + pad
    codes = (rows * (2 * pad + 1) + columns) * (1 + flip) + mirrored
    counts = torch.bincount(codes)
    assert len(counts) == (2 * pad + 1)**2 * (1 + flip)
    assert chisquare(counts).pvalue > 0.001


def plain_cutout(x, length, row, column):
    y = x.clone()
    for i in range(row - length // 2, row + length // 2):
        for j in range(column - length // 2, column + length // 2):
            if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
                y[:, i, j] = 0
    return y


@pytest.mark.parametrize("length", [2, 5, 16])
def test_cutout_blanks_the_published_square_around_every_centre(length):
    x = torch.randn(3, 8, 8, generator=generator())
    centre = torch.cartesian_prod(torch.arange(8), torch.arange(8)).T
    found = cutout(x.repeat(64, 1, 1, 1), length, centre)
    for y, (row, column) in zip(found, centre.T.tolist(), strict=True):
        assert torch.equal(y, plain_cutout(x, length, row, column))


def test_cutout_comes_last_and_its_centre_is_uniform():
    x = torch.randint(256, (10_000, 3, 8, 8), dtype=torch.uint8, generator=generator())
    found = Augment(*CONSTANTS, cutout=2)(x, generator())
    blank = (found == 0).all(1)
    # The square ends at its centre, so that the last blank row and column are those of the centre.
    rows, columns = (torch.where(blank.any(d), torch.arange(8), -1).amax(1) for d in (2, 1))
    assert chisquare(torch.bincount(8 * rows + columns, minlength=64)).pvalue > 0.001
    assert torch.equal(found, cutout(normalise(x, *CONSTANTS), 2, torch.stack([rows, columns])))


def test_stored_bytes_and_the_global_state_stay_as_they_are():
    x = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator())
    before, state = x.clone(), torch.get_rng_state()
    augment = Augment(*CONSTANTS, pad=1, flip=True, cutout=4)
    first = augment(x, generator())
    assert torch.equal(first, augment(x, generator())) and not torch.equal(first, augment(x, generator(1)))
    Augment(*CONSTANTS, cutout=4)(x, generator())
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)
    expected = (x.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    np.testing.assert_allclose(augment.plain(x), expected, atol=1e-6)
    assert torch.equal(Augment(*CONSTANTS)(x, generator()), augment.plain(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here")
def test_an_accelerator_has_the_same_outcomes():
    device = torch.accelerator.current_accelerator()
    corner, mirrored = every(2)
    x = torch.randint(256, (len(mirrored), 3, 16, 16), dtype=torch.uint8, generator=generator())
    found = cut(x.to(device), 2, corner.to(device), mirrored.to(device))
    assert torch.equal(found.cpu(), cut(x, 2, corner, mirrored))
    augment = Augment(*(v.to(device) for v in CONSTANTS), pad=2, flip=True, cutout=8)
    first, second = (augment(x.to(device), generator(0, device)) for _ in range(2))
    assert first.device == x.to(device).device and torch.equal(first, second)
