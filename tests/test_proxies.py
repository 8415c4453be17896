"""Zero-cost scores against their definitions, without the shortcuts."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tiny
from nas_lib import benchmark, proxies
from nas_lib.networks import PairNetwork, PairSupernet, SearchCell
from nas_lib.spaces import NB201, S0, S1, Space
from nas_lib.spaces.published_cells import CELLS
from nas_lib.supernet import Supernet

ARCHS = NB201.archs[[5744, 123, 9, 1835, 1651, 77]]


def literal_synflow(net, arch, shape):
    """R is linear in every single layer, so ``sum theta dR/dtheta = R - R(layer = 0)``: no derivative."""
    net = copy.deepcopy(net).double().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):           # an identity, by torch's own means
            m.affine, m.weight, m.bias, m.eps = False, None, None, 0.0
            m.running_mean.zero_()
            m.running_var.fill_(1)

    @torch.no_grad()
    def total():
        return net(torch.ones(1, *shape, dtype=torch.float64), tiny.chosen(arch)).sum().item()

    with torch.no_grad():
        for p in net.parameters():
            p.abs_()
        score = 0.0
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                kept, whole = m.weight.clone(), total()
                m.weight.zero_()
                score += whole - total()
                m.weight.copy_(kept)
    return score


def test_synflow_is_its_definition():
    net = tiny.supernet(NB201, dtype=torch.float32)
    found = proxies.synflow(net, ARCHS, (1, 8, 8))
    np.testing.assert_allclose(found, [literal_synflow(net, a, (1, 8, 8)) for a in ARCHS], rtol=1e-9)
    assert found[4] == 0 and len(set(found.tolist())) == len(ARCHS)       # 1651 has no path


def test_synflow_of_a_network_that_can_be_done_in_the_head():
    """Weights of -1, one channel, one skip per cell, one pixel, so that of a kernel only the middle counts.

    R per channel: 1 after the stem; ``2 + 1`` and ``4 * 2 * 3 + 2 * 3`` after the reductions, main path
    plus shortcut; 3 logits see 4 channels each. A layer's score is the part of R that goes through it.
    """
    net = tiny.supernet(channels=1, dtype=torch.float32)
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.constant_(m.weight, -1.0)
    nn.init.zeros_(net.classifier.bias)
    total = 3 * 4 * (24 + 6)
    through = {"stem": 1, "classifier": 1, "conv_a and conv_b": 2 * (2 / 3 + 24 / 30),
               "downsample": 1 / 3 + 6 / 30}
    found = proxies.synflow(net, np.array([[0, 1, 0]]), (1, 1, 1))
    np.testing.assert_allclose(found, total * sum(through.values()))


def test_synflow_ignores_signs_and_batch_norm():
    net = tiny.supernet(NB201, dtype=torch.float32)
    before = proxies.synflow(net, ARCHS, (1, 8, 8))
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.add_(3)
                m.running_var.mul_(7)
                if m.affine:
                    m.weight.mul_(5)
                    m.bias.sub_(2)
            elif isinstance(m, nn.Conv2d | nn.Linear):
                m.weight.neg_()
    np.testing.assert_allclose(proxies.synflow(net, ARCHS, (1, 8, 8)), before, rtol=1e-12)


@pytest.mark.parametrize("score", [
    lambda net, archs: proxies.synflow(net, archs, (1, 8, 8)),
    lambda net, archs: proxies.jacob_cov(net, archs, tiny.images(6)[0])], ids=["synflow", "jacob_cov"])
def test_the_score_belongs_to_the_architecture(score):
    net = tiny.supernet(NB201)
    together = score(net, ARCHS)
    np.testing.assert_allclose(together, [score(net, a[None])[0] for a in ARCHS])
    np.testing.assert_allclose(score(net, ARCHS[::-1]), together[::-1])
    with torch.no_grad():
        for cell in net.cells:
            for name, ops in getattr(cell, "edges", {}).items():
                for o, op in enumerate(ops):                # what 5744 does not use cannot matter
                    if o != ARCHS[0][list(cell.edges).index(name)]:
                        for p in op.parameters():
                            p.mul_(-3)
    np.testing.assert_allclose(score(net, ARCHS[:1]), together[:1])
    assert (score(net, ARCHS[1:3]) != together[1:3]).any()


@pytest.mark.parametrize("training", [True, False])
def test_the_supernet_stays_as_it_was(training):
    net = tiny.supernet(NB201, dtype=torch.float32).train(training)
    before, (x, y) = copy.deepcopy(net.state_dict()), tiny.images(6, dtype=torch.float32)
    state = torch.get_rng_state()
    first = proxies.jacob_cov(net, ARCHS[:2], x)
    proxies.score(net, ARCHS[0], x, y, proxies.NAMES)
    proxies.size(net, ARCHS, (1, 8, 8))
    tiny.same(dict(net.state_dict()), dict(before))
    assert torch.equal(torch.get_rng_state(), state) and x.grad is None and not x.requires_grad
    assert net.training == training and all(p.grad is None and p.requires_grad for p in net.parameters())
    other = tiny.supernet(NB201, dtype=torch.float32).train(not training)
    np.testing.assert_array_equal(first, proxies.jacob_cov(other, ARCHS[:2], x))


def literal_jacob_cov(net, arch, x):
    """Image after image, the correlation by its formula and the eigenvalues of a general matrix."""
    net, rows = copy.deepcopy(net).train(), []
    for i in range(len(x)):
        image = x[i].clone().requires_grad_()
        batch = torch.cat([x[:i], image[None], x[i + 1:]])
        rows.append(torch.autograd.grad(net(batch, tiny.chosen(arch)).sum(), image)[0].flatten().numpy())
    j = np.array(rows)
    j = j - j.mean(1, keepdims=True)
    norm = np.sqrt((j**2).sum(1))
    v = np.linalg.eigvals(j @ j.T / np.outer(norm, norm)).real
    return -(np.log(v + 1e-5) + 1 / (v + 1e-5)).sum()


def test_jacob_cov_is_its_definition():
    net, (x, _) = tiny.supernet(NB201, channels=4), tiny.images(5)
    archs = ARCHS[[0, 1, 3]]
    found = proxies.jacob_cov(net, archs, x)
    np.testing.assert_allclose(found, [literal_jacob_cov(net, a, x) for a in archs], rtol=1e-5)
    assert np.isnan(proxies.jacob_cov(net, NB201.archs[[1651]], x)).all()


def looked_at(net, x, arch):
    """Logits, and in the order of the pass (module, input, output) of every layer, ReLU and batch norm."""
    net, seen = copy.deepcopy(net), []
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear | nn.ReLU | nn.BatchNorm2d | SearchCell):
            m.register_forward_hook(lambda m, i, o: seen.append((m, i[0].detach(), o.detach())))
    return net(x, tiny.chosen(arch)), seen


def layers(net):
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def gradients(net, x, y, arch):
    """(theta, dL/dtheta) of every layer, None where it has none."""
    net = copy.deepcopy(net)
    F.cross_entropy(net(x, tiny.chosen(arch)), y).backward()
    return [(m.weight.detach(), m.weight.grad) for m in layers(net)]


def literal_grasp(net, x, y, arch, step=1e-7):
    """``H g`` as the difference of the gradients at ``theta + step g`` and ``theta - step g``."""
    here, sides = gradients(net, x, y, arch), []
    for sign in (1, -1):
        moved = copy.deepcopy(net)
        with torch.no_grad():
            for m, (_, g) in zip(layers(moved), here, strict=True):
                if g is not None:
                    m.weight.add_(g, alpha=sign * step)
        sides.append([g for _, g in gradients(moved, x, y, arch)])
    return -sum((w * (up - down)).sum().item() / (2 * step)
                for (w, _), up, down in zip(here, *sides, strict=True) if up is not None)


def literal_fisher(net, x, y, arch):
    """Give every output channel of every layer and image a factor of 1; dL/dfactor is ``sum_places a dL/da``."""
    net, factors = copy.deepcopy(net).train(), []

    def scaled(m, _, out):
        factors.append((m, torch.ones(out.shape[:2], dtype=out.dtype, requires_grad=True)))
        return out * factors[-1][1].view(*out.shape[:2], *[1] * (out.ndim - 2))
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            m.register_forward_hook(scaled)
    F.cross_entropy(net(x, tiny.chosen(arch)), y).backward()
    return sum(m.weight[0].numel() * (f.grad**2).mean(0).sum().item() / 2 for m, f in factors
               if f.grad is not None)


def literal_naswot(net, x, arch):
    codes = [torch.cat([(o[i] > 0).flatten() for m, _, o in looked_at(net, x, arch)[1] if isinstance(m, nn.ReLU)])
             for i in range(len(x))]
    kernel = [[(a == b).sum().item() for b in codes] for a in codes]
    return np.log(np.linalg.det(np.array(kernel, dtype=float)))


def maps(seen):
    """What the global pool sees: of a cell, or of the last ReLU before the classifier."""
    cells = [o for m, _, o in seen if isinstance(m, SearchCell)]
    return cells[-1] if cells else next(o for m, _, o in seen[-2:] if isinstance(m, nn.ReLU))


def literal_zen(net, x, arch):
    net = copy.deepcopy(net).train()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    (_, here), (_, there) = (looked_at(net, at, arch) for at in (x, x + 0.01 * noise))
    before, after = maps(here), maps(there)
    distance = sum(((before[i] - after[i])**2).sum().sqrt() for i in range(len(x))) / len(x)
    spread = [i.transpose(0, 1).flatten(1).var(1, correction=0).mean() for m, i, _ in here
              if isinstance(m, nn.BatchNorm2d)]
    return (distance.log() + sum(v.sqrt().log() for v in spread if v > 0)).item()


def pair_of_cells():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PairSupernet(S1, 2, 3, 3, 1).double()


@pytest.mark.parametrize("net, archs, training", [
    (tiny.supernet(NB201, channels=3), ARCHS[:3], True), (tiny.supernet(NB201, channels=3), ARCHS[:1], False),
    (pair_of_cells(), S1.named([CELLS["s1"]["dartsm_pt"]]), True)], ids=["train", "eval", "s1"])
def test_every_measure_is_its_definition(net, archs, training):
    """In float64, on architectures with dead edges (9), pools (123) and convolutions (5744), and on a pair of cells."""
    net, (x, y) = net.train(training), tiny.images(5)
    found = proxies.scores(net, archs, x, y, proxies.NAMES)
    for i, arch in enumerate(archs):
        known = [(w, g) for w, g in gradients(net, x, y, arch) if g is not None]
        expected = {
            "grad_norm": sum((g**2).sum().sqrt() for _, g in known),
            "snip": sum((w * g).abs().sum() for w, g in known),
            "plain": sum((w * g).sum() for w, g in known),
            "l2_norm": sum((w**2).sum().sqrt() for w, g in known if (g != 0).any()),
            "grasp": literal_grasp(net, x, y, arch), "fisher": literal_fisher(net, x, y, arch),
            "naswot": literal_naswot(net, x, arch), "zen": literal_zen(net, x, arch)}
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(float(value), rel=1e-5), name


def test_synflow_with_batch_norm_is_the_derivative_along_every_weight():
    """``theta dR/dtheta`` by a difference of R, weight by weight, on a network small enough for that."""
    net, step, expected = tiny.supernet(Space("one", 2, ("none", "nor_conv_1x1")), channels=1).train(), 1e-6, 0
    plus = copy.deepcopy(net)
    with torch.no_grad():
        for tensor in plus.state_dict().values():
            tensor.abs_()
        for m in layers(plus):
            for place in np.ndindex(*m.weight.shape):
                theta, total = m.weight[place].item(), []
                for sign in (1, -1):
                    m.weight[place] = theta * (1 + sign * step)
                    total.append(plus(torch.ones(1, 1, 8, 8).double(), tiny.chosen([1])).sum().item())
                m.weight[place] = theta
                expected += abs(total[0] - total[1]) / (2 * step)
    found = proxies.score(net, [1], *tiny.images(2), ["synflow_bn"])["synflow_bn"]
    assert found == pytest.approx(expected, rel=1e-4) and expected > 1


def test_batch_norm_is_as_found_but_for_fisher_and_zen():
    net, (x, y) = tiny.supernet(NB201), tiny.images(6)
    train, evaluated = (proxies.score(net.train(mode), ARCHS[0], x, y, proxies.NAMES) for mode in (True, False))
    assert {n for n in proxies.NAMES if train[n] == evaluated[n]} == {"synflow", "fisher", "zen", "l2_norm"}
    forced = proxies.scores(net, ARCHS[:1], x, y, proxies.NAMES, training=True)
    assert {n: v[0] for n, v in forced.items()} == train


def test_one_network_has_one_score():
    """naswot alone counts ReLUs on edges that do not matter, as published."""
    net, (x, y) = tiny.supernet(NB201), tiny.images(6)
    classes = NB201.classes("weights")
    twins = NB201.archs[np.flatnonzero(classes == classes[9])[[0, 5, -1]]]
    assert (twins[0] != twins[1]).any()
    for name, values in proxies.scores(net.train(), twins, x, y, proxies.NAMES).items():
        if name != "naswot":
            np.testing.assert_allclose(values, values[0], rtol=1e-9, err_msg=name)


def test_a_network_without_a_path_has_no_score_or_none_to_speak_of():
    found = proxies.score(tiny.supernet(NB201), NB201.archs[1651], *tiny.images(6), proxies.NAMES)
    assert {n for n, v in found.items() if np.isnan(v)} == {"jacob_cov", "naswot", "zen"}
    assert found["synflow"] == 0


def test_measures_share_their_passes(monkeypatch):
    passes, forward = [], Supernet.forward
    monkeypatch.setattr(Supernet, "forward", lambda net, *a: passes.append(net) or forward(net, *a))
    net, (x, y) = tiny.supernet(NB201), tiny.images(6)
    names = ["jacob_cov", "grad_norm", "snip", "plain", "grasp", "fisher", "l2_norm", "naswot"]
    together = proxies.scores(net, ARCHS[:2], x, y, names)
    assert len(passes) == 2 and len(set(passes)) == 1
    for name in names:
        np.testing.assert_allclose(proxies.scores(net, ARCHS[:2], x, y, [name])[name], together[name])


def test_an_unknown_measure_says_which_there_are():
    with pytest.raises(ValueError, match="unknown measure 'snap': there are synflow, synflow_bn, jacob_cov, .*zen"):
        proxies.score(tiny.supernet(), (0, 1, 2), *tiny.images(), ["snip", "snap"])


@pytest.mark.parametrize("channels, cells, shape", [(4, 1, (3, 8, 8)), (3, 2, (1, 9, 9))])
def test_the_size_is_that_of_the_stand_alone_network(channels, cells, shape):
    net = Supernet(NB201, channels, cells, 7, shape[0])
    for found, expected in zip(proxies.size(net, NB201.archs, shape),
                               benchmark.counts(NB201, NB201.archs, channels, cells, 7, shape), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("space, name", [(S0, "darts 10 synflow"), (S1, "dartsm_pt")], ids=["s0", "s1"])
def test_the_size_of_a_pair_of_cells_is_that_of_its_network(space, name):
    """Parameters counted one by one; multiply-accumulates by torch's own counter, which counts both operations."""
    cells = space.genotype(space.parse(CELLS[space.name][name]))
    net = PairNetwork(cells, 4, 4, 7, 2, pool_norm=space is S0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.ones(1, 2, 8, 8))
    found = proxies.size(PairSupernet(space, 4, 4, 7, 2, partial=2), space.named([str(cells)] * 2), (2, 8, 8))
    assert [n.tolist() for n in found] == [[sum(p.numel() for p in net.parameters())] * 2,
                                           [counter.get_total_flops() // 2] * 2]


def test_scores_of_the_published_code():
    folder = os.environ.get("NAS_ORACLE")
    if not folder:
        pytest.skip("set NAS_ORACLE to the folder that holds oracle_nb201.npz")
    oracle = dict(np.load(Path(folder) / "oracle_nb201.npz"))
    net = Supernet(NB201, channels=4, cells=1)
    net.load_state_dict({k.removeprefix("sd/"): torch.from_numpy(v) for k, v in oracle.items()
                         if k.startswith("sd/") and k != "sd/_arch_parameters"})
    names = [k.removeprefix("measures/") for k in oracle if k.startswith("measures/")]
    assert len(names) == 8
    x, y = torch.from_numpy(oracle["x"]), torch.from_numpy(oracle["y"])
    for i, arch in enumerate(oracle["archs"]):
        for name, value in proxies.score(net.train(), arch, x, y, names).items():
            rel = 1e-6 if name == "synflow" else 1e-4
            assert value == pytest.approx(oracle[f"measures/{name}"][i], rel=rel, nan_ok=True), name
