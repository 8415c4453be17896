"""The networks of the DARTS spaces against formulas written out, counts, and values of the published code."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tiny
from nas_lib.networks import AuxiliaryHead, PairNetwork, PairSupernet, drop_path, grow
from nas_lib.ops import FactorizedReduce, Noise, draw_from, strided
from nas_lib.spaces import S0, S1, S2, S3, S4, SPACES
from nas_lib.spaces.genotype import parse
from nas_lib.spaces.published_cells import CELLS
from nas_lib.supernet import StateError, load_published

SECOND_ORDER = parse("s0 s1 s0 s1 s1 k0 k0 d2 / m0 m1 k2 m1 m0 k2 k2 m1")     # of DARTS


def shaken(net):
    return tiny.shaken(net, torch.Generator().manual_seed(0))


def supernet(space, channels=4, cells=3, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return shaken(PairSupernet(space, channels, cells, 5, 2, **options)).double()


def images(side=8, n=4):
    return torch.randn(n, 2, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def mixture(space, columns=0, seed=2):
    w = torch.rand(28, len(space.ops) + columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return w + 0.1


def count(net):
    return sum(p.numel() for p in net.parameters())


# --- the definitions, in plain functions of the tensors ----------------------------------------------

class ByHand:
    """A network's forward pass written out from its state."""

    def __init__(self, net):
        self.state, self.training = dict(net.state_dict()), net.training

    def bn(self, name, x):
        get = self.state.get
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        else:
            mean, var = get(f"{name}.running_mean"), get(f"{name}.running_var")
        y = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        weight, bias = get(f"{name}.weight"), get(f"{name}.bias")
        return y if weight is None else weight[:, None, None] * y + bias[:, None, None]

    def conv(self, name, x, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], **options)

    def factorized(self, name, x):
        x = x.relu()
        odd = x.shape[2] % 2
        second = F.pad(x, (0, odd, 0, odd))[:, :, 1:, 1:]
        both = [self.conv(f"{name}.conv_1", x, stride=2), self.conv(f"{name}.conv_2", second, stride=2)]
        return self.bn(f"{name}.bn", torch.cat(both, 1))

    def relu_conv_bn(self, name, x):
        return self.bn(f"{name}.op.2", self.conv(f"{name}.op.1", x.relu()))

    def preprocessed(self, name, x):
        fine = f"{name}.conv_1.weight" in self.state
        return self.factorized(name, x) if fine else self.relu_conv_bn(name, x)

    def op(self, name, kind, x, stride):
        if kind == "none":
            return torch.zeros_like(x[:, :, ::stride, ::stride])
        if kind == "skip_connect":
            return x if stride == 1 else self.factorized(name, x)
        if "pool" in kind:
            if kind == "max_pool_3x3":
                y = F.max_pool2d(x, 3, stride, 1)
            else:
                ones = F.avg_pool2d(torch.ones_like(x), 3, stride, 1)
                y = F.avg_pool2d(x, 3, stride, 1) / ones
            return self.bn(f"{name}.op.1", y) if f"{name}.op.1.running_mean" in self.state else y
        size = int(kind[-1])
        if kind.startswith("dil"):
            y = self.conv(f"{name}.op.1", x.relu(), stride=stride, padding=size - 1, dilation=2, groups=x.shape[1])
            return self.bn(f"{name}.op.3", self.conv(f"{name}.op.2", y))
        for first, s in ((1, stride), (5, 1)):
            x = self.conv(f"{name}.op.{first}", x.relu(), stride=s, padding=size // 2, groups=x.shape[1])
            x = self.bn(f"{name}.op.{first + 2}", self.conv(f"{name}.op.{first + 1}", x))
        return x

    def skeleton(self, x, cells, cell):
        before = last = self.bn("stem.1", self.conv("stem.0", x, padding=1))
        for c in range(cells):
            states = [self.preprocessed(f"cells.{c}.preprocess0", before),
                      self.preprocessed(f"cells.{c}.preprocess1", last)]
            before, last = last, torch.cat(cell(c, c in (cells // 3, 2 * cells // 3), states)[2:], 1)
        return last.mean((2, 3)) @ self.state["classifier.weight"].T + self.state["classifier.bias"]


def mixed_by_hand(net, x, w, k=1, beta=None, passing=None):
    hand, space = ByHand(net), net.space

    def edge(name, kinds, row, x, stride, e):
        inner, outer = x[:, :x.shape[1] // k], x[:, x.shape[1] // k:]
        y = sum(row[o] * hand.op(f"{name}._ops.{o}", kind, inner, stride) for o, kind in enumerate(kinds))
        if beta is not None:
            y = y + beta[e] * hand.op(f"{name}.aux_skip", "skip_connect", inner, stride)
        if k == 1:
            return y
        outer = F.max_pool2d(outer, 2) if stride == 2 else outer
        y = torch.cat([y, outer if passing is None else passing[e] * outer], 1)
        c = y.shape[1]
        return y[:, [g * (c // k) + m for m in range(c // k) for g in range(k)]]

    def cell(c, reduces, states):
        e = 14 * reduces
        for _ in range(4):
            total = 0
            for j, state in enumerate(states):
                if (w[e] != 0).any():
                    stride = 2 if reduces and j < 2 else 1
                    total = total + edge(f"cells.{c}._ops.{e % 14}", space.table[e], w[e], state, stride, e)
                e += 1
            states = [*states, total]
        return states

    return hand.skeleton(x, len(net.cells), cell)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("space", [S0, S1, S2, S3], ids=lambda s: s.name)
def test_a_mixture_is_the_weighted_sum_of_its_operations(space, training):
    net, w = supernet(space).train(training), mixture(space)
    w[[3, 9, 16]] = 0                                           # edges that are not there
    torch.testing.assert_close(net(images(), w), mixed_by_hand(net, images(), w))
    torch.testing.assert_close(net(images(), w.unflatten(0, (2, 14))), mixed_by_hand(net, images(), w))


@pytest.mark.parametrize("space, k, auxiliary", [(S0, 2, False), (S2, 4, True), (S1, 1, True), (S0, 2, True)])
def test_partial_channels_and_auxiliary_skip(space, k, auxiliary):
    net, extra = supernet(space, partial=k, auxiliary=auxiliary), auxiliary + (k > 1)
    full = mixture(space, extra)
    full[[2, 20]] = 0
    w, more = full[:, :len(space.ops)], full[:, len(space.ops):]
    for columns in range(extra + 1):
        beta = more[:, 0] if auxiliary and columns else None
        passing = more[:, -1] if k > 1 and columns == extra else None
        found = net(images(), full[:, :len(space.ops) + columns])
        torch.testing.assert_close(found, mixed_by_hand(net, images(), w, k, beta, passing))


@pytest.mark.parametrize("name", ["s0", "s1", "s3"])
def test_an_architecture_is_its_one_hot_mixture(name):
    space = SPACES[name]
    net, arch = supernet(space), space.parse(next(iter(CELLS[name].values())))
    chosen = torch.as_tensor(arch).long()
    hot = F.one_hot(chosen.clamp(min=0), len(space.ops)).double() * (chosen >= 0)[:, None]
    expected = net(images(), hot)
    for same in (chosen, chosen.unflatten(0, (2, 14))):
        assert torch.equal(net(images(), same), expected)
    torch.testing.assert_close(expected, mixed_by_hand(net, images(), hot))


def test_what_has_no_weight_is_not_evaluated():
    net, called = supernet(S0), []
    for c, cell in enumerate(net.cells):
        for e, edge in enumerate(cell._ops):
            for o, op in enumerate(edge._ops):
                op.register_forward_hook(lambda *_, at=(14 * (c > 0) + e, o): called.append(at))
    arch = torch.as_tensor(S0.parse(CELLS["s0"]["snas 10 prune"])).long()
    net(images(), arch)
    wanted = [(e, int(o)) for e, o in enumerate(arch) if o >= 0]
    assert sorted(called) == sorted(wanted + [at for at in wanted if at[0] >= 14])       # one normal, two reductions


def test_gradient_reaches_every_logit_of_a_mixture():
    net, alpha = supernet(S3), mixture(S3).requires_grad_()
    net(images(), alpha.softmax(-1)).square().sum().backward()
    assert (alpha.grad != 0).all() and all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("w, message", [
    (torch.ones(28, 6), r"floating \(28, 7\), with up to 0 more columns, or integer \(28,\) from -1 to 6, got"),
    (torch.ones(28, 8), "w must be"), (torch.ones(14, 7), "w must be"), (torch.ones(28), "w must be"),
    (torch.full((28,), 7), "w must be"), (torch.full((28,), -2), "w must be"), (torch.zeros(28, 7).long(), "w must be"),
    (torch.zeros(28, 7), "node 2 has no edge with a weight"),
    (torch.where(torch.arange(28) > 22, -1, 0), "node 11 has no edge with a weight")])
def test_any_other_w_is_an_error(w, message):
    with pytest.raises(ValueError, match=message):
        PairSupernet(S0, 2, 3, 5, 2)(images().float(), w)


def test_channels_must_divide():
    with pytest.raises(ValueError, match="one 3-th of 4 channels"):
        PairSupernet(S0, 4, 3, partial=3)


@pytest.mark.parametrize("k", [1, 2])
def test_sides_that_do_not_halve(k):
    """6 -> 3 -> 2: the strided operations of an edge agree on the side, rounded up."""
    for space in (S0, S3, S4):
        net = PairSupernet(space, 4, 3, 5, 2, partial=k, auxiliary=True)
        assert net(images(6).float(), torch.ones(28, len(space.ops) + 1)).shape == (4, 5)
    x = torch.randn(2, 4, 7, 5)
    even = F.pad(x, (0, 1, 0, 1))
    reduce = FactorizedReduce(4, 6).eval()
    assert torch.equal(reduce(x), reduce(even)) and reduce(x).shape == (2, 6, 4, 3)


# --- growing ----------------------------------------------------------------------------------------

KINDS = ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_5x5", "dil_conv_3x3")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_grown_operation_does_with_copies_of_the_channels_what_it_did(kind, stride):
    """Weights are not scaled, batch norm does that: so its epsilon is 0 here. Statistics grow along."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(strided(kind, 4, stride, affine=False)).double()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eps = 1e-30
    x, order = torch.randn(3, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), list(range(8))
    if kind == "skip_connect" and stride == 2:
        order = [0, 1, 4, 5, 2, 3, 6, 7]                # the first half is of the first convolution, which doubles
    small = net(x)
    before = [m.running_var for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    grow(net, 2)
    torch.testing.assert_close(net(x.repeat(1, 2, 1, 1)), small.repeat(1, 2, 1, 1)[:, order])
    for m, old in zip([m for m in net.modules() if isinstance(m, nn.BatchNorm2d)], before, strict=True):
        assert m.running_var.shape == (8,) == (m.num_features,) and old.shape == (4,)
    if kind == "skip_connect" and stride == 2:
        net[0].bn.running_mean.copy_(torch.arange(8.0))
        grow(net, 2)
        assert net[0].bn.running_mean.tolist() == 2 * [0, 1, 2, 3] + 2 * [4, 5, 6, 7]


def test_a_supernet_whose_operations_grow_is_as_one_made_so():
    net, made = supernet(S1, partial=4, auxiliary=True), supernet(S1, partial=2, auxiliary=True)
    net.widen(2)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in made.state_dict().items()}
    made.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(images(), mixture(S1, 2)), made(images(), mixture(S1, 2)))
    with pytest.raises(ValueError, match="one 2-th of the channels cannot grow to one 4-th"):
        net.widen(4)


# --- noise and generators ----------------------------------------------------------------------------

def test_noise_is_standard_normal_and_comes_from_the_generator_handed_over():
    op, x = strided("noise", 3, 2, affine=False), torch.randn(64, 3, 33, 33, requires_grad=True)
    draw_from(op, torch.Generator().manual_seed(5))
    before = torch.random.get_rng_state()
    first, second = op(x), op.eval()(x)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.shape == (64, 3, 17, 17) and not first.requires_grad
    n = first.numel()
    for drawn in (first, second):
        assert abs(drawn.mean()) < 5 / n**0.5 and abs(drawn.var() - 1) < 5 * (2 / n)**0.5
    assert abs((first * second).mean()) < 5 / n**0.5
    draw_from(op, torch.Generator().manual_seed(5))
    assert torch.equal(op(x), first)


def test_all_noise_of_a_network_has_one_source():
    net, w = supernet(S4), mixture(S4)
    assert len({id(m.generator) for m in net.modules() if isinstance(m, Noise)}) == 1
    logits = []
    for one in (net, copy.deepcopy(net)):
        draw_from(one, torch.Generator().manual_seed(3))
        logits.append(one(images(), w))
    assert torch.equal(*logits) and not torch.equal(net(images(), w), logits[0])
    final = PairNetwork(parse(CELLS["s4"]["dartsm"]), 4, 3, 5, 2)
    assert {type(m.generator) for m in final.modules() if hasattr(m, "generator")} == {torch.Generator}
    assert not torch.equal(final.eval()(images().float()), final(images().float()))


# --- sizes -------------------------------------------------------------------------------------------

@pytest.fixture
def on_paper(monkeypatch):
    """Networks whose tensors have sizes only, and no initial values to draw."""
    for layer in (nn.Conv2d, nn.Linear, nn.BatchNorm2d):
        monkeypatch.setattr(layer, "reset_parameters", lambda self: None)
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("space, shape, k, plain, auxiliary", [
    (S0, (36, 20), 2, 6_622_390, 6_674_230), (S0, (16, 8), 1, 1_930_618, 1_971_578),
    (S1, (16, 8), 1, 405_146, 446_106), (S2, (16, 8), 1, 665_466, 706_426), (S3, (16, 8), 1, 665_466, 706_426),
    (S4, (16, 8), 1, 624_506, 665_466)])
def test_the_size_is_that_of_the_published_supernet(on_paper, space, shape, k, plain, auxiliary):
    net = PairSupernet(space, *shape, partial=k, auxiliary=True)
    assert count(net) == auxiliary
    assert sum(p.numel() for name, p in net.named_parameters() if "aux_skip" not in name) == plain


def weights(cells, channels, layers, pool_norm):
    """Parameters of a network with 10 classes by formula."""
    def op(kind, c, stride):
        size = int(kind[-1]) if kind[-1].isdigit() else 0
        once = c * size**2 + c * c + 2 * c
        return {"sep": 2 * once, "dil": once, "ski": (c * c + 2 * c) * (stride - 1)}.get(kind[:3], 2 * c * pool_norm)

    total, before, last, c = 3 * 27 * channels + 6 * channels, 3 * channels, 3 * channels, channels
    for i in range(layers):
        reduces = i in (layers // 3, 2 * layers // 3)
        c *= 1 + reduces
        total += c * (before + last) + 4 * c
        total += sum(op(kind, c, 1 + (reduces and j < 2)) for kind, j in (cells.reduce if reduces else cells.normal))
        before, last = last, 4 * c
    return total + 10 * last + 10


def test_published_cells_build_networks_of_the_right_size(on_paper):
    net = PairNetwork(SECOND_ORDER, auxiliary=True)
    head = count(net.auxiliary_head)
    assert head == 576 * 128 + 256 + 4 * 128 * 768 + 1536 + 7690
    assert count(net) - head == weights(SECOND_ORDER, 36, 20, False) == 3_349_342       # the 3.3 M of DARTS
    for name, published in CELLS.items():
        for text in published.values():
            net = PairNetwork(parse(text), 8, 3, pool_norm=name == "s0")
            assert count(net) == weights(parse(text), 8, 3, name == "s0"), text
    large = parse(CELLS["s0"]["snas 12 prune"])
    assert count(PairNetwork(large, pool_norm=True)) == weights(large, 36, 20, True)


# --- the network of one architecture -----------------------------------------------------------------

def final_by_hand(net, cells, x):
    hand = ByHand(net)

    def cell(c, reduces, states):
        for node in range(4):
            pairs = list(enumerate(cells.reduce if reduces else cells.normal))[2 * node:2 * node + 2]
            states = [*states, sum(hand.op(f"cells.{c}._ops.{k}", kind, states[j], 1 + (reduces and j < 2))
                                   for k, (kind, j) in pairs)]
        return states

    return hand.skeleton(x, len(net.cells), cell)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool_norm", [True, False])
def test_a_network_computes_its_cells(pool_norm, training):
    cells = parse(CELLS["s0"]["darts 11 perturb"])              # poolings, skips and all convolutions but d
    net = shaken(PairNetwork(cells, 4, 3, 5, 2, pool_norm=pool_norm)).double().train(training)
    torch.testing.assert_close(net(images()), final_by_hand(net, cells, images()))


def test_the_auxiliary_head_reads_the_second_reduction():
    net = shaken(PairNetwork(SECOND_ORDER, 2, 6, 5, 2, auxiliary=True)).double().eval()
    seen = []
    net.cells[4].register_forward_hook(lambda m, i, out: seen.append(out))
    x = images(32, n=2)
    logits, auxiliary = net.both(x)
    assert torch.equal(logits, net(x)) and seen[0].shape == (2, 32, 8, 8)
    hand, y = ByHand(net), F.avg_pool2d(seen[0].relu(), 5, 3)
    y = hand.bn("auxiliary_head.features.3", hand.conv("auxiliary_head.features.2", y)).relu()
    y = hand.bn("auxiliary_head.features.6", hand.conv("auxiliary_head.features.5", y)).relu()
    torch.testing.assert_close(auxiliary, net.auxiliary_head.classifier(y.flatten(1)))
    with pytest.raises(ValueError, match="features of side 8, from images of side 32"):
        net.both(images(16))
    assert AuxiliaryHead(8, 5)(torch.randn(2, 8, 10, 10)).shape == (2, 5)


def test_a_dropped_path_is_an_images_own():
    x = torch.randn(4000, 2, 3, 3)
    y = drop_path(x, 0.3, torch.Generator().manual_seed(0))
    kept = (y != 0).flatten(1)
    assert (kept.all(1) == kept.any(1)).all()
    n = int(kept.all(1).sum())
    assert abs(n - 0.7 * 4000) < 5 * (4000 * 0.21)**0.5
    torch.testing.assert_close(y[kept.all(1)], x[kept.all(1)] / 0.7)


def test_paths_drop_in_train_mode_but_identities_stay():
    net, x = shaken(PairNetwork(SECOND_ORDER, 4, 3, 5, 2)).double(), images()
    plain = net.train()(x)
    net.drop_path = 0.5
    drawn = []
    for seed in (1, 1, 2):
        draw_from(net, torch.Generator().manual_seed(seed))
        drawn.append(net(x))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.allclose(drawn[0], plain)
    torch.testing.assert_close(net.eval()(x), final_by_hand(net.eval(), SECOND_ORDER, x))
    cell = PairNetwork(parse("k0 k1 k0 k1 k0 k1 k0 k1 / k0 k1 k0 k1 k0 k1 k0 k1"), 4, 3, 5, 2).cells[0].train()
    states = [torch.randn(4, 12, 8, 8) for _ in range(2)]
    assert torch.equal(cell(*states, 0.0), cell(*states, 0.9))


# --- states of the published code --------------------------------------------------------------------

@pytest.fixture(scope="module", params=["s0_k1", "s0_k2", "s1", "s3"])
def oracle(request):
    """Numbers that the published code computes from random weights, with those weights."""
    folder = os.environ.get("NAS_ORACLE")
    if not folder:
        pytest.skip("set NAS_ORACLE to the folder that holds oracle_s0.npz and oracle_s1_s3.npz")
    file = np.load(Path(folder) / ("oracle_s0.npz" if request.param[:2] == "s0" else "oracle_s1_s3.npz"))
    numbers = {k.split("/", 1)[1]: torch.from_numpy(file[k]) for k in file.files if k.startswith(request.param + "/")}
    state = {k.removeprefix("sd/"): v for k, v in numbers.items() if k.startswith("sd/")}
    alpha = torch.cat([numbers["alpha_normal"], numbers["alpha_reduce"]]).requires_grad_()
    k = 2 if request.param == "s0_k2" else 1
    return numbers, alpha, load_published(state, request.param[:2], channels=4, cells=3, classes=10, partial=k)


def close(a, b, rtol=1e-5):
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * b.abs().max().item())


def test_logits_loss_and_gradients_of_the_published_code(oracle):
    numbers, alpha, net = oracle
    close(net.eval()(numbers["x"], alpha.softmax(-1)), numbers["eval/logits"])
    loss = F.cross_entropy(net.train()(numbers["x"], alpha.softmax(-1)), numbers["y"])
    close(loss, numbers["train/loss"])
    gradient = torch.autograd.grad(loss, alpha)[0]
    close(gradient[:14], numbers["train/grad_alpha_normal"])
    close(gradient[14:], numbers["train/grad_alpha_reduce"])


@pytest.mark.parametrize("space, auxiliary", [(S0, True), (S1, False)])
def test_both_ways_to_name_things_are_loaded(space, auxiliary):
    net = supernet(space, auxiliary=auxiliary).float()
    own = net.state_dict() | {"alpha_normal": torch.zeros(14, 7)}
    pools = [f"_ops.{e}._ops.{o}.op.1." for e in range(14) for o in range(7)]
    other = {}
    for name, tensor in own.items():
        pool = name.startswith("cells") and any(p in name for p in pools) and "running" in name
        other[(name.replace(".op.1.", ".1.") if pool else name).replace(".aux_skip", "._aux_skip")] = tensor
    shape = {"channels": 4, "cells": 3, "classes": 5}
    for state in (own, {k: v.numpy() for k, v in other.items()}):
        loaded = load_published(state, space.name, **shape)
        assert loaded.auxiliary == auxiliary
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, own[name]), name


def test_what_does_not_fit_is_named():
    state = supernet(S2).state_dict()
    del state["cells.1._ops.0._ops.0.bn.running_mean"]
    with pytest.raises(StateError, match="missing: cells.1._ops.0._ops.0.bn.running_mean; unknown: head.weight"):
        load_published(state | {"head.weight": torch.zeros(1)}, "s2", channels=4, cells=3, classes=5)
    with pytest.raises(StateError, match="no supernet of s0"):
        load_published(supernet(S2).state_dict(), "s0", channels=4, cells=3, classes=5)
