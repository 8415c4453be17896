"""The compiled supernet against its plain twin, with float64 as the judge of both."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tiny
from nas_lib import compiled, jit, supernet
from nas_lib.spaces import NB201, Space

MIXED = torch.randn(6, 5, generator=torch.Generator().manual_seed(2)).softmax(-1)
SOME = torch.where(torch.arange(30).view(6, 5) % 3 == 0, 0.0, MIXED)         # operations of weight 0
ONE_HOT = F.one_hot(tiny.chosen(NB201.archs[5744]), 5).float() + MIXED - MIXED
CASES = {"mixture": MIXED, "some off": SOME, "one-hot": ONE_HOT, "nothing": torch.zeros(6, 5),
         "negative": MIXED - 0.3}


def networks(space=NB201, channels=4, cells=1):
    """One supernet three times: compiled, plain, and plain in float64."""
    fast = tiny.supernet(space, channels, cells, dtype=torch.float32)
    plain = copy.deepcopy(fast)
    plain.compiled = plain.fuse = False
    return fast, plain, copy.deepcopy(plain).double()


def passed(net, x, w, train=True):
    """Logits, gradients and buffers after one forward and backward pass."""
    dtype = net.stem[0].weight.dtype
    net.requires_grad_(train).train()
    x = x.detach().to(dtype, copy=True).requires_grad_()
    w = w.to(dtype, copy=True).requires_grad_() if w.is_floating_point() else w
    logits = net(x, w)
    (logits.square().sum() + logits[:, 0].sum()).backward()
    gradients = {"x": x.grad} | ({"w": w.grad} if w.is_floating_point() else {})
    gradients |= {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    return {"logits": logits.detach()} | gradients, dict(net.named_buffers())


def agree(fast, plain, judge, x, w, **how):
    """Compiled is as near to float64 as PyTorch's float32 is, for all that a pass leaves behind."""
    (a, stats_a), (b, stats_b), (c, stats_c) = (passed(n, x, w, **how) for n in (fast, plain, judge))
    assert a.keys() == b.keys() == c.keys()
    for found, twin, true in ((a, b, c), (stats_a, stats_b, stats_c)):
        for name in true:
            scale = max(true[name].abs().max().item(), 1e-2)     # what cancels leaves rounding noise
            assert found[name].shape == twin[name].shape and found[name].dtype == twin[name].dtype, name
            torch.testing.assert_close(found[name].double(), true[name].double(), rtol=2e-4, atol=2e-4 * scale)


@pytest.fixture
def counted(monkeypatch):
    """How often the compiled function was used."""
    calls, function = [], compiled.features
    monkeypatch.setattr(compiled, "features", lambda *a: calls.append(1) or function(*a))
    return calls


@pytest.mark.parametrize("train", [True, False], ids=["weights", "frozen"])
@pytest.mark.parametrize("name", CASES)
def test_mixtures(name, train, counted):
    x, _ = tiny.images(8, side=6)
    agree(*networks(), x, CASES[name], train=train)
    assert len(counted) == 1                        # or it was the twin that was tested


@pytest.mark.parametrize("index", [0, 9, 123, 5744, 1835, 1651, 6111])
def test_single_architectures(index, counted):
    x, _ = tiny.images(8, side=6)
    agree(*networks(), x, tiny.chosen(NB201.archs[index]))
    assert counted


@pytest.mark.parametrize("channels, cells, batch, side", [(3, 1, 5, 7), (2, 2, 2, 5), (6, 1, 1, 6), (4, 1, 65, 8)])
def test_sizes(channels, cells, batch, side, counted):
    x, _ = tiny.images(batch, side=side)
    agree(*networks(channels=channels, cells=cells), x, MIXED)
    assert counted


def test_other_spaces(counted):
    space = Space("odd", nodes=3, ops=("nor_conv_3x3", "none", "avg_pool_3x3"))
    x, _ = tiny.images(4, side=6)
    agree(*networks(space), x, torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    assert counted


def test_what_it_does_not_apply_to(counted):
    x, _ = tiny.images(4, side=6)
    for change in (lambda n: n.eval(), lambda n: n.double(), lambda n: setattr(n, "compiled", False) or n):
        net = change(tiny.supernet(NB201, 4, dtype=torch.float32))
        net(x.to(net.stem[0].weight.dtype), MIXED.to(net.stem[0].weight.dtype))
    assert not counted


def test_a_second_derivative_is_refused():
    net, (x, _) = networks()[0], tiny.images(4, side=6)
    loss = net(x.float(), MIXED).square().sum()
    with pytest.raises(RuntimeError, match="net.compiled = False"):
        torch.autograd.grad(loss, net.stem[0].weight, create_graph=True)


def test_training_stays_close_to_the_twin():
    """Weights after some steps of SGD, gradients zeroed rather than dropped, each step on another architecture."""
    nets, (x, y) = networks()[:2], tiny.images(48, side=6)
    for net in nets:
        sgd = torch.optim.SGD(net.train().parameters(), 0.05, 0.9)
        for step, (images, labels) in enumerate(zip(x.float().split(8), y.split(8), strict=True)):
            sgd.zero_grad(set_to_none=False)
            F.cross_entropy(net(images, tiny.chosen(NB201.archs[2000 * step + 9])), labels).backward()
            sgd.step()
    for (name, a), b in zip(nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_same_result_to_the_bit_for_any_number_of_threads():
    (x, _), before, seen = tiny.images(16, side=6), torch.get_num_threads(), []
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            seen.append(passed(networks()[0], x, MIXED))
    finally:
        torch.set_num_threads(before)
    for other in seen[1:]:
        tiny.same(list(seen[0]), list(other))


@pytest.mark.parametrize("momentum", [None, 0.1, 0.3])
def test_running_statistics_follow_with_any_momentum(momentum):
    (x, _), nets = tiny.images(8, side=6), networks()
    for net in nets:
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.reset_running_stats()
                m.momentum = momentum
        with torch.no_grad():
            for part in x.split(4):
                net.train()(part.to(net.stem[0].weight.dtype), MIXED)
    fast, plain, judge = (dict(net.named_buffers()) for net in nets)
    for name, true in judge.items():
        torch.testing.assert_close(fast[name].double(), true.double(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plain[name].double(), true.double(), rtol=1e-4, atol=1e-5)


def test_the_fused_path_follows_with_any_momentum():
    net, (x, _) = networks()[0], tiny.images(8, side=6)
    twin = copy.deepcopy(net)
    net.compiled = twin.compiled = twin.fuse = False
    for n in (net, twin):
        for m in n.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.momentum = None
        n.train()(x.float(), MIXED)
    for (name, a), b in zip(net.named_buffers(), twin.buffers(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


def test_supernets_too_large_go_the_usual_way(counted):
    net = supernet.Supernet(NB201, 4, 1, 3, 1).train()
    side = int((compiled.MAP / 4) ** 0.5) + 1
    net(torch.randn(2, 1, side, side), tiny.chosen(NB201.archs[5744]))
    assert not counted


def test_compiled_code_is_renewed_with_any_source(tmp_path, monkeypatch):
    stored = tmp_path / "function.nbi"
    jit.renew(tmp_path)
    stored.touch()
    jit.renew(tmp_path)
    assert stored.exists()
    monkeypatch.setattr(jit, "SOURCES", jit.SOURCES[:2])
    jit.renew(tmp_path)
    assert not stored.exists()


SAME = """
import sys, torch
torch.set_num_threads(1)
from nas_lib import data, methods, ranking, standalone, training
from nas_lib.spaces import NB201
from nas_lib.supernet import Supernet

def supernet():
    budget = training.Budget(channels=4, cells=1, epochs=1, lr=0.1)
    net = training.train("darts", methods.stage1("darts"), NB201, digits, budget, 0, progress=False).supernet
    return [float(v.double().sum()) for v in net.state_dict().values()]

def scores():
    torch.manual_seed(0)
    return ranking.accuracy(Supernet(NB201, 4, 1, 10, 4), NB201.archs[:40],
                            *digits.fixed("valid half", first=100))[1].tolist()

def alone():
    recipe = standalone.Recipe(steps=20)
    return [v.tolist() for v in standalone.train_from_scratch(NB201, NB201.archs[6111], digits, recipe, [0]).values()
            if hasattr(v, "tolist")]

digits = data.digits()
parts = [supernet, scores, alone]
print(*[found for _, found in sorted((p.__name__, p()) for p in (reversed(parts) if sys.argv[1:] else parts))])
"""


def test_every_process_computes_the_same_bits(tmp_path):
    """Whether it compiles its functions or finds them stored, and whatever it did before."""
    found = [subprocess.run([sys.executable, "-c", SAME, *order], capture_output=True, text=True, timeout=300,
                            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}) for order in ([], [], ["reversed"])]
    assert all(f.returncode == 0 for f in found), found[0].stderr
    assert len({f.stdout for f in found}) == 1 and "nan" not in found[0].stdout and len(found[0].stdout) > 500
