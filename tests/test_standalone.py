"""Networks trained from scratch: a plain loop, all seeds as one network, and the compiled path agree."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tiny
from nas_lib import benchmark, smallnets, standalone
from nas_lib.checkpoint import Damaged
from nas_lib.spaces import NB201
from nas_lib.standalone import Network, Recipe, train_from_scratch, train_shard

DATA = tiny.data(20)
RECIPE = Recipe(channels=2, cells=1, steps=6, batch=8, warmup=0.5, copies=2)
SHAPE = {"channels": 2, "cells": 1, "classes": 3, "in_channels": 1}
CHAIN = NB201.parse("|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")


def random_archs(n, seed=0):
    return NB201.archs[[1651, 1835, 5744, *np.random.default_rng(seed).integers(len(NB201), size=n)]]


def population(seeds):
    return standalone.population(NB201, CHAIN, standalone.singles(NB201, CHAIN, seeds, **SHAPE), **SHAPE)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 9), (4, 6, 6)], ids=str)
@pytest.mark.parametrize("arch", random_archs(5), ids=NB201.string)
def test_counts_are_those_of_the_real_modules(arch, shape):
    net = Network(NB201, arch, channels=4, cells=2, classes=7, in_channels=shape[0])
    flops = []
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(lambda m, _, y: flops.append(y[0].numel() * m.weight[0].numel()))
    net(torch.zeros(1, *shape))
    params, total = benchmark.counts(NB201, arch, 4, 2, 7, shape)
    assert params == sum(p.numel() for p in net.parameters())
    assert total == sum(flops)


def test_size_of_a_published_network():
    net = Network(NB201, NB201.archs[5744], channels=16, cells=5, classes=10)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 3) == 0.344
    assert all(m.affine for m in net.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("arch", random_archs(6, seed=1), ids=NB201.string)
def test_with_the_weights_of_a_supernet_it_computes_the_same(arch):
    """Fresh affine batch norm scales by 1 and shifts by 0, so only the edges left out could differ."""
    supernet, (x, _) = tiny.supernet(NB201, cells=2), tiny.images()
    net = Network(NB201, arch, **SHAPE | {"cells": 2}).double()
    layers = [supernet.stem, *supernet.cells, supernet.lastact[0]]
    state = {k: v for k, v in net.state_dict().items() if k.endswith(("weight", "bias"))}
    for i, layer in enumerate(layers):
        for name, value in layer.state_dict().items():
            parts = name.split(".")
            if parts[0] == "edges":
                if int(parts[2]) != arch[list(layer.edges).index(parts[1])]:
                    continue
                name = ".".join(parts[:2] + parts[3:])
            if f"body.{i}.{name}" in state:
                state[f"body.{i}.{name}"] = value
    state["classifier.weight"] = supernet.classifier.weight[:, :, None, None]
    state["classifier.bias"] = supernet.classifier.bias
    net.load_state_dict(state, strict=False)
    torch.testing.assert_close(net(x)[0], supernet(x, tiny.chosen(arch)))


def test_a_population_computes_what_its_members_compute():
    seeds = [3, 1, 4]
    net = population(seeds).double()
    x = torch.cat([tiny.images(4, seed=s)[0] for s in seeds], 1)
    for mode in (True, False):
        together = net.train(mode)(x)
        for k, seed in enumerate(seeds):
            torch.manual_seed(seed)
            single = Network(NB201, CHAIN, **SHAPE).double()
            if not mode:
                single(x[:, k:k + 1])                       # the statistics of the pass before
            torch.testing.assert_close(together[k], single.train(mode)(x[:, k:k + 1])[0])


def trained_logits(monkeypatch, seeds, recipe=RECIPE, arch=CHAIN, compiled=False):
    """Logits ``[seed, image, class]`` after training: accuracies would be too coarse."""

    def groups(net, x, y):
        return net.eval()(x.repeat(1, net.groups, 1, 1))

    def one(program, state, x, y):
        net = Network(NB201, arch, **SHAPE)
        net.load_state_dict(state)
        return net.eval()(x)[0].detach().numpy()

    with monkeypatch.context() as patch:
        patch.setattr(standalone, "_evaluate", groups)
        patch.setattr(smallnets, "accuracy", one)
        logits = train_from_scratch(NB201, arch, DATA, recipe, seeds, compiled)["test"]
    return torch.as_tensor(logits).detach()


@pytest.mark.parametrize("compiled", [False, True])
def test_seeds_train_together_as_they_train_alone(compiled, monkeypatch):
    together = trained_logits(monkeypatch, [0, 1, 2], compiled=compiled)
    alone = torch.cat([trained_logits(monkeypatch, [s], compiled=compiled) for s in (0, 1, 2)])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("arch", [CHAIN, *random_archs(6, seed=2)], ids=NB201.string)
def test_the_compiled_path_trains_as_the_plain_one(arch, monkeypatch):
    plain, fast = (trained_logits(monkeypatch, [5], arch=arch, compiled=c) for c in (False, True))
    torch.testing.assert_close(fast, plain, rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_one_seed_trains_as_the_recipe_says(compiled, monkeypatch):
    """A plain loop over one network: Nesterov SGD, one cycle of the rate, whole batches of every shuffle."""
    torch.manual_seed(7)
    net = Network(NB201, CHAIN, **SHAPE)
    sgd = torch.optim.SGD(net.parameters(), RECIPE.lr, RECIPE.momentum, nesterov=True,
                          weight_decay=RECIPE.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(sgd, RECIPE.lr, total_steps=6, pct_start=RECIPE.warmup,
                                                cycle_momentum=False)
    order, pixels = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    x, y = DATA.parts["train"]
    for _ in range(3):
        rows = torch.randperm(20, generator=order)[:16]
        for images, labels in zip(DATA.augment(x[rows], pixels).split(8), y[rows].split(8), strict=True):
            sgd.zero_grad()
            F.cross_entropy(net(images)[0], labels).backward()
            sgd.step()
            cycle.step()
    expected = net.eval()(DATA.fixed("test", 2)[0])
    torch.testing.assert_close(trained_logits(monkeypatch, [7], compiled=compiled), expected.detach(),
                               rtol=5e-3, atol=5e-4)


@pytest.mark.parametrize("change", [{"steps": 8}, {"batch": 4}, {"lr": 0.05}, {"warmup": 0.7},
                                    {"momentum": 0.5}, {"weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_every_field_of_the_recipe_counts(compiled, change, monkeypatch):
    changed = dataclasses.replace(RECIPE, **change)
    other, plain = (trained_logits(monkeypatch, [0], r, compiled=compiled) for r in (changed, RECIPE))
    assert (other - plain).abs().max() > 1e-3


def test_accuracy_is_that_of_a_plain_loop():
    x, y = DATA.fixed("test", 3)
    found = standalone._evaluate(population([0, 1]), x, y, batch=7)
    for k in range(2):
        net = population([k]).eval()
        right = [int(net(image)[0, 0].argmax()) == label for image, label in zip(x.split(1), y, strict=True)]
        assert found[k] == pytest.approx(100 * np.mean(right))
        program = smallnets.Program(NB201, CHAIN, DATA.shape, 2, 1, 3, batch=8)     # 47 leave a rest
        state = standalone.singles(NB201, CHAIN, [k], **SHAPE)[0]
        assert smallnets.accuracy(program, state, x, y) == pytest.approx(found[k])
        assert smallnets.accuracy(program, state, x[:47], y[:47]) == pytest.approx(100 * np.mean(right[:47]))


@pytest.mark.parametrize("compiled", [False, True])
def test_result_and_repeatability(compiled):
    torch.manual_seed(1)
    first = train_from_scratch(NB201, CHAIN, DATA, RECIPE, [0, 1], compiled)
    torch.manual_seed(2)
    again = train_from_scratch(NB201, CHAIN, DATA, RECIPE, [0, 1], compiled)
    assert first.keys() == {"test", "valid", "seconds"} and first["seconds"] > 0
    assert first["test"].shape == first["valid"].shape == (2,)
    for part in ("test", "valid"):
        np.testing.assert_array_equal(first[part], again[part])
        assert ((first[part] >= 0) & (first[part] <= 100)).all()


def test_training_helps():
    data = tiny.data(96)
    score = train_from_scratch(NB201, CHAIN, data, dataclasses.replace(RECIPE, steps=40), [0, 1])["test"]
    assert (score > 60).all()                               # a third would be chance


def test_a_cell_without_a_path_guesses():
    result = train_from_scratch(NB201, NB201.archs[1651], DATA, RECIPE, [0, 1])
    labels = DATA.parts["test"][1]
    shares = {100 * float((labels == c).float().mean()) for c in range(3)}
    assert all(min(abs(s - share) for share in shares) < 1e-3 for s in result["test"])


def test_a_stopped_shard_goes_on_to_the_same_numbers(monkeypatch, tmp_path):
    networks, file = list(range(20, 32)), tmp_path / "shard.pt"
    recipe, seeds = dataclasses.replace(RECIPE, steps=4), [0, 1]
    whole = train_shard(NB201, networks, DATA, recipe, seeds, progress=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tiny.stop_after(patch, 10)
        train_shard(NB201, networks, DATA, recipe, seeds, file, progress=False)
    trained = []
    train = standalone.train_from_scratch

    def watched(space, arch, *args):
        trained.append(int(space.index(arch)))
        return train(space, arch, *args)

    monkeypatch.setattr(standalone, "train_from_scratch", watched)
    resumed = train_shard(NB201, networks, DATA, recipe, seeds, file, progress=False)
    assert trained == [30, 31]
    assert whole.drop_vars("seconds").identical(resumed.drop_vars("seconds"))
    assert resumed.test.dims == ("network", "train_seed") and resumed.network.values.tolist() == networks
    finished = train_shard(NB201, networks, DATA, recipe, seeds, file, progress=False)
    assert resumed.identical(finished) and trained == [30, 31]
    for i, seed in ((0, 0), (11, 1)):
        alone = train(NB201, NB201.archs[networks[i]], DATA, recipe, [seed])
        np.testing.assert_allclose(resumed.test[i, seed], alone["test"][0], atol=100 / 32 + 1e-3)


def test_a_stored_shard_whose_numbers_are_of_another_type_is_not_taken(tmp_path):
    file, recipe = tmp_path / "shard.pt", dataclasses.replace(RECIPE, steps=1)
    train_shard(NB201, [20], DATA, recipe, [0], file, progress=False)
    state = torch.load(file, weights_only=True)
    torch.save(state | {"test": state["test"].bool()}, file)
    with pytest.raises(Damaged, match="its numbers are of another type"):
        train_shard(NB201, [20], DATA, recipe, [0], file, progress=False)
