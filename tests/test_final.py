"""Final training against the recipe written out, and stopped against uninterrupted ones."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from nas_lib import checkpoint, experiments, final
from nas_lib.final import Recipe, Training, cells_of, recipe_of, train_final
from nas_lib.networks import PairNetwork
from nas_lib.ops import draw_from
from nas_lib.spaces import S0, S1, S4
from nas_lib.spaces.published_cells import CELLS
from nas_lib.training import TrainingError

RECIPE = Recipe(channels=2, cells=3, epochs=3, batch=5, lr=0.1, drop_path=0.4, clip=0.5)


def data(side=32, n=8):
    """A class each for four patterns; images of the side that the second classifier wants."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(3, 1, side, side, generator=generator)
    parts = {}
    for part, count in (("train", n), ("test", 6)):
        y = torch.arange(count) % 3
        parts[part] = patterns[y], y
    return tiny.changed(tiny.data(), shape=(1, side, side), parts=parts)


DATA = data()
CELLS_1 = cells_of(S1, "dartsm_pt")


def by_hand(cells, r, seed):
    """The recipe with torch's own optimiser and schedule; the test error after every epoch."""
    order, pixels = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PairNetwork(cells, r.channels, r.cells, 3, 1, auxiliary=r.auxiliary > 0, pool_norm=r.pool_norm)
    draw_from(net, pixels)
    sgd = torch.optim.SGD(net.parameters(), r.lr, momentum=r.momentum, weight_decay=r.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, r.epochs, r.lr_min)
    (x, y), errors = DATA.parts["train"], []
    for epoch in range(r.epochs):
        net.train().drop_path = r.drop_path * epoch / r.epochs
        for rows in torch.randperm(len(y), generator=order).split(r.batch):
            out, second = net.both(DATA.augment(x[rows], pixels))
            loss = F.cross_entropy(out, y[rows]) + 0.4 * F.cross_entropy(second, y[rows])
            sgd.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), r.clip)
            sgd.step()
        schedule.step()
        xt, yt = DATA.fixed("test")
        with torch.no_grad():
            errors.append(100 * (net.eval()(xt).argmax(1) != yt).double().mean().item())
    return net, errors


def test_the_recipe_is_what_it_says():
    net, errors = by_hand(CELLS_1, RECIPE, seed=4)
    run = Training(CELLS_1, DATA, RECIPE, seed=4)
    for _ in range(RECIPE.epochs):
        run.train_epoch()
    torch.testing.assert_close(dict(run.net.state_dict()), dict(net.state_dict()), rtol=1e-4, atol=1e-5)
    assert run.history["error"] == pytest.approx(errors) and run.net.drop_path == pytest.approx(0.4 * 2 / 3)
    found = train_final(CELLS_1, DATA, RECIPE, 4, progress=False)
    assert found.error.values.tolist() == run.history["error"] and found.epoch.values.tolist() == [1, 2, 3]
    assert found.last == found.error[-1] and found.seconds > 0


def test_the_last_error_and_the_best_are_two(monkeypatch):
    monkeypatch.setattr(Training, "_error", lambda self: [30.0, 10.0, 20.0][self.epoch])
    found = train_final(CELLS_1, DATA, RECIPE, 0, progress=False)
    assert (found.last, found.best) == (20.0, 10.0)


@pytest.mark.parametrize("space, name, recipe", [
    (S1, "dartsm_pt", RECIPE), (S4, "dartsm", replace(RECIPE, auxiliary=0.0, pool_norm=True))], ids=["s1", "noise"])
def test_a_killed_training_ends_with_the_same_weights(space, name, recipe, monkeypatch, tmp_path):
    """And with the same momentum, generators and history: the whole state is the same to the bit (D17)."""
    cells, before = cells_of(space, name), torch.get_rng_state()
    whole = train_final(cells, DATA, recipe, 0, tmp_path / "whole.pt", progress=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 1)
        train_final(cells, DATA, recipe, 0, tmp_path / "part.pt", progress=False)
    assert checkpoint.load(tmp_path / "part.pt")["epoch"] == 1
    again = train_final(cells, DATA, recipe, 0, tmp_path / "part.pt", progress=False)
    states = [checkpoint.load(tmp_path / f"{n}.pt") for n in ("whole", "part")]
    tiny.same(*states)
    assert states[0]["sgd"]["state"] and again.drop_vars("seconds").equals(whole.drop_vars("seconds"))
    assert torch.equal(before, torch.get_rng_state()), "the global generator is not to be used"
    other = train_final(cells, DATA, recipe, 1, progress=False)
    assert (other.train_loss != whole.train_loss).all()


def by_experiment(cache):
    """Six epochs on digits as a notebook has them, stored in ``cache`` after each; the state at the end."""
    recipe = {"channels": 1, "cells": 3, "epochs": 6, "batch": 512, "lr": 0.1, "auxiliary": 0, "drop_path": 0.3}
    setup = experiments.Setup(space="s4", data="digits", cache=str(cache))
    experiments.final(setup, cache / "out.nc", "dartsm", [0], recipe | {"cutout": 0})
    return checkpoint.load(next(cache.glob("final-*/s0.pt")))


def test_a_process_killed_in_its_middle_ends_with_the_same_weights(tmp_path):
    code = ("from pathlib import Path; from nas_lib import checkpoint; checkpoint.EVERY = 0.0; import test_final; "
            f"test_final.by_experiment(Path({str(tmp_path / 'part')!r}))")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list(tmp_path.glob("part/final-*/s0.pt")):
            time.sleep(0.01)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < checkpoint.load(next(tmp_path.glob("part/final-*/s0.pt")))["epoch"] < 6
    tiny.same(by_experiment(tmp_path / "whole"), by_experiment(tmp_path / "part"))


def test_a_finished_training_is_only_read(monkeypatch, tmp_path):
    once = train_final(CELLS_1, DATA, RECIPE, 0, tmp_path / "s.pt", progress=False)
    monkeypatch.setattr(Training, "train_epoch", lambda self: pytest.fail("trained again"))
    assert train_final(CELLS_1, DATA, RECIPE, 0, tmp_path / "s.pt", progress=False).equals(once)
    with pytest.raises(checkpoint.CheckpointError, match="another run"):
        train_final(CELLS_1, DATA, replace(RECIPE, lr=0.2), 0, tmp_path / "s.pt", progress=False)


def test_a_loss_that_is_not_finite_stops():
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train_final(CELLS_1, DATA, replace(RECIPE, lr=1e30, clip=1e30), 0, progress=False)


def test_published_recipes():
    table1, table3 = recipe_of(S1), recipe_of(S0)
    assert (table1.epochs, table1.batch, table1.drop_path, table1.pool_norm) == (600, 96, 0.2, False)
    assert (table3.epochs, table3.batch, table3.drop_path, table3.pool_norm) == (600, 64, 0.3, True)
    for r in (table1, table3):
        assert (r.channels, r.cells, r.lr, r.lr_min, r.momentum, r.weight_decay, r.clip) == (36, 20, 0.025, 0, 0.9, 3e-4, 5)
        assert (r.auxiliary, r.cutout) == (0.4, 16)


@pytest.mark.parametrize("space", [S0, S1, S4], ids=lambda s: s.name)
def test_published_cells_go_by_name_and_others_by_text(space):
    for name, text in CELLS[space.name].items():
        cells = cells_of(space, name)
        assert cells_of(space, text) == cells == cells_of(space, repr(cells)) == space.genotype(space.parse(text))


@pytest.mark.parametrize("wrong, says", [
    ("darts 13 prune", "not among the published cells of s0: darts 10 prune, "), ("s0 s1 / s0", "no pair of cells"),
    ("n0 s1 s0 s1 s0 s1 s0 s1 / s0 s1 s0 s1 s0 s1 s0 s1", "noise .* is not in s0")])
def test_what_is_no_cell_says_so(wrong, says):
    with pytest.raises(ValueError, match=says):
        cells_of(S0, wrong)


@pytest.mark.parametrize("change", [{"epochs": 0}, {"cells": 2}, {"batch": 1.5}, {"lr": -1}, {"drop_path": 1},
                                    {"pool_norm": 1}, {"clip": True}, {"lr": "high"}])
def test_an_impossible_recipe(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Recipe(**change)


def test_the_learning_rate_falls_to_its_end():
    run = Training(CELLS_1, DATA, replace(RECIPE, lr_min=0.01), 0)
    rates = []
    for _ in range(3):
        run.train_epoch()
        rates.append(run.sgd.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [0.01 + 0.09 * (1 + math.cos(math.pi * e / 3)) / 2 for e in range(3)])
    assert final.SGD is type(run.sgd)
