"""Training of one small network on a CPU, compiled: the fast path of ``standalone`` for truth tables.

One network trains alone, step after step, as a ``Program``. The plain twin is ``standalone.Network``.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from nas_lib import kernels, program
from nas_lib.jit import ROW, TABLE, F, I, aligned, native

HEAD = "UniTuple(i8, 5)"        # the last map: place, channels and area; of the linear layer: place, classes


class Program(program.Program):
    """``arch [edge]`` of ``space`` as a network of its own, for batches of images of ``shape`` (C, side, side).

    Parameters and batch norms go by their names in ``standalone.Network``.
    """

    def __init__(self, space, arch, shape, channels, cells, classes, batch):
        self.space, self.arch = space, arch
        super().__init__(shape, channels, cells, [f"body.{k}" for k in range(3 * cells + 4)], batch)
        width = program.full(self.width)
        self.head = self.parameter("classifier.weight", (classes, self.width, 1, 1), (classes, width, 1, 1))
        self.parameter("classifier.bias", (classes,), (classes,))
        self.classes = classes

    def cell(self, x, name, width, side):
        live, nodes = self.space.live(self.arch), [x] + [None] * (self.space.nodes - 1)
        for e in np.flatnonzero(live):
            (target, source), op = self.space.edges[e], self.space.ops[self.arch[e]]
            if nodes[target] is None:
                nodes[target] = self.node(width, side)
            edge = nodes[source], nodes[target]
            if op in ("skip_connect", "avg_pool_3x3"):
                kind = program.ADD if op == "skip_connect" else program.POOL
                self.row(kind, *edge, 0, (width, width), (side, side))
            else:
                conv = f"{name}.edges.{target}<-{source}.op"
                self.conv(*edge, f"{conv}.1", width, width, side, 3 if op == "nor_conv_3x3" else 1,
                          norm=f"{conv}.2")
        return self.node(width, side) if nodes[-1] is None else nodes[-1]


def train(program: Program, state: dict, batches, rates: np.ndarray, momentum: float,
          weight_decay: float) -> dict:
    """SGD with Nesterov momentum from ``state`` (tensors by name), one step per rate; returns the last state.

    ``batches`` yields images ``[B, C, H, W]`` and labels ``[B]``; the loss is the mean cross-entropy.
    """
    theta, mean, var = _vectors(program, state)
    x, y = zip(*itertools.islice(batches, len(rates)), strict=True)
    _train(program.code, *_sizes(program), theta, mean, var, _inputs(torch.stack(x)), torch.stack(y).numpy(),
           rates.astype(np.float32), np.float32(momentum), np.float32(weight_decay))
    out = dict(state)
    for name, places in program.places.items():
        out[name] = torch.from_numpy(theta[places]).view(state[name].shape)
    for name, places in program.stats.items():
        out[f"{name}.running_mean"] = torch.from_numpy(mean[places])
        out[f"{name}.running_var"] = torch.from_numpy(var[places])
    return out


def accuracy(program: Program, state: dict, x: torch.Tensor, y: torch.Tensor) -> float:
    """Top-1 accuracy in percent of a trained state on images ``[n, C, H, W]``, with running statistics."""
    short = -len(x) % program.batch
    x = torch.cat([x, x[:short]]).unflatten(0, (-1, program.batch))
    found = _predict(program.code, *_sizes(program), *_vectors(program, state), _inputs(x))
    return 100 * float((found.argmax(1).ravel()[:len(y)] == y.numpy()).mean())


def _inputs(x: torch.Tensor) -> np.ndarray:
    """Batches of images ``[step, B, C, H, W]`` as the first maps ``[step, C * H * W * B]``."""
    return program.by_column(x, program.full(x.shape[2])).reshape(len(x), -1)


def _sizes(p: Program):
    """Batch, length of all nodes, of all drafts, of working memory; place and shape of the output and head."""
    return p.batch, p.nodes, p.drafts, p.room, (p.output, program.full(p.width), p.area, p.head, p.classes)


def _vectors(program: Program, state: dict):
    """Parameters, running means and running variances of a state, each as one vector."""
    theta = np.zeros(program.parameters, dtype=np.float32)
    mean, var = np.zeros((2, program.channels), dtype=np.float32)
    theta[0] = 1
    for name, places in program.places.items():
        theta[places] = state[name].numpy().ravel()
    for name, places in program.stats.items():
        mean[places] = state[f"{name}.running_mean"].numpy()
        var[places] = state[f"{name}.running_var"].numpy()
    return theta, mean, var


@native(TABLE, ROW, I, TABLE)
def _logits(f, w, classes, z):
    """The linear layer, into ``z [classes, B]``."""
    channels, batch = f.shape
    for k in range(classes):
        for t in range(batch):
            z[k, t] = w[classes * channels + k]
        for c in range(channels):
            for t in range(batch):
                z[k, t] += w[k * channels + c] * f[c, t]


@native(TABLE, ROW, ROW, I, "i8[::1]", returns=TABLE)
def _head(f, w, gw, classes, labels):
    """Gradients of the mean cross-entropy: of the linear layer and, returned, of its inputs ``[C, B]``."""
    channels, batch = f.shape
    z, df = np.empty((classes, batch), np.float32), np.zeros_like(f)
    _logits(f, w, classes, z)
    for t in range(batch):
        top, total = z[0, t], np.float32(0)
        for k in range(classes):
            top = max(top, z[k, t])
        for k in range(classes):
            z[k, t] = np.exp(z[k, t] - top)
            total += z[k, t]
        for k in range(classes):
            z[k, t] = (z[k, t] / total - np.float32(labels[t] == k)) / np.float32(batch)
    for k in range(classes):
        for t in range(batch):
            gw[classes * channels + k] += z[k, t]
        for c in range(channels):
            g = np.float32(0)
            for t in range(batch):
                g += z[k, t] * f[c, t]
                df[c, t] += w[k * channels + c] * z[k, t]
            gw[k * channels + c] += g
    return df


@native("i8[:,::1]", I, I, I, I, HEAD, ROW, ROW, ROW, TABLE, "i8[:,::1]", ROW, F, F)
def _train(code, batch, nodes, drafts, room, head, theta, mean, var, inputs, labels, rates, momentum, decay):
    maps, slopes = aligned(nodes + drafts), aligned(nodes + drafts)
    gradient, velocity = np.zeros_like(theta), np.zeros_like(theta)
    saved = np.zeros((2, len(mean)), np.float32)
    pad, back = aligned(room), aligned(room)
    output, width, area, w, classes = head
    features = np.empty((width, batch), np.float32)
    for s in range(len(rates)):
        kernels.copy(maps, 0, inputs[s], 0, inputs.shape[1], 0)
        program.forward(code, batch, maps, theta, mean, var, np.float32(0.1), saved, pad)
        kernels.clear(slopes, 0, nodes)
        kernels.clear(gradient, 0, len(gradient))
        kernels.features(maps, output, area, features)
        df = _head(features, theta[w:], gradient[w:], classes, labels[s])
        kernels.features_back(maps, slopes, output, area, df)
        program.backward(code, batch, maps, slopes, nodes, theta, gradient, saved, pad, back, True, False)
        for t in range(1, len(theta)):
            g = gradient[t] + decay * theta[t]
            velocity[t] = momentum * velocity[t] + g
            theta[t] -= rates[s] * (g + momentum * velocity[t])


@native("i8[:,::1]", I, I, I, I, HEAD, ROW, ROW, ROW, TABLE, returns="f4[:,:,::1]")
def _predict(code, batch, nodes, drafts, room, head, theta, mean, var, inputs):
    """Logits ``[step, classes, B]`` under running statistics."""
    maps, pad = aligned(nodes + drafts), aligned(room)
    saved = np.zeros((2, len(mean)), np.float32)
    output, width, area, w, classes = head
    features = np.empty((width, batch), np.float32)
    found = np.zeros((len(inputs), classes, batch), np.float32)
    for s in range(len(inputs)):
        kernels.copy(maps, 0, inputs[s], 0, inputs.shape[1], 0)
        program.forward(code, batch, maps, theta, mean, var, np.float32(0), saved, pad)
        kernels.features(maps, output, area, features)
        _logits(features, theta[w:], classes, found[s])
    return found
