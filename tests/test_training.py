"""Training against DARTS written out with its optimisers, and stopped against uninterrupted runs."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from nas_lib import checkpoint, methods, training
from nas_lib.spaces import NB201
from nas_lib.supernet import Supernet
from nas_lib.training import Budget, Stage1, TrainingError, train

DATA = tiny.data()
TRUTH = np.random.default_rng(0).permutation(27).astype(float)


def run(name, method=None, budget=tiny.BUDGET, seed=0, data=DATA, **options):
    method = methods.stage1(name) if method is None else method
    return train(name, method, tiny.SPACE, data, budget, seed, TRUTH, progress=False, **options)


def state_of(trained):
    return {"net": dict(trained.supernet.state_dict()), "alpha": trained.alpha, "probs": trained.probs,
            "log_prob": torch.from_numpy(trained.log_prob),
            "history": {k: torch.from_numpy(v) for k, v in trained.history.items()}}


def darts(data, b: Budget, seed):
    """First-order DARTS step by step: Adam with coupled decay on alpha, SGD with momentum on the weights."""
    choices, pixels = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = Supernet(tiny.SPACE, b.channels, b.cells, 3, 1)
    alpha = (1e-3 * torch.randn(3, 3, generator=choices)).requires_grad_()
    m, v, t = torch.zeros(3, 3), torch.zeros(3, 3), 0
    weights = list(net.parameters())
    momentum = [torch.zeros_like(w) for w in weights]
    x, y = data.parts["train"]
    half = len(y) // 2
    losses = []
    for epoch in range(b.epochs):
        lr = b.lr_min + (b.lr - b.lr_min) * (1 + math.cos(math.pi * epoch / b.epochs)) / 2
        total = 0
        for rows in torch.randperm(half, generator=choices).split(b.batch):
            valid = half + torch.randperm(len(y) - half, generator=choices)[:b.batch]
            loss = F.cross_entropy(net(data.augment(x[valid], pixels), alpha.softmax(-1)), y[valid])
            g = torch.autograd.grad(loss, alpha)[0] + b.alpha_weight_decay * alpha.detach()
            t += 1
            m, v = 0.5 * m + 0.5 * g, 0.999 * v + 0.001 * g**2
            with torch.no_grad():
                alpha -= b.alpha_lr * m / (1 - 0.5**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            loss = F.cross_entropy(net(data.augment(x[rows], pixels), alpha.detach().softmax(-1)), y[rows])
            total += loss.item() * len(rows)
            grads = torch.autograd.grad(loss, weights)
            norm = torch.cat([g.flatten() for g in grads]).norm()
            with torch.no_grad():
                for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
                    g = g * min(1, b.clip / norm) + b.weight_decay * w
                    momentum[i] = b.momentum * momentum[i] + g
                    w -= lr * momentum[i]
        losses.append(total / half)
    return net, alpha.detach(), losses


def test_darts_is_what_the_equations_say():
    budget = dataclasses.replace(tiny.BUDGET, clip=0.5, weight_decay=0.01, alpha_weight_decay=0.1)
    trained = run("darts", budget=budget)
    net, alpha, losses = darts(DATA, budget, seed=0)
    torch.testing.assert_close(trained.alpha, alpha, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(dict(trained.supernet.state_dict()), dict(net.state_dict()),
                               rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(trained.history["train_loss"], losses, rtol=1e-4)


@pytest.mark.parametrize("name", methods.names("stage1"))
def test_the_seed_decides_everything(name):
    first = state_of(run(name, seed=1))
    tiny.same(first, state_of(run(name, seed=1)))
    with pytest.raises(AssertionError):
        tiny.same(first, state_of(run(name, seed=2)))


def test_no_global_generator_is_used_or_moved():
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1]
    first = state_of(run("gdas"))
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    torch.manual_seed(6)
    tiny.same(first, state_of(run("gdas")))


@pytest.mark.parametrize("name, epochs", [("darts", 1), ("gdas", 2), ("rsps", 2), ("rsps+", 1)])
def test_a_stopped_run_goes_on_to_the_same_bits(name, epochs, monkeypatch, tmp_path):
    whole = run(name, folder=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, training, epochs)
        run(name, folder=tmp_path / "stopped")
    assert checkpoint.load(tmp_path / "stopped" / "state.pt")["epoch"] == epochs
    tiny.same(state_of(run(name, folder=tmp_path / "stopped")), state_of(whole))
    tiny.same(*(checkpoint.load(tmp_path / f / "state.pt") for f in ("stopped", "whole")))
    tiny.same(state_of(run(name)), state_of(whole))         # and storing changes nothing


def test_a_run_stopped_inside_an_epoch_repeats_it(monkeypatch, tmp_path):
    whole, step, calls = run("gdas"), training._Run._weight_step, []

    def dies(self, *args):
        calls.append(1)
        if len(calls) == 4:                                 # two steps per epoch: in the second
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training._Run, "_weight_step", dies)
        run("gdas", folder=tmp_path)
    tiny.same(state_of(run("gdas", folder=tmp_path)), state_of(whole))


def test_a_finished_run_is_only_loaded(monkeypatch, tmp_path):
    whole = run("darts", folder=tmp_path)
    monkeypatch.setattr(training._Run, "train_epoch", None)
    again = run("darts", folder=tmp_path)
    tiny.same(state_of(again), state_of(whole))
    assert again.seconds == whole.seconds > 0


def test_another_configuration_is_another_folder(tmp_path):
    def folder(name="darts", budget=tiny.BUDGET, seed=0, **hyper):
        method = methods.stage1(name, **hyper)
        config = training.configuration(name, method, tiny.SPACE, DATA, budget, seed)
        return training.run_folder(tmp_path, config)

    others = [folder("gdas"), folder("gdas", tau_min=0.5), folder(seed=1),
              folder(budget=dataclasses.replace(tiny.BUDGET, epochs=4))]
    assert len({folder(), *others}) == 5 and folder() == folder()
    assert folder().parent == tmp_path and folder().name.startswith("tiny-tiny-darts-s0-")


@pytest.mark.parametrize("name", ["darts", "gdas"])
def test_every_logit_learns(name):
    trained = run(name)
    start = methods.stage1(name).init(tiny.SPACE, torch.Generator().manual_seed(0), None)
    assert ((trained.alpha - start).abs() > 1e-4).all()
    assert torch.equal(trained.probs, trained.alpha.softmax(-1)) and not trained.alpha.requires_grad
    np.testing.assert_allclose(trained.history["probs_history"][-1], trained.probs)


def test_weights_learn_and_the_history_says_so():
    trained = run("rsps", budget=dataclasses.replace(tiny.BUDGET, epochs=12, lr=0.1), data=tiny.data(96))
    history = trained.history
    assert {v.shape[0] for v in history.values()} == {12}
    assert history["train_loss"][-1] < 0.7 * history["train_loss"][0]
    assert history["valid_accuracy"][-1] > 60 > 34          # a third would be chance
    assert trained.config["budget"]["epochs"] == 12 and trained.config["stage1"] == "rsps"
    torch.testing.assert_close(trained.probs, torch.full((3, 3), 1 / 3))


def test_operations_that_were_not_drawn_stay_as_they_were():
    class One(Stage1):
        learns = False

        def mix(self, space, alpha, progress, generator):
            return torch.tensor([2, 1, 0])

    method = dataclasses.dataclass(frozen=True)(One)()
    trained, before = run("one", method).supernet, run("none").supernet
    for name, weight in trained.named_parameters():
        drawn = ".edges." not in name or ".edges.1<-0." in name
        assert torch.equal(weight, before.get_parameter(name)) != drawn, name


def test_the_alpha_step_leaves_the_weights_and_the_weight_step_alpha():
    step = training._Run(methods.stage1("darts"), tiny.SPACE, DATA, tiny.BUDGET, 0, None)
    weights, alpha = copy.deepcopy(list(step.net.parameters())), step.alpha.detach().clone()
    step._architecture_step(0.0)
    assert all(torch.equal(a, b) for a, b in zip(weights, step.net.parameters(), strict=True))
    assert all(p.grad is None for p in step.net.parameters())
    assert (step.alpha != alpha).all()
    alpha = step.alpha.detach().clone()
    step._weight_step(*(t[:8] for t in step.train_half), 0.0)
    assert torch.equal(step.alpha, alpha) and step.alpha.grad is None
    assert all((a != b).any() for a, b in zip(weights, step.net.parameters(), strict=True))


def test_each_half_serves_its_own_step():
    seen = []
    numbered = {k: (torch.arange(len(y)).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).float(), y)
                for k, (_, y) in DATA.parts.items()}

    def watched(x, generator):
        seen.append(x)
        return DATA.transform(x, generator)

    data = tiny.changed(DATA, parts=numbered, transform=watched)
    step = training._Run(methods.stage1("darts"), tiny.SPACE, data, tiny.BUDGET, 0, None)
    step.train_epoch(1)
    ids = [x[:, 0, 0, 0].tolist() for x in seen]
    assert [len(i) for i in ids] == [8, 8, 8, 8, 16]        # alpha, weights, alpha, weights, validation
    assert sorted(ids[1] + ids[3]) == list(range(16))
    assert all(set(i) <= set(range(16, 32)) for i in (ids[0], ids[2])) and ids[4] == list(range(16, 32))


def test_validation_leaves_no_trace():
    step = training._Run(methods.stage1("darts"), tiny.SPACE, DATA, tiny.BUDGET, 0, None)
    before = copy.deepcopy(step.net.state_dict())
    step._validate(1)
    tiny.same(dict(before), dict(step.net.state_dict()))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(tmp_path, monkeypatch):
    blown = tiny.changed(DATA, transform=lambda x, g: x * float("inf"))
    with pytest.raises(TrainingError, match=r"not finite in epoch 0; lower the learning rate \(0.025\)"):
        run("rsps", data=blown, folder=tmp_path)
    assert not (tmp_path / "state.pt").exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, training, 1)
        run("rsps", folder=tmp_path)
    good = checkpoint.load(tmp_path / "state.pt")
    with pytest.raises(TrainingError, match="in epoch 1"):
        run("rsps", data=blown, folder=tmp_path)
    tiny.same(good, checkpoint.load(tmp_path / "state.pt"))


def test_a_state_is_never_taken_for_another_runs(tmp_path):
    run("rsps", folder=tmp_path)
    kept = (tmp_path / "config.json").read_text()
    with pytest.raises(checkpoint.CheckpointError, match="belongs to another run"):
        run("rsps", folder=tmp_path, seed=7)
    assert (tmp_path / "config.json").read_text() == kept


@pytest.mark.parametrize("name", ["none", "none+"])
def test_without_a_stage_1_nothing_trains(name):
    trained = run(name)
    torch.manual_seed(0)
    net = Supernet(tiny.SPACE, tiny.BUDGET.channels, tiny.BUDGET.cells, 3, 1)
    tiny.same(dict(trained.supernet.state_dict()), dict(net.state_dict()))
    assert trained.history == {} and trained.seconds == 0


@pytest.mark.parametrize("informed", [True, False])
def test_truth_is_shown_to_informed_methods_alone(informed):
    shown = []

    class Method(Stage1):
        learns = trains = False

        def init(self, space, generator, truth):
            shown.append(truth)
            return torch.zeros(3, 3)

    Method.informed = informed
    run("probe", dataclasses.dataclass(frozen=True)(Method)())
    assert len(shown) == 1 and (shown[0] is TRUTH if informed else shown[0] is None)


def test_only_the_two_oracle_baselines_are_informed():
    assert [n for n in methods.names("stage1") if methods.stage1(n).informed] == ["none+", "rsps+"]


def test_the_penalty_enters_the_alpha_step():
    class Pulled(type(methods.stage1("darts"))):
        def penalty(self, alpha):
            return 100 * alpha[:, 2].sum()

    free, pulled = run("darts"), run("darts", Pulled())
    assert (pulled.alpha[:, 2] < free.alpha[:, 2] - 0.02).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here")
def test_a_stopped_run_goes_on_on_an_accelerator(monkeypatch, tmp_path):
    device = torch.accelerator.current_accelerator()
    parts = {k: (x.to(device), y.to(device)) for k, (x, y) in DATA.parts.items()}

    def transform(x, generator):
        return x + 0.5 * torch.randn(x.shape, generator=generator, device=device)

    there = tiny.changed(DATA, device=device, parts=parts, transform=transform)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, training, 2)
        run("darts", data=there, folder=tmp_path)
    trained = run("darts", data=there, folder=tmp_path)
    assert len(trained.history["train_loss"]) == 3 and trained.alpha.device.type == "cpu"


def test_defaults_are_the_published_ones():
    assert dataclasses.asdict(Budget()) == {
        "channels": 16, "cells": 5, "epochs": 100, "batch": 64, "lr": 0.025, "lr_min": 0.001, "momentum": 0.9,
        "weight_decay": 3e-4, "clip": 5.0, "alpha_lr": 3e-4, "alpha_weight_decay": 1e-3}
    alpha = methods.stage1("darts").init(NB201, torch.Generator().manual_seed(0), None)
    assert alpha.shape == (6, 5) and 5e-4 < alpha.std() < 2e-3
