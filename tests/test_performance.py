"""Both sides of a timing do the same work. How long it takes is no test's business."""

import numpy as np
import pytest
import torch

from nas_lib import performance, ranking
from nas_lib.spaces import NB201


def test_sides_take_turns():
    calls = []
    seconds = performance.paired({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2)
    assert calls == ["a", "b"] * 3 and seconds.dims == ("side", "round") and seconds.shape == (2, 2)
    assert (seconds >= 0).all() and seconds.side.values.tolist() == ["a", "b"]


@pytest.mark.parametrize("method", ["darts", "gdas"])
@pytest.mark.parametrize("channels, side", [(4, 6), (4, 24)])           # compiled, and not
def test_a_step_is_the_same_either_way(method, channels, side):
    seconds = performance.training_step(method, channels, 1, side, batch=8, rounds=2)
    assert seconds.attrs["agreement"] < 1e-4 and (seconds > 0).all()


@pytest.mark.parametrize("rule", ["batch", "recalibrate", "running"])
def test_scores_are_the_same_either_way(rule):
    seconds = performance.ranking_pass(4, 1, 6, images=16, few=2, block=4, rounds=1, rule=rule)
    assert seconds.attrs["agreement"] < 1e-4 and seconds.shape == (2, 1)


def test_an_architecture_is_scored_by_the_published_loop():
    data = performance.noise(6, 8)
    net, archs = performance._trained(2, 1, data), NB201.archs[[5744, 9, 1651]]
    x, y = data.halves()[1]
    accuracy, loss = performance.one_by_one(net, archs, x, y)
    net.compiled = net.fuse = False
    with torch.no_grad():
        logits = [net.train()(x, torch.as_tensor(a, dtype=torch.int64)) for a in archs]
    np.testing.assert_allclose(loss, [torch.nn.functional.cross_entropy(z, y) for z in logits], rtol=1e-5)
    np.testing.assert_allclose(accuracy, ranking.accuracy(net, archs, x, y)[0], rtol=1e-5)


def test_the_other_timings_run():
    assert performance.selection(2, 1, 6, candidates=2, images=8, batch=8, rounds=1).shape == (2, 1)
    assert performance.attainable(2, 1, 8, batch=4, rounds=1) > 0
