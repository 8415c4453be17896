"""Layers of many networks at once, each with batch-norm statistics of its own, by a named rule."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_lib.ops import ReLUConvBN

MATRIX = 256        # values of a feature map up to which a convolution is done as a matrix product


class Layers:
    """How layers act on the feature maps ``[u, B, H, W, C]`` of u networks at once; ``rest``: of what is computed elsewhere.

    Convolutions are computed in ``precision``, all else is not.

    Batch norm goes by a rule, each network having its own statistics:
    ``running``: the layer's stored statistics, the same for all (what the published code does).
    ``batch``: each network's mean and biased variance over the images at hand.
    ``collect``: as ``batch``, keeping the average over passes of mean and unbiased variance.
    ``stored``: those averages, layer by layer in the order of the calls.
    """

    def __init__(self, rule: str, matrices: dict | None = None, precision="float32"):
        self.rule, self.kept, self.calls, self.passes, self.rest = rule, [], 0, 0, None
        self.precision = precision
        self.matrices = {} if matrices is None else matrices

    def start(self):
        """Begin a forward pass over one batch."""
        self.calls, self.passes = 0, self.passes + 1

    def norm(self, bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
        """Normalise ``x``."""
        if self.rule == "batch" and x[0, 0].numel() > MATRIX:
            self.calls += 1
            return torch.stack([_own_norm(bn, one) for one in x])
        if self.rule == "running":
            mean, var = bn.running_mean, bn.running_var
        elif self.rule == "stored":
            mean, var = self.kept[self.calls]
        else:
            mean = _mean(x)                                          # u, 1, 1, 1, C
        x = x - mean
        if self.rule in ("batch", "collect"):
            var = _mean(x.square())
            if self.rule == "collect":
                n = x[0, ..., 0].numel()
                self._keep(mean, var * (n / max(n - 1, 1)))
        self.calls += 1
        scale = torch.rsqrt(var + bn.eps)
        return torch.addcmul(bn.bias, x, scale * bn.weight) if bn.affine else x.mul_(scale)

    def _keep(self, mean, var):
        if self.passes == 1:
            self.kept.append((mean, var))
        else:
            m, v = self.kept[self.calls]
            self.kept[self.calls] = (m + (mean - m) / self.passes, v + (var - v) / self.passes)

    def linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """A convolution without bias, or a pooling.

        On small maps it is one matrix product: the matrix is what the module makes of the unit images. That
        suits processors better than a convolution with few channels does.
        """
        size = x[0, 0].numel()
        if size > MATRIX:
            y = module(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            return y.contiguous().unflatten(0, x.shape[:2]).to(x.dtype)
        if module not in self.matrices:
            units = torch.eye(size, dtype=x.dtype, device=x.device).view(size, *x.shape[2:])
            self.matrices[module] = module(units.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()
        matrix = self.matrices[module]                                   # H*W*C, H', W', C'
        return (x.flatten(2) @ matrix.flatten(1)).unflatten(2, matrix.shape[1:]).to(x.dtype)

    def conv_norm(self, module: ReLUConvBN, x: Tensor) -> Tensor:
        """What follows the ReLU."""
        _, conv, bn = module.op
        return self.norm(bn, self.linear(conv, x))


def _own_norm(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """``[B, H, W, C]`` by its own statistics; large maps pass through memory fewer times than for separate means."""
    y = F.batch_norm(x.permute(0, 3, 1, 2), None, None, bn.weight, bn.bias, training=True, eps=bn.eps)
    return y.permute(0, 2, 3, 1)


def _mean(x: Tensor) -> Tensor:
    """Mean over images and places of ``[u, B, H, W, C]``; images first, where the inner run is long."""
    return x.mean(1, keepdim=True).mean((2, 3), keepdim=True)
