"""The supernet against the sum written out by hand, and against values of the published code."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from nas_lib import methods, proxies
from nas_lib.ops import AveragePool
from nas_lib.spaces import NB201
from nas_lib.supernet import Cell, Supernet


def written_out(net, x, w, auxiliary=0.0):
    """Logits by the definition: node i is the sum over j < i and o of ``w[ij, o] op_o(node j)``.

    ``auxiliary`` beta adds ``beta node j`` on every edge.
    """
    x = net.stem(x)
    for cell in net.cells:
        if isinstance(cell, Cell):
            nodes = [x]
            for i in range(1, net.space.nodes):
                mixed = sum(w[e, o] * op(nodes[j]) for e, (t, j) in enumerate(net.space.edges)
                            if t == i for o, op in enumerate(cell.edges[f"{i}<-{j}"]))
                nodes.append(mixed + auxiliary * sum(nodes))
            x = nodes[-1]
        else:
            pool, conv = cell.downsample
            main = cell.conv_b.op(cell.conv_a.op(x))
            x = main + conv(pool(x))
    features = F.relu(net.lastact[0](x)).flatten(2).mean(2)
    return features @ net.classifier.weight.T + net.classifier.bias


def one_hot(arch, dtype=torch.float64):
    return F.one_hot(tiny.chosen(arch), len(NB201.ops)).to(dtype)


@pytest.mark.parametrize("training", [True, False])
def test_a_mixture_is_the_weighted_sum_of_its_operations(training):
    net, (x, _) = tiny.supernet(NB201, cells=2).train(training), tiny.images()
    w = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(-1)
    w[2, 1] = w[4, 3] = w[4, 0] = 0
    torch.testing.assert_close(net(x, w), written_out(net, x, w))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("index", [0, 9, 123, 5744, 1835, 1651, 6111])
def test_one_operation_per_edge_is_the_one_hot_mixture(index, training):
    net, (x, _) = tiny.supernet(NB201).train(training), tiny.images()
    arch = NB201.archs[index]
    logits = net(x, tiny.chosen(arch))
    assert torch.equal(logits, net(x, one_hot(arch)))
    torch.testing.assert_close(logits, written_out(net, x, one_hot(arch)))


def test_an_edge_of_zeros_carries_nothing():
    net, (x, _) = tiny.supernet(NB201), tiny.images()
    w = one_hot(NB201.archs[1835])              # all skip
    w[3:] = 0                                   # nothing reaches the output
    assert torch.equal(net(x, w), net(x, tiny.chosen(NB201.archs[1651])))


def test_operations_of_weight_zero_are_not_evaluated():
    net, (x, _) = tiny.supernet(NB201, cells=2), tiny.images()
    called = []
    for c, cell in enumerate(net.cells):
        for e, ops in enumerate(cell.edges.values() if isinstance(cell, Cell) else []):
            for o, op in enumerate(ops):
                op.register_forward_hook(lambda *_, at=(c, e, o): called.append(at))
    w = torch.rand(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    w[torch.rand(6, 5, generator=torch.Generator().manual_seed(3)) < 0.5] = 0
    net(x, w)
    active = [tuple(a) for a in w.nonzero().tolist()]
    assert 0 < len(active) < 30
    assert sorted(called) == [(c, *a) for c in (0, 1, 3, 4, 6, 7) for a in active]


def test_a_sample_sends_gradient_to_all_logits_of_its_edge():
    """The rule of GDAS' code: entries that are not chosen add themselves, as scalars."""
    net, (x, _) = tiny.supernet(NB201, cells=2), tiny.images()
    arch = NB201.archs[123]

    def gradient(logits, w):
        return torch.autograd.grad((logits * torch.arange(3)).sin().sum(), w)[0]

    w = one_hot(arch).requires_grad_()
    logits = net(x, w)
    ones = one_hot(arch).requires_grad_()
    off = (1 - one_hot(arch)).bool()

    class Scalar(torch.nn.Module):
        def forward(self, x):
            return torch.ones_like(x)

    for cell in net.cells:                      # the same, with "add a constant" in place of the others
        if isinstance(cell, Cell):
            for e, ops in enumerate(cell.edges.values()):
                for o in np.flatnonzero(off[e]):
                    ops[o] = Scalar()
    literal = written_out(net, x, ones)
    torch.testing.assert_close(logits, literal)
    found = gradient(logits, w)
    torch.testing.assert_close(found, gradient(literal, ones))
    assert (found[off] != 0).all()
    assert torch.equal(logits, net(x, one_hot(arch)))       # their value is exactly zero


def test_the_size_is_that_of_the_published_supernet():
    net = Supernet(NB201, channels=16, cells=5, classes=10)
    assert sum(p.numel() for p in net.parameters()) == 1_686_106


def test_modules_go_by_their_published_names():
    names = set(Supernet(NB201, 1, 5).state_dict())
    assert {n.split(".")[1] for n in names if n.startswith("cells.")} == {str(c) for c in range(17)}
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"stem.0.weight", "classifier.weight", "classifier.bias"}
    expected |= {f"{m}.{p}" for m in ("stem.1", "lastact.0") for p in bn}
    for c in range(17):
        if c in (5, 11):
            expected |= {f"cells.{c}.{ab}.op.1.weight" for ab in ("conv_a", "conv_b")}
            expected |= {f"cells.{c}.{ab}.op.2.{p}" for ab in ("conv_a", "conv_b") for p in bn}
            expected |= {f"cells.{c}.downsample.1.weight"}
        else:
            for edge in ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2"):
                expected |= {f"cells.{c}.edges.{edge}.{o}.op.1.weight" for o in (2, 3)}
                expected |= {f"cells.{c}.edges.{edge}.{o}.op.2.{p}" for o in (2, 3) for p in bn[2:]}
    assert names == expected


@pytest.mark.parametrize("w", [
    torch.ones(5, 6), torch.ones(6), torch.ones(6, 5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64),
    torch.ones(1, 6, 5), torch.zeros(6, 1, dtype=torch.int64)], ids=lambda w: f"{w.dtype}{tuple(w.shape)}")
def test_any_other_w_is_an_error(w):
    net, (x, _) = tiny.supernet(NB201, dtype=torch.float32), tiny.images(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"w must be floating \(6, 5\) or integer \(6,\), got"):
        net(x, w)


@pytest.fixture(scope="module")
def oracle():
    """Numbers that the published code computes from random weights, with those weights."""
    folder = os.environ.get("NAS_ORACLE")
    if not folder:
        pytest.skip("set NAS_ORACLE to the folder that holds oracle_nb201.npz")
    return {k: torch.from_numpy(v) for k, v in np.load(Path(folder) / "oracle_nb201.npz").items()}


@pytest.fixture
def published(oracle):
    net = Supernet(NB201, channels=4, cells=1)
    state = {k.removeprefix("sd/"): v for k, v in oracle.items() if k.startswith("sd/")}
    alpha = state.pop("_arch_parameters").requires_grad_()
    net.load_state_dict(state)
    return net, alpha


def close(a, b, rtol=1e-4):
    scale = b.abs().max().item()
    torch.testing.assert_close(a.to(b.dtype), b, rtol=rtol, atol=rtol * scale)


def test_logits_of_the_published_code(oracle, published):
    net, alpha = published
    close(net.eval()(oracle["x"], alpha.softmax(-1)), oracle["softmax/eval/logits"])
    for mode in ("eval", "train"):
        net.train(mode == "train")
        for arch, logits in zip(oracle["archs"], oracle[f"masked/{mode}/logits"], strict=True):
            close(net(oracle["x"], arch), logits)


def test_loss_and_gradients_of_the_published_code(oracle, published):
    net, alpha = published
    loss = F.cross_entropy(net.train()(oracle["x"], alpha.softmax(-1)), oracle["y"])
    loss.backward()
    close(loss, oracle["softmax/train/loss"])
    close(alpha.grad, oracle["softmax/train/grad_alpha"])
    close(net.stem[0].weight.grad, oracle["softmax/train/grad_stem"])
    close(net.cells[0].edges["3<-2"][3].op[1].weight.grad, oracle["softmax/train/grad_cell0_edge5_op3"])
    norms = torch.stack([p.grad.norm() for p in [*net.parameters(), alpha]])
    close(norms.norm(), oracle["softmax/train/gradnorm_all"])


def test_loss_and_gradient_of_the_published_auxiliary_skip(oracle, published):
    net, alpha = published
    w = methods.stage1("darts-", beta="constant").mix(NB201, alpha, 0.0, None)
    loss = F.cross_entropy(net.train()(oracle["x"], w), oracle["y"])
    close(loss, oracle["minus/train/loss"])
    close(torch.autograd.grad(loss, alpha)[0], oracle["minus/train/grad_alpha"])


def test_zero_cost_scores_of_the_published_code(oracle, published):
    net, _ = published
    archs = oracle["archs"].numpy()
    np.testing.assert_allclose(proxies.synflow(net, archs, (3, 16, 16)), oracle["measures/synflow"],
                               rtol=1e-6)
    np.testing.assert_allclose(proxies.jacob_cov(net, archs, oracle["x"]), oracle["measures/jacob_cov"],
                               rtol=1e-4)


def test_mixing_together_is_the_plain_mixture():
    """Logits, gradients and running statistics of the fused path against one operation at a time."""
    torch.manual_seed(0)
    together = Supernet(NB201, 4, 1, 10, 3)
    together.compiled = False
    plain = copy.deepcopy(together)
    plain.fuse = False
    x, alpha, seen = torch.randn(6, 3, 8, 8), torch.randn(6, 5), []
    for net in (together, plain):
        w = alpha.clone().requires_grad_()
        out = net(x, w.softmax(-1))
        out.square().sum().backward()
        seen.append([out, w.grad, *(p.grad for p in net.parameters()), *net.buffers()])
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beta, progress, value", [("linear", 0.25, 0.75), ("constant", 0.25, 1.0)])
def test_beta_on_the_skip_is_an_auxiliary_skip(beta, progress, value):
    net, (x, _) = tiny.supernet(NB201, cells=2), tiny.images()
    alpha = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = methods.stage1("darts-", beta=beta).mix(NB201, alpha, progress, None)
    torch.testing.assert_close(net(x, w), written_out(net, x, alpha.softmax(-1), auxiliary=value))


def partial_by_hand(net, x, w, passing):
    """Logits of partial channels: per edge, mix the first C/k channels, append the others, interleave."""
    k, x = net.partial, net.stem(x)
    for cell in net.cells:
        if isinstance(cell, Cell):
            nodes = [x]
            for i in range(1, net.space.nodes):
                total = 0
                for e, (t, j) in enumerate(net.space.edges):
                    if t == i:
                        c = nodes[j].shape[1]
                        mixed = sum(w[e, o] * op(nodes[j][:, :c // k]) for o, op in enumerate(cell.edges[f"{i}<-{j}"]))
                        y = torch.cat([mixed, passing[e] * nodes[j][:, c // k:]], 1)
                        total = total + y[:, [g * (c // k) + m for m in range(c // k) for g in range(k)]]
                nodes.append(total)
            x = nodes[-1]
        else:
            x = cell(x)
    return net.classifier(net.lastact(x).mean((2, 3)))


@pytest.mark.parametrize("k", [2, 4])
def test_partial_channels_by_hand(k):
    torch.manual_seed(0)
    net, (x, _) = Supernet(NB201, 4, 1, 3, 1, partial=k).double(), tiny.images()
    w = torch.rand(6, 6, dtype=torch.float64)
    torch.testing.assert_close(net(x, w), partial_by_hand(net, x, w[:, :5], w[:, 5]))
    torch.testing.assert_close(net(x, w[:, :5]), partial_by_hand(net, x, w[:, :5], torch.ones(6)))
    arch = NB201.archs[123]
    torch.testing.assert_close(net(x, tiny.chosen(arch)), partial_by_hand(net, x, one_hot(arch), torch.ones(6)))
    with pytest.raises(ValueError, match=r"got torch.float64 \(6, 6\)"):
        tiny.supernet(NB201)(x, w)              # all channels: none that could pass by


def test_widening_copies_channels():
    net = Supernet(NB201, 4, 1, 3, 1, partial=4)
    before = copy.deepcopy(net.state_dict())
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_()
    net.widen(2)
    assert net.partial == 2 and {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in Supernet(NB201, 4, 1, 3, 1, partial=2).state_dict().items()}
    op = net.cells[4].edges["3<-2"][3].op
    for rows in (slice(0, 4), slice(4, 8)):
        for columns in (slice(0, 4), slice(4, 8)):
            assert torch.equal(op[1].weight[rows, columns], before["cells.4.edges.3<-2.3.op.1.weight"])
    assert torch.equal(op[2].running_mean[:4], op[2].running_mean[4:]) and op[1].in_channels == 8
    assert torch.equal(net.stem[0].weight, before["stem.0.weight"])
    net(torch.randn(4, 1, 8, 8), torch.rand(6, 5)).sum().backward()
    assert op[1].weight.grad.shape == (8, 8, 3, 3)
    with pytest.raises(ValueError, match="one 2-th of the channels cannot grow to one 3-th"):
        net.widen(3)
    with pytest.raises(ValueError, match="one 3-th of 4 channels"):
        Supernet(NB201, 4, 1, partial=3)


@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_pooling_of_large_maps(dtype, close):
    pool, plain = AveragePool(), torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    x = torch.randn(2, 16, 16, 19, dtype=dtype, generator=torch.Generator().manual_seed(0))
    results = []
    for layer, at in ((pool, x.contiguous(memory_format=torch.channels_last)), (plain, x.clone())):
        at = at.requires_grad_()
        out = layer(at)
        (slope,) = torch.autograd.grad(out.sin().sum(), at)
        results.append((out.detach(), slope))
    for own, known in zip(*results, strict=True):
        torch.testing.assert_close(own, known, rtol=close, atol=close)
    assert dtype == torch.float64 or not torch.equal(results[0][0], results[1][0])      # it is another way
