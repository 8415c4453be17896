"""Passes as recorded graphs, against passes kernel by kernel: on a CUDA device, and on the CPU with pretended graphs."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F

import recorder
from nas_lib import graphed, methods, performance
from nas_lib.protocol import PAPER
from nas_lib.spaces import NB201
from nas_lib.steps import Run
from nas_lib.supernet import Supernet
from nas_lib.training import Budget, train

NEAR = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(params=["pretended", "cuda"])
def device(request, monkeypatch):
    """Everything in float64, for comparison; such supernets are not compiled on a CPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if request.param == "pretended":
        recorder.pretend(monkeypatch)
    monkeypatch.setattr(graphed, "TIMES", 0)
    torch.set_default_dtype(torch.float64)
    yield {"pretended": "cpu"}.get(request.param, request.param)
    torch.set_default_dtype(torch.float32)


def sides(device, number=32):
    """A supernet, its plain twin, and two halves of images."""
    data = performance.noise(8, number, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Supernet(NB201, 4, 1, 10, 3).to(device).train()
    plain = copy.deepcopy(net)
    plain.compiled = False
    return net, plain, *data.halves()


def seen(net, x, y, w, weights, beside=False):
    """Loss, its gradients by the ``weights`` or else by the mixing weights, and what batch norms have stored after it."""
    w = w.clone().requires_grad_(not weights or beside)
    for p in net.parameters():
        p.requires_grad_(weights)
    loss = F.cross_entropy(net(x, w), y)
    found = torch.autograd.grad(loss, [t for t in (w, *net.parameters()) if t.requires_grad])
    return [t.detach().clone() for t in (loss, *found, *net.buffers())]


def equal(a, b):
    for one, two in zip(a, b, strict=True):
        torch.testing.assert_close(one, two, **NEAR)


def test_as_kernel_by_kernel(device):
    net, plain, (x, y), (xv, yv) = sides(device)
    generator = torch.Generator().manual_seed(0)
    for shown, labels in [(x, y), (xv, yv), (x[:20], y[:20]), (xv, yv)]:
        w = torch.rand(6, 5, generator=generator) + 0.1
        for which in ((True,), (False,), (True, True)):
            equal(seen(net, shown, labels, w, *which), seen(plain, shown, labels, w, *which))
        with torch.no_grad():                                                   # a step
            for p, q in zip(net.parameters(), plain.parameters(), strict=True):
                step = torch.randn(p.shape, generator=generator).to(p.device) * 0.01
                p += step
                q += step
    assert len(graphed._recorded[net].graphs) == 6 and plain not in graphed._recorded      # two sizes, three ways back


def test_gradients_add_up_and_the_one_before_stays(device):
    net, plain, (x, y), _ = sides(device)
    w, found = torch.full((6, 5), 0.2), []
    for side in (net, plain):
        for _ in range(2):
            F.cross_entropy(side(x, w), y).backward()
        mine = torch.autograd.grad(F.cross_entropy(side(x, w), y), side.stem[0].weight)[0]
        before = mine.clone()
        F.cross_entropy(side(x.flip(0) * 2, w), y).backward()
        assert torch.equal(mine, before)
        for p in side.parameters():
            p.grad.zero_()                                                      # in place, as a weight step does
        F.cross_entropy(side(x, w), y).backward()
        found.append([mine, *(p.grad for p in side.parameters())])
    equal(*found)


def test_a_pass_that_is_still_to_go_back_keeps_its_graphs(device):
    net, plain, (x, y), (xv, yv) = sides(device)
    w, found = torch.full((6, 5), 0.2), []
    for side in (net, plain):
        for _ in range(2):
            first = F.cross_entropy(side(x, w), y)
            (F.cross_entropy(side(xv, w), yv) + F.cross_entropy(side(xv[:9], w), yv[:9]) + first).backward()
        found.append([p.grad for p in side.parameters()])
    equal(*found)
    assert len(graphed._recorded[net].graphs) == 1      # nothing was recorded in between
    net(x, w)                                           # never goes back, and is in nobody's way
    (graphs,) = graphed._recorded[net].graphs.values()
    assert graphs.taken() is None


def test_one_way_back_only(device):
    net, _, (x, y), _ = sides(device)
    loss = F.cross_entropy(net(x, torch.full((6, 5), 0.2)), y)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="net.compiled = False"):
        loss.backward()
    w = torch.full((6, 5), 0.2, requires_grad=True)
    (slope,) = torch.autograd.grad(F.cross_entropy(net(x, w), y), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_passes_that_do_not_go_back(device):
    """As in the trials of ``perturb``: without a gradient, and without some operations."""
    net, plain, (x, y), (xv, yv) = sides(device)
    for missing in range(3):
        w = torch.full((6, 5), 0.2)
        w[missing, :missing + 1] = 0
        for shown in (x, xv, x * 2):
            with torch.no_grad():
                equal([net(shown, w), *net.buffers()], [plain(shown, w), *plain.buffers()])
    assert len(graphed._recorded[net].graphs) == 3


@pytest.mark.parametrize("samples", [False, True])
def test_operations_that_are_not_there(samples, device):
    """They have no gradient, and move no statistics; the mixing weight of one has that of what it adds, 0."""
    net, plain, (x, y), (xv, yv) = sides(device)
    w = torch.eye(5)[[0, 1, 2, 3, 4, 3]] if samples else torch.rand(6, 5, generator=torch.Generator().manual_seed(0)).add(0.1).tril(1)
    for shown, labels in ((x, y), (xv, yv)):
        found = []
        for side in (net, plain):
            for p in side.parameters():
                p.grad = None
            v = w.clone().requires_grad_()
            F.cross_entropy(side(shown, v), labels).backward()
            found.append([v.grad, *(p.grad for p in side.parameters()), *side.buffers()])
        assert [g is None for g in found[0]] == [g is None for g in found[1]] and any(g is None for g in found[0])
        equal(*([g for g in side if g is not None] for side in found))
    assert len(graphed._recorded[net].graphs) == 1


def test_what_is_recorded_is_what_comes_again_and_again(device, monkeypatch):
    monkeypatch.setattr(graphed, "TIMES", 3)
    monkeypatch.setattr(graphed, "KEPT", 2)
    net, _, (x, y), _ = sides(device)

    def known(w, shown=x):
        net(shown, w)
        return len(graphed._recorded[net].graphs)

    mixed, other = torch.full((6, 5), 0.2), torch.eye(5)[[0, 1, 2, 3, 4, 3]]
    assert [known(w) for w in (mixed, mixed, mixed, other, mixed, mixed, mixed)] == [0] * 7
    assert [known(w) for w in (mixed, other, mixed)] == [1] * 3
    assert [known(mixed, x[:9]) for _ in range(4)] == [1, 1, 1, 2]
    assert [known(other) for _ in range(4)] == [2] * 4
    assert all(name == str((other != 0).tolist()) or kind[0] == x[:9].shape for name, kind in graphed._recorded[net].graphs)


def test_what_is_never_recorded(device):
    net, _, (x, y), _ = sides(device)
    w = torch.full((6, 5), 0.2)
    net(x.clone().requires_grad_(), w)
    net(x, torch.tensor([0, 1, 2, 3, 4, 3]))
    net.eval()(x, w)
    assert net not in graphed._recorded


def test_a_network_that_moves_or_ends(device):
    net, plain, (x, y), _ = sides(device)
    w = torch.full((6, 5), 0.2)
    equal(seen(net, x, y, w, True), seen(plain, x, y, w, True))
    with torch.no_grad():
        for side in (net, plain):
            for p in side.parameters():
                p.data = p.data * 1.5                   # elsewhere in memory
    equal(seen(net, x, y, w, True), seen(plain, x, y, w, True))
    number = len(graphed._recorded)
    del net
    gc.collect()
    assert len(graphed._recorded) == number - 1


def test_perturb(device, monkeypatch):
    data = performance.noise(8, 40, device=device)
    supernet = train("darts", methods.stage1("darts"), NB201, data, Budget(channels=4, cells=1, epochs=1, batch=16), 0, progress=False)
    found = []
    for times in (1, 10**9):
        monkeypatch.setattr(graphed, "TIMES", times)
        before = recorder.Graph.replays
        choice = methods.stage2("perturb", epochs=3)(supernet, data, None, 0)
        assert device == "cuda" or (recorder.Graph.replays > before) == (times == 1)
        found.append((choice.arch, choice.ties))
    assert found[0] == found[1]


@pytest.mark.parametrize("name, protocol", [("darts", None), ("snas", None), ("dirichlet", None), ("darts-", None), ("sdarts-rs", None),
                                            ("darts", PAPER)])
def test_training(name, protocol, device, monkeypatch):
    data, budget = performance.noise(8, 40, device=device), Budget(channels=4, cells=1, epochs=2, batch=16)
    given = {} if protocol is None else {"protocol": protocol}
    before = recorder.Graph.replays
    ours = train(name, methods.stage1(name), NB201, data, budget, 0, progress=False, **given)
    assert ours.supernet not in graphed._recorded and (device == "cuda" or recorder.Graph.replays > before + 20)
    made = Run.__init__

    def plainly(run, *args):
        made(run, *args)
        run.net.compiled = False

    monkeypatch.setattr(Run, "__init__", plainly)
    plain = train(name, methods.stage1(name), NB201, data, budget, 0, progress=False, **given)
    for key, values in plain.history.items():
        torch.testing.assert_close(torch.as_tensor(ours.history[key]), torch.as_tensor(values), rtol=1e-7, atol=1e-9)
    equal([*ours.supernet.buffers()], [*plain.supernet.buffers()])
