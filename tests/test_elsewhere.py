"""Nothing is tied to the CPU: the engine on a pretended device, with the CPU's numbers."""

import numpy as np
import pytest
import torch

import tiny
from elsewhere import DEVICE, Elsewhere, Far, elsewhere
from nas_lib import methods, performance, proxies, ranking
from nas_lib.final import Recipe, cells_of, train_final
from nas_lib.spaces import NB201, S1
from nas_lib.steps import Run
from nas_lib.training import Budget, train

BUDGET = Budget(channels=4, cells=1, epochs=1, batch=8)


def trained(name, device):
    return train(name, methods.stage1(name), NB201, performance.noise(6, 8, device=device), BUDGET, 0, progress=False)


def far(net):
    return all(isinstance(t, Far) for t in [*net.parameters(), *net.buffers()])


@pytest.mark.parametrize("name", ["darts", "gdas", "rsps"])
def test_training(name, monkeypatch):
    here = trained(name, "cpu")
    with elsewhere(monkeypatch):
        there = trained(name, DEVICE)
        assert far(there.supernet)
        for key, values in here.history.items():
            np.testing.assert_allclose(there.history[key], values, 1e-4)


@pytest.mark.parametrize("rule, large", [("running", 2048), ("recalibrate", 2048), ("batch", 0), ("recalibrate", 0)])
def test_ranking_and_scores(rule, large, monkeypatch):
    monkeypatch.setattr(ranking, "LARGE", large)
    archs = NB201.archs[[7, 1462, 4711, 15_000]]

    def scores(device):
        data = performance.noise(6, 8, device=device)
        net = performance.trained(4, 1, data)
        (x, y), (xv, yv) = data.halves()
        found = ranking.accuracy(net, archs, xv, yv, rule, calibration=x)
        return [*found, list(proxies.score(net, archs[1], x, y, proxies.NAMES if large else ("synflow",)).values())]

    here = scores("cpu")
    with elsewhere(monkeypatch):
        for a, b in zip(here, scores(DEVICE), strict=True):
            np.testing.assert_allclose(a, b, 1e-4)


def test_final_training(monkeypatch):
    recipe = Recipe(channels=2, cells=3, epochs=1, batch=4, drop_path=0.4, auxiliary=0)

    def trained_from_scratch(device):
        data = performance.noise(16, 8, classes=3, device=device)
        data = tiny.changed(data, parts=data.parts | {"test": data.parts["train"]})
        return train_final(cells_of(S1, "dartsm_pt"), data, recipe, 0, progress=False)

    here = trained_from_scratch("cpu")
    with elsewhere(monkeypatch):
        there = trained_from_scratch(DEVICE)
        np.testing.assert_allclose(there.train_loss, here.train_loss, 1e-4)


def test_what_is_made_in_the_wrong_place_is_refused(monkeypatch):
    with elsewhere(monkeypatch), pytest.raises(RuntimeError, match="on meta and on the CPU"):
        torch.ones(2, device=DEVICE) + torch.ones(2)


def test_a_step_reads_nothing_back(monkeypatch):
    """A GPU would be waited for at every such place."""
    with elsewhere(monkeypatch):
        data = performance.noise(6, 8, device=DEVICE)
        run = Run(methods.stage1("darts"), NB201, data, BUDGET, 0, None)
        (x, y), (xv, yv) = data.halves()
        Elsewhere.reads = 0
        run.architecture_step(xv, yv, 0.0)
        run.weight_step(x, y, 0.0)
        assert Elsewhere.reads == 0
