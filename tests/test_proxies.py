"""Zero-cost scores against their definitions, without the shortcuts."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from nas_lib import proxies
from nas_lib.spaces import NB201

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
    before = copy.deepcopy(net.state_dict())
    x = tiny.images(6, dtype=torch.float32)[0]
    first = proxies.jacob_cov(net, ARCHS[:2], x)
    proxies.synflow(net, ARCHS[:2], (1, 8, 8))
    tiny.same(dict(net.state_dict()), dict(before))
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
