"""Accuracy of many architectures under shared weights, on the same images, under a named rule for batch norm.

Architectures are evaluated together, block by block. Inside a block every distinct intermediate result is
computed once: a node's value is known by its incoming (operation, input value) pairs, so cells that begin alike
share that beginning, and all share the stem. What is compiled shares the first cell: see ``compiled_ranking``.
Architectures that are the same network under shared weights (``Space.classes("weights")``) are evaluated once.
"""

from __future__ import annotations

import copy
from functools import reduce
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from nas_lib import pieces
from nas_lib.checkpoint import Checkpoint
from nas_lib.layers import Layers
from nas_lib.ops import LARGE, Reduction, ReLUConvBN, computing, draw_from
from nas_lib.protocol import BN_RULES
from nas_lib.scores import asked, fitting, note, numbers, telling
from nas_lib.supernet import Cell, Supernet

CALIBRATION = 1280  # images of the training half by which "recalibrate" sets the statistics: 20 batches of 64
BATCH = 256         # images that are evaluated at once
MAP = 2**28         # bytes


def _rows(x: Tensor, rows: np.ndarray) -> Tensor:
    """The values numbered ``rows``, without a copy where those are all, in order."""
    same = len(rows) == len(x) and (rows == np.arange(len(x))).all()
    return x if same else x[_index(rows, x)]


def _index(rows: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(rows, dtype=torch.int64, device=like.device)


def _cell(cell: Cell, x: Tensor, owner: np.ndarray, archs: np.ndarray, layers: Layers):
    """Outputs of a cell for ``archs [arch, edge]``, whose dead edges hold ``none``.

    ``x [u, B, H, W, C]`` are the distinct inputs and ``owner [arch]`` says whose is whose, -1
    standing for zero. Returns the distinct outputs and their owners.
    """
    space = cell.space
    zero = _zero(space)
    values, owners, modules = [x], [owner], list(cell.edges.values())
    rectified = [x.relu()]
    for node in range(1, space.nodes):
        incoming = [(e, s) for e, (t, s) in enumerate(space.edges) if t == node]
        width = max(len(v) for v in values) + 1
        terms = np.stack([np.where((archs[:, e] == zero) | (owners[s] < 0), -1,
                                   archs[:, e].astype(np.int64) * width + owners[s])
                          for e, s in incoming], 1)                  # arch, incoming edge
        sums, inverse = np.unique(terms, axis=0, return_inverse=True)
        empty = (sums < 0).all(1)
        number = np.where(empty, -1, np.cumsum(~empty) - 1)
        sums = sums[~empty]
        total = x.new_zeros((len(sums),) + x.shape[1:])
        for column, (e, s) in enumerate(incoming):
            for o, op in enumerate(modules[e]):
                code = sums[:, column]
                rows = np.flatnonzero((code >= 0) & (code // width == o))
                if len(rows):
                    used, back = np.unique(code[rows] % width, return_inverse=True)
                    if isinstance(op, ReLUConvBN):
                        y = layers.conv_norm(op, _rows(rectified[s], used))
                    else:
                        y = _rows(values[s], used)
                        y = y if isinstance(op, nn.Identity) else layers.linear(op, y)
                    total.index_add_(0, _index(rows, x), _rows(y, back.reshape(-1)))
        owner = number[inverse.reshape(-1)]
        if layers.rule == "running":
            total, owner = _with_zero(total, owner)
        values.append(total)
        rectified.append(total.relu() if node < space.nodes - 1 else None)
        owners.append(owner)
    return values[-1], owners[-1]


def _zero(space) -> int:
    return space.ops.index("none") if "none" in space.ops else -1


def _with_zero(values: Tensor, owner: np.ndarray):
    """Values in which zero is a row like any other, for those owners that had none."""
    if not (owner < 0).any():
        return values, owner
    row = values.new_zeros((1,) + values.shape[1:])
    return torch.cat([values, row]), np.where(owner < 0, len(values), owner)


def _relevant(space, archs: np.ndarray, rule: str) -> np.ndarray:
    """``archs`` with ``none`` on the edges that cannot matter under a batch-norm rule.

    Edges that do not reach the output never matter. Edges that nothing feeds carry zeros, which a
    convolution and its own statistics leave zero; stored statistics of the mixture (``running``) do
    not: ``(0 - mean) / std`` is some other constant.
    """
    return np.where(space.live(archs, fed=rule != "running"), archs, max(_zero(space), 0))


def representatives(space, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Architectures that must be evaluated under ``rule``, and for every architecture whose score it has.

    ``members [m]`` are benchmark indices, neighbours beginning alike; ``first [arch]`` points to a member.
    """
    masked = _relevant(space, space.archs, rule)
    if rule == "running":
        _, lead, inverse = np.unique(masked, axis=0, return_index=True, return_inverse=True)
        first = lead[inverse.reshape(-1)]
    else:
        first = space.classes("weights")
    members = np.unique(first)
    return members[np.lexsort(masked[members].T[::-1])], first


@torch.no_grad()
def logits(net: Supernet, archs: np.ndarray, images: Tensor, layers: Layers) -> Tensor:
    """Logits ``[arch, B, classes]`` of ``archs [arch, edge]`` on one batch of images ``[B, C, H, W]``, or each on a
    batch of its own, ``[arch, B, C, H, W]``."""
    layers.start()
    archs = _relevant(net.space, archs, layers.rule)
    with computing(layers.precision, images.device):
        features, owner = _features(net, archs, images, layers)
    out = net.classifier(features)
    return out if owner is None else out[_index(owner, out)]


def _features(net: Supernet, archs: np.ndarray, images: Tensor, layers: Layers) -> tuple[Tensor, np.ndarray | None]:
    """Distinct last features ``[u, B, 4C]`` and whose is whose ``[arch]``, None where they are in order."""
    if net.engine(images):
        from nas_lib import compiled_ranking  # numba takes long to import
        momentum = 0 if layers.rule in ("stored", "running") else 1 / layers.passes
        features, layers.rest = compiled_ranking.features(net, archs, images, momentum, layers.rest)
        return features, None
    large = net.stem[0].out_channels * images.shape[-2] * images.shape[-1] > LARGE
    if large and images.device.type == "cpu":          # one architecture after another, so that maps stay in the cache
        layers.rest = layers.rest or [{} for _ in archs]
        return pieces.features(net, archs, images, layers.rule, layers.passes, layers.rest), None
    owner = np.zeros(len(archs), dtype=np.int64) if images.ndim == 4 else np.arange(len(archs))
    conv, bn = net.stem
    x = images.movedim(-3, -1).reshape(-1, *images.movedim(-3, -1).shape[-4:]).contiguous()     # 1 or arch, B, H, W, C
    x = layers.norm(bn, layers.linear(conv, x))
    for cell in net.cells:
        if isinstance(cell, Reduction):
            y = layers.conv_norm(cell.conv_b, layers.conv_norm(cell.conv_a, x.relu()).relu_())
            pool, conv = cell.downsample
            x = y + layers.linear(conv, layers.linear(pool, x))
        else:
            x, owner = _cell(cell, x, owner, archs, layers)
            x, owner = _with_zero(x, owner)                              # cells without any path
    bn, relu = net.lastact
    return relu(layers.norm(bn, x)).mean((2, 3)), owner


@torch.no_grad()
def accuracy(net: Supernet, archs, images: Tensor, labels: Tensor, bn="batch", batch=BATCH,
             calibration: Tensor | None = None, matrices: dict | None = None, precision="float32",
             more: dict[str, np.ndarray] | None = None):
    """Top-1 accuracy in percent and mean cross-entropy of ``archs [arch, edge]``: two ``[arch]``.

    All architectures see the same ``images [n, C, H, W]`` in the same batches. ``bn`` is one of ``running`` (statistics
    stored in training, shared by all: chance for most single-path cells, defect D1), ``batch`` (each architecture's own,
    over each evaluation batch), ``recalibrate`` (its own, averaged over the batches of the ``calibration`` images).
    ``matrices`` may be shared by calls between which the weights stay as they are. ``precision`` is that of convolutions. Raises ValueError for another rule.
    """
    if bn not in BN_RULES:
        raise ValueError(f"unknown batch-norm rule {bn!r}: {', '.join(BN_RULES)}")
    archs = np.atleast_2d(archs)
    if bn == "recalibrate" and calibration is None:
        raise ValueError("bn='recalibrate' needs calibration images")
    if net.partial > 1 or not net.space.enumerable:
        return one_by_one(net, archs, images, labels, bn, batch, calibration, precision, more)
    layers = Layers(bn, matrices, precision)
    if bn == "recalibrate":
        layers.rule = "collect"
        for part in calibration.split(batch):
            logits(net, archs, part, layers)
        layers.rule = "stored"
    right, loss, seen = np.zeros(len(archs)), np.zeros(len(archs)), 0
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        out = logits(net, archs, x, layers)
        seen = note(more or {}, slice(None), out, y, seen)
        right += (out.argmax(-1) == y).sum(1).cpu().numpy()
        loss += F.cross_entropy(out.flatten(0, 1), y.repeat(len(archs)), reduction="none").view(
            len(archs), -1).double().sum(1).cpu().numpy()
    return 100 * right / len(images), loss / len(images)


@torch.no_grad()
def one_by_one(net: Supernet, archs, images, labels, bn, batch, calibration, precision="float32", more=None):
    """``accuracy`` of any ``net(x, arch)`` by its own forward; noise, if there is any, is the same for all ``archs``."""
    net = copy.deepcopy(net)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    right, loss = np.zeros(len(archs)), np.zeros(len(archs))
    for k, arch in enumerate(torch.as_tensor(archs, dtype=torch.int64)):
        seen = 0
        draw_from(net, torch.Generator(images.device).manual_seed(0))
        if bn == "recalibrate":
            for m in norms:
                m.reset_running_stats()
                m.momentum = None
            for part in calibration.split(batch):
                with computing(precision, images.device):
                    net.train()(part, arch)
        net.train(bn == "batch")
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            with computing(precision, images.device):
                out = net(x, arch)
            out = out.float() if out.dtype == torch.bfloat16 else out
            right[k] += (out.argmax(-1) == y).sum().item()
            loss[k] += F.cross_entropy(out, y, reduction="sum").item()
            seen = note(more or {}, k, out, y, seen)
    return 100 * right / len(images), loss / len(images)


def block_size(net: Supernet, images: Tensor, batch: int) -> int:
    """How many architectures are evaluated together: a feature map of all of them takes at most ``MAP`` bytes.

    Some twenty such maps are in memory at once. The scores do not depend on it, but for rounding.
    """
    one = 4 * min(batch, len(images)) * net.stem[0].out_channels * images.shape[-2] * images.shape[-1]
    return int(np.clip(MAP // one, 1, 128))


def rank(net: Supernet, images: Tensor, labels: Tensor, bn="batch", batch=BATCH, block: int | None = None,
         calibration: Tensor | None = None, folder: Path | None = None, progress=True, part=0, parts=1,
         precision="float32", top=1, correct=False) -> xr.Dataset:
    """Accuracy and loss of every architecture of the space: ``score(arch)``, ``rank_loss(arch)``; if ``asked`` for, top-k
    accuracy in percent and which images are right, 255 where an architecture was left out.

    Arguments as in ``accuracy``; ``block`` architectures are evaluated together (None: ``block_size``). With ``folder`` the scores
    are written there as they come, and a stopped ranking goes on where it was. ``part`` of ``parts`` leaves the others NaN.
    Raises RankingError where a loss is no number or memory does not suffice for one architecture, ConstantScore.
    """
    space, block = net.space, block or block_size(net, images, batch)
    members, first = representatives(space, bn) if net.partial == 1 else [np.arange(len(space))] * 2
    found = {name: np.full(len(space), np.nan) for name in ("score", "loss", *asked(top, False, 0, 0))}
    if correct:
        found["correct"] = np.full((len(space), len(images)), 255, np.uint8)
    blocks = -(-len(members) // block)
    done, end = (min(block * (blocks * k // parts), len(members)) for k in (part, part + 1))
    said = "".join(f", {name}" for name in list(found)[2:]) + (f" in {precision}" if precision != "float32" else "")
    kept = Checkpoint(folder and Path(folder) / ("ranking.pt" if parts == 1 else f"ranking-{part}of{parts}.pt"),
                      f"ranking {space.name} on {len(images)} images in batches of {batch} under {bn} statistics{said}")

    def take(state):
        for name, values in found.items():
            stored = state[name].numpy()
            if (stored.shape, stored.dtype) != (values.shape, values.dtype):
                raise ValueError(f"{name} in it is of another space, or of another type")
            values[:] = stored
        return range(end + 1).index(state["done"])

    done = kept.load(take) or done
    matrices: dict = {}
    size = block

    def evaluate(ids):
        more = asked(top, correct, len(ids), len(images))
        return *accuracy(net, space.archs[ids], images, labels, bn, batch, calibration, matrices, precision, more), *more.values()

    bar = tqdm(total=end, initial=done, desc=f"rank ({bn})", unit="cell", disable=not progress)
    for start in range(done, end, block):
        ids = members[start:start + block]
        values, size = fitting(evaluate, ids, size)
        for name, v in zip(found, values, strict=True):
            found[name][ids] = 100 * v / len(images) if name.startswith("top") else v
        numbers(found["loss"][ids], space.strings[ids], bn)
        bar.update(len(ids))
        done = start + len(ids)
        kept.keep({"done": done} | {name: torch.from_numpy(values) for name, values in found.items()}, done == end)
    bar.close()
    if done == len(members) and parts == 1:
        telling(found["score"][members], bn)
    run = xr.Dataset({name: (("arch", "image")[:v.ndim], v[first] if name == "correct" else v[first].astype(np.float32))
                      for name, v in found.items()}, {"arch": space.strings}, {"bn": bn, "images": len(images)})
    run = run.rename(loss="rank_loss")
    return run if precision == "float32" else run.assign_attrs(rank_precision=precision)


def joined(parts: list[xr.Dataset]) -> xr.Dataset:
    """The whole of a ranking from its parts."""
    whole = reduce(xr.Dataset.fillna, parts)
    return whole.assign(correct=reduce(np.minimum, [p.correct for p in parts])) if "correct" in whole else whole
