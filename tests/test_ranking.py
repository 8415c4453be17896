"""Ranking against the plain loop: one architecture at a time through the supernet itself."""

import copy
from functools import reduce

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

import tiny
from nas_lib import layers, pieces, ranking
from nas_lib.checkpoint import Damaged
from nas_lib.scores import ConstantScore, RankingError
from nas_lib.spaces import NB201, Space
from nas_lib.supernet import Supernet

RULES = ("running", "batch", "recalibrate")
CALIBRATION = tiny.images(9, seed=7)[0]
TOY = Space("toy", nodes=3, ops=("skip_connect", "nor_conv_1x1"))       # no operation is zero


def plain(net, archs, images, rule, calibration=CALIBRATION, batch=4):
    """Logits ``[arch, n, classes]``, one architecture at a time, every rule as torch's modules have it."""
    net, logits = copy.deepcopy(net), []
    for arch in map(tiny.chosen, archs):
        if rule == "recalibrate":
            tiny.forget(net).train()
            with torch.no_grad():
                for part in calibration.split(batch):
                    net(part, arch)
        net.train(rule == "batch")
        with torch.no_grad():
            logits.append(torch.cat([net(part, arch) for part in images.split(batch)]))
    return torch.stack(logits)


def plain_loss(net, archs, y, *args, **options):
    return [F.cross_entropy(z, y) for z in plain(net, archs, *args, **options)]


def some(n, seed=0):
    """Architectures at random, and the awkward ones: no path at all, parts that lead nowhere."""
    rng = np.random.default_rng(seed)
    cut = np.flatnonzero(~NB201.connected(NB201.archs))
    idle = (NB201.live(NB201.archs) != (NB201.archs != 0)).any(1)
    stray = np.flatnonzero(idle & NB201.connected(NB201.archs))
    awkward = [1651, 1835, *rng.choice(cut, 3), *rng.choice(stray, 6)]
    return NB201.archs[np.concatenate([awkward, rng.integers(len(NB201), size=n)]).astype(int)]


@pytest.mark.parametrize("rule", RULES)
def test_accuracy_and_loss_are_those_of_the_plain_loop(rule):
    net, (x, y), archs = tiny.supernet(NB201), tiny.images(8), some(12)
    accuracy, loss = ranking.accuracy(net, archs, x, y, rule, batch=4, calibration=CALIBRATION)
    logits = plain(net, archs, x, rule)
    np.testing.assert_allclose(accuracy, [100 * (z.argmax(1) == y).double().mean() for z in logits])
    np.testing.assert_allclose(loss, [F.cross_entropy(z, y) for z in logits], rtol=1e-9)
    assert len(set(loss.round(9))) > 15


@pytest.mark.parametrize("matrix", [0, 256])      # convolutions as such, and as matrix products
@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize("rule", ["running", "batch"])
def test_logits_are_those_of_the_plain_loop(rule, cells, matrix, monkeypatch):
    monkeypatch.setattr(layers, "MATRIX", matrix)
    net, (x, _), archs = tiny.supernet(NB201, cells=cells), tiny.images(4), some(8, seed=cells)
    fast = ranking.logits(net, archs, x, layers.Layers(rule))
    torch.testing.assert_close(fast, plain(net, archs, x, rule), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rule", RULES)
def test_single_precision_is_as_close_as_it_can_be(rule):
    single = {"dtype": torch.float32}
    net, (x, y), archs = tiny.supernet(NB201, **single), tiny.images(4, **single), some(2)
    loss = ranking.accuracy(net, archs, x, y, rule, batch=4, calibration=CALIBRATION.float())[1]
    np.testing.assert_allclose(loss, plain_loss(net, archs, y, x, rule, CALIBRATION.float()), rtol=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_a_space_without_none(rule):
    net, (x, y) = tiny.supernet(TOY), tiny.images(8)
    loss = ranking.accuracy(net, TOY.archs, x, y, rule, batch=4, calibration=CALIBRATION)[1]
    np.testing.assert_allclose(loss, plain_loss(net, TOY.archs, y, x, rule), rtol=1e-9)


def test_one_architecture_alone_scores_as_in_company():
    net, (x, y), archs = tiny.supernet(NB201), tiny.images(8), some(20)
    together = ranking.accuracy(net, archs, x, y)
    alone = np.array([ranking.accuracy(net, a, x, y) for a in archs])[..., 0].T
    np.testing.assert_allclose(together, alone, rtol=1e-9)


@pytest.mark.parametrize("channels, cells, side", [(4, 1, 6), (3, 2, 5)])
@pytest.mark.parametrize("rule", RULES)
def test_compiled_scores_are_those_of_the_plain_loop(rule, channels, cells, side, monkeypatch):
    """One architecture at a time, with what ``recalibrate`` keeps from batch to batch."""
    from nas_lib import compiled_ranking

    calls, features = [], compiled_ranking.features
    monkeypatch.setattr(compiled_ranking, "features", lambda *a: calls.append(1) or features(*a))
    net, archs = tiny.supernet(NB201, channels, cells, dtype=torch.float32), some(20)
    (x, y), calibration = tiny.images(8, side=side), tiny.images(9, seed=7, side=side)[0]
    right, loss = ranking.accuracy(net, archs, x.float(), y, rule, batch=4, calibration=calibration.float())
    assert len(calls) == (5 if rule == "recalibrate" else 2)
    logits = plain(net.double(), archs, x, rule, calibration)
    np.testing.assert_allclose(loss, [F.cross_entropy(z, y) for z in logits], rtol=1e-4)
    np.testing.assert_allclose(right, [100 * (z.argmax(1) == y).double().mean() for z in logits])


@pytest.mark.parametrize("rule", RULES)
def test_the_supernet_stays_as_it_was(rule):
    net, (x, y) = tiny.supernet(NB201), tiny.images(8)
    before = copy.deepcopy(net.state_dict())
    ranking.accuracy(net, some(8), x, y, rule, calibration=CALIBRATION)
    tiny.same(dict(net.state_dict()), dict(before))
    assert net.training


def test_the_rules_differ():
    net, (x, y), archs = tiny.supernet(NB201), tiny.images(12), some(12)
    loss = [ranking.accuracy(net, archs, x, y, r, batch=4, calibration=CALIBRATION)[1] for r in RULES]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(loss[a] - loss[b]).max() > 0.01


def test_errors_name_what_there_is():
    net, (x, y) = tiny.supernet(), tiny.images()
    with pytest.raises(ValueError, match="unknown batch-norm rule 'eval': running, batch, recalibrate"):
        ranking.accuracy(net, tiny.SPACE.archs, x, y, "eval")
    with pytest.raises(ValueError, match="needs calibration images"):
        ranking.accuracy(net, tiny.SPACE.archs, x, y, "recalibrate")


@pytest.mark.parametrize("rule, count", [("running", 12_205), ("batch", 7_810), ("recalibrate", 7_810)])
def test_how_many_must_be_evaluated(rule, count):
    members, first = ranking.representatives(NB201, rule)
    assert len(members) == len(set(members.tolist())) == count
    assert set(first.tolist()) == set(members.tolist())
    np.testing.assert_array_equal(first[members], members)


@pytest.mark.parametrize("rule", RULES)
def test_architectures_with_one_representative_are_one_network(rule):
    """The proof that nothing is lost, in the plain loop: 30 of the classes, a member of each at random."""
    net, (x, _) = tiny.supernet(NB201), tiny.images(3, side=4)
    first = ranking.representatives(NB201, rule)[1]
    rng = np.random.default_rng(3)
    chiefs = rng.choice(np.flatnonzero(np.bincount(first) > 1), 30, replace=False)
    twins = [rng.choice(np.setdiff1d(np.flatnonzero(first == c), c)) for c in chiefs]
    a, b = plain(net, NB201.archs[[*chiefs, *twins]], x, rule, x.flip(0)).chunk(2)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    assert len(a.flatten(1).unique(dim=0)) > 25


def test_no_more_are_evaluated_than_there_are_networks():
    net, (x, y) = tiny.supernet(NB201), tiny.images(8)
    members = np.random.default_rng(4).choice(ranking.representatives(NB201, "batch")[0], 300, replace=False)
    loss = ranking.accuracy(net, NB201.archs[members], x, y)[1]
    assert len(set(loss.round(9))) > 295        # with so few channels dead units may hide a difference


def test_what_nothing_feeds_matters_under_stored_statistics():
    """Why ``running`` evaluates 12,205 cells and not 9,445: normalising a zero gives a constant."""
    masked = np.where(NB201.live(NB201.archs), NB201.archs, 0)
    assert len(np.unique(masked, axis=0)) == 9_445
    arch = NB201.parse("|none~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|")
    short = NB201.parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    assert NB201.index(np.where(NB201.live(arch), arch, 0)) == NB201.index(short)
    net, (x, _) = tiny.supernet(NB201), tiny.images(4)

    def gap(rule):
        a, b = plain(net, [arch, short], x, rule)
        return (a - b).abs().max()

    assert gap("running") > 0.01
    assert gap("batch") < 1e-9 and gap("recalibrate") < 1e-9


@pytest.mark.parametrize("rule", RULES)
def test_rank_scores_every_architecture_of_a_space(rule):
    net, (x, y) = tiny.supernet(), tiny.images(12)
    found = ranking.rank(net, x, y, rule, batch=4, block=5, calibration=CALIBRATION, progress=False)
    assert found.score.dims == ("arch",) and found.arch.values.tolist() == tiny.SPACE.strings.tolist()
    assert found.attrs == {"bn": rule, "images": 12}
    logits = plain(net, tiny.SPACE.archs, x, rule)
    accuracy = [100 * (z.argmax(1) == y).double().mean() for z in logits]
    np.testing.assert_allclose(found.score, accuracy, rtol=1e-6)
    np.testing.assert_allclose(found.rank_loss, [F.cross_entropy(z, y) for z in logits], rtol=1e-6)


def test_rank_of_the_whole_space():
    net, (x, y) = tiny.supernet(NB201), tiny.images(4, side=4)
    found = ranking.rank(net, x, y, block=512, progress=False)
    some = np.random.default_rng(5).choice(len(NB201), 20)
    expected = plain_loss(net, NB201.archs[some], y, x, "batch")
    np.testing.assert_allclose(found.rank_loss[some], expected, rtol=1e-6)
    assert not found.isnull().any().to_array().any()


@pytest.mark.parametrize("stored", [1, 3])
def test_a_stopped_ranking_goes_on_to_the_same_numbers(stored, monkeypatch, tmp_path):
    net, (x, y) = tiny.supernet(), tiny.images(12)
    asked = []
    accuracy = ranking.accuracy

    def counted(net, archs, *args):
        asked.append(len(archs))
        return accuracy(net, archs, *args)

    monkeypatch.setattr(ranking, "accuracy", counted)

    def rank(**where):
        asked.clear()
        return ranking.rank(net, x, y, block=4, progress=False, **where)

    whole = rank()
    blocks = len(asked)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, stored)
        rank(folder=tmp_path)
    assert whole.identical(rank(folder=tmp_path))
    assert len(asked) == blocks - stored > 0
    assert whole.identical(rank(folder=tmp_path)) and not asked


@pytest.mark.parametrize("change", [torch.Tensor.bool, torch.Tensor.float, lambda v: v[:-1]])
def test_stored_scores_of_another_type_or_shape_are_not_taken(change, tmp_path):
    net, (x, y), file = tiny.supernet(), tiny.images(12), tmp_path / "ranking.pt"
    ranking.rank(net, x, y, block=4, progress=False, folder=tmp_path)
    state = torch.load(file, weights_only=True)
    torch.save(state | {"score": change(state["score"])}, file)
    (tmp_path / "ranking-before.pt").unlink(missing_ok=True)
    with pytest.raises(Damaged, match="of another space, or of another type"):
        ranking.rank(net, x, y, block=4, progress=False, folder=tmp_path)


@pytest.mark.parametrize("parts", [2, 3, 50])     # 50 are more than there are blocks
def test_parts_make_the_whole(parts, tmp_path):
    net, (x, y) = tiny.supernet(), tiny.images(12)
    whole = ranking.rank(net, x, y, block=4, progress=False)
    pieces = [ranking.rank(net, x, y, block=4, progress=False, folder=tmp_path, part=k, parts=parts) for k in range(parts)]
    assert sum(p.score.notnull() for p in pieces).max() == 1
    assert whole.identical(reduce(xr.Dataset.fillna, pieces))
    if parts < 50:
        assert all(0 < p.score.notnull().sum() < len(whole.score) for p in pieces)


def test_all_architectures_see_the_same_images(monkeypatch):
    net, (x, y) = tiny.supernet(), tiny.images(10)
    seen, logits = [], ranking.logits

    def watched(net, archs, part, norm):
        seen.append(part)
        return logits(net, archs, part, norm)

    monkeypatch.setattr(ranking, "logits", watched)
    ranking.rank(net, x, y, batch=4, block=5, progress=False)
    assert len(seen) > 3 and len(seen) % 3 == 0
    for start in range(0, len(seen), 3):
        assert torch.equal(torch.cat(seen[start:start + 3]), x)


@pytest.mark.parametrize("bn", ["running", "batch", "recalibrate"])
def test_partial_channels_are_ranked_by_the_supernet_itself(bn):
    """Channels pass by an edge: not even cells without a path are the same network, and all are evaluated."""
    torch.manual_seed(0)
    net = Supernet(tiny.SPACE, 4, 1, 3, 1, partial=2)
    x, y = tiny.images(24, dtype=torch.float32)
    calibration, _ = tiny.images(20, seed=1, dtype=torch.float32)
    before = copy.deepcopy(net.state_dict())
    scores = ranking.rank(net, x, y, bn, batch=24, calibration=calibration, progress=False)
    tiny.same(dict(before), dict(net.state_dict()))
    for k, arch in enumerate(tiny.SPACE.archs):
        one = copy.deepcopy(net)
        if bn == "recalibrate":
            for m in one.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.reset_running_stats()
                    m.momentum = None
            one.train()(calibration, tiny.chosen(arch))
        out = one.train(bn == "batch")(x, tiny.chosen(arch))
        assert scores.score[k] == pytest.approx(100 * (out.argmax(1) == y).float().mean().item(), abs=1e-3)
        assert scores.rank_loss[k] == pytest.approx(F.cross_entropy(out, y).item(), rel=1e-5)


def test_blocks_fit_into_memory():
    net, (x, _) = tiny.supernet(channels=2), tiny.images(8)                 # a map of one architecture: 4 kB
    assert ranking.block_size(net, x, 256) == 128 and ranking.block_size(net, x.repeat(1, 1, 64, 64), 256) == 16
    assert ranking.block_size(net, x.repeat(1, 1, 64, 64), 1) == 128


def large(monkeypatch, piece=1):
    """Any map counts as large, and every image is a piece of its own until maps get smaller."""
    monkeypatch.setattr(ranking, "LARGE", 0)
    monkeypatch.setattr(pieces, "PIECE", piece)


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-8), (torch.float32, 1e-4)])     # plain, compiled
@pytest.mark.parametrize("rule", RULES)
def test_large_maps_give_the_scores_of_the_plain_loop(rule, dtype, close, monkeypatch):
    large(monkeypatch)
    net, (x, y), archs = tiny.supernet(NB201, 4, cells=2), tiny.images(8, side=9), NB201.archs[40:64]
    archs = np.concatenate([archs, some(4)])
    calibration = tiny.images(9, seed=7, side=9)[0]
    expected = plain(net, archs, x, rule, calibration)
    found = ranking.accuracy(net.to(dtype), archs, x.to(dtype), y, rule, batch=4, calibration=calibration.to(dtype))
    np.testing.assert_allclose(found[1], [F.cross_entropy(z, y) for z in expected], rtol=close)
    np.testing.assert_allclose(found[0], [100 * (z.argmax(1) == y).double().mean() for z in expected])


def test_neighbours_share_what_they_have_in_common(monkeypatch):
    large(monkeypatch)
    taken, take = [], pieces._Normed.take
    monkeypatch.setattr(pieces._Normed, "take", lambda self, x: taken.append(1) or take(self, x))
    net, (x, y) = tiny.supernet(NB201, 2), tiny.images(1)
    twins = np.array([[3, 3, 3, 3, 0, 1], [3, 3, 3, 3, 0, 4]])           # they differ in the last edge
    together = ranking.accuracy(net, twins, x, y)[1]
    shared = len(taken)
    alone = [ranking.accuracy(net, one, x, y)[1][0] for one in twins]
    assert len(taken) - shared == shared + 5                            # the stem, and four convolutions of the first cell
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("channels, limit", [(4, 0), (4, 2048)])        # large, and not
def test_bfloat16_is_close_and_not_the_same(channels, limit, monkeypatch):
    monkeypatch.setattr(ranking, "LARGE", limit)
    net, archs = tiny.supernet(NB201, channels, dtype=torch.float32), some(20)
    (x, y) = tiny.images(32, side=8, dtype=torch.float32)
    full, half = (ranking.accuracy(net, archs, x, y, precision=p)[1] for p in ("float32", "bfloat16"))
    assert 1e-5 < np.abs(half - full).max() < 0.1 * full.mean()
    assert np.corrcoef(half, full)[0, 1] > 0.99
    with pytest.raises(ValueError, match="precision = 'half': it can be float32, bfloat16"):
        ranking.accuracy(net, archs, x, y, precision="half")


@pytest.mark.parametrize("partial", [1, 2])
def test_what_more_is_asked_for(partial):
    torch.manual_seed(0)
    net = Supernet(tiny.SPACE, 4, 1, 3, 1, partial=partial)
    x, y = tiny.images(10, dtype=torch.float32)
    found = ranking.rank(net, x, y, batch=4, block=5, progress=False, top=2, correct=True)
    logits = plain(net, tiny.SPACE.archs, x, "batch")
    right = logits.argmax(-1) == y
    np.testing.assert_array_equal(found.correct, right)
    np.testing.assert_allclose(found.score, 100 * found.correct.mean("image"), rtol=1e-6)
    second = logits.scatter(-1, logits.argmax(-1, keepdim=True), -torch.inf).argmax(-1) == y
    np.testing.assert_allclose(found.top2, 100 * (right | second).double().mean(1), rtol=1e-6)
    pieces = [ranking.rank(net, x, y, batch=4, block=5, progress=False, top=2, correct=True, part=k, parts=2) for k in (0, 1)]
    assert found.identical(ranking.joined(pieces)) and (pieces[0].correct == 255).any()


def test_blocks_are_lowered_until_they_fit(monkeypatch):
    """A GPU that can take three architectures at once gives the scores of one that takes all, with a warning."""
    net, (x, y), real, sizes = tiny.supernet(dtype=torch.float32), tiny.images(dtype=torch.float32), ranking.accuracy, []

    def small(net, archs, *args, **kwargs):
        sizes.append(len(archs))
        if len(archs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(net, archs, *args, **kwargs)

    whole = ranking.rank(net, x, y, block=13, progress=False, correct=True)
    monkeypatch.setattr(ranking, "accuracy", small)
    with pytest.warns(UserWarning, match="block is lowered to 3 architectures"):
        assert ranking.rank(net, x, y, block=13, progress=False, correct=True).equals(whole)
    assert sizes[:3] == [13, 6, 3] and max(sizes[3:]) == 3             # it is not tried again and again
    monkeypatch.setattr(ranking, "accuracy", lambda *_: small(net, np.zeros(9)))
    with pytest.raises(RankingError, match="block of one architecture: lower batch"):
        ranking.rank(net, x, y, block=2, progress=False)


def test_scores_that_are_none(monkeypatch):
    net, (x, y) = tiny.supernet(dtype=torch.float32), tiny.images(dtype=torch.float32)
    monkeypatch.setattr(ranking, "accuracy", lambda net, archs, *_: (np.full(len(archs), 10.0), np.ones(len(archs))))
    with pytest.raises(ConstantScore, match="different networks score 10 under batch statistics; check"):
        ranking.rank(net, x, y, progress=False)
    with pytest.warns(UserWarning, match="all [0-9]+ different networks score 10 under running statistics"):
        ranking.rank(net, x, y, "running", progress=False)
    monkeypatch.setattr(ranking, "accuracy", lambda net, archs, *_: (np.zeros(len(archs)), np.full(len(archs), np.nan)))
    with pytest.raises(RankingError, match="has a loss that is no number under batch.*lower learning rate"):
        ranking.rank(net, x, y, progress=False)
