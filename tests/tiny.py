"""A space, images and supernets so small that tests can go through all of them."""

import dataclasses

import torch
from torch import nn

from nas_lib import checkpoint
from nas_lib.data import Data
from nas_lib.spaces import Space
from nas_lib.supernet import Supernet
from nas_lib.training import Budget

torch.set_num_threads(1)    # on tiny tensors threads only wait for each other, for seconds on a busy machine

SPACE = Space("tiny", nodes=3, ops=("none", "skip_connect", "nor_conv_3x3"))     # 27 cells
BUDGET = Budget(channels=2, cells=1, epochs=3, batch=8, alpha_lr=0.01)


def chosen(arch) -> torch.Tensor:
    return torch.tensor([int(o) for o in arch])


def supernet(space=SPACE, channels=2, cells=1, seed=0, dtype=torch.float64) -> Supernet:
    """As after some training: no batch norm has its initial statistics, scale or shift."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Supernet(space, channels, cells, classes=3, in_channels=1)
    return shaken(net, generator).to(dtype)


def shaken(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """With statistics, scales and shifts of batch norms as training might leave them."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3, generator=generator)
            m.running_var.uniform_(0.3, 2, generator=generator)
            if m.affine:
                nn.init.normal_(m.weight, 1, 0.3, generator=generator)
                nn.init.normal_(m.bias, 0, 0.3, generator=generator)
    return net


def forget(net: nn.Module) -> nn.Module:
    """With statistics of batch norms that will be the means over the batches to come."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.reset_running_stats()
            m.momentum = None
    return net


def images(n=4, seed=0, side=8, dtype=torch.float64):
    """Noise to look at: images ``[n, 1, side, side]`` and labels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, side, side, generator=generator, dtype=dtype)
    return x, torch.randint(3, (n,), generator=generator)


def data(train=32) -> Data:
    """Three classes, each a fixed pattern, under noise that is drawn anew at every look."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(3, 1, 8, 8, generator=generator)

    def part(n):
        y = torch.randint(3, (n,), generator=generator)
        return patterns[y], y

    def transform(x, generator):
        return x + 0.5 * torch.randn(x.shape, generator=generator)

    parts = {"train": part(train), "valid": part(8), "test": part(16)}
    return Data("tiny", 3, (1, 8, 8), parts, transform, {"name": "tiny"}, torch.device("cpu"))


def changed(data: Data, **fields) -> Data:
    """``data`` with other ``fields``, and nothing remembered."""
    kept = {f.name: getattr(data, f.name) for f in dataclasses.fields(data) if f.name[0] != "_"}
    return Data(**kept | fields)


def same(a, b, path="") -> None:
    """Assert that two states are equal to the last bit, whatever they are built of; times may differ."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if key != "seconds":
                same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def stop_after(monkeypatch, calls: int) -> None:
    """Make long work die right after a state was stored ``calls`` times."""
    store, count = checkpoint.save, []

    def save(*args):
        store(*args)
        count.append(args)
        if len(count) == calls:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save)
