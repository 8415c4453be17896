"""Training against DARTS written out with its optimisers, and stopped against uninterrupted runs."""

import copy
import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from nas_lib import checkpoint, methods, steps, training
from nas_lib.protocol import CORRECTED
from nas_lib.spaces import NB201, Space
from nas_lib.supernet import Supernet
from nas_lib.training import Budget, Stage1, TrainingError, train
from nas_lib.unrolled import unrolled_gradient

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


FLAGS = {"clip_alpha": True}, {"drop_gradients": True}, {"untrained_cells": True}


@pytest.mark.parametrize("name, flags", [("darts", {}), ("rsps", {}), *(("gdas", f) for f in FLAGS)])
def test_a_stopped_run_goes_on_to_the_same_bits(name, flags, monkeypatch, tmp_path):
    """Every method, under every rule of training; test_methods stops them all under the default."""
    protocol, budget = dataclasses.replace(CORRECTED, **flags), dataclasses.replace(tiny.BUDGET, clip=0.1)
    whole = run(name, budget=budget, folder=tmp_path / "whole", protocol=protocol)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 1)
        run(name, budget=budget, folder=tmp_path / "stopped", protocol=protocol)
    assert checkpoint.load(tmp_path / "stopped" / "state.pt")["epoch"] == 1
    tiny.same(state_of(run(name, budget=budget, folder=tmp_path / "stopped", protocol=protocol)), state_of(whole))
    tiny.same(*(checkpoint.load(tmp_path / f / "state.pt") for f in ("stopped", "whole")))
    tiny.same(state_of(run(name, budget=budget, protocol=protocol)), state_of(whole))   # storing changes nothing
    if flags:
        with pytest.raises(AssertionError):
            tiny.same(state_of(run(name, budget=budget)), state_of(whole))
    assert whole.protocol is protocol


def test_a_run_stopped_inside_an_epoch_repeats_it(monkeypatch, tmp_path):
    whole, step, calls = run("gdas"), training.Run.weight_step, []

    def dies(self, *args):
        calls.append(1)
        if len(calls) == 4:                                 # two steps per epoch: in the second
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.Run, "weight_step", dies)
        run("gdas", folder=tmp_path)
    tiny.same(state_of(run("gdas", folder=tmp_path)), state_of(whole))


def test_a_finished_run_is_only_loaded(monkeypatch, tmp_path):
    whole = run("darts", folder=tmp_path)
    monkeypatch.setattr(training.Run, "train_epoch", None)
    again = run("darts", folder=tmp_path)
    tiny.same(state_of(again), state_of(whole))
    assert again.seconds == whole.seconds > 0


def test_another_configuration_is_another_folder(tmp_path):
    def folder(name="darts", budget=tiny.BUDGET, seed=0, flags=None, **hyper):
        method, protocol = methods.stage1(name, **hyper), dataclasses.replace(CORRECTED, **flags or {})
        config = training.configuration(name, method, tiny.SPACE, DATA, budget, seed, protocol)
        return training.run_folder(tmp_path, config)

    others = [folder("gdas"), folder("gdas", tau_min=0.5), folder(seed=1), *(folder(flags=f) for f in FLAGS),
              folder(budget=dataclasses.replace(tiny.BUDGET, epochs=4))]
    assert len({folder(), *others}) == 8
    assert folder() == folder(flags={"rank_bn": "running", "shared_draw": True})    # these do not concern training
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
    assert history["valid_accuracy"][-4:].mean() > 50 > 34      # a third would be chance; cells drawn at random
    assert trained.config["budget"]["epochs"] == 12 and trained.config["stage1"] == "rsps"
    torch.testing.assert_close(trained.probs, torch.full((3, 3), 1 / 3))


def test_operations_that_were_never_drawn_stay_as_they_were():
    class One(Stage1):
        learns = False

        def mix(self, space, alpha, progress, generator):
            return torch.tensor([2, 1, 0])

    method = dataclasses.dataclass(frozen=True)(One)()
    trained, before = run("one", method).supernet, run("none").supernet
    for name, weight in trained.named_parameters():
        drawn = ".edges." not in name or ".edges.1<-0." in name
        assert torch.equal(weight, before.get_parameter(name)) != drawn, name


def begun(method=None, data=DATA, budget=tiny.BUDGET, **flags):
    method = methods.stage1("darts") if method is None else method
    return training.Run(method, tiny.SPACE, data, budget, 0, None,
                         dataclasses.replace(CORRECTED, **flags))


def batches(step):
    return [t[:8] for t in step.valid_half], [t[:8] for t in step.train_half]


def test_the_alpha_step_leaves_the_weights_and_the_weight_step_alpha():
    step = begun()
    valid, train_ = batches(step)
    weights, alpha = copy.deepcopy(list(step.net.parameters())), step.alpha.detach().clone()
    step.architecture_step(*valid, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(weights, step.net.parameters(), strict=True))
    assert all(p.grad is None for p in step.net.parameters())
    assert (step.alpha != alpha).all()
    alpha = step.alpha.detach().clone()
    step.weight_step(*train_, 0.0)
    assert torch.equal(step.alpha, alpha) and step.alpha.grad is None
    assert all((a != b).any() for a, b in zip(weights, step.net.parameters(), strict=True))


@pytest.mark.parametrize("drop", [False, True])
def test_an_operation_drawn_once_goes_on_moving_unless_gradients_are_dropped(drop, monkeypatch):
    """Rule N3: the second step gives the operation of the first no gradient, only decay and momentum."""
    step = begun(methods.stage1("rsps"), drop_gradients=drop)
    _, train_ = batches(step)
    archs = iter([[2, 2, 2], [2, 1, 1]])
    monkeypatch.setattr(type(step.method), "mix", lambda *_: torch.tensor(next(archs)))
    step.weight_step(*train_, 0.0)
    weight = step.net.cells[0].edges["2<-0"][2].op[1].weight
    before, momentum = weight.detach().clone(), step.sgd.state[weight]["momentum_buffer"].clone()
    step.weight_step(*train_, 0.0)
    moved = before - 0.025 * (0.9 * momentum + 3e-4 * before)
    torch.testing.assert_close(weight.detach(), before if drop else moved, rtol=0, atol=1e-8)


class Steep(type(methods.stage1("darts"))):
    """DARTS whose alpha has a gradient that matters beside that of the weights."""

    def mix(self, space, alpha, progress, generator):
        return (50 * alpha).softmax(-1)


@pytest.mark.parametrize("included", [False, True])
def test_the_clipped_norm_includes_the_gradient_of_alpha_where_asked(included):
    """Rule N5. alpha itself takes no step of SGD."""
    step = begun(Steep(), budget=dataclasses.replace(tiny.BUDGET, clip=0.01), clip_alpha=included)
    _, (x, y) = batches(step)
    twin, alpha = copy.deepcopy(step.net), step.alpha.detach().clone().requires_grad_()
    seen = DATA.augment(x, torch.Generator().manual_seed(0))
    F.cross_entropy(twin(seen, (50 * alpha).softmax(-1)), y).backward()
    norms = torch.stack([p.grad.norm() for p in [*twin.parameters(), alpha]])
    assert norms.norm() > 1.1 * norms[:-1].norm()
    step.weight_step(x, y, 0.0)
    scale = 0.01 / (norms if included else norms[:-1]).norm()
    torch.testing.assert_close(step.net.stem[0].weight.grad, twin.stem[0].weight.grad * scale, rtol=1e-4, atol=0)
    assert torch.equal(step.alpha, alpha) and step.alpha.grad is None


def test_untrained_cells_gather_gradient_and_never_move():
    """Defect D27: gradients of cells and reductions pile up over steps of alpha and of the weights."""
    step, correct = begun(untrained_cells=True), begun()
    before, piled = copy.deepcopy(step.net), []
    for each in (step, correct):
        valid, train_ = batches(each)
        each.architecture_step(*valid, 0.0)
        piled.append([0 if p.grad is None else p.grad.clone() for p in each.weights])
        each.weight_step(*train_, 0.0)
    for (name, p), q, g in zip(step.net.named_parameters(), correct.weights, piled[0], strict=True):
        inside = name.startswith("cells.")
        assert torch.equal(p, before.get_parameter(name)) == inside, name
        torch.testing.assert_close(p.grad, q.grad + inside * g, rtol=1e-4, atol=1e-6)
        assert (g != 0).any()
    assert piled[1] == [0] * len(correct.weights)
    wide = tiny.changed(DATA, classes=10, shape=(3, 8, 8))
    known = training.Run(methods.stage1("darts"), NB201, wide, Budget(), 0, None, step.protocol).sgd
    assert sum(p.numel() for group in known.param_groups for p in group["params"]) == 1242     # as published


def test_the_unrolled_gradient_is_that_through_one_step():
    """Against autograd through ``w - lr (mu buf + dL/dw + decay w)``, in float64.

    Without kinks: second derivatives of ReLU are 0 to autograd, but not to differences.
    """
    net, alpha = tiny.supernet(), torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for m in list(net.modules()):
        for name, child in m.named_children():
            if isinstance(child, torch.nn.ReLU):
                setattr(m, name, torch.nn.Softplus())
    net.fuse, (x, y), (xv, yv) = False, tiny.images(8, 1), tiny.images(8, 2)
    alpha.requires_grad_()
    sgd = torch.optim.SGD(net.parameters(), 0.3, 0.9, weight_decay=0.01)
    own = dict(net.named_parameters())

    def loss(x, y, weights):
        out = torch.func.functional_call(net, weights, (x, alpha.softmax(-1)))
        return F.cross_entropy(out, y)

    loss(xv, yv, own).backward()                                # one step, so that there is momentum
    sgd.step()
    before = copy.deepcopy(net)
    gradients = torch.autograd.grad(loss(x, y, own), own.values(), create_graph=True)
    ahead = {n: w - 0.3 * (0.9 * sgd.state[w]["momentum_buffer"] + g + 0.01 * w)
             for (n, w), g in zip(own.items(), gradients, strict=True)}
    exact, = torch.autograd.grad(loss(xv, yv, ahead), alpha)
    first, = torch.autograd.grad(loss(xv, yv, {n: w.detach() for n, w in ahead.items()}), alpha)
    found = unrolled_gradient(alpha, sgd, lambda: loss(x, y, own), lambda: loss(xv, yv, own))
    torch.testing.assert_close(found, exact, rtol=1e-2, atol=2e-6)
    assert (first - exact).norm() > 0.3 * exact.norm(), "the second-order term must be visible"
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before.parameters(), strict=True))


def test_unrolled_darts_learns_from_the_step_ahead():
    plain, ahead = run("darts"), run("darts", methods.stage1("darts", unrolled=True))
    assert (plain.alpha != ahead.alpha).all()


def test_progress_is_the_fraction_of_the_epochs_that_are_over():
    seen = []

    class Watched(type(methods.stage1("darts"))):
        def mix(self, space, alpha, progress, generator):
            seen.append(progress)
            return super().mix(space, alpha, progress, generator)

    run("watched", Watched())
    assert seen == [e / 3 for e in range(3) for _ in range(6)]      # two steps of alpha and weights, two batches seen


def test_looking_at_the_accuracy_changes_nothing(monkeypatch):
    whole = run("gdas")
    monkeypatch.setattr(training.Run, "_validate", lambda self, at: 0.0)
    tiny.same(dict(run("gdas").supernet.state_dict()), dict(whole.supernet.state_dict()))


def test_five_steps_of_the_published_code():
    """Losses, logits and weights of five DARTS steps, each on its own two batches."""
    folder = os.environ.get("NAS_ORACLE")
    if not folder:
        pytest.skip("set NAS_ORACLE to the folder that holds oracle_nb201.npz")
    oracle = {k: torch.from_numpy(v) for k, v in np.load(Path(folder) / "oracle_nb201.npz").items()}
    state = {k.removeprefix("sd/"): v for k, v in oracle.items() if k.startswith("sd/")}
    data = tiny.changed(DATA, classes=10, shape=(3, 16, 16), transform=lambda x, g: x)
    step = training.Run(methods.stage1("darts"), NB201, data, Budget(channels=4, cells=1), 0, None,
                         dataclasses.replace(CORRECTED, clip_alpha=True))
    with torch.no_grad():
        step.alpha.copy_(state.pop("_arch_parameters"))
    step.net.load_state_dict(state)
    losses = []
    for (x, xv), (y, yv) in zip(oracle["steps/x"], oracle["steps/y"], strict=True):
        step.architecture_step(xv, yv, 0.0)
        losses.append(step.weight_step(x, y, 0.0)[0])
    for found, name in ((torch.stack(losses), "losses"), (step.alpha, "alpha"), (step.net.stem[0].weight, "stem"),
                        (step.net.classifier.weight, "classifier")):
        torch.testing.assert_close(found.detach(), oracle[f"steps/{name}"].float(), rtol=1e-4, atol=1e-5)


def test_each_half_serves_its_own_step():
    seen = []
    numbered = {k: (torch.arange(len(y)).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).float(), y)
                for k, (_, y) in DATA.parts.items()}

    def watched(x, generator):
        seen.append(x)
        return DATA.transform(x, generator)

    data = tiny.changed(DATA, parts=numbered, transform=watched)
    step = begun(data=data)
    step.train_epoch(1)
    ids = [x[:, 0, 0, 0].tolist() for x in seen]
    assert [len(i) for i in ids] == [8, 8, 8, 8, 16]        # alpha, weights, alpha, weights, validation
    assert sorted(ids[1] + ids[3]) == list(range(16))
    assert all(set(i) <= set(range(16, 32)) for i in (ids[0], ids[2])) and ids[4] == list(range(16, 32))


def test_validation_leaves_no_trace():
    step = begun()
    before = copy.deepcopy(step.net.state_dict())
    step._validate(0.0)
    tiny.same(dict(before), dict(step.net.state_dict()))


def test_the_step_that_diverged_is_named():
    step, calls = begun(budget=dataclasses.replace(tiny.BUDGET, batch=4)), []
    one = step.weight_step

    def diverges(x, y, at):
        calls.append(1)
        found = one(x, y, at)
        return found * float("nan") if len(calls) > 2 else found

    step.weight_step = diverges
    assert math.isnan(step.train_epoch(3)) and step.diverged == 2 and len(calls) == 4


def test_out_of_gpu_memory_names_what_to_lower_and_keeps_the_state(tmp_path, monkeypatch):
    whole, real, calls = run("darts"), training.Run.weight_step, []

    def full(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(training.Run, "weight_step", full)
        with pytest.raises(TrainingError, match=r"darts: out of GPU memory in epoch 1; lower batch \(8\) or channels \(2\)"):
            run("darts", folder=tmp_path)
    tiny.same(state_of(run("darts", folder=tmp_path)), state_of(whole))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(tmp_path, monkeypatch):
    blown = tiny.changed(DATA, transform=lambda x, g: x * float("inf"))
    with pytest.raises(TrainingError, match=r"not finite in epoch 0, step [01]; lower the learning rate \(0.025\)"):
        run("rsps", data=blown, folder=tmp_path)
    assert not (tmp_path / "state.pt").exists()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 1)
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


def test_only_the_oracle_baselines_are_informed():
    assert [n for n in methods.names("stage1") if methods.stage1(n).informed] == ["none+", "rsps+", "rsps2"]


def test_the_penalty_enters_the_alpha_step():
    class Pulled(type(methods.stage1("darts"))):
        def penalty(self, alpha):
            return 100 * alpha[:, 2].sum()

    free, pulled = run("darts"), run("darts", Pulled())
    assert (pulled.alpha[:, 2] < free.alpha[:, 2] - 0.02).all()


def test_alpha_of_darts_moves_to_the_better_operation_of_a_supernet():
    """Stripes that only tell their class at full resolution: the identity keeps them, a pool does not."""
    space = Space("two", nodes=2, ops=("skip_connect", "avg_pool_3x3"))
    generator = torch.Generator().manual_seed(0)
    row = torch.tensor([1.0, -1.0]).repeat(4)
    stripes = torch.stack([row.expand(8, 8), row[:, None].expand(8, 8), torch.zeros(8, 8)])[:, None]
    y = torch.randint(3, (64,), generator=generator)

    def transform(x, g):
        brightness = 3 * torch.randn(len(x), 1, 1, 1, generator=g)
        return x * torch.randint(2, (len(x), 1, 1, 1), generator=g).mul(2).sub(1) + brightness

    data = tiny.changed(DATA, parts={"train": (stripes[y], y)}, transform=transform)
    budget = Budget(channels=4, cells=1, epochs=12, batch=16, lr=0.1, alpha_lr=0.02)
    probs = [train("darts", methods.stage1("darts"), space, data, budget, seed, progress=False).probs
             for seed in (0, 1, 2)]
    assert torch.stack(probs)[..., 0].mean() > 0.6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator here")
def test_a_stopped_run_goes_on_on_an_accelerator(monkeypatch, tmp_path):
    device = torch.accelerator.current_accelerator()
    parts = {k: (x.to(device), y.to(device)) for k, (x, y) in DATA.parts.items()}

    def transform(x, generator):
        return x + 0.5 * torch.randn(x.shape, generator=generator, device=device)

    there = tiny.changed(DATA, device=device, parts=parts, transform=transform)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 2)
        run("darts", data=there, folder=tmp_path)
    trained = run("darts", data=there, folder=tmp_path)
    assert len(trained.history["train_loss"]) == 3 and trained.alpha.device.type == "cpu"


def test_defaults_are_the_published_ones():
    assert dataclasses.asdict(Budget()) == {
        "channels": 16, "cells": 5, "epochs": 100, "batch": 64, "lr": 0.025, "lr_min": 0.001, "momentum": 0.9,
        "weight_decay": 3e-4, "clip": 5.0, "alpha_lr": 3e-4, "alpha_weight_decay": 1e-3,
        "partial": 1, "precision": "float32"}
    alpha = methods.stage1("darts").init(NB201, torch.Generator().manual_seed(0), None)
    assert alpha.shape == (6, 5) and 5e-4 < alpha.std() < 2e-3


@pytest.mark.parametrize("name, options", [("SGD", {"momentum": 0.9, "weight_decay": 0.1, "foreach": True}),
                                           ("Adam", {"betas": (0.5, 0.999), "weight_decay": 0.1})])
def test_the_optimizers_are_those_of_torch(name, options):
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for optimizer in (getattr(torch.optim, name), getattr(steps, name)):
        w = start.clone().requires_grad_()
        descent = optimizer([w], lr=0.1, **options)
        for k in range(4):
            descent.zero_grad(set_to_none=False)
            (k * w**3).sum().backward()
            descent.step()
        found.append((w.detach(), descent.state_dict()))
    tiny.same(found[0][0], found[1][0])
    tiny.same(found[0][1], found[1][1])


@pytest.mark.parametrize("name", ["darts", "rsps"])
def test_bfloat16_is_close_recorded_and_not_the_default(name):
    full, half = (run(name, budget=dataclasses.replace(tiny.BUDGET, precision=p)) for p in ("float32", "bfloat16"))
    assert "precision" not in full.config["budget"] and half.config["budget"]["precision"] == "bfloat16"
    assert all(p.dtype == torch.float32 for p in half.supernet.parameters())
    a, b = (t.history["train_loss"] for t in (full, half))
    assert 1e-6 < np.abs(a - b).max() < 0.3 and b[-1] < b[0]
