"""The published sweep: without its defects it is the ranking, with them it is what they make of it."""

import numpy as np
import pytest
import torch

import tiny
from nas_lib.ranking import rank
from nas_lib.sweep import published

DATA = tiny.data()
N = 12
UNIFORM = np.full(len(tiny.SPACE), -np.log(len(tiny.SPACE)))


@pytest.fixture
def net():
    return tiny.supernet(dtype=torch.float32).eval()


@pytest.mark.parametrize("bn", ["running", "batch"])
def test_on_the_same_images_it_is_the_ranking(net, bn):
    x, y = (v[:N] for v in DATA.fixed("valid half"))
    plain = rank(net, x, y, bn, progress=False).score
    found = published(net, DATA, N, fresh=False, bn=bn, batch=N, block=10, progress=False).score
    np.testing.assert_allclose(found, plain, atol=1e-4)


def test_fresh_images_written_out(net):
    """Architecture by architecture: its own images, augmented, through the supernet itself (D1, D5)."""
    found = published(net, DATA, N, fresh=True, batch=5, block=10, progress=False).score.values
    stored, labels = DATA.halves()[1]
    for start in range(0, len(tiny.SPACE), 10):
        archs = tiny.SPACE.archs[start:start + 10]
        choices, pixels = torch.Generator().manual_seed(start), torch.Generator().manual_seed(start)
        rows = torch.rand(len(archs), len(labels), generator=choices).argsort(1)[:, :N]
        x = DATA.augment(stored[rows.flatten()], pixels).unflatten(0, rows.shape)
        for k, arch in enumerate(archs):
            assert len(set(rows[k].tolist())) == N
            right = (net(x[k], tiny.chosen(arch)).argmax(1) == labels[rows[k]]).float().mean().item()
            assert found[start + k] == pytest.approx(100 * right, abs=1e-3)


def test_answers_of_its_own_law_do_not_depend_on_what_was_asked(net):
    """A law that knows one architecture gives all the score of that one (D4)."""
    certain = np.full(len(tiny.SPACE), -np.inf)
    certain[7] = 0.0
    plain = published(net, DATA, N, fresh=False, progress=False).score.values
    own = published(net, DATA, N, fresh=False, log_prob=certain, progress=False).score.values
    assert (own == plain[7]).all() and (plain != plain[7]).any()
    batches = published(net, DATA, N, fresh=False, log_prob=UNIFORM, batch=4, progress=False).score.values
    assert len(set(batches.tolist())) > 1 and (batches != plain).any()


@pytest.mark.parametrize("how", [{"fresh": True}, {"fresh": False, "log_prob": UNIFORM}], ids=["images", "law"])
def test_another_seed_is_another_draw(net, how):
    first, again, other = (published(net, DATA, N, seed=s, progress=False, **how).score.values for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_stopped_and_resumed(net, tmp_path, monkeypatch):
    how = {"fresh": True, "log_prob": UNIFORM, "block": 8, "progress": False}
    whole = published(net, DATA, N, **how).score.values
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 2)
        published(net, DATA, N, folder=tmp_path, **how)
    np.testing.assert_array_equal(published(net, DATA, N, folder=tmp_path, **how).score.values, whole)


def test_recalibration_is_refused(net):
    with pytest.raises(ValueError, match="set it to running or batch"):
        published(net, DATA, N, fresh=True, bn="recalibrate")
