"""On a CUDA device: the CPU's numbers, and nothing read back in a step. Skipped where there is none.

``test_elsewhere`` shows the same on a pretended device, without the kernels of a real one.
"""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import tiny
from nas_lib import graphed, methods, performance, proxies, ranking, sweep
from nas_lib.augment import Augment, cut, cutout
from nas_lib.checkpoint import load
from nas_lib.final import Recipe, cells_of, train_final
from nas_lib.protocol import CORRECTED, PAPER
from nas_lib.sampling import draw
from nas_lib.spaces import NB201, S1
from nas_lib.steps import Run
from nas_lib.training import Budget, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
BUDGET = Budget(channels=4, cells=1, epochs=2, batch=16)
NEAR = {"rtol": 1e-6, "atol": 1e-8}


@pytest.fixture(autouse=True)
def double_precision(monkeypatch):
    """Everything in float64: on such small maps a training step multiplies what float32 rounds away by a thousand."""
    monkeypatch.setattr(graphed, "TIMES", 0)            # what can be recorded is
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def single_precision(double_precision):
    """As images that are stored as bytes become."""
    torch.set_default_dtype(torch.float32)


def images(device, side=8, number=64):
    return performance.noise(side, number, device=device)


@pytest.mark.parametrize("name, protocol", [(name, CORRECTED) for name in methods.names("stage1")] + [("gdas", PAPER)])
def test_training(name, protocol):
    truth = np.linspace(10, 94, len(NB201))
    here, there = (train(name, methods.stage1(name), NB201, images(d), BUDGET, 0, truth, progress=False, protocol=protocol)
                   for d in ("cpu", "cuda"))
    assert all(t.is_cuda for t in [*there.supernet.parameters(), *there.supernet.buffers()])
    assert there.alpha is None or not isinstance(there.alpha, torch.Tensor) or there.alpha.device.type == "cpu"
    assert there.history.keys() == here.history.keys()
    for key, values in here.history.items():
        np.testing.assert_allclose(there.history[key], values, err_msg=key, **NEAR)
    np.testing.assert_allclose(there.log_prob, here.log_prob, **NEAR)


def test_a_stopped_training_goes_on(single_precision, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    data = augmented("cuda")
    method = methods.stage1("darts")
    whole = train("darts", method, NB201, data, BUDGET, 0, progress=False)
    stops = Run.train_epoch

    def once(run, epochs):
        if run.epoch == 1:
            raise KeyboardInterrupt
        return stops(run, epochs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Run, "train_epoch", once)
        train("darts", method, NB201, data, BUDGET, 0, folder=tmp_path, progress=False)
    assert load(tmp_path / "state.pt")["epoch"] == 1
    resumed = train("darts", method, NB201, data, BUDGET, 0, folder=tmp_path, progress=False)
    np.testing.assert_allclose(resumed.history["train_loss"], whole.history["train_loss"], 1e-5)
    np.testing.assert_allclose(resumed.log_prob, whole.log_prob, 1e-5)


def augmented(device):
    """Bytes, cropped and flipped on their way into the network."""
    data, generator = images(device), torch.Generator().manual_seed(1)
    x = torch.randint(256, (128, 3, 8, 8), dtype=torch.uint8, generator=generator).to(device)
    augment = Augment(torch.full((3, 1, 1), 0.5, device=device), torch.full((3, 1, 1), 0.25, device=device), 2, True, 4)
    return tiny.changed(data, parts={"train": (x, data.parts["train"][1])}, transform=augment, plain=augment.plain)


def test_every_image_is_one_of_its_windows(single_precision):
    data = augmented("cuda")
    (x, _), a = data.halves()[0], dataclasses.replace(data.transform, cutout=0)
    y = a(x, torch.Generator("cuda").manual_seed(0))
    assert y.is_cuda
    number = len(x)
    windows = [a.plain(cut(x, 2, torch.tensor([[r] * number, [c] * number], device="cuda"), torch.full((number,), m, device="cuda")))
               for r, c, m in itertools.product(range(5), range(5), (False, True))]
    seen = torch.stack([(w == y).flatten(1).all(1) for w in windows])
    assert seen.any(0).all() and len(set(seen.int().argmax(0).tolist())) > 20
    centre = torch.tensor([[4] * number, [0] * number], device="cuda")
    torch.testing.assert_close(cutout(y.clone(), 4, centre).cpu(), cutout(y.cpu(), 4, centre.cpu()))


@pytest.mark.parametrize("rule, side", [("running", 8), ("batch", 8), ("recalibrate", 8), ("batch", 32), ("recalibrate", 32),
                                        ("running", 32)])
def test_ranking(rule, side):
    def scores(device):
        data = images(device, side)
        net = on(device, side)
        (x, _), (xv, yv) = data.halves()
        return ranking.accuracy(net, NB201.archs[::500], xv, yv, rule, batch=32, calibration=x)[1]

    np.testing.assert_allclose(scores("cuda"), scores("cpu"), **NEAR)


def on(device, side):
    """A supernet whose batch norms have seen images, the same on both devices."""
    return performance.trained(4, 1, images("cpu", side)).to(device)


def test_the_published_sweep():
    law = np.full(len(NB201), -np.log(len(NB201)))
    here, there = (sweep.published(on(d, 8), images(d), 32, True, law, sample=np.arange(0, len(NB201), 1000), progress=False)
                   for d in ("cpu", "cuda"))
    np.testing.assert_array_equal(there.score, here.score)


@pytest.mark.parametrize("training", [False, True])
def test_scores(training):
    def scored(device):
        (x, y), _ = images(device).halves()
        found = proxies.scores(on(device, 8), NB201.archs[[7, 1462, 4711, 15_000]], x, y, [n for n in proxies.NAMES if n != "zen"], training)
        return found

    here, there = scored("cpu"), scored("cuda")
    for name in here:
        np.testing.assert_allclose(there[name], here[name], err_msg=name, **NEAR)


@pytest.mark.parametrize("name", ["prune", "valid", "perturb", "evolution", "vote", "zen"])
def test_selection(name):
    def chosen(device):
        data = images(device)
        trained = train("darts", methods.stage1("darts"), NB201, data, BUDGET, 0, progress=False)
        return methods.stage2(name)(trained, data, draw(trained.log_prob, 20, 0), 0)

    here, there = chosen("cpu"), chosen("cuda")
    assert there.arch == here.arch or name == "zen"         # which draws on the device
    if here.scores is not None and name != "zen":
        np.testing.assert_allclose(there.scores, here.scores, **NEAR)


@pytest.mark.parametrize("drop_path", [0.0, 0.4])
def test_final_training(drop_path):
    recipe = Recipe(channels=2, cells=3, epochs=1, batch=16, drop_path=drop_path, auxiliary=0)

    def trained(device):
        data = images(device, 16)
        data = tiny.changed(data, parts=data.parts | {"test": data.parts["train"]})
        return train_final(cells_of(S1, "dartsm_pt"), data, recipe, 0, progress=False).train_loss

    here, there = trained("cpu"), trained("cuda")
    assert np.isfinite(there).all()
    if not drop_path:                                   # paths are dropped by the device's own numbers
        np.testing.assert_allclose(there, here, **NEAR)


@pytest.mark.parametrize("name", ["darts", "gdas", "rsps", "snas", "dirichlet"])
def test_a_weight_step_waits_for_nothing(name, single_precision):
    data = augmented("cuda")
    run = Run(methods.stage1(name), NB201, data, BUDGET, 0, None)
    (x, y), _ = data.halves()
    run.weight_step(x, y, 0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.weight_step(x, y, 0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
